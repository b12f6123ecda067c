"""Runs `migrations/0002_pre_tenants.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0002_pre_tenants"
down_revision = "0001_pre_roles"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
