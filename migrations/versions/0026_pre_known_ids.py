"""Runs `migrations/0026_pre_known_ids.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0026_pre_known_ids"
down_revision = "0025_pre_sums_lock_nothing"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
