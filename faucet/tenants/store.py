"""Every SQL statement over developers, apps, features, end users and sessions, one function each.

All take an open tx. What a row means, and who may have it, is decided by the callers.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from faucet.kit.db import Tx


@dataclass(frozen=True, slots=True)
class App:
    """An app with what its developer's state says about it."""

    id: UUID
    developer_id: UUID
    public_app_id: str
    name: str
    default_revenue_share_bps: int
    status: str
    developer_status: str
    identity_mode: str
    allowed_origins: list[str]
    is_public_demo: bool
    session_spend_limit_e8: int | None
    is_switched_off: bool
    """By the operator: it, or everything."""


@dataclass(frozen=True, slots=True)
class Feature:
    """A named use of an app, with its manifest as stored."""

    id: UUID
    feature_key: str
    policy: dict[str, Any]
    pricing: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Session:
    """A session as its bearer finds it."""

    id: UUID
    developer_id: UUID
    app_id: UUID
    feature_id: UUID | None
    end_user_id: UUID
    expires_at: datetime
    revoked_at: datetime | None
    app_status: str
    developer_status: str
    may_spend_paid: bool


_APP: LiteralString = """
select a.id, a.developer_id, a.public_app_id, a.name, a.default_revenue_share_bps, a.status,
       d.status as developer_status, a.identity_mode, a.allowed_origins, a.is_public_demo, a.session_spend_limit_e8,
       exists (select from kill_switch k where k.target = 'everything'
           or (k.target = 'app' and k.target_id = a.id::text)) as is_switched_off
  from app a join developer d on d.id = a.developer_id
 where a.public_app_id = %s
"""


async def find_app(tx: Tx, public_app_id: str) -> App | None:
    """The app that the world knows by this id, whatever its state."""
    async with tx.cursor(row_factory=class_row(App)) as cursor:
        await cursor.execute(_APP, (public_app_id,))
        return await cursor.fetchone()


async def list_features(tx: Tx, app_id: UUID) -> list[Feature]:
    """The active features of an app, oldest first."""
    async with tx.cursor(row_factory=class_row(Feature)) as cursor:
        await cursor.execute(
            """
            select id, feature_key, policy, pricing from feature
             where app_id = %s and status = 'active' order by created_at, id limit 1000
            """,
            (app_id,),
        )
        return await cursor.fetchall()


async def developer_exists(tx: Tx, developer_id: UUID) -> bool:
    """Whether there is such a developer."""
    cursor = await tx.execute("select 1 from developer where id = %s", (developer_id,))
    return await cursor.fetchone() is not None


async def ensure_end_user(tx: Tx, *, new_id: UUID, app: App, external_id_hash: bytes) -> UUID:
    """The end user of an app with this hash, added under `new_id` if not known yet."""
    cursor = await tx.execute(
        """
        insert into end_user (id, developer_id, app_id, external_id_hash) values (%s, %s, %s, %s)
        on conflict (app_id, external_id_hash) do nothing
        """,
        (new_id, app.developer_id, app.id, external_id_hash),
    )
    if cursor.rowcount == 1:
        return new_id
    cursor = await tx.execute(
        "select id from end_user where app_id = %s and external_id_hash = %s", (app.id, external_id_hash)
    )
    row = await cursor.fetchone()
    assert row is not None  # end users are never deleted
    found: UUID = row[0]
    return found


async def insert_session(
    tx: Tx,
    *,
    session_id: UUID,
    app: App,
    feature_id: UUID | None,
    end_user_id: UUID,
    bearer_hash: bytes,
    metadata: dict[str, Any],
    created_at: datetime,
    expires_at: datetime,
    may_spend_paid: bool,
) -> None:
    """Add a session. One that may not spend paid money ends when some is paid into its wallet."""
    await tx.execute(
        """
        insert into session (id, developer_id, app_id, feature_id, end_user_id, bearer_hash, metadata,
                             created_at, expires_at, may_spend_paid)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            session_id,
            app.developer_id,
            app.id,
            feature_id,
            end_user_id,
            bearer_hash,
            Jsonb(metadata),
            created_at,
            expires_at,
            may_spend_paid,
        ),
    )


async def limit_session(tx: Tx, session_id: UUID, limit_e8: int) -> None:
    """Bound what a session may spend in all, in the tx that adds it."""
    await tx.execute("select session_limit_open_v1(%s, %s)", (session_id, limit_e8))


async def find_session(tx: Tx, bearer_hash: bytes) -> Session | None:
    """The session with this bearer, whatever its state."""
    async with tx.cursor(row_factory=class_row(Session)) as cursor:
        await cursor.execute(
            """
            select s.id, s.developer_id, s.app_id, s.feature_id, s.end_user_id, s.expires_at, s.revoked_at,
                   a.status as app_status, d.status as developer_status, s.may_spend_paid
              from session s
              join app a on a.id = s.app_id
              join developer d on d.id = s.developer_id
             where s.bearer_hash = %s
            """,
            (bearer_hash,),
        )
        return await cursor.fetchone()


async def revoke_session(tx: Tx, session_id: UUID, *, at: datetime) -> bool:
    """End a session and say whether it was still running."""
    cursor = await tx.execute(
        "update session set revoked_at = %s where id = %s and revoked_at is null", (at, session_id)
    )
    return cursor.rowcount == 1


async def announce_change(tx: Tx) -> None:
    """Tell every gateway, when this tx commits, to forget what it remembers of tenants and sessions."""
    await tx.execute("select pg_notify('faucet_changed', '')")


async def ensure_developer(tx: Tx, *, new_id: UUID, name: str, email: str) -> UUID:
    """The developer with this e-mail address, added if not known yet and else left as it is."""
    cursor = await tx.execute(
        """
        insert into developer (id, name, email) values (%s, %s, %s) on conflict (lower(email)) do nothing
        """,
        (new_id, name, email),
    )
    if cursor.rowcount == 1:
        return new_id
    cursor = await tx.execute("select id from developer where lower(email) = lower(%s)", (email,))
    row = await cursor.fetchone()
    assert row is not None  # developers are disabled, never deleted
    found: UUID = row[0]
    return found


async def ensure_app(
    tx: Tx,
    *,
    new_id: UUID,
    developer_id: UUID,
    public_app_id: str,
    name: str,
    vertical: str | None,
    default_revenue_share_bps: int,
    is_public_demo: bool,
) -> App:
    """The app with this public id, added if not known yet and else left as it is."""
    await tx.execute(
        """
        insert into app (id, developer_id, public_app_id, name, vertical, default_revenue_share_bps,
                         is_public_demo)
        values (%s, %s, %s, %s, %s, %s, %s) on conflict (public_app_id) do nothing
        """,
        (new_id, developer_id, public_app_id, name, vertical, default_revenue_share_bps, is_public_demo),
    )
    app = await find_app(tx, public_app_id)
    assert app is not None  # apps are archived, never deleted
    return app


async def ensure_feature(
    tx: Tx,
    *,
    new_id: UUID,
    app: App,
    feature_key: str,
    display_name: str,
    policy: dict[str, Any],
    pricing: dict[str, Any],
) -> None:
    """Add the feature if the app has none with this key; else leave it as it is."""
    await tx.execute(
        """
        with made as (
            insert into feature (id, developer_id, app_id, feature_key, display_name, policy, pricing)
            values (%s, %s, %s, %s, %s, %s, %s) on conflict (app_id, feature_key) do nothing
            returning id, version, developer_id, display_name, policy, pricing
        )
        insert into feature_version (feature_id, version, developer_id, display_name, policy, pricing, created_by)
        select id, version, developer_id, display_name, policy, pricing, 'seed' from made
        """,
        (new_id, app.developer_id, app.id, feature_key, display_name, Jsonb(policy), Jsonb(pricing)),
    )
