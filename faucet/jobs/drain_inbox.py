"""Apply what the processor's webhook left in the inbox, each event in a tx of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import psycopg

from faucet.kit.clock import Clock
from faucet.kit.db import Tx
from faucet.kit.errors import FaucetError
from faucet.kit.log import logger
from faucet.payments import inbox
from faucet.payments.inbox import Applier, Note, Outcome
from faucet.tenants import audit

ROUNDS_MAX = 20
"""A sweep ends after so many and leaves the rest to the next one."""


async def drain_inbox(
    connection: Tx, appliers: Mapping[str, Applier], clock: Clock, *, is_live: bool | None = None
) -> Counter[str]:
    """Try every event that is due, on a connection without an open tx; how many ended how.

    `is_live` is the mode of the processor that events must be of; None: either.
    """
    ended: Counter[str] = Counter()
    for _ in range(ROUNDS_MAX):
        async with connection.transaction():
            due = await inbox.due(connection, now=clock.now())
        outcomes = [await _apply(connection, event_id, appliers, clock, is_live) for event_id in due]
        ended.update(outcomes)
        if Outcome.APPLIED in outcomes:
            # What waits may have waited for one of these.
            async with connection.transaction():
                await inbox.wake(connection, now=clock.now())
        elif len(due) < inbox.BATCH:
            break
    return ended


async def _apply(
    connection: Tx, event_id: str, appliers: Mapping[str, Applier], clock: Clock, is_live: bool | None
) -> str:
    try:
        async with connection.transaction():
            kept = await inbox.claim(connection, event_id)
            if kept is None or kept.settled_at is not None:
                return "settled"
            verdict = await inbox.apply(connection, kept, appliers, now=clock.now(), is_live=is_live)
            await record(connection, event_id, verdict.notes)
        return str(verdict.outcome)
    except (FaucetError, psycopg.DataError, psycopg.IntegrityError, ValueError, KeyError, TypeError) as error:
        logger.error("stripe.event_failed", event_id=event_id, exc_info=error)
        async with connection.transaction():
            await inbox.postpone(connection, event_id, f"{type(error).__name__}: {error}", now=clock.now())
        return "failed"


async def record(tx: Tx, actor_id: str | None, notes: tuple[Note, ...]) -> None:
    """Write the audit log's rows of what the processor brought about."""
    for note in notes:
        await audit.record(
            tx,
            actor_scope="stripe",
            actor_id=actor_id,
            action=note.action,
            resource_type=note.resource_type,
            resource_id=note.resource_id,
            request_id=None,
            before=note.before,
            after=note.after,
            developer_id=note.developer_id,
        )
