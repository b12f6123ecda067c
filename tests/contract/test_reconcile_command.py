"""`faucet reconcile` names a planted fault of each of the five kinds, by row and amount, and ends with exit code 1."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from io import StringIO
from typing import Any

import pytest
from books import E8, Books, Settlement, Tenant
from past import date_back

from faucet.cli.main import app, main
from faucet.kit.ids import uuid7

DAY = (datetime.now(UTC) - timedelta(days=3)).replace(hour=9, minute=0, second=0, microsecond=0)


@dataclass(frozen=True)
class Planted:
    """What a fault was planted in, and how it is to be named."""

    check: str
    subject: str
    expected: int
    actual: int


def reconcile(dsn: str) -> tuple[int, dict[str, Any], str]:
    """The command's exit code, what it says as JSON, and what it shows."""

    def run(*words: str) -> tuple[int, str]:
        out = StringIO()
        with redirect_stdout(out), redirect_stderr(StringIO()):
            try:
                main(partial(app, ["reconcile", "--database-url", dsn, *words], standalone_mode=True))
                code = 0
            except SystemExit as ended:
                code = int(ended.code or 0)
        return code, out.getvalue()

    code, told = run("--json")
    shown_code, shown = run()
    assert code == shown_code
    return code, json.loads(told), shown


@pytest.fixture
def tenant(books: Books) -> Tenant:
    """A tenant with an answer of three days ago and one of today, and an invoice that fits."""
    tenant = books.tenant(E8)
    assert books.settle(Settlement(tenant, books.held(tenant, 5_000), cost=1_000, channel=40, platform=60)) == [0]
    date_back(books, DAY)
    assert books.settle(Settlement(tenant, books.held(tenant, 5_000), cost=1_000, channel=40, platform=60)) == [0]
    books.held(tenant, 70)
    _invoice(books, 1_000)
    return tenant


def _invoice(books: Books, amount: int) -> None:
    invoice = uuid7()
    books.rows(
        "insert into provider_invoice (id, provider, reference, first_day, last_day, imported_by)"
        " values (%s, 'mock', %s, %s, %s, 'test')",
        invoice,
        str(invoice),
        DAY.date(),
        DAY.date(),
    )
    books.rows("insert into provider_invoice_line values (%s, %s, 'mock-model', %s)", invoice, DAY.date(), amount)


def _unprotected(books: Books, statement: str, *values: Any) -> None:
    books.rows("set session_replication_role = replica")
    books.rows(statement, *values)
    books.rows("reset session_replication_role")


def _balance(books: Books, tenant: Tenant) -> Planted:
    before = books.posted(tenant.wallet)
    books.rows("update account set posted_e8 = posted_e8 + 1 where id = %s", tenant.wallet)
    public_id = books.one("select public_id from account where id = %s", tenant.wallet)
    return Planted("account_balance", f"wallet {public_id}", before, before + 1)


def _usage(books: Books, tenant: Tenant) -> Planted:
    answer = books.one("select id from usage_event order by id limit 1")
    _unprotected(books, "insert into transfer_row select * from transfer where event_id = %s", answer)
    _unprotected(
        books,
        "update usage_event set cost_account = null, earnings_account = null, revenue_account = null where id = %s",
        answer,
    )
    _unprotected(books, "update transfer_row set amount_e8 = 39 where event_id = %s and code = 2", answer)
    return Planted("usage_channel", str(answer), 40, 39)


def _held(books: Books, tenant: Tenant) -> Planted:
    books.rows("update account set held_e8 = held_e8 + 5 where id = %s", tenant.wallet)
    public_id = books.one("select public_id from account where id = %s", tenant.wallet)
    return Planted("held_balance", f"wallet {public_id}", 70, 75)


def _top_up(books: Books, tenant: Tenant) -> Planted:
    top_up = uuid7()
    books.rows(
        "insert into top_up (id, developer_id, app_id, end_user_id, wallet_id, kind, amount_e8, status, credited_at,"
        " checkout_session_id)"
        " values (%s, %s, %s, %s, %s, 'checkout', %s, 'credited', now() - interval '2 days', 'cs')",
        top_up,
        tenant.developer,
        tenant.app,
        tenant.end_user,
        tenant.wallet,
        10 * E8,
    )
    clearing = books.account("stripe_clearing")
    assert books.transfer(10, clearing, tenant.wallet, 10 * E8, key=f"top-up:{top_up}") == 0
    return Planted("top_up_event", f"top-up {top_up}", 10 * E8, 0)


def _billed(books: Books, tenant: Tenant) -> Planted:
    _invoice(books, 250)
    return Planted("invoice", f"mock mock-model on {DAY.date()}", 1_000, 1_250)


FAULTS: dict[str, Callable[[Books, Tenant], Planted]] = {
    "1 a balance that is not the sum of its transfers": _balance,
    "2 a usage event that its transfers don't agree with": _usage,
    "3 a held balance that is not the sum of its holds": _held,
    "4 a top-up that the processor never told of": _top_up,
    "5 an invoice that is not what was booked": _billed,
}


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[None]:
    monkeypatch.setenv("FAUCET_DATA", str(tmp_path))
    yield


def test_books_that_add_up_end_well(tenant: Tenant, dsn: str, quiet: None) -> None:
    """Lost: an exit code that says nothing."""
    code, told, shown = reconcile(dsn)
    assert (code, told["ok"], told["findings"]) == (0, True, [])
    assert "nothing differs" in shown


@pytest.mark.parametrize("kind", FAULTS)
def test_a_planted_fault_is_named(tenant: Tenant, books: Books, dsn: str, quiet: None, kind: str) -> None:
    """Lost: an alarm that doesn't say where to look, or no alarm at all."""
    planted = FAULTS[kind](books, tenant)
    code, told, shown = reconcile(dsn)
    assert code == 1 and not told["ok"]
    assert vars_of(planted) in told["findings"]
    for word in (planted.check, str(planted.expected), str(planted.actual)):
        assert word in shown


def vars_of(planted: Planted) -> dict[str, Any]:
    return {name: getattr(planted, name) for name in planted.__dataclass_fields__}
