"""Runs `migrations/0007_pre_tenancy.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0007_pre_tenancy"
down_revision = "0006_pre_jobs"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
