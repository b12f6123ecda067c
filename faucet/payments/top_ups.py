"""Top-ups: what a person is asked to pay, and that it is credited once, when the processor says that it was paid.

A top-up is credited by an event of the processor's (`on_checkout`, `on_payment`) or by its answer to a charge; whoever
comes first does it, the others find it done. What the processor says is compared with what was asked for, to the cent;
what doesn't match is refused, with nothing booked. Not here: money that goes back (`reversals`), saved cards and
automatic top-ups (`auto_top_ups`), SQL (`store`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, UUID, uuid5

from faucet.kit.db import Tx
from faucet.kit.errors import field_error
from faucet.kit.money import E8_PER_USD, to_wire
from faucet.ledger import moves
from faucet.payments import store, told
from faucet.payments.inbox import Event, Note, Outcome, Verdict
from faucet.payments.processor import Payment
from faucet.payments.store import TopUp

E8_PER_CENT = E8_PER_USD // 100
CURRENCY = "usd"
PENDING_MAX = 20
"""Open checkout pages of one wallet."""
CHECKOUT_SECONDS = 23 * 3_600
ADDRESS_CHARACTERS_MAX = 2_000
_ADDRESS = re.compile(r"https?://[\x21-\x7e]+")
_ENDS = {
    "checkout.session.completed": "complete",
    "checkout.session.async_payment_succeeded": "complete",
    "checkout.session.async_payment_failed": "async_payment_failed",
    "checkout.session.expired": "expired",
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def cents_of(amount_e8: int) -> int:
    """An amount in whole cents. Raises ValueError for one that isn't."""
    cents, rest = divmod(amount_e8, E8_PER_CENT)
    if rest:
        raise ValueError("must be whole cents")
    return cents


def receipt_number_of(top_up_id: UUID, created_at: datetime) -> str:
    """Our own number of a receipt, for where the processor gives none."""
    return f"MF-{created_at.astimezone(UTC):%Y%m}-{top_up_id.hex[-12:].upper()}"


def id_for(end_user_id: UUID, key: str) -> UUID:
    """The id of the top-up that an end user asks for under an Idempotency-Key: the same each time."""
    return uuid5(NAMESPACE_URL, f"modelfaucet:top-up:{end_user_id}:{key}")


def checked_address(field: str, address: str, origins: Sequence[str], *, is_production: bool) -> str:
    """Where the processor may send the browser back to: a page of the app's own origins.

    An app without origins has none; in development, pages of this machine then count as its own. Raises Refusal
    `invalid_request` that names the field.
    """
    if len(address) > ADDRESS_CHARACTERS_MAX or _ADDRESS.fullmatch(address) is None or "\\" in address:
        raise field_error(field, "is not an http or https address")
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise field_error(field, "is not an http or https address") from None
    if not host or parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise field_error(field, "is not an address without a name and password")
    usual = {"http": 80, "https": 443}[parts.scheme]
    shown = f"[{host}]" if ":" in host else host
    origin = f"{parts.scheme}://{shown}" + ("" if port in (None, usual) else f":{port}")
    if origin in origins:
        return address
    if not origins and not is_production and host in _LOOPBACK:
        return address
    raise field_error(field, "must belong to one of the app's allowed_origins")


# ── crediting ──


async def credit(tx: Tx, top_up: TopUp, *, payment_intent_id: str | None) -> bool:
    """Credit a top-up that was paid; False where it had been. Who calls has the wallet to itself.

    Sessions of its end user that may not spend paid money end with it.
    """
    if top_up.status == "credited":
        return False
    memo = f"top-up {top_up.id}, payment {payment_intent_id}"
    await moves.top_up(tx, top_up.wallet_id, top_up.amount_e8, key=f"top-up:{top_up.id}", memo=memo)
    number = receipt_number_of(top_up.id, top_up.created_at)
    await store.mark_credited(tx, top_up.id, payment_intent_id=payment_intent_id, receipt_number=number)
    if top_up.kind == "auto":
        await store.forget_failures(tx, top_up.wallet_id)
    await store.end_unvouched_sessions(tx, top_up.end_user_id)
    await told.of_credit(tx, top_up_id=top_up.id, wallet_id=top_up.wallet_public_id, amount_e8=top_up.amount_e8)
    return True


async def alone(tx: Tx, top_up: TopUp) -> TopUp:
    """The top-up as it is now, with its wallet to ourselves until the tx ends."""
    await moves.one_at_a_time(tx, top_up.wallet_id)
    found = await store.find(tx, top_up.id)
    assert found is not None  # top-ups are never deleted
    return found


async def on_checkout(tx: Tx, event: Event) -> Verdict:
    """Apply `checkout.session.*`: completed and paid, failed, or over."""
    ended = _ENDS.get(event.type)
    if ended is None:
        return Verdict(Outcome.IGNORED, "nothing follows from it")
    return await apply_session(tx, event.about | {"status": ended})


async def apply_session(tx: Tx, session: dict[str, Any]) -> Verdict:
    """Book what a checkout session has come to, whether an event told of it or the processor's answer."""
    found = await store.find_by_session(tx, str(session.get("id")))
    if found is None:
        if _marks(session).get("top_up") is not None:
            if session.get("payment_status") == "unpaid":
                return Verdict(Outcome.IGNORED, "a page that nobody noted and nobody paid on")
            return Verdict(Outcome.REFUSED, "a checkout session that bears our mark and that we never made")
        return Verdict(Outcome.IGNORED, "a checkout session of somebody else's")
    found = await alone(tx, found)
    match session.get("status"):
        case "complete" if session.get("payment_status") == "paid":
            wrong = _session_mismatch(found, session)
            intent = session.get("payment_intent")
            return await _settle(tx, found, intent if isinstance(intent, str) else None, wrong)
        case "complete":
            return Verdict(Outcome.IGNORED, "not paid yet", resource=found.id)
        case "expired":
            return await _close(tx, found, "expired", "nobody paid in time")
        case "async_payment_failed":
            return await _close(tx, found, "failed", "the payment failed")
        case _:
            return Verdict(Outcome.IGNORED, "nothing follows from it", resource=found.id)


async def on_payment(tx: Tx, event: Event) -> Verdict:
    """Apply `payment_intent.*` of automatic top-ups; those of checkout pages are told by their sessions."""
    intent = event.about
    found = await _marked(tx, intent)
    if found is None or found.kind != "auto":
        return Verdict(Outcome.IGNORED, "no automatic top-up's payment")
    found = await alone(tx, found)
    match event.type:
        case "payment_intent.succeeded":
            wrong = _mismatch(found, intent.get("amount_received"), intent.get("currency"))
            return await _settle(tx, found, str(intent.get("id")), wrong)
        case _:
            # What a failed try means is decided by who made it: it may be in the middle of asking again.
            return Verdict(Outcome.IGNORED, "nothing follows from it", resource=found.id)


async def credit_payment(tx: Tx, top_up: TopUp, payment: Payment) -> Verdict:
    """Credit a top-up by the processor's own answer, as an event of it would."""
    found = await alone(tx, top_up)
    wrong = _mismatch(found, payment.amount_cents, payment.currency)
    if wrong is not None:
        return await _refuse(tx, found, wrong)
    fresh = await credit(tx, found, payment_intent_id=payment.intent_id)
    notes = (_credited(found, payment.intent_id),) if fresh else ()
    return Verdict(Outcome.APPLIED, "", found.id, notes)


async def _settle(tx: Tx, top_up: TopUp, intent_id: str | None, wrong: str | None) -> Verdict:
    if wrong is None and top_up.payment_intent_id not in (None, intent_id):
        wrong = "it was paid by another payment before"
    other = None if intent_id is None else await store.find_by_intent(tx, intent_id)
    if wrong is None and other is not None and other.id != top_up.id:
        wrong = "its payment is that of another top-up"
    if wrong is not None:
        return await _refuse(tx, top_up, wrong)
    if not await credit(tx, top_up, payment_intent_id=intent_id):
        return Verdict(Outcome.APPLIED, "credited before", resource=top_up.id)
    return Verdict(Outcome.APPLIED, "", top_up.id, (_credited(top_up, intent_id),))


async def _refuse(tx: Tx, top_up: TopUp, wrong: str) -> Verdict:
    await store.mark(tx, top_up.id, "refused", reason=wrong)
    note = Note(
        action="top_up.refused",
        resource_type="top_up",
        resource_id=str(top_up.id),
        developer_id=top_up.developer_id,
        before={"status": top_up.status},
        after={"reason": wrong},
    )
    return Verdict(Outcome.REFUSED, wrong, top_up.id, (note,))


async def _close(tx: Tx, top_up: TopUp, status: str, reason: str) -> Verdict:
    if not await store.mark(tx, top_up.id, status, reason=reason):
        return Verdict(Outcome.APPLIED, f"it is {top_up.status}", resource=top_up.id)
    return Verdict(Outcome.APPLIED, reason, resource=top_up.id)


def _credited(top_up: TopUp, intent_id: str | None) -> Note:
    return Note(
        action="top_up.credited",
        resource_type="top_up",
        resource_id=str(top_up.id),
        developer_id=top_up.developer_id,
        before={"status": top_up.status},
        after={"amount_usd": to_wire(top_up.amount_e8), "payment": intent_id},
    )


async def _marked(tx: Tx, thing: dict[str, Any]) -> TopUp | None:
    """The top-up whose mark an object of the processor's bears."""
    try:
        return await store.find(tx, UUID(str(_marks(thing).get("top_up"))))
    except ValueError:
        return None


def _marks(thing: dict[str, Any]) -> dict[str, Any]:
    found = thing.get("metadata")
    return found if isinstance(found, dict) else {}


def _session_mismatch(top_up: TopUp, session: dict[str, Any]) -> str | None:
    """What of a paid session isn't what was asked for."""
    if session.get("mode", "payment") != "payment":
        return "the session is no payment"
    said = {session.get("client_reference_id"), _marks(session).get("top_up")} - {None}
    if said - {str(top_up.id)}:
        return "the session is of another top-up"
    return _mismatch(top_up, session.get("amount_total"), session.get("currency"))


def _mismatch(top_up: TopUp, cents: object, currency: object) -> str | None:
    """Whether a paid amount isn't what was asked for, in words."""
    if currency != CURRENCY:
        return f"paid in {str(currency)[:10]}, asked for in {CURRENCY}"
    if not isinstance(cents, int) or isinstance(cents, bool):
        return "the amount is no whole number of cents"
    if cents * E8_PER_CENT != top_up.amount_e8:
        return f"paid {to_wire(cents * E8_PER_CENT)}, asked for {to_wire(top_up.amount_e8)}"
    return None
