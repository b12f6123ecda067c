"""Who moves money waits for others in one order only, so that nobody is ever undone as a deadlock's victim."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
from api_world import ok
from books import Books, Settlement
from past import as_jobs, date_back, months_ago
from payments_world import PaymentsWorld, double, event_of, payments

from faucet.closing import periods
from faucet.kit.db import Tx
from faucet.ledger import moves
from faucet.terms import AccountId

__all__ = ["double", "payments"]
SECONDS = 20.0
ACCOUNTS = 40


@contextmanager
def _other(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Somebody else's tx, which is undone soon if it is part of a circle."""
    with psycopg.connect(dsn) as connection:
        connection.execute("set deadlock_timeout = '100ms'")
        yield connection


def _until_it_waits(books: Books, other: psycopg.Connection[Any], work: Future[Any]) -> None:
    """Until somebody waits for a lock of the other's."""
    until = time.monotonic() + SECONDS
    mine = other.info.backend_pid
    while not books.one("select exists (select from pg_stat_activity where %s = any (pg_blocking_pids(pid)))", mine):
        assert not work.done() and time.monotonic() < until, "nobody waits"
        time.sleep(0.01)


def _beside(work: Callable[[], Any]) -> Future[Any]:
    return ThreadPoolExecutor(1).submit(work)


def test_waking_events_that_wait_keeps_no_money_locked(payments: PaymentsWorld) -> None:
    """Lost: of an event that comes twice and one that wakes it, one is undone."""
    who = payments.end_user()
    waiting = event_of("refund.created", {"id": "re_1", "payment_intent": "pi_unknown", "amount": 1, "currency": "usd"})
    assert ok(payments.send(waiting))["queued"] is True
    payments.books.rows("update stripe_event set next_at = now() + interval '1 hour'")
    with _other(payments.api.dsn) as other:
        other.execute("select from stripe_event where id = %s for update", (waiting["id"],))
        paid = _beside(lambda: payments.paid(who))
        _until_it_waits(payments.books, other, paid)
        other.execute("select from account where kind = 'stripe_clearing' for update")
        other.commit()
        assert paid.result(SECONDS)["status"] == "credited"
    assert payments.books.one("select next_at <= now() from stripe_event where id = %s", waiting["id"])


def test_what_comes_back_takes_the_write_off_account_last(books: Books, dsn: str) -> None:
    """Lost: a refund that comes back and an answer that cost more than its hold undo each other."""
    tenant = books.tenant()
    wallet = AccountId(tenant.wallet)

    async def come_back(tx: Tx) -> None:
        async with tx.transaction():
            await moves.give_back(tx, wallet, 100, heal_e8=40, why="refund", key="refund:r:returned", memo="m")

    taken = "select written_off from take_back_v1(gen_random_uuid(), 20::smallint, %s, 100, 'refund:r', 'm')"
    assert books.one(taken, wallet) == 100
    with _other(dsn) as other:
        other.execute("select from account where id = %s for update", (wallet,))
        back = _beside(lambda: as_jobs(dsn, come_back))
        _until_it_waits(books, other, back)
        other.execute("select from account where kind = 'write_off' for update")
        other.commit()
        back.result(SECONDS)
    assert (books.posted(wallet), books.posted(books.account("write_off"))) == (60, -60)


def test_the_sums_of_a_month_keep_no_account_locked(books: Books, dsn: str) -> None:
    """Lost: requests wait until a month's sums are written, or are undone by them."""
    tenants = [books.tenant(1_000) for _ in range(ACCOUNTS)]
    for tenant in tenants:
        assert books.settle(Settlement(tenant, books.held(tenant, 100), cost=10, channel=5)) == [0]
    month = months_ago(1)
    date_back(books, month.starts_at + timedelta(days=3))
    books.rows("insert into period (month, asked_by) values (%s, 'test')", month.first_day)

    async def sum_up(tx: Tx) -> bool:
        async with tx.transaction():
            await periods.sum_up(tx, month)
            with psycopg.connect(dsn) as other:
                other.execute("select from account for update nowait")
        return True

    assert as_jobs(dsn, sum_up)
    assert books.one("select count(distinct account_id) from period_sum") == 2 * ACCOUNTS, "wallets and earnings"
