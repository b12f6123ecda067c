"""Every constraint refuses what it is there for, and no constraint is without a row here that breaks it."""

from __future__ import annotations

import itertools
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


def _payout_rows(t: Tenant) -> dict[str, Callable[[], Row]]:
    """A row of each table of payouts."""
    return {
        "payout_account": lambda: {"developer_id": t.developer, "provider_account_id": f"acct_{uuid7().hex}"},
        "payout": lambda: {
            "id": uuid7(), "developer_id": t.developer, "amount_e8": 100_000_000, "provider": "stripe",
            "provider_account_id": "acct_1", "requested_by": "operator", "provider_transfer_id": f"tr_{uuid7().hex}",
            "provider_payout_id": f"po_{uuid7().hex}", "provider_reversal_id": f"trr_{uuid7().hex}",
            "run": str(uuid7()), "sent_at": "2026-01-01",
        },
    }  # fmt: skip


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


def _closing_rows(t: Tenant) -> dict[str, Callable[[], Row]]:
    """A row of each table of months and invoices; what they refer to is made by `fresh`."""
    months = itertools.count()

    def month() -> str:
        number = next(months)
        return f"{2100 + number // 12}-{number % 12 + 1:02d}-01"

    return {
        "ledger_horizon": lambda: {"final_until": "2000-01-01"},
        "usage_rolled": lambda: {"rolled_until": "2000-01-01"},
        "usage_hour": lambda: {
            "hour": "2026-01-01", "developer_id": t.developer, "app_id": t.app, "provider": str(uuid7()), "model": "m",
            "payer": 0, "calls": 1, "input_tokens": 1, "output_tokens": 1, "cost_e8": 1, "retail_e8": 1,
            "channel_e8": 1, "platform_e8": 1,
        },
        "period": lambda: {"month": month(), "asked_by": "operator"},
        "period_sum": lambda: {"account_id": t.wallet, "code": 12, "amount_e8": 1, "developer_id": t.developer},
        "statement_key": lambda: {"key_id": str(uuid7()), "public_key": HASH},
        "statement": lambda: {
            "id": uuid7(), "developer_id": t.developer, "body": "{}", "hash": HASH, "signature": HASH * 2,
        },
        "provider_invoice": lambda: {
            "id": uuid7(), "provider": "openai", "reference": str(uuid7()), "first_day": "2026-01-01",
            "last_day": "2026-01-31", "imported_by": "operator",
        },
        "provider_invoice_line": lambda: {"day": "2026-01-01", "model": "m", "amount_e8": 1},
    }  # fmt: skip


def _payment_rows(t: Tenant) -> dict[str, Callable[[], Row]]:
    """A row of each table of money that comes in. `top_up_id` and `wallet_id` are put in by who inserts."""
    who = {"developer_id": t.developer, "app_id": t.app, "end_user_id": t.end_user}
    return {
        "stripe_event": lambda: {
            "id": f"evt_{uuid7()}", "type": "refund.created", "created_at": "2026-01-01", "is_live": False,
            "body": b"{}",
        },
        "top_up": lambda: {
            "id": uuid7(), **who, "wallet_id": t.wallet, "kind": "auto", "amount_e8": 1_000_000,
            "attempt": uuid7().int % 1_000_000_000 + 1, "checkout_session_id": f"cs_{uuid7()}",
            "payment_intent_id": f"pi_{uuid7()}",
        },
        "top_up_reversal": lambda: {
            "id": f"re_{uuid7()}", "developer_id": t.developer, "top_up_id": None, "wallet_id": t.wallet,
            "kind": "refund", "amount_e8": 3, "taken_e8": 2, "written_off_e8": 1, "state": "returned", "healed_e8": 1,
        },
        "top_up_refund": lambda: {
            "id": uuid7(), "developer_id": t.developer, "top_up_id": None, "amount_e8": 1_000_000, "reason": "r",
            "asked_by": "operator", "reversal_id": f"re_{uuid7()}",
        },
        "payment_customer": lambda: {
            "end_user_id": t.end_user, "developer_id": t.developer, "customer_id": f"cus_{uuid7()}",
        },
        "auto_top_up": lambda: {
            "wallet_id": t.wallet, **who, "status": "on", "threshold_e8": 1, "amount_e8": 1_000_000,
            "monthly_cap_e8": 1_000_000, "consented_at": "2026-01-01",
        },
    }  # fmt: skip


def _webhook_rows(t: Tenant) -> dict[str, Callable[[], Row]]:
    """A row of each table of webhooks and promo codes; those that hang on another are told of it by `fresh`."""
    return {
        "webhook_endpoint": lambda: {
            "id": uuid7(), "developer_id": t.developer, "url": "https://a.example.com", "created_by": "operator",
        },
        "webhook_secret": lambda: {
            "id": uuid7(), "developer_id": t.developer, "sealed": os.urandom(60),
        },
        "webhook_event": lambda: {
            "id": uuid7(), "developer_id": t.developer, "type": "wallet.low", "data": "{}", "key": str(uuid7()),
        },
        "webhook_delivery": lambda: {"developer_id": t.developer},
        "webhook_attempt": lambda: {
            "id": uuid7(), "developer_id": t.developer, "number": 1, "status_code": 200, "duration_ms": 1,
        },
        "wallet_low": lambda: {"wallet_id": uuid7().int % 1_000_000_000, "developer_id": t.developer},
        "limit_refusal": lambda: {
            "id": uuid7(), "developer_id": t.developer, "app_id": t.app, "end_user_id": t.end_user, "required_e8": 1,
        },
        "sweep_mark": lambda: {"sweep": str(uuid7()), "seen_until": "2030-01-01"},
        "promo_code": lambda: {
            "id": uuid7(), "code": str(uuid7()).upper(), "amount_e8": 1, "redemptions_max": 10, "app_id": t.app,
            "developer_id": t.developer, "created_by": "operator",
        },
        "promo_redemption": lambda: {
            "end_user_id": t.end_user, "developer_id": t.developer, "app_id": t.app, "wallet_id": t.wallet,
            "amount_e8": 1,
        },
    }  # fmt: skip


def _webhook_cases() -> list[Case]:
    return [
        *_checks("webhook_endpoint", url="short", description="", event_types=["ping"] * 51, status="gone"),
        Case("webhook_endpoint_disabled_reason_check", "webhook_endpoint", {
            "status": "disabled", "disabled_reason": "no reason",
        }),
        Case("disabled_for_a_reason", "webhook_endpoint", {"status": "disabled"}),
        Case("disabled_for_a_reason", "webhook_endpoint", {"disabled_reason": "gone"}),
        Case("webhook_endpoint_developer_id_fkey", "webhook_endpoint", {"developer_id": uuid7()}),
        Case("webhook_endpoint_pkey", "webhook_endpoint", beside=("id",)),
        *_checks("webhook_secret", sealed=b"short"),
        Case("webhook_secret_endpoint_id_fkey", "webhook_secret", {"endpoint_id": uuid7()}),
        Case("webhook_secret_pkey", "webhook_secret", {"expires_at": "2030-01-01"}, beside=("id",)),
        Case("webhook_secret_current_key", "webhook_secret", beside=("endpoint_id",)),
        *_checks("webhook_event", type="no type", data="", key=""),
        Case("webhook_event_developer_id_fkey", "webhook_event", {"developer_id": uuid7()}),
        Case("webhook_event_pkey", "webhook_event", beside=("id",)),
        Case("webhook_event_key", "webhook_event", beside=("key",)),
        *_checks("webhook_delivery", state="gone", tries=-1),
        Case("webhook_delivery_event_id_fkey", "webhook_delivery", {"event_id": uuid7()}),
        Case("webhook_delivery_endpoint_id_fkey", "webhook_delivery", {"endpoint_id": uuid7()}),
        Case("webhook_delivery_pkey", "webhook_delivery", beside=("event_id", "endpoint_id")),
        *_checks("webhook_attempt", number=0, status_code=99, duration_ms=-1),
        Case("webhook_attempt_failure_check", "webhook_attempt", {"failure": "", "status_code": None}),
        Case("one_outcome", "webhook_attempt", {"failure": "connect"}),
        Case("one_outcome", "webhook_attempt", {"status_code": None}),
        Case("webhook_attempt_event_id_endpoint_id_fkey", "webhook_attempt", {"event_id": uuid7()}),
        Case("webhook_attempt_pkey", "webhook_attempt", beside=("id",)),
        Case("wallet_low_pkey", "wallet_low", beside=("wallet_id",)),
        *_checks("limit_refusal", required_e8=-1),
        Case("limit_refusal_pkey", "limit_refusal", beside=("id",)),
        *_checks("sweep_mark", sweep=""),
        Case("sweep_mark_pkey", "sweep_mark", beside=("sweep",)),
        *_checks("promo_code", code="small", amount_e8=0, redemptions_max=0, redemptions=-1),
        Case("never_above_the_cap", "promo_code", {"redemptions": 11}),
        Case("of_one_app_or_all", "promo_code", {"app_id": None}),
        Case("of_one_app_or_all", "promo_code", {"developer_id": None}),
        Case("promo_code_app_id_developer_id_fkey", "promo_code", {"developer_id": uuid7()}),
        Case("promo_code_pkey", "promo_code", beside=("id",)),
        Case("promo_code_code_key", "promo_code", beside=("code",)),
        *_checks("promo_redemption", amount_e8=0),
        Case("promo_redemption_promo_code_id_fkey", "promo_redemption", {"promo_code_id": uuid7()}),
        Case("promo_redemption_end_user_id_fkey", "promo_redemption", {"end_user_id": uuid7()}),
        Case("promo_redemption_pkey", "promo_redemption", beside=("promo_code_id", "end_user_id")),
    ]  # fmt: skip


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
        "transfer_row": lambda: {
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
        **_closing_rows(t),
        **_payout_rows(t),
        **_payment_rows(t),
        **_webhook_rows(t),
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


_HOURS = "usage_hour_place"
CASES = [
    *_checks("developer", name="", email="a", status="gone", free_quota_month_max_e8=-1),
    Case("developer_pkey", "developer", beside=("id",)),
    Case("developer_email_key", "developer", beside=("email",)),
    *_checks(
        "app", name="x" * 201, public_app_id="no spaces", status="gone", identity_mode="none",
        default_revenue_share_bps=10_001, session_spend_limit_e8=-1, wallet_low_e8=-1,
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
    Case("no_overdraft", "account", {"kind": "earnings", "posted_e8": -1}),
    Case("no_overdraft", "account", {"kind": "payout_clearing", "posted_e8": -1}),
    Case("no_overdraft", "account", {"held_e8": 1}),
    Case("no_overdraft", "account", {"kind": "wallet"}),
    Case("no_overdraft", "account", {"owner_id": uuid7()}),
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
    Case("transfer_amount_e8_check", "transfer_row", {"amount_e8": 0}),
    Case("two_sides", "transfer_row", {"debit_id": 1, "credit_id": 1}),
    Case("transfer_pkey", "transfer_row", beside=("event_id",)),
    Case("transfer_key", "transfer_row", beside=("key",)),
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
    *_checks("ledger_horizon", is_only=False),
    *_checks("usage_rolled", is_only=False),
    Case("ledger_horizon_pkey", "ledger_horizon"),
    Case("usage_rolled_pkey", "usage_rolled"),
    Case(_HOURS, "usage_hour", beside=("provider",)),
    *_checks("period", month="2026-01-02"),
    Case("period_pkey", "period", beside=("month",)),
    Case("period_sum_month_fkey", "period_sum", {"month": "2099-01-01"}),
    Case("period_sum_pkey", "period_sum", beside=("month",)),
    *_checks("statement_key", public_key=b"short"),
    Case("statement_key_pkey", "statement_key", beside=("key_id",)),
    *_checks("statement", hash=b"short", signature=b"short"),
    Case("statement_month_fkey", "statement", {"month": "2099-01-01"}),
    Case("statement_key_id_fkey", "statement", {"key_id": "none"}),
    Case("statement_pkey", "statement", beside=("id",)),
    Case("statement_developer_id_end_user_id_month_key", "statement", beside=("month",)),
    *_checks("provider_invoice", provider="", reference=""),
    Case("days_in_order", "provider_invoice", {"last_day": "2025-12-31"}),
    Case("provider_invoice_pkey", "provider_invoice", beside=("id",)),
    Case("provider_invoice_reference_idx", "provider_invoice", beside=("reference",)),
    *_checks("provider_invoice_line", model="", amount_e8=-1),
    Case("provider_invoice_line_invoice_id_fkey", "provider_invoice_line", {"invoice_id": uuid7()}),
    Case("provider_invoice_line_pkey", "provider_invoice_line", beside=("invoice_id",)),
    *_checks("payout_account", provider_account_id=""),
    Case("payout_account_developer_id_fkey", "payout_account", {"developer_id": uuid7()}),
    Case("payout_account_pkey", "payout_account", beside=("developer_id",)),
    Case("payout_account_provider_account_id_key", "payout_account", beside=("provider_account_id",)),
    Case("payout_status_check", "payout", {"status": "lost", "approved_by": "o"}),
    Case("payout_provider_check", "payout", {"provider": "cash", "provider_account_id": None}),
    *_checks("payout", requested_by="", approved_by="", attempts=-1, key_number=0),
    Case("whole_cents", "payout", {"amount_e8": 0}),
    Case("whole_cents", "payout", {"amount_e8": 1_500_000}),
    Case("four_eyes", "payout", {"approved_by": "operator"}),
    Case("approved_before_paid", "payout", {"status": "sent"}),
    Case("account_of_stripe", "payout", {"provider": "manual"}),
    Case("account_of_stripe", "payout", {"provider_account_id": None}),
    Case("sent_before_called", "payout", {"sent_at": None}),
    Case("sent_before_called", "payout", {"sent_at": None, "provider_transfer_id": None, "attempts": 1}),
    Case("paid_has_a_time", "payout", {"status": "paid", "approved_by": "o", "ended_at": "2026-01-01"}),
    Case("ended_has_a_time", "payout", {"status": "failed", "approved_by": "o"}),
    Case("ended_has_a_time", "payout", {"ended_at": "2026-01-01"}),
    Case("payout_developer_id_fkey", "payout", {"developer_id": uuid7()}),
    Case("payout_pkey", "payout", beside=("id",)),
    Case("payout_developer_id_run_key", "payout", beside=("run",)),
    Case("payout_provider_transfer_id_key", "payout", beside=("provider_transfer_id",)),
    Case("payout_provider_reversal_id_key", "payout", beside=("provider_reversal_id",)),
    Case("payout_stripe_payout_key", "payout", beside=("provider_payout_id",)),
    *_checks("stripe_event", id="", type="", attempts=-1),
    Case("stripe_event_outcome_check", "stripe_event", {"outcome": "gone", "settled_at": "2026-01-01"}),
    Case("settled_has_an_outcome", "stripe_event", {"outcome": "applied"}),
    Case("settled_has_an_outcome", "stripe_event", {"settled_at": "2026-01-01"}),
    Case("stripe_event_pkey", "stripe_event", beside=("id",)),
    Case("stripe_event_row_id_key", "stripe_event", beside=("row_id",)),
    *_checks("top_up", amount_e8=1, status="gone", fee_e8=-1),
    Case("top_up_kind_check", "top_up", {"kind": "gift", "attempt": None}),
    Case("top_up_attempt_check", "top_up", {"attempt": 0}),
    Case("credited_has_a_time", "top_up", {"status": "credited"}),
    Case("credited_has_a_time", "top_up", {"credited_at": "2026-01-01"}),
    Case("auto_has_an_attempt", "top_up", {"kind": "checkout"}),
    Case("auto_has_an_attempt", "top_up", {"attempt": None}),
    Case("checkout_has_a_session", "top_up", {"kind": "checkout", "attempt": None, "checkout_session_id": None}),
    Case("top_up_end_user_id_fkey", "top_up", {"end_user_id": uuid7()}),
    Case("top_up_wallet_id_fkey", "top_up", {"wallet_id": 0}),
    Case("top_up_app_id_developer_id_fkey", "top_up", {"developer_id": uuid7()}),
    Case("top_up_pkey", "top_up", beside=("id",)),
    Case("top_up_checkout_session_id_key", "top_up", beside=("checkout_session_id",)),
    Case("top_up_payment_intent_id_key", "top_up", beside=("payment_intent_id",)),
    *_checks("top_up_reversal", id="", kind="gift"),
    Case("top_up_reversal_state_check", "top_up_reversal", {"state": "back", "healed_e8": 0}),
    Case("top_up_reversal_amount_e8_check", "top_up_reversal",
         {"amount_e8": 0, "taken_e8": 0, "written_off_e8": 0, "healed_e8": 0}),
    Case("top_up_reversal_taken_e8_check", "top_up_reversal", {"taken_e8": -1, "written_off_e8": 4}),
    Case("top_up_reversal_written_off_e8_check", "top_up_reversal", {"taken_e8": 4, "written_off_e8": -1}),
    Case("top_up_reversal_healed_e8_check", "top_up_reversal", {"healed_e8": -1}),
    Case("taken_or_written_off", "top_up_reversal", {"taken_e8": 1}),
    Case("heals_by_returning", "top_up_reversal", {"state": "gone"}),
    Case("heals_at_most_itself", "top_up_reversal", {"healed_e8": 4}),
    Case("top_up_reversal_top_up_id_fkey", "top_up_reversal", {"top_up_id": uuid7()}),
    Case("top_up_reversal_wallet_id_fkey", "top_up_reversal", {"wallet_id": 0}),
    Case("top_up_reversal_pkey", "top_up_reversal", beside=("id",)),
    *_checks("top_up_refund", amount_e8=1, status="gone", reason=""),
    Case("sent_has_an_id", "top_up_refund", {"status": "sent", "reversal_id": None}),
    Case("top_up_refund_top_up_id_fkey", "top_up_refund", {"top_up_id": uuid7()}),
    Case("top_up_refund_pkey", "top_up_refund", beside=("id",)),
    Case("top_up_refund_reversal_id_key", "top_up_refund", beside=("reversal_id",)),
    *_checks("payment_customer", card_last4="12x4"),
    Case("payment_customer_end_user_id_fkey", "payment_customer", {"end_user_id": uuid7()}),
    Case("payment_customer_pkey", "payment_customer", beside=("end_user_id",)),
    Case("payment_customer_customer_id_key", "payment_customer", beside=("customer_id",)),
    *_checks("auto_top_up", status="gone", threshold_e8=0, failures=-1),
    Case("auto_top_up_amount_e8_check", "auto_top_up", {"amount_e8": 1}),
    Case("cap_fits_one", "auto_top_up", {"monthly_cap_e8": 999_999}),
    Case("auto_top_up_wallet_id_fkey", "auto_top_up", {"wallet_id": 0}),
    Case("auto_top_up_end_user_id_fkey", "auto_top_up", {"end_user_id": uuid7()}),
    Case("auto_top_up_app_id_developer_id_fkey", "auto_top_up", {"developer_id": uuid7()}),
    Case("auto_top_up_pkey", "auto_top_up", beside=("wallet_id",)),
    Case("auto_top_up_end_user_id_key", "auto_top_up", beside=("end_user_id",)),
    Case("top_up_wallet_id_attempt_key", "top_up", {"status": "failed"}, beside=("wallet_id", "attempt")),
    Case("top_up_one_auto_at_a_time", "top_up", beside=("wallet_id",)),
    *_webhook_cases(),
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
        if table == "payout_account":  # a developer has one
            row["developer_id"] = books.tenant().developer
        if table in ("top_up_reversal", "top_up_refund"):
            row["top_up_id"] = _insert(books, "top_up", fresh("top_up"))["id"]
        if table in ("top_up", "payment_customer", "auto_top_up"):  # one for each end user
            other = books.end_user(tenant)
            own = {"end_user_id": other.end_user, "wallet_id": other.wallet}
            row |= {column: value for column, value in own.items() if column in row}
        if table == "credential_budget":
            row["credential_id"] = _insert(books, "credential", fresh("credential"))["id"]
        if table == "credential":
            row["key_id"] = _insert(books, "vault_key", good["vault_key"]())["id"]
        if table in ("period_sum", "statement"):
            row["month"] = _insert(books, "period", good["period"]())["month"]
        if table == "statement":
            row["key_id"] = _insert(books, "statement_key", good["statement_key"]())["key_id"]
        if table == "provider_invoice_line":
            row["invoice_id"] = _insert(books, "provider_invoice", good["provider_invoice"]())["id"]
        if table == "promo_redemption":
            row["promo_code_id"] = _insert(books, "promo_code", good["promo_code"]())["id"]
        if table in ("webhook_secret", "webhook_delivery", "webhook_attempt"):
            row["endpoint_id"] = _insert(books, "webhook_endpoint", good["webhook_endpoint"]())["id"]
        if table in ("webhook_delivery", "webhook_attempt"):
            row["event_id"] = _insert(books, "webhook_event", good["webhook_event"]())["id"]
        if table == "webhook_attempt":
            hangs_on = {name: row[name] for name in ("event_id", "endpoint_id", "developer_id")}
            _insert(books, "webhook_delivery", hangs_on)
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
    for table in ("hold", "hold_resolution", "usage_event", "transfer_row", "session", "end_user", "app", "feature"):
        row = good[table]()
        for column in row:
            if column in ("key",):
                continue
            with pytest.raises(psycopg.errors.NotNullViolation), books.connection.transaction():
                _insert(books, table, row | {column: None})
