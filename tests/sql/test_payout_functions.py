"""What of earnings is old enough to be paid out, as the database works it out: against a model, and in races."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from books import Books, Settlement, Tenant
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from faucet.kit.ids import uuid7
from faucet.reports.reconciliation import begin_snapshot, reconcile

CENT = 1_000_000
DONE, INSUFFICIENT, REPEATED, CONFLICT, UNFIT = 0, 1, 4, 5, 6
NEVER, LONG_AGO = datetime(2200, 1, 1, tzinfo=UTC), datetime(2000, 1, 1, tzinfo=UTC)


def open_payout(
    books: Books,
    tenant: Tenant,
    amount: int | None,
    *,
    since: datetime = NEVER,
    least: int = 1,
    most: int = 10**18,
    payout: Any = None,
    key: str | None = None,
) -> tuple[int, int | None, int | None]:
    """Status, amount and what was old enough; `since` is when what counts as old ends."""
    row = books.row(
        "select status, amount, mature from payout_open_v1(%s, %s, %s::bigint, %s::bigint, %s::bigint, %s, %s, 'm')",
        payout or uuid7(),
        tenant.developer,
        amount,
        least,
        most,
        since,
        key,
        role="faucet_api",
    )
    assert row is not None
    return row[0], row[1], row[2]


def earn(books: Books, tenant: Tenant, amount: int, *, payer: int = 0) -> None:
    """An answer that brings so much, as a share or as the cost of one through the developer's own key."""
    books.credit(tenant.wallet, amount)
    part = {"cost": amount} if payer == 1 else {"channel": amount}
    assert books.settle(Settlement(tenant, books.held(tenant, amount), payer=payer, **part)) == [0]


@pytest.fixture
def tenant(books: Books) -> Tenant:
    tenant = books.tenant()
    books.open_account("payout_clearing", tenant.developer)
    return tenant


def test_all_kinds_of_earnings_grow_old(books: Books, tenant: Tenant) -> None:
    """Lost: what came by a correction, or by the developer's own key, can leave at once or never."""
    adjustments = books.account("adjustments")
    earn(books, tenant, 3 * CENT)
    earn(books, tenant, 5 * CENT, payer=1)
    assert books.transfer(30, adjustments, tenant.earnings, 7 * CENT) == DONE
    assert open_payout(books, tenant, None, since=LONG_AGO) == (INSUFFICIENT, 0, 0)
    assert open_payout(books, tenant, None) == (DONE, 15 * CENT, 15 * CENT)
    assert books.posted(tenant.earnings) == 0
    books.assert_sound()


def test_whole_cents_between_the_limits(books: Books, tenant: Tenant) -> None:
    """Lost: a payout of part of a cent, of less than the least, or of more than the most."""
    earn(books, tenant, 5 * CENT + 999_999)
    assert open_payout(books, tenant, None, least=6 * CENT)[0] == INSUFFICIENT
    assert open_payout(books, tenant, None, most=2 * CENT) == (DONE, 2 * CENT, 5 * CENT + 999_999)
    assert open_payout(books, tenant, None, most=CENT - 1)[0] == INSUFFICIENT
    assert open_payout(books, tenant, 4 * CENT)[0] == INSUFFICIENT
    assert open_payout(books, tenant, 0)[0] == INSUFFICIENT
    assert open_payout(books, tenant, -CENT)[0] == INSUFFICIENT
    assert open_payout(books, tenant, None)[:2] == (DONE, 3 * CENT)
    assert books.posted(tenant.earnings) == 999_999


def test_the_same_payout_and_the_same_key(books: Books, tenant: Tenant) -> None:
    """Lost: a payout that is opened twice takes earnings twice."""
    earn(books, tenant, 9 * CENT)
    payout = uuid7()
    assert open_payout(books, tenant, CENT, payout=payout, key="k")[0] == DONE
    assert open_payout(books, tenant, CENT, payout=payout, key="k")[0] == REPEATED
    assert open_payout(books, tenant, CENT, key="k")[0] == REPEATED
    assert open_payout(books, tenant, 2 * CENT, key="k")[0] == CONFLICT
    assert books.posted(tenant.earnings) == 8 * CENT


def test_a_developer_without_accounts(books: Books) -> None:
    """Lost: an error instead of an answer."""
    tenant = books.tenant()
    assert open_payout(books, tenant, CENT)[0] == UNFIT


def test_a_correction_that_comes_between(books: Books, tenant: Tenant, dsn: str) -> None:
    """Lost: while a payout waits for the lock, the old earnings are taken back; it then takes the young ones.

    The runners: an operator's correction that holds the lock of the earnings, and a payout that has added up the young
    ones already and waits for it.
    """
    earn(books, tenant, 40 * CENT)
    old = datetime.now(UTC)
    earn(books, tenant, 50 * CENT)
    got: list[tuple[int, int | None, int | None]] = []

    def ask() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            got.append(open_payout(Books(connection), tenant, 30 * CENT, since=old))

    with psycopg.connect(dsn) as operator:
        adjustments = books.account("adjustments")
        assert Books(operator).transfer(31, tenant.earnings, adjustments, 35 * CENT) == DONE
        asking = threading.Thread(target=ask)
        asking.start()
        waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%%payout_open%%'"
        while not books.one(waits):
            assert asking.is_alive(), got
        operator.commit()
    asking.join()
    assert got == [(INSUFFICIENT, 30 * CENT, 5 * CENT)]
    assert open_payout(books, tenant, 5 * CENT, since=old)[0] == DONE
    books.assert_sound()


# ── against a model ──


@dataclass
class Model:
    """Earnings as lots, the oldest first; whatever left takes from the oldest, and what came back never left."""

    lots: list[int] = field(default_factory=list)
    old: int = 0
    """How many of the first lots are old enough."""
    gone: int = 0

    def posted(self) -> int:
        return sum(self.lots) - self.gone

    def mature(self) -> int:
        return max(sum(self.lots[: self.old]) - self.gone, 0)


steps = st.lists(
    st.tuples(st.sampled_from(("earn", "credit", "debit", "grow old", "pay out", "bring back")), st.integers(1, 40)),
    min_size=1,
    max_size=14,
)


@pytest.fixture(scope="module")
def shared(module_dsn: str) -> Iterator[Books]:
    """One database for all examples; each has a developer of its own."""
    with psycopg.connect(module_dsn, autocommit=True) as connection:
        yield Books(connection)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
@example([("earn", 40), ("grow old", 1), ("pay out", 33), ("earn", 1), ("debit", 8), ("bring back", 1)])
def test_first_in_first_out(shared: Books, steps: list[tuple[str, int]]) -> None:
    """Lost: earnings leave before their time, or never, after some sequence of corrections and returns."""
    books, model = shared, Model()
    tenant = books.tenant()
    clearing = books.open_account("payout_clearing", tenant.developer)
    adjustments = books.account("adjustments")
    since = LONG_AGO
    paid: list[tuple[Any, int]] = []
    for what, cents in steps:
        amount = cents * CENT
        match what:
            case "earn":
                earn(books, tenant, amount)
                model.lots.append(amount)
            case "credit":
                assert books.transfer(30, adjustments, tenant.earnings, amount) == DONE
                model.lots.append(amount)
            case "debit":
                fits = model.posted() >= amount
                assert books.transfer(31, tenant.earnings, adjustments, amount) == (DONE if fits else INSUFFICIENT)
                if fits:
                    model.gone += amount
            case "grow old":
                since = books.one("select clock_timestamp()")
                model.old = len(model.lots)
            case "pay out":
                payout = uuid7()
                status, _, mature = open_payout(books, tenant, amount, since=since, payout=payout)
                assert mature == model.mature()
                assert status == (DONE if amount <= model.mature() else INSUFFICIENT)
                if status == DONE:
                    model.gone += amount
                    paid.append((payout, amount))
            case "bring back":
                if paid:
                    _, returned = paid.pop()
                    assert books.transfer(42, clearing, tenant.earnings, returned) == DONE
                    model.gone -= returned
        assert books.posted(tenant.earnings) == model.posted()
    found = books.one("select earnings_mature_v1(%s, %s)", tenant.developer, since, role="faucet_jobs")
    assert found == model.mature()


# ── what reconciliation says ──


def _row(books: Books, tenant: Tenant, status: str, amount: int, *, payout: Any = None) -> Any:
    """A payout's row as it would be in this state."""
    payout, ended = payout or uuid7(), status in ("paid", "failed", "cancelled")
    books.rows(
        "insert into payout (id, developer_id, amount_e8, provider, requested_by, approved_by, status, paid_at,"
        " ended_at)"
        " values (%s, %s, %s, 'manual', 'a', 'b', %s, case when %s then now() end, case when %s then now() end)",
        payout,
        tenant.developer,
        amount,
        status,
        status == "paid",
        ended,
    )
    return payout


def test_payouts_that_the_ledger_does_not_know(books: Books, tenant: Tenant, dsn: str) -> None:
    """Lost: a payout that is paid and was never booked, or booked and never there, and nobody is told."""

    async def found() -> dict[str, tuple[int, int]]:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            await connection.execute("set role faucet_jobs")
            await connection.commit()
            await begin_snapshot(connection)
            return {f.check: (f.expected, f.actual) for f in await reconcile(connection)}

    earn(books, tenant, 9 * CENT)
    payout = uuid7()
    assert open_payout(books, tenant, 4 * CENT, payout=payout)[0] == DONE
    assert asyncio.run(found()) == {"payout_clearing": (0, 4 * CENT), "transfer_payout": (0, 4 * CENT)}
    _row(books, tenant, "requested", 4 * CENT, payout=payout)
    assert asyncio.run(found()) == {}
    _row(books, tenant, "paid", 2 * CENT)
    assert asyncio.run(found()) == {"payout_moved_40": (2 * CENT, 0), "payout_moved_41": (2 * CENT, 0)}
    _row(books, tenant, "cancelled", 3 * CENT)
    assert set(asyncio.run(found())) == {"payout_moved_40", "payout_moved_41", "payout_moved_42"}


def test_what_was_paid_by_hand_before_is_moved_to_the_bank(books: Books, tenant: Tenant) -> None:
    """Lost: an installation that paid by hand before never again agrees with what the processor has."""
    step = (Path(__file__).parents[2] / "migrations/0024_pre_collect.sql").read_text().partition("do $$")
    clearing, bank = books.account("stripe_clearing"), books.account("bank")
    apart = books.open_account("payout_clearing", tenant.developer)
    earn(books, tenant, 20 * CENT)
    for status, amount in (("paid", 4 * CENT), ("paid", 5 * CENT), ("failed", 3 * CENT), ("requested", 1 * CENT)):
        payout = uuid7()
        assert open_payout(books, tenant, amount, payout=payout)[0] == DONE
        _row(books, tenant, status, amount, payout=payout)
        if status != "requested":
            assert books.transfer(41, apart, clearing, amount, event=payout) == DONE
        if status == "failed":
            assert books.transfer(43, clearing, tenant.earnings, amount, event=payout) == DONE
    for _ in range(2):  # harmless to repeat
        with books.connection.cursor() as cursor:
            cursor.execute((step[1] + step[2]).encode())
        assert (books.posted(clearing), books.posted(bank)) == (0, 9 * CENT)
