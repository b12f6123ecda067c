"""What the OpenAPI document says beyond the routes' own shapes: every error by status and code, and examples.

Most errors follow from what a route is: who may call it, whether it has a body, parameters, an `Idempotency-Key`.
Those that don't are in `OWN`. Examples are put together from the shapes, with the values of `document_words`, so that
a route that is added has them, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faucet.api.document_words import BODIES, ERRORS, VALUES
from faucet.kit.errors import STATUS_BY_CODE

Json = dict[str, Any]
METHODS = ("get", "post", "patch", "put", "delete")
UNLIMITED = ("is_alive", "is_ready", "read_metrics")
"""Routes without a rate, a bearer and a body."""

OWN: Mapping[str, tuple[str, ...]] = {
    "create_session": ("forbidden", "disabled", "invalid_app", "feature_not_found"),
    "create_developer": ("conflict",),
    "create_developer_token": ("not_found",),
    "create_app": ("conflict", "not_found"),
    "create_signing_key": ("conflict",),
    "create_feature": ("conflict",),
    "activate_feature_version": ("not_found",),
    "add_own_provider_key": ("secret_validation_failed", "no_available_route", "conflict"),
    "rotate_own_provider_key": ("secret_validation_failed", "no_available_route", "conflict"),
    "validate_own_provider_key": ("secret_validation_failed", "no_available_route", "conflict"),
    "change_own_provider_key": ("conflict",),
    "add_developer_provider_key": ("secret_validation_failed", "no_available_route", "conflict", "invalid_app"),
    "add_platform_provider_key": ("secret_validation_failed", "no_available_route", "conflict"),
    "adjust_wallet": ("insufficient_balance", "conflict"),
    "credit_test_balance": ("conflict",),
    "confirm_price": ("conflict",),
    "reject_price": ("conflict",),
    "set_spend_limit": ("not_found",),
    "lift_spend_limit": ("not_found",),
    "throw_kill_switch": ("conflict", "invalid_app"),
    "release_kill_switch": ("invalid_app",),
    "switch_everything_on": ("not_found",),
    "note_local_endpoint": ("conflict",),
    "open_checkout": ("forbidden", "unavailable", "rate_limited"),
    "switch_auto_top_up_on": ("conflict", "forbidden", "unavailable"),
    "refund_top_up": ("not_found", "conflict", "unavailable"),
    "replay_events": ("not_found", "conflict", "unavailable"),
    "take_event": ("unavailable",),
    "create_webhook": ("conflict", "not_found"),
    "change_webhook": ("conflict",),
    "ping_webhook": ("conflict",),
    "replay_webhook_event": ("conflict",),
    "close_period": ("conflict", "not_found"),
    "import_invoice": ("conflict",),
    "request_payout": ("not_found", "conflict", "insufficient_balance", "budget_exceeded"),
    "start_onboarding": ("not_found", "unavailable", "conflict"),
    "run_payouts": ("conflict",),
    "run_payouts_as_before": ("conflict",),
    "approve_payout": ("conflict", "forbidden"),
    "mark_payout_paid": ("conflict",),
    "cancel_payout": ("conflict",),
    "fail_payout": ("conflict",),
    "create_promo_code": ("conflict", "invalid_app"),
    "redeem_promo_code": ("not_found", "conflict"),
}
"""Codes of a route that its shape doesn't tell."""
_NOT_THERE = {"public_app_id": "invalid_app", "feature_key": "feature_not_found"}
_AT_400 = ("no_available_route",)
"""Codes that the API answers as a 400, because it is the address that is wrong."""
_TYPES: Mapping[str, type] = {"string": str, "integer": int, "object": dict, "array": list, "boolean": bool}
_REPLY = {"$ref": "#/components/schemas/ErrorReply"}


def complete(document: Json) -> Json:
    """The document with the errors of each route and an example of each body. Changes it in place."""
    schemas = document["components"]["schemas"]
    used: set[str] = set()
    for path in document["paths"].values():
        for method, operation in path.items():
            if method not in METHODS:
                continue
            codes = codes_of(operation)
            used |= codes
            _add_errors(operation, codes)
            _add_examples(operation, schemas)
    document["components"]["examples"] = {code: _error_example(code) for code in sorted(used)}
    return document


def codes_of(operation: Json) -> set[str]:
    """The codes of the errors that a route may answer with."""
    name = operation["operationId"]
    if name in UNLIMITED:
        return {"internal"} | ({"unavailable"} if name == "is_ready" else set())
    codes = {"rate_limited", "internal", "unavailable", *OWN.get(name, ())}
    parameters = operation.get("parameters", ())
    for scheme in operation.get("security", ()):
        codes |= {"invalid_session", "expired_session", "disabled"}
        codes |= set() if "session" in scheme else {"forbidden"}
    if parameters or "requestBody" in operation:
        codes.add("invalid_request")
    if "requestBody" in operation:
        codes |= {"payload_too_large", "unsupported_media_type"}
    for parameter in parameters:
        if parameter["name"] == "idempotency-key":
            codes.add("idempotency_conflict")
        elif parameter["in"] == "path" or parameter["name"] == "public_app_id":
            codes.add(_NOT_THERE.get(parameter["name"], "not_found"))
    return codes


def _add_errors(operation: Json, codes: set[str]) -> None:
    by_status: dict[int, list[str]] = {}
    for code in sorted(codes):
        by_status.setdefault(400 if code in _AT_400 else STATUS_BY_CODE[code], []).append(code)
    for status, found in sorted(by_status.items()):
        if str(status) in operation["responses"]:
            continue  # the route has said it itself
        operation["responses"][str(status)] = {
            "description": " ".join(f"`{code}`: {ERRORS[code]}." for code in found),
            "content": {
                "application/json": {
                    "schema": _REPLY,
                    "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in found},
                }
            },
        }


def _error_example(code: str) -> Json:
    said = ERRORS[code]
    return {"value": {"error": {"code": code, "message": said, "request_id": VALUES["request_id"]}}}


def _add_examples(operation: Json, schemas: Json) -> None:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body and "schema" in body and "example" not in body:
        body["example"] = example_of(body["schema"], schemas)
    for status, response in operation["responses"].items():
        content = response.get("content", {}).get("application/json")
        if status.startswith("2") and content and "schema" in content and "example" not in content:
            content["example"] = example_of(content["schema"], schemas)


def example_of(schema: Json, schemas: Json, name: str = "") -> Any:
    """A value that a schema allows, and that somebody might meet."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return BODIES[name] if name in BODIES else example_of(schemas[name], schemas, name)
    for option in schema.get("anyOf", ()):
        if option.get("type") != "null":
            return example_of(option | {key: schema[key] for key in ("examples",) if key in schema}, schemas, name)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        wanted = VALUES.get(name)
        return wanted if wanted in schema["enum"] else schema["enum"][0]
    if schema.get("examples"):
        return schema["examples"][0]
    if schema.get("type") == "array":
        wanted = VALUES.get(name)
        return wanted if isinstance(wanted, list) else [example_of(schema["items"], schemas, name)]
    if name in VALUES and isinstance(VALUES[name], _TYPES.get(schema.get("type", ""), object)):
        return VALUES[name]
    if schema.get("type") == "object":
        return {
            word: example_of(part, schemas, word)
            for word, part in schema.get("properties", {}).items()
            if not _is_left_out(word, part)
        }
    return _plain(schema)


def _is_left_out(word: str, part: Json) -> bool:
    """Whether a field is one that is mostly absent: it may be, and nobody has said what is in it."""
    return word not in VALUES and "examples" not in part and any(o.get("type") == "null" for o in part.get("anyOf", ()))


def _plain(schema: Json) -> Any:
    formats = {"date-time": VALUES["created_at"], "uuid": VALUES["id"]}
    if schema.get("format") in formats:
        return formats[schema["format"]]
    match schema.get("type"):
        case "integer" | "number":
            return max(1, int(schema.get("minimum", 1)))
        case "boolean":
            return True
        case _:
            return "text"
