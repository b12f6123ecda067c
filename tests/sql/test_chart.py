"""The chart of accounts and the list of moves that people read are the ones that the database enforces."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from books import Books

from faucet.kit.ids import uuid7
from faucet.ledger import book
from faucet.ledger.chart import CHART, MOVES, Code, Kind, Owner


@pytest.fixture(scope="module")
def books(module_dsn: str) -> Iterator[Books]:
    """One database for the whole file: nothing here changes what another test reads."""
    with psycopg.connect(module_dsn, autocommit=True) as connection:
        yield Books(connection)


def test_moves_equal_the_table(books: Books) -> None:
    """Lost: a move that reads as possible but isn't, or that is possible and in no file."""
    stored = books.rows("select code, name, debit_kind::text, credit_kind::text from move")
    assert sorted(stored) == sorted((int(m.code), m.name, str(m.debit), str(m.credit)) for m in MOVES)


def test_kinds_equal_the_enum(books: Books) -> None:
    """Lost: an account kind that nobody wrote down an owner for."""
    stored = [row[0] for row in books.rows("select unnest(enum_range(null::account_kind))::text")]
    assert stored == [str(kind) for kind in Kind]
    assert [line.kind for line in CHART] == list(Kind)


@pytest.mark.parametrize("line", CHART, ids=lambda line: str(line.kind))
def test_only_the_named_kinds_go_negative(books: Books, line: object) -> None:
    """Lost: the promise which balances can be below zero."""
    assert isinstance(line, type(CHART[0]))
    owner = uuid7() if line.owner is Owner.END_USER else None
    developer = None if line.owner is Owner.PLATFORM else books.tenant().developer
    account = books.open_account(str(line.kind), developer, owner=owner, label="chart")
    change = "update account set posted_e8 = -1 where id = %s"
    if line.may_be_negative:
        books.rows(change, account)
        assert books.posted(account) == -1
    else:
        with pytest.raises(psycopg.errors.CheckViolation):
            books.rows(change, account)


def test_platform_accounts_exist_from_the_start(books: Books) -> None:
    """Lost: the first grant after an installation fails."""
    stored = {row[0] for row in books.rows("select kind::text from account where developer_id is null")}
    assert stored == {str(line.kind) for line in CHART if line.owner is Owner.PLATFORM}


def test_codes_below_ten_are_the_settlement_s(books: Books) -> None:
    """Lost: an answer's transfers can be told from all others by their code."""
    assert {code for code in Code if code < 10} == {
        Code.SETTLE_COST,
        Code.SETTLE_CHANNEL,
        Code.SETTLE_PLATFORM,
        Code.WRITE_OFF_COST,
        Code.WRITE_OFF_CHANNEL,
        Code.WRITE_OFF_PLATFORM,
    }
    tenant = books.tenant(10)
    assert books.transfer(Code.SETTLE_COST, tenant.wallet, tenant.cost, 1) == book.Status.UNFIT
