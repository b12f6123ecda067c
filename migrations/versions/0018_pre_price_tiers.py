"""Runs `migrations/0018_pre_price_tiers.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0018_pre_price_tiers"
down_revision = "0017_pre_generations"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
