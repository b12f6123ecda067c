"""Developers as the operator keeps them: made with their accounts in the ledger, changed, switched off."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.kit.errors import Refusal
from faucet.kit.ids import uuid7
from faucet.ledger import moves
from faucet.tenants import store


@dataclass(frozen=True, slots=True)
class Developer:
    """A tenant."""

    id: UUID
    name: str
    email: str
    status: str
    free_quota_month_max_e8: int
    """What the platform gives away for their features' free quotas in a month."""
    free_quota_granted_e8: int
    """What it has set aside for them this month."""
    created_at: datetime
    updated_at: datetime


_DEVELOPER: LiteralString = """
select id, name, email, status, free_quota_month_max_e8,
       coalesce((select q.granted_e8 from free_quota_month q where q.developer_id = developer.id
           and q.month = date_trunc('month', now() at time zone 'UTC')::date), 0) as free_quota_granted_e8,
       created_at, updated_at
  from developer
"""


async def find(tx: Tx, developer_id: UUID) -> Developer:
    """The developer with this id. Raises Refusal `not_found` where the tx sees none."""
    async with tx.cursor(row_factory=class_row(Developer)) as cursor:
        await cursor.execute(_DEVELOPER + " where id = %s", (developer_id,))
        developer = await cursor.fetchone()
    if developer is None:
        raise Refusal("not_found", "there is no such developer")
    return developer


async def page(tx: Tx, *, email: str | None, after: tuple[datetime, UUID] | None, limit: int) -> list[Developer]:
    """Developers, or the one with this e-mail address, newest first, from a place in the list."""
    at, after_id = after or (None, None)
    async with tx.cursor(row_factory=class_row(Developer)) as cursor:
        await cursor.execute(
            _DEVELOPER
            + """
             where (%(email)s::text is null or lower(email) = lower(%(email)s::text))
               and (%(at)s::timestamptz is null or (created_at, id) < (%(at)s::timestamptz, %(id)s::uuid))
             order by created_at desc, id desc limit %(limit)s
            """,
            {"email": email, "at": at, "id": after_id, "limit": limit},
        )
        return await cursor.fetchall()


async def create(tx: Tx, *, name: str, email: str) -> Developer:
    """A new developer with accounts for what they will earn. Raises Refusal `conflict` for a known e-mail address."""
    developer_id = uuid7()
    if await store.ensure_developer(tx, new_id=developer_id, name=name, email=email) != developer_id:
        raise Refusal("conflict", "there is a developer with this e-mail address already", param="email")
    await moves.open_developer_accounts(tx, developer_id)
    return await find(tx, developer_id)


async def change(
    tx: Tx,
    developer_id: UUID,
    *,
    name: str | None = None,
    status: str | None = None,
    free_quota_month_max_e8: int | None = None,
) -> Developer:
    """The developer with what is given changed; gateways are told. Raises Refusal `not_found`."""
    await tx.execute(
        "update developer set name = coalesce(%s, name), status = coalesce(%s, status), updated_at = now(),"
        " free_quota_month_max_e8 = coalesce(%s, free_quota_month_max_e8) where id = %s",
        (name, status, free_quota_month_max_e8, developer_id),
    )
    await store.announce_change(tx)
    return await find(tx, developer_id)
