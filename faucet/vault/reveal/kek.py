"""Key-encryption keys: what the private keys of the vault are wrapped with. None of them is in the database.

Here: the shape that they have in common, the one that comes from the settings, and choosing among them. Not here:
services that keep such keys elsewhere (`aws_kms`, `transit`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Protocol

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from faucet.kit.aead import seal, unseal
from faucet.kit.config import Config
from faucet.kit.errors import Fault
from faucet.kit.secret import Secret


class KekFailed(Fault):
    """A key-encryption key can't wrap or unwrap: unknown, refused, out of reach, or another key's work."""


class Kek(Protocol):
    """A key-encryption key. Both calls raise KekFailed."""

    @property
    def name(self) -> str:
        """Which key this is, for the row of what it wrapped; the same as long as the key is."""

    async def wrap(self, plain: bytes, context: bytes) -> bytes:
        """The bytes wrapped, to be opened with the same context only."""

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """The bytes that were wrapped."""


class LocalKek:
    """A key from the settings: the environment, or a file that only this process can read."""

    def __init__(self, master: Secret) -> None:
        raw = master.reveal().encode()
        self._key = _derive(raw, b"modelfaucet vault kek v1")
        # Says which key it is without helping to find it: another branch of the same derivation.
        self._name = "local:" + hashlib.sha256(_derive(raw, b"modelfaucet vault kek name v1")).hexdigest()[:16]

    @property
    def name(self) -> str:
        return self._name

    async def wrap(self, plain: bytes, context: bytes) -> bytes:
        return seal(self._key, plain, binding=context)

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        try:
            return unseal(self._key, wrapped, binding=context)
        except ValueError:
            raise KekFailed(f"what {self._name} is asked to unwrap is not what it wrapped") from None


def _derive(master: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(master)


class Keks:
    """The key that wraps now, and all that may have wrapped before."""

    def __init__(self, current: Kek, *earlier: Kek) -> None:
        self.current = current
        self._by_name: Mapping[str, Kek] = {kek.name: kek for kek in (*earlier, current)}

    def named(self, name: str) -> Kek:
        """The key of this name. Raises KekFailed where the settings have no such key."""
        kek = self._by_name.get(name)
        if kek is None:
            raise KekFailed(f"a key of the vault was wrapped by {name}, which the settings don't have any more")
        return kek


def keks_of(config: Config) -> Keks:
    """The key-encryption keys that the settings name. Raises KekFailed where a part of one is missing."""
    local = [LocalKek(config.secret_encryption_key)]
    for key in (config.kek_local_key_previous, config.kek_local_key):
        if key is not None:
            local.append(LocalKek(key))
    remote: list[Kek] = []
    if config.kek_aws_key_id is not None:
        # Imported here: an extra of its own, which takes a while to load.
        from faucet.vault.reveal.aws_kms import AwsKek

        remote.append(AwsKek(config.kek_aws_key_id, endpoint_url=config.kek_aws_endpoint_url))
    if config.kek_transit_url is not None:
        from faucet.vault.reveal.transit import TransitKek

        if config.kek_transit_token is None:
            raise KekFailed("KEK_TRANSIT_URL needs KEK_TRANSIT_TOKEN")
        remote.append(
            TransitKek(
                config.kek_transit_url,
                config.kek_transit_token,
                mount=config.kek_transit_mount,
                key=config.kek_transit_key,
            )
        )
    prefix = {"local": "local:", "aws_kms": "aws_kms:", "transit": "transit:"}[config.kek_provider]
    known: list[Kek] = [*local, *remote]
    chosen = [kek for kek in known if kek.name.startswith(prefix)]
    if not chosen:
        raise KekFailed(f"KEK_PROVIDER is {config.kek_provider}, and its settings are missing")
    return Keks(chosen[-1], *known)
