"""How an app's backend vouches for its users' ids: keys of the app, and the short words that it signs with them.

A word is a JWT: `sub` is the user's id, `aud` the app's public id, `jti` makes it good for one session, and `exp`
is at most ten minutes away. The algorithm is the key's own, whatever the word says. An app may have several keys,
so that one can be replaced while the other is in use. An HS256 secret is sealed for its row; of an EdDSA key only
the public half is ever here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, LiteralString
from uuid import UUID

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from psycopg.rows import class_row

from faucet.kit.aead import seal, unseal
from faucet.kit.db import Tx
from faucet.kit.errors import Refusal, field_error
from faucet.kit.ids import uuid7
from faucet.kit.log import logger
from faucet.kit.secret import Secret
from faucet.tenants import apps, store

Kind = Literal["HS256", "EdDSA"]
SECRET_PREFIX = "mf_sign_"
KEYS_MAX = 10
"""Active ones of an app."""
LIFE_SECONDS_MAX = 600
SKEW_SECONDS = 30
JTI_CHARACTERS_MAX = 256
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key of an app, without its secret."""

    id: UUID
    app_id: UUID
    key_id: str
    name: str
    kind: Kind
    public_key: bytes | None
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Verifying:
    id: UUID
    key_id: str
    kind: Kind
    public_key: bytes | None
    sealed_secret: bytes | None


_COLUMNS: LiteralString = "id, app_id, key_id, name, kind, public_key, created_at, revoked_at"


# ── keys ──


async def add_key(
    tx: Tx, app: apps.App, *, name: str, kind: Kind, public_key: str | None, created_by: str, sealing_key: bytes
) -> tuple[SigningKey, Secret | None]:
    """A new key of the app; the secret that is shown once, where it is an HS256 one.

    Raises Refusal `invalid_request` for a public key that is none, `conflict` where the app has enough keys.
    """
    raw = _public_key(kind, public_key)
    # The app's row is the lock: two that come at once must not both be the last that fits.
    await tx.execute("select 1 from app where id = %s for no key update", (app.id,))
    cursor = await tx.execute(
        "select count(*) from app_signing_key where app_id = %s and revoked_at is null", (app.id,)
    )
    row = await cursor.fetchone()
    if row is not None and row[0] >= KEYS_MAX:
        raise Refusal("conflict", f"an app has at most {KEYS_MAX} active signing keys; revoke one first")
    key_row = uuid7()
    secret: Secret | None = None
    sealed: bytes | None = None
    if kind == "HS256":
        secret = Secret(
            SECRET_PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(SECRET_BYTES)).rstrip(b"=").decode()
        )
        sealed = seal(sealing_key, secret.reveal().encode(), binding=_binding(key_row, app.id))
    async with tx.cursor(row_factory=class_row(SigningKey)) as rows:
        await rows.execute(
            "insert into app_signing_key (id, developer_id, app_id, key_id, name, kind, public_key, sealed_secret,"
            " created_by) values (%s, %s, %s, %s, %s, %s, %s, %s, %s) returning " + _COLUMNS,
            (key_row, app.developer_id, app.id, _new_key_id(), name, kind, raw, sealed, created_by),
        )
        made = await rows.fetchone()
    assert made is not None
    return made, secret


async def page(tx: Tx, app: apps.App, *, after: tuple[datetime, UUID] | None, limit: int) -> list[SigningKey]:
    """The app's keys, newest first, revoked ones included, from a place in the list."""
    at, after_id = after or (None, None)
    async with tx.cursor(row_factory=class_row(SigningKey)) as cursor:
        await cursor.execute(
            "select "
            + _COLUMNS
            + """ from app_signing_key
             where app_id = %(app)s
               and (%(at)s::timestamptz is null or (created_at, id) < (%(at)s::timestamptz, %(id)s::uuid))
             order by created_at desc, id desc limit %(limit)s""",
            {"app": app.id, "at": at, "id": after_id, "limit": limit},
        )
        return await cursor.fetchall()


async def revoke_key(tx: Tx, app: apps.App, key_id: str, *, at: datetime) -> SigningKey:
    """The key, of no use from now on. Harmless to repeat. Raises Refusal `not_found`."""
    async with tx.cursor(row_factory=class_row(SigningKey)) as cursor:
        await cursor.execute(
            "update app_signing_key set revoked_at = coalesce(revoked_at, %s) where app_id = %s and key_id = %s"
            " returning " + _COLUMNS,
            (at, app.id, key_id),
        )
        key = await cursor.fetchone()
    if key is None:
        raise Refusal("not_found", "this app has no such signing key")
    return key


def _new_key_id() -> str:
    return "sk_" + secrets.token_urlsafe(9).replace("-", "x").replace("_", "y")


def _binding(key_row: UUID, app_id: UUID) -> bytes:
    return b"app_signing_key" + key_row.bytes + app_id.bytes


def _public_key(kind: Kind, text: str | None) -> bytes | None:
    """The 32 bytes of an Ed25519 public key, from PEM or base64url. Raises Refusal `invalid_request`."""
    if kind == "HS256":
        if text is not None:
            raise field_error("public_key", "belongs to EdDSA keys; the secret of an HS256 key is made here")
        return None
    if text is None:
        raise field_error("public_key", "is required for an EdDSA key")
    try:
        if "BEGIN" in text:
            key = load_pem_public_key(text.encode())
        else:
            raw = base64.b64decode(text.strip().rstrip("=") + "=", altchars=b"-_", validate=True)
            key = Ed25519PublicKey.from_public_bytes(raw)
    except (ValueError, TypeError, binascii.Error, UnsupportedAlgorithm, UnicodeEncodeError):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise field_error("public_key", "must be an Ed25519 public key: PEM, or its 32 bytes in base64url")
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


# ── words ──


async def vouch(
    tx: Tx, app: store.App, *, user_token: str | None, external_user_id: str, sealing_key: bytes, now: datetime
) -> None:
    """Make sure that the app's backend has signed this user's id, just now and for this one session.

    Raises Refusal `forbidden`, which says what is wrong with the word, never what is in it.
    """
    if user_token is None:
        raise _forbidden("this app's backend must sign its users' ids: send user_token")
    claims = await _verified(tx, app, user_token, sealing_key)
    if claims.get("sub") != external_user_id:
        raise _forbidden("user_token: sub is not the external_user_id")
    expires = _check_times(claims, now.timestamp())
    jti = claims.get("jti")
    if not isinstance(jti, str) or not 1 <= len(jti) <= JTI_CHARACTERS_MAX:
        raise _forbidden(f"user_token: jti must be 1 to {JTI_CHARACTERS_MAX} characters, new for each session")
    cursor = await tx.execute(
        "insert into end_user_token_seen (app_id, jti_hash, developer_id, expires_at) values (%s, %s, %s, %s)"
        " on conflict do nothing",
        (
            app.id,
            hashlib.sha256(jti.encode("utf-8", "surrogatepass")).digest(),
            app.developer_id,
            datetime.fromtimestamp(expires + 2 * SKEW_SECONDS, UTC),
        ),
    )
    if cursor.rowcount == 0:
        raise _forbidden("user_token: was used already; sign a new one for each session")


async def _verified(tx: Tx, app: store.App, user_token: str, sealing_key: bytes) -> dict[str, Any]:
    """The claims of a word that one of the app's keys has signed. Times are not looked at here."""
    try:
        header = jwt.get_unverified_header(user_token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise _forbidden("user_token: is not a JWT") from None
    key = _choose(await _active_keys(tx, app.id), header.get("kid"))
    try:
        claims: dict[str, Any] = jwt.decode(
            user_token,
            _material(key, app, sealing_key),
            algorithms=[key.kind],
            audience=app.public_app_id,
            options={
                "require": ["exp", "iat", "sub", "aud", "jti"],
                "strict_aud": True,
                # By our own clock and stricter, below.
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
                "verify_sub": False,
                "verify_jti": False,
            },
        )
    except jwt.MissingRequiredClaimError as error:
        raise _forbidden(f"user_token: lacks the claim {error.claim}") from None
    except jwt.InvalidAudienceError:
        raise _forbidden("user_token: aud is not this app's public_app_id") from None
    except jwt.InvalidAlgorithmError:
        raise _forbidden(f"user_token: is not signed with {key.kind}, as its key is") from None
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise _forbidden("user_token: the signature is not this key's") from None
    return claims


async def _active_keys(tx: Tx, app_id: UUID) -> list[_Verifying]:
    async with tx.cursor(row_factory=class_row(_Verifying)) as cursor:
        await cursor.execute(
            "select id, key_id, kind, public_key, sealed_secret from app_signing_key"
            " where app_id = %s and revoked_at is null order by created_at desc limit 100",
            (app_id,),
        )
        return await cursor.fetchall()


def _choose(keys: list[_Verifying], key_id: object) -> _Verifying:
    """The key that a word names; without a name the only one there is."""
    if not keys:
        raise _forbidden("this app has no active signing key")
    if key_id is None:
        if len(keys) > 1:
            raise _forbidden("user_token: name the key in the header's kid; this app has several")
        return keys[0]
    for key in keys:
        if key.key_id == key_id:
            return key
    raise _forbidden("user_token: its kid is no active key of this app")


def _material(key: _Verifying, app: store.App, sealing_key: bytes) -> Any:
    if key.kind == "EdDSA":
        assert key.public_key is not None
        return Ed25519PublicKey.from_public_bytes(bytes(key.public_key))
    assert key.sealed_secret is not None
    try:
        return unseal(sealing_key, bytes(key.sealed_secret), binding=_binding(key.id, app.id))
    except ValueError as error:
        # SECRET_ENCRYPTION_KEY has changed since, or somebody moved the row: make a new key.
        logger.error("signing_key.not_opened", key_id=key.key_id, error=repr(error))
        raise _forbidden("user_token: its key can't be used any more; make a new one") from None


def _check_times(claims: dict[str, Any], now: float) -> float:
    """When the word ends. Raises Refusal `forbidden` where its times are not those of a word said just now."""
    times: dict[str, Any] = {name: claims[name] for name in ("exp", "iat", "nbf") if name in claims}
    for name, value in times.items():
        # A bool is an int to Python; infinity and NaN are numbers to its JSON.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
            raise _forbidden(f"user_token: {name} must be a time in seconds")
    if times["exp"] <= now - SKEW_SECONDS:
        raise _forbidden("user_token: has expired")
    if times["exp"] > now + LIFE_SECONDS_MAX + SKEW_SECONDS:
        raise _forbidden(f"user_token: exp may be at most {LIFE_SECONDS_MAX} seconds ahead")
    if times["iat"] > now + SKEW_SECONDS:
        raise _forbidden("user_token: iat is in the future")
    if times.get("nbf", 0) > now + SKEW_SECONDS:
        raise _forbidden("user_token: is not valid yet")
    return float(times["exp"])


def _forbidden(text: str) -> Refusal:
    return Refusal("forbidden", text, param="user_token")
