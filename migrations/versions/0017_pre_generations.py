"""Runs `migrations/0017_pre_generations.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0017_pre_generations"
down_revision = "0012_pre_routing"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
