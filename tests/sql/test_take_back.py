"""Taking money back from a wallet: what is there beyond holds, once per key, and never more, under any race."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest
from books import Books, Hold, Tenant

from faucet.kit.ids import uuid7

REFUND, CHARGE_BACK, ADJUST = 20, 22, 31


def take(books: Books, tenant: Tenant, amount: int, key: str, code: int = REFUND) -> tuple[int, int, int]:
    """The status, what was taken, what was written off."""
    row = books.row(
        "select status, taken, written_off from take_back_v1(%s, %s::smallint, %s, %s, %s, 'test')",
        uuid7(), code, tenant.wallet, amount, key, role="faucet_jobs",
    )  # fmt: skip
    assert row is not None
    return row[0], row[1], row[2]


def _frozen(books: Books, tenant: Tenant) -> bool:
    return bool(books.one("select frozen_at is not null from account where id = %s", tenant.wallet))


@pytest.mark.parametrize("code", [REFUND, CHARGE_BACK, ADJUST])
def test_what_is_there_is_taken_and_the_rest_written_off(books: Books, code: int) -> None:
    """Lost: a wallet below zero, or a loss that nobody books."""
    tenant = books.tenant(100)
    books.held(tenant, 30)
    assert take(books, tenant, 50, "a", code) == (0, 50, 0) and not _frozen(books, tenant)
    assert take(books, tenant, 50, "b", code) == (0, 20, 30) and _frozen(books, tenant)
    assert take(books, tenant, 7, "c", code) == (0, 0, 7)
    assert books.balance(tenant.wallet) == (30, 30)
    rows = books.rows(
        "select code, sum(amount_e8)::int from transfer where code between 20 and 39 group by 1 order by 1"
    )
    assert rows == [(code, 70), (code + 1, 37)]
    assert books.posted(books.account("adjustments" if code == ADJUST else "stripe_clearing")) == 107
    assert books.one("select sum(posted_e8)::int from account") == 0


def test_a_key_takes_once(books: Books) -> None:
    """Lost: a repeated event takes twice."""
    tenant = books.tenant(10)
    assert take(books, tenant, 15, "k") == (0, 10, 5)
    books.credit(tenant.wallet, 100)
    assert take(books, tenant, 15, "k") == (4, 10, 5)
    assert take(books, tenant, 16, "k")[0] == 5
    assert books.balance(tenant.wallet) == (100, 0)
    for amount, code in ((0, REFUND), (-5, REFUND), (5, 12), (5, 21), (5, 32)):
        assert take(books, tenant, amount, "other", code)[0] == 6
    assert take(books, replace(tenant, wallet=tenant.earnings), 5, "other")[0] == 6


def test_many_at_once_take_what_is_there_once(books: Books, dsn: str) -> None:
    """Lost: two refunds and a hold that each believe the same money to be theirs."""
    tenant = books.tenant(1_000)

    def work(number: int) -> tuple[int, int, int]:
        with psycopg.connect(dsn, autocommit=True) as connection:
            own = Books(connection)
            if number % 3 == 0:
                own.hold(Hold(tenant, 60))
            return take(own, tenant, 90, f"r{number // 2}", (REFUND, CHARGE_BACK)[number // 2 % 2])

    with ThreadPoolExecutor(12) as pool:
        done = list(pool.map(work, range(24)))
    assert {status for status, _, _ in done} == {0, 4}
    assert sum(status == 0 for status, _, _ in done) == 12
    posted, held = books.balance(tenant.wallet)
    taken = sum(row[1] for row in done if row[0] == 0)
    lost = sum(row[2] for row in done if row[0] == 0)
    assert taken + lost == 12 * 90 and posted == 1_000 - taken >= held
    assert books.one("select sum(posted_e8)::int from account") == 0


def test_a_frozen_wallet_is_let_go_by_the_api_alone(books: Books) -> None:
    """Lost: a frozen wallet that anybody thaws."""
    tenant = books.tenant(10)
    assert take(books, tenant, 11, "k") == (0, 10, 1)
    for role in ("faucet_gateway", "faucet_jobs"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            books.rows("select wallet_freeze_v1(%s, false)", tenant.wallet, role=role)
    thaw = "select wallet_freeze_v1(%s, false)"
    assert [books.one(thaw, tenant.wallet, role="faucet_api") for _ in range(2)] == [True, False]
    assert not books.one("select wallet_freeze_v1(%s, true)", tenant.earnings, role="faucet_api")
