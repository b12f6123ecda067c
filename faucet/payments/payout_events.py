"""What the processor tells of payouts by itself: its events, applied in any order, each once (the inbox sees to that).

An event is about a payout of ours if it names one in its metadata or is about a transfer or payout that we know; the
platform may use Stripe for other things too, and those are let be. Each verdict's resource is the `Change`, or none;
its notes are for the audit log.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from faucet.kit.clock import Clock
from faucet.kit.db import Tx
from faucet.kit.errors import Refusal
from faucet.kit.money import E8_MAX, to_wire
from faucet.ledger import moves
from faucet.ledger.moves import Booked
from faucet.payments import payout_steps as steps
from faucet.payments import payout_store as store
from faucet.payments import payouts
from faucet.payments.connect import OURS, BankPayout, is_ready
from faucet.payments.inbox import Applier, Event, Note, Outcome, Verdict
from faucet.payments.payout_store import Payout
from faucet.payments.payouts import CENT_E8, Change, difference, happened

CURRENCY = "usd"
_IGNORED = Verdict(Outcome.IGNORED, "not about a payout of ours")


def appliers(clock: Clock) -> Mapping[str, Applier]:
    """Who acts on which events; names that end in a dot are beginnings."""

    async def transfer(tx: Tx, event: Event) -> Verdict:
        return await on_transfer(tx, event, now=clock.now())

    async def payout(tx: Tx, event: Event) -> Verdict:
        return await on_payout(tx, event, now=clock.now())

    async def account(tx: Tx, event: Event) -> Verdict:
        return await on_account(tx, event, now=clock.now())

    return {"transfer.": transfer, "payout.": payout, "account.updated": account}


async def _later(tx: Tx, event: Event) -> Verdict:
    return Verdict(Outcome.WAITING, "for the jobs")


LEFT_TO_JOBS: Mapping[str, Applier] = dict.fromkeys(appliers(Clock()), _later)
"""For the API, which keeps such events and may not act on them."""


async def on_transfer(tx: Tx, event: Event, *, now: datetime) -> Verdict:
    """A transfer was made, or taken back on Stripe's own pages."""
    about = event.about
    ours = await _ours(tx, about, await store.find_by_transfer(tx, str(about.get("id"))))
    if ours is None:
        return _IGNORED
    if ours.provider != "stripe":
        return Verdict(Outcome.REFUSED, f"the payout {ours.id} is paid by hand, and yet Stripe has one that names it")
    if _cents(about) != ours.amount_e8 // CENT_E8 or about.get("destination") != ours.provider_account_id:
        return Verdict(Outcome.REFUSED, f"the transfer of the payout {ours.id} is another amount or goes elsewhere")
    if ours.status in ("failed", "cancelled"):
        return _settled(ours)
    if ours.status == "approved" or ours.sent_at is None:
        return Verdict(Outcome.REFUSED, f"the payout {ours.id} was transferred before it was sent")
    change = await steps.note_transfer(tx, ours, str(about["id"]), now=now)
    if not about.get("reversed"):
        if about.get("amount_reversed"):
            return Verdict(Outcome.REFUSED, f"a part of the payout {ours.id} was taken back at Stripe; see to the rest")
        return _applied("transferred", change)
    found = about.get("reversals", {}).get("data") or [{}]
    reason = change.after.reason or "the transfer was reversed at Stripe"
    back = await payouts.come_back(tx, change.after, reason=reason, now=now, reversal_id=found[0].get("id"))
    return _applied("taken back", Change(ours, back.after))


async def on_payout(tx: Tx, event: Event, *, now: datetime) -> Verdict:
    """How a payout to a bank stands: a developer's, or our own."""
    about = event.about
    ours = await _ours(tx, about, await store.find_by_payout(tx, str(about.get("id"))))
    if ours is None:
        return _IGNORED if event.account is not None else await _collected(tx, about)
    if ours.provider != "stripe":
        return Verdict(Outcome.REFUSED, f"the payout {ours.id} is paid by hand, and yet Stripe has one that names it")
    if _cents(about) != ours.amount_e8 // CENT_E8 or event.account != ours.provider_account_id:
        return Verdict(Outcome.REFUSED, f"the bank's part of the payout {ours.id} is another amount or account")
    if ours.status in ("failed", "cancelled"):
        return _settled(ours)
    if ours.status in ("requested", "approved"):
        return Verdict(Outcome.REFUSED, f"the payout {ours.id} is {ours.status} and yet at the bank")
    status = str(about.get("status"))
    if status in ("pending", "in_transit") or (status == "paid" and ours.stop_asked_at is not None):
        # Perhaps from before what is known by now; how it stands is looked up before anything is taken back.
        after = await steps.note_bank(tx, ours, str(about["id"]), now=now)
        return _applied("at the bank", Change(ours, after))
    failure = about.get("failure_message") or about.get("failure_code")
    bank = BankPayout(str(about["id"]), status, None if failure is None else str(failure))
    change = await steps.note_standing(tx, ours, bank, now=now)
    return _applied(status, change)


async def _collected(tx: Tx, about: Mapping[str, Any]) -> Verdict:
    """The processor pays from its balance to our own bank, or (less than nothing) draws from there what it lacks.

    The money is on its way from the beginning, and back if that fails, in whichever order it is told.
    """
    if about.get("currency") != CURRENCY:
        return Verdict(Outcome.IGNORED, "a payout to our own bank that is not in dollars")
    cents, name = _cents(about), str(about.get("id"))
    if not cents or isinstance(cents, bool) or abs(cents) > E8_MAX // CENT_E8:
        return Verdict(Outcome.REFUSED, "a payout to our own bank whose amount is no number of cents")
    there, back = (moves.collect, moves.collect_returned)[:: 1 if cents > 0 else -1]
    amount_e8, is_back = abs(cents) * CENT_E8, about.get("status") in ("failed", "canceled")
    try:
        booked = await there(tx, amount_e8, key=f"collect:{name}", memo=f"payout {name} to our own bank")
        if is_back:
            booked = await back(tx, amount_e8, key=f"collect:{name}:returned", memo=f"payout {name} came back")
    except Refusal:
        return Verdict(Outcome.REFUSED, f"the payout {name} to our own bank was told before with another amount")
    if booked is Booked.BEFORE:
        return Verdict(Outcome.APPLIED, "known before")
    note = Note(
        action="stripe_balance.returned" if is_back else "stripe_balance.collected",
        resource_type="stripe_balance",
        resource_id=name,
        developer_id=None,
        after={"amount_usd": to_wire(cents * CENT_E8)},
    )
    return Verdict(Outcome.APPLIED, "", notes=(note,))


async def on_account(tx: Tx, event: Event, *, now: datetime) -> Verdict:
    """What Stripe thinks of a developer's account."""
    about = event.about
    name = str(about.get("id"))
    owner = await store.set_ready(tx, name, is_ready=is_ready(about), now=now)
    if owner is None:
        return Verdict(Outcome.APPLIED, "nothing new")
    note = Note(
        action="payout_account.changed",
        resource_type="payout_account",
        resource_id=str(owner),
        developer_id=owner,
        after={"provider_account_id": name, "is_ready": is_ready(about)},
    )
    return Verdict(Outcome.APPLIED, "noted", notes=(note,))


def _applied(reason: str, change: Change) -> Verdict:
    before, after = difference(change)
    if not after:
        return Verdict(Outcome.APPLIED, reason, change)
    note = Note(
        action=happened(change),
        resource_type="payout",
        resource_id=str(change.after.id),
        developer_id=change.after.developer_id,
        before=before,
        after=after,
    )
    return Verdict(Outcome.APPLIED, reason, change, (note,))


def _settled(ours: Payout) -> Verdict:
    return Verdict(Outcome.APPLIED, f"the payout was {ours.status} already")


async def _ours(tx: Tx, about: Mapping[str, Any], known: UUID | None) -> Payout | None:
    """The payout that an object of Stripe's is about, locked."""
    named = (about.get("metadata") or {}).get(OURS)
    if known is None and isinstance(named, str):
        try:
            known = UUID(named)
        except ValueError:
            return None
    return None if known is None else await store.lock(tx, known)


def _cents(about: Mapping[str, Any]) -> int | None:
    found = about.get("amount")
    return found if isinstance(found, int) else None
