"""Rotation: a first key, a newer one, everything sealed anew to it, and the old ones forgotten.

Every step is a tx of its own and may be repeated, so a rotation that was cut off goes on where it stood, and
several may run. Gateways read on meanwhile: a row and its key change in one statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from faucet.kit.db import Tx
from faucet.kit.ids import uuid7
from faucet.vault.reveal import rows
from faucet.vault.reveal.kek import Keks
from faucet.vault.reveal.ring import Ring, Unopenable, WrappedKey, wrapping_context
from faucet.vault.seal import PublicKey, seal
from faucet.vault.store import newest_key

BATCH = 200
PASSES_MAX = 10
"""How often it looks again for rows that were written meanwhile to the key before."""

Open = Callable[[], AbstractAsyncContextManager[Tx]]
"""Opens a tx as the owner of the tables."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a rotation did."""

    key_id: UUID
    resealed: int
    rewrapped: int
    forgotten: int
    unopenable: tuple[UUID, ...]
    """Credentials that did not open; they stay as they are, and so does their key."""


async def add_key(tx: Tx, keks: Keks) -> PublicKey:
    """A new key, which everything is sealed to from now on. Raises KekFailed."""
    private = X25519PrivateKey.generate()
    key_id = uuid7()
    wrapped = await keks.current.wrap(private.private_bytes_raw(), wrapping_context(key_id))
    public = private.public_key().public_bytes_raw()
    await rows.insert_key(tx, WrappedKey(key_id, wrapped, keks.current.name), public)
    return PublicKey(key_id, public)


async def ensure_key(tx: Tx, keks: Keks) -> PublicKey:
    """The newest key, made if there is none. Raises KekFailed."""
    known = await rows.lock_keys(tx)
    if known:
        key, public = known[0]
        return PublicKey(key.id, public)
    return await add_key(tx, keks)


async def rewrap(tx: Tx, keks: Keks, ring: Ring) -> int:
    """Wrap every private key that another key-encryption key wrapped with the current one. Raises KekFailed."""
    changed = 0
    for key, _ in await rows.lock_keys(tx):
        if key.kek == keks.current.name:
            continue
        private = await ring.unwrap(key)
        wrapped = await keks.current.wrap(private.private_bytes_raw(), wrapping_context(key.id))
        await rows.rewrap_key(tx, WrappedKey(key.id, wrapped, keks.current.name))
        changed += 1
    return changed


async def reseal_batch(tx: Tx, ring: Ring, *, limit: int, but: Iterable[UUID]) -> Batch:
    """Seal some credentials anew, those excepted that are named. Raises KekFailed."""
    unopenable = []
    # Asked for each time: another rotation may have made a newer one, and then both work towards that.
    newest = await newest_key(tx)
    found = await rows.lock_stale(tx, newest.id, limit=limit, but=but)
    for row in found:
        try:
            secret = await ring.reveal(row)
        except Unopenable:
            unopenable.append(row.place.row_id)
            continue
        sealed = seal(secret, newest, row.place)
        await rows.replace_sealed(tx, row.place.row_id, sealed=sealed, key_id=newest.id)
    return Batch(newest.id, len(found) - len(unopenable), tuple(unopenable))


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step did."""

    key_id: UUID
    resealed: int
    unopenable: tuple[UUID, ...]


async def rotate(
    open_tx: Open, keks: Keks, *, new_key: bool, batch: int = BATCH, say: Callable[[int, int], None]
) -> Report:
    """Seal everything to the newest key, which is made first with `new_key`, and forget the others.

    `say` is told how many are done, of how many. Raises KekFailed.
    """
    ring = Ring(keks)
    async with open_tx() as tx:
        newest = (await (add_key(tx, keks) if new_key else ensure_key(tx, keks))).id
    async with open_tx() as tx:
        rewrapped = await rewrap(tx, keks, ring)
    resealed, forgotten = 0, 0
    unopenable: tuple[UUID, ...] = ()
    for _ in range(PASSES_MAX):
        while True:
            async with open_tx() as tx:
                step = await reseal_batch(tx, ring, limit=batch, but=unopenable)
                newest = step.key_id
                resealed += step.resealed
                unopenable += step.unopenable
                counts = await rows.count_stale(tx, newest)
            say(counts.total - counts.left, counts.total)
            if not step.resealed and not step.unopenable:
                break
        async with open_tx() as tx:
            forgotten += await rows.delete_unused_keys(tx, newest)
            left = (await rows.count_stale(tx, newest)).left
        if left <= len(unopenable):
            break  # else somebody was just sealing to an older key, and is done now
    return Report(newest, resealed, rewrapped, forgotten, unopenable)
