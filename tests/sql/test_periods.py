"""Months are closed for good: nothing is booked into one, its statements add up, and each follows the last."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from books import E8, Books, Settlement, Tenant
from past import GRACE, SIGNER, as_jobs, close_all, date_back, months_ago

from faucet.closing import periods
from faucet.closing.document import read_file
from faucet.closing.verify import prove
from faucet.jobs.close_periods import close_periods, make_final
from faucet.jobs.reconcile import reconcile_books
from faucet.kit.db import Tx
from faucet.kit.errors import InvariantBroken, Refusal

Json = dict[str, Any]


def files(books: Books, developer: Any, end_user: Any = None) -> list[bytes]:
    """The statements of a developer or end user, the oldest first."""
    from faucet.closing.document import Signed

    return [
        Signed(body, bytes(hashed), bytes(signature), bytes(key)).file
        for body, hashed, signature, key in books.rows(
            "select s.body, s.hash, s.signature, k.public_key from statement s join statement_key k using (key_id)"
            " where s.developer_id = %s and s.end_user_id is not distinct from %s::uuid order by s.month",
            developer,
            end_user,
        )
    ]


def answer(books: Books, tenant: Tenant, *, payer: int = 0, cost: int = 100, channel: int = 40) -> None:
    hold = books.held(tenant, 1_000)
    booked = Settlement(tenant, hold, cost=cost if payer < 2 else 0, channel=channel, platform=60, payer=payer)
    assert books.settle(booked) == [0]


@pytest.fixture
def two_months(books: Books, dsn: str) -> Tenant:
    """A developer and an end user with two closed months and an open one."""
    tenant = books.tenant(10 * E8)
    for payer in range(4):
        answer(books, tenant, payer=payer)
    date_back(books, months_ago(2).starts_at + timedelta(days=3), step=timedelta(hours=10))
    clearing = books.open_account("payout_clearing", tenant.developer)
    answer(books, tenant)
    assert books.transfer(30, books.account("adjustments"), tenant.earnings, 7) == 0
    assert books.transfer(40, tenant.earnings, clearing, 100) == 0
    assert books.transfer(41, clearing, books.account("stripe_clearing"), 60) == 0
    assert books.transfer(10, books.account("stripe_clearing"), tenant.wallet, 5_000) == 0
    assert books.transfer(20, tenant.wallet, books.account("stripe_clearing"), 300) == 0
    date_back(books, months_ago(1).starts_at + timedelta(days=20))
    answer(books, tenant)
    assert close_all(dsn) == [months_ago(2), months_ago(1)]
    return tenant


def test_a_developer_s_months_follow_each_other(two_months: Tenant, books: Books) -> None:
    """Lost: a statement that doesn't say what happened, or that stands alone."""
    first, second = (read_file(content).says for content in files(books, two_months.developer))
    assert (first["opening_usd"], first["earned_usd"], first["closing_usd"]) == (
        "0.00000000", "0.00000260", "0.00000260",
    )  # fmt: skip
    assert [day["calls"] for day in first["days"]] == [3, 1]
    figures = ("opening_usd", "earned_usd", "adjusted_usd", "paid_usd", "closing_usd", "in_payout_usd")
    assert [second[name] for name in figures] == [
        "0.00000260", "0.00000040", "0.00000007", "0.00000060", "0.00000247", "0.00000040",
    ]  # fmt: skip
    proved = prove(files(books, two_months.developer), trusted=frozenset({SIGNER.public_key}))
    assert [each.period for each in proved] == [str(months_ago(2)), str(months_ago(1))]


def test_an_end_user_s_months_follow_each_other(two_months: Tenant, books: Books) -> None:
    """Lost: what a person paid and got back can't be shown."""
    proved = prove(files(books, two_months.developer, two_months.end_user), trusted=None)
    assert [each.kind for each in proved] == ["end_user", "end_user"]
    says = read_file(files(books, two_months.developer, two_months.end_user)[1]).says
    figures = (
        "opening_usd",
        "topped_up_usd",
        "granted_usd",
        "spent_usd",
        "refunded_usd",
        "adjusted_usd",
        "closing_usd",
    )
    spent = 4 * 100 + 2 * 100
    assert [says[name] for name in figures] == [
        f"9.{E8 - spent:08d}", "0.00005000", "0.00000000", "0.00000200", "0.00000300", "0.00000000",
        f"10.{5_000 - 300 - spent - 200:08d}",
    ]  # fmt: skip


def test_a_free_quota_is_not_the_end_user_s_money(books: Books, dsn: str) -> None:
    """Lost: a statement of what the platform gave away beside, or two of them, of which one can't be kept."""
    tenant = books.tenant(E8)
    books.rows("update feature set free_quota_e8 = 1000 where id = %s", tenant.feature)
    books.rows("update developer set free_quota_month_max_e8 = 5000 where id = %s", tenant.developer)
    account = books.one(
        "select allowance_open_v1(%s, %s, gen_random_uuid(), gen_random_uuid())",
        tenant.feature, tenant.end_user, role="faucet_gateway",
    )  # fmt: skip
    answer(books, tenant)
    answer(books, replace(tenant, wallet=account), cost=200)
    date_back(books, months_ago(1).starts_at + timedelta(days=3))
    assert close_all(dsn) == [months_ago(1)]
    (content,) = files(books, tenant.developer, tenant.end_user)
    says = read_file(content).says
    assert says["wallet_id"] == str(books.one("select public_id from account where id = %s", tenant.wallet))
    assert (says["granted_usd"], says["spent_usd"], says["closing_usd"]) == (
        "1.00000000", "0.00000200", "0.99999800",
    )  # fmt: skip
    (own,) = files(books, tenant.developer)
    assert read_file(own).says["earned_usd"] == "0.00000080"
    assert as_jobs(dsn, lambda connection: reconcile_books(connection)) == []


def test_closing_again_changes_nothing(two_months: Tenant, books: Books, dsn: str) -> None:
    """Lost: a sweep that runs twice writes a second truth."""
    before = files(books, two_months.developer)
    assert close_all(dsn) == []
    books.rows("update period set closed_at = null")
    assert as_jobs(dsn, lambda c: close_periods(c, SIGNER, now=datetime.now(UTC))) == [months_ago(2), months_ago(1)]
    assert files(books, two_months.developer) == before


def test_one_process_closes_at_a_time(books: Books, dsn: str) -> None:
    """Lost: two processes write the same statements, and one of them fails."""
    books.tenant(E8)
    date_back(books, months_ago(1).starts_at)
    books.rows("insert into period (month, asked_by) values (%s, 't')", months_ago(1).first_day)

    async def work(connection: Tx) -> tuple[list[Any], list[Any]]:
        books.rows("select pg_advisory_lock(7219015)")
        busy = await close_periods(connection, SIGNER, now=datetime.now(UTC))
        books.rows("select pg_advisory_unlock(7219015)")
        return busy, await close_periods(connection, SIGNER, now=datetime.now(UTC))

    assert as_jobs(dsn, work) == ([], [months_ago(1)])
    locks = (
        "select count(*) from pg_locks where locktype = 'advisory'"
        " and database = (select oid from pg_database where datname = current_database())"
    )
    assert books.one(locks) == 0


def test_a_correction_goes_into_the_open_month(two_months: Tenant, books: Books) -> None:
    """Lost: a closed month that changes."""
    before = files(books, two_months.developer)
    assert books.transfer(31, two_months.earnings, books.account("adjustments"), 5) == 0
    assert books.one("select max(created_at) > %s from transfer", months_ago(0).starts_at)
    assert files(books, two_months.developer) == before


@pytest.mark.parametrize("what", ["transfer", "settlement", "settlement without money"])
def test_a_tx_that_began_before_the_horizon_books_nothing(books: Books, dsn: str, what: str) -> None:
    """Lost: a tx that hung for days books into a month whose statement is signed."""
    tenant = books.tenant(E8)
    hold = books.held(tenant, 1_000)
    with psycopg.connect(dsn) as slow:
        old = Books(slow)
        assert old.one("select now()") is not None  # the tx has its time now
        books.rows("update ledger_horizon set final_until = clock_timestamp()")
        # The role can't be given back in a tx that failed; why it failed is the error before that.
        with pytest.raises(psycopg.errors.InFailedSqlTransaction) as error:
            if what == "transfer":
                old.transfer(30, books.account("adjustments"), tenant.wallet, 5)
            elif what == "settlement":
                old.settle(Settlement(tenant, hold, cost=10))
            else:
                old.settle(Settlement(tenant, hold, payer=3))
    assert isinstance(error.value.__context__, psycopg.errors.SerializationFailure)
    assert books.settle(Settlement(tenant, hold, cost=10)) == [0]  # the same in a tx of a later date


def test_the_horizon_waits_for_who_has_booked(books: Books, dsn: str) -> None:
    """Lost: sums are taken while a transfer that belongs to them is not yet committed."""
    tenant = books.tenant(E8)
    until = datetime.now(UTC) - timedelta(hours=2)
    with psycopg.connect(dsn) as slow:
        Books(slow).transfer(30, books.account("adjustments"), tenant.wallet, 5)
        assert as_jobs(dsn, lambda c: make_final(c, until)) is False
        assert books.one("select final_until from ledger_horizon") < until
    assert as_jobs(dsn, lambda c: make_final(c, until)) is True
    assert books.one("select final_until from ledger_horizon") == until


def test_who_books_waits_for_the_horizon(books: Books, dsn: str) -> None:
    """Lost: a booking slips in between a horizon that moves and the check of it."""
    tenant = books.tenant(E8)
    adjustments = books.account("adjustments")
    refused: list[str | None] = []

    def book() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            try:
                Books(connection).transfer(30, adjustments, tenant.wallet, 5)
            except psycopg.Error as error:
                refused.append(error.sqlstate)

    with psycopg.connect(dsn) as mover:
        mover.execute("lock table ledger_horizon in access exclusive mode")
        thread = threading.Thread(target=book)
        thread.start()
        waiting = (
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        )
        while not books.one(waiting):
            thread.join(0.005)
        mover.execute("update ledger_horizon set final_until = clock_timestamp()")
    thread.join(10)
    assert refused == ["40001"]


def test_the_horizon_only_advances_and_never_to_now(books: Books, dsn: str) -> None:
    """Lost: the horizon moves back, or stops the present."""
    until = datetime.now(UTC) - timedelta(hours=2)
    for moment in (until, until - timedelta(days=9)):
        assert as_jobs(dsn, lambda c, at=moment: make_final(c, at)) is True  # type: ignore[misc]
        assert books.one("select final_until from ledger_horizon") == until
    with pytest.raises(psycopg.errors.RestrictViolation):
        as_jobs(dsn, lambda c: make_final(c, datetime.now(UTC)))


def test_months_are_asked_for_in_order_and_when_they_are_over(books: Books, dsn: str) -> None:
    """Lost: a month that is still running, or one whose predecessor is open, is closed."""

    def refused(month: Any) -> str:
        async def work(connection: Tx) -> None:
            async with connection.transaction():
                await periods.ask(connection, month, by="t", now=datetime.now(UTC), grace=GRACE)

        with pytest.raises(Refusal) as error:
            as_jobs(dsn, work)
        return error.value.public

    assert "nothing was booked" in refused(months_ago(1))
    books.tenant(E8)
    date_back(books, months_ago(2).starts_at)
    assert str(months_ago(2)) in refused(months_ago(1))
    assert "hours after its end" in refused(months_ago(0))


def test_a_balance_that_nothing_explains_keeps_the_month_open(books: Books, dsn: str) -> None:
    """Lost: a statement is signed over books that don't add up."""
    tenant = books.tenant(E8)
    date_back(books, months_ago(1).starts_at)
    books.rows("update account set posted_e8 = posted_e8 + 1 where id = %s", tenant.wallet)
    with pytest.raises(InvariantBroken, match="1 accounts"):
        close_all(dsn)
    assert books.one("select count(*) from statement") == 0


def test_without_a_key_nothing_is_closed(books: Books, dsn: str) -> None:
    """Lost: statements without a signature."""
    books.tenant(E8)
    date_back(books, months_ago(1).starts_at)
    books.rows("insert into period (month, asked_by) values (%s, 't')", months_ago(1).first_day)
    assert as_jobs(dsn, lambda c: close_periods(c, None, now=datetime.now(UTC))) == []
    assert books.one("select closed_at is null from period")


def test_bookings_go_on_while_the_horizon_moves(books: Books, dsn: str) -> None:
    """Lost: closing a month, or adding up a day, breaks requests of that moment or is kept out by them."""
    tenant = books.tenant(E8)
    adjustments = books.account("adjustments")
    stop = threading.Event()
    booked = [0, 0]
    failed: list[str] = []

    def book(which: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            own = Books(connection)
            while not stop.is_set():
                try:
                    assert own.transfer(30, adjustments, tenant.wallet, 1) == 0
                    booked[which] += 1
                except psycopg.Error as error:
                    failed.append(str(error))

    threads = [threading.Thread(target=book, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    start = datetime.now(UTC) - timedelta(days=1)

    async def move(connection: Tx) -> int:
        moved = 0
        for step in range(60):
            moved += await make_final(connection, start + timedelta(minutes=step))
        return moved

    moved = as_jobs(dsn, move)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert failed == [] and moved == 60
    assert min(booked) > 0 and books.posted(tenant.wallet) == E8 + sum(booked)
