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
    "usage_event", "developer_token", "audit_log", "free_quota_month", "local_usage_report",
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


def _full(books: Books) -> Tenant:
    tenant = books.tenant(10 * E8)
    assert books.settle(Settlement(tenant, books.held(tenant, E8), cost=100)) == [0]
    books.held(tenant, E8)
    released = books.held(tenant, E8)
    books.rows("select release_v1(%s, array['released'], array['test'])", [released], role="faucet_gateway")
    for statement in (
        "insert into feature_version (feature_id, version, developer_id, display_name, policy, pricing, created_by)"
        " values (%(feature)s, 1, %(developer)s, 'F', '{}', '{}', 'test')",
        "insert into developer_token (id, developer_id, name, token_hash, token_prefix, scopes, created_by)"
        " values (gen_random_uuid(), %(developer)s, 'T', sha256(%(id)s::text::bytea), 'mf_dev_', '{s}', 'test')",
        "insert into local_usage_report (end_user_id, request_id, developer_id, event_id, fingerprint, happened_at)"
        " values (%(end_user)s, 'r', %(developer)s, gen_random_uuid(), sha256(''), now())",
        "insert into audit_log (id, developer_id, actor_scope, action, resource_type)"
        " values (gen_random_uuid(), %(developer)s, 'operator', 'a', 'app')",
        "insert into free_quota_month (developer_id, month) values (%(developer)s, '2026-01-01')",
        "insert into session (id, developer_id, app_id, end_user_id, bearer_hash, expires_at)"
        " values (gen_random_uuid(), %(developer)s, %(app)s, %(end_user)s, sha256(%(id)s::text::bytea), 'infinity')",
    ):
        books.connection.execute(statement.encode(), vars(tenant) | {"id": uuid7()})
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
