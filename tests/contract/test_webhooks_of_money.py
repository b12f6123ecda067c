"""Developers are told of money that crosses the border: top-ups, payouts at every step, wallets that are frozen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_world import Json, ok
from books import Books
from payments_world import PaymentsWorld, double, event_of, payments
from payout_world import DAY, PayoutWorld, payout_world

__all__ = ["double", "payments"]

EVENTS = "/v1/developer/webhook-events"


@pytest.fixture
def world(dsn: str, books: Books, tmp_path: Path) -> Iterator[PayoutWorld]:
    with payout_world(dsn, books, tmp_path) as world:
        yield world
        world.check()


def told(http: Any, kind: str) -> list[Json]:
    """What was told of this kind, oldest first."""
    return [
        row["data"] for row in ok(http.get(EVENTS, params={"limit": 100}))["items"] if row["type"].startswith(kind)
    ][::-1]


def test_a_top_up_is_told_once(payments: PaymentsWorld) -> None:
    """Lost: a developer's server that unlocks what was paid for; or unlocks it twice."""
    app = payments.developer().app()
    who = payments.end_user(app)
    top_up = payments.paid(who, "12.34")
    session = payments.double.object(
        payments.books.one("select checkout_session_id from top_up where id = %s", top_up["id"])
    )
    ok(payments.send(event_of("checkout.session.completed", session)))
    (event,) = told(payments.operator, "topup.credited")
    end_user_id = ok(who.http.get("/v1/user/wallet"))["owner_id"]
    assert event == {
        "topup_id": top_up["id"], "wallet_id": who.wallet_id, "end_user_id": end_user_id,
        "public_app_id": app["public_app_id"], "amount_usd": "12.34000000", "balance_usd": "12.34000000",
    }  # fmt: skip


def test_what_was_refused_is_not_told(payments: PaymentsWorld) -> None:
    """Lost: an event of a payment that doesn't match what was asked for."""
    who = payments.end_user()
    made = who.checkout()
    payments.double.control("delivery", hold=True)
    payments.double.pay(made["checkout_url"])
    session = payments.double.object(made["checkout_session_id"]) | {"amount_total": 1}
    assert ok(payments.send(event_of("checkout.session.completed", session)))["refused"] is True
    assert told(payments.operator, "topup") == []


def test_a_wallet_that_is_frozen_is_told(payments: PaymentsWorld) -> None:
    """Lost: an end user who can't spend, and a developer who doesn't know why."""
    who = payments.end_user()
    top_up = payments.paid(who)
    payments.spend(who, 400_000_000)
    body = {"amount_usd": "10.00", "reason": "asked for"}
    ok(payments.operator.post(f"/v1/admin/top-ups/{top_up['id']}/refunds", json=body), 201)
    payments.double.settled()
    payments.jobs()
    (event,) = told(payments.operator, "wallet.frozen")
    assert (event["wallet_id"], event["reason"], event["balance_usd"]) == (who.wallet_id, "refund", "0.00000000")
    path = f"/v1/admin/wallets/{who.wallet_id}"
    ok(payments.operator.post(f"{path}/unfreeze", json={"reason": "settled"}))
    for _ in range(2):
        ok(payments.operator.post(f"{path}/freeze", json={"reason": "again"}))
    assert [event["reason"] for event in told(payments.operator, "wallet.frozen")] == ["refund", "operator"]


def test_every_step_of_a_payout_is_told(world: PayoutWorld) -> None:
    """Lost: a developer asks for their payout day by day."""
    tenant = world.rich(30)
    world.grow_old()
    payout = world.approved(tenant, "20.00")
    while world.send():
        pass
    world.later(2 * DAY + 1)
    world.told()
    assert told(world.operator, "payout.") == [
        {"payout_id": payout, "amount_usd": "20.00000000", "status": status}
        for status in ("requested", "approved", "sent", "paid")
    ]


def test_a_payout_that_comes_to_nothing_is_told(world: PayoutWorld) -> None:
    """Lost: a developer waits for money that is theirs again."""
    tenant = world.rich(30, account=False)
    world.grow_old()
    called_off, failed = world.requested(tenant, "10.00"), world.approved(tenant, "5.00")
    ok(world.bob.post(f"/v1/admin/payouts/{called_off}/cancel"))
    ok(world.bob.post(f"/v1/admin/payouts/{failed}/fail", json={"reason": "the bank said no"}))
    assert [(row["payout_id"], row["status"]) for row in told(world.operator, "payout.")] == [
        (called_off, "requested"), (failed, "requested"), (failed, "approved"), (called_off, "cancelled"),
        (failed, "failed"),
    ]  # fmt: skip
