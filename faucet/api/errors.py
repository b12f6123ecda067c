"""How everything that goes wrong looks on the wire: one envelope, `{"error": {code, message, request_id, details?}}`.

Refusals show their own words; validation names its fields; a database that is away is 503; all else is a fault
that is logged whole and shown as nothing but `internal`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from faucet.kit.errors import Refusal
from faucet.kit.log import logger

RETRY_AFTER_SECONDS = 1
MESSAGES_MAX = 20

_BY_STATUS = {
    401: ("invalid_session", "a bearer is needed here"),
    403: ("forbidden", "this is not allowed"),
    404: ("not_found", "there is nothing at this path"),
    405: ("method_not_allowed", "this path does not answer to this method"),
    413: ("payload_too_large", "the body is too large"),
    415: ("unsupported_media_type", "the body must be application/json"),
}
_TEXTS = {
    "extra_forbidden": "is not a known field",
    "missing": "is required",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "string_type": "must be a string",
    "json_invalid": "is not valid JSON",
}


def respond(error: Exception, request_id: str) -> JSONResponse:
    """The response that this error becomes."""
    refusal = as_refusal(error)
    if refusal is None:
        logger.error("api.fault", request_id=request_id, exc_info=error)
        refusal = Refusal("internal", "something went wrong here; the request id helps to find out what")
    content: dict[str, Any] = {
        "code": refusal.code,
        "message": refusal.public,
        "request_id": request_id,
    }
    if refusal.details is not None:
        content["details"] = refusal.details
    headers = {}
    if refusal.retry_after_seconds is not None:
        headers["retry-after"] = str(refusal.retry_after_seconds)
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, HTTPException) and error.status_code == 405 and error.headers:
        headers |= {name: value for name, value in error.headers.items() if name.lower() == "allow"}
    return JSONResponse({"error": content}, status_code=refusal.status, headers=headers)


def as_refusal(error: Exception) -> Refusal | None:
    """What the caller may know of an error; None for what is our fault alone."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, RequestValidationError):
        return _validation(error.errors())
    if isinstance(error, HTTPException) and error.status_code == 400:
        # The framework's word for a body that its parser gave up on: not UTF-8, or nested too deeply.
        return _validation([{"type": "json_invalid", "loc": ("body",), "msg": ""}])
    if isinstance(error, HTTPException):
        code, text = _BY_STATUS.get(error.status_code, ("invalid_request", "the request can't be served"))
        return Refusal(code, text, status=error.status_code)
    # Lost connections, a server that shuts down, a pool that has none to give, a lock that timed out.
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        logger.warning("api.database_away", error=type(error).__name__)
        return Refusal(
            "unavailable",
            "the database can't be reached; try again",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
    return None


def _validation(problems: Sequence[Any]) -> Refusal:
    """A 400 in the contract's validation shape. The values themselves are never repeated."""
    form: list[str] = []
    fields: dict[str, list[str]] = {}
    for problem in problems[:MESSAGES_MAX]:
        source, *path = problem["loc"]
        text = _TEXTS.get(problem["type"]) or str(problem["msg"]).removeprefix("Value error, ")
        if problem["type"] == "json_invalid" or not path:
            form.append(f"the {source} {text}" if problem["type"] in _TEXTS else text)
        else:
            fields.setdefault(".".join(str(part)[:128] for part in path), []).append(text)
    first = form[0] if form else next(f"{field}: {texts[0]}" for field, texts in fields.items())
    return Refusal("invalid_request", first, details={"formErrors": form, "fieldErrors": fields})
