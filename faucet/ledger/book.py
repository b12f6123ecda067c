"""The thin doors to the SQL functions that open accounts and move money outside of requests.

Nothing here knows why money moves; `moves` does, and nobody else may import this. The functions of a request
(hold, settle, release, renew) travel in groups and have their own carrier, `lane`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import LiteralString
from uuid import UUID

from faucet.kit.db import Tx
from faucet.kit.errors import InvariantBroken
from faucet.ledger.chart import Code, Kind
from faucet.terms import AccountId


class Status(IntEnum):
    """What the ledger says to one item; the list is at the top of `migrations/0005`."""

    DONE = 0
    INSUFFICIENT = 1
    BUDGET = 2
    FROZEN = 3
    REPEATED = 4
    CONFLICT = 5
    UNFIT = 6
    NO_HOLD = 7
    UNEVEN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One transfer to book. The key, where there is one, makes repeating it harmless."""

    event_id: UUID
    code: Code
    debit: AccountId
    credit: AccountId
    amount_e8: int
    key: str | None
    memo: str | None


_TRANSFER: LiteralString = """
select transfer_v1(%s::uuid[], %s::smallint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::text[])
"""
_PAYOUT_OPEN: LiteralString = """
select status, amount, mature from payout_open_v1(%s::uuid, %s::uuid, %s::bigint, %s::bigint, %s::bigint,
    %s::timestamptz, %s::text, %s::text)
"""
_TAKE_BACK: LiteralString = "select status, taken, written_off from take_back_v1(%s, %s::smallint, %s, %s, %s, %s)"
_OPEN: LiteralString = "select account_open_v1(%s::uuid, %s::account_kind, %s::uuid, %s::uuid, %s::text)"


_ALLOWANCE: LiteralString = "select allowance_open_v1(%s::uuid, %s::uuid, %s::uuid, %s::uuid)"


async def transfer(tx: Tx, transfers: Sequence[Transfer]) -> list[Status]:
    """Book each transfer that the ledger accepts and say what it said to each, in order."""
    cursor = await tx.execute(
        _TRANSFER,
        (
            [t.event_id for t in transfers],
            [int(t.code) for t in transfers],
            [t.debit for t in transfers],
            [t.credit for t in transfers],
            [t.amount_e8 for t in transfers],
            [t.key for t in transfers],
            [t.memo for t in transfers],
        ),
    )
    row = await cursor.fetchone()
    if row is None or len(row[0]) != len(transfers):
        raise InvariantBroken("transfer_v1 did not answer for every item")
    return [Status(status) for status in row[0]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PayoutAsk:
    """A payout to open: this amount, or all whole cents from `least_e8` to `most_e8`, of what was earned by then."""

    payout_id: UUID
    developer_id: UUID
    amount_e8: int | None
    least_e8: int
    most_e8: int
    earned_by: datetime
    key: str | None
    memo: str


async def open_payout(tx: Tx, ask: PayoutAsk) -> tuple[Status, int, int]:
    """What the ledger said, how much it moved, and how much was old enough; amounts in e8."""
    cursor = await tx.execute(
        _PAYOUT_OPEN,
        (
            ask.payout_id,
            ask.developer_id,
            ask.amount_e8,
            ask.least_e8,
            ask.most_e8,
            ask.earned_by,
            ask.key,
            ask.memo,
        ),
    )
    row = await cursor.fetchone()
    if row is None:
        raise InvariantBroken("payout_open_v1 gave no answer")
    return Status(row[0]), row[1] or 0, row[2] or 0


@dataclass(frozen=True, slots=True)
class TakenBack:
    """What a wallet gave back, and what had to be written off because it had less. In e8."""

    status: Status
    taken_e8: int
    written_off_e8: int


async def take_back(
    tx: Tx, *, event_id: UUID, code: Code, wallet: AccountId, amount_e8: int, key: str | None, memo: str
) -> TakenBack:
    """Take what is there beyond holds, write the rest off, and freeze the wallet then."""
    cursor = await tx.execute(_TAKE_BACK, (event_id, int(code), wallet, amount_e8, key, memo))
    row = await cursor.fetchone()
    if row is None:
        raise InvariantBroken("take_back_v1 gave no answer")
    return TakenBack(Status(row[0]), int(row[1]), int(row[2]))


async def freeze(tx: Tx, wallet: AccountId, *, is_frozen: bool) -> bool:
    """Freeze a wallet or let it go; whether that changed anything."""
    cursor = await tx.execute("select wallet_freeze_v1(%s, %s)", (wallet, is_frozen))
    row = await cursor.fetchone()
    return row is not None and bool(row[0])


async def open_account(
    tx: Tx,
    public_id: UUID,
    kind: Kind,
    *,
    developer_id: UUID | None = None,
    owner_id: UUID | None = None,
    label: str = "",
) -> AccountId:
    """The account of this kind and owner, opened under `public_id` if it is not there yet."""
    cursor = await tx.execute(_OPEN, (public_id, kind, developer_id, owner_id, label))
    row = await cursor.fetchone()
    if row is None or row[0] is None:
        raise InvariantBroken(f"account_open_v1 gave no {kind} account")
    return AccountId(row[0])


async def open_allowance(
    tx: Tx, feature_id: UUID, end_user_id: UUID, *, account_id: UUID, event_id: UUID
) -> AccountId | None:
    """This month's allowance, opened and funded if it is not there yet; None where there can be none."""
    cursor = await tx.execute(_ALLOWANCE, (feature_id, end_user_id, account_id, event_id))
    row = await cursor.fetchone()
    return None if row is None or row[0] is None else AccountId(row[0])
