"""A developer's earnings on their way to the bank: requested → approved → sent → paid, failed or cancelled.

Every step is one tx of its caller's, over a payout that it has locked: the state, the money and, by the caller, the
row of the audit log change together or not at all. Calls to the processor are between txs (`payout_steps`); what the
processor tells by itself is `payout_events`. Each function gives back the payout before and after, for that log.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from faucet.kit.config import Config
from faucet.kit.db import Tx
from faucet.kit.errors import InvariantBroken, Refusal, field_error
from faucet.kit.ids import uuid7
from faucet.kit.money import E8_MAX, E8_PER_USD, to_wire
from faucet.ledger import moves
from faucet.ledger.moves import Booked
from faucet.payments import payout_store as store
from faucet.payments.payout_store import Payout

CENT_E8 = E8_PER_USD // 100
DOUBT = timedelta(minutes=1)
"""So long after a call that broke off it is looked for."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which payouts are opened. Amounts in e8; 0 is no limit."""

    hold_back: timedelta
    least_e8: int
    most_e8: int
    day_most_e8: int
    """Of one developer's payouts on one day, in UTC."""
    uses_stripe: bool
    """Whether a developer whose account at the processor is ready is paid there."""

    @property
    def at_least_e8(self) -> int:
        """The least that a payout may be."""
        return max(self.least_e8, CENT_E8)

    def after_hold_back(self, now: datetime) -> datetime:
        """What was earned until then is old enough to be paid out now."""
        return now - self.hold_back


def terms_of(config: Config) -> Terms:
    """The terms that the settings name."""
    return Terms(
        hold_back=timedelta(days=config.payout_hold_back_days),
        least_e8=config.payout_threshold_e8,
        most_e8=config.payout_max_e8,
        day_most_e8=config.payout_daily_max_e8,
        uses_stripe=config.stripe_secret_key is not None,
    )


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a payout."""

    before: Payout
    after: Payout


async def request(
    tx: Tx, terms: Terms, *, developer_id: UUID, amount_e8: int | None, by: str, key: str | None, now: datetime
) -> tuple[Payout, Booked]:
    """Open a payout of this amount, or of all that may be had; a repeat with the same key gives the one there is.

    Raises Refusal `invalid_request` for part of a cent, for less than the least and more than the most of a payout or
    of a day; `insufficient_balance` for more than is old enough; `idempotency_conflict`.
    """
    if amount_e8 is not None:
        _check_amount(terms, amount_e8)
    known = None if key is None else await store.find_by_key(tx, key)
    if known is not None:
        payout = await store.find(tx, known)
        if payout is None or payout.developer_id != developer_id or amount_e8 not in (None, payout.amount_e8):
            raise Refusal("idempotency_conflict", "this idempotency key was used for something else")
        return payout, Booked.BEFORE
    return await _open(tx, terms, developer_id, amount_e8, by=by, key=key, run=None, now=now), Booked.NOW


async def open_by_run(
    tx: Tx, terms: Terms, *, developer_id: UUID, by: str, key: str | None, run: str | None, now: datetime
) -> tuple[Payout, Booked] | None:
    """Open a payout of all that may be had, within the limits; None where that is less than the least of a payout."""
    known = None if key is None else await store.find_by_key(tx, key)
    if known is not None:
        payout = await store.find(tx, known)
        return None if payout is None else (payout, Booked.BEFORE)
    if await store.mature(tx, developer_id, terms.after_hold_back(now)) < terms.at_least_e8:
        return None
    left_e8 = await _left_of_day(tx, terms, developer_id, now)
    if left_e8 is not None and left_e8 < terms.at_least_e8:
        return None  # tomorrow is another day
    return await _open(tx, terms, developer_id, None, by=by, key=key, run=run, now=now), Booked.NOW


def _check_amount(terms: Terms, amount_e8: int) -> None:
    if amount_e8 % CENT_E8:
        raise field_error("amount_usd", "must be whole cents")
    if amount_e8 < terms.at_least_e8:
        raise field_error("amount_usd", f"must be at least {to_wire(terms.at_least_e8)}")
    if terms.most_e8 and amount_e8 > terms.most_e8:
        raise field_error("amount_usd", f"may be at most {to_wire(terms.most_e8)}")


async def _open(
    tx: Tx,
    terms: Terms,
    developer_id: UUID,
    amount_e8: int | None,
    *,
    by: str,
    key: str | None,
    run: str | None,
    now: datetime,
) -> Payout:
    payout_id = uuid7()
    most_e8 = terms.most_e8 or E8_MAX
    if amount_e8 is None and (left_e8 := await _left_of_day(tx, terms, developer_id, now)) is not None:
        most_e8 = min(most_e8, left_e8)
        if most_e8 < terms.at_least_e8:
            raise _day_is_over(terms, left_e8)
    await moves.open_developer_accounts(tx, developer_id)
    opened = await moves.payout_open(
        tx,
        payout_id,
        developer_id=developer_id,
        amount_e8=amount_e8,
        least_e8=terms.at_least_e8,
        most_e8=most_e8,
        earned_by=terms.after_hold_back(now),
        key=key,
        memo=f"payout asked for by {by}",
    )
    # From here on the earnings are locked: of two that are opened at once, one sees the other.
    left_e8 = await _left_of_day(tx, terms, developer_id, now)
    if left_e8 is not None and opened.amount_e8 > left_e8:
        raise _day_is_over(terms, left_e8)
    account = await store.account_of(tx, developer_id) if terms.uses_stripe else None
    await store.insert(
        tx,
        payout_id,
        developer_id=developer_id,
        amount_e8=opened.amount_e8,
        account=account if account is not None and account.is_ready else None,
        requested_by=by,
        run=run,
        now=now,
    )
    payout = await store.find(tx, payout_id)
    if payout is None:
        raise InvariantBroken(f"the payout {payout_id} is gone within its own tx")
    return payout


def _day_is_over(terms: Terms, left_e8: int) -> Refusal:
    return field_error(
        "amount_usd", f"of the {to_wire(terms.day_most_e8)} that a day may have, {to_wire(left_e8)} are left"
    )


async def _left_of_day(tx: Tx, terms: Terms, developer_id: UUID, now: datetime) -> int | None:
    if not terms.day_most_e8:
        return None
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return max(terms.day_most_e8 - await store.opened_since(tx, developer_id, midnight), 0)


# ── what operators decide ──


async def approve(tx: Tx, payout_id: UUID, *, by: str, note: str | None, now: datetime) -> Change:
    """Let a payout go. Of two at once, one does. Raises Refusal `not_found`, `conflict` where it isn't waiting for
    that any more, `forbidden` for who asked for it."""
    payout = await _locked(tx, payout_id)
    _expect(payout, "requested", to="be approved")
    if payout.requested_by == by:
        raise Refusal("forbidden", "who asked for a payout may not approve it; somebody else must")
    after = await store.mark(
        tx,
        payout_id,
        now=now,
        status="approved",
        approved_by=by,
        approved_at=now,
        operator_note=note,
        next_attempt_at=now if payout.provider == "stripe" else None,
    )
    return Change(payout, after)


async def cancel(tx: Tx, payout_id: UUID, *, by: str, reason: str | None, now: datetime) -> Change:
    """Call a payout off, whose money has not begun to leave; it is earnings again. Raises Refusal `not_found`,
    `conflict`."""
    payout = await _locked(tx, payout_id)
    _expect(payout, "requested", "approved", to="be cancelled")
    return await _come_to_nothing(tx, payout, "cancelled", reason=reason or f"cancelled by {by}", now=now)


async def mark_paid(tx: Tx, payout_id: UUID, *, by: str, reference: str | None, now: datetime) -> Change:
    """Note that an operator has paid an approved payout by hand. Raises Refusal `not_found`, `conflict`."""
    payout = await _locked(tx, payout_id)
    if payout.provider != "manual" and payout.status in ("approved", "sent"):
        raise Refusal("conflict", "this payout is sent through Stripe, which says when it is paid")
    _expect(payout, "approved", to="be marked as paid")
    return await _paid(tx, payout, memo=f"paid by hand, says {by}", provider_payout_id=reference, now=now)


async def fail(tx: Tx, payout_id: UUID, *, reason: str, now: datetime) -> Change:
    """Note that an approved payout could not be paid, or that a paid one came back; it is earnings again.

    One that has begun to leave through the processor is taken back there first, by the sweep that sends, and fails
    when that is done. Raises Refusal `not_found`, `conflict`.
    """
    payout = await _locked(tx, payout_id)
    if payout.provider != "manual" and payout.status == "paid":
        raise Refusal("conflict", "this payout was paid through Stripe; reverse its transfer there, and it comes back")
    _expect(payout, "approved", "sent", "paid", to="fail")
    return await stop(tx, payout, reason=reason, now=now)


async def stop(tx: Tx, payout: Payout, *, reason: str, now: datetime) -> Change:
    """Fail a locked payout: at once where the processor has nothing of it, else when it was taken back there."""
    if payout.provider == "manual" or payout.status == "approved":
        return await come_back(tx, payout, reason=reason, now=now)
    if payout.stop_asked_at is not None:
        return Change(payout, payout)
    soon = now
    if payout.attempts > 0 and payout.next_attempt_at is not None:
        # A call may be under way, or one whose end nobody knows have just ended: its claim is left to run out, so
        # that what it did is seen by who undoes it.
        soon = payout.next_attempt_at if payout.last_error is None else now + DOUBT
    after = await store.mark(tx, payout.id, now=now, stop_asked_at=now, reason=reason, next_attempt_at=soon)
    return Change(payout, after)


# ── what becomes of it ──


async def came_through(tx: Tx, payout: Payout, *, provider_payout_id: str, now: datetime) -> Change:
    """The bank has a locked payout that was sent."""
    return await _paid(tx, payout, memo="paid by Stripe", provider_payout_id=provider_payout_id, now=now)


async def come_back(tx: Tx, payout: Payout, *, reason: str, now: datetime, reversal_id: str | None = None) -> Change:
    """A locked payout failed, and nothing of it is outside any more: it is earnings again."""
    if payout.status != "paid":
        return await _come_to_nothing(tx, payout, "failed", reason=reason, now=now, reversal_id=reversal_id)
    await moves.payout_returned(
        tx,
        payout.id,
        developer_id=payout.developer_id,
        amount_e8=payout.amount_e8,
        by_hand=payout.provider == "manual",
        memo=reason,
    )
    return await _end(tx, payout, "failed", reason=reason, now=now, reversal_id=reversal_id)


async def _paid(tx: Tx, payout: Payout, *, memo: str, provider_payout_id: str | None, now: datetime) -> Change:
    await moves.payout_paid(
        tx,
        payout.id,
        developer_id=payout.developer_id,
        amount_e8=payout.amount_e8,
        by_hand=payout.provider == "manual",
        memo=memo,
    )
    after = await store.mark(
        tx,
        payout.id,
        now=now,
        status="paid",
        sent_at=payout.sent_at or now,
        paid_at=now,
        ended_at=now,
        provider_payout_id=provider_payout_id,
        next_attempt_at=None,
        stop_asked_at=None,
        reason=None,
    )
    return Change(payout, after)


async def _come_to_nothing(
    tx: Tx, payout: Payout, status: str, *, reason: str, now: datetime, reversal_id: str | None = None
) -> Change:
    await moves.payout_failed(tx, payout.id, developer_id=payout.developer_id, amount_e8=payout.amount_e8, memo=reason)
    return await _end(tx, payout, status, reason=reason, now=now, reversal_id=reversal_id)


async def _end(tx: Tx, payout: Payout, status: str, *, reason: str, now: datetime, reversal_id: str | None) -> Change:
    # A door that calls nobody may not write what the processor said.
    more = {} if reversal_id is None else {"provider_reversal_id": reversal_id}
    after = await store.mark(
        tx, payout.id, now=now, status=status, reason=reason, ended_at=now, next_attempt_at=None, **more
    )
    return Change(payout, after)


async def _locked(tx: Tx, payout_id: UUID) -> Payout:
    payout = await store.lock(tx, payout_id)
    if payout is None:
        raise Refusal("not_found", "there is no such payout")
    return payout


def _expect(payout: Payout, *statuses: str, to: str) -> None:
    if payout.status not in statuses:
        raise Refusal(
            "conflict", f"the payout is {payout.status}; it can {to} only while it is {' or '.join(statuses)}"
        )


def shown(payout: Payout) -> dict[str, object]:
    """A payout as the audit log keeps it: what people decide by, not how often the processor was asked."""
    fields = {
        "status": payout.status,
        "amount_usd": to_wire(payout.amount_e8),
        "provider": payout.provider,
        "provider_account_id": payout.provider_account_id,
        "requested_by": payout.requested_by,
        "approved_by": payout.approved_by,
        "operator_note": payout.operator_note,
        "reason": payout.reason,
        "provider_transfer_id": payout.provider_transfer_id,
        "provider_payout_id": payout.provider_payout_id,
        "provider_reversal_id": payout.provider_reversal_id,
    }
    return {name: value for name, value in fields.items() if value is not None}


def happened(change: Change) -> str:
    """What became of a payout, as the audit log's action."""
    before, after = change.before, change.after
    if before.status != after.status:
        return f"payout.{after.status}"
    if before.provider_transfer_id != after.provider_transfer_id:
        return "payout.transferred"
    return "payout.at_bank" if before.provider_payout_id != after.provider_payout_id else "payout.stopped"


def difference(change: Change) -> tuple[dict[str, object], dict[str, object]]:
    """What differs of a payout before and after, as the audit log keeps it; nothing where it is no news."""
    before, after = shown(change.before), shown(change.after)
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {n: before.get(n) for n in names}, {n: after.get(n) for n in names}
