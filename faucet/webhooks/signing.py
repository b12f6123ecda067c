"""Signatures of the Standard Webhooks specification, version 1: HMAC-SHA256 over id, time and body.

Here too: how the secrets for them are made and sealed. Pure. Who checks is the developer, with any library of the
specification; our own command does it with `verify`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from uuid import UUID

from faucet.kit.aead import seal, unseal
from faucet.kit.errors import Fault
from faucet.kit.secret import Secret

SECRET_PREFIX = "whsec_"
SECRET_BYTES = 32
TOLERANCE_SECONDS = 300
"""How old, or how far ahead, a message may be; against replays by who recorded one."""


class Unverified(Fault):
    """A message is not from who has the secret, or is not from just now."""


def new_secret() -> Secret:
    """A secret for one endpoint."""
    return Secret(SECRET_PREFIX + base64.b64encode(os.urandom(SECRET_BYTES)).decode())


def seal_secret(secret: Secret, key: bytes, *, row_id: UUID, endpoint_id: UUID) -> bytes:
    """The secret as it is stored: it opens in this row of this endpoint only."""
    return seal(key, secret.reveal().encode(), binding=_binding(row_id, endpoint_id))


def open_secret(sealed: bytes, key: bytes, *, row_id: UUID, endpoint_id: UUID) -> Secret:
    """The secret that was sealed. Raises ValueError where it doesn't open."""
    return Secret(unseal(key, sealed, binding=_binding(row_id, endpoint_id)).decode())


def _binding(row_id: UUID, endpoint_id: UUID) -> bytes:
    return b"webhook_secret" + row_id.bytes + endpoint_id.bytes


def signed_headers(secrets: Sequence[Secret], message_id: str, at: int, body: bytes) -> dict[str, str]:
    """The three headers of a message that leaves at this time (seconds): a signature of every secret that is alive."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(f"v1,{_signature(secret, message_id, str(at), body)}" for secret in secrets),
    }


def verify(secrets: Sequence[Secret], headers: Mapping[str, str], body: bytes, *, now: float) -> None:
    """Make sure that a message is signed with one of these secrets, and just now. Raises Unverified.

    The headers' names are in lower case.
    """
    missing = [name for name in ("webhook-id", "webhook-timestamp", "webhook-signature") if not headers.get(name)]
    if missing:
        raise Unverified(f"lacks the header {missing[0]}")
    at = headers["webhook-timestamp"]
    if not (at.isascii() and at.isdigit() and len(at) <= 12):
        raise Unverified("webhook-timestamp is not a time in seconds")
    if abs(now - int(at)) > TOLERANCE_SECONDS:
        raise Unverified("webhook-timestamp is not from just now")
    given = [part.removeprefix("v1,") for part in headers["webhook-signature"].split(" ") if part.startswith("v1,")]
    for secret in secrets:
        wanted = _signature(secret, headers["webhook-id"], at, body).encode()
        if any(hmac.compare_digest(wanted, each.encode("utf-8", "replace")) for each in given):
            return
    raise Unverified("no signature is of this secret")


def _signature(secret: Secret, message_id: str, at: str, body: bytes) -> str:
    try:
        key = base64.b64decode(secret.reveal().removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise Unverified("this is no secret `whsec_…`") from None
    signed = f"{message_id}.{at}.".encode() + body
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
