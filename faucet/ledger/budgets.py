"""The budgets' part of a group: booked by a statement of its own, in the group's commit. Only carried here.

What is reserved and taken, and in which order rows are locked, is in `migrations/0012`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

import asyncpg

# What frees of budgets: $1; answers that take from them: $2-$4; holds that reserve on them: $5-$7.
BUDGET_SQL = (
    "select budget_group_v1($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::uuid[], $6::uuid[], $7::bigint[])"
)


Spent = Mapping[UUID, frozenset[UUID]]
"""For holds, the credentials that have no room for them."""


class Taken(NamedTuple):
    """What an answer cost the owner of the credential that it was asked with, in e8."""

    hold_id: UUID
    credential: UUID
    cost_e8: int


class Wanted(NamedTuple):
    """The most that a request may take of a credential's budget, in e8."""

    hold_id: UUID
    credential: UUID
    most_e8: int


async def book(
    connection: asyncpg.Connection,
    *,
    freed: Collection[UUID],
    taken: Sequence[Taken],
    wanted: Sequence[Wanted],
    timeout_seconds: float,
) -> Spent:
    """Book it in the tx that is open."""
    granted = await connection.fetchval(
        BUDGET_SQL,
        list(freed),
        [each.hold_id for each in taken],
        [each.credential for each in taken],
        [each.cost_e8 for each in taken],
        [each.hold_id for each in wanted],
        [each.credential for each in wanted],
        [each.most_e8 for each in wanted],
        timeout=timeout_seconds,
    )
    spent: dict[UUID, set[UUID]] = {}
    for each, has_room in zip(wanted, granted, strict=True):
        if not has_room:
            spent.setdefault(each.hold_id, set()).add(each.credential)
    return {hold_id: frozenset(credentials) for hold_id, credentials in spent.items()}
