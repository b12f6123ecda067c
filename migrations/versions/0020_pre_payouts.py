"""Runs `migrations/0020_pre_payouts.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0020_pre_payouts"
down_revision = "0019_pre_payments"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
