"""Every way money can move, one function each.

If a movement is not in this file it cannot happen: nothing else may import `ledger.book`. Accounts are opened
here too. Read from top to bottom, the file follows a dollar into a wallet, through an answer, to the developer
who earned it. Each function takes an open tx and is harmless to repeat with the same key.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Literal
from uuid import UUID

from faucet.kit.db import Tx
from faucet.kit.errors import InvariantBroken, Refusal
from faucet.kit.ids import uuid7
from faucet.kit.money import E8_MAX
from faucet.ledger import book
from faucet.ledger.chart import Code, Kind
from faucet.ledger.lane import HoldAnswer, HoldItem, Lane, SettleItem
from faucet.terms import AccountId


class Booked(Enum):
    """Whether a move was booked now, or had been before under the same key."""

    NOW = "now"
    BEFORE = "before"


# ── accounts ──


async def open_wallet(tx: Tx, *, developer_id: UUID, end_user_id: UUID) -> AccountId:
    """The wallet of an end user, opened if there is none yet."""
    return await book.open_account(tx, uuid7(), Kind.WALLET, developer_id=developer_id, owner_id=end_user_id)


async def open_developer_accounts(tx: Tx, developer_id: UUID) -> None:
    """Open what every developer has: earnings, payout clearing, and the platform's revenue from their apps.

    A session of theirs can't be served before this.
    """
    for kind in (Kind.EARNINGS, Kind.PAYOUT_CLEARING, Kind.PLATFORM_REVENUE):
        await book.open_account(tx, uuid7(), kind, developer_id=developer_id)


# ── into a wallet ──


async def grant(tx: Tx, wallet: AccountId, amount_e8: int, *, key: str | None, memo: str) -> Booked:
    """Give credit to a wallet: a test's, a promotion's or a free quota's.

    Raises Refusal `idempotency_conflict` where the key has booked something else.
    """
    grants = await book.open_account(tx, uuid7(), Kind.GRANTS)
    return await _one(tx, Code.GRANT, debit=grants, credit=wallet, amount_e8=amount_e8, key=key, memo=memo)


async def open_allowance(tx: Tx, *, feature_id: UUID, end_user_id: UUID) -> AccountId | None:
    """What this end user has of a feature's free quota this month: an account that is funded from `grants` once.

    None where the feature gives nothing away, or the platform nothing more for this developer this month.
    """
    return await book.open_allowance(tx, feature_id, end_user_id, account_id=uuid7(), event_id=uuid7())


async def return_allowance(tx: Tx, allowance: AccountId, amount_e8: int) -> Booked:
    """Give back what is left of an allowance whose month is over. Raises Refusal `insufficient_balance`."""
    grants = await book.open_account(tx, uuid7(), Kind.GRANTS)
    return await _one(
        tx, Code.GRANT_RETURN, debit=allowance, credit=grants, amount_e8=amount_e8, key=None, memo="free quota not used"
    )


# ── through a request: hold, then settle or release exactly once (in groups, by the lane) ──


def hold(lane: Lane, item: HoldItem) -> asyncio.Future[HoldAnswer]:
    """Reserve the most a request can cost, before any provider is called.

    The database refuses; we do not ask first. A crash after this strands the reserve, never loses it: the lease
    gives it back. Raises LedgerUnavailable. Safe to repeat with the same id.
    """
    return lane.hold(item)


def settle(lane: Lane, item: SettleItem, reply: bytes | None) -> asyncio.Future[int]:
    """Resolve a hold with what its answer cost: wallet → provider_cost, earnings, platform_revenue.

    Usage event, transfers and balances are one commit; `reply` is kept with it for a repeated Idempotency-Key.
    """
    return lane.settle(item, reply)


def release(lane: Lane, hold_id: UUID, reason: str) -> asyncio.Future[int]:
    """Give a hold back: nothing was answered, so nothing is charged."""
    return lane.release(hold_id, reason)


# ── by hand ──


async def adjust(
    tx: Tx,
    account: AccountId,
    amount_e8: int,
    *,
    direction: Literal["credit", "debit"],
    key: str | None,
    memo: str,
) -> Booked:
    """Correct a wallet or earnings against the adjustments account; the memo says who and why.

    A debit takes only what is there beyond holds: raises Refusal `insufficient_balance` for more, and
    `idempotency_conflict` where the key has booked something else.
    """
    adjustments = await book.open_account(tx, uuid7(), Kind.ADJUSTMENTS)
    if direction == "credit":
        return await _one(
            tx, Code.ADJUST_CREDIT, debit=adjustments, credit=account, amount_e8=amount_e8, key=key, memo=memo
        )
    return await _one(tx, Code.ADJUST_DEBIT, debit=account, credit=adjustments, amount_e8=amount_e8, key=key, memo=memo)


async def _one(
    tx: Tx,
    code: Code,
    *,
    debit: AccountId,
    credit: AccountId,
    amount_e8: int,
    key: str | None,
    memo: str,
) -> Booked:
    """Book one transfer. Raises the refusals of its callers; InvariantBroken for a move that isn't one."""
    if not 0 < amount_e8 <= E8_MAX:
        raise InvariantBroken(f"a move of {amount_e8} e8")
    transfer = book.Transfer(
        event_id=uuid7(), code=code, debit=debit, credit=credit, amount_e8=amount_e8, key=key, memo=memo
    )
    (status,) = await book.transfer(tx, [transfer])
    match status:
        case book.Status.DONE:
            return Booked.NOW
        case book.Status.REPEATED:
            return Booked.BEFORE
        case book.Status.INSUFFICIENT:
            raise Refusal("insufficient_balance", "the account has less than that to give")
        case book.Status.CONFLICT:
            raise Refusal("idempotency_conflict", "this idempotency key was used for something else")
        case _:
            raise InvariantBroken(f"the ledger refused {code.name} from {debit} to {credit}: {status.name}")
