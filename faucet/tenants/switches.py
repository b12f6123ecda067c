"""Kill switches: what the operator has switched off at once, an app, a provider, or everything.

Gateways read the table themselves, when they are told and every few seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

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


_SWITCHES: LiteralString = """
select k.target, case k.target when 'app' then a.public_app_id when 'provider' then k.target_id end as target_id,
       k.reason, k.thrown_by, k.thrown_at
  from kill_switch k left join app a on k.target = 'app' and a.id::text = k.target_id
"""
SWITCHES_MAX = 1_000


async def thrown(tx: Tx) -> list[Switch]:
    """The switches that are thrown, newest first."""
    async with tx.cursor(row_factory=class_row(Switch)) as cursor:
        await cursor.execute(_SWITCHES + " order by k.thrown_at desc, k.target, k.target_id limit %s", (SWITCHES_MAX,))
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
