"""Reading the ledger: what an account has, what of it is held, what is left.

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


async def purse_by_public_id(tx: Tx, public_id: UUID) -> Purse | None:
    """The wallet or earnings that the wire knows by this id."""
    async with tx.cursor(row_factory=class_row(Purse)) as cursor:
        await cursor.execute(
            "select id, public_id, kind::text, developer_id, posted_e8 from account"
            " where public_id = %s and kind in ('wallet', 'earnings')",
            (public_id,),
        )
        return await cursor.fetchone()


async def _wallet(tx: Tx, query: LiteralString, key: AccountId | UUID) -> Wallet | None:
    async with tx.cursor(row_factory=class_row(Wallet)) as cursor:
        await cursor.execute(query, (key,))
        return await cursor.fetchone()
