"""Runs `migrations/0022_pre_webhooks.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0022_pre_webhooks"
down_revision = "0021_pre_statements"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
