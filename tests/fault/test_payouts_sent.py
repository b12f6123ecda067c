"""Payouts on their way through Stripe, when it refuses, breaks off, forgets, or says things late and in disorder."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from api_world import ok, refused
from books import Books
from payout_world import DAY, USD, PayoutWorld, jobs_pool, payout_world

from faucet.kit.db import tx
from faucet.payments import payout_steps as steps
from faucet.payments import payout_store as store

DESK = "/v1/admin/payouts"


@pytest.fixture
def world(dsn: str, books: Books, tmp_path: Path) -> Iterator[PayoutWorld]:
    with payout_world(dsn, books, tmp_path) as world:
        yield world
        world.check()


def _approved(world: PayoutWorld, usd: int = 20) -> tuple[Any, str]:
    tenant = world.rich(usd)
    world.grow_old()
    return tenant, world.approved(tenant)


def _end(world: PayoutWorld) -> None:
    """Send, look and listen until nothing is left to do, however long that takes."""
    for _ in range(40):
        world.send()
        world.told()
        if not world.books.rows("select 1 from payout where next_attempt_at is not null"):
            return
        world.later(7_200)
    raise AssertionError(world.books.rows("select status, attempts, last_error, next_attempt_at from payout"))


def test_to_the_bank(world: PayoutWorld) -> None:
    """Lost: the whole way of money out."""
    tenant, payout = _approved(world)
    assert world.send() == 2, "a transfer, and a payout to the bank"
    sent = world.payout(payout)
    (transfer,) = world.stripe.of("transfer")
    (bank,) = world.stripe.of("payout")
    assert (sent["status"], sent["provider_transfer_id"], sent["provider_payout_id"]) == (
        "sent", transfer["id"], bank["id"],
    )  # fmt: skip
    assert (transfer["amount"], bank["amount"], transfer["transfer_group"]) == (2_000, 2_000, payout)
    refused(world.alice.post(f"{DESK}/{payout}/cancel"), 409, "conflict")
    refused(world.alice.post(f"{DESK}/{payout}/mark-paid"), 409, "conflict")
    assert world.send() == 0 and world.clearing(tenant) == 20 * USD
    world.later(2 * DAY + 1)
    assert "payout.paid: applied" in world.told()
    paid = world.payout(payout)
    assert (paid["status"], world.clearing(tenant), world.earnings(tenant)) == ("paid", 0, 0)
    assert world.send() == 0
    log = world.books.rows("select action, actor_scope from audit_log where resource_type = 'payout' order by id")
    actions = ("requested", "approved", "sent", "transferred", "at_bank")
    assert [row[0] for row in log] == [f"payout.{action}" for action in actions]


def test_the_word_of_the_bank_never_comes(world: PayoutWorld) -> None:
    """Lost: without webhooks a payout is sent for ever."""
    _, payout = _approved(world)
    world.send()
    world.later(2 * DAY + 1)
    assert world.send() == 1
    assert world.payout(payout)["status"] == "paid"


@pytest.mark.parametrize("path", ["/v1/transfers", "/v1/payouts"])
@pytest.mark.parametrize("how", ["drop_before", "drop_after"])
def test_a_call_breaks_off(world: PayoutWorld, path: str, how: str) -> None:
    """Lost: it is sent again although it was sent, or not at all."""
    tenant, payout = _approved(world)
    world.stripe.fails("POST", path, how, times=3)  # the client itself asks three times
    world.send()
    stuck = world.payout(payout)
    assert stuck["status"] == "sent" and "APIConnectionError" in stuck["last_error"], stuck
    assert world.send() == 0, "not at once again"
    _end(world)
    assert world.payout(payout)["status"] == "paid"
    assert (len(world.stripe.of("transfer")), len(world.stripe.of("payout"))) == (1, 1)
    assert world.stripe.available(world.payout(payout)["provider_account_id"]) == 0


@pytest.mark.parametrize("path", ["/v1/transfers", "/v1/payouts"])
def test_the_key_is_forgotten(world: PayoutWorld, path: str) -> None:
    """Lost: Stripe forgets a key after a day, and the same request is another one then, of other money in the account.

    The two clocks are two weeks apart, so what was made can't be found by its time.
    """
    _, payout = _approved(world)
    account = world.payout(payout)["provider_account_id"]
    world.stripe.post("transfers", {"amount": "9000", "currency": "usd", "destination": account})
    world.stripe.fails("POST", path, "drop_after", times=3)
    world.send()
    world.later(3 * DAY)
    _end(world)
    assert world.payout(payout)["status"] == "paid"
    assert (len(world.stripe.of("transfer")), len(world.stripe.of("payout"))) == (2, 1)


def test_no_money_at_the_processor(world: PayoutWorld) -> None:
    """Lost: a payout that is refused once is refused for ever, because its key keeps the answer."""
    tenant, payout = _approved(world)
    world.stripe.control("rules", platform_balance_cents=100)
    world.send()
    short = world.payout(payout)
    assert short["status"] == "sent" and "insufficient" in short["last_error"]
    world.stripe.control("rules", platform_balance_cents=100_000)
    _end(world)
    assert world.payout(payout)["status"] == "paid"


def test_an_account_that_can_t_be_paid(world: PayoutWorld) -> None:
    """Lost: earnings wait for ever for an account that Stripe has closed."""
    tenant, payout = _approved(world)
    account = world.payout(payout)["provider_account_id"]
    world.stripe.control("accounts", account=account, ready=False)
    world.send()
    failed = world.payout(payout)
    assert failed["status"] == "failed" and "capabilities" in failed["reason"]
    assert (world.earnings(tenant), world.clearing(tenant)) == (20 * USD, 0)
    world.told()
    assert ok(world.developer_of(tenant).post("/v1/developer/payouts", json={}), 201)["provider"] == "manual"


def test_the_bank_refuses(world: PayoutWorld) -> None:
    """Lost: what the bank sent back stays in the developer's account, and is in their earnings too."""
    tenant, payout = _approved(world)
    world.send()
    (bank,) = world.stripe.of("payout")
    world.stripe.control("payouts", payout=bank["id"], status="failed", failure_code="account_closed")
    assert "payout.failed: applied" in world.told()
    assert world.payout(payout)["status"] == "sent", "not before it was taken back"
    world.send()
    failed = world.payout(payout)
    assert (failed["status"], failed["reason"]) == ("failed", "the bank refused it: The bank account has been closed.")
    (transfer,) = world.stripe.of("transfer")
    assert transfer["reversed"] and failed["provider_reversal_id"]
    assert world.stripe.available() == world.stripe.available() == 100_000_000
    assert (world.earnings(tenant), world.clearing(tenant)) == (20 * USD, 0)
    world.told()
    assert world.payout(world.approved(tenant))["status"] == "approved", "it may be tried again, as old as it was"


def test_paid_and_yet_it_comes_back(world: PayoutWorld) -> None:
    """Lost: a bank that sends money back days later, which nobody gets."""
    tenant, payout = _approved(world)
    world.send()
    (bank,) = world.stripe.of("payout")
    world.stripe.control("payouts", payout=bank["id"], status="paid")
    world.told()
    assert world.payout(payout)["status"] == "paid"
    refused(world.alice.post(f"{DESK}/{payout}/fail", json={"reason": "r"}), 409, "conflict")
    world.stripe.control("payouts", payout=bank["id"], status="failed", failure_code="no_account")
    world.told()
    _end(world)
    assert world.payout(payout)["status"] == "failed" and world.earnings(tenant) == 20 * USD
    assert world.books.one("select count(*) from transfer where code = 43") == 1


def test_reversed_on_stripe_s_own_pages(world: PayoutWorld) -> None:
    """Lost: a person takes a transfer back at Stripe, and the earnings are gone."""
    tenant = world.rich(20)
    world.grow_old()
    payout = world.approved(tenant)

    async def transfer_only() -> None:
        async with jobs_pool(world.dsn) as pool:
            async with tx(pool) as t:
                claimed = await steps.claim(t, now=world.clock.now())
            assert claimed is not None
            answer = await steps.ask(world.processor, claimed.after)
            async with tx(pool) as t:
                await steps.note(t, claimed.after, answer, now=world.clock.now())

    asyncio.run(transfer_only())
    (transfer,) = world.stripe.of("transfer")
    world.stripe.control("transfers", transfer=transfer["id"], amount=500)
    assert world.told()[-1] == "transfer.reversed: refused", "a part is for a person to see to"
    assert world.payout(payout)["status"] == "sent"
    world.stripe.control("transfers", transfer=transfer["id"])
    assert world.told()[-1] == "transfer.reversed: applied"
    assert world.payout(payout)["status"] == "failed" and world.earnings(tenant) == 20 * USD
    assert world.send() == 0


def test_an_operator_stops_what_was_sent(world: PayoutWorld) -> None:
    """Lost: money that left by mistake can't be called back while it could."""
    tenant, payout = _approved(world)
    world.send()
    stopping = ok(world.alice.post(f"{DESK}/{payout}/fail", json={"reason": "wrong developer"}))
    assert (stopping["status"], world.payout(payout)["stop_asked_at"] is not None) == ("sent", True)
    world.send()
    failed = world.payout(payout)
    assert (failed["status"], failed["reason"]) == ("failed", "wrong developer")
    assert world.stripe.of("payout")[0]["status"] == "canceled" and world.stripe.of("transfer")[0]["reversed"]
    assert world.earnings(tenant) == 20 * USD


def test_stopping_comes_too_late(world: PayoutWorld) -> None:
    """Lost: earnings come back although the bank has the money."""
    tenant, payout = _approved(world)
    world.send()
    (bank,) = world.stripe.of("payout")
    world.stripe.control("payouts", payout=bank["id"], status="in_transit")
    ok(world.alice.post(f"{DESK}/{payout}/fail", json={"reason": "wrong developer"}))
    world.send()
    assert world.payout(payout)["status"] == "sent"
    world.stripe.control("payouts", payout=bank["id"], status="paid")
    world.told()
    _end(world)
    assert world.payout(payout)["status"] == "paid" and world.earnings(tenant) == 0


def test_stopping_what_nobody_knows_of(world: PayoutWorld) -> None:
    """Lost: a payout whose transfer broke off is failed, and the transfer turns out to be there."""
    tenant, payout = _approved(world)
    world.stripe.fails("POST", "/v1/transfers", "drop_after", times=3)
    world.send()
    ok(world.alice.post(f"{DESK}/{payout}/fail", json={"reason": "stop"}))
    assert world.send() == 0, "not before it is certain what the call did"
    world.later(120)
    _end(world)
    assert world.payout(payout)["status"] == "failed" and world.earnings(tenant) == 20 * USD
    assert [t["reversed"] for t in world.stripe.of("transfer")] == [True]


ORDERS = list(itertools.permutations(range(4)))


@pytest.mark.parametrize("end", ["paid", "failed"])
def test_events_in_any_order(world: PayoutWorld, end: str) -> None:
    """Lost: an event that overtakes another, or comes twice, books twice or never."""
    for order in ORDERS[:: 3 if end == "paid" else 5]:
        tenant, payout = _approved(world)
        world.send()
        bank = world.stripe.of("payout")[-1]
        world.stripe.control("payouts", payout=bank["id"], status="in_transit")
        world.stripe.control("payouts", payout=bank["id"], status=end)
        events = [
            event
            for event in world.stripe.events()
            if payout in (event["data"]["object"].get("metadata") or {}).values()
        ]
        assert len(events) == len(order), [event["type"] for event in events]
        for place in (*order, *order):
            assert {word.split(": ")[1] for word in world.told([events[place]])} == {"applied"}
        world.send()
        assert world.payout(payout)["status"] == end
        assert (world.earnings(tenant), world.clearing(tenant)) == (0 if end == "paid" else 20 * USD, 0)
        world.check()


def test_paid_then_failed_in_any_order(world: PayoutWorld) -> None:
    """Lost: the bank says paid, then failed; who hears it the other way round thinks that it was paid."""
    for swapped in (False, True):
        tenant, payout = _approved(world)
        world.send()
        bank = world.stripe.of("payout")[-1]
        before = len(world.stripe.events())
        world.stripe.control("payouts", payout=bank["id"], status="paid")
        world.stripe.control("payouts", payout=bank["id"], status="failed")
        events = world.stripe.events()[before:]
        world.told(events[::-1] if swapped else events)
        world.send()
        world.told(events[:1])
        assert world.payout(payout)["status"] == "failed" and world.earnings(tenant) == 20 * USD
        world.check()


def test_others_business_at_stripe(world: PayoutWorld) -> None:
    """Lost: a transfer that the platform makes for something else counts as a payout of ours."""
    tenant, payout = _approved(world)
    world.send()
    event = next(e for e in world.stripe.events() if e["type"] == "payout.created")
    about = event["data"]["object"]
    other = event | {"id": "evt_1", "type": "payout.paid", "data": {"object": about | {"status": "paid", "amount": 1}}}
    assert world.told([other]) == ["payout.paid: refused"]
    stranger = event | {"id": "evt_2", "type": "payout.paid", "account": "acct_else"}
    assert world.told([stranger]) == ["payout.paid: refused"]
    none = event | {"id": "evt_3", "data": {"object": about | {"id": "po_else", "metadata": {}}}}
    assert world.told([none]) == ["payout.created: ignored"]
    odd = event | {"id": "evt_4", "data": {"object": about | {"id": "po_else", "metadata": {"payout_id": "x"}}}}
    assert world.told([odd]) == ["payout.created: ignored"]
    assert world.payout(payout)["status"] == "sent"


def test_a_word_that_overtakes_our_own_look(world: PayoutWorld) -> None:
    """Lost: we look, it is paid; it fails and we are told; then we note what we saw before, and nobody looks again."""
    tenant, payout = _approved(world)
    world.send()
    (bank,) = world.stripe.of("payout")
    world.stripe.control("payouts", payout=bank["id"], status="paid")
    world.clock.advance(3_700)

    async def overtaken() -> None:
        async with jobs_pool(world.dsn) as pool:
            async with tx(pool) as t:
                claimed = await steps.claim(t, now=world.clock.now())
            assert claimed is not None
            seen = await steps.ask(world.processor, claimed.after)
            await asyncio.to_thread(world.stripe.control, "payouts", payout=bank["id"], status="failed")
            failed = world.stripe.events()[-1]
            await asyncio.to_thread(world.told, [failed])
            async with tx(pool) as t:
                await steps.note(t, claimed.after, seen, now=world.clock.now())

    asyncio.run(overtaken())
    _end(world)
    assert world.payout(payout)["status"] == "failed" and world.earnings(tenant) == 20 * USD


def test_what_the_database_refuses_of_a_payout(world: PayoutWorld) -> None:
    """Lost: a bug or a stranger at the database turns a payout round, or makes it more."""
    tenant, payout = _approved(world)
    for change in (
        "amount_e8 = amount_e8 + 1000000", "developer_id = gen_random_uuid()", "provider_account_id = 'acct_mine'",
        "requested_by = 'x'", "approved_by = 'x'", "status = 'requested'", "key_number = key_number - 1",
        "status = 'paid', paid_at = now(), ended_at = now()",
    ):  # fmt: skip
        with pytest.raises((psycopg.errors.RestrictViolation, psycopg.errors.CheckViolation)):
            world.books.rows(f"update payout set {change} where id = %s", payout)
    for statement in ("delete from payout", "truncate payout"):
        with pytest.raises(psycopg.errors.RestrictViolation):
            world.books.rows(statement)
    _end(world)
    with pytest.raises(psycopg.errors.RestrictViolation):
        world.books.rows("update payout set provider_transfer_id = 'tr_2' where id = %s", payout)


def test_a_developer_who_is_switched_off_is_not_paid(world: PayoutWorld) -> None:
    """Lost: a fraud is found, the developer switched off, and the jobs pay them all the same."""
    tenant, payout = _approved(world)
    status = f"/v1/developers/{tenant.developer}"
    ok(world.operator.patch(status, json={"status": "disabled"}))
    assert world.send() == 0 and world.payout(payout)["status"] == "approved"
    ok(world.operator.patch(status, json={"status": "active"}))
    assert world.send() == 2 and world.payout(payout)["status"] == "sent"


def test_two_sweeps_at_once(world: PayoutWorld) -> None:
    """Lost: two processes of the jobs send the same payout."""
    tenants = [world.rich(20) for _ in range(6)]
    world.grow_old()
    payouts = [world.approved(tenant) for tenant in tenants]

    async def both() -> None:
        await asyncio.gather(*(asyncio.to_thread(world.send) for _ in range(4)))

    asyncio.run(both())
    assert len(world.stripe.of("transfer")) == len(world.stripe.of("payout")) == 6
    assert {world.payout(payout)["status"] for payout in payouts} == {"sent"}
    world.later(2 * DAY + 1)
    world.told()
    assert {world.payout(payout)["status"] for payout in payouts} == {"paid"}


def test_a_row_that_nobody_asks_for(world: PayoutWorld) -> None:
    """Lost: a payout by hand is sent through Stripe as well."""
    tenant = world.rich(20, account=False)
    world.grow_old()
    world.approved(tenant)
    assert world.send() == 0

    async def page() -> int:
        async with jobs_pool(world.dsn) as pool, tx(pool) as t:
            return len(await store.page(t, store.PayoutFilter(status="approved"), after=None, limit=9))

    assert asyncio.run(page()) == 1
