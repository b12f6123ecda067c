"""Every way money can move, one function each.

If a movement is not in this file it cannot happen: nothing else may import `ledger.book`. Accounts are opened
here too. Read from top to bottom, the file follows a dollar into a wallet, through an answer, to the developer
who earned it. Each function takes an open tx and is harmless to repeat with the same key.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Literal
from uuid import UUID

from faucet.kit.db import Tx
from faucet.kit.errors import InvariantBroken, Refusal
from faucet.kit.ids import uuid7
from faucet.kit.money import E8_MAX, to_wire
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

    Of the memo, what comes before the first semicolon is shown to the end user, as what it was for.
    Raises Refusal `idempotency_conflict` where the key has booked something else.
    """
    grants = await book.open_account(tx, uuid7(), Kind.GRANTS)
    return await _one(tx, Code.GRANT, debit=grants, credit=wallet, amount_e8=amount_e8, key=key, memo=memo)


async def top_up(tx: Tx, wallet: AccountId, amount_e8: int, *, key: str, memo: str) -> Booked:
    """Credit what a person paid, once the processor has it.

    Raises Refusal `idempotency_conflict` where the key has booked something else.
    """
    clearing = await book.open_account(tx, uuid7(), Kind.STRIPE_CLEARING)
    return await _one(tx, Code.TOP_UP, debit=clearing, credit=wallet, amount_e8=amount_e8, key=key, memo=memo)


async def processor_fee(tx: Tx, amount_e8: int, *, key: str, memo: str) -> Booked:
    """Book what the processor kept for itself, of a top-up or for a dispute."""
    fees = await book.open_account(tx, uuid7(), Kind.PROCESSOR_FEES)
    clearing = await book.open_account(tx, uuid7(), Kind.STRIPE_CLEARING)
    return await _one(tx, Code.PROCESSOR_FEE, debit=fees, credit=clearing, amount_e8=amount_e8, key=key, memo=memo)


# ── back out of a wallet, and back again ──

Back = Literal["refund", "charge_back"]
_TAKES = {"refund": Code.REFUND, "charge_back": Code.CHARGE_BACK}
_RETURNS = {"refund": Code.REFUND_RETURNED, "charge_back": Code.CHARGE_BACK_RETURNED}


async def take_back(
    tx: Tx, wallet: AccountId, amount_e8: int, *, why: Back, key: str, memo: str
) -> tuple[int, int, Booked]:
    """Give a top-up back to its card: what the wallet has beyond holds, and the rest as a write-off.

    Gives what was taken and what was written off, in e8; where that is more than nothing the wallet is frozen until an
    operator decides. Raises Refusal `idempotency_conflict` where the key has booked something else.
    """
    return await _take(tx, _TAKES[why], wallet, amount_e8, key=key, memo=memo)


async def _take(
    tx: Tx, code: Code, wallet: AccountId, amount_e8: int, *, key: str | None, memo: str
) -> tuple[int, int, Booked]:
    if not 0 < amount_e8 <= E8_MAX:
        raise InvariantBroken(f"a move of {amount_e8} e8")
    done = await book.take_back(tx, event_id=uuid7(), code=code, wallet=wallet, amount_e8=amount_e8, key=key, memo=memo)
    match done.status:
        case book.Status.DONE:
            return done.taken_e8, done.written_off_e8, Booked.NOW
        case book.Status.REPEATED:
            return done.taken_e8, done.written_off_e8, Booked.BEFORE
        case book.Status.CONFLICT:
            raise Refusal("idempotency_conflict", "this idempotency key was used for something else")
        case _:
            raise InvariantBroken(f"the ledger refused {code.name} from {wallet}: {done.status.name}")


async def give_back(tx: Tx, wallet: AccountId, amount_e8: int, *, heal_e8: int, why: Back, key: str, memo: str) -> None:
    """Money came back that had been taken: `heal_e8` of it makes a write-off good, the rest is the wallet's again."""
    if not 0 <= heal_e8 <= amount_e8:
        raise InvariantBroken(f"{heal_e8} of {amount_e8} e8 can't be healed")
    clearing = await book.open_account(tx, uuid7(), Kind.STRIPE_CLEARING)
    write_off = await book.open_account(tx, uuid7(), Kind.WRITE_OFF)
    code = _RETURNS[why]
    if amount_e8 > heal_e8:
        await _one(tx, code, debit=clearing, credit=wallet, amount_e8=amount_e8 - heal_e8, key=key, memo=memo)
    if heal_e8:  # after the wallet, as everybody: who settles beyond a hold locks them in this order
        await _one(tx, code, debit=clearing, credit=write_off, amount_e8=heal_e8, key=f"{key}:write_off", memo=memo)


async def one_at_a_time(tx: Tx, wallet: AccountId, *, alone: bool = True) -> None:
    """Wait for who pays into this wallet or takes back from it; and, `alone`, keep others waiting till the tx ends.

    Taken before anything of the ledger is locked, so that it can't be part of a circle.
    """
    name = f"wallet:{wallet}"
    if alone:
        await tx.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))
    else:
        await tx.execute("select pg_advisory_xact_lock_shared(hashtextextended(%s, 0))", (name,))


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


# ── out, to the developer who earned it: opened, then paid, failed or cancelled; its id is the event of each ──


@dataclass(frozen=True, slots=True)
class Opened:
    """A payout that was opened, in e8."""

    amount_e8: int
    mature_e8: int
    """What was old enough to be paid out, this payout included."""
    booked: Booked


async def payout_open(
    tx: Tx,
    payout_id: UUID,
    *,
    developer_id: UUID,
    amount_e8: int | None,
    least_e8: int,
    most_e8: int,
    earned_by: datetime,
    key: str | None,
    memo: str,
) -> Opened:
    """Set part of a developer's earnings apart: this amount, or all whole cents from the least to the most.

    Only what was earned by then counts; what left the earnings since is taken from the oldest. The database decides
    under the lock of the earnings. Raises Refusal `insufficient_balance`, whose details tell what could be had, and
    `idempotency_conflict` where the key has opened something else.
    """
    ask = book.PayoutAsk(
        payout_id=payout_id,
        developer_id=developer_id,
        amount_e8=amount_e8,
        least_e8=least_e8,
        most_e8=most_e8,
        earned_by=earned_by,
        key=key,
        memo=memo,
    )
    status, moved_e8, mature_e8 = await book.open_payout(tx, ask)
    if status is book.Status.INSUFFICIENT:
        raise Refusal(
            "insufficient_balance",
            f"of the earnings, {to_wire(mature_e8)} USD are old enough to be paid out",
            details={"mature_usd": to_wire(mature_e8)},
        )
    return Opened(moved_e8, mature_e8, _booked(status, f"the payout {payout_id}"))


async def payout_paid(
    tx: Tx, payout_id: UUID, *, developer_id: UUID, amount_e8: int, by_hand: bool, memo: str
) -> Booked:
    """The developer has it: what was set apart has left, through the processor or, by hand, from our own bank."""
    clearing = await book.open_account(tx, uuid7(), Kind.PAYOUT_CLEARING, developer_id=developer_id)
    left = await book.open_account(tx, uuid7(), Kind.BANK if by_hand else Kind.STRIPE_CLEARING)
    return await _one(
        tx, Code.PAYOUT_PAID, debit=clearing, credit=left, amount_e8=amount_e8, key=None, memo=memo, event_id=payout_id
    )


async def payout_failed(tx: Tx, payout_id: UUID, *, developer_id: UUID, amount_e8: int, memo: str) -> Booked:
    """It won't be paid, or was cancelled: what was set apart is earnings again."""
    clearing = await book.open_account(tx, uuid7(), Kind.PAYOUT_CLEARING, developer_id=developer_id)
    earnings = await book.open_account(tx, uuid7(), Kind.EARNINGS, developer_id=developer_id)
    return await _one(
        tx, Code.PAYOUT_FAILED, debit=clearing, credit=earnings, amount_e8=amount_e8, key=None, memo=memo,
        event_id=payout_id,
    )  # fmt: skip


async def payout_returned(
    tx: Tx, payout_id: UUID, *, developer_id: UUID, amount_e8: int, by_hand: bool, memo: str
) -> Booked:
    """It was paid and came back to where it had left: it is earnings again."""
    left = await book.open_account(tx, uuid7(), Kind.BANK if by_hand else Kind.STRIPE_CLEARING)
    earnings = await book.open_account(tx, uuid7(), Kind.EARNINGS, developer_id=developer_id)
    return await _one(
        tx, Code.PAYOUT_RETURNED, debit=left, credit=earnings, amount_e8=amount_e8, key=None, memo=memo,
        event_id=payout_id,
    )  # fmt: skip


# ── between the processor and our own bank ──


async def collect(tx: Tx, amount_e8: int, *, key: str, memo: str) -> Booked:
    """The processor pays us: what it had is on its way to our bank."""
    return await _between(tx, Code.COLLECT, Kind.BANK, Kind.STRIPE_CLEARING, amount_e8, key=key, memo=memo)


async def collect_returned(tx: Tx, amount_e8: int, *, key: str, memo: str) -> Booked:
    """What was collected came back to the processor, or it took from our bank what it lacked."""
    return await _between(tx, Code.COLLECT_RETURNED, Kind.STRIPE_CLEARING, Kind.BANK, amount_e8, key=key, memo=memo)


async def _between(tx: Tx, code: Code, debit: Kind, credit: Kind, amount_e8: int, *, key: str, memo: str) -> Booked:
    """Raises Refusal `idempotency_conflict` where the key has booked something else."""
    from_id, to_id = await book.open_account(tx, uuid7(), debit), await book.open_account(tx, uuid7(), credit)
    return await _one(tx, code, debit=from_id, credit=to_id, amount_e8=amount_e8, key=key, memo=memo)


# ── by hand ──


async def freeze(tx: Tx, wallet: AccountId, *, is_frozen: bool) -> bool:
    """Let nothing new be held on a wallet, or let it go again; whether that changed anything. No money moves."""
    return await book.freeze(tx, wallet, is_frozen=is_frozen)


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


async def take_by_hand(
    tx: Tx, wallet: AccountId, amount_e8: int, *, key: str | None, memo: str
) -> tuple[int, int, Booked]:
    """Correct a wallet by a refund or charge-back that went another way than through the processor.

    As `take_back`, against the adjustments account. Raises Refusal `idempotency_conflict`.
    """
    return await _take(tx, Code.ADJUST_DEBIT, wallet, amount_e8, key=key, memo=memo)


async def _one(
    tx: Tx,
    code: Code,
    *,
    debit: AccountId,
    credit: AccountId,
    amount_e8: int,
    key: str | None,
    memo: str,
    event_id: UUID | None = None,
) -> Booked:
    """Book one transfer. Raises the refusals of its callers; InvariantBroken for a move that isn't one."""
    if not 0 < amount_e8 <= E8_MAX:
        raise InvariantBroken(f"a move of {amount_e8} e8")
    transfer = book.Transfer(
        event_id=event_id or uuid7(), code=code, debit=debit, credit=credit, amount_e8=amount_e8, key=key, memo=memo
    )
    (status,) = await book.transfer(tx, [transfer])
    if status is book.Status.INSUFFICIENT:
        raise Refusal("insufficient_balance", "the account has less than that to give")
    return _booked(status, f"{code.name} from {debit} to {credit}")


def _booked(status: book.Status, what: str) -> Booked:
    match status:
        case book.Status.DONE:
            return Booked.NOW
        case book.Status.REPEATED:
            return Booked.BEFORE
        case book.Status.CONFLICT:
            raise Refusal("idempotency_conflict", "this idempotency key was used for something else")
        case _:
            raise InvariantBroken(f"the ledger refused {what}: {status.name}")
