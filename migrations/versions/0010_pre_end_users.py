"""Runs `migrations/0010_pre_end_users.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0010_pre_end_users"
down_revision = "0009_pre_identity"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
