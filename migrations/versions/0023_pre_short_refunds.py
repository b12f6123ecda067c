"""Runs `migrations/0023_pre_short_refunds.sql`."""

from faucet.kit.migrate import run_sql_file

revision = "0023_pre_short_refunds"
down_revision = "0022_pre_webhooks"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
