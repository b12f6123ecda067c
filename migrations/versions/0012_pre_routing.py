"""Runs `migrations/0012_pre_routing.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0012_pre_routing"
down_revision = "0011_pre_manifest"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
