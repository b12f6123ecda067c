"""Runs `migrations/0005_pre_ledger_functions.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0005_pre_ledger_functions"
down_revision = "0004_pre_rating"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
