"""`Idempotency-Key` on routes that create or move something: the same key and body give the same answer for a day.

The key is claimed, the work done and the reply kept in one tx, so there is no moment in which a repeat could do it
twice: a repeat that comes meanwhile waits for the first to end. What was refused is not kept; the work is undone
with its claim, and a repeat tries again. Replies are sealed with AES-256-GCM, bound to their principal and key:
some show a secret that is shown only once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import Header, Request, Response
from pydantic import BaseModel

from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.wire import IdempotencyKey
from faucet.api.world import World
from faucet.kit.aead import seal, unseal
from faucet.kit.db import Tx
from faucet.kit.errors import Refusal

KEPT = timedelta(hours=24)
REPLAYED = {"idempotent-replayed": "true"}

TheIdempotencyKey = Annotated[IdempotencyKey | None, Header(alias="idempotency-key")]

Act = Callable[[TenantTx], Awaitable[BaseModel]]


async def idempotent(
    world: World,
    request: Request,
    *,
    principal: str,
    developer_id: UUID | None,
    key: str | None,
    body: BaseModel | None,
    act: Act,
    status: int = 201,
) -> Response:
    """Do `act` in one tx over this developer's rows (None: all) and answer with its reply; or, where this principal
    has used the key for the same, answer as then.

    Raises Refusal `idempotency_conflict` where the key was used for another path or body, and what `act` raises.
    """
    async with tenant_tx(world, developer_id) as t:
        if key is None:
            return _response(_plain(await act(t)), status)
        key_hash = hashlib.sha256(key.encode()).digest()
        binding = principal.encode() + key_hash
        kept = await _claim(t, world, principal, key_hash, _fingerprint(request, body))
        if kept is not None:
            return _response(_unseal(world, kept[1], binding), kept[0], REPLAYED)
        plain = _plain(await act(t))
        sealed = seal(world.config.api_reply_key, plain, binding=binding)
        await t.execute(
            "update api_idempotency set status = %s, sealed = %s where principal = %s and key_hash = %s",
            (status, sealed, principal, key_hash),
        )
    return _response(plain, status)


def _fingerprint(request: Request, body: BaseModel | None) -> bytes:
    """What must be the same in a repeat: the route's path and the body as it was understood."""
    said = "" if body is None else body.model_dump_json(exclude_unset=True)
    return hashlib.sha256(f"{request.method} {request.url.path}\n{said}".encode()).digest()


async def _claim(tx: Tx, world: World, principal: str, key_hash: bytes, fingerprint: bytes) -> tuple[int, bytes] | None:
    """Own the key, or get the status and sealed reply of who did. Raises Refusal `idempotency_conflict`."""
    now = world.clock.now()
    values = {"who": principal, "key": key_hash, "print": fingerprint, "now": now, "end": now + KEPT}
    # Waits for a tx that has claimed the key and not ended; takes over a claim whose day is over.
    cursor = await tx.execute(
        """
        insert into api_idempotency as kept (principal, key_hash, fingerprint, created_at, expires_at)
        values (%(who)s, %(key)s, %(print)s, %(now)s, %(end)s)
        on conflict (principal, key_hash) do update
           set fingerprint = excluded.fingerprint, status = null, sealed = null,
               created_at = excluded.created_at, expires_at = excluded.expires_at
         where kept.expires_at <= %(now)s
        """,
        values,
    )
    if cursor.rowcount == 1:
        return None
    cursor = await tx.execute(
        "select fingerprint, status, sealed from api_idempotency where principal = %(who)s and key_hash = %(key)s",
        values,
    )
    row = await cursor.fetchone()
    if row is None or row[1] is None:  # it was purged between the two statements
        raise Refusal("idempotency_conflict", "this Idempotency-Key has just run out; use a new one")
    if bytes(row[0]) != fingerprint:
        raise Refusal("idempotency_conflict", "this Idempotency-Key was used for something else")
    return row[1], bytes(row[2])


def _plain(reply: BaseModel) -> bytes:
    return reply.model_dump_json(exclude_none=True).encode()


def _unseal(world: World, sealed: bytes, binding: bytes) -> bytes:
    try:
        return unseal(world.config.api_reply_key, sealed, binding=binding)
    except ValueError:
        raise Refusal("idempotency_conflict", "the stored reply can't be opened any more") from None


def _response(content: bytes, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(content, status_code=status, media_type="application/json", headers=headers)
