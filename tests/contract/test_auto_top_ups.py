"""Saved cards and automatic top-ups: only with consent, under a cap, one at a time, each attempt charged once."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from api_world import ok, refused
from payments_world import (
    GOOD_CARD,
    LATER_DECLINED_CARD,
    Double,
    EndUser,
    PaymentsWorld,
    double,
    open_payments,
    payments,
)

from faucet.kit.clock import Clock

__all__ = ["double", "payments"]
E8 = 100_000_000
WISH = {"threshold_usd": "2.00", "amount_usd": "5.00", "monthly_cap_usd": "12.00", "consent": True}


class At(Clock):
    """A clock that stands still, so long from now."""

    def __init__(self, **ahead: float) -> None:
        self._now = datetime.now(UTC) + timedelta(**ahead)

    def now(self) -> datetime:
        return self._now


def _with_card(payments: PaymentsWorld, card: str = GOOD_CARD, **wish: Any) -> EndUser:
    """Somebody with a saved card and 10.00, who wants to be topped up."""
    who = payments.end_user()
    made = who.checkout("10.00", save_card=True)
    assert payments.double.pay(made["checkout_url"], card).status_code == 303
    payments.double.settled()
    payments.jobs("learn_payments")
    ok(who.http.put("/v1/user/auto-top-up", json=WISH | wish))
    return who


def _autos(who: EndUser) -> list[str]:
    return [top_up["status"] for top_up in who.top_ups() if top_up["kind"] == "auto"]


def test_it_is_asked_for_and_ended_by_its_end_user(payments: PaymentsWorld) -> None:
    """Lost: a charge that nobody agreed to."""
    who = payments.end_user()
    assert ok(who.http.get("/v1/user/auto-top-up")) == {"status": "off"}
    refused(who.http.put("/v1/user/auto-top-up", json=WISH), 409, "conflict")  # no card yet
    who = _with_card(payments)
    shown = ok(who.http.get("/v1/user/auto-top-up"))
    assert shown["status"] == "on" and shown["card"] == {"brand": "visa", "last4": "4242"}
    assert (shown["threshold_usd"], shown["used_this_month_usd"]) == ("2.00000000", "0.00000000")
    wrongs: Any = [{"consent": False}, {"monthly_cap_usd": "4.99"}, {"amount_usd": "5.001"}, {"threshold_usd": "0"}]
    for wrong in (*wrongs, {"threshold_usd": "5.01"}):  # or one payment after the other would be taken
        refused(who.http.put("/v1/user/auto-top-up", json=WISH | wrong), 400, "invalid_request")
    refused(who.http.put("/v1/user/auto-top-up", json={k: v for k, v in WISH.items() if k != "consent"}), 400,
            "invalid_request")  # fmt: skip
    payments.jobs("charge_automatically")
    assert _autos(who) == []  # enough is there
    assert who.http.delete("/v1/user/auto-top-up").status_code == 204
    payments.spend(who, 9 * E8)
    payments.jobs("charge_automatically")
    assert _autos(who) == [] and ok(who.http.get("/v1/user/auto-top-up"))["status"] == "off"
    assert [row["action"] for row in payments.trail("auto_top_up.on")] == ["auto_top_up.on"]


def test_a_low_wallet_is_topped_up_once_and_within_the_cap(payments: PaymentsWorld) -> None:
    """Lost: a card that is charged again and again."""
    who = _with_card(payments)
    payments.spend(who, 850_000_000)
    for _ in range(3):
        payments.jobs()
    assert _autos(who) == ["credited"] and who.balance() == "6.50000000"
    (top_up,) = [t for t in who.top_ups() if t["kind"] == "auto"]
    assert top_up["receipt"]["url"] and "checkout_session_id" not in top_up
    payments.double.settled()
    payments.jobs()
    assert who.balance() == "6.50000000"  # its event was no second payment
    payments.spend(who, 6 * E8)
    payments.jobs()
    assert _autos(who) == ["credited", "credited"] and who.balance() == "5.50000000"
    payments.spend(who, 5 * E8)
    payments.jobs()
    assert _autos(who) == ["credited", "credited"]  # a third would be over the cap of 12.00
    assert ok(who.http.get("/v1/user/auto-top-up"))["used_this_month_usd"] == "10.00000000"
    payments.jobs("charge_automatically", clock=At(days=32))
    assert len(_autos(who)) == 3  # next month
    assert len(payments.double.double.state.all("payment_intent", status="succeeded")) == 4


def test_many_sweeps_at_once_charge_once(payments: PaymentsWorld) -> None:
    """Lost: two jobs' processes that both find the same low wallet."""
    who = _with_card(payments)
    payments.spend(who, 9 * E8)
    threads = [threading.Thread(target=payments.jobs, args=("charge_automatically",)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _autos(who) == ["credited"] and who.balance() == "6.00000000"
    assert len(payments.double.double.state.all("charge")) == 2


@pytest.mark.parametrize("how", ["drop_after", "drop_before"])
def test_an_answer_that_got_lost_charges_once(payments: PaymentsWorld, how: str) -> None:
    """Lost: a second charge because the first one's answer never came."""
    who = _with_card(payments)
    payments.spend(who, 9 * E8)
    payments.double.control("failures", method="POST", path="/v1/payment_intents", how=how)
    payments.double.control("delivery", hold=True)
    payments.jobs("charge_automatically")
    assert _autos(who) == ["pending"] and who.balance() == "1.00000000"
    payments.jobs("charge_automatically")
    assert _autos(who) == ["pending"]  # somebody may still be asking
    payments.jobs("charge_automatically", clock=At(minutes=1))
    assert _autos(who) == ["credited"] and who.balance() == "6.00000000"
    assert len(payments.double.double.state.all("charge", status="succeeded")) == 2


@pytest.mark.parametrize(("how", "end", "charges"), [("drop_after", "credited", 2), ("drop_before", "failed", 1)])
def test_after_a_day_it_looks_instead_of_asking(payments: PaymentsWorld, how: str, end: str, charges: int) -> None:
    """Lost: a second charge, because the processor forgets idempotency keys after a day."""
    who = _with_card(payments)
    payments.spend(who, 9 * E8)
    payments.double.control("failures", method="POST", path="/v1/payment_intents", how=how)
    payments.double.control("delivery", hold=True)
    payments.jobs("charge_automatically")
    ok(who.http.put("/v1/user/auto-top-up", json=WISH | {"threshold_usd": "0.50"}))  # no new attempt afterwards
    payments.jobs("charge_automatically", clock=At(hours=25))
    assert _autos(who) == [end]
    assert len(payments.double.double.state.all("charge", status="succeeded")) == charges


@pytest.mark.parametrize("how", ["drop_after", "drop_before"])
def test_a_card_that_was_changed_meanwhile_is_no_second_charge(payments: PaymentsWorld, how: str) -> None:
    """Lost: the answer gets lost, its owner saves another card, and both are charged, beyond the cap."""
    who = _with_card(payments, monthly_cap_usd="5.00")
    payments.spend(who, 9 * E8)
    payments.double.control("failures", method="POST", path="/v1/payment_intents", how=how)
    payments.jobs("charge_automatically")
    made = who.checkout("0.50", save_card=True)
    assert payments.double.pay(made["checkout_url"], "5555 5555 5555 4444").status_code == 303
    payments.double.settled()
    payments.jobs("learn_payments")
    assert ok(who.http.get("/v1/user/auto-top-up"))["card"]["last4"] == "4444"
    for minutes in (1, 12, 24):
        payments.jobs("charge_automatically", clock=At(minutes=minutes))
    assert _autos(who) == ["credited"] and who.balance() == "6.50000000"
    payments.jobs()
    assert _autos(who) == ["credited"] and who.balance() == "6.50000000"
    assert len(payments.double.double.state.all("charge", status="succeeded")) == 3
    assert ok(who.http.get("/v1/user/auto-top-up"))["status"] == "on"


def test_a_card_that_is_declined_pauses_it(payments: PaymentsWorld) -> None:
    """Lost: a card that is tried for ever."""
    who = _with_card(payments, LATER_DECLINED_CARD)
    payments.spend(who, 9 * E8)
    for minutes in (0, 5, 11, 22, 35, 70, 200):
        payments.jobs("charge_automatically", clock=At(minutes=minutes))
        payments.books.rows(
            "update top_up set updated_at = now() + make_interval(mins => %s) where kind = 'auto' and status = 'failed'"
            " and updated_at < now() + interval '1 minute'",
            minutes,
        )
    assert _autos(who) == ["failed"] * 3 and who.balance() == "1.00000000"
    shown = ok(who.http.get("/v1/user/auto-top-up"))
    assert shown["status"] == "paused" and "declined" in shown["reason"]
    assert len(payments.trail("auto_top_up.paused")) == 1 and len(payments.trail("auto_top_up.failed")) == 3


def test_a_success_that_only_the_event_told_ends_the_count_of_failures(payments: PaymentsWorld) -> None:
    """Lost: who died before noting a success leaves earlier failures standing, and three in all are a pause."""
    who = _with_card(payments, LATER_DECLINED_CARD)
    payments.spend(who, 9 * E8)
    payments.jobs("charge_automatically")
    made = who.checkout("0.50", save_card=True)
    assert payments.double.pay(made["checkout_url"], GOOD_CARD).status_code == 303
    payments.double.settled()
    payments.jobs("learn_payments")
    payments.double.control("failures", method="POST", path="/v1/payment_intents", how="drop_after")
    payments.jobs("charge_automatically", clock=At(minutes=11))
    assert _autos(who) == ["pending", "failed"]
    payments.double.settled()
    payments.jobs("drain_inbox")
    assert _autos(who) == ["credited", "failed"]
    assert payments.books.one("select failures from auto_top_up") == 0


def test_a_card_that_needs_its_owner_pauses_it_at_once(payments: PaymentsWorld) -> None:
    """Lost: attempts that can't succeed."""
    who = _with_card(payments, "4000 0027 6000 3184")
    payments.spend(who, 9 * E8)
    payments.jobs("charge_automatically")
    shown = ok(who.http.get("/v1/user/auto-top-up"))
    assert shown["status"] == "paused" and "authentication_required" in shown["reason"]
    assert _autos(who) == ["failed"]


def test_a_forgotten_card_is_charged_no_more(payments: PaymentsWorld) -> None:
    """Lost: a card that its owner wanted forgotten."""
    who = _with_card(payments)
    assert who.http.delete("/v1/user/auto-top-up?forget_card=true").status_code == 204
    payments.spend(who, 9 * E8)
    payments.jobs("charge_automatically")
    assert _autos(who) == [] and ok(who.http.get("/v1/user/auto-top-up"))["status"] == "off"
    assert all(row["customer"] is None for row in payments.double.double.state.all("payment_method"))
    refused(who.http.put("/v1/user/auto-top-up", json=WISH), 409, "conflict")
    assert who.http.delete("/v1/user/auto-top-up?forget_card=true").status_code == 204


def test_a_frozen_wallet_is_left_alone(payments: PaymentsWorld) -> None:
    """Lost: a card charged for a wallet that can't be spent."""
    who = _with_card(payments)
    payments.spend(who, 9 * E8)
    ok(payments.operator.post(f"/v1/admin/wallets/{who.wallet_id}/freeze", json={"reason": "suspicious"}))
    payments.jobs("charge_automatically")
    assert _autos(who) == []


# ── sessions that may not spend what is paid in ──


@pytest.fixture
def strict(tmp_path: Path, dsn: str, double: Double) -> Any:
    """A world where an app that vouches for nobody mints no sessions for paid money, as in production."""
    with open_payments(tmp_path / "data", dsn, double, OPEN_SESSIONS_SPEND_PAID_MONEY="false") as world:
        yield world


def test_an_open_session_ends_when_money_is_paid_in(strict: PaymentsWorld) -> None:
    """Lost: whoever minted a session for somebody's id, before they paid, spends what they pay."""
    developer = strict.developer()
    app = developer.app()
    who, stranger = strict.end_user(app, "u"), strict.end_user(app, "v")
    ask = {"amount_usd": "5.00", "success_url": "http://localhost/a", "cancel_url": "http://localhost/b"}
    refused(who.http.post("/v1/user/stripe/checkout-sessions", json=ask), 403, "forbidden")
    refused(who.http.put("/v1/user/auto-top-up", json=WISH), 403, "forbidden")
    # Their app begins to vouch, and they pay by a session that was vouched for; the old one still runs.
    strict.books.rows("update app set identity_mode = 'signed' where public_app_id = %s", app["public_app_id"])
    vouched = strict.vouched_session(developer, app, "u")
    assert vouched.wallet_id == who.wallet_id and who.balance() == "0.00000000"
    strict.paid(vouched, "5.00")
    refused(who.http.get("/v1/user/wallet"), 401, "invalid_session")
    assert vouched.balance() == "5.00000000" and stranger.balance() == "0.00000000"
    # And should the app stop vouching, nobody gets another.
    strict.books.rows("update app set identity_mode = 'open' where public_app_id = %s", app["public_app_id"])
    mint = {"public_app_id": app["public_app_id"], "external_user_id": "u"}
    refused(strict.nobody.post("/v1/sessions", json=mint), 403, "forbidden")


def test_a_session_that_is_minted_meanwhile_ends_too(strict: PaymentsWorld) -> None:
    """Lost: a session minted in the very moment in which the money comes."""
    app = strict.developer().app()
    who = strict.end_user(app, "u")
    wallet = strict.books.one("select id from account where public_id = %s", who.wallet_id)
    mint = {"public_app_id": app["public_app_id"], "external_user_id": "u"}
    got: list[Any] = []
    with strict.books.connection.transaction():
        strict.books.rows("select pg_advisory_xact_lock(hashtextextended(%s, 0))", f"wallet:{wallet}")
        thread = threading.Thread(target=lambda: got.append(strict.nobody.post("/v1/sessions", json=mint)))
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()  # it waits for who is paying in
        assert strict.books.transfer(10, strict.books.account("stripe_clearing"), wallet, E8) == 0
    thread.join(10)
    refused(got[0], 403, "forbidden")
