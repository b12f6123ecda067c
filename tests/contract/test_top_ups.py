"""Money in: a person pays on the processor's page, and the wallet is credited once, with what was asked for."""

from __future__ import annotations

import json
import time

import pytest
from api_world import ok, refused
from payments_world import (
    DECLINED_CARD,
    URLS,
    PaymentsWorld,
    double,
    event_of,
    payments,
    signed,
)

__all__ = ["double", "payments"]
E8 = 100_000_000


def test_a_paid_checkout_credits_the_wallet(payments: PaymentsWorld) -> None:
    """Lost: money that was paid and isn't there."""
    who = payments.end_user()
    made = who.checkout("12.34")
    assert set(made) == {"checkout_session_id", "checkout_url", "wallet_id", "amount_usd", "status"}
    assert (made["wallet_id"], made["amount_usd"], made["status"]) == (who.wallet_id, "12.34000000", "pending")
    assert who.balance() == "0.00000000" and who.top_ups()[0]["checkout_url"] == made["checkout_url"]
    page = payments.double.http.get(made["checkout_url"])
    assert page.status_code == 200 and "$12.34" in page.text and "TEST MODE" in page.text
    sent = payments.double.pay(made["checkout_url"])
    assert (sent.status_code, sent.headers["location"]) == (303, URLS["success_url"])
    payments.double.settled()
    assert who.balance() == "12.34000000"
    (top_up,) = who.top_ups()
    assert top_up["status"] == "credited" and top_up["receipt"]["number"].startswith("MF-")
    assert "checkout_url" not in top_up and ok(who.http.get(f"/v1/user/top-ups/{top_up['id']}")) == top_up
    payments.jobs("learn_payments")
    assert who.top_ups()[0]["receipt"]["url"].startswith(payments.double.url)
    fee = 12_34 * 290 // 10_000 + 1 + 30  # 2.9 %, rounded, and thirty cents
    assert payments.account("processor_fees") == -fee * E8 // 100
    assert payments.account("stripe_clearing") == -(12_34 - fee) * E8 // 100
    assert len(payments.trail("top_up.credited")) == 1
    assert ok(payments.operator.get("/v1/admin/reconciliation/ledger"))["findings"] == []


def test_a_declined_card_credits_nothing_and_may_be_tried_again(payments: PaymentsWorld) -> None:
    """Lost: credit for a card that paid nothing; a person who can't correct a typing error."""
    who = payments.end_user()
    made = who.checkout()
    reply = payments.double.pay(made["checkout_url"], DECLINED_CARD)
    assert reply.status_code == 402 and "Your card was declined." in reply.text
    payments.double.settled()
    assert who.balance() == "0.00000000" and who.top_ups()[0]["status"] == "pending"
    payments.double.pay(made["checkout_url"])
    payments.double.settled()
    assert who.balance() == "10.00000000"


def test_the_webhook_says_what_it_did(payments: PaymentsWorld) -> None:
    """Lost: the wire contract's replies."""
    who = payments.end_user()
    made = who.checkout()
    payments.double.control("delivery", hold=True)
    payments.double.pay(made["checkout_url"])
    session = payments.double.object(made["checkout_session_id"])
    event = event_of("checkout.session.completed", session)
    first = ok(payments.send(event))
    assert first["received"] is True and first["topup"]["status"] == "credited"
    assert first["topup"]["amount_usd"] == "10.00000000" and first["topup"]["wallet_id"] == who.wallet_id
    assert first["topup"]["provider_checkout_session_id"] == made["checkout_session_id"]
    for again in (event, event_of("checkout.session.completed", session)):  # the event, and the session, once more
        assert ok(payments.send(again)) == first
    assert who.balance() == "10.00000000"
    for kind in ("customer.created", "invoice.paid"):
        assert ok(payments.send(event_of(kind, {"id": "x"}))) == {"received": True, "ignored": True}
    assert ok(payments.send(event_of("refund.created", {"id": "re_1"}))) == {"received": True, "queued": True}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"amount_total": 1_001}, "paid 10.01000000, asked for 10.00000000"),
        ({"amount_total": 100_000}, "asked for"),
        ({"amount_total": "1000"}, "no whole number"),
        ({"amount_total": True}, "no whole number"),
        ({"amount_total": None}, "no whole number"),
        ({"amount_total": -1_000}, "asked for"),
        ({"currency": "eur"}, "paid in eur"),
        ({"currency": "jpy"}, "paid in jpy"),
        ({"mode": "subscription"}, "no payment"),
        ({"client_reference_id": "01890000-0000-7000-8000-000000000000"}, "another top-up"),
    ],
)
def test_what_doesn_t_match_is_refused(payments: PaymentsWorld, changes: dict[str, object], why: str) -> None:
    """Lost: credit for more than was paid, or in another money."""
    who = payments.end_user()
    made = who.checkout()
    payments.double.control("delivery", hold=True)
    payments.double.pay(made["checkout_url"])
    session = payments.double.object(made["checkout_session_id"]) | changes
    reply = ok(payments.send(event_of("checkout.session.completed", session)))
    assert reply["refused"] is True and why in reply["reason"]
    assert who.balance() == "0.00000000" and who.top_ups()[0]["status"] == "refused"
    assert payments.account("stripe_clearing") == 0
    (row,) = payments.trail("top_up.refused")
    assert why in row["metadata"]["after"]["reason"] and row["actor_scope"] == "stripe"
    (kept,) = ok(payments.operator.get("/v1/admin/stripe/events", params={"outcome": "refused"}))["items"]
    assert why in kept["reason"]


def test_forged_stale_and_truncated_events_are_refused(payments: PaymentsWorld) -> None:
    """Lost: anybody who knows the address credits themselves."""
    who = payments.end_user()
    made = who.checkout()
    payments.double.control("delivery", hold=True)
    payments.double.pay(made["checkout_url"])
    event = event_of("checkout.session.completed", payments.double.object(made["checkout_session_id"]))
    now = int(time.time())
    refused(payments.send(event, secret="whsec_of_somebody_else"), 400, "invalid_request")
    refused(payments.send(event, at=now - 301), 400, "invalid_request")
    body = json.dumps(event).encode()
    for content, headers in (
        (body[:-20], signed(body)),  # cut short
        (body.replace(b"1000", b"9000"), signed(body)),  # changed under way
        (body, {"content-type": "application/json"}),
        (body, {"content-type": "application/json", "stripe-signature": "t=1,v1=00"}),
        (body, {"content-type": "application/json", "stripe-signature": "garbage"}),
        (b"", signed(b"")),
        (b"{}", signed(b"{}")),
        (b"[]", signed(b"[]")),
        (b"\xff\xfe", signed(b"\xff\xfe")),
        (b'{"id": 1}', signed(b'{"id": 1}')),
    ):
        refused(payments.nobody.post("/v1/stripe/webhook", content=content, headers=headers), 400, "invalid_request")
    assert who.balance() == "0.00000000"
    assert payments.books.one("select count(*) from stripe_event") == 0
    assert ok(payments.send(event, at=now - 280))["topup"]["status"] == "credited"


def test_an_idempotency_key_opens_one_page(payments: PaymentsWorld) -> None:
    """Lost: a retry after a lost reply asks the person to pay twice."""
    who = payments.end_user()
    first, again = who.checkout(key="pay-me-once"), who.checkout(key="pay-me-once")
    assert first == again and len(who.top_ups()) == 1
    other = who.http.post(
        "/v1/user/stripe/checkout-sessions",
        json={"amount_usd": "11.00", **URLS},
        headers={"idempotency-key": "pay-me-once"},
    )
    refused(other, 409, "idempotency_conflict")
    assert len(payments.double.double.state.all("checkout.session")) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("amount_usd", "0"), ("amount_usd", "0.00"), ("amount_usd", "1.001"), ("amount_usd", "0.49"),
        ("amount_usd", "1000.01"), ("amount_usd", "-5"), ("amount_usd", 5), ("amount_usd", "1e3"),
        ("success_url", "https://evil.example/paid"), ("success_url", "javascript:alert(1)"),
        ("success_url", "http://localhost:5174@evil.example/"), ("success_url", "http://evil.example\\@localhost/"),
        ("cancel_url", "ftp://localhost/x"), ("cancel_url", "//localhost/x"), ("cancel_url", "http://localhost.evil.example/"),
        ("success_url", "http://[::1"), ("success_url", "http://localhost:99999999/"),
    ],
)  # fmt: skip
def test_what_can_t_be_asked_for_is_refused_by_name(payments: PaymentsWorld, field: str, value: object) -> None:
    """Lost: amounts that no card pays; a page of ours that sends people to anybody's site."""
    who = payments.end_user()
    ask = {"amount_usd": "10.00", **URLS} | {field: value}
    error = refused(who.http.post("/v1/user/stripe/checkout-sessions", json=ask), 400, "invalid_request")
    assert field in error["details"]["fieldErrors"]
    assert who.top_ups() == [] and payments.double.double.state.all("checkout.session") == []


def test_redirects_go_to_the_app_s_own_origins(payments: PaymentsWorld) -> None:
    """Lost: an open redirect under the processor's name."""
    app = payments.developer().app(allowed_origins=["https://shop.example.com"])
    who = payments.end_user(app)
    own = {
        "success_url": "https://shop.example.com/paid?x={CHECKOUT_SESSION_ID}",
        "cancel_url": "https://shop.example.com",
    }
    assert who.checkout(**own)["status"] == "pending"
    for address in ("http://shop.example.com/", "https://shop.example.com:8443/", "http://localhost:5174/paid"):
        ask = {"amount_usd": "10.00", **own, "success_url": address}
        refused(who.http.post("/v1/user/stripe/checkout-sessions", json=ask), 400, "invalid_request")


def test_a_page_that_is_over_expires(payments: PaymentsWorld) -> None:
    """Lost: a list full of pages that nobody can pay on any more."""
    who = payments.end_user()
    who.checkout()
    payments.double.control("clock", advance_seconds=24 * 3_600)
    payments.double.settled()
    (top_up,) = who.top_ups()
    assert top_up["status"] == "expired" and "checkout_url" not in top_up


def test_a_page_that_was_never_noted_ends_without_an_alarm(payments: PaymentsWorld) -> None:
    """Lost: an API that died between opening a page and noting it is an alarm a day later, about money of nobody's."""
    who = payments.end_user()
    made = who.checkout()
    session = payments.double.object(made["checkout_session_id"])
    payments.books.rows("delete from top_up where checkout_session_id = %s", session["id"])
    ended = event_of("checkout.session.expired", session | {"status": "expired"})
    assert ok(payments.send(ended)) == {"received": True, "ignored": True}
    paid = event_of("checkout.session.completed", session | {"status": "complete", "payment_status": "paid"})
    assert ok(payments.send(paid))["refused"] is True  # that money is somebody's, and a person has to look


def test_nobody_sees_another_s_top_ups(payments: PaymentsWorld) -> None:
    """Lost: who paid what, told to anybody."""
    app = payments.developer().app()
    first, second = payments.end_user(app, "a"), payments.end_user(app, "b")
    top_up = payments.paid(first)
    assert second.top_ups() == []
    refused(second.http.get(f"/v1/user/top-ups/{top_up['id']}"), 404, "not_found")


def test_a_developer_sees_their_users_top_ups(payments: PaymentsWorld) -> None:
    """Lost: the developer's overview of what is paid into their apps."""
    developer, stranger = payments.developer(), payments.developer()
    who = payments.end_user(developer.app())
    top_up = payments.paid(who)
    (item,) = ok(developer.http.get("/v1/developer/operations"))["topups"]
    assert item["id"] == top_up["id"] and item["status"] == "credited" and item["owner_scope"] == "end_user"
    assert ok(stranger.http.get("/v1/developer/operations"))["topups"] == []


def test_many_deliveries_at_once_credit_once(payments: PaymentsWorld) -> None:
    """Lost: a wallet credited by every copy of an event that arrives in the same moment."""
    who = payments.end_user()
    payments.double.control("delivery", copies=8)
    payments.paid(who)
    payments.jobs()
    assert who.balance() == "10.00000000" and payments.account("stripe_clearing") > -10 * E8
    assert len(payments.trail("top_up.credited")) == 1
    sent = ok(payments.double.http.get("/_control/deliveries"))["deliveries"]
    copies = [row for row in sent if row["type"] == "checkout.session.completed"]
    assert len(copies) == 8 and {row["status"] for row in copies} == {200}
    assert all('"credited"' in row["answer"] for row in copies)
