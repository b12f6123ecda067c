"""Each difference that the books can have is found, and sound books show none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from books import Books, Settlement, Tenant

from faucet.kit.db import open_pool
from faucet.kit.ids import uuid7
from faucet.reports.finding import Finding
from faucet.reports.reconciliation import begin_snapshot, reconcile


def findings(dsn: str, since: datetime | None = None) -> list[Finding]:
    """What a jobs' process finds."""

    async def work() -> list[Finding]:
        pool = await open_pool(dsn, "faucet_jobs", size=1)
        try:
            async with pool.connection() as connection, connection.transaction():
                await begin_snapshot(connection)
                return await reconcile(connection, since=since)
        finally:
            await pool.close()

    return asyncio.run(work())


@pytest.fixture
def busy(books: Books) -> Tenant:
    """Books with everything in them: settled, written off, late, expired, released, held; limits at two scopes."""
    tenant = books.tenant(1_000_000)
    books.limit("app", tenant.app, "month", 10**9)
    books.limit("session", tenant.session, "total", 10**9)
    for payer in range(4):
        hold = books.held(tenant, 500)
        parts = {"cost": 200, "channel": 24, "platform": 36} if payer < 2 else {"channel": 4, "platform": 6}
        assert books.settle(Settlement(tenant, hold, payer=payer, **parts)) == [0]
    assert books.settle(Settlement(tenant, books.held(tenant, 100), cost=150, channel=5, platform=5)) == [0]
    late, gone = books.held(tenant, 300), books.held(tenant, 300)
    for hold in (late, gone):
        books.run_out(hold)
    books.expire()
    assert books.settle(Settlement(tenant, late, cost=200)) == [0]
    assert books.release(books.held(tenant, 70)) == [0]
    books.held(tenant, 40)
    return tenant


def test_sound_books_have_no_findings(busy: Tenant, dsn: str) -> None:
    """Lost: alarms that mean nothing."""
    assert findings(dsn) == []
    assert findings(dsn, since=datetime.now(UTC) - timedelta(hours=1)) == []
    assert findings(dsn, since=datetime.now(UTC) + timedelta(hours=1)) == []


Break = Callable[[Books, Tenant], None]

_EVENT = "(select id from usage_event where payer = 0 order by id limit 1)"


def _as_rows(answer: str) -> str:
    """Makes transfers rows, as those that were booked long ago are, and those of which a part is written off."""
    return (
        f"insert into transfer_row select t.* from transfer t where event_id = {answer};"
        " update usage_event set cost_account = null, earnings_account = null, revenue_account = null"
        f" where id = {answer};"
    )


_AS_ROWS = _as_rows(_EVENT)
_OTHERS_AS_ROWS = "".join(_as_rows(f"(select id from usage_event where payer = {payer})") for payer in (1, 3))
_CHANGED = "update usage_event set platform_e8 = platform_e8 + 1, write_off_e8 = write_off_e8 + 1 where payer = 1"
_CHARGED = "update usage_event set platform_e8 = 9, retail_e8 = 13 where payer = 3"


def _sql(statement: str) -> Break:
    def run(books: Books, tenant: Tenant) -> None:
        books.rows(statement.replace("WALLET", str(tenant.wallet)).replace("COST", str(tenant.cost)))

    return run


def _unprotected(statement: str) -> Break:
    """What only somebody who switched the triggers off can do."""

    def run(books: Books, tenant: Tenant) -> None:
        books.rows("set session_replication_role = replica")
        books.rows(statement.replace("WALLET", str(tenant.wallet)).replace("COST", str(tenant.cost)))
        books.rows("reset session_replication_role")

    return run


def _ghost_hold(books: Books, tenant: Tenant) -> None:
    books.rows(
        "insert into hold (id, wallet_id, developer_id, app_id, end_user_id, session_id, amount_e8, lease_expires_at)"
        " values (%s, %s, %s, %s, %s, %s, 5, now() + interval '1 hour')",
        uuid7(),
        tenant.wallet,
        tenant.developer,
        tenant.app,
        tenant.end_user,
        tenant.session,
    )


def _swapped_wallets(books: Books, tenant: Tenant) -> None:
    other = books.end_user(tenant, 1_000)
    for end_user in (tenant, other):
        assert books.settle(Settlement(end_user, books.held(end_user, 50), channel=11, platform=13)) == [0]
    books.rows("set session_replication_role = replica")
    books.rows(
        "update usage_event u set wallet_id = o.wallet_id from usage_event o"
        " where u.channel_e8 = 11 and o.channel_e8 = 11 and o.id <> u.id"
    )
    books.rows("reset session_replication_role")


def _budget(books: Books, tenant: Tenant, statement: str) -> None:
    """A key's budget with an answer in it, and then this."""
    key, credential, hold = uuid7(), uuid7(), books.held(tenant, 30)
    books.rows(
        "insert into vault_key (id, public_key, wrapped, kek) values (%s, %s, %s, 'local:x')", key, b"k" * 32, b"w" * 60
    )
    books.rows(
        "insert into credential (id, owner, developer_id, provider, sealed, key_id, mask, budget_limit_e8)"
        " values (%s, 'developer', %s, 'openai', %s, %s, 'sk-...', 1000)",
        credential, tenant.developer, b"s" * 60, key,
    )  # fmt: skip
    books.rows(
        "select budget_group_v1('{}', '{}', '{}', '{}', array[%s]::uuid[], array[%s]::uuid[], array[30]::bigint[])",
        hold,
        credential,
    )
    books.rows(statement)


BREAKS: dict[str, tuple[Break, set[str]]] = {
    "a balance was changed": (
        _sql("update account set posted_e8 = posted_e8 + 1 where id = WALLET"),
        {"account_balance", "trial_balance"},
    ),
    "two balances were changed so that their sum is right": (
        _sql(
            "update account set posted_e8 = posted_e8 + case id when COST then 1 else -1 end where id in (COST, WALLET)"
        ),
        {"account_balance"},
    ),
    "a held balance was changed": (
        _sql("update account set held_e8 = held_e8 + 1 where id = WALLET"),
        {"held_balance"},
    ),
    "a hold that no wallet knows": (_ghost_hold, {"held_balance"}),
    "a hold that nobody gave back": (
        _sql("update hold set lease_expires_at = now() - interval '31 seconds'"),
        {"stale_hold"},
    ),
    "a transfer was removed": (
        _unprotected(f"{_AS_ROWS} delete from transfer_row where code = 2 and event_id = {_EVENT}"),
        {"usage_channel", "usage_paid", "account_balance"},
    ),
    "a transfer was changed": (
        _unprotected(
            f"{_AS_ROWS} update transfer_row set amount_e8 = amount_e8 + 1 where code = 1 and event_id = {_EVENT}"
        ),
        {"usage_cost", "usage_paid", "account_balance"},
    ),
    "a transfer was booked to another's wallet": (
        _unprotected(
            f"{_AS_ROWS} update transfer_row set debit_id = debit_id + 1000 where code = 1 and event_id = {_EVENT}"
        ),
        {"usage_wallet", "account_balance", "account_missing"},
    ),
    "a transfer was booked to another provider's account": (
        _unprotected(
            f"{_AS_ROWS} insert into account (public_id, kind, developer_id, label) select gen_random_uuid(), kind,"
            " developer_id, 'other' from account where id = COST; update transfer_row set credit_id = (select id from"
            f" account where label = 'other') where code = 1 and event_id = {_EVENT}"
        ),
        {"usage_account", "account_balance"},
    ),
    "an answer's cost was booked to another provider's account": (
        _unprotected(
            "insert into account (public_id, kind, developer_id, label) select gen_random_uuid(), kind, developer_id,"
            " 'other' from account where id = COST; update usage_event set cost_account = (select id from account"
            f" where label = 'other') where id = {_EVENT}"
        ),
        {"usage_account", "account_balance"},
    ),
    "an answer's share was booked to an account that may not get it": (
        _unprotected(f"update usage_event set earnings_account = revenue_account where id = {_EVENT}"),
        {"unknown_move", "account_balance"},
    ),
    "an answer was booked to another's wallet": (
        _unprotected(f"update usage_event set wallet_id = wallet_id + 1000 where id = {_EVENT}"),
        {"account_balance", "account_missing"},
    ),
    "two answers were booked to each other's wallets": (_swapped_wallets, {"usage_wallet"}),
    "an answer is said to be another person's": (
        _unprotected(f"update usage_event set end_user_id = gen_random_uuid() where id = {_EVENT}"),
        {"usage_wallet"},
    ),
    "an answer doesn't name the account of its share": (
        _unprotected(f"update usage_event set earnings_account = null where id = {_EVENT}"),
        {"usage_channel", "usage_paid", "account_balance", "account_missing"},
    ),
    "an answer names one account of three": (
        _unprotected(f"update usage_event set cost_account = null, earnings_account = null where id = {_EVENT}"),
        {"usage_cost", "usage_channel", "usage_paid", "account_balance"},
    ),
    "a transfer was booked between accounts that it may not": (
        _unprotected(f"{_AS_ROWS} update transfer_row set code = 6 where code = 3 and event_id = {_EVENT}"),
        {"unknown_move", "usage_paid", "usage_write_off"},
    ),
    "a usage event was removed": (
        _unprotected("delete from usage_event where payer = 1"),
        {"account_balance", "counter_spent"},
    ),
    "a usage event was removed, and not its transfers": (
        _unprotected(f"{_OTHERS_AS_ROWS} delete from usage_event where payer = 1"),
        {"usage_missing", "counter_spent"},
    ),
    "a usage event was changed": (
        _unprotected(_CHANGED),
        {"account_balance", "usage_paid", "usage_write_off"},
    ),
    "a usage event was changed, and not its transfers": (
        _unprotected(_OTHERS_AS_ROWS + _CHANGED),
        {"usage_platform", "usage_write_off"},
    ),
    "a charge that no balance knows": (
        _unprotected(_CHARGED),
        {"account_balance", "counter_spent"},
    ),
    "a charge without transfers": (
        _unprotected(_OTHERS_AS_ROWS + _CHARGED),
        {"usage_platform", "usage_paid", "counter_spent"},
    ),
    "a budget's spending was changed": (
        lambda books, tenant: _budget(books, tenant, "update credential_budget set spent_e8 = spent_e8 + 1"),
        {"budget_spent"},
    ),
    "a budget's reserve was changed": (
        lambda books, tenant: _budget(books, tenant, "update credential_budget set held_e8 = held_e8 + 1"),
        {"budget_held"},
    ),
    "a budget's reserve outlived its hold": (
        lambda books, tenant: _budget(
            books,
            tenant,
            "select release_v1(array_agg(id), array_agg('released'::text), array_agg('x'::text)) from hold",
        ),
        {"budget_without_hold"},
    ),
    "a counter's spending was changed": (
        _sql("update spend_counter set spent_e8 = spent_e8 + 1"),
        {"counter_spent"},
    ),
    "a counter's holds were changed": (
        _sql("update spend_counter set held_e8 = held_e8 + 1"),
        {"counter_held"},
    ),
    "a hold was released and settled": (
        _sql("update hold_resolution set settled_late_at = null where settled_late_at is not null"),
        {"settled_and_expired"},
    ),
    "a hold was settled late and there is no answer": (
        _sql("update hold_resolution set settled_late_at = now() where state = 'expired'"),
        {"late_without_usage"},
    ),
    "a hold is open and settled": (
        _unprotected("update hold set id = (select id from usage_event where payer = 2)"),
        {"settled_and_held"},
    ),
    "a hold is open and resolved": (
        _sql("update hold set id = (select id from hold_resolution where state = 'released')"),
        {"resolved_and_held"},
    ),
    "a wallet is below its holds": (
        _sql(
            "alter table account drop constraint no_overdraft;"
            "update account set posted_e8 = held_e8 - 1 where id = WALLET"
        ),
        {"overdrawn", "account_balance", "trial_balance"},
    ),
}


@pytest.mark.parametrize("case", BREAKS)
def test_a_difference_is_found(busy: Tenant, books: Books, dsn: str, case: str) -> None:
    """Lost: books that don't add up and nobody hears of it."""
    damage, expected = BREAKS[case]
    damage(books, busy)
    assert {finding.check for finding in findings(dsn)} == expected


def test_a_finding_names_place_and_figures(busy: Tenant, books: Books, dsn: str) -> None:
    """Lost: an alarm that says that something is wrong and not what."""
    books.rows("update account set held_e8 = held_e8 + 2 where id = %s", busy.wallet)
    public_id = books.one("select public_id from account where id = %s", busy.wallet)
    assert findings(dsn) == [Finding("held_balance", f"wallet {public_id}", 40, 42)]


def test_figures_come_from_one_moment(busy: Tenant, dsn: str) -> None:
    """Lost: traffic while the books are compared looks like a difference."""

    async def work() -> None:
        pool = await open_pool(dsn, "faucet_jobs", size=1)
        try:
            async with pool.connection() as connection, connection.transaction():
                with pytest.raises(ValueError, match="begin_snapshot"):
                    await reconcile(connection)
        finally:
            await pool.close()

    asyncio.run(work())
