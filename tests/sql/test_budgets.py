"""Budgets of stored keys: reserved with the hold, taken with the settlement, freed with everything else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg
import pytest
from books import E8, Books, Settlement, Tenant
from psycopg.errors import CheckViolation

from faucet.kit.ids import uuid7

_GROUP = (
    "select budget_group_v1(%s::uuid[], %s::uuid[], %s::uuid[], %s::bigint[], %s::uuid[], %s::uuid[], %s::bigint[])"
)


@pytest.fixture
def books(dsn: str) -> Iterator[Books]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield Books(connection)


@pytest.fixture
def tenant(books: Books) -> Tenant:
    return books.tenant(10 * E8)


def credential(books: Books, tenant: Tenant, limit: int | None) -> UUID:
    key_id, row_id = uuid7(), uuid7()
    books.rows(
        "insert into vault_key (id, public_key, wrapped, kek) values (%s, %s, %s, 'local:x')",
        key_id,
        os.urandom(32),
        os.urandom(60),
    )
    books.rows(
        "insert into credential (id, owner, developer_id, app_id, end_user_id, provider, sealed, key_id, mask,"
        " budget_limit_e8) values (%s, 'end_user', %s, %s, %s, 'openai', %s, %s, 'sk-...', %s)",
        row_id, tenant.developer, tenant.app, tenant.end_user, os.urandom(60), key_id, limit,
    )  # fmt: skip
    return row_id


def group(
    books: Books,
    *,
    freed: tuple[UUID, ...] = (),
    charged: tuple[tuple[UUID, UUID, int], ...] = (),
    wanted: tuple[tuple[UUID, UUID, int], ...] = (),
) -> list[bool]:
    """Which of the wanted reserves were granted."""
    columns = [*(list(c) for c in (zip(*charged, strict=True) if charged else ((), (), ())))]
    columns += [*(list(c) for c in (zip(*wanted, strict=True) if wanted else ((), (), ())))]
    granted: list[bool] = books.one(_GROUP, list(freed), *columns, role="faucet_gateway")
    return granted


def taken(books: Books, row_id: UUID) -> tuple[int, int]:
    row = books.row("select spent_e8, held_e8 from credential_budget where credential_id = %s", row_id)
    assert row is not None
    return row[0], row[1]


def test_a_request_of_a_budget(books: Books, tenant: Tenant) -> None:
    """Lost: what an answer cost is not taken of the budget, or what it didn't cost stays reserved."""
    key, hold = credential(books, tenant, 100), uuid7()
    assert group(books, wanted=((hold, key, 60),)) == [True]
    assert taken(books, key) == (0, 60)
    assert group(books, wanted=((uuid7(), key, 41),)) == [False]
    assert group(books, freed=(hold,), charged=((hold, key, 35),)) == []
    assert taken(books, key) == (35, 0)
    other = uuid7()
    assert group(books, wanted=((other, key, 65),)) == [True]
    assert group(books, freed=(other,)) == []
    assert taken(books, key) == (35, 0)


def test_repeating_changes_nothing(books: Books, tenant: Tenant) -> None:
    """Lost: a group that is sent again after a lost answer takes twice."""
    key, hold = credential(books, tenant, 100), uuid7()
    for _ in range(2):
        assert group(books, wanted=((hold, key, 40),)) == [True]
    assert taken(books, key) == (0, 40)
    for _ in range(2):
        group(books, freed=(hold,), charged=((hold, key, 30),))
    assert taken(books, key) == (30, 0)
    assert books.rows("select event_id, cost_e8 from budget_charge") == [(hold, 30)]


def test_one_commit_frees_before_it_takes(books: Books, tenant: Tenant) -> None:
    """Lost: a request is refused for what another of the same group has just given back."""
    key, first, second = credential(books, tenant, 50), uuid7(), uuid7()
    group(books, wanted=((first, key, 50),))
    assert group(books, freed=(first,), charged=((first, key, 10),), wanted=((second, key, 40),)) == [True]
    assert taken(books, key) == (10, 40)


def test_first_come_first_served_within_a_group(books: Books, tenant: Tenant) -> None:
    """Lost: a group of requests passes a budget together."""
    key, free = credential(books, tenant, 100), credential(books, tenant, None)
    wanted = tuple((uuid7(), key, 30) for _ in range(5))
    assert group(books, wanted=wanted) == [True, True, True, False, False]
    assert group(books, wanted=((uuid7(), free, 10**12), (uuid7(), uuid7(), 1), (uuid7(), key, -1))) == [
        True,
        False,
        False,
    ]
    assert taken(books, key) == (0, 90)


def test_a_limit_binds_from_when_it_is_set(books: Books, tenant: Tenant) -> None:
    """Lost: a lowered budget is believed later; or a disabled key is reserved on."""
    key = credential(books, tenant, 100)
    books.rows("update credential set budget_limit_e8 = 10 where id = %s", key)
    assert group(books, wanted=((uuid7(), key, 11),)) == [False]
    books.rows("update credential set budget_limit_e8 = null where id = %s", key)
    assert group(books, wanted=((uuid7(), key, 11),)) == [True]
    books.rows("update credential set status = 'disabled', sealed = null, key_id = null where id = %s", key)
    assert group(books, wanted=((uuid7(), key, 1),)) == [False]


def test_a_hold_that_runs_out_frees_its_budget(books: Books, tenant: Tenant) -> None:
    """Lost: a gateway that dies takes a part of the budget with it."""
    key = credential(books, tenant, 100)
    hold = books.held(tenant, 500)
    group(books, wanted=((hold, key, 70),))
    books.run_out(hold)
    assert books.expire() == [hold]
    assert taken(books, key) == (0, 0)
    # Its answer turns up later: it is taken once, from a budget that has let go of the reserve.
    assert books.settle(Settlement(tenant, hold, cost=100)) == [0]
    group(books, freed=(hold,), charged=((hold, key, 20),))
    assert taken(books, key) == (20, 0)


def test_a_burst_never_passes(dsn: str, books: Books, tenant: Tenant) -> None:
    """Lost: many gateways at once reserve more than there is."""
    key, other = credential(books, tenant, 1_000), credential(books, tenant, 1_000)

    def worker(number: int) -> int:
        granted = 0
        with psycopg.connect(dsn, autocommit=True) as connection:
            mine = Books(connection)
            held: list[UUID] = []
            for turn in range(30):
                hold = uuid7()
                pair = (
                    ((hold, key, 40), (hold, other, 40))
                    if (number + turn) % 2
                    else ((hold, other, 40), (hold, key, 40))
                )
                granted += sum(group(mine, freed=tuple(held), charged=tuple((h, key, 1) for h in held), wanted=pair))
                held = [hold]
        return granted

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(worker, range(6))) > 0
    for row_id in (key, other):
        spent, held = taken(books, row_id)
        assert spent + held <= 1_000
        assert held == books.one("select coalesce(sum(held_e8), 0) from budget_hold where credential_id = %s", row_id)
        assert spent == books.one(
            "select coalesce(sum(cost_e8), 0) from budget_charge where credential_id = %s", row_id
        )


def test_reports_of_local_models_move_no_money(books: Books, tenant: Tenant) -> None:
    """Lost: what a bridge reports is charged, or counted twice, or changes what was reported before."""
    books.rows(
        "insert into session (id, developer_id, app_id, end_user_id, bearer_hash, expires_at)"
        " values (%s, %s, %s, %s, %s, 'infinity')",
        tenant.session, tenant.developer, tenant.app, tenant.end_user, os.urandom(32),
    )  # fmt: skip

    def note(event: UUID, name: str, fingerprint: bytes) -> int:
        status: list[int] = books.one(
            "select local_usage_v1(%s, %s, %s, %s, %s, array['ollama'], array['qwen'], %s, %s, %s, %s::timestamptz[])",
            tenant.session, [event], [name], [fingerprint], [tenant.feature], [7], [9], [120], ["2026-02-03"],
            role="faucet_api",
        )  # fmt: skip
        return status[0]

    event = uuid7()
    before = books.rows("select * from account order by id")
    assert note(event, "req_1", b"\1" * 32) == 0
    assert note(uuid7(), "req_1", b"\1" * 32) == 4
    assert note(uuid7(), "req_1", b"\2" * 32) == 5
    row = books.row("select payer, usage_source, retail_e8, held_e8, input_tokens, output_tokens from usage_event")
    assert row == (3, 2, 0, 0, 7, 9)
    assert books.rows("select * from account order by id") == before
    with pytest.raises(CheckViolation):
        note(uuid7(), "x" * 200, b"\3" * 32)
