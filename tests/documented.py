"""Whether an error that a test has met is one that the OpenAPI document has for its route."""

from __future__ import annotations

import re
from functools import cache

import httpx2

from faucet.api.app import openapi_document

ANYWHERE = (405, 408, 431)
"""What HTTP refuses before there is a route."""


@cache
def _routes() -> list[tuple[str, re.Pattern[str], dict[str, set[str]]]]:
    """Method, path and codes by status of every route; fixed paths before those with parameters."""
    found = []
    for path, item in sorted(openapi_document()["paths"].items(), key=lambda pair: "{" in pair[0]):
        pattern = re.compile("/".join("[^/]+" if part[:1] == "{" else re.escape(part) for part in path.split("/")))
        for method, operation in item.items():
            codes = {
                status: set(reply.get("content", {}).get("application/json", {}).get("examples", ()))
                for status, reply in operation["responses"].items()
            }
            found.append((method.upper(), pattern, codes))
    return found


def check_code(method: str, path: str, status: int, code: str) -> None:
    """Raises AssertionError for an error of a route whose document doesn't have it: it belongs into `api.document`."""
    codes = next((codes for own, pattern, codes in _routes() if own == method and pattern.fullmatch(path)), None)
    if codes is not None and status not in ANYWHERE:
        known = codes.get(str(status), set())
        assert code in known, f"{method} {path} answered {status} {code}; its document has {codes}"


def documented(response: httpx2.Response) -> None:
    """A client's hook: every error that it gets is checked. Raises AssertionError."""
    if response.is_error and response.request.method != "HEAD":
        code = response.json()["error"]["code"] if response.read() else ""
        check_code(response.request.method, response.request.url.path, response.status_code, code)
