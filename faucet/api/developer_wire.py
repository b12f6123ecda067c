"""The shapes of the developers' routes. Requests are strict, as in `wire`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema

from faucet.api.wire import Amount, Ask, Identifier, Moment, Reply, Usd
from faucet.kit.origin import exact_origin
from faucet.tenants.tokens import SCOPES

MANIFEST_BYTES_MAX = 65_536
ORIGINS_MAX = 50
_YEARS = (2000, 2200)


def stored_text(text: str) -> str:
    """What PostgreSQL's text can hold, and what isn't blank."""
    if "\x00" in text:
        raise ValueError("may not hold the character NUL")
    if not text.strip():
        raise ValueError("may not be blank")
    return text


def _object(value: dict[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except (UnicodeEncodeError, RecursionError):
        raise ValueError("holds text that is not valid Unicode or is nested too deeply") from None
    if size > MANIFEST_BYTES_MAX:
        raise ValueError(f"may have at most {MANIFEST_BYTES_MAX} bytes as JSON")
    if "\\u0000" in json.dumps(value):
        raise ValueError("may not hold the character NUL")
    return value


def _uuid(value: object) -> object:
    return UUID(value) if isinstance(value, str) and len(value) == 36 else value


def moment_of(value: object) -> datetime:
    """A time with its zone, as ISO-8601. Raises ValueError."""
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("must be a time such as 2026-01-31T12:00:00Z") from None
    else:
        raise ValueError("must be a string")
    if moment.tzinfo is None:
        raise ValueError("must name its time zone, such as Z")
    if not _YEARS[0] <= moment.year < _YEARS[1]:
        raise ValueError(f"must be in the years {_YEARS[0]} to {_YEARS[1]}")
    return moment.astimezone(UTC)


Name = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(stored_text)]
Email = Annotated[
    str,
    StringConstraints(pattern=r"^[^@\s]{1,64}@[^@\s]{1,250}$", max_length=320),
    AfterValidator(stored_text),
    Field(examples=["dev@example.com"]),
]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(stored_text)]
Object = Annotated[dict[str, Any], AfterValidator(_object)]
AskUuid = Annotated[UUID, BeforeValidator(_uuid)]
AskMoment = Annotated[datetime, BeforeValidator(moment_of), WithJsonSchema({"type": "string", "format": "date-time"})]
Bps = Annotated[int, Field(ge=0, le=10_000)]
Scope = Literal[SCOPES]  # type: ignore[valid-type]
Origins = Annotated[
    list[Annotated[str, StringConstraints(max_length=300), AfterValidator(exact_origin)]], Field(max_length=ORIGINS_MAX)
]

# ── tokens ──


class TokenAsk(Ask):
    developer_id: AskUuid | None = None
    """Whose it is; for staff, who have no developer of their own."""
    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=50)]
    expires_at: AskMoment | None = None


class TokenItem(Reply):
    id: UUID
    developer_id: UUID
    developer_name: str
    developer_email: str
    name: str
    token_prefix: str
    scopes: list[str]
    status: Literal["active", "expired", "revoked"]
    last_used_at: Moment | None = None
    expires_at: Moment | None = None
    revoked_at: Moment | None = None
    created_at: Moment
    updated_at: Moment


class TokenReply(Reply):
    token: str
    """Shown now and never again."""
    item: TokenItem


# ── apps ──


class AppSettings(Ask):
    vertical: Name | None = None
    default_revenue_share_bps: Bps | None = None
    identity_mode: Literal["open", "signed"] | None = None
    allowed_origins: Origins | None = None
    monthly_spend_limit_usd: Amount | None = None
    session_spend_limit_usd: Amount | None = None
    wallet_low_usd: Amount | None = None
    """Below this a wallet of the app is reported low, instead of below what the installation says."""


class AppAsk(AppSettings):
    developer_id: AskUuid | None = None
    """Whose it is; for staff, who have no developer of their own."""
    public_app_id: Identifier
    name: Name


class AppPatch(AppSettings):
    name: Name | None = None
    status: Literal["active", "disabled"] | None = None


class AppItem(Reply):
    public_app_id: str
    name: str
    vertical: str | None = None
    default_revenue_share_bps: int
    status: Literal["active", "disabled", "archived"]
    identity_mode: Literal["open", "signed"]
    allowed_origins: list[str]
    signing_keys: list[str]
    monthly_spend_limit_usd: Usd | None = None
    session_spend_limit_usd: Usd | None = None
    wallet_low_usd: Usd | None = None
    developer_id: UUID
    developer_name: str
    developer_email: str
    created_at: Moment
    updated_at: Moment


# ── features ──


_INPUT: dict[str, Any] = {
    "type": "object",
    "properties": {"question": {"type": "string", "maxLength": 4000}},
    "required": ["question"],
}
_OUTPUT: dict[str, Any] = {"type": "object", "properties": {"reply": {"type": "string"}}, "required": ["reply"]}


class FeatureParts(Ask):
    input_schema: Annotated[Object | None, Field(examples=[_INPUT])] = None
    """A JSON Schema (2020-12, a subset) that the input of `POST /v1/features/:key/run` must match."""
    prompt: Annotated[
        Object | None, Field(examples=[{"system": "You answer customers.", "user": "{{ input.question }}"}])
    ] = None
    """`system` and `user`, or `messages`, with places such as `{{ input.question }}`; `locked` refuses chats."""
    output_schema: Annotated[Object | None, Field(examples=[_OUTPUT])] = None
    """A JSON Schema that answers are asked to match."""
    limits: Annotated[
        Object | None,
        Field(examples=[{"requests_per_minute": {"end_user": 20}, "monthly_spend_usd": {"end_user": "5"}}]),
    ] = None
    """`requests_per_minute` and `monthly_spend_usd`."""

    @property
    def parts(self) -> dict[str, Any]:
        """Those that were given, by their names; null takes one away."""
        return {name: getattr(self, name) for name in FeatureParts.model_fields if name in self.model_fields_set}


class FeatureAsk(FeatureParts):
    feature_key: Identifier
    display_name: Name
    policy: Object = Field(default_factory=dict)
    pricing: Object = Field(default_factory=dict)


class FeaturePatch(FeatureParts):
    display_name: Name | None = None
    policy: Object | None = None
    pricing: Object | None = None
    status: Literal["active"] | None = None
    """Brings an archived feature back."""


class FeatureActivation(Ask):
    version: Annotated[int, Field(ge=1, le=2_147_483_647)]


class FeatureItem(Reply):
    id: UUID
    public_app_id: str
    feature_key: str
    display_name: str
    policy: dict[str, Any]
    pricing: dict[str, Any]
    input_schema: dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None
    limits: dict[str, Any] | None = None
    version: int
    status: Literal["active", "archived"]
    created_at: Moment
    updated_at: Moment


class FeatureVersionItem(Reply):
    version: int
    is_active: bool
    display_name: str
    policy: dict[str, Any]
    pricing: dict[str, Any]
    input_schema: dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None
    limits: dict[str, Any] | None = None
    created_by: str
    created_at: Moment


# ── operations, usage ──


class WalletItem(Reply):
    id: UUID
    owner_scope: Literal["end_user", "developer"]
    owner_id: UUID
    owner_name: str | None = None
    balance_usd: Usd
    updated_at: Moment


class TopupItem(Reply):
    id: UUID
    wallet_id: UUID
    owner_scope: Literal["end_user"]
    owner_id: UUID
    provider: str
    provider_checkout_session_id: str | None = None
    amount_usd: Usd
    status: str
    checkout_url: str | None = None
    created_at: Moment
    updated_at: Moment


class PayoutItem(Reply):
    id: UUID
    developer_id: UUID
    developer_name: str
    amount_usd: Usd
    status: str
    provider: str | None = None
    provider_payout_id: str | None = None
    reason: str | None = None
    """Why it failed or was cancelled."""
    created_at: Moment
    updated_at: Moment


class AuditItem(Reply):
    id: UUID
    developer_id: UUID | None = None
    actor_scope: str
    actor_id: str | None = None
    action: str
    resource_type: str
    resource_id: str | None = None
    metadata: dict[str, Any]
    """The request's id, and the resource before and after."""
    created_at: Moment


class OperationsReply(Reply):
    wallets: list[WalletItem]
    topups: list[TopupItem]
    payouts: list[PayoutItem]
    audit_logs: list[AuditItem]


class UsagePoint(Reply):
    at: Moment
    public_app_id: str | None = None
    feature_key: str | None = None
    feature_version: int | None = None
    provider: str | None = None
    model: str | None = None
    calls: int
    input_tokens: int
    output_tokens: int
    retail_price_usd: Usd
    channel_revenue_usd: Usd


class UsageSeriesReply(Reply):
    since: Moment
    until: Moment
    interval: Literal["day", "hour"]
    group_by: Literal["app", "feature", "feature_version", "model", "provider"] | None = None
    items: list[UsagePoint]


class PlatformPoint(UsagePoint):
    developer_id: UUID | None = None
    upstream_cost_usd: Usd
    platform_revenue_usd: Usd


class PlatformSeriesReply(Reply):
    since: Moment
    until: Moment
    interval: Literal["day", "hour"]
    group_by: Literal["app", "feature", "feature_version", "model", "provider", "developer"] | None = None
    items: list[PlatformPoint]
