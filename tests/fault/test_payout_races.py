"""Everybody at one developer's earnings at once: nothing goes below zero, nothing is set apart twice, one wins each."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import psycopg
import pytest
from api_world import bearer
from books import Books, Settlement
from payout_world import ALICE, BOB, DAY, USD, PayoutWorld, payout_world

ASK, DESK = "/v1/developer/payouts", "/v1/admin/payouts"
MANY = 200

Call = Callable[[httpx2.Client], httpx2.Response]


@pytest.fixture
def world(dsn: str, books: Books, tmp_path: Path) -> Iterator[PayoutWorld]:
    with payout_world(dsn, books, tmp_path, PAYOUT_DAILY_MAX_USD="0") as world:
        yield world
        world.check()


def _at_once(world: PayoutWorld, calls: list[Call], *, threads: int = 40) -> list[httpx2.Response]:
    """What each call gets, in the calls' order; as many at a time as there are threads."""
    replies: dict[int, httpx2.Response] = {}
    waiting, lock, gate = list(range(len(calls))), threading.Lock(), threading.Barrier(threads)

    def run() -> None:
        with httpx2.Client(base_url=world.base_url, timeout=60) as client:
            gate.wait()
            while True:
                with lock:
                    if not waiting:
                        return
                    place = waiting.pop()
                replies[place] = calls[place](client)

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [reply.text for reply in replies.values() if reply.status_code >= 500] == []
    return [replies[place] for place in range(len(calls))]


def _asks(token: str, usd: str) -> Call:
    return lambda client: client.post(ASK, json={"amount_usd": usd}, headers=bearer(token))


def _decides(token: str, payout: str, verb: str) -> Call:
    return lambda client: client.post(f"{DESK}/{payout}/{verb}", json={}, headers=bearer(token))


def _fails(payout: str) -> Call:
    return lambda client: client.post(f"{DESK}/{payout}/fail", json={"reason": "r"}, headers=bearer(BOB))


def _corrects(wallet: str, usd: str) -> Call:
    body = {"kind": "chargeback", "direction": "debit", "amount_usd": usd, "reason": "r"}
    return lambda client: client.post(f"/v1/admin/wallets/{wallet}/adjustments", json=body, headers=bearer(ALICE))


def test_two_hundred_ask_for_what_ten_can_have(world: PayoutWorld) -> None:
    """Lost: of earnings that are asked for by many at once, more is set apart than there is."""
    tenant = world.rich(100)
    world.grow_old()
    token = world.token_of(tenant)
    replies = _at_once(world, [_asks(token, "10.00") for _ in range(MANY)])
    assert Counter(reply.status_code for reply in replies) == {201: 10, 402: MANY - 10}
    assert (world.earnings(tenant), world.clearing(tenant)) == (0, 100 * USD)


def test_approvals_payouts_and_corrections_at_once(world: PayoutWorld) -> None:
    """Lost: under load two approve the same, a payout is cancelled twice, or earnings are spent twice.

    Two hundred calls about one developer, in any order, while their apps go on earning.
    """
    tenant = world.rich(100)
    wallet = str(world.books.one("select public_id from account where id = %s", tenant.earnings))
    world.clock.advance((datetime.now(UTC) - world.clock.now()).total_seconds() + 14 * DAY)  # what comes now is young
    token = world.token_of(tenant)
    payouts = [world.requested(tenant, "2.00") for _ in range(20)]
    calls: list[tuple[str, Call]] = []
    for payout in payouts:
        calls += [(f"approve {payout}", _decides(who, payout, "approve")) for who in (ALICE, BOB, ALICE, BOB)]
        calls += [(f"cancel {payout}", _decides(who, payout, "cancel")) for who in (ALICE, BOB)]
    calls += [("ask", _asks(token, "2.00")) for _ in range(40)]
    calls += [("correct", _corrects(wallet, "1.00")) for _ in range(40)]
    assert len(calls) == MANY
    random.Random(4).shuffle(calls)
    earning = threading.Event()

    def earn() -> None:
        with psycopg.connect(world.dsn, autocommit=True) as connection:
            books = Books(connection)
            books.credit(tenant.wallet, 100 * USD)
            while not earning.is_set():
                hold = books.held(tenant, 1_000)
                assert books.settle(Settlement(tenant, hold, channel=1_000)) == [0]

    apps = threading.Thread(target=earn)
    apps.start()
    replies = _at_once(world, [call for _, call in calls])
    earning.set()
    apps.join()
    won = Counter(name for (name, _), reply in zip(calls, replies, strict=True) if reply.status_code in (200, 201))
    for payout in payouts:
        assert won[f"approve {payout}"] <= 1 and won[f"cancel {payout}"] == 1
        assert world.payout(payout)["status"] == "cancelled"
    assert {reply.status_code for reply in replies} <= {200, 201, 402, 409}
    settled = world.books.one("select coalesce(sum(channel_e8), 0)::bigint from usage_event")
    assert settled > 100 * USD, "the apps went on earning"
    open_e8, corrected_e8 = won["ask"] * 2 * USD, won["correct"] * USD
    assert world.earnings(tenant) == settled - open_e8 - corrected_e8
    assert world.clearing(tenant) == open_e8 <= 100 * USD
    assert world.books.one("select count(*) from audit_log where action = 'payout.cancelled'") == 20
    assert world.books.one("select count(*) from transfer where code = 42") == 20


def test_mark_paid_cancel_and_fail_at_once(world: PayoutWorld) -> None:
    """Lost: a payout that is paid by hand is cancelled in the same moment, and paid out again."""
    tenant = world.rich(20, account=False)
    world.grow_old()
    payouts = [world.approved(tenant, "2.00") for _ in range(8)]
    calls = [call for p in payouts for call in (_decides(ALICE, p, "mark-paid"), _decides(BOB, p, "cancel"), _fails(p))]
    replies = _at_once(world, calls, threads=24)
    for place, payout in enumerate(payouts):
        paid, cancelled, failed = (reply.status_code for reply in replies[3 * place : 3 * place + 3])
        status = world.payout(payout)["status"]
        # One that was paid may still come back, which is another thing that happened.
        wanted = "cancelled" if cancelled == 200 else "failed" if failed == 200 else "paid"
        assert status == wanted and (cancelled == 409 or (paid, failed) == (409, 409))
    back = sum(world.payout(payout)["status"] != "paid" for payout in payouts)
    assert world.earnings(tenant) == 4 * USD + back * 2 * USD and world.clearing(tenant) == 0
