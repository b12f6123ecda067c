"""The same stories through the same adapter: against the double always, and against Stripe's own test mode where
STRIPE_TEST_SECRET_KEY has a key of it (`sk_test_…`). What Stripe tells is fetched, so nothing has to be reachable.

    STRIPE_TEST_SECRET_KEY=sk_test_… python -m pytest tests/contract/test_processor.py
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import stripe
from api_world import ok
from payments_world import URLS, Double, EndUser, Json, PaymentsWorld, double, open_payments

from faucet.kit.ids import uuid7
from faucet.payments.processor import CheckoutAsk, ProcessorConflict, ProcessorRefused, line_of
from faucet.payments.stripe_top_ups import StripeTopUps

__all__ = ["double"]
T = TypeVar("T")
KEY = os.environ.get("STRIPE_TEST_SECRET_KEY", "")
WHERE = ("double", *(("stripe",) if KEY.startswith("sk_test_") else ()))
SECONDS = 90
E8 = 100_000_000
WISH = {"threshold_usd": "2.00", "amount_usd": "5.00", "monthly_cap_usd": "50.00", "consent": True}


class Mode:
    """A world whose processor is the double or Stripe's test mode."""

    def __init__(self, world: PaymentsWorld) -> None:
        self.world = world
        line = line_of(world.api.config)
        assert line is not None
        self.line, self.adapter = line, StripeTopUps(line)

    def asks(self, ask: Callable[[stripe.StripeClient], T]) -> T:
        """What Stripe's client gets, where the port has no call for it."""
        return asyncio.run(self.line.call(ask))

    def with_card(self, card: str) -> EndUser:
        """Somebody with a saved card, who wants an empty wallet to be topped up by it."""
        who = self.world.end_user()
        owner, developer = self.world.books.row(
            "select owner_id, developer_id from account where public_id = %s", who.wallet_id
        ) or (None, None)
        customer = asyncio.run(self.adapter.ensure_customer(owner))
        assert customer == asyncio.run(self.adapter.ensure_customer(owner))
        method = self.asks(lambda client: client.v1.payment_methods.attach(card, {"customer": customer}))
        saved = asyncio.run(self.adapter.card(method.id))
        self.world.books.rows(
            "insert into payment_customer (end_user_id, developer_id, customer_id, payment_method_id, card_brand,"
            " card_last4) values (%s, %s, %s, %s, %s, %s)",
            owner, developer, customer, saved.id, saved.brand, saved.last4,
        )  # fmt: skip
        ok(who.http.put("/v1/user/auto-top-up", json=WISH))
        return who

    def until(self, held: Callable[[], Any]) -> Any:
        """What comes by itself, with the events that tell of it."""
        end = time.monotonic() + SECONDS
        while not (found := held()):
            assert time.monotonic() < end, "it did not come about"
            ok(self.world.operator.post("/v1/admin/stripe/events/replay", json={"hours": 1}))
            time.sleep(0.2)
        return found


@pytest.fixture(params=WHERE)
def mode(request: pytest.FixtureRequest, tmp_path: Path, dsn: str, double: Double) -> Iterator[Mode]:
    settings = {} if request.param == "double" else {"STRIPE_SECRET_KEY": KEY, "STRIPE_API_BASE": ""}
    with open_payments(tmp_path / "data", dsn, double, **settings) as world:
        yield Mode(world)


def _auto(who: EndUser) -> Json:
    return next(top_up for top_up in who.top_ups() if top_up["kind"] == "auto")


@pytest.mark.timeout(300)
def test_a_saved_card_pays_and_is_refunded(mode: Mode) -> None:
    """Lost: a payment that the processor and we remember differently."""
    who, world = mode.with_card("pm_card_visa"), mode.world
    world.jobs("charge_automatically")
    assert _auto(who)["status"] == "credited" and who.balance() == "5.00000000"
    mode.until(lambda: world.jobs("learn_payments") or _auto(who)["receipt"].get("url"))
    fee = ok(world.operator.get(f"/v1/admin/top-ups/{_auto(who)['id']}"))["fee_usd"]
    assert fee > "0.00000000" and world.account("processor_fees") < 0
    path = f"/v1/admin/top-ups/{_auto(who)['id']}/refunds"
    assert ok(world.operator.post(path, json={"amount_usd": "2.00", "reason": "story"}), 201)["status"] == "sent"
    assert who.balance() == "3.00000000"
    kinds = "select count(*) from stripe_event where type = 'refund.created' and outcome = 'applied'"
    mode.until(lambda: world.books.one(kinds))
    assert who.balance() == "3.00000000" and _auto(who)["refunded_usd"] == "2.00000000"
    assert ok(world.operator.post(path, json={"amount_usd": "3.01", "reason": "too much"}, timeout=30), 400)


@pytest.mark.timeout(300)
def test_a_declined_card_pays_nothing(mode: Mode) -> None:
    """Lost: credit without a payment."""
    who = mode.with_card("pm_card_chargeCustomerFail")
    mode.world.jobs("charge_automatically")
    assert _auto(who)["status"] == "failed" and "declined" in _auto(who)["reason"]
    assert who.balance() == "0.00000000"


@pytest.mark.timeout(300)
def test_a_checkout_page_is_opened_once_and_closed(mode: Mode) -> None:
    """Lost: two pages for one wish, or one that can be paid for ever."""
    ask = CheckoutAsk(top_up_id=uuid7(), amount_cents=1_234, lasts_seconds=23 * 3_600, **URLS)
    first, again = (asyncio.run(mode.adapter.open_checkout(ask)) for _ in range(2))
    assert first == again and first.url.startswith("http")
    other = CheckoutAsk(top_up_id=ask.top_up_id, amount_cents=9_999, lasts_seconds=23 * 3_600, **URLS)
    with pytest.raises(ProcessorConflict):
        asyncio.run(mode.adapter.open_checkout(other))
    shown = asyncio.run(mode.adapter.checkout(first.id))
    assert (shown["amount_total"], shown["currency"], shown["status"]) == (1_234, "usd", "open")
    assert shown["metadata"] == {"top_up": str(ask.top_up_id)} and shown["payment_status"] == "unpaid"
    asyncio.run(mode.adapter.close_checkout(first.id))
    assert asyncio.run(mode.adapter.checkout(first.id))["status"] == "expired"
    with pytest.raises(ProcessorRefused):
        asyncio.run(mode.adapter.close_checkout(first.id))
    who = mode.world.end_user()
    made = who.checkout("10.00")
    asyncio.run(mode.adapter.close_checkout(made["checkout_session_id"]))
    mode.until(lambda: who.top_ups()[0]["status"] == "expired")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("evidence", "left"), [("winning_evidence", "5.00000000"), ("losing_evidence", "0.00000000")])
def test_a_dispute_goes_to_its_end(mode: Mode, evidence: str, left: str) -> None:
    """Lost: money that a bank takes, or gives back, without our books."""
    who, world = mode.with_card("pm_card_createDispute"), mode.world
    world.jobs("charge_automatically")
    ok(who.http.delete("/v1/user/auto-top-up"), 204)
    intent = world.intent_of(_auto(who))
    assert who.balance() == "5.00000000"
    mode.until(lambda: who.balance() == "0.00000000")
    found = mode.asks(lambda client: client.v1.disputes.list({"payment_intent": intent})).data[0]
    mode.asks(
        lambda client: client.v1.disputes.update(
            found.id, {"evidence": {"uncategorized_text": evidence}, "submit": True}
        )
    )
    state = "select state from top_up_reversal where id = %s"
    mode.until(lambda: world.books.one(state, found.id) != "gone")
    assert who.balance() == left and world.account("processor_fees") <= -15 * E8
