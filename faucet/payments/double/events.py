"""Events: `GET /v1/events`, `GET /v1/events/{id}`."""

from __future__ import annotations

from faucet.payments.double.params import Flag, Items, Text
from faucet.payments.double.problem import missing
from faucet.payments.double.routes import PAGE, Call, Route, was_created
from faucet.payments.double.state import Object, State, page_of


def retrieve(state: State, call: Call) -> Object:
    name = call.path["id"]
    for event in state.events:
        if event["id"] == name and event.get("account") == call.account:
            return event
    raise missing("event", name)


def list_events(state: State, call: Call) -> Object:
    types = call.params.get("types", [call.params["type"]] if "type" in call.params else None)
    rows = [
        event
        for event in state.events
        if event.get("account") == call.account
        and (types is None or event["type"] in types)
        and was_created(event, call.params.get("created"))
        and (
            "delivery_success" not in call.params or (event["pending_webhooks"] == 0) is call.params["delivery_success"]
        )
    ]
    return page_of(rows, call.params, "/v1/events")


ROUTES = (
    Route(
        "GET", "/v1/events", list_events, {**PAGE, "type": Text(), "types": Items(Text()), "delivery_success": Flag()}
    ),
    Route("GET", "/v1/events/{id}", retrieve),
)
