"""The vault's keys as an operator's commands need them: a first key for a stack, and rotation.

Both work as the owner of the tables, as migrations do: no door may make a key or see what is sealed and change it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psycopg

from faucet.kit.config import Config
from faucet.kit.db import Tx
from faucet.stack.database import CONNECT_SECONDS, DatabaseOutOfReach
from faucet.vault.reveal import rotation
from faucet.vault.reveal.kek import keks_of


@asynccontextmanager
async def owner_tx(dsn: str) -> AsyncIterator[Tx]:
    """One tx as the tables' owner, committed when the block ends. Raises DatabaseOutOfReach."""
    try:
        connection = await psycopg.AsyncConnection.connect(
            dsn, connect_timeout=CONNECT_SECONDS, application_name="faucet-keys", options="-c role=faucet_owner"
        )
    except psycopg.OperationalError as error:
        raise DatabaseOutOfReach(dsn, error) from None
    async with connection:
        yield connection


async def ensure_vault_key(dsn: str, config: Config) -> None:
    """Make the vault's first key where it has none. Raises DatabaseOutOfReach, KekFailed."""
    keks = keks_of(config)
    async with owner_tx(dsn) as tx:
        await rotation.ensure_key(tx, keks)


async def rotate_vault(
    dsn: str, config: Config, *, new_key: bool, batch: int, say: Callable[[int, int], None]
) -> rotation.Report:
    """Seal everything to the newest key. Raises DatabaseOutOfReach, KekFailed."""
    return await rotation.rotate(lambda: owner_tx(dsn), keks_of(config), new_key=new_key, batch=batch, say=say)
