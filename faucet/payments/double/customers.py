"""Customers."""

from __future__ import annotations

from faucet.payments.double.params import Metadata, Shape, Text
from faucet.payments.double.routes import PAGE, Call, Route, was_created
from faucet.payments.double.state import Object, State, page_of

_FIELDS: dict[str, Shape] = {
    "email": Text(longest=512),
    "name": Text(longest=256),
    "description": Text(),
    "metadata": Metadata(),
}


def create(state: State, call: Call) -> Object:
    made = state.add(
        {
            "id": state.new_id("cus"),
            "object": "customer",
            "balance": 0,
            "created": state.now(),
            "currency": None,
            "default_source": None,
            "delinquent": False,
            "description": call.params.get("description"),
            "email": call.params.get("email"),
            "invoice_settings": {"default_payment_method": None},
            "livemode": False,
            "metadata": call.params.get("metadata", {}),
            "name": call.params.get("name"),
        }
    )
    state.emit("customer.created", made)
    return made


def retrieve(state: State, call: Call) -> Object:
    return state.get("customer", call.path["id"])


def update(state: State, call: Call) -> Object:
    found = state.get("customer", call.path["id"])
    given = dict(call.params)
    found["metadata"] |= given.pop("metadata", {})
    found |= given
    state.emit("customer.updated", found)
    return found


def remove(state: State, call: Call) -> Object:
    found = state.get("customer", call.path["id"])
    for method in state.all("payment_method", customer=found["id"]):
        method["customer"] = None
    del state.objects[found["id"]]
    state.emit("customer.deleted", found)
    return {"id": found["id"], "object": "customer", "deleted": True}


def list_customers(state: State, call: Call) -> Object:
    rows = [
        row
        for row in state.all("customer", email=call.params.get("email"))
        if was_created(row, call.params.get("created"))
    ]
    return page_of(rows, call.params, "/v1/customers")


ROUTES = (
    Route("POST", "/v1/customers", create, _FIELDS),
    Route("GET", "/v1/customers", list_customers, {**PAGE, "email": Text()}),
    Route("GET", "/v1/customers/{id}", retrieve),
    Route("POST", "/v1/customers/{id}", update, _FIELDS),
    Route("DELETE", "/v1/customers/{id}", remove),
)
