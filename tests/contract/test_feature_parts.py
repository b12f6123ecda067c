"""A feature's schemas, prompt, limits and quota over the control API: kept in versions, checked, put in force."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from api_world import PRICING, ApiWorld, Json, ok, refused, tenant_of
from books import E8, Books, Settlement
from conftest import RunningApi

SCHEMA: Json = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}
PROMPT: Json = {"system": "Be brief.", "user": "{{ input.q }}"}
LIMITS: Json = {"requests_per_minute": {"session": 5}, "monthly_spend_usd": {"end_user": "2", "feature": "50"}}


@pytest.fixture
def world(api: RunningApi) -> Iterator[ApiWorld]:
    world = ApiWorld(api)
    yield world
    world.close()


def limits(books: Books) -> dict[str, int]:
    """The spend limits in force by scope, in e8."""
    rows = books.rows("select scope, limit_e8 from spend_limit where limit_e8 < 1000000 * 100000000::bigint")
    return dict(rows)


def test_parts_are_kept_in_versions_and_limits_follow_them(world: ApiWorld, books: Books) -> None:
    """Lost: an earlier version comes back without its prompt, or a limit stays that no version in force states."""
    developer = world.developer()
    app = developer.app()
    feature = developer.feature(app, input_schema=SCHEMA, prompt=PROMPT, output_schema=SCHEMA, limits=LIMITS)
    assert (feature["input_schema"], feature["prompt"], feature["limits"]) == (SCHEMA, PROMPT, LIMITS)
    assert limits(books) == {"feature": 50 * E8, "feature_end_user": 2 * E8}
    path = f"/v1/developer/apps/{app['public_app_id']}/features/{feature['feature_key']}"
    second = ok(developer.http.patch(path, json={"limits": None, "prompt": PROMPT | {"locked": True}}))
    assert "limits" not in second and second["prompt"]["locked"] is True and second["input_schema"] == SCHEMA
    assert second["version"] == 2 and limits(books) == {}
    versions = ok(developer.http.get(f"{path}/versions"))["items"]
    assert [("limits" in one, one["prompt"].get("locked")) for one in versions] == [(False, True), (True, None)]
    first = ok(developer.http.post(f"{path}/activate", json={"version": 1}))
    assert first["limits"] == LIMITS and limits(books) == {"feature": 50 * E8, "feature_end_user": 2 * E8}
    refused(developer.http.patch(path, json={"policy": None}), 400, "invalid_request")


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        (
            {"input_schema": {"type": "object", "properties": {"a": {"type": "strin"}}}},
            "input_schema.properties.a.type",
        ),
        ({"input_schema": {"type": "object", "$ref": "https://x.example"}}, "input_schema.$ref"),
        ({"prompt": {"user": "{{ q }}"}}, "prompt.user"),
        ({"input_schema": SCHEMA, "prompt": {"user": "{{ input.x }}"}}, "prompt.user"),
        ({"output_schema": {"type": "array"}}, "output_schema.type"),
        ({"limits": {"requests_per_hour": 1}}, "limits.requests_per_hour"),
        ({"limits": {"monthly_spend_usd": {"feature": "-1"}}}, "limits.monthly_spend_usd.feature"),
        ({"pricing": {"fixed_price_usd": "1", "markup_percent": 3}}, "pricing.markup_percent"),
        ({"pricing": PRICING | {"free_quota": {"usd": "1"}}}, "pricing.free_quota"),
        ({"policy": {"model_policy": {"order": "fast"}}}, "policy.model_policy.order"),
    ],
)
def test_what_is_wrong_is_named(world: ApiWorld, fields: dict[str, Any], path: str) -> None:
    """Lost: a developer looks for a slip in a whole manifest."""
    developer = world.developer()
    app = developer.app()
    ask = {"feature_key": "f", "display_name": "F"} | fields
    reply = developer.http.post(f"/v1/developer/apps/{app['public_app_id']}/features", json=ask)
    assert path in refused(reply, 400, "invalid_request")["details"]["fieldErrors"]


def test_a_free_quota_needs_the_operators_word(world: ApiWorld, books: Books) -> None:
    """Lost: a developer gives away the platform's money."""
    developer = world.developer()
    app = developer.app()
    pricing = PRICING | {"free_quota": {"usd": "0.50"}}
    ask = {"feature_key": "f", "display_name": "F", "pricing": pricing}
    path = f"/v1/developer/apps/{app['public_app_id']}/features"
    refused(developer.http.post(path, json=ask), 400, "invalid_request")
    given = {"free_quota_monthly_max_usd": "20"}
    refused(developer.http.patch(f"/v1/developers/{developer.id}", json=given), 403, "forbidden")
    shown = ok(world.operator.patch(f"/v1/developers/{developer.id}", json=given))
    assert (shown["free_quota_monthly_max_usd"], shown["free_quota_granted_usd"]) == ("20.00000000", "0.00000000")
    assert books.one("select count(*) from audit_log where action = 'developer.changed'") == 1
    feature = ok(developer.http.post(path, json=ask), 201)
    assert books.one("select free_quota_e8 from feature where id = %s", feature["id"]) == E8 // 2


def test_usage_is_shown_by_the_version_that_answered(world: ApiWorld, books: Books) -> None:
    """Lost: nobody can tell whether a new prompt costs more than the one before."""
    developer = world.developer()
    app = developer.app()
    feature = developer.feature(app)
    tenant = tenant_of(books, app, feature)
    assert books.settle(Settlement(tenant, books.held(tenant, E8), cost=100, channel=5)) == [0]
    (point,) = ok(developer.http.get("/v1/developer/usage?group_by=feature_version"))["items"]
    assert (point["feature_key"], point["feature_version"], point["calls"]) == (feature["feature_key"], 1, 1)
    (point,) = ok(developer.http.get("/v1/developer/usage?group_by=feature"))["items"]
    assert "feature_version" not in point
