"""Runs `migrations/0006_pre_jobs.sql`, then the job queue's own schema as its package ships it."""

from procrastinate.schema import SchemaManager

from faucet.kit.migrate import run_sql, run_sql_file

revision = "0006_pre_jobs"
down_revision = "0005_pre_ledger_functions"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_sql_file(revision)
    run_sql(SchemaManager.get_schema(), schema="procrastinate")


def downgrade() -> None:
    raise RuntimeError("migrations go forward only")
