"""The shapes of what end users see of themselves."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints

from faucet.api.statement_wire import StatementItem
from faucet.api.wire import Ask, Moment, Reply, Usd
from faucet.tenants.local_endpoints import MODELS_MAX, checked_base_url


class OwnUsageReply(Reply):
    """One answer, as who asked for it sees it."""

    request_id: str
    feature_key: str | None = None
    route_mode: str
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    price_usd: Usd
    paid_by: Annotated[str | None, Field(examples=["free_quota"])] = None
    """Absent where the wallet paid."""
    usage_source: str
    outcome: str
    created_at: Moment


class StatementLine(Reply):
    """One movement of a wallet; what was paid is negative."""

    id: UUID
    kind: Annotated[str, Field(examples=["usage", "top_up", "grant", "refund"])]
    amount_usd: Usd
    description: Annotated[str | None, Field(examples=["Promo code WELCOME-2027"])] = None
    """What credit was given for."""
    request_id: str | None = None
    created_at: Moment


class StatementReply(Reply):
    """A wallet's movements, and what is in it."""

    wallet_id: UUID
    balance_usd: Usd
    held_usd: Usd
    available_usd: Usd
    items: list[StatementLine]
    next_cursor: str | None = None
    period: str | None = None
    """The month that was asked for; the movements are those of it."""
    statement: StatementItem | None = None
    """The signed statement of that month, where it is closed and the wallet moved in it."""


class RedeemAsk(Ask):
    """A promo code, as somebody typed it."""

    code: Annotated[str, StringConstraints(min_length=1, max_length=100), Field(examples=["WELCOME-2027"])]


class RedeemReply(Reply):
    """What a promo code gave."""

    amount_usd: Usd
    wallet_balance_usd: Usd


LocalKind = Literal["ollama", "lm_studio", "vllm", "llama_cpp", "openai_compatible"]
_Text = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", min_length=1, max_length=100)]
_Model = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]+$", min_length=1, max_length=200)]


class LocalEndpointAsk(Ask):
    """A model server on the end user's machine."""

    name: Annotated[_Text, Field(examples=["my laptop"])]
    kind: LocalKind
    base_url: Annotated[
        str,
        StringConstraints(min_length=8, max_length=300),
        AfterValidator(checked_base_url),
        Field(examples=["http://127.0.0.1:11434/v1"]),
    ]
    models: Annotated[list[_Model], Field(max_length=MODELS_MAX, examples=[["qwen2.5:7b"]])] = []


class LocalEndpointReply(Reply):
    """A local endpoint, as it was noted."""

    id: UUID
    name: str
    kind: str
    base_url: str
    models: list[str]
    created_at: Moment
