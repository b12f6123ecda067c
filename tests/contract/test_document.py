"""The OpenAPI document: each route has its errors and examples, and what is said there is true."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from faucet.api import credential_wire, developer_wire, local_usage, operator_wire, signing_keys, wire, wire_end_users
from faucet.api.app import openapi_document
from faucet.api.document import OWN

DOCUMENT = openapi_document()
ROOMS = (wire, wire_end_users, developer_wire, operator_wire, credential_wire, local_usage, signing_keys)
OPERATIONS = [
    (f"{method.upper()} {path}", operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
]


def _valid(schema: dict[str, Any], example: Any) -> list[str]:
    whole = schema | {"components": DOCUMENT["components"]}
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(whole).iter_errors(example)]


def _json(part: dict[str, Any]) -> dict[str, Any] | None:
    found: dict[str, Any] | None = part.get("content", {}).get("application/json")
    return found


@pytest.mark.parametrize(("route", "operation"), OPERATIONS, ids=[route for route, _ in OPERATIONS])
def test_a_route_has_its_errors_and_examples(route: str, operation: dict[str, Any]) -> None:
    """Lost: a developer who reads the reference has to try out what to send, and what can go wrong."""
    body = _json(operation.get("requestBody", {}))
    if body is not None:
        assert _valid(body["schema"], body["example"]) == []
        name = body["schema"].get("$ref", "").rsplit("/", 1)[-1]
        shape = next((getattr(room, name) for room in ROOMS if name and hasattr(room, name)), None)
        if shape is not None:  # what a schema can't say is checked, too
            shape.model_validate_json(json.dumps(body["example"]))
    for status, response in operation["responses"].items():
        content = _json(response)
        if status.startswith("2") and content is not None and "schema" in content:
            assert _valid(content["schema"], content["example"]) == []
        if status[0] in "45" and status[1:] != "XX" and "examples" in (content or {}):
            assert content is not None
            for code in content["examples"]:
                example = DOCUMENT["components"]["examples"][code]["value"]
                assert example["error"]["code"] == code and f"`{code}`" in response["description"]
                assert _valid(content["schema"], example) == []
    assert "500" in operation["responses"]
    if operation.get("security"):
        assert "401" in operation["responses"]


def test_errors_of_routes_that_there_are() -> None:
    """Lost: a route that was renamed loses its errors in silence."""
    assert set(OWN) <= {operation["operationId"] for _, operation in OPERATIONS}
