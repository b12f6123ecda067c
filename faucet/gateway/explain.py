"""Why a request went where it went, for the developer whose app asked: `modelfaucet.attempts` and `passed_over`.

Shown only to a call that brings a developer token of the app's own developer, with the scope
`developer:operations:read`, in the header `x-modelfaucet-debug`. Sessions are in end users' hands, and which accounts
a developer has, and how they fail, is not for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from faucet.gateway.attempt import Answering, answered_wire
from faucet.gateway.exchange import Exchange
from faucet.kit.db import Tx, in_time
from faucet.kit.errors import Refusal
from faucet.routing.plan import PassedOver

SCOPE = "developer:operations:read"
HEADER = "x-modelfaucet-debug"


async def is_entitled(db: AsyncConnectionPool[Tx], exchange: Exchange, developer_id: UUID) -> bool:
    """Whether the call wants reasons and may have them.

    Raises Refusal `forbidden` for a token that isn't this developer's or lacks the scope, and `unavailable`.
    """
    if exchange.debug is None:
        return False
    try:
        holder = await in_time(_holder(db, hashlib.sha256(exchange.debug).digest()))
    except (psycopg.OperationalError, PoolTimeout, TimeoutError) as error:
        raise Refusal(
            "unavailable", "the service can't reach its database; try again", retry_after_seconds=1
        ) from error
    if holder != developer_id:
        raise Refusal("forbidden", f"{HEADER} wants a token of this app's developer with the scope {SCOPE}")
    return True


async def _holder(db: AsyncConnectionPool[Tx], token_hash: bytes) -> Any:
    async with db.connection() as connection:
        cursor = await connection.execute("select developer_token_holder_v1(%s, %s)", (token_hash, SCOPE))
        row = await cursor.fetchone()
    return None if row is None else row[0]


def reasons(answering: Answering, passed_over: Sequence[PassedOver]) -> bytes:
    """The members of a reply's `modelfaucet` that say how it came to be."""
    attempts = [attempt.to_wire() | {"model": attempt.model} for attempt in answering.tries]
    attempts.append(answered_wire(answering))
    return b',"attempts":%b,"passed_over":%b' % (
        msgspec.json.encode(attempts),
        msgspec.json.encode([passed.to_wire() for passed in passed_over]),
    )
