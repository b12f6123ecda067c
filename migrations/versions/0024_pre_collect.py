"""Runs `migrations/0024_pre_collect.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0024_pre_collect"
down_revision = "0023_pre_short_refunds"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
