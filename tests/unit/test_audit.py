"""What the audit log writes down of a value: everything but secrets, and only what JSON can hold."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from faucet.kit.log import REDACTED
from faucet.tenants.audit import clean


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "apiKey",
        "token",
        "session_token",
        "Authorization",
        "password",
        "client_secret",
        "sealed",
        "private_key",
    ],
)
def test_secrets_by_their_names(name: str) -> None:
    """Lost: the log that everybody reads holds the key that it says was changed."""
    assert clean({"deep": [{name: "anything"}]}) == {"deep": [{name: REDACTED}]}


@pytest.mark.parametrize("secret", ["mf_" + "dev_" + "a" * 43, "sk-" + "b" * 30, "Bearer abcdefgh12345678"])
def test_secrets_by_their_looks(secret: str) -> None:
    """Lost: a key that was put into a name or a reason is kept for ever."""
    assert secret not in json.dumps(clean({"name": f"my {secret} key", "list": [secret]}))


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"token_prefix": "mf_dev_abcdefgh"[:9], "max_output_tokens": 5, "scopes": ["a"]}, None),
        ({"at": datetime(2026, 1, 2, 3, 4, 5, 6000, UTC)}, {"at": "2026-01-02T03:04:05.006Z"}),
        ({"id": UUID(int=1)}, {"id": "00000000-0000-0000-0000-000000000001"}),
        ({"text": "a\x00b", "none": None, "yes": True}, {"text": "ab", "none": None, "yes": True}),
        ({"password": None}, {"password": None}),
    ],
)
def test_what_is_kept(value: dict[str, Any], kept: dict[str, Any] | None) -> None:
    """Lost: a trace that doesn't say what changed, or a change that fails because of its trace."""
    if kept is None:
        kept = {**value, "token_prefix": clean(value["token_prefix"])}
    assert clean(value) == kept
    json.dumps(clean(value))


def test_it_is_bounded() -> None:
    """Lost: one request fills the log."""
    deep: Any = "x"
    for _ in range(50):
        deep = {"a": deep, "b": ["y" * 100_000] * 1_000}
    assert len(json.dumps(clean(deep))) < 5_000_000
    assert json.dumps(clean(deep)).count("a") < 50
