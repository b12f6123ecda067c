"""What was booked stays as it was booked, whoever asks."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from books import Books, Settlement

ROLES = (None, "faucet_owner", "faucet_gateway", "faucet_api", "faucet_jobs")


@pytest.fixture(scope="module")
def books(module_dsn: str) -> Iterator[Books]:
    """One database for the whole file: nothing here changes what another test reads."""
    with psycopg.connect(module_dsn, autocommit=True) as connection:
        yield Books(connection)


@pytest.fixture(scope="module")
def booked(books: Books) -> Books:
    """Books with one answer in them."""
    tenant = books.tenant(1_000)
    hold = books.held(tenant, 500)
    assert books.settle(Settlement(tenant, hold, cost=100, channel=20, platform=30)) == [0]
    return books


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("table", ["transfer_row", "usage_event"])
@pytest.mark.parametrize(
    "statement",
    ["update {} set created_at = now()", "delete from {}", "truncate {}", "truncate {} cascade"],
)
def test_booked_rows_are_never_changed(booked: Books, table: str, statement: str, role: str | None) -> None:
    """Lost: a transfer or usage event could be altered or removed after the fact, by the owner too."""
    before = booked.rows(f"select * from {table} order by 1, 2")
    with pytest.raises((psycopg.errors.RestrictViolation, psycopg.errors.InsufficientPrivilege)):
        booked.rows(statement.format(table), role=role)
    assert booked.rows(f"select * from {table} order by 1, 2") == before
    assert before


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("statement", ["update {} set created_at = now()", "delete from {}", "truncate {}"])
def test_what_a_budget_was_charged_is_never_changed(books: Books, statement: str, role: str | None) -> None:
    """Lost: what a key's owner has spent could be made to look like less, or more."""
    books.rows(
        "insert into budget_charge (event_id, credential_id, cost_e8) values (gen_random_uuid(), gen_random_uuid(), 1)"
    )
    before = books.rows("select * from budget_charge order by 1")
    with pytest.raises((psycopg.errors.RestrictViolation, psycopg.errors.InsufficientPrivilege)):
        books.rows(statement.format("budget_charge"), role=role)
    assert books.rows("select * from budget_charge order by 1") == before


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("table", ["audit_log", "feature_version"])
@pytest.mark.parametrize("statement", ["update {} set created_at = now()", "delete from {}", "truncate {}"])
def test_what_was_written_down_is_never_changed(books: Books, table: str, statement: str, role: str | None) -> None:
    """Lost: whoever did something could take it out of the log, or change what a feature said."""
    feature = books.tenant().feature
    books.rows(
        "insert into feature_version (feature_id, version, developer_id, display_name, policy, pricing, created_by)"
        " select id, version, developer_id, display_name, policy, pricing, 'test' from feature where id = %s",
        feature,
    )
    books.rows(
        "insert into audit_log (id, actor_scope, action, resource_type)"
        " values (gen_random_uuid(), 'operator', 'a', 'app')"
    )
    before = books.rows(f"select * from {table} order by 1, 2")
    books.rows("select set_config('faucet.developer_id', '*', false)")
    with pytest.raises((psycopg.errors.RestrictViolation, psycopg.errors.InsufficientPrivilege)):
        books.rows(statement.format(table), role=role)
    assert books.rows(f"select * from {table} order by 1, 2") == before
    assert before


@pytest.mark.parametrize("role", (None, "faucet_owner"))
@pytest.mark.parametrize(
    "statement",
    [
        "insert into move values (60, 'gift', 'bank', 'wallet')",
        "update move set credit_kind = 'wallet'",
        "delete from move",
    ],
)
def test_the_list_of_moves_is_fixed(books: Books, statement: str, role: str | None) -> None:
    """Lost: a new way for money to move could appear without a migration that drops a trigger."""
    before = books.rows("select * from move order by 1, 3, 4")
    with pytest.raises(psycopg.errors.RestrictViolation):
        books.rows(statement, role=role)
    assert books.rows("select * from move order by 1, 3, 4") == before


def test_a_decided_price_is_history(books: Books) -> None:
    """Lost: an answer's charge could no longer be recomputed from the price that it names."""
    price = books.one(
        "insert into price (provider, model, tokenizer, context_window, max_output_tokens, input_e8_per_m,"
        " cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m, image_tokens_max, effective_from, source)"
        " values ('mock', 'm', 'words', 1000, 100, 1, 1, 1, 1, 0, now(), 'test') returning id",
        role="faucet_owner",
    )
    with pytest.raises(psycopg.errors.RestrictViolation):
        books.rows("update price set input_e8_per_m = 2 where id = %s", price)
    books.rows("update price set status = 'confirmed', decided_at = now(), decided_by = 'x' where id = %s", price)
    for statement in ("update price set status = 'draft'", "delete from price", "truncate price"):
        with pytest.raises(psycopg.errors.RestrictViolation):
            books.rows(statement)
    assert books.row("select status, input_e8_per_m from price where id = %s", price) == ("confirmed", 1)
