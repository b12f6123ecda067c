"""Runs `migrations/0027_pre_transfers_of_usage.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0027_pre_transfers_of_usage"
down_revision = "0026_pre_known_ids"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
