"""Money that goes back to cards, by refunds and disputes, and what of it comes back again.

What the wallet has beyond holds is taken; the rest is written off, and the wallet is frozen until an operator decides.
What comes back makes the wallet's write-offs good first. So, in whatever order the processor's events are applied, a
wallet ends up with what was paid in less what was spent and what went back, and the write-off with what that lacks.
Not here: who asks for a refund (doors), SQL (`store`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.kit.errors import Refusal, field_error
from faucet.kit.ids import uuid7
from faucet.kit.log import logger
from faucet.kit.money import to_wire
from faucet.ledger import moves
from faucet.ledger.moves import Back
from faucet.payments import store, told
from faucet.payments.inbox import Event, Note, Outcome, Verdict
from faucet.payments.store import Reversal, TopUp
from faucet.payments.top_ups import CURRENCY, E8_PER_CENT, alone

_NOT_TAKEN = ("warning_needs_response", "warning_under_review", "warning_closed", "prevented")
"""A bank that only asks: no money moves."""


async def on_refund(tx: Tx, event: Event) -> Verdict:
    """Apply `refund.*` and `charge.refund.updated`."""
    return await apply_refund(tx, event.about)


async def on_dispute(tx: Tx, event: Event) -> Verdict:
    """Apply `charge.dispute.*`."""
    dispute = event.about
    if dispute.get("status") in _NOT_TAKEN:
        return Verdict(Outcome.IGNORED, "no money moves by an inquiry")
    found = await _paid_by(tx, dispute)
    if isinstance(found, Verdict):
        return found
    wrong = _mismatch(found, dispute)
    known = await store.find_reversal(tx, str(dispute["id"]))
    if known is None and wrong is None and dispute["amount"] * E8_PER_CENT > found.amount_e8:
        wrong = "the dispute is about more than was paid"
    if wrong is not None:
        return await _refuse(found, dispute, "dispute", wrong)
    await _book_fees(tx, found, dispute)
    status = dispute.get("status")
    goal = {"won": "returned", "lost": "lost"}.get(str(status), "gone")
    return await _reach(tx, found, known, dispute, "charge_back", goal)


async def apply_refund(tx: Tx, refund: dict[str, Any]) -> Verdict:
    """Book what a refund is by now, whether an event told of it or the processor's answer."""
    found = await _paid_by(tx, refund)
    if isinstance(found, Verdict):
        return found
    wrong = _mismatch(found, refund)
    known = await store.find_reversal(tx, str(refund["id"]))
    goal = "returned" if refund.get("status") in ("failed", "canceled") else "gone"
    if known is None and wrong is None and refund["amount"] * E8_PER_CENT > found.amount_e8:
        wrong = "the refund is of more than was paid"
    if wrong is not None:
        return await _refuse(found, refund, "refund", wrong)
    if known is None and goal == "gone" and refund["amount"] * E8_PER_CENT > found.amount_e8 - found.refunded_e8:
        # What was refunded before may have come back, of which we then have yet to hear.
        return Verdict(Outcome.WAITING, "the refund is of more than is left of the payment", found.id)
    marks = refund.get("metadata")
    await _mark_sent(tx, found, str(refund["id"]), marks.get("refund") if isinstance(marks, dict) else None)
    return await _reach(tx, found, known, refund, "refund", goal)


async def _paid_by(tx: Tx, thing: dict[str, Any]) -> TopUp | Verdict:
    """The top-up whose payment a refund or dispute is of, its wallet to ourselves; or why there is none."""
    intent = thing.get("payment_intent")
    if not isinstance(intent, str):
        return Verdict(Outcome.IGNORED, "it is of no payment that we could know")
    found = await store.find_by_intent(tx, intent)
    if found is None:
        return Verdict(Outcome.WAITING, f"its payment {intent} is not known yet")
    return await alone(tx, found)


def _mismatch(top_up: TopUp, thing: dict[str, Any]) -> str | None:
    amount = thing.get("amount")
    if thing.get("currency") != CURRENCY:
        return f"it is in {str(thing.get('currency'))[:10]}, the payment was in {CURRENCY}"
    if not isinstance(amount, int) or isinstance(amount, bool) or amount <= 0:
        return "its amount is no whole number of cents"
    if not isinstance(thing.get("id"), str):
        return "it has no id"
    return None


async def _reach(tx: Tx, top_up: TopUp, known: Reversal | None, thing: dict[str, Any], why: Back, goal: str) -> Verdict:
    """Bring a refund or dispute to where it is by now, by the moves that lie between, whichever events are missing."""
    name, amount_e8 = str(thing["id"]), thing["amount"] * E8_PER_CENT
    kind = "refund" if why == "refund" else "dispute"
    if known is not None and (known.top_up_id, known.kind, known.amount_e8) != (top_up.id, kind, amount_e8):
        return await _refuse(top_up, thing, kind, "it was told before with another amount or payment")
    notes: list[Note] = []
    if known is None:
        memo = f"{kind} {name} of top-up {top_up.id}"
        taken_e8, lost_e8, _ = await moves.take_back(
            tx, top_up.wallet_id, amount_e8, why=why, key=f"{kind}:{name}", memo=memo
        )
        await store.insert_reversal(tx, top_up, reversal_id=name, kind=kind, taken_e8=taken_e8, written_off_e8=lost_e8)
        if lost_e8:
            logger.error("wallet.written_off", wallet_id=str(top_up.wallet_public_id), amount_usd=to_wire(lost_e8))
            await told.of_freeze(tx, wallet_id=top_up.wallet_public_id, reason=kind)
        after = {"amount_usd": to_wire(amount_e8), "written_off_usd": to_wire(lost_e8), "frozen": lost_e8 > 0}
        notes.append(_note(top_up, name, "top_up.refunded" if kind == "refund" else "top_up.disputed", after))
    state = "gone" if known is None else known.state
    if goal == "returned" and state != "returned":
        heal_e8 = min(amount_e8, await store.written_off(tx, top_up.wallet_id))
        memo = f"{kind} {name} of top-up {top_up.id} came back"
        await moves.give_back(
            tx, top_up.wallet_id, amount_e8, heal_e8=heal_e8, why=why, key=f"{kind}:{name}:returned", memo=memo
        )
        await store.mark_reversal(tx, name, "returned", healed_e8=heal_e8)
        after = {"amount_usd": to_wire(amount_e8), "made_good_usd": to_wire(heal_e8)}
        notes.append(_note(top_up, name, f"top_up.{kind}_returned", after))
    elif goal == "lost" and state == "gone":
        await store.mark_reversal(tx, name, "lost")
        notes.append(_note(top_up, name, "top_up.dispute_lost", {"amount_usd": to_wire(amount_e8)}))
    return Verdict(Outcome.APPLIED, "" if notes else "known before", top_up.id, tuple(notes))


async def _book_fees(tx: Tx, top_up: TopUp, dispute: dict[str, Any]) -> None:
    """Book what the processor keeps for a dispute, once per change of the balance there."""
    rows = dispute.get("balance_transactions")
    for row in rows if isinstance(rows, list) else []:
        fee = row.get("fee") if isinstance(row, dict) else None
        if isinstance(fee, int) and fee > 0:
            memo = f"fee of dispute {dispute['id']} of top-up {top_up.id}"
            await moves.processor_fee(tx, fee * E8_PER_CENT, key=f"processor-fee:{row['id']}", memo=memo)


async def _refuse(top_up: TopUp, thing: dict[str, Any], kind: str, wrong: str) -> Verdict:
    after = {"reason": wrong, kind: str(thing.get("id"))[:255]}
    return Verdict(Outcome.REFUSED, wrong, top_up.id, (_note(top_up, None, f"top_up.{kind}_refused", after),))


def _note(top_up: TopUp, reversal: str | None, action: str, after: dict[str, Any]) -> Note:
    return Note(
        action=action,
        resource_type="top_up",
        resource_id=str(top_up.id),
        developer_id=top_up.developer_id,
        after=after if reversal is None else {"id": reversal} | after,
    )


# ── refunds that an operator asks for ──


@dataclass(frozen=True, slots=True)
class RefundWish:
    """A refund that an operator asked for. Amounts in e8."""

    id: UUID
    top_up_id: UUID
    amount_e8: int
    status: str
    reason: str
    asked_by: str
    reversal_id: str | None
    failure: str | None
    payment_intent_id: str
    created_at: datetime


_WISH = """
select a.id, a.top_up_id, a.amount_e8, a.status, a.reason, a.asked_by, a.reversal_id, a.failure, t.payment_intent_id,
       a.created_at
  from top_up_refund a join top_up t on t.id = a.top_up_id
"""


async def wish_refund(
    tx: Tx, top_up_id: UUID, amount_e8: int | None, *, reason: str, asked_by: str, wish_id: UUID | None = None
) -> RefundWish:
    """Note that this much (None: all that is left) is to go back; `send` it once the tx has committed.

    Raises Refusal `not_found`, `conflict` for a top-up that was never paid or is gone already, and `invalid_request`
    for more than is left.
    """
    found = await store.find(tx, top_up_id)
    if found is None:
        raise Refusal("not_found", "there is no such top-up")
    found = await alone(tx, found)
    if found.status != "credited":
        raise Refusal("conflict", f"this top-up is {found.status}: there is nothing to refund")
    amount_e8 = found.rest_e8 if amount_e8 is None else amount_e8
    if found.rest_e8 == 0:
        raise Refusal("conflict", "nothing is left of this top-up: it was refunded or disputed in full")
    if amount_e8 > found.rest_e8:
        raise field_error("amount_usd", f"only {to_wire(found.rest_e8)} is left of this top-up")
    row_id = wish_id or uuid7()
    await tx.execute(
        "insert into top_up_refund (id, developer_id, top_up_id, amount_e8, reason, asked_by)"
        " values (%s, %s, %s, %s, %s, %s)",
        (row_id, found.developer_id, found.id, amount_e8, reason, asked_by),
    )
    wish = await find_wish(tx, row_id)
    assert wish is not None
    return wish


async def find_wish(tx: Tx, wish_id: UUID) -> RefundWish | None:
    """The wish with this id."""
    async with tx.cursor(row_factory=class_row(RefundWish)) as cursor:
        await cursor.execute(_WISH + " where a.id = %s", (wish_id,))
        return await cursor.fetchone()


async def due_wishes(tx: Tx, *, before: datetime, limit: int) -> list[RefundWish]:
    """Refunds that were asked for before then and that the processor may not know of."""
    async with tx.cursor(row_factory=class_row(RefundWish)) as cursor:
        await cursor.execute(
            _WISH + " where a.status = 'requested' and a.created_at < %s order by a.created_at limit %s",
            (before, limit),
        )
        return await cursor.fetchall()


def may_repeat(wish: RefundWish, now: datetime) -> bool:
    """Whether asking again can't refund twice: the processor keeps an idempotency key for a day."""
    return now - wish.created_at < timedelta(hours=20)


async def mark_failed(tx: Tx, wish: RefundWish, failure: str) -> None:
    """Note that the processor will not refund this."""
    await tx.execute(
        "update top_up_refund set status = 'failed', failure = %s, updated_at = now()"
        " where id = %s and status = 'requested'",
        (failure[:500], wish.id),
    )


async def _mark_sent(tx: Tx, top_up: TopUp, reversal_id: str, wish: object) -> None:
    """Note which of the operator's wishes a refund is, as we told the processor when we asked for it."""
    try:
        wish_id = UUID(str(wish))
    except ValueError:
        return
    await tx.execute(
        """
        update top_up_refund set status = 'sent', reversal_id = %s, failure = null, updated_at = now()
         where id = %s and top_up_id = %s and status <> 'sent'
        """,
        (reversal_id, wish_id, top_up.id),
    )
