"""Runs `migrations/0008_pre_vault.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0008_pre_vault"
down_revision = "0007_pre_tenancy"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
