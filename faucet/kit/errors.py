"""What can go wrong, as one tree.

    FaucetError
    ├── Refusal          the caller may know: a code and a status of the wire contract, a public text
    ├── Fault            the caller may not know: something of ours or of the world failed (500/503)
    └── InvariantBroken  a bug: logged as an alarm, answered as 500; the process lives

Rooms raise; only doors render. The public text of a Refusal never holds a secret or another tenant's words.
"""

from __future__ import annotations

from typing import Any

STATUS_BY_CODE = {
    "invalid_request": 400,
    "invalid_session": 401,
    "expired_session": 401,
    "forbidden": 403,
    "disabled": 403,
    "invalid_app": 404,
    "feature_not_found": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "idempotency_conflict": 409,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "insufficient_balance": 402,
    "budget_exceeded": 402,
    "rate_limited": 429,
    "no_available_route": 503,
    "unavailable": 503,
    "provider_error": 502,
    "secret_validation_failed": 400,
    "internal": 500,
}
"""The codes of the wire and the status that each has unless a refusal says otherwise."""


class FaucetError(Exception):
    """The root of this project's own exceptions."""


class Refusal(FaucetError):
    """A request that is turned down, in words that the caller may read."""

    def __init__(
        self,
        code: str,
        public: str,
        *,
        status: int | None = None,
        param: str | None = None,
        details: dict[str, Any] | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(public)
        self.code = code
        self.public = public
        self.status = STATUS_BY_CODE[code] if status is None else status
        self.param = param
        self.details = details
        self.retry_after_seconds = retry_after_seconds


class Fault(FaucetError):
    """Something failed that is not the caller's business; the text is for logs only."""


class InvariantBroken(FaucetError):
    """A state that must be impossible was seen."""


def field_error(field: str, message: str, *, param: str | None = None, code: str = "invalid_request") -> Refusal:
    """A 400 that names one field, in the contract's validation shape."""
    return Refusal(
        code,
        f"{field}: {message}",
        status=400,
        param=param or field,
        details={"formErrors": [], "fieldErrors": {field: [message]}},
    )
