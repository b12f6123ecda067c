"""Runs `migrations/0003_pre_ledger.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0003_pre_ledger"
down_revision = "0002_pre_tenants"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
