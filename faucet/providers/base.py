"""What a provider is to the gateway, and what its failures mean."""

from __future__ import annotations

from dataclasses import dataclass, field

from faucet.kit.upstream import Endpoint


@dataclass(frozen=True, slots=True)
class Provider:
    """One upstream LLM service that speaks OpenAI's wire."""

    name: str
    endpoint: Endpoint
    chat_path: bytes
    headers: bytes = field(repr=False)
    """A ready block of header lines, the credential among them; never printed."""
    auto_models: tuple[str, ...]
    """Models that `auto` may choose from, in order of preference between equals."""
    limit_field: str = "max_tokens"
    """The field that bounds the output where the caller named none."""
    bills_after_cancel: bool = False
    """Whether closing the connection fails to stop the bill; then an abandoned answer is read to its end."""
    name_json: bytes = b""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What happened on one try of a provider: for details of errors and for logs. No secrets, no addresses."""

    attempt: int
    provider: str
    status_code: int | None
    error_code: str
    retryable: bool
    duration_ms: int

    def to_wire(self) -> dict[str, object]:
        shown: dict[str, object] = {"attempt": self.attempt, "provider": self.provider}
        if self.status_code is not None:
            shown["statusCode"] = self.status_code
        return shown | {
            "errorCode": self.error_code,
            "retryable": self.retryable,
            "durationMs": self.duration_ms,
        }


RETRYABLE_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
CALLER_STATUS = frozenset({400, 404, 413, 415, 422})
"""Statuses that speak about the request itself: the caller can act on them."""
