"""Requests that a spend limit turned away, noted for the jobs, which look at the limits and tell the developer.

Nothing of a request waits for this: refusals gather in memory and are written down together, now and then. One kind
(who, in what) is written at most once a minute, whatever storm of repeats there is.
"""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from faucet.gateway.admit import Caller, Feature
from faucet.kit.db import Tx
from faucet.kit.ids import uuid7
from faucet.kit.log import logger

WRITE_SECONDS = 1.0
AGAIN_SECONDS = 60.0
KINDS_MAX = 10_000
"""More than that in a minute, and the rest is not noted; one of them will come again."""

Kind = tuple[UUID, UUID, UUID | None, UUID]


class LimitRefusals:
    """The refusals of one process that are not written down yet."""

    def __init__(self) -> None:
        self._fresh: dict[Kind, int] = {}
        self._written: dict[Kind, float] = {}
        self._woken = asyncio.Event()

    def note(self, caller: Caller, feature: Feature, required_e8: int) -> None:
        """A request of this caller was turned away; it could have cost so much."""
        kind = (caller.developer_id, caller.app_id, feature.id, caller.end_user_id)
        if time.monotonic() < self._written.get(kind, 0.0) + AGAIN_SECONDS or len(self._written) >= KINDS_MAX:
            return
        self._fresh[kind] = min(required_e8, self._fresh.get(kind, required_e8))
        self._woken.set()

    async def run(self, db: AsyncConnectionPool[Tx]) -> None:
        """Write down what is noted, until cancelled."""
        while True:
            await self._woken.wait()
            await asyncio.sleep(WRITE_SECONDS)
            self._woken.clear()
            fresh, self._fresh = self._fresh, {}
            now = time.monotonic()
            self._written = {kind: at for kind, at in self._written.items() if at + AGAIN_SECONDS > now}
            self._written |= dict.fromkeys(fresh, now)
            try:
                await self._write(db, fresh)
            except (psycopg.Error, PoolTimeout, OSError) as error:
                logger.warning("limit_refusals.not_written", error=type(error).__name__)

    async def _write(self, db: AsyncConnectionPool[Tx], fresh: dict[Kind, int]) -> None:
        async with db.connection() as connection, connection.cursor() as cursor:
            await cursor.executemany(
                "insert into limit_refusal (id, developer_id, app_id, feature_id, end_user_id, required_e8)"
                " values (%s, %s, %s, %s, %s, %s)",
                [(uuid7(), *kind, required_e8) for kind, required_e8 in fresh.items()],
            )
