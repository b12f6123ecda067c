"""The Stripe double by itself: as strict as Stripe, the same reply for the same key, events signed and sent again."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import stripe
from api_world import ok
from payments_world import SECRET, Double, Json, double

from faucet.payments.double.server import StripeDouble

__all__ = ["double"]
KEY = {"authorization": "Bearer sk_test_x"}
SESSION = {
    "mode": "payment",
    "line_items[0][quantity]": "1",
    "line_items[0][price_data][currency]": "usd",
    "line_items[0][price_data][unit_amount]": "1000",
    "line_items[0][price_data][product_data][name]": "Credit",
    "success_url": "https://shop.example/paid?s={CHECKOUT_SESSION_ID}",
    "cancel_url": "https://shop.example/",
}


def _post(double: Double, path: str, form: dict[str, str], **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return double.http.post(path, data=form, headers=KEY | named)


def _error(response: httpx2.Response, status: int) -> Json:
    assert response.status_code == status, response.text
    error: Json = response.json()["error"]
    return error


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"payment_method_types[0]": "card"}, "parameter_unknown", "payment_method_types"),
        ({"line_items[0][colour]": "red"}, "parameter_unknown", "line_items[0][colour]"),
        ({"line_items[0][quantity]": "many"}, "parameter_invalid_integer", "line_items[0][quantity]"),
        ({"line_items[0][price_data][unit_amount]": "10.5"}, "parameter_invalid_integer",
         "line_items[0][price_data][unit_amount]"),
        ({"line_items[0][price_data][unit_amount]": "49"}, "amount_too_small", None),
        ({"mode": "gift"}, None, "mode"),
        ({"success_url": ""}, "parameter_invalid_empty", "success_url"),
        ({"success_url": "nowhere"}, None, "success_url"),
        ({"customer": "cus_none"}, "resource_missing", "customer"),
        ({"expires_at": "1"}, None, "expires_at"),
    ],
)  # fmt: skip
def test_what_stripe_would_refuse_is_refused(
    double: Double, changes: dict[str, str], code: str | None, param: str | None
) -> None:
    """Lost: a mistake that only the real processor finds."""
    error = _error(
        _post(double, "/v1/checkout/sessions", SESSION | changes), 404 if code == "resource_missing" else 400
    )
    assert (error.get("code"), error.get("param")) == (code, param) and error["type"] == "invalid_request_error"


def test_required_routes_and_keys(double: Double) -> None:
    """Lost: calls that go nowhere and look well."""
    rest = {name: value for name, value in SESSION.items() if name != "mode"}
    assert _error(_post(double, "/v1/checkout/sessions", rest), 400)["code"] == "parameter_missing"
    assert "Unrecognized request URL" in _error(_post(double, "/v1/subscriptions", {}), 404)["message"]
    assert _error(double.http.get("/v1/events"), 401)["message"].startswith("You did not provide")
    live = double.http.get("/v1/events", headers={"authorization": "Bearer sk_live_x"})
    assert live.status_code == 401
    assert ok(double.http.get("/v1/events?limit=1", headers=KEY)) == {
        "object": "list", "data": [], "has_more": False, "url": "/v1/events",
    }  # fmt: skip


def test_an_idempotency_key_means_one_thing(double: Double) -> None:
    """Lost: what keeps a repeated call from paying twice."""
    first = _post(double, "/v1/checkout/sessions", SESSION, idempotency_key="k")
    again = _post(double, "/v1/checkout/sessions", SESSION, idempotency_key="k")
    assert first.json() == again.json() and again.headers["idempotent-replayed"] == "true"
    other = _post(double, "/v1/checkout/sessions", SESSION | {"locale": "de"}, idempotency_key="k")
    assert _error(other, 400)["type"] == "idempotency_error"
    assert _post(double, "/v1/checkout/sessions", SESSION, idempotency_key="k2").json()["id"] != first.json()["id"]
    wrong = _post(double, "/v1/checkout/sessions", SESSION | {"mode": "x"}, idempotency_key="k3")
    assert wrong.status_code == 400  # what was never carried out is not kept
    assert _post(double, "/v1/checkout/sessions", SESSION, idempotency_key="k3").status_code == 200


def test_lists_have_pages(double: Double) -> None:
    """Lost: everything after the first page."""
    made = [_post(double, "/v1/customers", {"name": str(n)}).json()["id"] for n in range(5)][::-1]
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = ok(double.http.get("/v1/customers", params={"limit": "2"} | after, headers=KEY))
        seen += [row["id"] for row in page["data"]]
        if not page["has_more"]:
            break
        after = {"starting_after": seen[-1]}
    assert seen == made
    back = ok(double.http.get("/v1/customers", params={"limit": "2", "ending_before": made[3]}, headers=KEY))
    assert [row["id"] for row in back["data"]] == made[1:3]


class Listener:
    """A webhook of somebody's, which refuses the first few."""

    def __init__(self, refuses: int) -> None:
        self.taken: list[tuple[bytes, str]] = []
        self.refuses = refuses
        listener = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def log_message(self, format: str, *words: object) -> None:
                return

        def post(self: Any) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            listener.taken.append((body, self.headers["stripe-signature"]))
            self.send_response(500 if len(listener.taken) <= listener.refuses else 200)
            self.send_header("content-length", "0")
            self.end_headers()

        vars_of = {"do_POST": post}
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("A", (Answer,), vars_of))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener(refuses=2)
    yield listener
    listener.server.shutdown()
    listener.server.server_close()


def test_events_are_signed_and_sent_until_they_are_taken(double: Double, listener: Listener) -> None:
    """Lost: an event, because we were away for a moment."""
    double.control("webhook", url=listener.url, secret=SECRET)
    made = _post(double, "/v1/customers", {"name": "A"}).json()
    double.settled()
    assert len(listener.taken) == 3 and len({body for body, _ in listener.taken}) == 1
    for body, header in listener.taken:
        event = stripe.Webhook.construct_event(body, header, SECRET)
        assert event.type == "customer.created" and event.data.object["id"] == made["id"]
    (logged,) = double.events()
    assert logged["pending_webhooks"] == 0
    sent = ok(double.http.get("/_control/deliveries"))["deliveries"]
    assert [(row["attempt"], row["status"]) for row in sent] == [(1, 500), (2, 500), (3, 200)]


def test_events_come_in_any_order_and_number(double: Double, listener: Listener) -> None:
    """Lost: the disorder that tests are to show."""
    listener.refuses = 0
    double.control("webhook", url=listener.url, secret=SECRET)
    double.control("delivery", hold=True)
    for name in "ABC":
        _post(double, "/v1/customers", {"name": name})
    assert listener.taken == []
    ids = [event["id"] for event in double.events()]
    assert double.control("deliveries", events=ids[::-1], copies=2)["statuses"] == [200] * 6
    assert [json.loads(body)["id"] for body, _ in listener.taken] == [name for name in ids[::-1] for _ in range(2)]


@pytest.mark.parametrize("how", ["drop_before", "drop_after", "refuse"])
def test_failures_on_demand(double: Double, how: str) -> None:
    """Lost: what a broken connection leaves behind."""
    double.control("failures", method="POST", path="/v1/customers", how=how)
    if how == "refuse":
        assert _error(_post(double, "/v1/customers", {}, idempotency_key="k"), 500)["type"] == "api_error"
    else:
        with pytest.raises(httpx2.HTTPError):
            _post(double, "/v1/customers", {}, idempotency_key="k")
    assert len(double.double.state.all("customer")) == (1 if how == "drop_after" else 0)
    assert _post(double, "/v1/customers", {}, idempotency_key="k").status_code == 200
    assert len(double.double.state.all("customer")) == 1


async def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    """Lost: what was paid in a demo, at its next start."""
    file = tmp_path / "double.json"
    async with StripeDouble(kept_in=file) as first, httpx2.AsyncClient(base_url=first.url, headers=KEY) as client:
        made = (await client.post("/v1/customers", data={"name": "A"}, headers={"idempotency-key": "k"})).json()
    async with StripeDouble(kept_in=file) as second, httpx2.AsyncClient(base_url=second.url, headers=KEY) as client:
        assert (await client.get(f"/v1/customers/{made['id']}")).json() == made
        again = await client.post("/v1/customers", data={"name": "A"}, headers={"idempotency-key": "k"})
        assert again.json() == made and len(second.state.events) == 1
