"""Reading the ledger: what an account has, what of it is held, what is left, and what moved it.

Only reads; what changes a balance is in `moves`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.terms import AccountId


@dataclass(frozen=True, slots=True)
class Wallet:
    """An end user's wallet at one moment. Amounts in e8."""

    id: AccountId
    public_id: UUID
    developer_id: UUID
    owner_id: UUID
    posted_e8: int
    held_e8: int
    frozen_at: datetime | None
    updated_at: datetime

    @property
    def available_e8(self) -> int:
        """What a new hold can still take."""
        return self.posted_e8 - self.held_e8


_WALLET: LiteralString = """
select id, public_id, developer_id, owner_id, posted_e8, held_e8, frozen_at, updated_at
  from account where kind = 'wallet'
"""


async def wallet(tx: Tx, account_id: AccountId) -> Wallet | None:
    """The wallet with this row id."""
    return await _wallet(tx, _WALLET + " and id = %s", account_id)


async def wallet_by_public_id(tx: Tx, public_id: UUID) -> Wallet | None:
    """The wallet that the wire knows by this id."""
    return await _wallet(tx, _WALLET + " and public_id = %s", public_id)


async def wallet_of_end_user(tx: Tx, end_user_id: UUID) -> Wallet | None:
    """The wallet of an end user."""
    return await _wallet(tx, _WALLET + " and owner_id = %s and label = '' and currency = 'USD'", end_user_id)


async def was_paid_into(tx: Tx, account_id: AccountId) -> bool:
    """Whether a person's money was ever paid into the wallet, not only credit that we gave."""
    # The code as a literal, so that the index of top-ups serves.
    cursor = await tx.execute("select exists (select from transfer where credit_id = %s and code = 10)", (account_id,))
    row = await cursor.fetchone()
    return row is not None and bool(row[0])


@dataclass(frozen=True, slots=True)
class Purse:
    """What can be corrected by hand: an end user's wallet or a developer's earnings. Amounts in e8."""

    id: AccountId
    public_id: UUID
    kind: str
    developer_id: UUID
    posted_e8: int
    is_frozen: bool


async def purse_by_public_id(tx: Tx, public_id: UUID) -> Purse | None:
    """The wallet or earnings that the wire knows by this id."""
    async with tx.cursor(row_factory=class_row(Purse)) as cursor:
        await cursor.execute(
            "select id, public_id, kind::text, developer_id, posted_e8, frozen_at is not null as is_frozen from account"
            " where public_id = %s and kind in ('wallet', 'earnings') and label = ''",
            (public_id,),
        )
        return await cursor.fetchone()


async def _wallet(tx: Tx, query: LiteralString, key: AccountId | UUID) -> Wallet | None:
    async with tx.cursor(row_factory=class_row(Wallet)) as cursor:
        await cursor.execute(query, (key,))
        return await cursor.fetchone()


@dataclass(frozen=True, slots=True)
class Movement:
    """One line of a wallet's statement. Credits are positive, what was paid is negative."""

    id: UUID
    created_at: datetime
    kind: str
    """`usage` for an answer, else the name of the move."""
    amount_e8: int
    description: str | None
    """What a grant was for: of its memo, what comes before the first semicolon."""


async def movements_of(
    tx: Tx,
    wallet: Wallet,
    *,
    limit: int,
    after: tuple[datetime, UUID] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[Movement]:
    """The newest movements of a wallet, or those before the one that a caller has seen. Newest first.

    From `since`, included, to `until`, excluded, where they are given.
    """
    async with tx.cursor(row_factory=class_row(Movement)) as cursor:
        await cursor.execute(
            """
            with answers as (
                select u.id, u.created_at, 'usage' as kind, -u.retail_e8 as amount_e8, null as description
                  from usage_event u
                 where u.end_user_id = %(owner)s and u.wallet_id = %(wallet)s
                   and (%(at)s::timestamptz is null or (u.created_at, u.id) < (%(at)s, %(id)s))
                   and u.created_at >= %(since)s::timestamptz and u.created_at < %(until)s::timestamptz
                 order by u.end_user_id, u.id desc limit %(limit)s
            ), others as (
                select t.event_id as id, t.created_at, t.code, t.amount_e8,
                       case t.code when 12 then split_part(t.memo, ';', 1) end as description from transfer t
                 where t.credit_id = %(wallet)s and t.code >= 10
                union all
                select t.event_id, t.created_at, t.code, -t.amount_e8, null from transfer t
                 where t.debit_id = %(wallet)s and t.code >= 10
            )
            select id, created_at, kind, amount_e8, description from (
                select id, created_at, kind, amount_e8, description from answers
                union all
                select o.id, o.created_at, (select m.name from move m where m.code = o.code limit 1), o.amount_e8,
                       o.description
                  from others o where (%(at)s::timestamptz is null or (o.created_at, o.id) < (%(at)s, %(id)s))
                   and o.created_at >= %(since)s::timestamptz and o.created_at < %(until)s::timestamptz
            ) line
            order by created_at desc, id desc limit %(limit)s
            """,
            {
                "owner": wallet.owner_id,
                "wallet": wallet.id,
                "at": None if after is None else after[0],
                "id": None if after is None else after[1],
                "since": since or "-infinity",
                "until": until or "infinity",
                "limit": limit,
            },
        )
        return await cursor.fetchall()
