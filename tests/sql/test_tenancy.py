"""Row-level security: a tx that was told whose rows it may see sees those, and one that was not told sees none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from books import E8, Books, Settlement, Tenant

from faucet.kit.ids import uuid7

TABLES = (
    "developer", "app", "feature", "feature_version", "end_user", "session", "account", "hold", "hold_resolution",
    "usage_event", "developer_token", "audit_log", "top_up", "top_up_reversal", "top_up_refund", "payment_customer",
    "auto_top_up", "payout", "payout_account", "usage_hour", "period_sum", "statement", "webhook_endpoint",
    "webhook_event", "webhook_delivery", "webhook_attempt", "promo_redemption",
    "free_quota_month", "local_usage_report",
)  # fmt: skip


@pytest.fixture(scope="module")
def books(module_dsn: str) -> Iterator[Books]:
    """One database for the whole file: nothing here changes what another test reads."""
    with psycopg.connect(module_dsn, autocommit=True) as connection:
        yield Books(connection)


@pytest.fixture(scope="module")
def two(books: Books) -> tuple[Tenant, Tenant]:
    """Two developers, each with a row in every table."""
    return _full(books), _full(books)


_PAYMENTS = (
    "insert into top_up (id, developer_id, app_id, end_user_id, wallet_id, kind, amount_e8, checkout_session_id)"
    " values (%(app)s, %(developer)s, %(app)s, %(end_user)s, %(wallet)s, 'checkout', 1000000, %(id)s::text)",
    "insert into top_up_reversal (id, developer_id, top_up_id, wallet_id, kind, amount_e8, taken_e8, written_off_e8,"
    " state) values (%(id)s::text, %(developer)s, %(app)s, %(wallet)s, 'refund', 1, 1, 0, 'gone')",
    "insert into top_up_refund (id, developer_id, top_up_id, amount_e8, reason, asked_by)"
    " values (%(id)s, %(developer)s, %(app)s, 1000000, 'r', 'operator')",
    "insert into payment_customer (end_user_id, developer_id, customer_id)"
    " values (%(end_user)s, %(developer)s, %(id)s::text)",
    "insert into auto_top_up (wallet_id, developer_id, app_id, end_user_id, status, threshold_e8, amount_e8,"
    " monthly_cap_e8, consented_at) values (%(wallet)s, %(developer)s, %(app)s, %(end_user)s, 'on', 1, 1000000,"
    " 1000000, now())",
)


def _full(books: Books) -> Tenant:
    tenant = books.tenant(10 * E8)
    assert books.settle(Settlement(tenant, books.held(tenant, E8), cost=100)) == [0]
    books.held(tenant, E8)
    released = books.held(tenant, E8)
    books.rows("select release_v1(%s, array['released'], array['test'])", [released], role="faucet_gateway")
    row_id = uuid7()
    for statement in (
        "insert into feature_version (feature_id, version, developer_id, display_name, policy, pricing, created_by)"
        " values (%(feature)s, 1, %(developer)s, 'F', '{}', '{}', 'test')",
        "insert into developer_token (id, developer_id, name, token_hash, token_prefix, scopes, created_by)"
        " values (gen_random_uuid(), %(developer)s, 'T', sha256(%(id)s::text::bytea), 'mf_dev_', '{s}', 'test')",
        "insert into local_usage_report (end_user_id, request_id, developer_id, event_id, fingerprint, happened_at)"
        " values (%(end_user)s, 'r', %(developer)s, gen_random_uuid(), sha256(''), now())",
        "insert into audit_log (id, developer_id, actor_scope, action, resource_type)"
        " values (gen_random_uuid(), %(developer)s, 'operator', 'a', 'app')",
        "insert into payout (id, developer_id, amount_e8, provider, requested_by)"
        " values (gen_random_uuid(), %(developer)s, 1000000, 'manual', 'operator')",
        "insert into payout_account (developer_id, provider_account_id) values (%(developer)s, %(id)s::text)",
        "insert into free_quota_month (developer_id, month) values (%(developer)s, '2026-01-01')",
        "insert into session (id, developer_id, app_id, end_user_id, bearer_hash, expires_at)"
        " values (gen_random_uuid(), %(developer)s, %(app)s, %(end_user)s, sha256(%(id)s::text::bytea), 'infinity')",
        "insert into usage_hour values (now(), %(developer)s, %(app)s, null, null, 'p', 'm', 0, 1, 1, 1, 1, 1, 1, 1)",
        "insert into period (month, asked_by) values ('2026-01-01', 'test') on conflict do nothing",
        "insert into period_sum values ('2026-01-01', %(wallet)s, 12, 5, %(developer)s)",
        "insert into statement_key values ('k', sha256('k')) on conflict do nothing",
        "insert into statement (id, month, developer_id, body, hash, signature, key_id) values (gen_random_uuid(),"
        " '2026-01-01', %(developer)s, '{}', sha256('x'), sha512('x'), 'k')",
        *_PAYMENTS,
        "insert into webhook_endpoint (id, developer_id, url, created_by)"
        " values (%(id)s, %(developer)s, 'https://a.example.com', 'test')",
        "insert into webhook_event (id, developer_id, type, data) values (%(id)s, %(developer)s, 'ping', '{}')",
        "insert into webhook_delivery (event_id, endpoint_id, developer_id) values (%(id)s, %(id)s, %(developer)s)",
        "insert into webhook_attempt (id, event_id, endpoint_id, developer_id, number, status_code, duration_ms)"
        " values (%(id)s, %(id)s, %(id)s, %(developer)s, 1, 200, 1)",
        "insert into promo_code (id, code, amount_e8, redemptions_max, app_id, developer_id, created_by)"
        " values (%(id)s, upper(left(%(id)s::text, 36)), 1, 1, %(app)s, %(developer)s, 'test')",
        "insert into promo_redemption (promo_code_id, end_user_id, developer_id, app_id, wallet_id, amount_e8)"
        " values (%(id)s, %(end_user)s, %(developer)s, %(app)s, %(wallet)s, 1)",
    ):
        books.connection.execute(statement.encode(), vars(tenant) | {"id": row_id})
    return tenant


def _as(books: Books, who: str | None, query: str, *values: Any) -> list[tuple[Any, ...]]:
    with books.connection.transaction():
        books.connection.execute("set local role faucet_api")
        if who is not None:
            books.connection.execute("select set_config('faucet.developer_id', %s, true)", (who,))
        cursor = books.connection.execute(query.encode(), values)
        return cursor.fetchall() if cursor.description else [(cursor.rowcount,)]


def _owners(books: Books, who: str | None, table: str) -> set[UUID | None]:
    column = "id" if table == "developer" else "developer_id"
    return {row[0] for row in _as(books, who, f"select {column} from {table}")}


@pytest.mark.parametrize("table", TABLES)
def test_a_tx_sees_its_own_developer_s_rows(books: Books, two: tuple[Tenant, Tenant], table: str) -> None:
    """Lost: a query that forgets its condition shows one developer another's rows."""
    first, second = two
    assert _owners(books, str(first.developer), table) == {first.developer}
    assert _owners(books, str(second.developer), table) == {second.developer}
    assert _owners(books, "*", table) >= {first.developer, second.developer}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("who", [None, "", "null", "%", str(UUID(int=0))])
def test_a_tx_that_was_not_told_sees_nothing(
    books: Books, two: tuple[Tenant, Tenant], table: str, who: str | None
) -> None:
    """Lost: a route that forgets to say whose tx it is serves everybody's rows."""
    assert _owners(books, who, table) == set()


def test_another_s_rows_are_neither_changed_nor_made(books: Books, two: tuple[Tenant, Tenant]) -> None:
    """Lost: a developer renames another's app, or makes a token for another."""
    first, second = two
    me = str(first.developer)
    assert _as(books, me, "update app set name = 'Mine' where id = %s", second.app) == [(0,)]
    assert _as(books, me, "update app set name = 'Mine' where id = %s", first.app) == [(1,)]
    for statement, values in (
        ("update app set developer_id = %s where id = %s", (second.developer, first.app)),
        ("insert into app (id, developer_id, public_app_id, name) values (%s, %s, 'x', 'X')",
         (uuid7(), second.developer)),
        ("insert into audit_log (id, developer_id, actor_scope, action, resource_type) values (%s, %s, 'o', 'a', 'b')",
         (uuid7(), second.developer)),
    ):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            _as(books, me, statement, *values)


def test_a_promo_code_is_seen_by_whom_it_is_for(books: Books, two: tuple[Tenant, Tenant]) -> None:
    """Lost: another's app's code can be looked up; or one of all apps can't be redeemed by anybody."""
    first, second = two
    books.rows(
        "insert into promo_code (id, code, amount_e8, redemptions_max, created_by) values (%s, 'FOR-ALL', 1, 1, 'o')",
        uuid7(),
    )
    for who, owners in (
        (str(first.developer), {first.developer, None}),
        (str(second.developer), {second.developer, None}),
        ("*", {first.developer, second.developer, None}),
        (None, set()),
        ("", set()),
    ):
        assert _owners(books, who, "promo_code") == owners


def test_the_setting_ends_with_its_tx(books: Books, two: tuple[Tenant, Tenant]) -> None:
    """Lost: the next request on the same connection is served as the one before."""
    assert _owners(books, "*", "app")
    assert _owners(books, None, "app") == set()


def test_the_gateway_and_the_jobs_serve_everybody(books: Books, two: tuple[Tenant, Tenant]) -> None:
    """Lost: a gateway that knows no feature; holds that never expire."""
    first, second = two
    for role in ("faucet_gateway", "faucet_jobs"):
        assert {row[0] for row in books.rows("select developer_id from feature", role=role)} == {
            first.developer,
            second.developer,
        }


def test_no_table_of_tenants_is_without_a_policy(books: Books) -> None:
    """Lost: a table that is added later and that nothing guards."""
    rows = books.rows(
        "select distinct c.relname from pg_attribute a join pg_class c on c.oid = a.attrelid"
        " where a.attname = 'developer_id' and c.relkind = 'r' and c.relnamespace = 'public'::regnamespace"
        " and not c.relrowsecurity"
    )
    assert rows == []
