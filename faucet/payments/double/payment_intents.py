"""Payment intents: the wish to be paid, and the charges that try to make it true."""

from __future__ import annotations

from faucet.payments.double import charges, payment_methods
from faucet.payments.double.params import Flag, Group, Items, Metadata, Shape, Text, Whole
from faucet.payments.double.problem import Problem, card_declined
from faucet.payments.double.routes import PAGE, Call, Route, was_created
from faucet.payments.double.state import Object, State, page_of

AMOUNT_LEAST = 50
"""Cents; Stripe's own minimum."""
_CANCELABLE = ("requires_payment_method", "requires_confirmation", "requires_action")


def made(state: State, *, amount: int, currency: str, **fields: object) -> Object:
    """A new intent. Raises Problem for an amount or currency that can't be taken."""
    if amount < AMOUNT_LEAST:
        raise Problem(400, "Amount must be at least $0.50 usd", code="amount_too_small", param="amount")
    if currency.lower() != "usd":
        raise Problem(400, f"Invalid currency: {currency}. The double takes usd.", param="currency")
    name = state.new_id("pi")
    return state.add(
        {
            "id": name,
            "object": "payment_intent",
            "amount": amount,
            "amount_received": 0,
            "canceled_at": None,
            "cancellation_reason": None,
            "capture_method": "automatic",
            "client_secret": f"{name}_secret_{state.new_id('x')[2:]}",
            "confirmation_method": "automatic",
            "created": state.now(),
            "currency": currency.lower(),
            "customer": None,
            "description": None,
            "last_payment_error": None,
            "latest_charge": None,
            "livemode": False,
            "metadata": {},
            "next_action": None,
            "payment_method": None,
            "payment_method_types": ["card"],
            "receipt_email": None,
            "setup_future_usage": None,
            "statement_descriptor_suffix": None,
            "status": "requires_payment_method",
            "transfer_group": None,
        }
        | {name: value for name, value in fields.items() if value is not None}
    )


def pay(state: State, intent: Object, method: Object, *, off_session: bool = False) -> Object:
    """Charge an intent to a payment method. Raises Problem (402) where its bank says no."""
    tried = charges.charge(state, intent, method, off_session=off_session)
    intent["latest_charge"] = tried["id"]
    if tried["status"] == "failed":
        problem = card_declined(tried["outcome"]["reason"])
        error = problem.body["error"]
        intent["status"] = "requires_payment_method"
        intent["last_payment_error"] = {**error, "charge": tried["id"]}
        state.emit("payment_intent.payment_failed", intent)
        raise card_declined(tried["outcome"]["reason"], dict(intent))
    intent |= {
        "status": "succeeded",
        "amount_received": intent["amount"],
        "payment_method": method["id"],
        "last_payment_error": None,
    }
    if intent["setup_future_usage"] and intent["customer"]:
        payment_methods.attach_to(state, method, intent["customer"])
    state.emit("payment_intent.succeeded", intent)
    return tried


def create(state: State, call: Call) -> Object:
    params = dict(call.params)
    confirm, off_session = params.pop("confirm", False), params.pop("off_session", False)
    params.pop("allowed_payment_method_types", None)
    params.pop("automatic_payment_methods", None)
    name = params.pop("payment_method", None)
    if off_session and not confirm:
        raise Problem(400, "off_session can only be used with confirm=true.", param="off_session")
    if params.get("customer") is not None:
        state.get("customer", params["customer"], param="customer")
    intent = made(state, **params)
    state.emit("payment_intent.created", intent)
    if name is None:
        if confirm:
            raise Problem(400, "You cannot confirm this PaymentIntent because it's missing a payment method.")
        return intent
    method = payment_methods.found(state, name, param="payment_method")
    if method["customer"] is not None and method["customer"] != intent["customer"]:
        raise Problem(400, "The provided PaymentMethod is attached to another customer.", param="payment_method")
    intent["payment_method"] = method["id"]
    intent["status"] = "requires_confirmation"
    if confirm:
        pay(state, intent, method, off_session=off_session)
    return intent


def confirm(state: State, call: Call) -> Object:
    intent = state.get("payment_intent", call.path["id"])
    if intent["status"] not in _CANCELABLE:
        raise Problem(
            400, f"This PaymentIntent's status is {intent['status']}.", code="payment_intent_unexpected_state"
        )
    name = call.params.get("payment_method", intent["payment_method"])
    if name is None:
        raise Problem(400, "You cannot confirm this PaymentIntent because it's missing a payment method.")
    method = payment_methods.found(state, name, param="payment_method")
    pay(state, intent, method, off_session=call.params.get("off_session", False))
    return intent


def cancel(state: State, call: Call) -> Object:
    intent = state.get("payment_intent", call.path["id"])
    if intent["status"] not in _CANCELABLE:
        raise Problem(
            400,
            f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}.",
            code="payment_intent_unexpected_state",
        )
    intent |= {
        "status": "canceled",
        "canceled_at": state.now(),
        "cancellation_reason": call.params.get("cancellation_reason"),
    }
    state.emit("payment_intent.canceled", intent)
    return intent


def retrieve(state: State, call: Call) -> Object:
    return state.get("payment_intent", call.path["id"])


def list_payment_intents(state: State, call: Call) -> Object:
    rows = state.all("payment_intent", customer=call.params.get("customer"))
    return page_of(
        [row for row in rows if was_created(row, call.params.get("created"))], call.params, "/v1/payment_intents"
    )


_CREATE: dict[str, Shape] = {
    "amount": Whole(required=True, least=1),
    "currency": Text(required=True, longest=3),
    "customer": Text(),
    "payment_method": Text(),
    "allowed_payment_method_types": Items(Text(words=("card",))),
    "automatic_payment_methods": Group({"enabled": Flag(required=True), "allow_redirects": Text()}),
    "confirm": Flag(),
    "off_session": Flag(),
    "description": Text(longest=1_000),
    "metadata": Metadata(),
    "receipt_email": Text(),
    "setup_future_usage": Text(words=("off_session", "on_session")),
    "statement_descriptor_suffix": Text(longest=22),
    "transfer_group": Text(),
}
ROUTES = (
    Route("POST", "/v1/payment_intents", create, _CREATE),
    Route("GET", "/v1/payment_intents", list_payment_intents, {**PAGE, "customer": Text()}),
    Route("GET", "/v1/payment_intents/{id}", retrieve, {"client_secret": Text()}),
    Route(
        "POST",
        "/v1/payment_intents/{id}/confirm",
        confirm,
        {"payment_method": Text(), "off_session": Flag(), "return_url": Text()},
    ),
    Route("POST", "/v1/payment_intents/{id}/cancel", cancel, {"cancellation_reason": Text()}),
)
