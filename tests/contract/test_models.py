"""GET /v1/models: what is listed is what is answered, also where a session may name one of several features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from books import Tenant
from features_world import MARKUP, Fields
from gateway_world import EndUser, Gateway, Mock, World, ask, chat, request
from keys_world import SETTINGS, KeysWorld
from psycopg.types.json import Json, Jsonb

from faucet.kit.ids import uuid7

PLATFORM, OWN_KEY = ["platform_pool"], ["end_user_byok"]
KNOWN = ("mock-small", "mock-large", "mock-reasoner", "no-usage", "usage-twice", "own-model")


@pytest.fixture(scope="module")
def keys(world: World) -> KeysWorld:
    return KeysWorld(world)


@pytest.fixture(scope="module")
def opener(keys: KeysWorld, mock: Mock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that can open keys."""
    running = Gateway(keys.world.dsn, mock.url, tmp_path_factory.mktemp("models"), PROVIDER_TIMEOUT_MS=2000, **SETTINGS)
    yield running
    running.stop()


def add_feature(keys: KeysWorld, app: Tenant, key: str, policy: Fields, pricing: Fields, **parts: Any) -> None:
    keys.books.rows(
        "insert into feature (id, developer_id, app_id, feature_key, display_name, policy, pricing, parts)"
        " values (%s, %s, %s, %s, 'F', %s, %s, %s)",
        uuid7(),
        app.developer,
        app.app,
        key,
        Jsonb(policy),
        Jsonb(pricing),
        Json(parts),
    )


@pytest.fixture
def user(keys: KeysWorld) -> EndUser:
    """An end user of an app with four features, each with another policy; the session is for none of them."""
    app = keys.app(routes=PLATFORM, models=["mock-small"])
    double = MARKUP | {"markup_percent": 100, "explicit_gateway_fee_usd": "0.5"}
    add_feature(keys, app, "large", {"route_preference": PLATFORM, "models": ["mock-large", "mock-small"]}, double)
    add_feature(keys, app, "own", {"route_preference": OWN_KEY}, MARKUP)
    runs = {"route_preference": PLATFORM, "models": ["usage-twice"]}
    add_feature(keys, app, "runs", runs, MARKUP, prompt={"user": "{{ input.question }}", "locked": True})
    found = keys.end_user(app)
    keys.key(found, models=("mock-reasoner",))
    keys.books.rows("update session set feature_id = null where id = %s", found.tenant.session)
    keys.world.announce()
    return found


def listed(gateway: Gateway, user: EndUser) -> dict[str, Any]:
    reply = request(gateway, "GET", "/v1/models", None, {"authorization": f"Bearer {user.bearer}"})
    assert reply.status == 200, reply.body
    return {model["id"]: model for model in reply.json["data"]}


def test_what_is_listed_is_what_is_answered(opener: Gateway, user: EndUser) -> None:
    """Lost: a client offers a model that no feature of the app answers with, or hides one that it could have."""
    accepted: dict[str, list[str]] = {}
    for model in KNOWN:
        for feature in ("f", "large", "own", "runs"):
            reply = ask(opener, user.bearer, chat(model=model, metadata={"feature_key": feature}))
            if reply.status == 200:
                accepted.setdefault(model, []).append(feature)
            else:
                assert reply.code in ("forbidden", "not_found", "no_available_route"), reply.body
    assert accepted == {"mock-small": ["f", "large"], "mock-large": ["large"], "mock-reasoner": ["own"]}
    models = listed(opener, user)
    assert {name: told["features"] for name, told in models.items()} == accepted
    for name in KNOWN:
        headers = {"authorization": f"Bearer {user.bearer}"}
        one = request(opener, "GET", f"/v1/models/{name}", None, headers)
        assert (one.status, one.json if one.status == 200 else None) == (
            (200, models[name]) if name in models else (404, None)
        )


def test_a_model_costs_what_its_dearest_feature_asks(opener: Gateway, user: EndUser) -> None:
    """Lost: a model is shown cheaper than it is, or with the routes of a feature that doesn't have it."""
    models = listed(opener, user)
    assert models["mock-small"]["pricing"]["prompt"] == "0.0000003"  # twice what it costs
    assert [route["route_mode"] for route in models["mock-small"]["routes"]] == ["platform"]
    (route,) = models["mock-reasoner"]["routes"]
    assert (route["route_mode"], route["fee_usd"]) == ("byok", "0.00000000")


def test_a_feature_of_a_newer_server_s_hides_no_other(opener: Gateway, user: EndUser, keys: KeysWorld) -> None:
    """Lost: while servers are replaced, one feature with a word from later, and nobody sees a model."""
    add_feature(keys, user.tenant, "newer", {"route_preference": PLATFORM, "models": ["no-usage"]}, MARKUP, later=1)
    models = listed(opener, user)
    assert "no-usage" not in models
    assert models["mock-small"]["features"] == ["f", "large"]
    reply = ask(opener, user.bearer, chat(model="auto:newer"))
    assert (reply.status, reply.code) == (404, "feature_not_found")


def test_a_session_of_one_feature_sees_what_that_one_has(opener: Gateway, user: EndUser, keys: KeysWorld) -> None:
    """Lost: a session's own feature is not the one that its models are listed by."""
    tenant = user.tenant
    keys.books.rows("update session set feature_id = %s where id = %s", tenant.feature, tenant.session)
    keys.world.announce()
    models = listed(opener, user)
    assert list(models) == ["mock-small"] and "features" not in models["mock-small"]
