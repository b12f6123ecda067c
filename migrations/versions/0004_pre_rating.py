"""Runs `migrations/0004_pre_rating.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0004_pre_rating"
down_revision = "0003_pre_ledger"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
