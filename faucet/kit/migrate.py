"""Bring a database to the newest schema: plain SQL files, forward only, run by Alembic in one tx.

The files are `migrations/NNNN_{pre,post}_*.sql`; each has a revision of the same name that only runs it. All but
the first run as `faucet_owner`, so that no door's login owns a table. Several processes may call this at once:
an advisory lock lets one work and the others find it done.
"""

from __future__ import annotations

from pathlib import Path

from faucet.kit.db import ROLES, sqlalchemy_url
from faucet.kit.errors import Fault

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
FIRST = "0001_pre_roles"
MINIMUM_VERSION = 150000
_LOCK = 7_219_001


def migrate(dsn: str) -> None:
    """Apply what is missing. Raises Fault when the server is older than PostgreSQL 15."""
    # Imported here: the doors only ask for the newest revision, and start faster without these.
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    engine = create_engine(sqlalchemy_url(dsn), poolclass=NullPool)
    try:
        with engine.begin() as connection:
            version = connection.execute(text("show server_version_num")).scalar_one()
            if int(version) < MINIMUM_VERSION:
                raise Fault(f"PostgreSQL 15 or newer is needed; this server says {version}")
            connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            # The record of versions is Alembic's and the login's own; the doors read it for /ready.
            connection.execute(text(f"grant select on alembic_version to {', '.join(ROLES)}"))
    finally:
        engine.dispose()


def newest_revision() -> str:
    """The revision that this code needs; revisions sort by their number."""
    return max(path.stem for path in MIGRATIONS.glob("[0-9][0-9][0-9][0-9]_*.sql"))


def run_sql_file(revision: str) -> None:
    """Execute one migration file on Alembic's connection, as the owner unless it makes the roles."""
    from alembic import op

    cursor = op.get_bind().connection.cursor()
    if revision != FIRST:
        cursor.execute("set local role faucet_owner")
    cursor.execute((MIGRATIONS / f"{revision}.sql").read_text(encoding="utf-8"))
    cursor.execute("reset role")


def run_sql(statements: str, *, schema: str) -> None:
    """Execute a package's own SQL as the owner, with everything it makes in `schema` and callable by no one else."""
    from alembic import op

    cursor = op.get_bind().connection.cursor()
    cursor.execute("set local role faucet_owner")
    cursor.execute(f"set local search_path = {schema}")
    cursor.execute(statements)
    cursor.execute(f"revoke execute on all functions in schema {schema} from public")
    cursor.execute("reset search_path")
    cursor.execute("reset role")
