"""Idempotency-Key: the same key and body give the same answer, without a second charge, for 24 hours.

A claim is durable before the hold. The reply is sealed and kept in the very commit that settles it, so there is
no moment in which a repeat could be charged again. Sealed with AES-256-GCM, bound to the end user and the key.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from faucet.gateway.exchange import Exchange, idempotency_key_of
from faucet.kit.aead import seal, unseal
from faucet.kit.db import Tx, in_time
from faucet.kit.errors import Refusal

_KIND_JSON, _KIND_EVENTS = b"J", b"E"


@dataclass(frozen=True, slots=True)
class Claim:
    """This request owns its Idempotency-Key."""

    binding: bytes
    sure_until: float
    """On the monotonic clock; later, only a hold that was durable before keeps others from the key."""

    def require(self) -> None:
        """Once the hold is there: the key can't be another's. Raises Refusal `unavailable`."""
        if time.monotonic() > self.sure_until:
            raise Refusal(
                "unavailable", "the ledger took too long for this request; nothing was charged", retry_after_seconds=1
            )


class Replays:
    """Claims keys, keeps replies, and gives them again."""

    def __init__(self, pool: AsyncConnectionPool[Tx], key: bytes, *, lease_seconds: int) -> None:
        self._pool = pool
        self._key = key
        self._lease_seconds = lease_seconds

    async def claim(self, exchange: Exchange, end_user_id: UUID, body: bytes) -> Claim | None:
        """Own the key, or answer the exchange from the stored reply and return None.

        Raises Refusal `idempotency_conflict` while the first request runs, or when the body differs.
        """
        assert exchange.idempotency_key is not None
        key_hash = hashlib.sha256(idempotency_key_of(exchange.idempotency_key)).digest()
        fingerprint = hashlib.sha256(body).digest()
        sure_until = time.monotonic() + self._lease_seconds
        try:
            row = await in_time(self._claimed(end_user_id, key_hash, fingerprint, exchange.hold_id))
        except (psycopg.OperationalError, PoolTimeout, TimeoutError) as error:
            raise Refusal(
                "unavailable", "the ledger can't be reached; nothing was charged", retry_after_seconds=1
            ) from error
        assert row is not None
        outcome, sealed = row
        binding = end_user_id.bytes + key_hash
        if outcome == "claimed":
            return Claim(binding, sure_until)
        if outcome == "stored":
            await self._again(exchange, binding, bytes(sealed))
            return None
        if outcome == "mismatch":
            raise Refusal("idempotency_conflict", "this Idempotency-Key was used with another body")
        if outcome == "booked":
            raise Refusal(
                "idempotency_conflict",
                "the request with this Idempotency-Key was charged once, but its reply is lost; use a new key",
            )
        raise Refusal(
            "idempotency_conflict",
            "a request with this Idempotency-Key is still running",
            retry_after_seconds=1,
        )

    async def _claimed(self, *wanted: object) -> tuple[Any, ...] | None:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "select outcome, sealed from reply_claim_v1(%s, %s, %s, %s, %s)", (*wanted, self._lease_seconds)
            )
            return await cursor.fetchone()

    async def give_up(self, exchange: Exchange) -> None:
        """Free the key of a request that ended before it was held. Its lease frees it if this can't."""
        try:
            await in_time(self._unclaim(exchange.hold_id))
        except (psycopg.OperationalError, PoolTimeout, TimeoutError):
            pass

    async def _unclaim(self, hold_id: UUID) -> None:
        async with self._pool.connection() as connection:
            await connection.execute("select reply_unclaim_v1(%s)", (hold_id,))

    def seal_json(self, claim: Claim, body: bytes) -> bytes:
        """A JSON reply, sealed for keeping."""
        return self._seal(claim, _KIND_JSON + body)

    def seal_events(self, claim: Claim, body: bytes) -> bytes:
        """A whole event stream, sealed for keeping."""
        return self._seal(claim, _KIND_EVENTS + body)

    def _seal(self, claim: Claim, plain: bytes) -> bytes:
        return seal(self._key, plain, binding=claim.binding)

    async def _again(self, exchange: Exchange, binding: bytes, sealed: bytes) -> None:
        try:
            plain = unseal(self._key, sealed, binding=binding)
        except ValueError:
            raise Refusal("idempotency_conflict", "the stored reply can't be opened any more") from None
        replayed = [(b"idempotent-replayed", b"true")]
        if plain[:1] == _KIND_JSON:
            await exchange.reply(200, plain[1:], replayed)
        else:
            await exchange.events(plain[1:], last=True, headers=replayed)
