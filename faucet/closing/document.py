"""A statement as a file: its text in one fixed form, the hash of it, and a signature that anyone can check.

The text is JSON with sorted names and no spaces, in UTF-8, so that the same statement is the same bytes everywhere.
The hash is SHA-256 of it; the signature is Ed25519 over a prefix and the text. The text names the hash of the
statement before it. Pure; not here: what a statement says.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Json = dict[str, Any]
PREFIX = b"modelfaucet statement v1\n"
VERSION = 1
FILE_BYTES_MAX = 16 << 20
_NAMES = {"statement", "sha256", "key_id", "public_key", "signature"}


class NotProved(Exception):
    """A file that isn't a statement of ours, or no longer is; the text says why."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A statement's text with its hash and signature."""

    body: str
    hash: bytes
    signature: bytes
    public_key: bytes

    @property
    def says(self) -> Json:
        """What is in the text."""
        parsed: Json = json.loads(self.body)
        return parsed

    @property
    def file(self) -> bytes:
        """The whole file."""
        # Pasted together, so that the text is the one that was signed, whoever wrote it.
        return (
            f'{{"key_id":"{key_id(self.public_key)}","public_key":"{self.public_key.hex()}",'
            f'"sha256":"{self.hash.hex()}","signature":"{self.signature.hex()}","statement":{self.body}}}\n'
        ).encode()


def canonical(value: Any) -> str:
    """The one text of a JSON value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def key_id(public_key: bytes) -> str:
    """The short name of a key."""
    return hashlib.sha256(public_key).hexdigest()[:16]


class Signer:
    """A signing key."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._key.public_key().public_bytes_raw()
        self.key_id = key_id(self.public_key)

    def sign(self, says: Json) -> Signed:
        """The statement that says this."""
        body = canonical(says)
        plain = body.encode()
        return Signed(body, hashlib.sha256(plain).digest(), self._key.sign(PREFIX + plain), self.public_key)


def read_file(content: bytes, *, trusted: frozenset[bytes] | None = None) -> Signed:
    """The statement of a file, proved: unchanged, and signed by the key that it names.

    With `trusted`, that key must be one of these. Raises NotProved with the reason.
    """
    if len(content) > FILE_BYTES_MAX:
        raise NotProved("the file is too large to be a statement")
    try:
        parsed = json.loads(content.decode())
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise NotProved(f"the file is not a statement: {error}") from None
    if not isinstance(parsed, dict) or set(parsed) != _NAMES or not isinstance(parsed["statement"], dict):
        raise NotProved(f"the file is not a statement: it must hold {', '.join(sorted(_NAMES))} and nothing else")
    said, signature, public_key = (_hex(parsed, name) for name in ("sha256", "signature", "public_key"))
    try:
        body = canonical(parsed["statement"])
        hashed = hashlib.sha256(body.encode()).digest()
    except (ValueError, UnicodeEncodeError) as error:
        raise NotProved(f"the file is not a statement: {error}") from None
    if hashed != said:
        raise NotProved(f"the statement was changed: its hash is {hashed.hex()}, and the file says {said.hex()}")
    if parsed["key_id"] != key_id(public_key):
        raise NotProved("the file names a key that is not the one beside it")
    signed = Signed(body, hashed, signature, public_key)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, PREFIX + body.encode())
    except (InvalidSignature, ValueError):
        raise NotProved("the signature is not of this statement and this key") from None
    if signed.file != content:
        raise NotProved("the file was changed: a statement is written in another form")
    if trusted is not None and public_key not in trusted:
        raise NotProved(f"it is signed by the key {key_id(public_key)}, which is not the one that you trust")
    return signed


def _hex(parsed: Json, name: str) -> bytes:
    try:
        value = bytes.fromhex(parsed[name])
    except (TypeError, ValueError):
        raise NotProved(f"{name} is not hexadecimal") from None
    return value
