"""Every route of the document with requests made up from it, fit and unfit, by callers of every kind: never a 5xx.

Also seen: each answer is one that the document promises, and each refusal is the envelope.
"""

from __future__ import annotations

import os
from typing import Any

import hypothesis
import pytest
import schemathesis
from api_world import ApiWorld, tenant_of
from books import Books
from documented import check_code
from hypothesis import HealthCheck, Phase
from payments_world import PaymentsWorld, double, payments
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from faucet.api.app import openapi_document

__all__ = ["double", "payments"]
EXAMPLES = int(os.environ.get("FAUCET_FUZZ_EXAMPLES", "6"))
"""Per route, caller and kind of request; the nightly run has more."""
NO_HTTP = "this is not a valid HTTP request"
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
UNAVAILABLE = {("GET", "/ready")}
"""What may say 503 in so many words."""


@pytest.fixture
def world(payments: PaymentsWorld) -> ApiWorld:
    """With a processor, so that nothing ends early for want of one."""
    return payments


def _bearers(world: ApiWorld, books: Books) -> dict[str, str]:
    """A caller of each kind, and some who are none."""
    developer = world.developer()
    app = developer.app()
    developer.feature(app)
    tenant_of(books, app)
    session = world.nobody.post("/v1/sessions", json={"public_app_id": app["public_app_id"], "external_user_id": "u"})
    return {
        "operator": world.api.config.admin_token.reveal(),
        "developer": developer.token,
        "session": session.json()["session_token"],
        "stranger": "mf_dev_" + "A" * 43,
        "garbage": "\x7f%00",
    }


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fit", "unfit"])
def test_no_request_is_a_fault(world: ApiWorld, books: Books, mode: GenerationMode) -> None:
    """Lost: a request that anybody can send is answered by a stack trace in our logs and a 500."""
    schema = schemathesis.openapi.from_dict(openapi_document())
    schema.config.update(base_url=world.api.base_url)
    bearers = _bearers(world, books)
    called = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not _can_be_wrong(operation):
            continue
        for who, bearer in bearers.items():
            examples = EXAMPLES if who in ("operator", "developer") else 2
            called += _ask(operation, mode, world.api.base_url, bearer, examples)
    assert called > 100
    assert books.one("select count(*) from account where kind = 'wallet' and posted_e8 < held_e8") == 0
    books.assert_sound()


def _can_be_wrong(operation: Any) -> bool:
    """Whether a request of this route has a part that could be unfit."""
    return bool(operation.body or operation.query or operation.path_parameters or operation.headers)


def _ask(operation: Any, mode: GenerationMode, base_url: str, bearer: str, examples: int) -> int:
    """Ask so many made-up requests of one route as one caller; gives how many were asked."""
    asked = 0

    @hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        nonlocal asked
        asked += 1
        headers = {k: v for k, v in (case.headers or {}).items() if k.lower() != "authorization"}
        case.headers = headers | {"authorization": f"Bearer {bearer}"}
        response = case.call(base_url=base_url, timeout=30)
        told = f"{case.as_curl_command()} → {response.status_code} {response.content[:500]!r}"
        if (case.method.upper(), case.path) not in UNAVAILABLE:
            assert response.status_code < 500, told
        if response.status_code >= 400:
            assert set(response.json()) == {"error"}, told
            error = response.json()["error"]
            if error["message"] != NO_HTTP:
                check_code(case.method.upper(), case.path, response.status_code, error["code"])
        case.validate_response(response, checks=CHECKS)

    ask()
    return asked
