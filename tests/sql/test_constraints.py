"""Every constraint refuses what it is there for, and no constraint is without a row here that breaks it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import count
from typing import Any

import psycopg
import pytest
from books import Books, Tenant

from faucet.kit.ids import uuid7

Row = dict[str, Any]
_DAYS = count()
HASH = b"\x01" * 32


def _local_rows(t: Tenant) -> dict[str, Callable[[], Row]]:
    return {
        "local_endpoint": lambda: {
            "id": uuid7(), "developer_id": t.developer, "app_id": t.app, "end_user_id": t.end_user,
            "name": str(uuid7()), "kind": "ollama", "base_url": "http://127.0.0.1:11434",
        },
        "local_usage_report": lambda: {
            "end_user_id": t.end_user, "request_id": str(uuid7()), "developer_id": t.developer, "event_id": uuid7(),
            "fingerprint": HASH, "happened_at": "2026-01-01",
        },
    }  # fmt: skip


def _control_rows(t: Tenant) -> dict[str, Callable[[], Row]]:
    return {
        "developer_token": lambda: {
            "id": uuid7(), "developer_id": t.developer, "name": "T", "token_hash": os.urandom(32),
            "token_prefix": "mf_dev_abc", "scopes": ["s"], "created_by": "operator",
        },
        "app_signing_key": lambda: {
            "id": uuid7(), "developer_id": t.developer, "app_id": t.app, "key_id": f"sk_{uuid7().hex}", "name": "K",
            "kind": "EdDSA", "public_key": HASH, "created_by": "operator",
        },
        "end_user_token_seen": lambda: {
            "app_id": t.app, "jti_hash": os.urandom(32), "developer_id": t.developer, "expires_at": "2030-01-01",
        },
        "feature_version": lambda: {
            "feature_id": t.feature, "version": uuid7().int % 1_000_000_000 + 1, "developer_id": t.developer,
            "display_name": "F", "policy": "{}", "pricing": "{}", "created_by": "operator",
        },
        "api_idempotency": lambda: {
            "principal": "operator", "key_hash": os.urandom(32), "fingerprint": HASH, "expires_at": "2030-01-01",
        },
        "audit_log": lambda: {
            "id": uuid7(), "actor_scope": "operator", "action": "a", "resource_type": "app",
        },
        "kill_switch": lambda: {
            "target": "provider", "target_id": str(uuid7()), "reason": "r", "thrown_by": "operator",
        },
    }  # fmt: skip


def _vault_rows(t: Tenant) -> dict[str, Callable[[], Row]]:
    """A row of each table of the vault."""
    return {
        "vault_key": lambda: {
            "id": uuid7(), "public_key": HASH, "wrapped": os.urandom(60), "kek": "local:x",
        },
        "credential": lambda: {
            "id": uuid7(), "owner": "developer", "developer_id": t.developer, "app_id": t.app, "provider": "openai",
            "sealed": os.urandom(60), "mask": "sk-...1234",
        },
        "credential_budget": dict,
        "budget_hold": lambda: {"hold_id": uuid7(), "credential_id": uuid7(), "held_e8": 1},
        "budget_charge": lambda: {"event_id": uuid7(), "credential_id": uuid7(), "cost_e8": 1},
    }  # fmt: skip


def _rows(t: Tenant) -> dict[str, Callable[[], Row]]:
    """A row of each table that is fine as it is, with fresh keys at each call."""
    who = {"developer_id": t.developer, "app_id": t.app, "end_user_id": t.end_user, "session_id": t.session}
    tokens = ("input_tokens", "cached_read_tokens", "cached_write_tokens", "output_tokens", "reasoning_tokens")
    prices = ("input_e8_per_m", "cached_read_e8_per_m", "cached_write_e8_per_m", "output_e8_per_m")
    return {
        "developer": lambda: {"id": uuid7(), "name": "D", "email": f"{uuid7()}@d.example"},
        "app": lambda: {
            "id": uuid7(), "developer_id": t.developer, "public_app_id": f"a{uuid7()}", "name": "A",
        },
        "feature": lambda: {
            "id": uuid7(), "developer_id": t.developer, "app_id": t.app, "feature_key": f"f{uuid7()}",
            "display_name": "F",
        },
        "end_user": lambda: {
            "id": uuid7(), "developer_id": t.developer, "app_id": t.app, "external_id_hash": os.urandom(32),
        },
        "session": lambda: {
            "id": uuid7(), "developer_id": t.developer, "app_id": t.app, "end_user_id": t.end_user,
            "bearer_hash": os.urandom(32), "expires_at": "2030-01-01",
        },
        "account": lambda: {
            "public_id": uuid7(), "kind": "provider_cost", "developer_id": t.developer, "label": str(uuid7()),
        },
        "hold": lambda: {
            "id": uuid7(), "wallet_id": t.wallet, **who, "amount_e8": 1, "lease_expires_at": "2030-01-01",
        },
        "hold_resolution": lambda: {
            "id": uuid7(), "state": "released", "reason": "r", "wallet_id": t.wallet, **who, "amount_e8": 1,
            "held_at": "2030-01-01",
        },
        "usage_event": lambda: {
            "id": uuid7(), "wallet_id": t.wallet, **who, "held_e8": 100, "cost_e8": 10, "retail_e8": 15,
            "channel_e8": 2, "platform_e8": 3, "write_off_e8": 0, "price_id": 1, **dict.fromkeys(tokens, 1),
            "duration_ms": 1, "payer": 0, "usage_source": 0, "outcome": 0, "provider": "p", "model": "m",
        },
        "transfer": lambda: {
            "event_id": uuid7(), "code": 12, "debit_id": 1, "credit_id": t.wallet, "amount_e8": 1,
            "key": str(uuid7()),
        },
        "spend_limit": lambda: {"scope": "app", "scope_id": uuid7(), "period": "month", "limit_e8": 1},
        "spend_counter": lambda: {"limit_id": 0, "period_start": "2026-01-01"},
        "free_quota_month": lambda: {"developer_id": t.developer, "month": date(2026, 1, 1) + timedelta(next(_DAYS))},
        "idempotent_reply": lambda: {
            "end_user_id": t.end_user, "key_hash": os.urandom(32), "fingerprint": HASH, "hold_id": uuid7(),
            "claimed_until": "2030-01-01", "expires_at": "2030-01-01",
        },
        "price": lambda: {
            "provider": "p", "model": str(uuid7()), "tokenizer": "words", "context_window": 1,
            "max_output_tokens": 1, **dict.fromkeys(prices, 0), "image_tokens_max": 0,
            "effective_from": "2026-01-01", "source": "s",
        },
        **_control_rows(t),
        **_vault_rows(t),
        **_local_rows(t),
    }  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A row that breaks one constraint, either alone or beside another like it."""

    constraint: str
    table: str
    broken: Row = field(default_factory=dict)
    beside: tuple[str, ...] | None = None
    """The columns that the row shares with one that is there already."""


def _checks(table: str, **broken: Any) -> list[Case]:
    return [Case(f"{table}_{column}_check", table, {column: value}) for column, value in broken.items()]


def _tokens() -> list[Case]:
    names = ("input", "cached_read", "cached_write", "output", "reasoning")
    return [Case("no_negative_tokens", "usage_event", {f"{name}_tokens": -1}) for name in names]


CASES = [
    *_checks("developer", name="", email="a", status="gone", free_quota_month_max_e8=-1),
    Case("developer_pkey", "developer", beside=("id",)),
    Case("developer_email_key", "developer", beside=("email",)),
    *_checks(
        "app", name="x" * 201, public_app_id="no spaces", status="gone", identity_mode="none",
        default_revenue_share_bps=10_001, session_spend_limit_e8=-1,
    ),
    Case("app_developer_id_fkey", "app", {"developer_id": uuid7()}),
    Case("app_pkey", "app", beside=("id",)),
    Case("app_public_app_id_key", "app", beside=("public_app_id",)),
    *_checks("feature", display_name="", feature_key="no/slash", status="gone", free_quota_e8=-1),
    Case("feature_app_id_developer_id_fkey", "feature", {"developer_id": uuid7()}),
    *_checks("feature", version=0),
    Case("feature_pkey", "feature", beside=("id",)),
    Case("feature_app_id_feature_key_key", "feature", beside=("feature_key",)),
    *_checks("end_user", external_id_hash=b"short"),
    Case("end_user_app_id_developer_id_fkey", "end_user", {"developer_id": uuid7()}),
    Case("end_user_pkey", "end_user", beside=("id",)),
    Case("end_user_app_id_external_id_hash_key", "end_user", beside=("external_id_hash",)),
    *_checks("session", bearer_hash=b"short"),
    Case("session_app_id_fkey", "session", {"app_id": uuid7()}),
    Case("session_feature_id_fkey", "session", {"feature_id": uuid7()}),
    Case("session_end_user_id_fkey", "session", {"end_user_id": uuid7()}),
    Case("session_pkey", "session", beside=("id",)),
    Case("session_bearer_hash_key", "session", beside=("bearer_hash",)),
    Case("no_overdraft", "account", {"kind": "wallet", "owner_id": uuid7(), "posted_e8": 5, "held_e8": 6}),
    Case("no_overdraft", "account", {"kind": "wallet", "owner_id": uuid7(), "posted_e8": 5, "held_e8": -1}),
    Case("no_debt", "account", {"kind": "earnings", "posted_e8": -1}),
    Case("no_debt", "account", {"kind": "payout_clearing", "posted_e8": -1}),
    Case("only_wallets_hold", "account", {"held_e8": 1}),
    Case("owned", "account", {"kind": "wallet"}),
    Case("owned", "account", {"owner_id": uuid7()}),
    Case("account_developer_id_fkey", "account", {"developer_id": uuid7()}),
    Case("account_pkey", "account", beside=("id",)),
    Case("account_public_id_key", "account", beside=("public_id",)),
    Case("account_kind_developer_id_owner_id_label_currency_key", "account", beside=("label",)),
    *_checks("hold", amount_e8=-1),
    Case("hold_pkey", "hold", beside=("id",)),
    *_checks("hold_resolution", state="settled"),
    Case("hold_resolution_pkey", "hold_resolution", beside=("id",)),
    *_tokens(),
    *[Case("known_codes", "usage_event", {c: v}) for c in ("usage_source", "outcome") for v in (-1, 3)],
    Case("known_codes", "usage_event", {"usage_source": 3}),
    Case("known_codes", "usage_event", {"payer": -1, "retail_e8": 5}),
    Case("known_codes", "usage_event", {"payer": 4, "retail_e8": 5}),
    Case("nothing_negative", "usage_event", {"cost_e8": -1, "payer": 2, "retail_e8": 5}),
    Case("nothing_negative", "usage_event", {"retail_e8": -1, "write_off_e8": 16}),
    Case("nothing_negative", "usage_event", {"channel_e8": -1, "platform_e8": 6}),
    Case("nothing_negative", "usage_event", {"channel_e8": 6, "platform_e8": -1}),
    Case("nothing_negative", "usage_event", {"write_off_e8": -1, "retail_e8": 16}),
    Case("parts_make_the_whole", "usage_event", {"platform_e8": 4}),
    Case("parts_make_the_whole", "usage_event", {"payer": 2}),
    Case("never_above_the_hold", "usage_event", {"held_e8": 14}),
    Case("usage_event_pkey", "usage_event", beside=("id",)),
    *_checks("transfer", amount_e8=0),
    Case("two_sides", "transfer", {"debit_id": 1, "credit_id": 1}),
    Case("transfer_pkey", "transfer", beside=("event_id",)),
    Case("transfer_key", "transfer", beside=("key",)),
    *_checks("spend_limit", scope="world", period="day", limit_e8=-1),
    Case("spend_limit_pkey", "spend_limit", beside=("id",)),
    Case("spend_limit_scope_id_scope_period_key", "spend_limit", beside=("scope_id",)),
    *_checks("spend_counter", spent_e8=-1, held_e8=-1),
    Case("spend_counter_limit_id_fkey", "spend_counter", {"limit_id": 0}),
    Case("spend_counter_pkey", "spend_counter", beside=("id",)),
    Case("spend_counter_place", "spend_counter", beside=("limit_id", "period_start")),
    *_checks("free_quota_month", granted_e8=-1),
    Case("free_quota_month_developer_id_fkey", "free_quota_month", {"developer_id": uuid7()}),
    Case("free_quota_month_pkey", "free_quota_month", beside=("developer_id", "month")),
    *_checks("idempotent_reply", key_hash=b"short", fingerprint=b"short"),
    Case("idempotent_reply_pkey", "idempotent_reply", beside=("key_hash",)),
    Case("idempotent_reply_hold_id_key", "idempotent_reply", beside=("hold_id",)),
    *_checks(
        "price", context_window=0, max_output_tokens=-1, input_e8_per_m=-1, cached_read_e8_per_m=-1,
        cached_write_e8_per_m=-1, output_e8_per_m=-1, reasoning_e8_per_m=-1, request_e8=-1,
        image_tokens_max=-1, status="gone", tokenizer="runes", tiers="{}",
    ),
    Case("price_pkey", "price", beside=("id",)),
    Case("price_provider_model_effective_from_key", "price", beside=("model",)),
    *_checks("developer_token", name="", token_hash=b"short", scopes=[]),
    Case("developer_token_developer_id_fkey", "developer_token", {"developer_id": uuid7()}),
    Case("developer_token_pkey", "developer_token", beside=("id",)),
    Case("developer_token_token_hash_key", "developer_token", beside=("token_hash",)),
    *_checks("app_signing_key", key_id="short", name="", kind="RS256", public_key=b"short"),
    Case("one_half", "app_signing_key", {"sealed_secret": b"s"}),
    Case("one_half", "app_signing_key", {"kind": "HS256"}),
    Case("app_signing_key_app_id_developer_id_fkey", "app_signing_key", {"app_id": uuid7()}),
    Case("app_signing_key_pkey", "app_signing_key", beside=("id",)),
    Case("app_signing_key_key_id_key", "app_signing_key", beside=("key_id",)),
    *_checks("end_user_token_seen", jti_hash=b"short"),
    Case("end_user_token_seen_app_id_fkey", "end_user_token_seen", {"app_id": uuid7()}),
    Case("end_user_token_seen_pkey", "end_user_token_seen", beside=("jti_hash",)),
    *_checks("feature_version", version=0),
    Case("feature_version_feature_id_fkey", "feature_version", {"feature_id": uuid7()}),
    Case("feature_version_pkey", "feature_version", beside=("version",)),
    *_checks("api_idempotency", key_hash=b"short", fingerprint=b"short"),
    Case("api_idempotency_pkey", "api_idempotency", beside=("key_hash",)),
    Case("audit_log_pkey", "audit_log", beside=("id",)),
    *_checks("kill_switch", target="gone", reason=""),
    Case("everything_has_no_id", "kill_switch", {"target_id": ""}),
    Case("everything_has_no_id", "kill_switch", {"target": "everything"}),
    Case("kill_switch_pkey", "kill_switch", beside=("target_id",)),
    *_checks("vault_key", public_key=b"short", wrapped=b"short", kek=""),
    Case("vault_key_pkey", "vault_key", beside=("id",)),
    *_checks(
        "credential", owner="nobody", provider="No Body", base_url="", sealed=b"short", mask="abc",
        models_allowed=["m"] * 101, priority=0, weight=1001, budget_limit_e8=-1, validation_answer="perhaps",
    ),
    Case("credential_status_check", "credential", {"status": "gone", "sealed": None, "key_id": None}),
    Case("active_is_sealed", "credential", {"status": "disabled"}),
    Case("active_is_sealed", "credential", {"sealed": None, "key_id": None}),
    Case("active_is_sealed", "credential", {"key_id": None}),
    Case("owner_is_whole", "credential", {"owner": "platform"}),
    Case("owner_is_whole", "credential", {"owner": "end_user"}),
    Case("owner_is_whole", "credential", {"end_user_id": uuid7()}),
    Case("owner_is_whole", "credential", {"developer_id": None}),
    Case("credential_developer_id_fkey", "credential", {"developer_id": uuid7(), "app_id": None}),
    Case("credential_app_id_developer_id_fkey", "credential", {"app_id": uuid7()}),
    Case("credential_end_user_id_fkey", "credential", {"owner": "end_user", "end_user_id": uuid7()}),
    Case("credential_key_id_fkey", "credential", {"key_id": uuid7()}),
    Case("credential_pkey", "credential", beside=("id",)),
    *_checks("credential_budget", spent_e8=-1, held_e8=-1),
    Case("credential_budget_credential_id_fkey", "credential_budget", {"credential_id": uuid7()}),
    Case("credential_budget_pkey", "credential_budget", beside=("credential_id",)),
    *_checks("budget_hold", held_e8=-1),
    Case("budget_hold_pkey", "budget_hold", beside=("hold_id", "credential_id")),
    *_checks("budget_charge", cost_e8=-1),
    Case("budget_charge_pkey", "budget_charge", beside=("event_id",)),
    *_checks("local_usage_report", request_id="", fingerprint=b"short"),
    Case("local_usage_report_end_user_id_fkey", "local_usage_report", {"end_user_id": uuid7()}),
    Case("local_usage_report_pkey", "local_usage_report", beside=("request_id",)),
    Case("local_usage_report_event_id_key", "local_usage_report", beside=("event_id",)),
    *_checks("local_endpoint", name="", kind="gone", base_url="short", models=["m"] * 201),
    Case("local_endpoint_app_id_developer_id_fkey", "local_endpoint", {"developer_id": uuid7()}),
    Case("local_endpoint_end_user_id_fkey", "local_endpoint", {"end_user_id": uuid7()}),
    Case("local_endpoint_pkey", "local_endpoint", beside=("id",)),
    Case("local_endpoint_end_user_id_name_key", "local_endpoint", beside=("name",)),
]  # fmt: skip
IMPLIED = {"app_id_developer_id_key", "move_pkey", "alembic_version_pkc"}
"""The first can't be broken while the primary key holds; the others guard tables that nobody can insert into."""


def _insert(books: Books, table: str, row: Row) -> Row:
    columns, places = ", ".join(row), ", ".join(["%s"] * len(row))
    cursor = books.connection.execute(
        f"insert into {table} ({columns}) overriding system value values ({places}) returning *".encode(),
        list(row.values()),
    )
    stored = cursor.fetchone()
    assert stored is not None and cursor.description is not None
    return dict(zip([column.name for column in cursor.description], stored, strict=True))


def test_every_constraint_refuses(books: Books) -> None:
    """Lost: a rule that is written in the schema but lets rows through."""
    tenant = books.tenant(1_000)
    good = _rows(tenant)

    def fresh(table: str) -> Row:
        row = good[table]()
        if table == "spend_counter":
            row["limit_id"] = _insert(books, "spend_limit", good["spend_limit"]())["id"]
        if table == "credential_budget":
            row["credential_id"] = _insert(books, "credential", fresh("credential"))["id"]
        if table == "credential":
            row["key_id"] = _insert(books, "vault_key", good["vault_key"]())["id"]
        return row

    passed: list[str] = []
    for case in CASES:
        row = fresh(case.table)
        if case.beside is not None:
            first = _insert(books, case.table, row)
            row = fresh(case.table) | {column: first[column] for column in case.beside}
        row |= case.broken
        try:
            with books.connection.transaction():
                _insert(books, case.table, row)
            passed.append(f"{case.constraint}: the row went in")
        except psycopg.errors.IntegrityError as error:
            if error.diag.constraint_name != case.constraint:
                passed.append(f"{case.constraint}: {error.diag.constraint_name} refused first")
    assert passed == []


def test_no_constraint_is_untried(books: Books) -> None:
    """Lost: a constraint that is added later and that no row here breaks."""
    names = books.rows(
        "select conname from pg_constraint where connamespace = 'public'::regnamespace"
        " and contype in ('c', 'u', 'f', 'p')"
        " union select indexrelid::regclass::text from pg_index join pg_class on pg_class.oid = indrelid"
        " where indisunique and relnamespace = 'public'::regnamespace"
        " and not exists (select from pg_constraint where conindid = indexrelid)"
    )
    assert {row[0] for row in names} - {case.constraint for case in CASES} == IMPLIED


def test_required_columns_are_required(books: Books) -> None:
    """Lost: a row of money or of a tenant without its owner."""
    good = _rows(books.tenant())
    for table in ("hold", "hold_resolution", "usage_event", "transfer", "session", "end_user", "app", "feature"):
        row = good[table]()
        for column in row:
            if column in ("key",):
                continue
            with pytest.raises(psycopg.errors.NotNullViolation), books.connection.transaction():
                _insert(books, table, row | {column: None})
