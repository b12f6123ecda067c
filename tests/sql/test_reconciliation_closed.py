"""What was made final and what providers billed is compared too, and each difference is found, by row and amount."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from books import E8, Books, Settlement, Tenant
from past import as_jobs, close_all, date_back, months_ago

from faucet.closing import invoices
from faucet.closing.invoices import InvoiceLine
from faucet.jobs.reconcile import reconcile_books
from faucet.jobs.roll_up import roll_up
from faucet.kit.db import Tx
from faucet.reports.finding import Finding
from faucet.reports.series import UsagePoint, usage_series
from faucet.reports.usage import app_totals

DAY = months_ago(1).first_day + timedelta(days=4)


def found(dsn: str, *, since: datetime | None = None, tolerance_bps: int = 100) -> list[Finding]:
    """What the jobs find."""
    return as_jobs(dsn, lambda c: reconcile_books(c, since=since, tolerance_bps=tolerance_bps))


@pytest.fixture
def past(books: Books, dsn: str) -> Tenant:
    """A closed month of ten answers, two an hour, added up by the hour; and an answer of today."""
    tenant = books.tenant(E8)
    for number in range(10):
        booked = Settlement(tenant, books.held(tenant, 2_000), cost=1_000 if number % 2 else 0, channel=40, platform=60)
        assert books.settle(booked) == [0]
    date_back(books, datetime(DAY.year, DAY.month, DAY.day, 6, tzinfo=UTC), step=timedelta(minutes=30))
    assert close_all(dsn) == [months_ago(1)]
    assert as_jobs(dsn, roll_up) > 0
    booked = Settlement(tenant, books.held(tenant, 2_000), cost=1_000, channel=40, platform=60)
    assert books.settle(booked) == [0]
    return tenant


def _unprotected(books: Books, statement: str, *values: object) -> None:
    books.rows("set session_replication_role = replica")
    books.rows(statement, *values)
    books.rows("reset session_replication_role")


def _invoice(dsn: str, *lines: tuple[str, int], provider: str = "mock") -> None:
    async def work(connection: Tx) -> None:
        async with connection.transaction():
            await invoices.keep(
                connection,
                provider=provider,
                reference=f"INV-{len(lines)}",
                first_day=DAY,
                last_day=DAY,
                lines=[InvoiceLine(DAY, model, amount_e8) for model, amount_e8 in lines],
                by="test",
            )

    as_jobs(dsn, work, role="faucet_api")


def test_what_is_final_and_right_has_no_findings(past: Tenant, dsn: str) -> None:
    """Lost: alarms that mean nothing."""
    _invoice(dsn, ("mock-model", 5_000))
    for since in (None, datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) - timedelta(days=90)):
        assert found(dsn, since=since) == []


def test_an_hour_that_is_not_its_answers_is_found(past: Tenant, books: Books, dsn: str) -> None:
    """Lost: charts and totals say something else than the answers."""
    books.rows("update usage_hour set retail_e8 = retail_e8 + 3 where hour = (select min(hour) from usage_hour)")
    assert found(dsn) == [Finding("hours_retail", f"app {past.app} on {DAY}", 6_000, 6_003)]


def test_a_transfer_that_was_put_into_a_closed_month_is_found(past: Tenant, books: Books, dsn: str) -> None:
    """Lost: a statement that was signed is no longer what the ledger says."""
    _unprotected(
        books,
        "insert into transfer_row (event_id, code, debit_id, credit_id, amount_e8, created_at)"
        " values (gen_random_uuid(), 12, %s, %s, 5, %s)",
        books.account("grants"),
        past.wallet,
        months_ago(1).starts_at,
    )
    books.rows("update account set posted_e8 = posted_e8 + 5 where id = %s", past.wallet)
    books.rows("update account set posted_e8 = posted_e8 - 5 where kind = 'grants'")
    public_id = books.one("select public_id from account where id = %s", past.wallet)
    balance = books.posted(past.wallet)
    assert found(dsn) == [Finding("closed_month", f"wallet {public_id} up to {months_ago(1)}", balance - 5, balance)]


def test_a_statement_that_says_something_else_is_found(past: Tenant, books: Books, dsn: str) -> None:
    """Lost: a statement's row was changed after it was signed."""
    _unprotected(
        books,
        'update statement set body = replace(body, \'"closing_usd":"0.00000400"\', \'"closing_usd":"9.00000400"\')',
    )
    assert found(dsn) == [Finding("statement", f"developer {past.developer} of {months_ago(1)}", 400, 900_000_400)]


@pytest.mark.parametrize(
    ("billed", "tolerance_bps", "differs"),
    [
        (5_000, 0, False),
        (5_001, 0, True),
        (5_050, 100, False),
        (5_051, 100, True),
        (4_950, 100, False),
        (4_949, 100, True),
    ],
)
def test_an_invoice_may_differ_by_its_tolerance(
    past: Tenant, dsn: str, billed: int, tolerance_bps: int, differs: bool
) -> None:
    """Lost: rounding is an alarm, or a wrong bill is none."""
    _invoice(dsn, ("mock-model", billed))
    expected = [Finding("invoice", f"mock mock-model on {DAY}", 5_000, billed)] if differs else []
    assert found(dsn, tolerance_bps=tolerance_bps) == expected


def test_what_only_one_side_knows_is_found(past: Tenant, dsn: str) -> None:
    """Lost: a model that was billed and never asked for, or was asked for and not billed."""
    _invoice(dsn, ("mock-other", 700))
    assert found(dsn) == [
        Finding("invoice", f"mock mock-model on {DAY}", 5_000, 0),
        Finding("invoice", f"mock mock-other on {DAY}", 0, 700),
    ]


def test_a_withdrawn_invoice_is_not_compared(past: Tenant, books: Books, dsn: str) -> None:
    """Lost: an invoice that was imported wrongly is an alarm for ever."""
    _invoice(dsn, ("mock-model", 1))
    assert len(found(dsn)) == 1
    assert found(dsn, since=datetime.now(UTC) - timedelta(days=1)) == []  # it was compared before
    books.rows("update provider_invoice set withdrawn_at = now()")
    assert found(dsn) == []


def test_totals_are_exact_while_hours_are_added_up(books: Books, dsn: str) -> None:
    """Lost: an app's totals count an answer twice, or not at all, around the moment up to which hours are added up."""
    tenant = books.tenant(E8)

    def totals() -> tuple[int, int]:
        async def work(connection: Tx) -> tuple[int, int]:
            async with connection.transaction():
                found = await app_totals(connection, tenant.app)
            return found.calls, found.retail_e8

        return as_jobs(dsn, work)

    for day in range(5):
        for _ in range(3):
            booked = Settlement(tenant, books.held(tenant, 2_000), cost=100 * (day + 1))
            assert books.settle(booked) == [0]
        at = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=5 - day)
        date_back(books, at, step=timedelta(hours=8) - timedelta(microseconds=1))
    assert books.settle(Settlement(tenant, books.held(tenant, 2_000), cost=7)) == [0]
    expected = (16, 3 * 1_500 + 7)
    assert totals() == expected
    books.rows("update ledger_horizon set final_until = date_trunc('day', now(), 'UTC') - interval '2 days'")
    until = books.one("select final_until from ledger_horizon")
    for _ in range(4):
        books.rows("select usage_roll_up_v1(%s)", until)
        assert totals() == expected
    assert books.one("select count(*) from usage_hour") > 0
    assert as_jobs(dsn, roll_up) >= 1
    assert totals() == expected
    assert as_jobs(dsn, roll_up) == 0
    assert found(dsn) == []


def test_versions_of_a_feature_are_told_apart_in_hours_too(past: Tenant, books: Books, dsn: str) -> None:
    """Lost: what a new version of a feature costs, as soon as its hours are added up."""
    second = [row for (row,) in books.rows("select id from usage_event order by id limit 4")]
    _unprotected(books, "update usage_event set feature_version = 2 where id = any (%s)", second)
    books.rows("delete from usage_hour; update usage_rolled set rolled_until = '2000-01-01'")

    def calls() -> list[tuple[int | None, int]]:
        async def work(connection: Tx) -> list[UsagePoint]:
            async with connection.transaction():
                return await usage_series(
                    connection, developer_id=None, app_id=past.app, since=months_ago(1).starts_at,
                    until=months_ago(1).ends_at, interval="day", group_by="feature_version", limit=100,
                )  # fmt: skip

        return [(point.feature_version, point.calls) for point in as_jobs(dsn, work)]

    assert calls() == [(1, 6), (2, 4)]
    assert as_jobs(dsn, roll_up) > 0
    assert calls() == [(1, 6), (2, 4)]
    assert found(dsn) == []
