"""Runs `migrations/0028_pre_fewer_statements.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0028_pre_fewer_statements"
down_revision = "0027_pre_transfers_of_usage"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
