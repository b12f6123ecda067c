"""Connections to PostgreSQL: one role per door, a pool for cold paths, a bare connection for the hot one.

Every connection takes its door's role as a start-up setting, so code never runs with the login's rights. What a
door may do is decided by the grants in `migrations/`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit, urlunsplit

import asyncpg
import psycopg
from psycopg_pool import AsyncConnectionPool

Tx = psycopg.AsyncConnection
"""An open transaction. Nothing below the doors opens one."""

T = TypeVar("T")

HANGS_SECONDS = 5.0
"""A database that takes longer to answer a small question is as good as away."""

ROLES = ("faucet_gateway", "faucet_api", "faucet_jobs")


def sqlalchemy_url(dsn: str) -> str:
    """The same address with the driver that SQLAlchemy needs to be told."""
    scheme, rest = dsn.split("://", 1)
    if scheme.split("+")[0] not in ("postgresql", "postgres"):
        raise ValueError("DATABASE_URL must begin with postgresql://")
    return f"postgresql+psycopg://{rest}"


def with_database(dsn: str, name: str) -> str:
    """The same server, another database."""
    parts = urlsplit(dsn)
    return urlunsplit((parts.scheme, parts.netloc, "/" + quote(name), parts.query, parts.fragment))


def without_secret(dsn: str) -> str:
    """The address without password, for logs and messages."""
    parts = urlsplit(dsn)
    netloc = parts.netloc
    if "@" in netloc:
        user, host = netloc.rsplit("@", 1)
        netloc = f"{user.split(':')[0]}@{host}"
    query = {k: v for k, v in parse_qs(parts.query).items() if k in ("host", "port")}
    return unquote(urlunsplit((parts.scheme, netloc, parts.path, urlencode(query, doseq=True), "")))


async def open_pool(dsn: str, role: str, *, size: int = 8) -> AsyncConnectionPool[Tx]:
    """A pool of psycopg connections in a door's role, for everything but the gateway's hot path."""

    async def configure(connection: Tx) -> None:
        await connection.execute(f"set role {_known(role)}")
        await connection.commit()

    pool: AsyncConnectionPool[Tx] = AsyncConnectionPool(
        dsn,
        min_size=1,
        max_size=size,
        open=False,
        timeout=5,
        # Give a try to reconnect up soon: whoever asks next begins a fresh one, instead of waiting out a pause that
        # doubled all through an outage.
        reconnect_timeout=2,
        configure=configure,
        check=AsyncConnectionPool.check_connection,
        kwargs={"application_name": role},
        name=role,
    )
    await pool.open()
    return pool


@asynccontextmanager
async def tx(pool: AsyncConnectionPool[Tx]) -> AsyncIterator[Tx]:
    """One transaction: committed when the block ends, rolled back when it raises."""
    async with pool.connection() as connection, connection.transaction():
        yield connection


async def connect_hot(dsn: str, role: str, *, timeout_seconds: float = 5) -> asyncpg.Connection:
    """A bare asyncpg connection in a door's role, for the few long-lived connections of the hot path."""
    return await asyncpg.connect(
        dsn,
        timeout=timeout_seconds,
        statement_cache_size=64,
        server_settings={
            "role": _known(role),
            "application_name": f"{role}-hot",
            "plan_cache_mode": "force_generic_plan",
            "synchronous_commit": "on",
            "jit": "off",
            # The hot statements look rows up by id, a few dozen at a time. A plan that was made while the tables
            # were small must not turn into scans of large ones.
            "enable_seqscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
        },
    )


async def in_time(asking: Coroutine[Any, Any, T]) -> T:
    """What a question to the database gives. Raises TimeoutError when that takes too long.

    One that hangs is cancelled and left to itself: a driver that cancels a query waits for the same server.
    """
    task = asyncio.create_task(asking)
    try:
        await asyncio.wait((task,), timeout=HANGS_SECONDS)
    finally:
        if not task.done():
            task.cancel()
    if not task.done():
        raise TimeoutError
    return task.result()


REPEATABLE = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError)
"""Failures of a statement that may succeed when it is sent again."""


def is_lost(error: Exception) -> bool:
    """Whether the connection, rather than the statement, failed."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state.startswith(("08", "57", "53", "58"))
    # The driver's internal errors are those of a connection that died while it was in use.
    return isinstance(error, OSError | TimeoutError | asyncpg.InterfaceError | asyncpg.InternalClientError)


def _known(role: str) -> str:
    if role not in ROLES:
        raise ValueError(f"unknown role {role!r}")
    return role
