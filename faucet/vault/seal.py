"""The write side of the vault: sealing to a public key, and what may be shown of a secret.

HPKE (RFC 9180) in base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. What is sealed is bound to its
place, so that it opens nowhere else. There is no way to open anything from here (`vault.reveal`).
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from faucet.kit.secret import Secret

SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
FORMAT = b"\x01"
"""The first byte of everything sealed: which suite, and how the place is written."""
_PURPOSE = b"modelfaucet credential v1"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key to seal to."""

    id: UUID
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a secret belongs. It opens with exactly this, so nothing of it can be changed afterwards."""

    table: str = "credential"
    row_id: UUID
    owner: str
    developer_id: UUID | None
    app_id: UUID | None
    end_user_id: UUID | None
    provider: str
    base_url: str | None
    """Bound too: whoever can write the row but not read it must not be able to send the secret elsewhere."""

    def context(self, key_id: UUID) -> bytes:
        """The place and the key as bytes, one reading only: every part has its length before it."""
        parts: list[bytes | None] = [
            _PURPOSE,
            key_id.bytes,
            self.table.encode(),
            self.row_id.bytes,
            self.owner.encode(),
            *(None if each is None else each.bytes for each in (self.developer_id, self.app_id, self.end_user_id)),
            self.provider.encode(),
            None if self.base_url is None else self.base_url.encode(),
        ]
        return b"".join(b"\0" if part is None else b"\1" + len(part).to_bytes(4, "big") + part for part in parts)


def seal(secret: Secret, key: PublicKey, place: Place) -> bytes:
    """The secret, sealed: only the private key opens it, and only in this place."""
    public = X25519PublicKey.from_public_bytes(key.raw)
    return FORMAT + SUITE.encrypt(secret.reveal().encode(), public, place.context(key.id))


def mask(secret: Secret) -> str:
    """What may be shown of a secret of at least eight characters: how it starts and its last four."""
    text = secret.reveal()
    start = "sk-" if text.startswith("sk-") else text[:3]
    return f"{start}...{text[-4:]}"
