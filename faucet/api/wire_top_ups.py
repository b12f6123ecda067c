"""The shapes of money that comes in: top-ups, receipts, automatic top-ups, the processor's events."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from faucet.api.developer_wire import Reason, TopupItem
from faucet.api.wire import Amount, Ask, Moment, Reply, Usd
from faucet.payments.store import TopUp
from faucet.payments.top_ups import ADDRESS_CHARACTERS_MAX, cents_of

EVENTS_REPLAYED_MAX = 500


def _whole_cents(value: int) -> int:
    cents_of(value)
    return value


Cents = Annotated[Amount, AfterValidator(_whole_cents)]
"""An amount that a card can pay: more than nothing, in whole cents."""
Address = Annotated[str, StringConstraints(min_length=8, max_length=ADDRESS_CHARACTERS_MAX)]


class CheckoutAsk(Ask):
    """What somebody wants to pay in, and where the browser goes afterwards."""

    amount_usd: Annotated[Cents, Field(examples=["10.00"])]
    success_url: Annotated[Address, Field(examples=["https://app.example.com/paid?session={CHECKOUT_SESSION_ID}"])]
    cancel_url: Annotated[Address, Field(examples=["https://app.example.com/wallet"])]
    save_card: bool = False
    """Whether the processor keeps the card, for automatic top-ups that are asked for later."""


class CheckoutReply(Reply):
    checkout_session_id: str
    checkout_url: str
    wallet_id: UUID
    amount_usd: Usd
    status: Literal["pending"]


class ReceiptReply(Reply):
    number: str
    url: str | None = None
    """The processor's page, some seconds after the payment."""


class OwnTopUpReply(Reply):
    """A top-up, as who pays it sees it."""

    id: UUID
    wallet_id: UUID
    kind: Literal["checkout", "auto"]
    amount_usd: Usd
    status: Annotated[str, Field(examples=["pending", "credited", "expired", "failed", "refused"])]
    reason: str | None = None
    checkout_session_id: str | None = None
    checkout_url: str | None = None
    refunded_usd: Usd
    disputed_usd: Usd
    receipt: ReceiptReply | None = None
    created_at: Moment
    credited_at: Moment | None = None
    expires_at: Moment | None = None


class OperatorTopUpReply(OwnTopUpReply):
    """A top-up, as the operator sees it."""

    developer_id: UUID
    owner_id: UUID
    payment_intent_id: str | None = None
    fee_usd: Usd | None = None
    refundable_usd: Usd


def topup_item(row: TopUp) -> TopupItem:
    """A top-up in a developer's list."""
    return TopupItem(
        id=row.id,
        wallet_id=row.wallet_public_id,
        owner_scope="end_user",
        owner_id=row.end_user_id,
        provider="stripe",
        provider_checkout_session_id=row.checkout_session_id,
        amount_usd=row.amount_e8,
        status=row.status,
        checkout_url=row.checkout_url,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _common(row: TopUp) -> dict[str, Any]:
    number = row.receipt_number
    return {
        "id": row.id,
        "wallet_id": row.wallet_public_id,
        "kind": row.kind,
        "amount_usd": row.amount_e8,
        "status": row.status,
        "reason": row.reason,
        "checkout_session_id": row.checkout_session_id,
        "checkout_url": row.checkout_url,
        "refunded_usd": row.refunded_e8,
        "disputed_usd": row.disputed_e8,
        "receipt": None if number is None else ReceiptReply(number=number, url=row.receipt_url),
        "created_at": row.created_at,
        "credited_at": row.credited_at,
        "expires_at": row.expires_at if row.status == "pending" else None,
    }


def own_top_up(row: TopUp) -> OwnTopUpReply:
    """A top-up for who pays it."""
    return OwnTopUpReply(**_common(row))


def operator_top_up(row: TopUp) -> OperatorTopUpReply:
    """A top-up for the operator."""
    return OperatorTopUpReply(
        **_common(row),
        developer_id=row.developer_id,
        owner_id=row.end_user_id,
        payment_intent_id=row.payment_intent_id,
        fee_usd=row.fee_e8,
        refundable_usd=row.rest_e8 if row.status == "credited" else 0,
    )


# ── automatic top-ups ──


class AutoTopUpAsk(Ask):
    """A standing order over a saved card; its end user has to have said so."""

    threshold_usd: Annotated[Amount, Field(examples=["2.00"])]
    """Topped up when less than this is available."""
    amount_usd: Annotated[Cents, Field(examples=["10.00"])]
    """At least the threshold: one payment is enough, then."""
    monthly_cap_usd: Annotated[Amount, Field(examples=["50.00"])]
    """What it may come to in one month, in UTC."""
    consent: Annotated[Literal[True], Field(description="That the end user agreed to be charged without being asked.")]

    @model_validator(mode="after")
    def _cap_fits(self) -> AutoTopUpAsk:
        if self.monthly_cap_usd < self.amount_usd:
            raise ValueError("monthly_cap_usd must be at least amount_usd")
        if self.amount_usd < self.threshold_usd:
            raise ValueError("amount_usd must be at least threshold_usd, so that one payment is enough")
        return self


class CardReply(Reply):
    brand: str
    last4: str


class AutoTopUpReply(Reply):
    status: Literal["on", "paused", "off"]
    threshold_usd: Usd | None = None
    amount_usd: Usd | None = None
    monthly_cap_usd: Usd | None = None
    used_this_month_usd: Usd | None = None
    reason: str | None = None
    """Why it is paused."""
    card: CardReply | None = None
    consented_at: Moment | None = None


# ── the operator's desk ──


class RefundAsk(Ask):
    amount_usd: Cents | None = None
    """Absent: all that is left."""
    reason: Reason


class RefundReply(Reply):
    id: UUID
    topup_id: UUID
    amount_usd: Usd
    status: Literal["requested", "sent", "failed"]
    reason: str
    provider_refund_id: str | None = None
    failure: str | None = None
    created_at: Moment


class FreezeAsk(Ask):
    reason: Reason


class FrozenReply(Reply):
    wallet_id: UUID
    frozen: bool
    balance_usd: Usd
    available_usd: Usd


# ── the processor's events ──


class WebhookReply(Reply):
    """What became of an event. `queued`: it is kept, and will be applied within seconds."""

    received: Literal[True] = True
    ignored: bool | None = None
    queued: bool | None = None
    refused: bool | None = None
    reason: str | None = None
    topup: TopupItem | None = None


class EventItem(Reply):
    id: str
    type: str
    outcome: Literal["waiting", "applied", "ignored", "refused"]
    reason: str
    attempts: int
    account: str | None = None
    created_at: Moment
    received_at: Moment


EventId = Annotated[str, StringConstraints(pattern=r"^evt_[A-Za-z0-9_]+$", max_length=255)]


class ReplayAsk(Ask):
    """Which events the processor is asked for again: these, else those of so many hours."""

    event_ids: Annotated[list[EventId], Field(min_length=1, max_length=100)] | None = None
    hours: Annotated[int, Field(ge=1, le=24 * 30)] = 24


class ReplayReply(Reply):
    asked: int
    """So many the processor knows."""
    stored: int
    """So many of them had not come here."""
    applied: int
    waiting: int
    refused: int
