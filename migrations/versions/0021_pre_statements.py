"""Runs `migrations/0021_pre_statements.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0021_pre_statements"
down_revision = "0020_pre_payouts"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
