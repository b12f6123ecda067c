"""Payment methods: cards, by their test numbers or ready-made names, attached to customers or not."""

from __future__ import annotations

from faucet.payments.double.cards import CARDS, NAMED, number_of
from faucet.payments.double.params import Group, Metadata, Shape, Text, Whole
from faucet.payments.double.problem import Problem, card_declined
from faucet.payments.double.routes import PAGE, Call, Route
from faucet.payments.double.state import Object, State, page_of

_CARD: dict[str, Shape] = {
    "number": Text(required=True, longest=30),
    "exp_month": Whole(required=True, least=1, most=12),
    "exp_year": Whole(required=True, least=2020, most=2100),
    "cvc": Text(longest=4),
    "token": Text(),
}

_PAGE = {name: shape for name, shape in PAGE.items() if name != "created"}


def from_number(state: State, number: str, *, month: int = 12, year: int = 2034) -> Object:
    """A new payment method of a test card."""
    made = state.add(
        {
            "id": state.new_id("pm"),
            "object": "payment_method",
            "billing_details": {"address": None, "email": None, "name": None, "phone": None},
            "card": {
                "brand": CARDS[number].brand,
                "country": "US",
                "exp_month": month,
                "exp_year": year,
                "funding": "credit",
                "last4": number[-4:],
            },
            "created": state.now(),
            "customer": None,
            "livemode": False,
            "metadata": {},
            "type": "card",
        }
    )
    state.hidden[f"card:{made['id']}"] = number
    return made


def found(state: State, name: str, *, param: str) -> Object:
    """The payment method of this id or ready-made name. Raises Problem."""
    if name in NAMED:
        return from_number(state, NAMED[name])
    return state.get("payment_method", name, param=param)


def attach_to(state: State, method: Object, customer: str) -> None:
    """Make a payment method a customer's. Raises Problem where it is another's."""
    if method["customer"] == customer:
        return
    if method["customer"] is not None:
        raise Problem(400, "The payment method you provided has already been attached to a customer.")
    method["customer"] = customer
    state.emit("payment_method.attached", method)


def create(state: State, call: Call) -> Object:
    card = call.params.get("card")
    if card is None:
        raise Problem(400, "Missing required param: card.", param="card", code="parameter_missing")
    made = from_number(state, number_of(card["number"]), month=card["exp_month"], year=card["exp_year"])
    made["metadata"] = call.params.get("metadata", {})
    return made


def attach(state: State, call: Call) -> Object:
    method = found(state, call.path["id"], param="payment_method")
    customer = state.get("customer", call.params["customer"], param="customer")
    decline = CARDS[state.hidden[f"card:{method['id']}"]].declines
    if decline is not None:
        raise card_declined(decline)
    attach_to(state, method, customer["id"])
    return method


def detach(state: State, call: Call) -> Object:
    method = state.get("payment_method", call.path["id"])
    if method["customer"] is None:
        raise Problem(400, "The payment method you provided is not attached to a customer so detachment is impossible.")
    previous = {"customer": method["customer"]}
    method["customer"] = None
    state.emit("payment_method.detached", method, previous=previous)
    return method


def retrieve(state: State, call: Call) -> Object:
    return state.get("payment_method", call.path["id"])


def list_payment_methods(state: State, call: Call) -> Object:
    rows = state.all("payment_method", customer=call.params.get("customer"), type=call.params.get("type"))
    return page_of([row for row in rows if row["customer"] is not None], call.params, "/v1/payment_methods")


ROUTES = (
    Route(
        "POST",
        "/v1/payment_methods",
        create,
        {"type": Text(required=True, words=("card",)), "card": Group(_CARD), "metadata": Metadata()},
    ),
    Route("GET", "/v1/payment_methods", list_payment_methods, {**_PAGE, "customer": Text(), "type": Text()}),
    Route("GET", "/v1/payment_methods/{id}", retrieve),
    Route("POST", "/v1/payment_methods/{id}/attach", attach, {"customer": Text(required=True)}),
    Route("POST", "/v1/payment_methods/{id}/detach", detach),
)
