"""Runs `migrations/0001_pre_roles.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0001_pre_roles"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
