"""Runs `migrations/0009_pre_identity.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0009_pre_identity"
down_revision = "0008_pre_vault"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
