"""What the ledger says is at Stripe is Stripe's own balance: paid in, less what left, by hand or to our bank."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_world import Json, ok
from books import Books
from past import as_jobs
from payout_world import USD, PayoutWorld, apply_events, payout_world

from faucet.jobs.reconcile import reconcile_balance
from faucet.payments.double.balance import PLATFORM_CENTS
from faucet.payments.processor import line_of
from faucet.reports.finding import Finding

BEFORE = PLATFORM_CENTS * 1_000_000
"""What the double has before anybody pays in, in e8."""
CENT = 1_000_000


@pytest.fixture
def world(dsn: str, books: Books, tmp_path: Path) -> Iterator[PayoutWorld]:
    with payout_world(dsn, books, tmp_path) as world:
        yield world
        world.check()


def compared(world: PayoutWorld) -> list[Finding]:
    """What the comparison with Stripe's balance finds."""
    line = line_of(world.config)
    assert line is not None
    return as_jobs(world.dsn, lambda c: reconcile_balance(c, line, foreign_e8=BEFORE, pause_seconds=0))


def posted(world: PayoutWorld, kind: str) -> int:
    """The balance of an account of the platform's."""
    return world.books.posted(world.books.account(kind))


def collected(world: PayoutWorld, cents: int) -> Json:
    """Stripe pays from its balance to our own bank, as it does each day."""
    return world.stripe.post("payouts", {"amount": str(cents), "currency": "usd"})


def test_a_payout_by_hand_leaves_the_bank(world: PayoutWorld) -> None:
    """Lost: what somebody pays from our bank looks as if it had left Stripe, and the two never agree again."""
    tenant = world.rich(30, account=False)
    world.grow_old()
    payout_id = world.approved(tenant, "10.00")
    ok(world.alice.post(f"/v1/admin/payouts/{payout_id}/mark-paid"))
    assert (posted(world, "bank"), posted(world, "stripe_clearing")) == (10 * USD, 0)
    assert compared(world) == []
    ok(world.alice.post(f"/v1/admin/payouts/{payout_id}/fail", json={"reason": "it came back"}))
    assert (posted(world, "bank"), posted(world, "stripe_clearing")) == (0, 0)
    assert world.earnings(tenant) == 30 * USD and compared(world) == []


def test_clearing_is_stripe_s_balance_through_a_payout(world: PayoutWorld) -> None:
    """Lost: nobody can say whether money is missing at Stripe."""
    tenant = world.rich(30)
    world.grow_old()
    world.approved(tenant, "10.00")
    for step in (world.send, world.told, world.send, world.told):
        step()
        assert compared(world) == [], "at every step"
    (bank,) = world.stripe.of("payout")
    world.stripe.control("payouts", payout=bank["id"], status="paid")
    world.told()
    assert posted(world, "stripe_clearing") == 10 * USD and compared(world) == []


def test_what_stripe_pays_to_our_bank_is_collected(world: PayoutWorld) -> None:
    """Lost: each day's payout to our own bank is a difference that nobody can explain."""
    made = collected(world, 12_34)
    assert compared(world) == [Finding("stripe_balance", "the balance at Stripe", BEFORE - 1234 * CENT, BEFORE)]
    assert world.told() == ["payout.created: applied"]
    assert (posted(world, "stripe_clearing"), posted(world, "bank")) == (1234 * CENT, -1234 * CENT)
    assert compared(world) == []
    world.stripe.control("payouts", payout=made["id"], status="paid")
    assert world.told() == ["payout.paid: applied"]
    assert posted(world, "stripe_clearing") == 1234 * CENT and compared(world) == []
    world.stripe.control("payouts", payout=made["id"], status="failed")
    assert world.told() == ["payout.failed: applied"]
    assert (posted(world, "stripe_clearing"), posted(world, "bank")) == (0, 0)
    assert compared(world) == []
    codes = world.books.rows("select code, amount_e8, key from transfer where code >= 50 order by code")
    assert codes == [(50, 1234 * CENT, f"collect:{made['id']}"), (52, 1234 * CENT, f"collect:{made['id']}:returned")]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_in_any_order_and_more_than_once(world: PayoutWorld, order: tuple[int, ...]) -> None:
    """Lost: a payout to our bank that failed is collected, or given back twice."""
    made = collected(world, 500)
    for status in ("in_transit", "failed"):
        world.stripe.control("payouts", payout=made["id"], status=status)
    events = world.stripe.events()
    told = [events[at] for at in (*order, *order)]
    apply = [event | {"id": f"{event['id']}_{i}"} for i, event in enumerate(told)]
    world.applied |= {event["id"] for event in events}
    apply_events_outcomes(world, apply)
    assert (posted(world, "stripe_clearing"), posted(world, "bank")) == (0, 0)
    assert world.books.one("select count(*) from transfer where code in (50, 52)") == 2


def apply_events_outcomes(world: PayoutWorld, events: list[Json]) -> None:
    """Apply these, each of which must be."""
    outcomes = asyncio.run(apply_events(world.dsn, world.clock, events))
    assert {each.partition(": ")[2] for each in outcomes} == {"applied"}


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({"currency": "eur"}, "ignored"),
        ({"amount": "12"}, "refused"),
        ({"amount": 0}, "refused"),
        ({"amount": True}, "refused"),
        ({"amount": 2**63}, "refused"),
    ],
)
def test_what_is_no_payout_of_dollars_collects_nothing(world: PayoutWorld, changes: Json, end: str) -> None:
    """Lost: an odd event moves the bank's balance."""
    collected(world, 500)
    (event,) = world.stripe.events()
    event["data"]["object"] |= changes
    assert world.told([event]) == [f"payout.created: {end}"]
    assert (posted(world, "stripe_clearing"), posted(world, "bank")) == (0, 0)


def test_another_amount_than_was_told_before_is_refused(world: PayoutWorld) -> None:
    """Lost: an event that contradicts another is tried for ever, and nobody is told."""
    collected(world, 500)
    (event,) = world.stripe.events()
    assert world.told([event]) == ["payout.created: applied"]
    about = event["data"]["object"] | {"amount": 600, "status": "failed"}
    assert world.told([event | {"id": "evt_else", "type": "payout.failed", "data": {"object": about}}]) == [
        "payout.failed: refused"
    ]
    assert (posted(world, "stripe_clearing"), posted(world, "bank")) == (5 * USD, -5 * USD)


def test_what_stripe_takes_from_our_bank_is_given(world: PayoutWorld) -> None:
    """Lost: Stripe draws what its balance lacks from our bank, and it looks like money out."""
    collected(world, 500)
    (event,) = world.stripe.events()
    event["data"]["object"]["amount"] = -500
    assert world.told([event]) == ["payout.created: applied"]
    assert (posted(world, "stripe_clearing"), posted(world, "bank")) == (-5 * USD, 5 * USD)
