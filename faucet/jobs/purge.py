"""Forget what nobody needs any more: sessions long over, replies that can't be asked for again."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass
from typing import LiteralString

from faucet.kit.db import Tx
from faucet.kit.log import logger
from faucet.webhooks import deliveries

SESSION_DAYS = 7
"""How long a session is kept after its end, for questions about it."""
EVENT_DAYS = 90
"""How long the processor's events are kept, which name people; it gives none again that is older than thirty days."""
BATCH = 1_000
BATCHES_MAX = 1_000

_SESSIONS: LiteralString = """
delete from session where id in (
    select id from session where expires_at < now() - make_interval(days => %(days)s) limit %(batch)s)
"""
_REPLIES: LiteralString = """
delete from idempotent_reply where (end_user_id, key_hash) in (
    select end_user_id, key_hash from idempotent_reply where expires_at < now() order by expires_at limit %(batch)s)
"""
_API_REPLIES: LiteralString = """
delete from api_idempotency where (principal, key_hash) in (
    select principal, key_hash from api_idempotency where expires_at < now() order by expires_at limit %(batch)s)
"""

_END_USER_TOKENS: LiteralString = """
delete from end_user_token_seen where (app_id, jti_hash) in (
    select app_id, jti_hash from end_user_token_seen where expires_at < now() order by expires_at limit %(batch)s)
"""
_EVENTS: LiteralString = """
delete from stripe_event where id in (
    select id from stripe_event where settled_at < now() - make_interval(days => %(event_days)s) limit %(batch)s)
"""


@dataclass(frozen=True, slots=True)
class Purged:
    """How many rows went."""

    sessions: int
    replies: int
    end_user_tokens: int
    events: int
    webhook_events: int


async def purge(connection: Tx, *, batch: int = BATCH) -> Purged:
    """Delete sessions that ended a week ago, replies older than their day, signed words that have run out, and old
    events: the processor's and those of webhooks.

    On a connection without an open tx.
    """
    sessions = await _sweep(connection, _SESSIONS, batch)
    replies = await _sweep(connection, _REPLIES, batch) + await _sweep(connection, _API_REPLIES, batch)
    tokens = await _sweep(connection, _END_USER_TOKENS, batch)
    events = await _sweep(connection, _EVENTS, batch)
    purged = Purged(sessions, replies, tokens, events, await _forget_events(connection, batch))
    if any(astuple(purged)):
        logger.info("purged", **asdict(purged))
    return purged


async def _forget_events(connection: Tx, batch: int) -> int:
    gone = 0
    for _ in range(BATCHES_MAX):
        async with connection.transaction():
            count = await deliveries.forget_old(connection, batch=batch)
        gone += count
        if count < batch:
            break
    return gone


async def _sweep(connection: Tx, statement: LiteralString, batch: int) -> int:
    gone = 0
    for _ in range(BATCHES_MAX):
        async with connection.transaction():
            cursor = await connection.execute(
                statement, {"batch": batch, "days": SESSION_DAYS, "event_days": EVENT_DAYS}
            )
        gone += cursor.rowcount
        if cursor.rowcount < batch:
            break
    return gone
