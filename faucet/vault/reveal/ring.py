"""Opening what is sealed: the private keys of this process, and the one function that gives a secret back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from faucet.kit.errors import Fault
from faucet.kit.secret import Secret
from faucet.vault.reveal.kek import KekFailed, Keks
from faucet.vault.seal import FORMAT, SUITE, Place

KEYS_MAX = 64
"""Private keys kept open; one rotation adds one."""


class Unopenable(Fault):
    """What is sealed does not open: it was changed or moved, or its key is another or gone."""


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A private key as the database has it."""

    id: UUID
    wrapped: bytes = field(repr=False)
    kek: str


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed secret with its place and its key, as one statement read them."""

    place: Place
    sealed: bytes = field(repr=False)
    key: WrappedKey


def wrapping_context(key_id: UUID) -> bytes:
    """What a wrapped private key is bound to."""
    return b"modelfaucet vault key v1" + key_id.bytes


def open_sealed(sealed: bytes, key_id: UUID, key: X25519PrivateKey, place: Place) -> Secret:
    """The secret that was sealed in this place. Raises Unopenable."""
    if sealed[:1] != FORMAT:
        raise Unopenable(f"credential {place.row_id} is sealed in a format that is not known here")
    try:
        plain = SUITE.decrypt(sealed[1:], key, place.context(key_id))
        return Secret(plain.decode())
    except (InvalidTag, ValueError):
        # Nothing of why: what differs is for whoever tampers to guess.
        raise Unopenable(f"credential {place.row_id} does not open") from None


class Ring:
    """The private keys that this process has unwrapped. One per process; keys are asked for when first needed."""

    def __init__(self, keks: Keks) -> None:
        self._keks = keks
        self._keys: dict[UUID, X25519PrivateKey] = {}
        self._asking = asyncio.Lock()

    async def reveal(self, row: Sealed) -> Secret:
        """The secret of a row. Raises Unopenable, and KekFailed where its key can't be unwrapped."""
        key = self._keys.get(row.key.id)
        if key is None:
            key = await self.unwrap(row.key)
        return open_sealed(row.sealed, row.key.id, key, row.place)

    async def unwrap(self, row: WrappedKey) -> X25519PrivateKey:
        """The private key of a row, kept for the next time. Raises KekFailed."""
        async with self._asking:  # a burst of requests asks a remote service once
            key = self._keys.get(row.id)
            if key is not None:
                return key
            raw = await self._keks.named(row.kek).unwrap(row.wrapped, wrapping_context(row.id))
            try:
                key = X25519PrivateKey.from_private_bytes(raw)
            except ValueError:
                raise KekFailed(f"key {row.id} of the vault is not one") from None
            while len(self._keys) >= KEYS_MAX:
                del self._keys[next(iter(self._keys))]
            self._keys[row.id] = key
            return key
