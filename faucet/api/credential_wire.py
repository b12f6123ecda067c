"""The shapes of stored provider keys: what their owners send and what they may see of them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema

from faucet.api.wire import Ask, Identifier, Moment, Reply, Usd
from faucet.kit.money import E8_PER_USD, from_wire
from faucet.providers.keyed import KEYED, NAMES

BUDGET_E8_MAX = 1_000_000 * E8_PER_USD


def _provider(value: object) -> str:
    if not isinstance(value, str) or value not in NAMES:
        raise ValueError(f"must be one of {', '.join(KEYED)}")
    return value


def _budget(value: object) -> int | None:
    """The e8 of a limit on the wire; None takes it away."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("must be a string")
    e8 = from_wire(value)
    if e8 > BUDGET_E8_MAX:
        raise ValueError(f"must be at most {BUDGET_E8_MAX // E8_PER_USD}")
    return e8


ProviderName = Annotated[
    str,
    BeforeValidator(_provider),
    WithJsonSchema({"type": "string", "enum": list(KEYED), "examples": ["openai"]}),
]
# What a header can carry; a key with a blank or a line end in it is a slip of the mouse.
ApiKey = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]+$", min_length=8, max_length=4096), Field(repr=False)]
BaseUrl = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
ModelName = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]+$", min_length=1, max_length=256)]
Models = Annotated[list[ModelName], Field(max_length=100)]
Budget = Annotated[
    int | None,
    BeforeValidator(_budget),
    WithJsonSchema({"type": ["string", "null"], "pattern": r"^(0|[1-9]\d*)(\.\d{1,8})?$", "examples": ["25.00"]}),
]
Priority = Annotated[int, Field(ge=1, le=1000)]


class ProviderKeyAsk(Ask):
    provider: ProviderName
    api_key: ApiKey
    base_url: BaseUrl | None = None
    models_allowed: Models = []
    budget_limit_usd: Budget = None
    priority: Priority = 100
    fallback_to_platform: bool = False
    # Not called `validate`: the base class has a method of that name.
    validate_: Annotated[bool, Field(alias="validate")] = True


class DeveloperKeyAsk(ProviderKeyAsk):
    public_app_id: Identifier | None = None
    weight: Priority = 1


class PlatformKeyAsk(ProviderKeyAsk):
    weight: Priority = 1


class ProviderKeyChange(Ask):
    models_allowed: Models | None = None
    budget_limit_usd: Budget = None
    priority: Priority | None = None
    fallback_to_platform: bool | None = None


class RotationAsk(Ask):
    api_key: ApiKey
    validate_: Annotated[bool, Field(alias="validate")] = True


class ProviderKeyReply(Reply):
    id: UUID
    provider: str
    base_url: str | None = None
    masked: str
    status: Annotated[str, Field(examples=["active", "failing", "disabled"])]
    last_error_code: Annotated[str | None, Field(examples=["http_401"])] = None
    use_count: int | None = None
    """Absent until it was used; counted within seconds."""
    models_allowed: list[str]
    priority: int
    budget_limit_usd: Usd | None = None
    fallback_to_platform: bool
    last_validated_at: Moment | None = None
    last_used_at: Moment | None = None


class DeveloperKeyReply(ProviderKeyReply):
    developer_id: UUID
    public_app_id: str | None = None
    weight: int
    created_at: Moment
    updated_at: Moment


class PlatformKeyReply(ProviderKeyReply):
    weight: int
    created_at: Moment
    updated_at: Moment
