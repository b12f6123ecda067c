"""What is asked of the processor for a payout, step by step, so that no death at any moment pays twice.

A sweep *claims* a payout in one tx, which is the journal: from then on it counts as sent, whatever happens. It *asks*
the processor, outside of any tx. It *notes* the answer in a second tx. Who dies in between leaves a claim that runs
out, and whoever comes next asks the same again: with the same key, which the processor knows for a day, and after
looking whether what was asked for is there, which serves for longer than a day. A key is given up for the next one only
in the tx that notes that the processor has refused it.

The steps: transfer to the developer's account → pay out from there to the bank → look how that stands. Where the
payout is to be stopped, they are undone instead: the payout to the bank is looked at or cancelled, the transfer
reversed.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from faucet.kit.db import Tx
from faucet.kit.errors import InvariantBroken
from faucet.payments import payout_store as store
from faucet.payments import payouts
from faucet.payments.connect import BankPayout, PayoutProcessor
from faucet.payments.payout_store import Payout
from faucet.payments.payouts import CENT_E8, Change
from faucet.payments.processor import ProcessorConflict, ProcessorRefused, ProcessorUnsure

T = TypeVar("T")

CLAIM = timedelta(minutes=10)
"""So long nobody else asks for a payout that was claimed: longer than every call with all its retries takes."""
LOOK_AGAIN = timedelta(hours=1)
"""The processor tells by itself when a payout is paid; this is for the day on which its word doesn't come."""
BACKOFF_MIN, BACKOFF_MAX = timedelta(minutes=1), timedelta(hours=6)
HOPELESS = frozenset(
    {
        "account_invalid",
        "account_closed",
        "bank_account_unusable",
        "insufficient_capabilities_for_transfer",
        "no_account",
        "payouts_not_allowed",
        "resource_missing",
        "transfers_not_allowed",
    }
)
"""Refusals that asking again won't change."""


@dataclass(frozen=True, slots=True)
class Transferred:
    """The developer's account has it."""

    transfer_id: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How the payout to the bank stands."""

    bank: BankPayout


@dataclass(frozen=True, slots=True)
class TakenBack:
    """The platform has it again."""

    reversal_id: str | None


@dataclass(frozen=True, slots=True)
class NeverLeft:
    """It is to be stopped, and the processor has nothing of it."""


Answer = Transferred | Standing | TakenBack | NeverLeft


async def claim(tx: Tx, *, now: datetime) -> Change | None:
    """Take a payout for which something is to be asked, and journal that; None where there is none."""
    payout = await store.due(tx, now=now)
    if payout is None:
        return None
    after = await store.mark(
        tx,
        payout.id,
        now=now,
        status="sent" if payout.status == "approved" else payout.status,
        sent_at=payout.sent_at or now,
        attempts=payout.attempts + 1,
        last_error=None,
        next_attempt_at=now + CLAIM,
    )
    return Change(payout, after)


async def ask(processor: PayoutProcessor, payout: Payout) -> Answer:
    """Ask for the step that a claimed payout is at. Raises ProcessorRefused, ProcessorUnsure."""
    account_id = payout.provider_account_id
    if account_id is None:
        raise InvariantBroken(f"the payout {payout.id} goes through Stripe and has no account there")
    if payout.provider_transfer_id is None:
        return await _transferred(processor, payout, account_id)
    bank = await _bank(processor, payout, account_id)
    if payout.stop_asked_at is not None:
        return await _undone(processor, payout, account_id, bank)
    if bank is None:
        key = f"{payout.id}:payout:{payout.key_number}"
        bank = await processor.pay_out(
            payout.id, amount_cents=payout.amount_e8 // CENT_E8, account_id=account_id, key=key
        )
    return Standing(bank)


async def _transferred(processor: PayoutProcessor, payout: Payout, account_id: str) -> Answer:
    # Whoever asked before may have got through without learning of it.
    is_repeat = payout.attempts > 1 or payout.stop_asked_at is not None
    found = await _looked_up(processor.find_transfer(payout.id)) if is_repeat else None
    if found is None and payout.stop_asked_at is not None:
        return NeverLeft()
    cents = payout.amount_e8 // CENT_E8
    if found is None:
        key = str(payout.id) if payout.key_number == 1 else f"{payout.id}:{payout.key_number}"
        found = await processor.transfer(payout.id, amount_cents=cents, account_id=account_id, key=key)
    if (found.amount_cents, found.account_id) != (cents, account_id):
        raise InvariantBroken(f"the transfer {found.id} of the payout {payout.id} is another amount or goes elsewhere")
    return TakenBack(None) if found.is_reversed else Transferred(found.id)


async def _bank(processor: PayoutProcessor, payout: Payout, account_id: str) -> BankPayout | None:
    if payout.provider_payout_id is not None:
        return await _looked_up(processor.payout(payout.provider_payout_id, account_id=account_id))
    if payout.attempts == 1 and payout.stop_asked_at is None:
        return None
    return await _looked_up(processor.find_payout(payout.id, account_id=account_id))


async def _looked_up(asking: Awaitable[T]) -> T:
    """What looking gives. That it was refused says nothing of what was asked for before: raises ProcessorUnsure."""
    try:
        return await asking
    except ProcessorRefused as error:
        raise ProcessorUnsure(f"it could not be looked up: {error}") from None


async def _undone(processor: PayoutProcessor, payout: Payout, account_id: str, bank: BankPayout | None) -> Answer:
    if bank is not None and bank.status == "pending":
        bank = await processor.cancel_payout(bank.id, account_id=account_id)
    if bank is not None and bank.status not in ("failed", "canceled"):
        return Standing(bank)  # it has left, and its end decides
    if payout.provider_transfer_id is None:
        raise InvariantBroken(f"the payout {payout.id} has no transfer to take back")
    key = f"{payout.id}:reversal:{payout.key_number}"
    return TakenBack(await processor.reverse(payout.provider_transfer_id, payout_id=payout.id, key=key))


# ── the second tx ──


async def note(tx: Tx, claimed: Payout, answer: Answer, *, now: datetime) -> Change | None:
    """Note what was answered to a claim; None where an event had told of the end before."""
    payout = await store.lock(tx, claimed.id)
    if payout is None or payout.status in ("failed", "cancelled"):
        return None
    match answer:
        case Transferred(transfer_id):
            return await note_transfer(tx, payout, transfer_id, now=now)
        case Standing(bank) if payout != claimed and bank.status == "paid":
            # Something was told while we looked, perhaps what came after what we saw: look again.
            after = await store.mark(tx, payout.id, now=now, attempts=0, next_attempt_at=now)
            return Change(payout, after)
        case Standing(bank):
            return await note_standing(tx, payout, bank, now=now)
        case TakenBack(reversal_id):
            reason = payout.reason or "the transfer was reversed at Stripe"
            return await payouts.come_back(tx, payout, reason=reason, now=now, reversal_id=reversal_id)
        case NeverLeft():
            return await payouts.come_back(tx, payout, reason=payout.reason or "stopped", now=now)


async def note_transfer(tx: Tx, payout: Payout, transfer_id: str, *, now: datetime) -> Change:
    """A locked payout's transfer is made. Raises InvariantBroken for a second one."""
    if payout.provider_transfer_id == transfer_id:
        return Change(payout, payout)
    if payout.provider_transfer_id is not None:
        raise InvariantBroken(f"the payout {payout.id} has two transfers: {payout.provider_transfer_id}, {transfer_id}")
    after = await store.mark(
        tx,
        payout.id,
        now=now,
        provider_transfer_id=transfer_id,
        attempts=0,
        last_error=None,
        next_attempt_at=None if payout.ended_at else now,
    )
    return Change(payout, after)


async def note_bank(tx: Tx, payout: Payout, bank_payout_id: str, *, now: datetime) -> Payout:
    """A locked payout has one at the bank. Raises InvariantBroken for a second one."""
    if payout.provider_payout_id == bank_payout_id:
        return payout
    if payout.provider_payout_id is not None:
        both = f"{payout.provider_payout_id}, {bank_payout_id}"
        raise InvariantBroken(f"the payout {payout.id} has two at the bank: {both}")
    return await store.mark(tx, payout.id, now=now, provider_payout_id=bank_payout_id)


async def note_standing(tx: Tx, payout: Payout, bank: BankPayout, *, now: datetime) -> Change:
    """How a locked payout stands at the bank. Whatever else was told before, what failed there is taken back."""
    await note_bank(tx, payout, bank.id, now=now)
    match bank.status:
        case "paid" if payout.status == "sent":
            return await payouts.came_through(tx, payout, provider_payout_id=bank.id, now=now)
        case "failed" | "canceled":
            reason = f"the bank refused it: {bank.failure}" if bank.failure else "the payout was cancelled at Stripe"
            asked_at = payout.stop_asked_at or now
            after = await store.mark(
                tx,
                payout.id,
                now=now,
                stop_asked_at=asked_at,
                reason=payout.reason if payout.stop_asked_at else reason,
                attempts=0,
                next_attempt_at=now,
            )
            return Change(payout, after)
    must_stop = payout.stop_asked_at is not None and bank.status == "pending"
    next_at = None if payout.ended_at else now if must_stop else now + LOOK_AGAIN
    after = await store.mark(
        tx,
        payout.id,
        now=now,
        attempts=0,
        last_error=None,
        next_attempt_at=next_at,
    )
    return Change(payout, after)


async def note_refusal(tx: Tx, payout: Payout, error: ProcessorRefused, *, now: datetime) -> Change | None:
    """The processor has refused what a claimed payout asked: ask again later under another key, or stop it."""
    locked = await store.lock(tx, payout.id)
    if locked is None or not _is_same_ask(locked, payout):
        return None
    is_hopeless = error.code in HOPELESS and locked.stop_asked_at is None and locked.status == "sent"
    reason = f"Stripe refused it: {error}"[:500]
    after = await store.mark(
        tx,
        locked.id,
        now=now,
        key_number=locked.key_number + 1,
        last_error=reason,
        next_attempt_at=now if is_hopeless else now + _backoff(locked.attempts),
        **({"stop_asked_at": now, "reason": reason} if is_hopeless else {}),
    )
    return Change(payout, after)


async def note_doubt(
    tx: Tx, payout: Payout, error: ProcessorUnsure | ProcessorConflict, *, now: datetime
) -> Change | None:
    """Nobody knows whether what a claimed payout asked was done: ask again later, under the same key."""
    locked = await store.lock(tx, payout.id)
    if locked is None or not _is_same_ask(locked, payout):
        return None
    after = await store.mark(
        tx, locked.id, now=now, last_error=str(error)[:500], next_attempt_at=now + _backoff(locked.attempts)
    )
    return Change(payout, after)


def _is_same_ask(locked: Payout, payout: Payout) -> bool:
    """Whether nobody has asked, and nothing was told, since this claim."""
    return (locked.status, locked.attempts, locked.key_number, locked.provider_transfer_id) == (
        payout.status,
        payout.attempts,
        payout.key_number,
        payout.provider_transfer_id,
    )


def _backoff(attempts: int) -> timedelta:
    return min(BACKOFF_MIN * (1 << min(max(attempts - 1, 0), 10)), BACKOFF_MAX)
