"""Runs `migrations/0011_pre_manifest.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0011_pre_manifest"
down_revision = "0010_pre_end_users"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
