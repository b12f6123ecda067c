"""The Connect part of the Stripe double, through Stripe's own client: as strict as the real one where it matters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import stripe
from payout_world import DAY, Stripe


@pytest.fixture
def double() -> Iterator[Stripe]:
    with Stripe() as running:
        yield running


@pytest.fixture
def client(double: Stripe) -> stripe.StripeClient:
    http = stripe.RequestsClient(timeout=10)
    return stripe.StripeClient("sk_test_x", base_addresses={"api": double.url}, http_client=http)


def _account(double: Stripe, client: stripe.StripeClient, *, ready: bool = True) -> str:
    made = client.v1.accounts.create(params={"type": "express", "capabilities": {"transfers": {"requested": True}}})
    assert made.payouts_enabled is False
    double.control("accounts", account=made.id, ready=ready)
    return made.id


def _refused(call: Any) -> str | None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        call()
    return refused.value.code


def test_transfers_move_what_is_there(double: Stripe, client: stripe.StripeClient) -> None:
    """Lost: a double that pays out money that nobody has."""
    account = _account(double, client)
    double.control("rules", platform_balance_cents=1_000)
    ask: Any = {"amount": 600, "currency": "usd", "destination": account, "transfer_group": "g"}
    first = client.v1.transfers.create(params=ask, options={"idempotency_key": "k"})
    assert client.v1.transfers.create(params=ask, options={"idempotency_key": "k"}).id == first.id
    assert (double.available(), double.available(account)) == (400, 600)
    assert _refused(lambda: client.v1.transfers.create(params=ask)) == "balance_insufficient"
    with pytest.raises(stripe.IdempotencyError):
        client.v1.transfers.create(params=ask | {"amount": 5}, options={"idempotency_key": "k"})
    assert [row.id for row in client.v1.transfers.list(params={"transfer_group": "g"}).data] == [first.id]
    back = client.v1.transfers.reversals.create(first.id, params={"amount": 100})
    assert (back.amount, client.v1.transfers.retrieve(first.id).reversed) == (100, False)
    client.v1.transfers.reversals.create(first.id)
    assert client.v1.transfers.retrieve(first.id).reversed is True
    assert (double.available(), double.available(account)) == (1_000, 0)
    assert _refused(lambda: client.v1.transfers.reversals.create(first.id)) is None
    wrong: Any = {"amount": 5, "currency": "usd", "destination": account, "to": "me"}
    assert _refused(lambda: client.v1.transfers.create(params=wrong)) == "parameter_unknown"
    nobody: Any = ask | {"destination": "acct_none"}
    assert _refused(lambda: client.v1.transfers.create(params=nobody)) == "resource_missing"


def test_a_key_is_remembered_for_a_day(double: Stripe, client: stripe.StripeClient) -> None:
    """Lost: a double that is kinder than Stripe, which forgets."""
    account = _account(double, client)
    ask: Any = {"amount": 600, "currency": "usd", "destination": account}
    first = client.v1.transfers.create(params=ask, options={"idempotency_key": "k"})
    double.control("clock", advance_seconds=DAY - 60)
    assert client.v1.transfers.create(params=ask, options={"idempotency_key": "k"}).id == first.id
    double.control("clock", advance_seconds=120)
    assert client.v1.transfers.create(params=ask, options={"idempotency_key": "k"}).id != first.id


def test_an_account_that_is_not_ready(double: Stripe, client: stripe.StripeClient) -> None:
    """Lost: money goes to an account whose owner nobody knows."""
    account = _account(double, client, ready=False)
    ask: Any = {"amount": 600, "currency": "usd", "destination": account}
    assert _refused(lambda: client.v1.transfers.create(params=ask)) == "insufficient_capabilities_for_transfer"
    pay: Any = {"amount": 5, "currency": "usd"}
    of: Any = {"stripe_account": account}
    assert _refused(lambda: client.v1.payouts.create(params=pay, options=of)) == "payouts_not_allowed"
    assert client.v1.payouts.create(params=pay).status == "pending", "the platform has a bank of its own"


def test_payouts_take_their_time(double: Stripe, client: stripe.StripeClient) -> None:
    """Lost: a payout that is paid as soon as it is asked for, so that nobody tries what comes between."""
    account, other = _account(double, client), _account(double, client)
    of: Any = {"stripe_account": account}
    client.v1.transfers.create(params={"amount": 900, "currency": "usd", "destination": account})
    made = [client.v1.payouts.create(params={"amount": 300, "currency": "usd"}, options=of) for _ in range(3)]
    assert {payout.status for payout in made} == {"pending"} and double.available(account) == 0
    assert client.v1.payouts.cancel(made[0].id, options=of).status == "canceled"
    double.control("payouts", payout=made[1].id, status="failed", failure_code="no_account")
    assert double.available(account) == 600
    assert _refused(lambda: client.v1.payouts.cancel(made[1].id, options=of)) is None
    assert _refused(lambda: client.v1.payouts.retrieve(made[2].id, options={"stripe_account": other})) == (
        "resource_missing"
    )
    double.control("clock", advance_seconds=2 * DAY + 1)
    assert client.v1.payouts.retrieve(made[2].id, options=of).status == "paid"
    kinds = [event["type"] for event in double.events() if event.get("account") == account]
    assert kinds == ["account.updated", *["payout.created"] * 3, "payout.canceled", "payout.failed", "payout.paid"]
