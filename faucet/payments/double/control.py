"""`/_control/…`: what no real processor offers. Bodies are JSON; for tests, demos and people who try things out.

    POST /_control/webhook     {"url", "secret"}                       events go there from now on
    POST /_control/deliveries  {"events"?: [ids], "copies"?: 1}        send these (or all) now, in order; statuses
    GET  /_control/deliveries                                          what was sent, and what was answered
    POST /_control/delivery    {"hold"?, "copies"?, "delay_seconds"?}  how events are sent from now on
    POST /_control/idle        {"seconds"?: 10}                        wait until no delivery is under way
    POST /_control/failures    {"method", "path", "times"?, "how": "refuse"|"drop_before"|"drop_after"|"delay", …}
    POST /_control/clock       {"advance_seconds"}                     put the double's clock forward
    POST /_control/rules       {"name": whole number, …}               knobs of resources
    POST /_control/reset                                               forget everything but the webhook
    GET  /_control/events                                              the event log, oldest first

and the resources' own, such as /_control/disputes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from faucet.payments.double.problem import Problem
from faucet.payments.double.state import Object, State
from faucet.payments.double.webhooks import Endpoint, Webhooks

HOW = ("refuse", "drop_before", "drop_after", "delay")


@dataclass(slots=True)
class Failure:
    """How the next requests to a path go wrong."""

    method: str
    path: str
    """As in a route: `/v1/transfers`, `/v1/refunds/{id}`."""
    how: str
    times: int = 1
    status: int = 500
    kind: str = "api_error"
    code: str | None = None
    message: str = "An unknown error occurred."
    seconds: float = 0.0


@dataclass(slots=True)
class Knobs:
    """What the control routes turn."""

    state: State
    webhooks: Webhooks
    tick: Callable[[], None]
    """Lets resources notice that time has passed."""
    failures: list[Failure] = field(default_factory=list)

    def failure(self, method: str, path: str) -> Failure | None:
        """The failure that this request meets, used up by one."""
        for failure in self.failures:
            if failure.times > 0 and failure.method == method and failure.path == path:
                failure.times -= 1
                return failure
        return None


ControlAct = Callable[[Knobs, dict[str, Any]], Awaitable[Any]]


async def set_webhook(knobs: Knobs, ask: dict[str, Any]) -> Object:
    url, secret = ask.get("url"), ask.get("secret")
    if not isinstance(url, str) or not isinstance(secret, str) or not url.startswith(("http://", "https://")):
        raise Problem(400, "url and secret are needed")
    knobs.webhooks.endpoints[:] = [Endpoint(url, secret)]
    return {"url": url}


async def deliver(knobs: Knobs, ask: dict[str, Any]) -> Object:
    ids = ask.get("events", [event["id"] for event in knobs.state.events])
    return {"statuses": await knobs.webhooks.deliver(ids, copies=int(ask.get("copies", 1)))}


async def list_deliveries(knobs: Knobs, ask: dict[str, Any]) -> Object:
    return {"deliveries": knobs.webhooks.log}


async def set_delivery(knobs: Knobs, ask: dict[str, Any]) -> Object:
    knobs.webhooks.holding = bool(ask.get("hold", knobs.webhooks.holding))
    knobs.webhooks.copies = int(ask.get("copies", knobs.webhooks.copies))
    knobs.webhooks.delay_seconds = float(ask.get("delay_seconds", knobs.webhooks.delay_seconds))
    return {
        "hold": knobs.webhooks.holding,
        "copies": knobs.webhooks.copies,
        "delay_seconds": knobs.webhooks.delay_seconds,
    }


async def wait_idle(knobs: Knobs, ask: dict[str, Any]) -> Object:
    return {"idle": await knobs.webhooks.idle(seconds=float(ask.get("seconds", 10)))}


async def add_failure(knobs: Knobs, ask: dict[str, Any]) -> Object:
    if ask.get("how") not in HOW:
        raise Problem(400, f"how is one of {', '.join(HOW)}")
    try:
        knobs.failures.append(Failure(**ask))
    except TypeError as error:
        raise Problem(400, f"a failure is method, path, how and more: {error}") from None
    return {"failures": len(knobs.failures)}


async def advance_clock(knobs: Knobs, ask: dict[str, Any]) -> Object:
    knobs.state.clock_offset += int(ask.get("advance_seconds", 0))
    knobs.tick()
    return {"now": knobs.state.now()}


async def set_rules(knobs: Knobs, ask: dict[str, Any]) -> Object:
    knobs.state.rules |= {str(name): int(value) for name, value in ask.items()}
    return dict(knobs.state.rules)


async def reset(knobs: Knobs, ask: dict[str, Any]) -> Object:
    state = knobs.state
    state.objects.clear()
    state.events.clear()
    state.hidden.clear()
    state.rules.clear()
    state.clock_offset = 0
    knobs.failures.clear()
    knobs.webhooks.log.clear()
    return {}


async def list_events(knobs: Knobs, ask: dict[str, Any]) -> Object:
    return {"events": knobs.state.events}


CONTROLS: dict[tuple[str, str], ControlAct] = {
    ("POST", "/_control/webhook"): set_webhook,
    ("POST", "/_control/deliveries"): deliver,
    ("GET", "/_control/deliveries"): list_deliveries,
    ("POST", "/_control/delivery"): set_delivery,
    ("POST", "/_control/idle"): wait_idle,
    ("POST", "/_control/failures"): add_failure,
    ("POST", "/_control/clock"): advance_clock,
    ("POST", "/_control/rules"): set_rules,
    ("POST", "/_control/reset"): reset,
    ("GET", "/_control/events"): list_events,
}
