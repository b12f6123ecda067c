"""A database for commands: the configured one, or the data dir's own for as long as it is used; and one tx in it.

Not here: what is read or written in that tx, and how PostgreSQL is run (`kit.embedded_postgres`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg

from faucet.kit.config import Config
from faucet.kit.db import ROLES, Tx, without_secret
from faucet.kit.embedded_postgres import EmbeddedPostgres
from faucet.kit.errors import FaucetError
from faucet.tenants.tenancy import EVERYBODY

Say = Callable[[str], None]
CONNECT_SECONDS = 5


class DatabaseOutOfReach(FaucetError):
    """No connection could be made; the text names the address, without its password, and the reason."""

    def __init__(self, dsn: str, reason: BaseException) -> None:
        lines = [line.strip() for line in str(reason).splitlines() if line.strip()]
        super().__init__(
            f"the database at {without_secret(dsn)} can't be reached: {lines[0] if lines else type(reason).__name__}"
        )


@contextmanager
def database(config: Config, say: Say, *, up_to_date: bool = False) -> Iterator[str]:
    """The address of the database to use.

    An embedded one is started if it does not run, and always brought to the newest schema; a configured one only
    with `up_to_date`, because its operator decides when. Raises DatabaseUnavailable, DatabaseOutOfReach, Fault.
    """
    if config.database_url is not None:
        dsn = checked(config.database_url.reveal())
        if up_to_date:
            bring_up_to_date(dsn)
        yield dsn
        return
    with EmbeddedPostgres.start(config.faucet_data, progress=say) as running:
        bring_up_to_date(running.dsn)
        yield running.dsn


def checked(dsn: str) -> str:
    """The address of a database, if it can be one of ours. Raises FaucetError."""
    if not dsn.startswith(("postgresql://", "postgres://")):
        raise FaucetError("DATABASE_URL must begin with postgresql://")
    return dsn


def bring_up_to_date(dsn: str) -> None:
    """Apply the migrations that are missing. Raises DatabaseOutOfReach, and Fault where the server is too old."""
    # Imported here: the migration engine takes a while to load, and most processes never need it.
    from sqlalchemy.exc import OperationalError

    from faucet.kit.migrate import migrate

    try:
        migrate(dsn)
    except OperationalError as error:
        raise DatabaseOutOfReach(dsn, error.orig or error) from None


@asynccontextmanager
async def office(dsn: str, role: str = "faucet_api") -> AsyncIterator[Tx]:
    """One tx in a door's role, over all developers' rows, committed when the block ends.

    Raises DatabaseOutOfReach; also where the schema is missing, which `faucet migrate` makes.
    """
    if role not in ROLES:
        raise ValueError(f"unknown role {role!r}")
    try:
        connection = await psycopg.AsyncConnection.connect(
            dsn,
            connect_timeout=CONNECT_SECONDS,
            application_name="faucet-cli",
            options=f"-c role={role} -c faucet.developer_id={EVERYBODY}",
        )
    except psycopg.OperationalError as error:
        if f'role "{role}" does not exist' in str(error):
            raise FaucetError("the database has no schema yet: run `faucet migrate` first") from None
        raise DatabaseOutOfReach(dsn, error) from None
    async with connection:
        yield connection
