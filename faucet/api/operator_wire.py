"""The shapes of the operator's routes. Requests are strict, as in `wire`."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints

from faucet.api.developer_wire import AskMoment, Email, Name, Reason, stored_text
from faucet.api.wire import Amount, AmountOrNone, Ask, IdempotencyKey, Identifier, Moment, Reply, Usd

ProviderName = Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(stored_text)]

# ── developers ──


class DeveloperAsk(Ask):
    name: Name
    email: Email


class DeveloperPatch(Ask):
    name: Name | None = None
    status: Literal["active", "disabled"] | None = None
    free_quota_monthly_max_usd: AmountOrNone | None = None
    """What the platform gives away for the free quotas of this developer's features in a month; 0 is nothing."""


class DeveloperItem(Reply):
    id: UUID
    name: str
    email: str
    status: Literal["active", "disabled"]
    free_quota_monthly_max_usd: Usd
    free_quota_granted_usd: Usd
    """What was set aside of it this month; what is not used goes back when the month is over."""
    created_at: Moment
    updated_at: Moment


# ── adjustments ──


class AdjustmentAsk(Ask):
    kind: Literal["adjustment", "refund", "chargeback"]
    direction: Literal["credit", "debit"]
    amount_usd: Amount
    reason: Reason | None = None
    idempotency_key: IdempotencyKey | None = None


class AdjustmentReply(Reply):
    id: UUID
    wallet_id: UUID
    kind: Literal["adjustment", "refund", "chargeback"]
    direction: Literal["credit", "debit"]
    amount_usd: Usd
    status: Literal["applied"]
    reason: str | None = None
    idempotency_key: str | None = None
    wallet_balance_usd: Usd
    written_off_usd: Usd | None = None
    """Of a refund or chargeback: what the wallet didn't have."""
    frozen: bool | None = None
    """Of a refund or chargeback: whether the wallet may not spend until an operator lets it go."""


# ── credit given away ──


class GrantAsk(Ask):
    amount_usd: Amount
    reason: Reason


class GrantReply(Reply):
    wallet_id: UUID
    amount_usd: Usd
    reason: str
    wallet_balance_usd: Usd


PromoCode = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9-]{4,40}$", min_length=4, max_length=40),
    AfterValidator(str.upper),
    Field(examples=["WELCOME-2027"]),
]
"""Capital and small letters are the same."""


class PromoAsk(Ask):
    code: PromoCode | None = None
    """Absent: one is made up that nobody guesses."""
    amount_usd: Amount
    redemptions_max: Annotated[int, Field(ge=1, le=10_000_000)]
    """How many end users may redeem it in all, each once."""
    public_app_id: Identifier | None = None
    """Absent: end users of all apps may."""
    expires_at: AskMoment | None = None


class PromoItem(Reply):
    id: UUID
    code: str
    amount_usd: Usd
    redemptions: int
    redemptions_max: int
    granted_usd: Usd
    public_app_id: str | None = None
    status: Literal["active", "used_up", "expired", "disabled"]
    expires_at: Moment | None = None
    disabled_at: Moment | None = None
    created_by: str
    created_at: Moment


# ── prices ──


class PriceTierItem(Reply):
    """Prices that take the place of a version's own where all its conditions hold."""

    above_input_tokens: int = 0
    """For requests with more input tokens, cached ones included."""
    from_minute: int | None = None
    """In these minutes of the day, in UTC; `until_minute` is not included."""
    until_minute: int | None = None
    input_usd_per_m: Usd
    cached_read_usd_per_m: Usd
    cached_write_usd_per_m: Usd
    output_usd_per_m: Usd
    reasoning_usd_per_m: Usd | None = None


class PriceFigures(Reply):
    """What a model costs, whatever was decided about it. Dollars per million tokens, where they are for tokens."""

    tokenizer: str
    context_window: int
    max_output_tokens: int
    image_tokens_max: int
    input_usd_per_m: Usd
    cached_read_usd_per_m: Usd
    cached_write_usd_per_m: Usd
    output_usd_per_m: Usd
    reasoning_usd_per_m: Usd | None = None
    request_usd: Usd
    tiers: list[PriceTierItem] = []
    """The last whose conditions hold counts."""
    effective_from: Moment
    source: str


class PriceItem(PriceFigures):
    """A version of a price, and what was decided about it."""

    id: int
    provider: str
    model: str
    status: Literal["draft", "confirmed", "rejected"]
    created_at: Moment
    decided_at: Moment | None = None
    decided_by: str | None = None


class PriceAsk(Ask):
    """A version of one's own, in dollars per million tokens. What is left out: cached input costs what input costs."""

    provider: ProviderName
    model: ProviderName
    input_usd_per_m: Amount
    output_usd_per_m: Amount
    cached_read_usd_per_m: Amount | None = None
    cached_write_usd_per_m: Amount | None = None
    request_usd: Amount = 0
    tokenizer: Literal["o200k", "words", "bytes"] = "bytes"
    """How to count where the provider does not."""
    context_window: Annotated[int, Field(ge=1, le=2**31 - 1)] = 128_000
    max_output_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] = 4_096
    image_tokens_max: Annotated[int, Field(ge=0, le=2**31 - 1)] = 50_000
    """More than any provider documents for one image: a bound that is too high only holds too much for a moment."""
    confirm: bool = False
    """Put it up for sale at once."""


class PriceImportAsk(Ask):
    providers: Annotated[list[ProviderName], Field(max_length=100)] | None = None
    """Only of these; absent means all of the catalogue."""


class PriceImportReply(Reply):
    new_count: int
    price_count: int
    """How many prices the catalogue has for them."""
    left_out_count: int
    """Models that are not plainly priced by tokens."""


class PriceDifference(Reply):
    """A model whose price is known otherwise here than the packaged catalogue has it."""

    change: Literal["added", "changed", "removed"]
    provider: str
    model: str
    before: PriceFigures | None = None
    """The newest version that is known here; absent for a model that is new."""
    after: PriceFigures | None = None
    """What the catalogue says; absent where it no longer has the model."""
    differs_in: list[str] = []
    """The figures that are not the same in both."""


class PriceSyncAsk(Ask):
    providers: Annotated[list[ProviderName], Field(max_length=100)] | None = None
    """Only of these; absent means those that are turned on: by the settings, or by a key of the platform's."""


class PriceSyncReply(Reply):
    providers: list[str]
    """Whose prices were compared."""
    added_count: int
    changed_count: int
    removed_count: int
    """Models that the catalogue no longer has; their prices stay as they are."""
    new_count: int
    """Drafts that were made. Some models have more than one: of a price that is announced for a later day, too."""


# ── kill switches ──


class SwitchAsk(Ask):
    target: Literal["app", "provider", "everything"]
    target_id: ProviderName | None = None
    """The app's public id, or the provider's name; absent where everything is switched off."""
    reason: Reason


class SwitchItem(Reply):
    target: Literal["app", "provider", "everything"]
    target_id: str | None = None
    reason: str
    thrown_by: str
    thrown_at: Moment


# ── spend limits ──


class SpendLimitLift(Ask):
    scope: Literal["app", "feature", "end_user", "session"]
    target: Annotated[str, StringConstraints(min_length=1, max_length=700), AfterValidator(stored_text)]
    """An id; also an app's public id, a feature as APP/FEATURE, an end user as APP/USER."""
    period: Literal["month", "total"] = "month"


class SpendLimitAsk(SpendLimitLift):
    limit_usd: AmountOrNone


class SpendLimitReply(Reply):
    id: UUID
    """Of what the limit is over."""
    scope: Literal["app", "feature", "end_user", "session"]
    period: Literal["month", "total"]
    limit_usd: Usd | None = None
    """Absent where there is none any more."""
