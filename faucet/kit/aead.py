"""Sealing small secrets with AES-256-GCM under a key that the process has, bound to what they belong to."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12


def seal(key: bytes, plain: bytes, *, binding: bytes) -> bytes:
    """The plain bytes, sealed. They open only under the same key and binding."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, binding)


def unseal(key: bytes, sealed: bytes, *, binding: bytes) -> bytes:
    """What was sealed. Raises ValueError where key or binding are others, or the bytes were changed."""
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], binding)
    except InvalidTag:
        raise ValueError("can't be opened with this key, or for this owner") from None
