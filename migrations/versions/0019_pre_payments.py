"""Runs `migrations/0019_pre_payments.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0019_pre_payments"
down_revision = "0018_pre_price_tiers"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
