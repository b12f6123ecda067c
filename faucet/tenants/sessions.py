"""Sessions: minted for one end user of one app, presented as a bearer, revoked at will.

A bearer is shown once and stored as its SHA-256 (it has 256 random bits, so a plain hash can't be guessed back).
An external user id is low in entropy; it is stored as an HMAC under a key that the database doesn't have.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.kit.errors import InvariantBroken, Refusal
from faucet.kit.ids import uuid7
from faucet.kit.secret import Secret
from faucet.ledger import moves, statement
from faucet.tenants import identity, store
from faucet.tenants.manifest import parse_policy
from faucet.tenants.tenancy import see_only
from faucet.vault.store import keys_of_app

BEARER_PREFIX = "mf_sess_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What somebody asks a session for."""

    public_app_id: str
    external_user_id: str
    feature_key: str | None = None
    metadata: dict[str, Any] | None = None
    origin: str | None = None
    """The web page that asks, where a browser says so."""
    user_token: str | None = None
    """The app's backend's signed word for the user's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the installation says about new sessions."""

    external_id_key: bytes
    signing_key: bytes
    ttl_seconds: int
    open_session_limit_e8: int = 0
    """For apps that sign nothing; 0 is none."""
    open_spends_paid: bool = False


@dataclass(frozen=True, slots=True)
class Keys:
    """Whose providers' keys there are, for an end user of an app."""

    byok: bool
    developer: bool


@dataclass(frozen=True, slots=True)
class Minted:
    """A new session; the only time that its bearer is known."""

    bearer: Secret
    session_id: UUID
    end_user_id: UUID
    available_modes: list[str]
    wallet_balance_e8: int


def bearer_hash(bearer: str | bytes) -> bytes:
    """What is stored of a bearer."""
    return hashlib.sha256(bearer.encode() if isinstance(bearer, str) else bearer).digest()


def external_id_hash(key: bytes, app_id: UUID, external_user_id: str) -> bytes:
    """What is stored of a person: different in every app, so that nobody is followed across apps."""
    return hmac.new(key, app_id.bytes + external_user_id.encode(), hashlib.sha256).digest()


async def mint(tx: Tx, app: store.App, ask: Ask, *, rules: Rules, now: datetime) -> Minted:
    """A new session for the end user of an app that `find_app` gave, who gets a wallet with the first one.

    From here on the tx sees the app's developer alone. Raises Refusal `feature_not_found`, and `forbidden` where the
    app's backend has to vouch for the user and has not, or where nobody vouches and the wallet has paid money in it.
    """
    await see_only(tx, app.developer_id)
    if app.identity_mode == "signed":
        await identity.vouch(
            tx,
            app,
            user_token=ask.user_token,
            external_user_id=ask.external_user_id,
            sealing_key=rules.signing_key,
            now=now,
        )
    features = await store.list_features(tx, app.id)
    feature: store.Feature | None = None
    if ask.feature_key is not None:
        feature = next((f for f in features if f.feature_key == ask.feature_key), None)
        if feature is None:
            raise Refusal("feature_not_found", f"this app has no feature {ask.feature_key!r}")
    end_user_id = await store.ensure_end_user(
        tx,
        new_id=uuid7(),
        app=app,
        external_id_hash=external_id_hash(rules.external_id_key, app.id, ask.external_user_id),
    )
    wallet_id = await moves.open_wallet(tx, developer_id=app.developer_id, end_user_id=end_user_id)
    wallet = await statement.wallet(tx, wallet_id)
    if wallet is None:
        raise InvariantBroken(f"the wallet {wallet_id} was opened and is not there")
    may_spend_paid = app.identity_mode == "signed" or rules.open_spends_paid
    if not may_spend_paid:
        # Who is just paying in either sees this session, and ends it, or is seen here.
        await moves.one_at_a_time(tx, wallet_id, alone=False)
        if await statement.was_paid_into(tx, wallet_id):
            raise Refusal(
                "forbidden",
                "money was paid into this user's wallet: the app's identity mode must be signed to spend it",
            )
    bearer = Secret(BEARER_PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode())
    session_id = uuid7()
    await store.insert_session(
        tx,
        session_id=session_id,
        app=app,
        feature_id=None if feature is None else feature.id,
        end_user_id=end_user_id,
        bearer_hash=bearer_hash(bearer.reveal()),
        metadata=ask.metadata or {},
        created_at=now,
        expires_at=now + timedelta(seconds=rules.ttl_seconds),
        may_spend_paid=may_spend_paid,
    )
    limits = [] if app.session_spend_limit_e8 is None else [app.session_spend_limit_e8]
    if app.identity_mode == "open" and rules.open_session_limit_e8:
        limits.append(rules.open_session_limit_e8)
    if limits:
        await store.limit_session(tx, session_id, min(limits))
    has_byok, has_developer_key = await keys_of_app(tx, app_id=app.id, end_user_id=end_user_id)
    modes = _modes(
        [feature] if feature is not None else features, has_byok=has_byok, has_developer_key=has_developer_key
    )
    return Minted(bearer, session_id, end_user_id, modes, wallet.posted_e8)


async def find_app(tx: Tx, ask: Ask) -> store.App:
    """The app if sessions may be minted for it, in a tx that sees all apps.

    Raises Refusal `invalid_app`, `disabled`, and `forbidden` for a page's origin.
    """
    app = await store.find_app(tx, ask.public_app_id)
    if app is None or app.status == "archived":
        raise Refusal("invalid_app", "there is no app with this public_app_id")
    if app.status != "active" or app.developer_status != "active" or app.is_switched_off:
        raise Refusal("disabled", "this app is switched off")
    if ask.origin is not None and app.allowed_origins and ask.origin not in app.allowed_origins:
        raise Refusal("forbidden", "this app does not mint sessions for pages of this origin")
    return app


def _modes(features: list[store.Feature], *, has_byok: bool, has_developer_key: bool) -> list[str]:
    """What these features and the keys that there are allow, each mode once, in order of preference."""
    modes: dict[str, None] = {}
    for feature in features:
        try:
            policy = parse_policy(feature.policy)
        except ValueError as error:
            raise InvariantBroken(f"feature {feature.id} is stored with a bad manifest: {error}") from error
        modes |= dict.fromkeys(policy.modes(has_byok=has_byok, has_developer_key=has_developer_key))
    return list(modes)


async def resolve(tx: Tx, bearer: str | bytes, *, now: datetime) -> store.Session:
    """The running session of a bearer. Raises Refusal `invalid_session`, `expired_session`, `disabled`."""
    session = await store.find_session(tx, bearer_hash(bearer))
    if session is None:
        raise Refusal("invalid_session", "the session token is not known")
    if session.revoked_at is not None:
        raise Refusal("invalid_session", "the session was revoked")
    if session.expires_at <= now:
        raise Refusal("expired_session", "the session has expired; mint a new one")
    if session.app_status != "active" or session.developer_status != "active":
        raise Refusal("disabled", "this app is switched off")
    return session


@dataclass(frozen=True, slots=True)
class Listed:
    """A session as whoever keeps its app sees it."""

    id: UUID
    feature_key: str | None
    end_user_id: UUID
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


async def page(
    tx: Tx, app_id: UUID, *, is_running: bool, now: datetime, after: tuple[datetime, UUID] | None, limit: int
) -> list[Listed]:
    """An app's sessions, newest first, from a place in the list; `is_running`: only those that still are."""
    at, after_id = after or (None, None)
    async with tx.cursor(row_factory=class_row(Listed)) as cursor:
        await cursor.execute(
            """
            select s.id, f.feature_key, s.end_user_id, s.created_at, s.expires_at, s.revoked_at
              from session s left join feature f on f.id = s.feature_id
             where s.app_id = %(app)s
               and (not %(running)s or (s.revoked_at is null and s.expires_at > %(now)s))
               and (%(at)s::timestamptz is null or (s.created_at, s.id) < (%(at)s::timestamptz, %(id)s::uuid))
             order by s.created_at desc, s.id desc limit %(limit)s
            """,
            {"app": app_id, "running": is_running, "now": now, "at": at, "id": after_id, "limit": limit},
        )
        return await cursor.fetchall()


async def find_listed(tx: Tx, app_id: UUID, session_id: UUID) -> Listed | None:
    """One session of an app."""
    async with tx.cursor(row_factory=class_row(Listed)) as cursor:
        await cursor.execute(
            "select s.id, f.feature_key, s.end_user_id, s.created_at, s.expires_at, s.revoked_at"
            " from session s left join feature f on f.id = s.feature_id where s.app_id = %s and s.id = %s",
            (app_id, session_id),
        )
        return await cursor.fetchone()


async def revoke_by_id(tx: Tx, session_id: UUID, *, now: datetime) -> bool:
    """End a session for good, and say whether it ran; gateways learn of it when the tx commits."""
    ended = await store.revoke_session(tx, session_id, at=now)
    if ended:
        await store.announce_change(tx)
    return ended


async def revoke(tx: Tx, session: store.Session, *, now: datetime) -> None:
    """End a session for good; gateways learn of it when the tx commits. Harmless to repeat."""
    if await store.revoke_session(tx, session.id, at=now):
        await store.announce_change(tx)
