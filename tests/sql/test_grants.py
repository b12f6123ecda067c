"""What each door may do in the database, and that none may write a balance or a row of the ledger."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from books import Books

DOORS = ("faucet_gateway", "faucet_api", "faucet_jobs")
LEDGER = (
    "account", "hold", "hold_resolution", "usage_event", "transfer_row", "move", "spend_limit", "spend_counter",
    "idempotent_reply", "credential_budget", "budget_hold", "budget_charge", "local_usage_report", "ledger_horizon",
    "usage_hour", "usage_rolled", "period_sum",
)  # fmt: skip
WRITES = ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")

_WRITABLE = {
    ("faucet_api", "developer"): {"INSERT", "UPDATE"},
    ("faucet_api", "app"): {"INSERT", "UPDATE"},
    ("faucet_api", "feature"): {"INSERT", "UPDATE"},
    ("faucet_api", "end_user"): {"INSERT"},
    ("faucet_api", "session"): {"INSERT"},
    ("faucet_api", "price"): {"INSERT"},
    ("faucet_api", "credential"): {"INSERT"},
    ("faucet_api", "local_endpoint"): {"INSERT", "DELETE"},
    ("faucet_api", "developer_token"): {"INSERT"},
    ("faucet_api", "feature_version"): {"INSERT"},
    ("faucet_api", "app_signing_key"): {"INSERT"},
    ("faucet_api", "end_user_token_seen"): {"INSERT"},
    ("faucet_jobs", "end_user_token_seen"): {"DELETE"},
    ("faucet_api", "audit_log"): {"INSERT"},
    ("faucet_api", "api_idempotency"): {"INSERT", "UPDATE", "DELETE"},
    ("faucet_api", "kill_switch"): {"INSERT", "UPDATE", "DELETE"},
    ("faucet_api", "webhook_endpoint"): {"INSERT", "DELETE"},
    ("faucet_api", "webhook_secret"): {"INSERT", "DELETE"},
    ("faucet_api", "webhook_event"): {"INSERT"},
    ("faucet_api", "webhook_delivery"): {"INSERT"},
    ("faucet_api", "promo_code"): {"INSERT"},
    ("faucet_api", "promo_redemption"): {"INSERT"},
    ("faucet_gateway", "limit_refusal"): {"INSERT"},
    ("faucet_jobs", "webhook_secret"): {"DELETE"},
    ("faucet_jobs", "webhook_event"): {"INSERT", "DELETE"},
    ("faucet_jobs", "webhook_delivery"): {"INSERT"},
    ("faucet_jobs", "webhook_attempt"): {"INSERT"},
    ("faucet_jobs", "wallet_low"): {"INSERT", "DELETE"},
    ("faucet_jobs", "limit_refusal"): {"DELETE"},
    ("faucet_jobs", "sweep_mark"): {"INSERT"},
    ("faucet_jobs", "api_idempotency"): {"DELETE"},
    ("faucet_jobs", "audit_log"): {"INSERT"},
    ("faucet_jobs", "price"): {"INSERT"},
    ("faucet_jobs", "session"): {"DELETE"},
    ("faucet_api", "period"): {"INSERT"},
    ("faucet_api", "provider_invoice"): {"INSERT"},
    ("faucet_api", "provider_invoice_line"): {"INSERT"},
    ("faucet_jobs", "period"): {"INSERT"},
    ("faucet_jobs", "statement"): {"INSERT"},
    ("faucet_jobs", "statement_key"): {"INSERT"},
    ("faucet_jobs", "idempotent_reply"): {"DELETE"},
    ("faucet_api", "payout"): {"INSERT"},
    ("faucet_api", "payout_account"): {"INSERT"},
    ("faucet_jobs", "payout"): {"INSERT"},
    ("faucet_jobs", "payout_account"): {"INSERT"},
    ("faucet_api", "stripe_event"): {"INSERT"},
    ("faucet_jobs", "stripe_event"): {"DELETE"},
    ("faucet_api", "top_up"): {"INSERT"},
    ("faucet_jobs", "top_up"): {"INSERT"},
    ("faucet_api", "top_up_reversal"): {"INSERT"},
    ("faucet_jobs", "top_up_reversal"): {"INSERT"},
    ("faucet_api", "top_up_refund"): {"INSERT"},
    ("faucet_api", "payment_customer"): {"INSERT"},
    ("faucet_api", "auto_top_up"): {"INSERT"},
}
"""Every whole-table write that a door has; what is not here is refused."""

_COLUMNS = {
    ("faucet_api", "developer_token"): {"last_used_at", "revoked_at", "updated_at"},
    ("faucet_api", "session"): {"revoked_at"},
    ("faucet_api", "app_signing_key"): {"revoked_at"},
    ("faucet_api", "price"): {"status", "decided_at", "decided_by"},
    ("faucet_api", "credential"): {
        "sealed", "key_id", "mask", "models_allowed", "priority", "weight", "budget_limit_e8",
        "fallback_to_platform", "status", "last_validated_at", "validation_asked_at", "validation_answer", "updated_at",
        "failing_since", "last_error_code",
    },
    ("faucet_gateway", "credential"): {
        "last_used_at", "last_validated_at", "validation_asked_at", "validation_answer", "use_count", "failing_since",
        "last_error_code",
    },
    ("faucet_jobs", "price"): {"status", "decided_at", "decided_by"},
    ("faucet_api", "provider_invoice"): {"withdrawn_at"},
    ("faucet_jobs", "period"): {"closed_at", "statements"},
    ("faucet_api", "payout"): {
        "status", "approved_by", "operator_note", "reason", "provider_payout_id", "next_attempt_at", "approved_at",
        "sent_at", "paid_at", "stop_asked_at", "ended_at", "updated_at",
    },
    ("faucet_jobs", "payout"): {
        "status", "reason", "attempts", "key_number", "next_attempt_at", "last_error", "provider_transfer_id",
        "provider_payout_id", "provider_reversal_id", "sent_at", "paid_at", "stop_asked_at", "ended_at", "updated_at",
    },
    ("faucet_api", "payout_account"): {"is_ready", "updated_at"},
    ("faucet_jobs", "payout_account"): {"is_ready", "updated_at"},
    **{(door, table): columns for door in ("faucet_api", "faucet_jobs") for table, columns in {
        "stripe_event": {"outcome", "reason", "attempts", "next_at", "settled_at"},
        "top_up": {
            "status", "reason", "checkout_url", "payment_intent_id", "fee_e8", "receipt_number", "receipt_url",
            "updated_at", "credited_at",
        },
        "top_up_reversal": {"state", "healed_e8", "updated_at"},
        "top_up_refund": {"status", "reversal_id", "failure", "updated_at"},
        "payment_customer": {"payment_method_id", "card_brand", "card_last4", "updated_at"},
    }.items()},
    ("faucet_api", "auto_top_up"): {
        "status", "threshold_e8", "amount_e8", "monthly_cap_e8", "failures", "pause_reason", "consented_at",
        "updated_at",
    },
    ("faucet_jobs", "auto_top_up"): {"status", "failures", "pause_reason", "updated_at"},
    ("faucet_api", "webhook_endpoint"): {
        "url", "description", "event_types", "status", "disabled_reason", "failing_since", "updated_at",
    },
    ("faucet_api", "webhook_secret"): {"expires_at"},
    ("faucet_api", "webhook_delivery"): {"state", "tries", "due_at", "updated_at"},
    ("faucet_api", "promo_code"): {"redemptions", "disabled_at"},
    ("faucet_jobs", "webhook_endpoint"): {"status", "disabled_reason", "failing_since", "updated_at"},
    ("faucet_jobs", "webhook_delivery"): {"state", "tries", "due_at", "updated_at"},
    ("faucet_jobs", "sweep_mark"): {"seen_until"},
}  # fmt: skip
"""Columns that a door may update where it may not update the table."""

_FUNCTIONS = {
    "faucet_gateway": {
        "group_v1", "group_v2", "hold_v1", "settle_v1", "settle_v2", "allowance_open_v1", "release_v1", "renew_v1",
        "reply_claim_v1", "reply_keep_v1", "reply_unclaim_v1", "session_resolve_v1", "session_alive_v1",
        "provider_cost_account_v1", "budget_group_v1", "developer_token_holder_v1", "generation_v1",
    },
    "faucet_api": {
        "transfer_v1", "account_open_v1", "spend_limit_set_v1", "session_limit_open_v1", "take_back_v1",
        "sessions_end_unvouched_v1", "wallet_freeze_v1", "earnings_mature_v1", "payout_open_v1", "local_usage_v1",
        "account_moved_v1", "ledger_begins_v1",
    },
    "faucet_jobs": {
        "transfer_v1", "account_open_v1", "expire_holds_v1", "release_v1", "take_back_v1", "sessions_end_unvouched_v1",
        "earnings_mature_v1", "payout_open_v1", "account_moved_v1", "ledger_begins_v1",
        "ledger_finalize_v1", "usage_roll_up_v1", "period_sum_v1",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def books(module_dsn: str) -> Iterator[Books]:
    """One database for the whole file: nothing here changes what another test reads."""
    with psycopg.connect(module_dsn, autocommit=True) as connection:
        yield Books(connection)


def _tables(books: Books) -> list[str]:
    rows = books.rows(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'v')"
    )
    return sorted(row[0] for row in rows)


@pytest.mark.parametrize("door", DOORS)
def test_a_door_writes_only_what_is_listed(books: Books, door: str) -> None:
    """Lost: a door that was broken into could write balances, transfers or another room's rows."""
    found: dict[tuple[str, str], set[str]] = {}
    for table in _tables(books):
        for privilege in WRITES:
            if books.one("select has_table_privilege(%s, %s, %s)", door, table, privilege):
                found.setdefault((door, table), set()).add(privilege)
    assert found == {key: value for key, value in _WRITABLE.items() if key[0] == door}


@pytest.mark.parametrize("door", DOORS)
def test_a_door_updates_only_the_listed_columns(books: Books, door: str) -> None:
    """Lost: a session could be moved to another user, a confirmed price changed."""
    found: dict[tuple[str, str], set[str]] = {}
    rows = books.rows(
        "select c.relname, a.attname from pg_attribute a join pg_class c on c.oid = a.attrelid"
        " where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and a.attnum > 0"
        " and has_column_privilege(%s, c.oid, a.attnum, 'UPDATE') and not has_table_privilege(%s, c.oid, 'UPDATE')",
        door,
        door,
    )
    for table, column in rows:
        found.setdefault((door, table), set()).add(column)
    assert found == {key: value for key, value in _COLUMNS.items() if key[0] == door}


@pytest.mark.parametrize("door", DOORS)
def test_a_door_calls_only_the_listed_functions(books: Books, door: str) -> None:
    """Lost: the door that faces the crowd could grant itself money; public could call anything."""
    rows = books.rows(
        "select proname from pg_proc where pronamespace = 'public'::regnamespace"
        " and has_function_privilege(%s, oid, 'EXECUTE') and prorettype <> 'trigger'::regtype",
        door,
    )
    assert {row[0] for row in rows} == _FUNCTIONS[door]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("table", LEDGER)
def test_writes_to_the_ledger_are_really_refused(books: Books, door: str, table: str) -> None:
    """Lost: the catalogue says no but a statement goes through."""
    statements = [f"insert into {table} default values", f"truncate {table}"]
    if (door, table) not in _WRITABLE:
        statements.append(f"delete from {table}")
    column = books.one(
        "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and attgenerated = ''"
        " and attidentity = '' limit 1",
        table,
    )
    statements.append(f"update {table} set {column} = default")
    for statement in statements:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            books.rows(statement, role=door)


@pytest.mark.parametrize("door", DOORS)
def test_doors_own_nothing_and_have_no_powers(books: Books, door: str) -> None:
    """Lost: a door could lift its own restrictions."""
    powers = books.row(
        "select rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication, rolcanlogin from pg_roles"
        " where rolname = %s",
        door,
    )
    assert powers == (False,) * 6
    assert books.one("select count(*) from pg_class where relowner = %s::regrole", door) == 0
    assert books.one("select count(*) from pg_proc where proowner = %s::regrole", door) == 0
    assert not books.one("select has_schema_privilege(%s, 'public', 'CREATE')", door)
    rows = books.rows(
        "select r.rolname from pg_auth_members m join pg_roles r on r.oid = m.roleid where m.member = %s::regrole",
        door,
    )
    assert rows == []


def test_definer_functions_pin_their_search_path(books: Books) -> None:
    """Lost: a caller's own table could stand in for the ledger's in a function that runs as the owner."""
    rows = books.rows(
        "select proname, proconfig from pg_proc where pronamespace = 'public'::regnamespace and prosecdef"
    )
    assert rows
    assert {name for name, settings in rows if settings != ["search_path=pg_catalog, public"]} == set()


def test_the_gateway_cannot_read_what_it_does_not_need(books: Books) -> None:
    """Lost: the door that faces the crowd could list everybody's sessions and usage."""
    for table in (
        "session", "end_user", "usage_event", "transfer", "transfer_row", "hold", "idempotent_reply", "developer_token",
        "feature_version", "api_idempotency", "audit_log", "payout", "payout_account", "statement", "period_sum",
        "usage_hour", "webhook_secret", "webhook_event", "limit_refusal", "promo_code",
    ):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            books.rows(f"select * from {table}", role="faucet_gateway")


def test_the_jobs_queue_is_the_jobs_own(books: Books) -> None:
    """Lost: another door could put jobs in the queue or read them."""
    for door in ("faucet_gateway", "faucet_api"):
        assert not books.one("select has_schema_privilege(%s, 'procrastinate', 'USAGE')", door)
    assert books.one("select has_schema_privilege('faucet_jobs', 'procrastinate', 'USAGE')")
    assert not books.one("select has_schema_privilege('faucet_jobs', 'procrastinate', 'CREATE')")
