"""Runs `migrations/0025_pre_sums_lock_nothing.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0025_pre_sums_lock_nothing"
down_revision = "0024_pre_collect"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
