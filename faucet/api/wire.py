"""The shapes of the control API. Requests are strict: a field that is not here is refused by name.

Shapes only; amounts are decimal strings of eight places, times ISO-8601 in UTC.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)

from faucet.kit.clock import to_iso
from faucet.kit.money import E8_PER_USD, from_wire, to_wire

METADATA_BYTES_MAX = 4_096
TEST_CREDIT_E8_MAX = 1_000_000 * E8_PER_USD


def _metadata(value: dict[str, Any]) -> dict[str, Any]:
    """What a database can keep: bounded, and without the two things that PostgreSQL's text can't hold."""
    try:
        size = len(json.dumps(value, ensure_ascii=False).encode())
    except (UnicodeEncodeError, RecursionError):
        raise ValueError("holds text that is not valid Unicode or is nested too deeply") from None
    if size > METADATA_BYTES_MAX:
        raise ValueError(f"may have at most {METADATA_BYTES_MAX} bytes as JSON")
    if "\\u0000" in json.dumps(value):
        raise ValueError("may not hold the character NUL")
    return value


def _amount(value: object) -> int:
    """The e8 of an amount on the wire."""
    if not isinstance(value, str):
        raise ValueError("must be a string")
    e8 = from_wire(value)
    if not 0 < e8 <= TEST_CREDIT_E8_MAX:
        raise ValueError(f"must be more than 0 and at most {TEST_CREDIT_E8_MAX // E8_PER_USD}")
    return e8


def _amount_or_none(value: object) -> int:
    """The e8 of an amount that may be 0."""
    return 0 if isinstance(value, str) and value and from_wire(value) == 0 else _amount(value)


Identifier = Annotated[
    str, StringConstraints(pattern=r"^[a-zA-Z0-9_:-]+$", min_length=1, max_length=128), Field(examples=["app_pub_demo"])
]
IdempotencyKey = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]+$", min_length=8, max_length=128)]
Amount = Annotated[
    int,
    BeforeValidator(_amount),
    WithJsonSchema({"type": "string", "pattern": r"^(0|[1-9]\d*)(\.\d{1,8})?$", "examples": ["10.00"]}),
]
AmountOrNone = Annotated[
    int,
    BeforeValidator(_amount_or_none),
    WithJsonSchema({"type": "string", "pattern": r"^(0|[1-9]\d*)(\.\d{1,8})?$", "examples": ["10.00"]}),
]
"""An amount that may be 0."""
Usd = Annotated[
    int,
    PlainSerializer(to_wire, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^-?\d+\.\d{8}$", "examples": ["9.99987000"]}, mode="serialization"),
]
"""An amount in e8 that the wire shows with eight places."""
Moment = Annotated[
    datetime,
    PlainSerializer(to_iso, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]


class Ask(BaseModel):
    """The base of what callers send."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Reply(BaseModel):
    """The base of what we answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# ── errors, health ──


class ErrorDetail(Reply):
    code: str
    message: str
    request_id: str
    details: dict[str, Any] | None = None


class ErrorReply(Reply):
    error: ErrorDetail


class HealthReply(Reply):
    ok: bool
    service: str


class ReadyReply(Reply):
    ok: bool
    service: str
    checks: dict[str, bool]


# ── sessions ──


class SessionAsk(Ask):
    public_app_id: Identifier
    external_user_id: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    feature_key: Identifier | None = None
    metadata: Annotated[dict[str, Any], AfterValidator(_metadata)] | None = None
    user_token: Annotated[str, StringConstraints(min_length=1, max_length=8_192)] | None = None


class SessionReply(Reply):
    session_token: str
    expires_in: int
    gateway_base_url: str
    available_modes: list[str]
    wallet_balance_usd: Usd


# ── wallets ──


class FeeLine(Reply):
    """What a feature charges where the end user's own key or machine answers: this fee, and nothing else."""

    feature_key: str
    route_mode: Annotated[str, Field(examples=["byok", "local"])]
    fee_usd: Usd


class WalletReply(Reply):
    id: UUID
    owner_scope: Literal["end_user"]
    owner_id: UUID
    balance_usd: Usd
    held_usd: Usd
    available_usd: Usd
    frozen: bool
    """Whether nothing may be spent from it until the operator has looked at it."""
    updated_at: Moment
    fees: list[FeeLine] | None = None


class TestCreditAsk(Ask):
    amount_usd: Amount
    idempotency_key: IdempotencyKey | None = None


# ── reports ──


class UsageLine(Reply):
    request_id: str
    feature_key: str | None
    route_mode: str
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    retail_price_usd: Usd
    channel_revenue_usd: Usd
    created_at: Moment


class UsageReply(Reply):
    public_app_id: str
    app_name: str
    total_calls: int
    total_input_tokens: int
    total_output_tokens: int
    total_retail_price_usd: Usd
    total_developer_revenue_usd: Usd
    usage: list[UsageLine]


class RevenueReply(Reply):
    developer_id: UUID
    wallet_balance_usd: Usd
    pending_payout_usd: Usd
    lifetime_revenue_usd: Usd


class ReconciliationSummary(Reply):
    wallet_count: int
    balanced_count: int
    mismatch_count: int


class ReconciliationLine(Reply):
    wallet_id: UUID
    owner_scope: Literal["end_user", "developer"]
    owner_id: UUID
    wallet_balance_usd: Usd
    ledger_balance_usd: Usd
    delta_usd: Usd
    status: Literal["balanced", "mismatch"]


class ReconciliationFinding(Reply):
    check: str
    subject: str
    expected: int
    actual: int


class ReconciliationReply(Reply):
    generated_at: Moment
    summary: ReconciliationSummary
    items: list[ReconciliationLine]
    findings: list[ReconciliationFinding]
