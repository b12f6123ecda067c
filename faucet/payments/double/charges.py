"""Charges: one try to take money from a card, its receipt, and what it cost."""

from __future__ import annotations

import html

from faucet.payments.double import movements
from faucet.payments.double.cards import CARDS
from faucet.payments.double.pages import Page, PageRoute
from faucet.payments.double.params import Text
from faucet.payments.double.problem import Problem
from faucet.payments.double.routes import PAGE, Call, Route, was_created
from faucet.payments.double.state import Object, State, dollars, page_of

FEE_BPS, FEE_FIXED = 290, 30
"""What a charge costs, in hundredths of a percent and in cents, unless the rules `fee_bps` and `fee_fixed` differ."""
_REASONS = {"authentication_required": "authentication_required", "expired_card": "expired_card"}


def fee_of(state: State, amount: int) -> int:
    """What the processor keeps of a charge, in cents."""
    return (amount * state.rules.get("fee_bps", FEE_BPS) + 5_000) // 10_000 + state.rules.get("fee_fixed", FEE_FIXED)


def charge(state: State, intent: Object, method: Object, *, off_session: bool) -> Object:
    """Try to take an intent's amount from a card: a charge that succeeded, or one that failed."""
    card = CARDS[state.hidden[f"card:{method['id']}"]]
    decline = card.declines or (card.declines_off_session if off_session else None)
    name = state.new_id("ch")
    made: Object = {
        "id": name,
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": 0 if decline else intent["amount"],
        "amount_refunded": 0,
        "balance_transaction": None,
        "billing_details": method["billing_details"],
        "captured": decline is None,
        "created": state.now(),
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "failure_balance_transaction": None,
        "failure_code": decline and _REASONS.get(decline, "card_declined"),
        "failure_message": decline and "Your card was declined.",
        "livemode": False,
        "metadata": dict(intent["metadata"]),
        "outcome": {
            "network_status": "declined_by_network" if decline else "approved_by_network",
            "reason": decline,
            "risk_level": "normal",
            "seller_message": "The bank did not return any further details." if decline else "Payment complete.",
            "type": "issuer_declined" if decline else "authorized",
        },
        "paid": decline is None,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": {"card": dict(method["card"]), "type": "card"},
        "receipt_email": intent["receipt_email"],
        "receipt_number": None,
        "receipt_url": None if decline else f"{state.base_url}/receipts/{name}",
        "refunded": False,
        "status": "failed" if decline else "succeeded",
        "transfer_group": None,
    }
    state.add(made)
    if decline is None:
        fee = fee_of(state, intent["amount"])
        waits = state.rules.get("available_seconds", movements.AVAILABLE_SECONDS)
        made["balance_transaction"] = movements.record(
            state, "charge", amount=intent["amount"], fee=fee, source=name, waits_seconds=waits
        )["id"]
    state.emit("charge.failed" if decline else "charge.succeeded", made)
    return made


def is_disputed_soon(state: State, method: str) -> bool:
    """Whether a card's owner will deny the charge."""
    return CARDS[state.hidden[f"card:{method}"]].disputed


def named(state: State, params: dict[str, str]) -> Object:
    """The charge that `charge` or `payment_intent` names. Raises Problem."""
    if "charge" in params:
        return state.get("charge", params["charge"], param="charge")
    if "payment_intent" not in params:
        raise Problem(400, "One of the following params should be provided for this request: payment_intent or charge.")
    intent = state.get("payment_intent", params["payment_intent"], param="payment_intent")
    if intent["latest_charge"] is None or intent["status"] != "succeeded":
        raise Problem(
            400,
            f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.",
            code="charge_not_refundable",
        )
    return state.get("charge", intent["latest_charge"])


def retrieve(state: State, call: Call) -> Object:
    return state.get("charge", call.path["id"])


def list_charges(state: State, call: Call) -> Object:
    params = call.params
    found = state.all("charge", payment_intent=params.get("payment_intent"), customer=params.get("customer"))
    return page_of([row for row in found if was_created(row, params.get("created"))], params, "/v1/charges")


def receipt(state: State, call: Call) -> Page:
    """The receipt of a charge, for a browser."""
    found = state.get("charge", call.path["id"])
    card = found["payment_method_details"]["card"]
    refunded = f"<p>Refunded: {dollars(found['amount_refunded'])}</p>" if found["amount_refunded"] else ""
    return Page(
        f"<!doctype html><title>Receipt</title><h1>Receipt</h1><p>{html.escape(found['description'] or 'Payment')}</p>"
        f"<p>Paid: {dollars(found['amount'])} with a card ending in {card['last4']}</p>"
        f"{refunded}<p><small>{found['id']}</small></p>"
    )


ROUTES = (
    Route("GET", "/v1/charges", list_charges, {**PAGE, "payment_intent": Text(), "customer": Text()}),
    Route("GET", "/v1/charges/{id}", retrieve),
)
PAGES = (PageRoute("GET", "/receipts/{id}", receipt),)
