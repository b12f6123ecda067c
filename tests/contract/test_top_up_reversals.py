"""Money back: refunds and disputes take what is there, the rest is a write-off; what comes back makes it good."""

from __future__ import annotations

import httpx2
import pytest
from api_world import ok, refused
from past import as_jobs
from payments_world import EndUser, Json, PaymentsWorld, double, event_of, payments

from faucet.jobs.reconcile import reconcile_balance
from faucet.payments.double.balance import PLATFORM_CENTS
from faucet.payments.processor import line_of

__all__ = ["double", "payments"]
E8 = 100_000_000
CENT = 1_000_000


def _refund(payments: PaymentsWorld, top_up: Json, amount: str | None, *, key: str | None = None) -> httpx2.Response:
    ask = {"reason": "asked by phone"} | ({} if amount is None else {"amount_usd": amount})
    headers = {} if key is None else {"idempotency-key": key}
    return payments.operator.post(f"/v1/admin/top-ups/{top_up['id']}/refunds", json=ask, headers=headers)


def _books_add_up(payments: PaymentsWorld) -> None:
    """Our clearing account is what the processor owes us, to the cent; and nothing else is wrong either."""
    payments.double.settled()
    payments.jobs()
    theirs = sum(row["net"] for row in payments.double.double.state.all("balance_transaction"))
    assert payments.account("stripe_clearing") == -theirs * CENT
    line = line_of(payments.api.config)
    assert line is not None
    before = PLATFORM_CENTS * CENT
    compared = as_jobs(payments.api.dsn, lambda c: reconcile_balance(c, line, foreign_e8=before, pause_seconds=0))
    assert compared == []
    assert ok(payments.operator.get("/v1/admin/reconciliation/ledger"))["findings"] == []


def _frozen(payments: PaymentsWorld, who: EndUser) -> bool:
    told: bool = ok(who.http.get("/v1/user/wallet"))["frozen"]
    assert told == payments.books.one("select frozen_at is not null from account where public_id = %s", who.wallet_id)
    return told


def test_a_refund_takes_what_is_there_and_writes_the_rest_off(payments: PaymentsWorld) -> None:
    """Lost: a wallet below zero, or a refund that isn't given because it was spent."""
    who = payments.end_user()
    top_up = payments.paid(who)
    payments.spend(who, 7 * E8)
    done = ok(_refund(payments, top_up, "2.00"), 201)
    assert done["status"] == "sent" and done["provider_refund_id"].startswith("re_")
    assert who.balance() == "1.00000000" and not _frozen(payments, who)
    ok(_refund(payments, top_up, None), 201)  # all that is left: eight
    assert who.balance() == "0.00000000" and _frozen(payments, who)
    assert payments.account("write_off") == -7 * E8
    shown = ok(payments.operator.get(f"/v1/admin/top-ups/{top_up['id']}"))
    assert (shown["refunded_usd"], shown["refundable_usd"]) == ("10.00000000", "0.00000000")
    refused(_refund(payments, top_up, "0.01"), 409, "conflict")
    _books_add_up(payments)
    assert len(payments.trail("top_up.refunded")) == 2 and len(payments.trail("top_up.refund_asked")) == 2


def test_more_than_the_rest_is_refused(payments: PaymentsWorld) -> None:
    """Lost: a refund of money that was never paid."""
    who = payments.end_user()
    top_up = payments.paid(who)
    error = refused(_refund(payments, top_up, "10.01"), 400, "invalid_request")
    assert "10.00000000" in error["details"]["fieldErrors"]["amount_usd"][0]
    ok(_refund(payments, top_up, "9.99"), 201)
    refused(_refund(payments, top_up, "0.02"), 400, "invalid_request")
    pending = who.checkout()
    assert pending["status"] == "pending"
    refused(_refund(payments, who.top_ups()[0], "1.00"), 409, "conflict")
    missing = {"id": "01890000-0000-7000-8000-000000000000"}
    refused(_refund(payments, missing, "1.00"), 404, "not_found")


def test_a_refund_is_asked_for_once(payments: PaymentsWorld) -> None:
    """Lost: a second refund by a retried request, or by an answer that got lost."""
    who = payments.end_user()
    top_up = payments.paid(who)
    first = ok(_refund(payments, top_up, "2.00", key="refund-once"), 201)
    again = ok(_refund(payments, top_up, "2.00", key="refund-once"), 201)
    assert again["id"] == first["id"]
    payments.double.control("failures", method="POST", path="/v1/refunds", how="drop_after")
    unsure = ok(_refund(payments, top_up, "3.00"), 201)
    assert unsure["status"] == "requested"
    assert ok(payments.operator.get(f"/v1/admin/top-ups/{top_up['id']}"))["refundable_usd"] == "5.00000000"
    payments.books.rows("update top_up_refund set created_at = created_at - interval '1 minute'")
    payments.jobs("send_refunds")
    _books_add_up(payments)
    assert [row["amount"] for row in payments.double.double.state.all("refund")] == [200, 300]
    assert who.balance() == "5.00000000"
    assert payments.books.one("select count(*) from top_up_refund where status = 'sent'") == 2


def test_a_refund_that_the_processor_refuses_books_nothing(payments: PaymentsWorld) -> None:
    """Lost: money taken from a wallet that never reached a card."""
    who = payments.end_user()
    top_up = payments.paid(who)
    payments.double.control("delivery", hold=True)
    payments.double.control("disputes", payment_intent=payments.intent_of(top_up))  # we don't know of it yet
    failed = ok(_refund(payments, top_up, "2.00"), 201)
    assert failed["status"] == "failed" and "charged back" in failed["failure"]
    assert who.balance() == "10.00000000"
    assert ok(payments.operator.get(f"/v1/admin/top-ups/{top_up['id']}"))["refundable_usd"] == "10.00000000"


def test_a_refund_that_comes_back_is_the_wallet_s_again(payments: PaymentsWorld) -> None:
    """Lost: money that the card's bank sent back to us."""
    who = payments.end_user()
    top_up = payments.paid(who)
    payments.spend(who, 9 * E8)
    refund = ok(_refund(payments, top_up, "4.00"), 201)
    assert who.balance() == "0.00000000" and payments.account("write_off") == -3 * E8
    payments.double.control("refunds/fail", refund=refund["provider_refund_id"])
    _books_add_up(payments)
    assert who.balance() == "1.00000000" and payments.account("write_off") == 0
    assert _frozen(payments, who)  # it stays so until an operator decides


@pytest.mark.parametrize(("verdict", "left", "written_off"), [("lost", "0.00000000", 4), ("won", "6.00000000", 0)])
def test_a_dispute_takes_and_a_won_one_returns(
    payments: PaymentsWorld, verdict: str, left: str, written_off: int
) -> None:
    """Lost: a charge-back that nobody books, or a won one that nobody returns."""
    who = payments.end_user()
    top_up = payments.paid(who)
    payments.spend(who, 4 * E8)
    dispute = payments.double.control("disputes", payment_intent=payments.intent_of(top_up))
    payments.double.settled()
    payments.jobs()
    assert who.balance() == "0.00000000" and payments.account("write_off") == -4 * E8 and _frozen(payments, who)
    assert who.top_ups()[0]["disputed_usd"] == "10.00000000"
    payments.double.control("disputes/close", dispute=dispute["id"], status=verdict)
    _books_add_up(payments)
    assert who.balance() == left and payments.account("write_off") == -written_off * E8
    assert who.top_ups()[0]["disputed_usd"] == ("10.00000000" if verdict == "lost" else "0.00000000")
    assert payments.account("processor_fees") == -(59 + 15_00) * CENT  # the payment's and the dispute's


def test_holds_are_left_alone(payments: PaymentsWorld) -> None:
    """Lost: an answer under way that can't be paid because a refund took what it holds."""
    who = payments.end_user()
    top_up = payments.paid(who)
    payments.books.rows("update account set held_e8 = %s where public_id = %s", 3 * E8, who.wallet_id)
    ok(_refund(payments, top_up, None), 201)
    assert payments.books.row("select posted_e8, held_e8 from account where public_id = %s", who.wallet_id) == (
        3 * E8,
        3 * E8,
    )
    assert payments.account("write_off") == -3 * E8


@pytest.mark.parametrize(
    ("kind", "about", "why"),
    [
        ("refund.created", {"amount": 1_001}, "more than was paid"),
        ("refund.created", {"amount": 0}, "no whole number"),
        ("refund.created", {"amount": "100"}, "no whole number"),
        ("refund.created", {"currency": "eur"}, "in eur"),
        ("charge.dispute.created", {"amount": 1_001, "status": "needs_response"}, "more than was paid"),
        ("charge.dispute.created", {"amount": 100, "currency": "gbp", "status": "needs_response"}, "in gbp"),
    ],
)
def test_impossible_events_book_nothing(payments: PaymentsWorld, kind: str, about: Json, why: str) -> None:
    """Lost: the books, to one wrong event."""
    who = payments.end_user()
    top_up = payments.paid(who)
    thing = {"id": "re_wrong", "amount": 100, "currency": "usd", "status": "succeeded"} | about
    ok(payments.send(event_of(kind, thing | {"payment_intent": payments.intent_of(top_up)})))
    payments.jobs("drain_inbox")
    assert who.balance() == "10.00000000" and not _frozen(payments, who)
    (kept,) = ok(payments.operator.get("/v1/admin/stripe/events", params={"outcome": "refused"}))["items"]
    assert why in kept["reason"]
    action = "top_up.dispute_refused" if "dispute" in kind else "top_up.refund_refused"
    assert why in payments.trail(action)[0]["metadata"]["after"]["reason"]


def test_a_refund_of_more_than_is_left_waits_and_is_then_refused(payments: PaymentsWorld) -> None:
    """Lost: more goes back than was paid in; or an event that nobody could apply, without a trace."""
    who = payments.end_user()
    top_up = payments.paid(who)
    ok(_refund(payments, top_up, "6.00"), 201)
    refund = {"id": "re_more", "amount": 500, "currency": "usd", "status": "succeeded"}
    ok(payments.send(event_of("refund.created", refund | {"payment_intent": payments.intent_of(top_up)})))
    payments.jobs("drain_inbox")
    (kept,) = ok(payments.operator.get("/v1/admin/stripe/events", params={"outcome": "waiting"}))["items"]
    assert "more than is left" in kept["reason"] and who.balance() == "4.00000000"
    payments.books.rows("update stripe_event set received_at = now() - interval '8 days', next_at = now()")
    payments.jobs("drain_inbox")
    (kept,) = ok(payments.operator.get("/v1/admin/stripe/events", params={"outcome": "refused"}))["items"]
    assert "more than is left" in kept["reason"] and who.balance() == "4.00000000" and not _frozen(payments, who)
    (noted,) = payments.trail("stripe_event.given_up")
    assert "more than is left" in noted["metadata"]["after"]["reason"]


def test_what_is_told_too_early_waits(payments: PaymentsWorld) -> None:
    """Lost: a refund that is forgotten because its payment was not known when it came."""
    who = payments.end_user()
    made = who.checkout()
    payments.double.control("delivery", hold=True)
    payments.double.pay(made["checkout_url"])
    intent = payments.double.object(made["checkout_session_id"])["payment_intent"]
    refund = {"id": "re_1", "amount": 400, "currency": "usd", "status": "succeeded", "payment_intent": intent}
    assert ok(payments.send(event_of("refund.created", refund)))["queued"] is True
    payments.jobs("drain_inbox")
    (kept,) = ok(payments.operator.get("/v1/admin/stripe/events", params={"outcome": "waiting"}))["items"]
    assert intent in kept["reason"] and kept["attempts"] == 1
    ok(payments.send(event_of("checkout.session.completed", payments.double.object(made["checkout_session_id"]))))
    assert who.balance() == "10.00000000"
    payments.jobs("drain_inbox")
    assert who.balance() == "6.00000000"


def test_an_operator_lets_a_frozen_wallet_go(payments: PaymentsWorld) -> None:
    """Lost: a wallet that stays frozen for ever, or is let go without a trace."""
    who = payments.end_user()
    top_up = payments.paid(who)
    payments.spend(who, 5 * E8)
    ok(_refund(payments, top_up, None), 201)
    ask = {"amount_usd": "5.00", "success_url": "http://localhost/a", "cancel_url": "http://localhost/b"}
    refused(who.http.post("/v1/user/stripe/checkout-sessions", json=ask), 403, "disabled")
    path = f"/v1/admin/wallets/{who.wallet_id}"
    refused(payments.developer_admin.post(f"{path}/unfreeze", json={"reason": "please"}), 403, "forbidden")
    refused(payments.operator.post(f"{path}/unfreeze", json={}), 400, "invalid_request")
    done = ok(payments.operator.post(f"{path}/unfreeze", json={"reason": "paid by bank transfer"}))
    assert done["frozen"] is False and not _frozen(payments, who)
    (row,) = payments.trail("wallet.unfrozen")
    assert row["metadata"]["after"]["reason"] == "paid by bank transfer"
    ok(payments.operator.post(f"{path}/unfreeze", json={"reason": "again"}))
    assert len(payments.trail("wallet.unfrozen")) == 1
    assert ok(payments.operator.post(f"{path}/freeze", json={"reason": "suspicious"}))["frozen"] is True


def test_lost_events_are_fetched_again(payments: PaymentsWorld) -> None:
    """Lost: money that was paid while our webhook was away for longer than the processor tries."""
    who = payments.end_user()
    made = who.checkout()
    payments.double.control("delivery", hold=True)
    payments.double.pay(made["checkout_url"])
    intent = payments.double.object(made["checkout_session_id"])["payment_intent"]
    payments.double.control("disputes", payment_intent=intent)
    assert who.balance() == "0.00000000"
    done = ok(payments.operator.post("/v1/admin/stripe/events/replay", json={"hours": 1}))
    assert (done["stored"], done["applied"]) == (5, 3)  # nothing follows from the payment's own two
    assert done["waiting"] == done["refused"] == 0
    assert who.top_ups()[0]["status"] == "credited" and who.balance() == "0.00000000"
    again = ok(payments.operator.post("/v1/admin/stripe/events/replay", json={"hours": 1}))
    assert again["stored"] == 0
    refused(
        payments.operator.post("/v1/admin/stripe/events/replay", json={"event_ids": ["evt_none"]}), 404, "not_found"
    )
