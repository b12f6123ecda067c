"""Why a request went where it went: told to the app's developer, and to nobody else."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from books import Tenant
from gateway_world import EndUser, Gateway, Mock, Reply, World, ask, chat, request, wait_for
from keys_world import SETTINGS, KeysWorld

from faucet.kit.ids import uuid7

HEADER = "x-modelfaucet-debug"


@pytest.fixture(scope="module")
def keys(world: World) -> KeysWorld:
    return KeysWorld(world)


@pytest.fixture(scope="module")
def opener(keys: KeysWorld, mock: Mock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that can open keys."""
    running = Gateway(keys.world.dsn, mock.url, tmp_path_factory.mktemp("opener"), **SETTINGS)
    yield running
    running.stop()


def token(keys: KeysWorld, tenant: Tenant, *scopes: str, expires: str = "infinity") -> str:
    """A developer token with these scopes."""
    text = "mf_" + "dev_" + secrets.token_urlsafe(32)
    keys.books.rows(
        "insert into developer_token (id, developer_id, name, token_hash, token_prefix, scopes, created_by, expires_at)"
        " values (%s, %s, 'T', %s, 'mf_dev_', %s, 'test', %s)",
        uuid7(), tenant.developer, hashlib.sha256(text.encode()).digest(), list(scopes), expires,
    )  # fmt: skip
    return text


def debugged(gateway: Gateway, user: EndUser, text: str, **fields: Any) -> Reply:
    return ask(gateway, user.bearer, chat(**fields), {HEADER: text})


def test_the_developer_sees_what_happened(opener: Gateway, keys: KeysWorld) -> None:
    """Lost: a developer who asks why a request cost their user money gets no answer."""
    app = keys.app(routes=["local", "end_user_byok", "platform_pool"])
    user = keys.end_user(app)
    keys.key(user, "wrong", lets_go=True)
    text = token(keys, app, "developer:operations:read")
    note = debugged(opener, user, text).json["modelfaucet"]
    first, last = note["attempts"]
    assert (first["attempt"], first["route_mode"], first["statusCode"], first["errorCode"]) == (
        1,
        "byok",
        401,
        "http_401",
    )
    assert (last["attempt"], last["route_mode"], last["provider"], last["model"]) == (
        2,
        "platform",
        "mock",
        "mock-small",
    )
    assert [(one["route_mode"], one["why"]) for one in note["passed_over"]] == [
        ("local", "answered on the end user's own machine, never from here")
    ]
    # Refused once, the key goes last: the platform is asked first.
    again = debugged(opener, user, text, stream=True, stream_options={"include_usage": True})
    (only,) = again.events[-2]["modelfaucet"]["attempts"]
    assert (only["attempt"], only["route_mode"]) == (1, "platform")


def test_refusals_say_why(opener: Gateway, keys: KeysWorld) -> None:
    """Lost: a developer can't find out which of five conditions left no route."""
    app = keys.app(routes="privacy_first")
    user = keys.end_user(app)
    refused = debugged(opener, user, token(keys, app, "developer:operations:read"))
    assert (refused.status, refused.code) == (503, "no_available_route")
    told = refused.json["error"]["details"]["passed_over"]
    assert [one["route_mode"] for one in told] == ["local", "byok"]
    assert "details" not in ask(opener, user.bearer, chat()).json["error"]


def test_nobody_else_sees_it(opener: Gateway, keys: KeysWorld) -> None:
    """Lost: an end user reads which accounts a developer has and how they fail; or one developer another's."""
    app, other = keys.app(), keys.app()
    user = keys.end_user(app)
    assert "attempts" not in ask(opener, user.bearer, chat()).json["modelfaucet"]
    for text in (
        user.bearer,
        "made-up-token",
        token(keys, other, "developer:operations:read"),
        token(keys, app, "developer:apps:read"),
        token(keys, app, "developer:operations:read", expires="2020-01-01"),
    ):
        refused = debugged(opener, user, text)
        assert (refused.status, refused.code) == (403, "forbidden")
        assert text not in refused.body.decode()


def test_a_kept_reply_keeps_no_reasons(opener: Gateway, keys: KeysWorld) -> None:
    """Lost: what was for the developer is replayed to whoever repeats the key."""
    app = keys.app()
    user = keys.end_user(app)
    headers = {HEADER: token(keys, app, "developer:operations:read"), "idempotency-key": "once-and-again"}
    assert "attempts" in ask(opener, user.bearer, chat(), headers).json["modelfaucet"]
    del headers[HEADER]
    assert "attempts" not in ask(opener, user.bearer, chat(), headers).json["modelfaucet"]


def test_models_say_who_pays(opener: Gateway, keys: KeysWorld) -> None:
    """Lost: an end user can't see before asking whose money it is."""
    app = keys.app(routes="byok_first", fee="0.0005")
    user, poor = keys.end_user(app), keys.end_user(app)
    keys.key(user, lets_go=True, models=("mock-small", "own-model"))

    def models(who: EndUser) -> dict[str, Any]:
        reply = request(opener, "GET", "/v1/models", None, {"authorization": f"Bearer {who.bearer}"})
        return {one["id"]: one for one in reply.json["data"]}

    seen = models(user)
    assert [(one["route_mode"], one.get("fee_usd")) for one in seen["mock-small"]["routes"]] == [
        ("byok", "0.00050000"),
        ("platform", None),
    ]
    assert seen["mock-small"]["pricing"]["request"] == "0.00050000" and seen["mock-small"]["pricing"]["prompt"] == "0"
    assert [one["route_mode"] for one in seen["own-model"]["routes"]] == ["byok"]
    assert [one["route_mode"] for one in seen["mock-large"]["routes"]] == ["platform"]
    assert seen["mock-large"]["context_length"] == 128_000 and seen["mock-large"]["quality_tier"] == 3
    assert "own-model" not in models(poor)
    assert [one["route_mode"] for one in models(poor)["mock-small"]["routes"]] == ["platform"]


def test_models_show_every_price_that_may_be_charged(opener: Gateway, keys: KeysWorld, world: World) -> None:
    """Lost: a long prompt, one at noon, or thinking costs more than any price that could be seen before."""
    tier = {
        "input_e8_per_m": 400_000_000,
        "cached_read_e8_per_m": 40_000_000,
        "cached_write_e8_per_m": 400_000_000,
        "output_e8_per_m": 800_000_000,
        "reasoning_e8_per_m": None,
    }
    tiers = [tier | {"above_input_tokens": 200_000}, tier | {"from_minute": 60, "until_minute": 30}]
    world.books.rows(
        "insert into price (provider, model, tokenizer, context_window, max_output_tokens, input_e8_per_m,"
        " cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m, reasoning_e8_per_m, image_tokens_max, tiers,"
        " effective_from, source, status) values ('mock', 'mock-tiers', 'words', 1000000, 4096, 200000000, 20000000,"
        " 200000000, 400000000, 600000000, 0, %s, '2026-01-01', 'x', 'confirmed')",
        json.dumps(tiers),
    )
    world.announce()
    user = keys.end_user(keys.app(routes="platform_pool"))
    headers = {"authorization": f"Bearer {user.bearer}"}

    def told() -> Any:
        reply = request(opener, "GET", "/v1/models/mock-tiers", None, headers)
        return reply.json.get("pricing") if reply.status == 200 else None

    pricing = wait_for(told, 30)
    assert (pricing["prompt"], pricing["completion"]) == ("0.0000026", "0.0000052")
    assert pricing["internal_reasoning"] == "0.0000078"
    long, night = pricing["tiers"]
    assert (long["above_input_tokens"], long["prompt"]) == (200_000, "0.0000052") and "from_minute" not in long
    assert (night["from_minute"], night["until_minute"], night["completion"]) == (60, 30, "0.0000104")
