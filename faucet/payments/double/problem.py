"""What the double refuses, in the shape of Stripe's errors."""

from __future__ import annotations

from typing import Any


class Problem(Exception):
    """A refused request: its status and Stripe's error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        fields = {"type": kind, "message": message, "code": code, "param": param} | more
        self.body = {"error": {name: value for name, value in fields.items() if value is not None}}


def missing(kind: str, name: str, *, param: str = "id") -> Problem:
    """There is no such object."""
    return Problem(404, f"No such {kind}: '{name}'", code="resource_missing", param=param)


def card_declined(decline_code: str, payment_intent: dict[str, Any] | None = None) -> Problem:
    """A card that its bank turned down."""
    texts = {
        "generic_decline": "Your card was declined.",
        "insufficient_funds": "Your card has insufficient funds.",
        "expired_card": "Your card has expired.",
        "authentication_required": "Your card was declined. This transaction requires authentication.",
    }
    code = decline_code if decline_code in ("expired_card", "authentication_required") else "card_declined"
    return Problem(
        402,
        texts.get(decline_code, texts["generic_decline"]),
        kind="card_error",
        code=code,
        decline_code=decline_code,
        payment_intent=payment_intent,
    )
