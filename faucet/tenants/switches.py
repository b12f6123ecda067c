"""Kill switches: what the operator has switched off at once, an app, a provider, or everything.

Gateways read the table themselves, when they are told and every few seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.tenants import store


@dataclass(frozen=True, slots=True)
class Switch:
    """One switch that was thrown."""

    target: str
    target_id: str | None
    """The app's public id, or the provider's name; None where everything is off."""
    reason: str
    thrown_by: str
    thrown_at: datetime
    place: UUID
    """Where it stands in the list among those of the same moment."""


_SWITCHES: LiteralString = """
select k.target, case k.target when 'app' then a.public_app_id when 'provider' then k.target_id end as target_id,
       k.reason, k.thrown_by, k.thrown_at, md5(k.target || '/' || k.target_id)::uuid as place
  from kill_switch k left join app a on k.target = 'app' and a.id::text = k.target_id
"""


async def page(tx: Tx, *, after: tuple[datetime, UUID] | None, limit: int) -> list[Switch]:
    """The switches that are thrown, newest first, from a place in the list."""
    at, after_place = after or (None, None)
    async with tx.cursor(row_factory=class_row(Switch)) as cursor:
        await cursor.execute(
            "select * from ("
            + _SWITCHES
            + """) as thrown
             where %(at)s::timestamptz is null or (thrown_at, place) < (%(at)s::timestamptz, %(place)s::uuid)
             order by thrown_at desc, place desc limit %(limit)s""",
            {"at": at, "place": after_place, "limit": limit},
        )
        return await cursor.fetchall()


async def find(tx: Tx, target: str, row_id: str) -> Switch | None:
    """The switch of this target, if it is thrown."""
    async with tx.cursor(row_factory=class_row(Switch)) as cursor:
        await cursor.execute(_SWITCHES + " where k.target = %s and k.target_id = %s", (target, row_id))
        return await cursor.fetchone()


async def throw(tx: Tx, target: str, row_id: str, *, reason: str, by: str) -> bool:
    """Switch something off and say whether it was on. `row_id` is an app's row, a provider's name, or nothing."""
    cursor = await tx.execute(
        "insert into kill_switch (target, target_id, reason, thrown_by) values (%s, %s, %s, %s) on conflict do nothing",
        (target, row_id, reason, by),
    )
    await store.announce_change(tx)
    return cursor.rowcount == 1


async def release(tx: Tx, target: str, row_id: str) -> bool:
    """Switch something on again and say whether it was off."""
    cursor = await tx.execute("delete from kill_switch where target = %s and target_id = %s", (target, row_id))
    await store.announce_change(tx)
    return cursor.rowcount == 1
