"""What Stripe itself lists is compared with the payouts that were sent, over its API, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from books import Books
from past import as_jobs
from payout_world import PayoutWorld, payout_world

from faucet.jobs.reconcile import reconcile_stripe
from faucet.payments.processor import line_of
from faucet.reports.finding import Finding

USD = 100_000_000


@pytest.fixture
def world(dsn: str, books: Books, tmp_path: Path) -> Iterator[PayoutWorld]:
    with payout_world(dsn, books, tmp_path) as world:
        yield world


def compared(world: PayoutWorld) -> list[Finding]:
    """What the nightly comparison finds."""
    line = line_of(world.config)
    assert line is not None
    now = world.clock.now() + timedelta(days=2)
    since = now - timedelta(days=60)
    return as_jobs(world.dsn, lambda c: reconcile_stripe(c, line, since=since, now=now))


def sent(world: PayoutWorld, count: int) -> list[str]:
    """Payouts that were sent."""
    tenants = [world.rich(20) for _ in range(count)]
    world.grow_old()
    payouts = [world.approved(tenant, "10.00") for tenant in tenants]
    world.send()
    world.told()
    return payouts


def test_what_was_sent_is_what_stripe_lists(world: PayoutWorld) -> None:
    """Lost: alarms that mean nothing."""
    sent(world, 2)
    assert compared(world) == []


def test_a_transfer_that_we_did_not_send_is_named(world: PayoutWorld) -> None:
    """Lost: somebody with Stripe's key sends money in our name, or sends a payout a second time."""
    (payout,) = sent(world, 1)
    account = world.stripe.of("transfer")[0]["destination"]
    form = {"amount": "1000", "currency": "usd", "destination": account, "metadata[payout_id]": payout}
    world.stripe.post("transfers", form)
    assert compared(world) == [Finding("stripe_payout", f"payout {payout}", 10 * USD, 20 * USD)]
    stray = world.stripe.post("transfers", form | {"metadata[payout_id]": "none-of-ours", "amount": "700"})
    assert Finding("stripe_transfer", f"transfer {stray['id']} at Stripe", 7 * USD, 0) in compared(world)
    world.stripe.post("transfers", form | {"metadata[payout_id]": ""})  # the platform's own business
    assert len(compared(world)) == 2


def test_a_payout_that_is_not_at_stripe_is_named(world: PayoutWorld) -> None:
    """Lost: a payout that says sent, of which Stripe knows nothing."""
    (payout,) = sent(world, 1)
    assert world.stripe.double is not None
    objects = world.stripe.double.state.objects
    for name in [name for name, row in objects.items() if row["object"] == "transfer"]:
        del objects[name]
    assert compared(world) == [Finding("stripe_payout", f"payout {payout}", 10 * USD, 0)]


def test_a_processor_that_is_away_is_no_difference(world: PayoutWorld) -> None:
    """Lost: an outage of Stripe's is an alarm about money."""
    sent(world, 1)
    world.stripe.fails("GET", "/v1/transfers", "drop_before", times=20)
    assert compared(world) == []
