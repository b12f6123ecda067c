"""The shapes of the webhooks' routes. Requests are strict, as in `wire`."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints

from faucet.api.developer_wire import AskUuid, stored_text
from faucet.api.wire import Ask, Moment, Reply
from faucet.webhooks.endpoints import OVERLAP_SECONDS, OVERLAP_SECONDS_MAX
from faucet.webhooks.outbox import EventType
from faucet.webhooks.target import URL_CHARACTERS_MAX

Url = Annotated[
    str,
    StringConstraints(min_length=8, max_length=URL_CHARACTERS_MAX),
    Field(examples=["https://hooks.example.com/modelfaucet"]),
]
Description = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(stored_text)]
EventTypes = Annotated[list[EventType], Field(max_length=50, examples=[["topup.credited", "wallet.low"]])]


class WebhookAsk(Ask):
    developer_id: AskUuid | None = None
    """Whose it is; for staff, who have no developer of their own."""
    url: Url
    description: Description | None = None
    event_types: EventTypes = []
    """What to be told of; empty: everything, also kinds that come later."""


class WebhookPatch(Ask):
    url: Url | None = None
    description: Description | None = None
    event_types: EventTypes | None = None
    status: Literal["active", "disabled"] | None = None


class RotateAsk(Ask):
    overlap_seconds: Annotated[int, Field(ge=0, le=OVERLAP_SECONDS_MAX)] = OVERLAP_SECONDS
    """How long the secret before signs too."""


class WebhookItem(Reply):
    id: UUID
    developer_id: UUID
    url: str
    description: str | None = None
    event_types: list[str]
    status: Literal["active", "disabled"]
    disabled_reason: Literal["developer", "failing", "gone"] | None = None
    failing_since: Moment | None = None
    previous_secret_until: Moment | None = None
    created_at: Moment
    updated_at: Moment


class WebhookReply(Reply):
    item: WebhookItem
    secret: Annotated[str, Field(examples=["whsec_…"])]
    """Shown now and never again."""


class ReplayAsk(Ask):
    webhook_id: AskUuid | None = None
    """One endpoint; absent: all that want this kind of event."""


class DeliveryItem(Reply):
    webhook_id: UUID
    state: Literal["pending", "delivered", "failed"]
    tries: int
    next_try_at: Moment | None = None


class EventItem(Reply):
    id: UUID
    """What is in the header `webhook-id`, at every try and replay."""
    developer_id: UUID
    type: EventType
    data: dict[str, Any]
    deliveries: list[DeliveryItem]
    created_at: Moment


class AttemptItem(Reply):
    id: UUID
    webhook_id: UUID
    number: int
    status_code: int | None = None
    failure: Annotated[str | None, Field(examples=["refused_address", "connect", "first_byte_timeout"])] = None
    """Why there was no answer."""
    duration_ms: int
    created_at: Moment


class ReplayReply(Reply):
    event_id: UUID
    deliveries: int
    """To so many endpoints it goes once more."""
