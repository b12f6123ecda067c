"""Checkout sessions: what a person is asked to pay, until they pay, leave it, or its time is over.

The page that a browser sees is `checkout_page`'s.
"""

from __future__ import annotations

from urllib.parse import quote

from faucet.payments.double import payment_intents, payment_methods
from faucet.payments.double.params import Flag, Group, Items, Metadata, Shape, Text, Whole
from faucet.payments.double.problem import Problem
from faucet.payments.double.routes import PAGE, Call, Route, was_created
from faucet.payments.double.state import Object, State, page_of

LASTS_SECONDS = 24 * 3_600
LASTS_LEAST, LASTS_MOST = 1_800, LASTS_SECONDS
_ADDRESS = r"https?://[^\s]+"


def create(state: State, call: Call) -> Object:
    params = call.params
    items = params["line_items"]
    currency = items[0]["price_data"]["currency"].lower()
    total = sum(item["price_data"]["unit_amount"] * item["quantity"] for item in items)
    if currency != "usd" or any(item["price_data"]["currency"].lower() != currency for item in items):
        raise Problem(400, "The double takes one currency, usd.", param="line_items[0][price_data][currency]")
    if total < payment_intents.AMOUNT_LEAST:
        raise Problem(
            400,
            "The Checkout Session's total amount due must add up to at least $0.50 usd",
            code="amount_too_small",
        )
    now = state.now()
    ends = params.get("expires_at", now + LASTS_SECONDS)
    if not now + LASTS_LEAST - 60 <= ends <= now + LASTS_MOST + 60:
        raise Problem(
            400,
            "The `expires_at` timestamp must be at least 30 minutes and less than 24 hours from Checkout Session"
            " creation.",
            param="expires_at",
        )
    if "customer" in params:
        state.get("customer", params["customer"], param="customer")
        if "customer_email" in params or "customer_creation" in params:
            raise Problem(400, "You may only specify one of these parameters: customer, customer_email.")
    name = state.new_id("cs_test")
    made = state.add(
        {
            "id": name,
            "object": "checkout.session",
            "amount_subtotal": total,
            "amount_total": total,
            "cancel_url": params.get("cancel_url"),
            "client_reference_id": params.get("client_reference_id"),
            "created": now,
            "currency": currency,
            "customer": params.get("customer"),
            "customer_creation": None if "customer" in params else params.get("customer_creation", "if_required"),
            "customer_details": None,
            "customer_email": params.get("customer_email"),
            "expires_at": ends,
            "livemode": False,
            "metadata": params.get("metadata", {}),
            "mode": "payment",
            "payment_intent": None,
            "payment_method_types": ["card"],
            "payment_status": "unpaid",
            "status": "open",
            "success_url": params["success_url"],
            "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
            "ui_mode": "hosted",
            "url": f"{state.base_url}/c/pay/{name}",
        }
    )
    names = ", ".join(item["price_data"]["product_data"]["name"] for item in items)
    state.hidden[f"checkout:{name}"] = {"intent": params.get("payment_intent_data", {}), "names": names}
    return made


def pay(state: State, session: Object, number: str, email: str | None) -> Object:
    """Pay with a card of this number. Raises Problem where the session is over or the card's bank says no."""
    if session["status"] != "open":
        raise Problem(400, f"This Checkout Session is {session['status']}.")
    said = state.hidden[f"checkout:{session['id']}"]["intent"]
    intent = state.objects.get(state.hidden.get(f"checkout-intent:{session['id']}", ""))
    if intent is None:
        intent = payment_intents.made(
            state,
            amount=session["amount_total"],
            currency=session["currency"],
            customer=session["customer"],
            **said,
        )
        state.hidden[f"checkout-intent:{session['id']}"] = intent["id"]
        state.emit("payment_intent.created", intent)
    payment_intents.pay(state, intent, payment_methods.from_number(state, number))
    session |= {
        "payment_intent": intent["id"],
        "payment_status": "paid",
        "status": "complete",
        "customer_details": {"email": email, "name": None, "phone": None, "address": None},
        "url": None,
    }
    state.emit("checkout.session.completed", session)
    return session


def place_after(session: Object, field: str) -> str:
    """Where the browser goes from here, with the session's id where the address asks for it."""
    return str(session[field]).replace("{CHECKOUT_SESSION_ID}", quote(session["id"]))


def expire(state: State, call: Call) -> Object:
    session = state.get("checkout.session", call.path["id"])
    if session["status"] != "open":
        raise Problem(
            400,
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of'
            f" {session['status']}.",
        )
    _end(state, session)
    return session


def _end(state: State, session: Object) -> None:
    session |= {"status": "expired", "url": None}
    state.emit("checkout.session.expired", session)


def tick(state: State) -> None:
    """Sessions whose time is over expire."""
    now = state.now()
    for session in state.all("checkout.session", status="open"):
        if session["expires_at"] <= now:
            _end(state, session)


def retrieve(state: State, call: Call) -> Object:
    return state.get("checkout.session", call.path["id"])


def list_sessions(state: State, call: Call) -> Object:
    params = call.params
    rows = state.all("checkout.session", payment_intent=params.get("payment_intent"), customer=params.get("customer"))
    return page_of([row for row in rows if was_created(row, params.get("created"))], params, "/v1/checkout/sessions")


_PRICE = Group(
    {
        "currency": Text(required=True, longest=3),
        "unit_amount": Whole(required=True),
        "product_data": Group(
            {"name": Text(required=True, longest=250), "description": Text(longest=1_000), "metadata": Metadata()},
            required=True,
        ),
    },
    required=True,
)
_INTENT: dict[str, Shape] = {
    "description": Text(longest=1_000),
    "metadata": Metadata(),
    "receipt_email": Text(),
    "setup_future_usage": Text(words=("off_session", "on_session")),
    "statement_descriptor_suffix": Text(longest=22),
}
_CREATE: dict[str, Shape] = {
    "mode": Text(required=True, words=("payment",)),
    "line_items": Items(
        Group({"price_data": _PRICE, "quantity": Whole(required=True, least=1)}), required=True, most=20
    ),
    "success_url": Text(required=True, pattern=_ADDRESS),
    "cancel_url": Text(pattern=_ADDRESS),
    "client_reference_id": Text(longest=200),
    "customer": Text(),
    "customer_creation": Text(words=("always", "if_required")),
    "customer_email": Text(longest=800),
    "expires_at": Whole(most=1 << 40),
    "locale": Text(longest=10),
    "metadata": Metadata(),
    "payment_intent_data": Group(_INTENT),
    "adaptive_pricing": Group({"enabled": Flag()}),
    "allowed_payment_method_types": Items(Text(words=("card",))),
    "submit_type": Text(words=("auto", "book", "donate", "pay")),
}
ROUTES = (
    Route("POST", "/v1/checkout/sessions", create, _CREATE),
    Route("GET", "/v1/checkout/sessions", list_sessions, {**PAGE, "payment_intent": Text(), "customer": Text()}),
    Route("GET", "/v1/checkout/sessions/{id}", retrieve),
    Route("POST", "/v1/checkout/sessions/{id}/expire", expire),
)
