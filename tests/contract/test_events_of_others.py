"""Events that are signed and yet not ours to book: another mode's, another account's, or none that makes sense."""

from __future__ import annotations

import json

import pytest
from api_world import Json, ok
from payments_world import PaymentsWorld, double, event_of, payments, signed

__all__ = ["double", "payments"]


def inbox_row(payments: PaymentsWorld, event: Json) -> Json:
    """What the operator's list has of an event."""
    items: list[Json] = ok(payments.operator.get("/v1/admin/stripe/events", params={"type": event["type"]}))["items"]
    return next(row for row in items if row["id"] == event["id"])


@pytest.mark.parametrize(
    ("changes", "why"), [({"livemode": True}, "live mode"), ({"account": "acct_of_a_developer"}, "connected account")]
)
def test_another_mode_s_and_another_account_s_payments_are_refused(
    payments: PaymentsWorld, changes: Json, why: str
) -> None:
    """Lost: a developer pays themselves, at their own account at Stripe, and the platform's wallet is credited."""
    who = payments.end_user()
    session = payments.double.object(who.checkout("10.00")["checkout_session_id"])
    paid = session | {"payment_status": "paid", "status": "complete", "payment_intent": "pi_of_another"}
    event = event_of("checkout.session.completed", paid) | changes
    reply = ok(payments.send(event))
    assert reply["refused"] is True and why in reply["reason"]
    assert why in inbox_row(payments, event)["reason"]
    assert payments.books.rows("select from transfer where code = 10") == []
    (noted,) = payments.trail("stripe_event.refused")
    assert noted["resource_id"] == event["id"] and why in noted["metadata"]["after"]["reason"]
    assert who.top_ups()[0]["status"] == "pending", "it can still be paid"
    found = {each["check"] for each in ok(payments.operator.get("/v1/admin/reconciliation/ledger"))["findings"]}
    assert found == (set() if "account" in changes else {"event_top_up"}), "others' money is no alarm"


def test_what_happens_at_connected_accounts_moves_nothing_here(payments: PaymentsWorld) -> None:
    """Lost: a refund or dispute that a developer has at their own account at Stripe takes from a wallet."""
    who = payments.end_user()
    intent = payments.intent_of(payments.paid(who))
    for kind, about in (
        ("refund.created", {"id": "re_1", "payment_intent": intent, "amount": 500, "currency": "usd"}),
        ("charge.dispute.created", {"id": "dp_1", "payment_intent": intent, "amount": 500, "currency": "usd"}),
    ):
        event = event_of(kind, about) | {"account": "acct_theirs"}
        ok(payments.send(event))
        payments.jobs("drain_inbox")
        row = inbox_row(payments, event)
        assert row["outcome"] == "ignored" and "connected account" in row["reason"]
    assert who.balance() == "10.00000000"


def test_what_is_refused_is_in_the_audit_log(payments: PaymentsWorld) -> None:
    """Lost: money is at Stripe in our name, nothing here is about it, and nobody is told."""
    about = {"id": "cs_never_made", "metadata": {"top_up": "0198a3c2-0000-7000-8000-000000000000"}}
    event = event_of("checkout.session.completed", about | {"status": "complete", "payment_status": "paid"})
    assert "never made" in ok(payments.send(event))["reason"]
    (noted,) = payments.trail("stripe_event.refused")
    assert (noted["resource_id"], noted["metadata"]["after"]["type"]) == (event["id"], event["type"])


@pytest.mark.parametrize("about", [{"id": "cs_\x00"}, {"id": ["cs"]}, {"id": "cs_x", "metadata": {"top_up": {}}}, {}])
def test_what_makes_no_sense_is_kept_and_is_no_fault(payments: PaymentsWorld, about: Json) -> None:
    """Lost: one odd event is a fault of ours at each of Stripe's tries, and a replay stops at it."""
    event = event_of("checkout.session.completed", about | {"status": "complete", "payment_status": "paid"})
    assert payments.send(event).status_code == 200
    assert payments.send(event).status_code == 200, "and again"
    payments.jobs("drain_inbox")
    assert inbox_row(payments, event)["outcome"] != "applied"
    ok(payments.operator.get("/v1/admin/reconciliation/ledger"))


@pytest.mark.parametrize("body", [b'{"amount": NaN, ', b'{"amount": Infinity, '])
def test_what_the_database_can_t_read_is_not_kept(payments: PaymentsWorld, body: bytes) -> None:
    """Lost: one event that is JSON to us and not to PostgreSQL, and the books can't be compared any more."""
    whole = body + json.dumps(event_of("checkout.session.completed", {"id": "cs_1"})).encode()[1:]
    reply = payments.nobody.post("/v1/stripe/webhook", content=whole, headers=signed(whole))
    assert reply.status_code == 400
    wide = json.dumps(event_of("checkout.session.completed", {"id": "cs_1"})).encode("utf-16")
    assert payments.nobody.post("/v1/stripe/webhook", content=wide, headers=signed(wide)).status_code == 400
