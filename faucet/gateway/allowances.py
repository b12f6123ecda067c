"""What is left of free quotas: the accounts from which requests of a feature are paid before the wallet is.

An allowance is opened and funded by the ledger at its first use in a month; here is remembered which it is. Whether a
request fits it is decided by the hold, like everything about money.
"""

from __future__ import annotations

import time
from uuid import UUID

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from faucet.gateway.admit import Caller, Feature
from faucet.kit.clock import Clock
from faucet.kit.db import Tx, in_time
from faucet.kit.errors import Refusal
from faucet.ledger import moves

REMEMBERED_MAX = 50_000
KNOWN_SECONDS = 300.0
"""How long an allowance is remembered: when a month ends, clocks may differ."""
NONE_SECONDS = 30.0
"""How long it is remembered that there is none."""


class Allowances:
    """Finds the allowances of one process's callers."""

    def __init__(self, pool: AsyncConnectionPool[Tx], clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._known: dict[tuple[UUID, UUID, int], tuple[int | None, float]] = {}

    async def find(self, feature: Feature, caller: Caller) -> int | None:
        """The account of this end user's allowance this month; None where there is none. Raises Refusal."""
        if not feature.plan.free_quota_e8:
            return None
        today = self._clock.now()
        key = (feature.id, caller.end_user_id, today.year * 12 + today.month)
        account, until = self._known.get(key, (None, 0.0))
        if until > time.monotonic():
            return account
        try:
            account = await in_time(self._opened(feature.id, caller.end_user_id))
        except (psycopg.OperationalError, PoolTimeout, TimeoutError) as error:
            raise Refusal(
                "unavailable", "the ledger can't be reached; nothing was charged", retry_after_seconds=1
            ) from error
        if len(self._known) >= REMEMBERED_MAX:
            self._known.clear()
        self._known[key] = (account, time.monotonic() + (NONE_SECONDS if account is None else KNOWN_SECONDS))
        return account

    async def _opened(self, feature_id: UUID, end_user_id: UUID) -> int | None:
        async with self._pool.connection() as connection:
            return await moves.open_allowance(connection, feature_id=feature_id, end_user_id=end_user_id)
