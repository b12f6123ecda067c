"""Top-ups as they really come, by checkout and automatically, and refunds: the reconciliation has nothing to say; and
when the processor's word is lost or is about nothing of ours, it says so.
"""

from __future__ import annotations

from api_world import ok
from past import as_jobs
from payments_world import SECRET, EndUser, PaymentsWorld, double, event_of, payments

from faucet.jobs.reconcile import reconcile_books
from faucet.reports.finding import Finding

__all__ = ["SECRET", "double", "payments"]
E8 = 100_000_000


def found(world: PaymentsWorld) -> list[Finding]:
    return as_jobs(world.api.dsn, lambda c: reconcile_books(c))


def _topped_up(world: PaymentsWorld) -> EndUser:
    """Somebody who paid by checkout, has a saved card, was topped up automatically and got something back."""
    who = world.end_user()
    made = who.checkout("10.00", save_card=True)
    assert world.double.pay(made["checkout_url"]).status_code == 303
    world.double.settled()
    world.jobs("learn_payments")
    wish = {"threshold_usd": "11.00", "amount_usd": "11.00", "monthly_cap_usd": "11.00", "consent": True}
    ok(who.http.put("/v1/user/auto-top-up", json=wish))
    world.jobs("charge_automatically")
    world.double.settled()
    world.jobs()
    assert sorted(top_up["status"] for top_up in who.top_ups()) == ["credited", "credited"]
    first = who.top_ups()[-1]
    ask = {"amount_usd": "2.00", "reason": "paid twice"}
    assert world.operator.post(f"/v1/admin/top-ups/{first['id']}/refunds", json=ask).status_code < 300
    world.jobs()
    world.double.settled()
    world.jobs()
    return who


def test_real_top_ups_have_no_findings(payments: PaymentsWorld) -> None:
    """Lost: alarms that mean nothing, for every person who pays."""
    who = _topped_up(payments)
    assert who.balance() == "19.00000000"
    assert found(payments) == []


def test_a_lost_event_is_found(payments: PaymentsWorld) -> None:
    """Lost: a top-up that was credited though nobody can show that it was paid."""
    top_up = payments.paid(payments.end_user())
    payments.books.rows("delete from stripe_event where type like 'checkout.session.%%'")
    payments.books.rows("update top_up set credited_at = credited_at - interval '2 days'")
    assert found(payments) == [Finding("top_up_event", f"top-up {top_up['id']}", 10 * E8, 0)]


def test_a_payment_that_credited_nothing_is_found(payments: PaymentsWorld) -> None:
    """Lost: a person paid, and got nothing."""
    who = payments.end_user()
    made = who.checkout("10.00")
    assert payments.double.pay(made["checkout_url"]).status_code == 303
    payments.double.settled()
    about = payments.double.object(made["checkout_session_id"]) | {
        "id": "cs_of_nobody",
        "payment_intent": "pi_of_nobody",
    }
    assert payments.send(event_of("checkout.session.completed", about, name="evt_lost")).status_code == 200
    assert found(payments) == [Finding("event_top_up", "event evt_lost", 10 * E8, 0)]
    refund = {"id": "re_1", "object": "refund", "payment_intent": "pi_of_nobody", "amount": 1000, "status": "succeeded"}
    payments.send(event_of("refund.created", refund))
    assert found(payments) == []
