"""Free quotas in the ledger: opened once, within what the platform gives away, paid from, and given back."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from uuid import UUID

import psycopg
import pytest
from books import Books, Hold, Settlement, Tenant

from faucet.jobs.return_allowances import Returned, return_allowances
from faucet.kit.db import open_pool
from faucet.kit.ids import uuid7
from faucet.reports.reconciliation import begin_snapshot, reconcile

DONE, INSUFFICIENT, UNFIT = 0, 1, 6
QUOTA, MOST = 1_000, 2_500


@pytest.fixture
def tenant(books: Books) -> Tenant:
    """An end user of a feature that gives 1,000 away a month, of a developer for whom 2,500 are given."""
    tenant = books.tenant(10_000)
    books.rows("update feature set free_quota_e8 = %s where id = %s", QUOTA, tenant.feature)
    books.rows("update developer set free_quota_month_max_e8 = %s where id = %s", MOST, tenant.developer)
    return tenant


def opened(books: Books, tenant: Tenant) -> int | None:
    """The account of an allowance."""
    account: int | None = books.one(
        "select allowance_open_v1(%s, %s, %s, %s)",
        tenant.feature, tenant.end_user, uuid7(), uuid7(), role="faucet_gateway",
    )  # fmt: skip
    return account


def on_allowance(books: Books, tenant: Tenant) -> Tenant:
    """The end user, who pays from their allowance."""
    account = opened(books, tenant)
    assert account is not None
    return replace(tenant, wallet=account)


def end_the_month(books: Books) -> None:
    """Make every allowance one of a month that is over."""
    books.rows("update account set label = left(label, -7) || '2026-01' where label like 'free:%%'")
    books.rows("update free_quota_month set month = '2026-01-01'")


def returned(dsn: str) -> Returned:
    """One sweep in the role of the jobs."""

    async def sweep() -> Returned:
        pool = await open_pool(dsn, "faucet_jobs", size=1)
        try:
            async with pool.connection() as connection:
                return await return_allowances(connection, batch=2)
        finally:
            await pool.close()

    return asyncio.run(sweep())


def findings(dsn: str) -> list[object]:
    """What the reconciliation says."""

    async def ask() -> list[object]:
        pool = await open_pool(dsn, "faucet_jobs", size=1)
        try:
            async with pool.connection() as connection, connection.transaction():
                await begin_snapshot(connection)
                return list(await reconcile(connection))
        finally:
            await pool.close()

    return asyncio.run(ask())


def test_an_allowance_is_opened_once_and_funded_from_grants(books: Books, tenant: Tenant) -> None:
    """Lost: a quota is given twice, or given without a source."""
    before = books.posted(books.account("grants"))
    account = opened(books, tenant)
    assert account is not None and account != tenant.wallet
    assert opened(books, tenant) == account
    assert books.balance(account) == (QUOTA, 0) and books.balance(tenant.wallet) == (10_000, 0)
    assert before - books.posted(books.account("grants")) == QUOTA
    books.assert_sound()


def test_no_more_is_given_than_the_platform_gives_for_a_developer(books: Books, tenant: Tenant) -> None:
    """Lost: a developer invents end users and is paid by the platform for each of them."""
    users = [books.end_user(tenant) for _ in range(4)]
    accounts = [opened(books, user) for user in users]
    assert [account is not None for account in accounts] == [True, True, False, False]
    assert books.one("select granted_e8 from free_quota_month where developer_id = %s", tenant.developer) == 2 * QUOTA


def test_nothing_is_opened_for_strangers_or_without_a_quota(books: Books, tenant: Tenant) -> None:
    """Lost: who breaks into a gateway gives the platform's money away as they like."""
    stranger = books.tenant()
    assert opened(books, replace(tenant, end_user=stranger.end_user)) is None
    assert opened(books, stranger) is None
    assert opened(books, replace(tenant, feature=uuid7())) is None
    books.rows("update feature set status = 'archived' where id = %s", tenant.feature)
    assert opened(books, tenant) is None
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        books.one(
            "select allowance_open_v1(%s, %s, %s, %s)",
            tenant.feature, tenant.end_user, uuid7(), uuid7(), role="faucet_api",
        )  # fmt: skip


def test_many_first_requests_at_once_open_one(books: Books, tenant: Tenant, dsn: str) -> None:
    """Lost: a race at the month's first request gives the quota many times."""
    found: list[int | None] = []

    def ask() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            found.append(opened(Books(connection), tenant))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12 and len(set(found)) == 1 and found[0] is not None
    assert books.balance(found[0]) == (QUOTA, 0)
    books.assert_sound()


def test_an_answer_is_paid_from_it_like_from_a_wallet(books: Books, tenant: Tenant, dsn: str) -> None:
    """Lost: the developer earns nothing from a free answer, or the provider's cost of it is nowhere."""
    free = on_allowance(books, tenant)
    hold = books.held(free, 700)
    assert books.hold(Hold(free, 301))[0][0] == INSUFFICIENT
    assert books.settle(Settlement(free, hold, cost=100, channel=40, platform=60)) == [DONE]
    assert books.balance(free.wallet) == (QUOTA - 200, 0)
    assert [books.posted(account) for account in (free.cost, free.earnings, free.revenue)] == [100, 40, 60]
    assert books.balance(tenant.wallet) == (10_000, 0)
    assert findings(dsn) == []


def test_what_is_rated_above_its_hold_never_takes_it_below_zero(books: Books, tenant: Tenant, dsn: str) -> None:
    """Lost: a free quota is overdrawn by a provider that reports too much."""
    free = on_allowance(books, tenant)
    hold = books.held(free, QUOTA)
    assert books.settle(Settlement(free, hold, cost=1_500)) == [DONE]
    assert books.balance(free.wallet) == (0, 0) and books.event(hold)["write_off_e8"] == 500
    assert findings(dsn) == []


def test_what_is_left_goes_back_when_the_month_is_over(books: Books, tenant: Tenant, dsn: str) -> None:
    """Lost: money that was set aside stays set aside for ever; or goes back while a request still needs it."""
    before = books.posted(books.account("grants"))
    users = [on_allowance(books, books.end_user(tenant)) for _ in range(2)]
    spent = books.held(users[0], 300)
    assert books.settle(Settlement(users[0], spent, cost=300)) == [DONE]
    held = books.held(users[1], 400)
    assert returned(dsn) == Returned(0, 0)
    end_the_month(books)
    assert returned(dsn) == Returned(1, QUOTA - 300)
    assert books.settle(Settlement(users[1], held, cost=50)) == [DONE]
    assert returned(dsn) == Returned(1, QUOTA - 50)
    assert returned(dsn) == Returned(0, 0)
    assert [books.balance(user.wallet) for user in users] == [(0, 0), (0, 0)]
    assert before - books.posted(books.account("grants")) == 350
    assert findings(dsn) == []


def test_a_quota_that_was_not_granted_or_did_not_go_back_is_found(books: Books, tenant: Tenant, dsn: str) -> None:
    """Lost: a month's quotas and the grants for them drift apart, or the sweep stops and nobody notices."""
    free = on_allowance(books, tenant)
    assert findings(dsn) == []
    books.rows("update free_quota_month set granted_e8 = granted_e8 - 1")
    found = [(one.check, one.expected, one.actual) for one in findings(dsn)]  # type: ignore[attr-defined]
    assert found == [("free_quota", QUOTA, QUOTA - 1)]
    books.rows("update free_quota_month set granted_e8 = granted_e8 + 1")
    end_the_month(books)
    found = [(one.check, one.expected, one.actual) for one in findings(dsn)]  # type: ignore[attr-defined]
    assert found == [("allowance_left", 0, QUOTA)]
    assert returned(dsn).count == 1 and books.posted(free.wallet) == 0
    assert findings(dsn) == []


def test_two_sweeps_at_once_give_back_once(books: Books, tenant: Tenant, dsn: str) -> None:
    """Lost: what is left goes back twice."""
    for user in [books.end_user(tenant) for _ in range(2)]:
        on_allowance(books, user)
    end_the_month(books)
    total: list[Returned] = []
    threads = [threading.Thread(target=lambda: total.append(returned(dsn))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one.amount_e8 for one in total) == 2 * QUOTA and sum(one.count for one in total) == 2
    assert findings(dsn) == []


def test_a_late_answer_takes_what_is_there(books: Books, tenant: Tenant, dsn: str) -> None:
    """Lost: an answer that turns up after its allowance went back makes the books disagree."""
    free = on_allowance(books, tenant)
    hold: UUID = books.held(free, 600)
    books.run_out(hold)
    assert books.expire() == [hold]
    end_the_month(books)
    assert returned(dsn) == Returned(1, QUOTA)
    assert books.settle(Settlement(free, hold, cost=80, channel=10, platform=10)) == [DONE]
    assert books.balance(free.wallet) == (0, 0) and books.event(hold)["write_off_e8"] == 100
    assert findings(dsn) == []
