"""Apps as their developers keep them: made, changed, archived; and what they and each of their sessions may spend.

Which app a session is minted for is `store.find_app`'s and `sessions`'. Whose apps are seen is the tx's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.kit.errors import Refusal
from faucet.kit.ids import uuid7
from faucet.tenants import store

NO_LIMIT_E8 = 9_000_000_000_000_000_000
"""How the ledger writes down a limit that was lifted."""


@dataclass(frozen=True, slots=True)
class App:
    """An app with its developer's name and its limits."""

    id: UUID
    developer_id: UUID
    developer_name: str
    developer_email: str
    public_app_id: str
    name: str
    vertical: str | None
    default_revenue_share_bps: int
    status: str
    identity_mode: str
    allowed_origins: list[str]
    signing_keys: list[str]
    """The ids of those that are active."""
    monthly_spend_limit_e8: int | None
    session_spend_limit_e8: int | None
    wallet_low_e8: int | None
    """Below this a wallet is reported low; None: below what the settings say."""
    created_at: datetime
    updated_at: datetime


_APP: LiteralString = """
select a.id, a.developer_id, d.name as developer_name, d.email as developer_email, a.public_app_id, a.name, a.vertical,
       a.default_revenue_share_bps, a.status, a.identity_mode, a.allowed_origins,
       array(select k.key_id from app_signing_key k where k.app_id = a.id and k.revoked_at is null order by k.id)
           as signing_keys,
       l.limit_e8 as monthly_spend_limit_e8, a.session_spend_limit_e8, a.wallet_low_e8, a.created_at, a.updated_at
  from app a
  join developer d on d.id = a.developer_id
  left join spend_limit l on l.scope_id = a.id and l.scope = 'app' and l.period = 'month' and l.limit_e8 < %(none)s
"""


async def find(tx: Tx, public_app_id: str) -> App:
    """The app that the world knows by this id. Raises Refusal `invalid_app` where the tx sees none."""
    async with tx.cursor(row_factory=class_row(App)) as cursor:
        await cursor.execute(_APP + " where a.public_app_id = %(id)s", {"id": public_app_id, "none": NO_LIMIT_E8})
        app = await cursor.fetchone()
    if app is None:
        raise Refusal("invalid_app", "there is no app with this public_app_id")
    return app


async def origins_of(tx: Tx, app_id: UUID) -> list[str]:
    """The web origins that are an app's own."""
    cursor = await tx.execute("select allowed_origins from app where id = %s", (app_id,))
    row = await cursor.fetchone()
    return [] if row is None else list(row[0])


async def page(tx: Tx, *, developer_id: UUID | None, after: tuple[datetime, UUID] | None, limit: int) -> list[App]:
    """Apps of one developer or of all, newest first, from a place in the list."""
    at, after_id = after or (None, None)
    async with tx.cursor(row_factory=class_row(App)) as cursor:
        await cursor.execute(
            _APP
            + """
             where (%(developer)s::uuid is null or a.developer_id = %(developer)s::uuid)
               and (%(at)s::timestamptz is null or (a.created_at, a.id) < (%(at)s::timestamptz, %(id)s::uuid))
             order by a.created_at desc, a.id desc limit %(limit)s
            """,
            {"developer": developer_id, "at": at, "id": after_id, "limit": limit, "none": NO_LIMIT_E8},
        )
        return await cursor.fetchall()


async def create(tx: Tx, *, developer_id: UUID, public_app_id: str, name: str, settings: Mapping[str, Any]) -> App:
    """A new app of this developer. `settings` are those that `change` takes.

    Raises Refusal `conflict` where any developer has an app with this public id.
    """
    cursor = await tx.execute(
        "insert into app (id, developer_id, public_app_id, name) values (%s, %s, %s, %s)"
        " on conflict (public_app_id) do nothing",
        (uuid7(), developer_id, public_app_id, name),
    )
    if cursor.rowcount == 0:
        raise Refusal("conflict", f"the public_app_id {public_app_id!r} is taken", param="public_app_id")
    return await change(tx, await find(tx, public_app_id), settings)


async def change(tx: Tx, app: App, settings: Mapping[str, Any]) -> App:
    """The app with these settings, by the names of its fields, changed and its gateways told."""
    columns = [name for name in _CHANGE if name in settings]
    if columns:
        await tx.execute(
            _UPDATE,
            {name: settings.get(name) for name in _CHANGE} | {"id": app.id, "columns": columns},
        )
    if "monthly_spend_limit_e8" in settings and settings["monthly_spend_limit_e8"] != app.monthly_spend_limit_e8:
        # Setting a limit stops all holds for a moment, so it isn't done for nothing.
        await tx.execute(
            "select spend_limit_set_v1('app', %s, 'month', %s)", (app.id, settings["monthly_spend_limit_e8"])
        )
    await store.announce_change(tx)
    return await find(tx, app.public_app_id)


_CHANGE = (
    "name",
    "vertical",
    "default_revenue_share_bps",
    "status",
    "identity_mode",
    "allowed_origins",
    "session_spend_limit_e8",
    "wallet_low_e8",
)
_UPDATE: LiteralString = """
update app set
    name = case when 'name' = any(%(columns)s::text[]) then %(name)s::text else name end,
    vertical = case when 'vertical' = any(%(columns)s::text[]) then %(vertical)s::text else vertical end,
    default_revenue_share_bps = case when 'default_revenue_share_bps' = any(%(columns)s::text[])
        then %(default_revenue_share_bps)s::integer else default_revenue_share_bps end,
    status = case when 'status' = any(%(columns)s::text[]) then %(status)s::text else status end,
    identity_mode = case when 'identity_mode' = any(%(columns)s::text[])
        then %(identity_mode)s::text else identity_mode end,
    allowed_origins = case when 'allowed_origins' = any(%(columns)s::text[])
        then %(allowed_origins)s::text[] else allowed_origins end,
    session_spend_limit_e8 = case when 'session_spend_limit_e8' = any(%(columns)s::text[])
        then %(session_spend_limit_e8)s::bigint else session_spend_limit_e8 end,
    wallet_low_e8 = case when 'wallet_low_e8' = any(%(columns)s::text[])
        then %(wallet_low_e8)s::bigint else wallet_low_e8 end,
    updated_at = now()
 where id = %(id)s
"""
