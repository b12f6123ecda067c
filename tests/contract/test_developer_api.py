"""Developers' routes as their programs meet them: tokens, apps, features, operations, usage."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from api_world import POLICY, PRICING, ApiWorld, Json, ok, refused, tenant_of
from books import E8, Books, Settlement
from conftest import RunningApi

from faucet.tenants.tokens import SCOPES

TOKENS, APPS = "/v1/developer/tokens", "/v1/developer/apps"


@pytest.fixture
def world(api: RunningApi) -> Iterator[ApiWorld]:
    world = ApiWorld(api)
    yield world
    world.close()


# ── tokens ──


def test_a_token_is_shown_once_and_kept_as_a_hash(world: ApiWorld, books: Books) -> None:
    """Lost: a copy of the database, or a list of tokens, opens the API."""
    developer = world.developer()
    made = ok(developer.http.post(TOKENS, json={"name": "ci", "scopes": ["developer:apps:read"]}), 201)
    token, item = made["token"], made["item"]
    assert set(item) == {
        "id", "developer_id", "developer_name", "developer_email", "name", "token_prefix", "scopes", "status",
        "created_at", "updated_at",
    }  # fmt: skip
    assert item["token_prefix"] == token[:15] and token.startswith("mf_dev_") and len(token) == 50
    assert item["developer_id"] == developer.id and item["status"] == "active"
    listed = ok(developer.http.get(TOKENS))["items"]
    assert item["id"] in {entry["id"] for entry in listed}
    stored = repr(books.rows("select t::text from developer_token t")) + repr(
        books.rows("select a::text from audit_log a")
    )
    assert token not in stored and token[15:] not in stored and token not in repr(listed)
    assert ok(world.client(token).get(APPS)) == {"items": []}
    assert "last_used_at" in next(e for e in ok(developer.http.get(TOKENS))["items"] if e["id"] == item["id"])


def test_a_token_ends(world: ApiWorld, books: Books) -> None:
    """Lost: a stolen token works until somebody changes a password that it doesn't have."""
    developer = world.developer()
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    made = ok(
        developer.http.post(TOKENS, json={"name": "x", "scopes": ["developer:apps:read"], "expires_at": soon}), 201
    )
    other = world.client(made["token"])
    assert ok(other.get(APPS)) == {"items": []}
    books.rows("update developer_token set expires_at = now() where id = %s", made["item"]["id"])
    refused(other.get(APPS), 401, "expired_session")
    books.rows("update developer_token set expires_at = null where id = %s", made["item"]["id"])
    assert ok(developer.http.delete(f"{TOKENS}/{made['item']['id']}"))["status"] == "revoked"
    assert ok(developer.http.delete(f"{TOKENS}/{made['item']['id']}"))["status"] == "revoked"
    refused(other.get(APPS), 401, "invalid_session")
    ok(world.operator.patch(f"/v1/developers/{developer.id}", json={"status": "disabled"}))
    refused(developer.http.get(APPS), 403, "disabled")
    refused(world.client("mf_dev_" + "A" * 43).get(APPS), 401, "invalid_session")
    past = {"name": "x", "scopes": ["developer:apps:read"], "expires_at": "2020-01-01T00:00:00Z"}
    refused(world.operator.post(TOKENS, json=past | {"developer_id": developer.id}), 400, "invalid_request")


def test_a_token_gives_only_scopes_that_it_has(world: ApiWorld) -> None:
    """Lost: a token for one thing makes itself one for everything."""
    developer = world.developer(("developer:tokens:write", "developer:apps:read"))
    ok(developer.http.post(TOKENS, json={"name": "x", "scopes": ["developer:apps:read"]}), 201)
    for wanted in (["developer:apps:write"], ["developer:apps:read", "developer:usage:read"]):
        error = refused(developer.http.post(TOKENS, json={"name": "x", "scopes": wanted}), 403, "forbidden")
        assert wanted[-1] in error["message"]
    refused(developer.http.post(TOKENS, json={"name": "x", "scopes": ["root"]}), 400, "invalid_request")
    refused(developer.http.post(TOKENS, json={"name": "x", "scopes": []}), 400, "invalid_request")
    refused(developer.http.get(TOKENS), 403, "forbidden")
    stranger = {"name": "x", "scopes": ["developer:apps:read"], "developer_id": str(uuid4())}
    refused(developer.http.post(TOKENS, json=stranger), 404, "not_found")
    refused(world.operator.post(TOKENS, json=stranger), 404, "not_found")
    refused(world.operator.post(TOKENS, json={"name": "x", "scopes": ["developer:apps:read"]}), 400, "invalid_request")


def test_a_token_gives_only_the_time_that_it_has(world: ApiWorld) -> None:
    """Lost: a token that was stolen for an hour makes itself another one that never ends."""
    developer = world.developer()
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    ask = {"name": "x", "scopes": ["developer:tokens:write"]}
    short = ok(developer.http.post(TOKENS, json=ask | {"expires_at": end.isoformat()}), 201)
    thief = world.client(short["token"])
    later = (end + timedelta(seconds=1)).isoformat()
    error = refused(thief.post(TOKENS, json=ask | {"expires_at": later}), 403, "forbidden")
    assert "more time" in error["message"]
    assert ok(thief.post(TOKENS, json=ask), 201)["item"]["expires_at"] == short["item"]["expires_at"]
    sooner = (end - timedelta(minutes=1)).isoformat()
    made = ok(thief.post(TOKENS, json=ask | {"expires_at": sooner}), 201)
    assert made["item"]["expires_at"] < short["item"]["expires_at"]
    assert "expires_at" not in ok(developer.http.post(TOKENS, json=ask), 201)["item"]


ROUTES = [
    ("GET", TOKENS, "developer:tokens:read"),
    ("POST", TOKENS, "developer:tokens:write"),
    ("DELETE", f"{TOKENS}/{uuid4()}", "developer:tokens:write"),
    ("GET", APPS, "developer:apps:read"),
    ("POST", APPS, "developer:apps:write"),
    ("GET", f"{APPS}/nothing", "developer:apps:read"),
    ("PATCH", f"{APPS}/nothing", "developer:apps:write"),
    ("DELETE", f"{APPS}/nothing", "developer:apps:write"),
    ("GET", f"{APPS}/nothing/features", "developer:features:read"),
    ("POST", f"{APPS}/nothing/features", "developer:features:write"),
    ("PATCH", f"{APPS}/nothing/features/f", "developer:features:write"),
    ("DELETE", f"{APPS}/nothing/features/f", "developer:features:write"),
    ("GET", f"{APPS}/nothing/features/f/versions", "developer:features:read"),
    ("POST", f"{APPS}/nothing/features/f/activate", "developer:features:write"),
    ("GET", "/v1/developer/operations", "developer:operations:read"),
    ("GET", "/v1/developer/usage", "developer:usage:read"),
    ("GET", "/v1/apps/nothing/usage", "developer:usage:read"),
    ("GET", f"/v1/developers/{uuid4()}/revenue", "developer:usage:read"),
]
BODIES: dict[str, Json] = {
    TOKENS: {"name": "x", "scopes": ["developer:tokens:write"]},
    APPS: {"public_app_id": "x", "name": "X"},
    f"{APPS}/nothing/features": {"feature_key": "f", "display_name": "F"},
    f"{APPS}/nothing/features/f/activate": {"version": 1},
}


def test_every_route_needs_its_scope(world: ApiWorld) -> None:
    """Lost: a token that may read apps changes them."""
    for method, path, scope in ROUTES:
        body = BODIES.get(path, {}) if method in ("POST", "PATCH") else None
        without = world.developer(tuple(s for s in SCOPES if s != scope))
        error = refused(without.http.request(method, path, json=body), 403, "forbidden")
        assert scope in error["message"]
        refused(world.nobody.request(method, path, json=body), 401, "invalid_session")
        with_it = world.developer((scope,)).http.request(method, path, json=body)
        assert with_it.status_code in (200, 201, 404), (method, path, with_it.text)


# ── apps ──


def test_an_app_s_life(world: ApiWorld, books: Books) -> None:
    """Lost: what a developer sets is not what is kept; an archived app still mints sessions."""
    developer = world.developer()
    ask = {
        "public_app_id": "crm", "name": "CRM", "vertical": "crm", "default_revenue_share_bps": 2500,
        "allowed_origins": ["https://crm.example"], "monthly_spend_limit_usd": "100",
        "session_spend_limit_usd": "0.5",
    }  # fmt: skip
    app = ok(developer.http.post(APPS, json=ask), 201)
    shown = {"monthly_spend_limit_usd": "100.00000000", "session_spend_limit_usd": "0.50000000"}
    assert {name: app[name] for name in ask} == ask | shown
    assert (app["status"], app["identity_mode"], app["developer_id"]) == ("active", "open", developer.id)
    assert ok(developer.http.get(f"{APPS}/crm")) == app == ok(developer.http.get(APPS))["items"][0]
    refused(developer.http.post(APPS, json=ask), 409, "conflict")
    refused(world.developer().http.post(APPS, json=ask), 409, "conflict")

    patched = ok(developer.http.patch(f"{APPS}/crm", json={"name": "CRM 2", "monthly_spend_limit_usd": None}))
    assert "monthly_spend_limit_usd" not in patched and patched["name"] == "CRM 2"
    assert {k: v for k, v in patched.items() if k not in ("name", "updated_at")} == {
        k: v for k, v in app.items() if k not in ("name", "updated_at", "monthly_spend_limit_usd")
    }
    session = {"public_app_id": "crm", "external_user_id": "u"}
    assert ok(world.nobody.post("/v1/sessions", json=session))
    assert books.row(
        "select l.limit_e8, l.period from spend_limit l join session s on s.id = l.scope_id where l.scope = 'session'"
    ) == (E8 // 2, "total")
    assert ok(developer.http.delete(f"{APPS}/crm"))["status"] == "archived"
    refused(world.nobody.post("/v1/sessions", json=session), 404, "invalid_app")
    assert ok(developer.http.patch(f"{APPS}/crm", json={"status": "active"}))["status"] == "active"
    actions = books.rows("select action from audit_log where resource_type = 'app' order by id")
    assert [row[0] for row in actions] == ["app.created", "app.changed", "app.archived", "app.changed"]
    assert books.one("select after from audit_log where action = 'app.archived'") == {"status": "archived"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": " "}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"name": None}, "name"),
        ({"status": "archived"}, "status"),
        ({"allowed_origins": ["https://*.example"]}, "allowed_origins.0"),
        ({"allowed_origins": ["https://a.example/path"]}, "allowed_origins.0"),
        ({"allowed_origins": ["https://a.example:99999"]}, "allowed_origins.0"),
        ({"default_revenue_share_bps": 10_001}, "default_revenue_share_bps"),
        ({"default_revenue_share_bps": True}, "default_revenue_share_bps"),
        ({"monthly_spend_limit_usd": "-1"}, "monthly_spend_limit_usd"),
        ({"monthly_spend_limit_usd": 5}, "monthly_spend_limit_usd"),
        ({"identity_mode": "magic"}, "identity_mode"),
        ({"public_app_id": "other"}, "public_app_id"),
        ({"color": "red"}, "color"),
    ],
)
def test_settings_that_an_app_can_t_have(world: ApiWorld, change: Json, field: str) -> None:
    """Lost: a setting that is wrong is kept, or fails without saying which it is."""
    developer = world.developer()
    app = developer.app()
    path = f"{APPS}/{app['public_app_id']}"
    error = refused(developer.http.patch(path, json=change), 400, "invalid_request")
    assert field in error["details"]["fieldErrors"], error
    assert ok(developer.http.get(path)) == app


# ── features ──


def test_a_feature_s_versions(world: ApiWorld, books: Books) -> None:
    """Lost: nobody knows what a feature said last week, or can go back to it."""
    developer = world.developer()
    app = developer.app()
    path = f"{APPS}/{app['public_app_id']}/features"
    feature = developer.feature(app, feature_key="reply", display_name="Reply")
    assert set(feature) == {
        "id", "public_app_id", "feature_key", "display_name", "policy", "pricing", "version", "status", "created_at",
        "updated_at",
    }  # fmt: skip
    assert (feature["policy"], feature["pricing"], feature["version"]) == (POLICY, PRICING, 1)
    refused(developer.http.post(path, json={"feature_key": "reply", "display_name": "R"}), 409, "conflict")
    second = ok(developer.http.patch(f"{path}/reply", json={"pricing": PRICING | {"markup_percent": 50}}))
    assert (second["version"], second["policy"], second["pricing"]["markup_percent"]) == (2, POLICY, 50)
    ok(developer.http.patch(f"{path}/reply", json={"display_name": "Better"}))
    back = ok(developer.http.post(f"{path}/reply/activate", json={"version": 1}))
    assert (back["version"], back["pricing"], back["display_name"]) == (1, PRICING, "Reply")
    fourth = ok(developer.http.patch(f"{path}/reply", json={"display_name": "Newest"}))
    assert fourth["version"] == 4
    versions = ok(developer.http.get(f"{path}/reply/versions"))["items"]
    assert [(v["version"], v["is_active"]) for v in versions] == [(4, True), (3, False), (2, False), (1, False)]
    assert [v["display_name"] for v in versions] == ["Newest", "Better", "Reply", "Reply"]
    refused(developer.http.post(f"{path}/reply/activate", json={"version": 9}), 404, "not_found")
    assert ok(developer.http.delete(f"{path}/reply"))["status"] == "archived"
    assert ok(developer.http.get(path)) == {"items": []}
    assert ok(developer.http.patch(f"{path}/reply", json={"status": "active"}))["status"] == "active"
    assert ok(developer.http.get(path))["items"][0]["version"] == 4
    refused(developer.http.patch(f"{path}/none", json={"display_name": "x"}), 404, "feature_not_found")
    refused(developer.http.delete(f"{path}/none"), 404, "feature_not_found")


def test_a_word_that_was_probably_meant(world: ApiWorld) -> None:
    """Lost: who writes `modles` over the API is not told what is wrong, and a long word fills the answer."""
    developer = world.developer()
    path = f"{APPS}/{developer.app()['public_app_id']}/features"
    ask: Json = {"feature_key": "reply", "display_name": "R"}
    for change, said in (
        ({"policy": {"modles": ["a"]}}, "policy.modles: unknown word; did you mean `models`?"),
        ({"pricing": {"markup": 3}}, "pricing.markup: unknown word; did you mean `markup_percent`?"),
        ({"prompt": {"usr": "x"}}, "prompt.usr: unknown word; did you mean `user`?"),
        ({"policy": {"max_output_tokens": 10**12}}, "policy.max_output_tokens: must be a whole number from 1 to "),
    ):
        assert refused(developer.http.post(path, json=ask | change), 400, "invalid_request")["message"].startswith(said)
    long = refused(developer.http.post(path, json=ask | {"pricing": {"x" * 90_000: 1}}), 400, "invalid_request")
    assert len(str(long)) < 2_000


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"policy": {"route_preference": ["platform_pool", "moon"]}}, "policy.route_preference[1]"),
        ({"policy": {"mood": "good"}}, "policy.mood"),
        ({"policy": {"models": ["a\x00"]}}, "policy"),
        ({"policy": []}, "policy"),
        ({"pricing": {"mode": "free"}}, "pricing.mode"),
        ({"pricing": {"markup_percent": 1001}}, "pricing.markup_percent"),
        ({"pricing": {"surprise": 1}}, "pricing.surprise"),
        ({"display_name": None}, "display_name"),
        ({"feature_key": "x"}, "feature_key"),
    ],
)
def test_manifests_that_a_feature_can_t_have(world: ApiWorld, change: Json, field: str) -> None:
    """Lost: a policy half understood is kept, and found out by the first request."""
    developer = world.developer()
    app = developer.app()
    feature = developer.feature(app)
    path = f"{APPS}/{app['public_app_id']}/features/{feature['feature_key']}"
    error = refused(developer.http.patch(path, json=change), 400, "invalid_request")
    assert field in error["details"]["fieldErrors"], error
    assert len(ok(developer.http.get(f"{path}/versions"))["items"]) == 1


# ── idempotency ──


def test_the_same_key_gives_the_same_answer(world: ApiWorld, books: Books) -> None:
    """Lost: a repeated request makes a second token, or never shows the first; or a copy of the database shows it."""
    developer = world.developer()
    ask = {"name": "ci", "scopes": ["developer:apps:read"]}
    key = {"idempotency-key": "the-first-key"}
    first = developer.http.post(TOKENS, json=ask, headers=key)
    again = developer.http.post(TOKENS, json=ask, headers=key)
    assert ok(first, 201) == ok(again, 201)
    assert "idempotent-replayed" not in first.headers and again.headers["idempotent-replayed"] == "true"
    assert books.one("select count(*) from developer_token where name = 'ci'") == 1
    refused(developer.http.post(TOKENS, json=ask | {"name": "other"}, headers=key), 409, "idempotency_conflict")
    refused(
        developer.http.post(APPS, json={"public_app_id": "k", "name": "K"}, headers=key), 409, "idempotency_conflict"
    )
    stored = b"".join(row[0] for row in books.rows("select sealed from api_idempotency"))
    assert first.json()["token"].encode() not in stored
    other = world.developer()
    assert ok(other.http.post(TOKENS, json=ask, headers=key), 201)["token"] != first.json()["token"]
    # What was refused is not kept: the repeat is tried again.
    app = {"public_app_id": "taken", "name": "T"}
    made = ok(other.http.post(APPS, json=app), 201)
    later = {"idempotency-key": "the-later-key"}
    refused(developer.http.post(APPS, json=app, headers=later), 409, "conflict")
    books.rows("update app set public_app_id = 'freed' where public_app_id = %s", made["public_app_id"])
    ok(developer.http.post(APPS, json=app, headers=later), 201)
    books.rows("update api_idempotency set expires_at = now()")
    refused(developer.http.post(APPS, json=app, headers=later), 409, "conflict")
    refused(developer.http.post(APPS, json=app, headers={"idempotency-key": "short"}), 400, "invalid_request")


# ── what developers look at ──


def test_usage_over_time(world: ApiWorld, books: Books) -> None:
    """Lost: a developer can't see what brings money, or sees another's."""
    developer, other = world.developer(), world.developer()
    one, two, theirs = developer.app(), developer.app(), other.app()
    feature = developer.feature(one)
    for app, used, cost in ((one, feature, 10), (one, None, 20), (two, None, 40), (theirs, None, 80)):
        tenant = tenant_of(books, app, used)
        assert books.settle(Settlement(tenant, books.held(tenant, E8), cost=cost, channel=1)) == [0]
    path = "/v1/developer/usage"
    series = ok(developer.http.get(path))
    (point,) = series["items"]
    assert set(point) == {
        "at", "calls", "input_tokens", "output_tokens", "retail_price_usd", "channel_revenue_usd",
    }  # fmt: skip
    assert (point["calls"], point["retail_price_usd"], point["channel_revenue_usd"]) == (3, "0.00000073", "0.00000003")
    assert point["at"].endswith("T00:00:00.000Z") and series["interval"] == "day"
    hourly = ok(developer.http.get(path, params={"interval": "hour"}))["items"]
    assert sum(p["calls"] for p in hourly) == 3 and hourly[0]["at"][14:] == "00:00.000Z"
    by_app = ok(developer.http.get(path, params={"group_by": "app"}))["items"]
    assert {p["public_app_id"]: p["calls"] for p in by_app} == {one["public_app_id"]: 2, two["public_app_id"]: 1}
    by_feature = ok(developer.http.get(path, params={"group_by": "feature", "public_app_id": one["public_app_id"]}))[
        "items"
    ]
    assert {p.get("feature_key"): p["calls"] for p in by_feature} == {feature["feature_key"]: 1, None: 1}
    assert [p["model"] for p in ok(developer.http.get(path, params={"group_by": "model"}))["items"]] == ["mock-model"]
    assert sum(p["calls"] for p in ok(world.operator.get(path))["items"]) == 4
    refused(developer.http.get(path, params={"public_app_id": theirs["public_app_id"]}), 404, "invalid_app")
    old = {"since": "2020-01-01T00:00:00Z", "until": "2020-02-01T00:00:00Z"}
    assert ok(developer.http.get(path, params=old))["items"] == []
    for wrong in (
        {"since": "2020-01-01T00:00:00Z"},
        {"since": "2020-01-01T00:00:00"},
        {"since": "yesterday"},
        {"since": "0001-01-01T00:00:00+14:00"},
        {"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"},
        {"interval": "minute"},
        {"group_by": "person"},
    ):
        refused(developer.http.get(path, params=wrong), 400, "invalid_request")


def test_usage_and_revenue_by_token(world: ApiWorld, books: Books) -> None:
    """Lost: a developer's program can't read what its app earned; another's can."""
    developer, other = world.developer(), world.developer()
    app = developer.app()
    tenant = tenant_of(books, app)
    assert books.settle(Settlement(tenant, books.held(tenant, E8), cost=10, channel=2)) == [0]
    path = f"/v1/apps/{app['public_app_id']}/usage"
    assert ok(developer.http.get(path))["total_calls"] == 1
    refused(other.http.get(path), 404, "invalid_app")
    assert (
        refused(other.http.get(path), 404, "invalid_app")["message"]
        == refused(other.http.get("/v1/apps/nobody/usage"), 404, "invalid_app")["message"]
    )
    revenue = f"/v1/developers/{developer.id}/revenue"
    assert ok(developer.http.get(revenue))["lifetime_revenue_usd"] == "0.00000002"
    refused(other.http.get(revenue), 404, "not_found")
    books.rows("update app set is_public_demo = true")
    assert ok(other.http.get(path))["total_calls"] == ok(world.nobody.get(path))["total_calls"] == 1


def test_operations(world: ApiWorld, books: Books) -> None:
    """Lost: the dashboard's first page, or a page that shows other developers' money."""
    developer, other = world.developer(), world.developer()
    app = developer.app()
    tenant = tenant_of(books, app)
    tenant_of(books, other.app())
    body = ok(developer.http.get("/v1/developer/operations"))
    assert set(body) == {"wallets", "topups", "payouts", "audit_logs"}
    wallets = {wallet["owner_scope"]: wallet for wallet in body["wallets"]}
    assert wallets["end_user"]["owner_id"] == str(tenant.end_user)
    assert wallets["end_user"]["balance_usd"] == "100.00000000"
    assert (wallets["developer"]["owner_id"], wallets["developer"]["owner_name"][0]) == (developer.id, "D")
    assert len(body["wallets"]) == 2
    actions = [entry["action"] for entry in body["audit_logs"]]
    assert actions == ["app.created", "token.created", "developer.created"]
    newest = body["audit_logs"][0]
    assert (newest["actor_scope"], newest["resource_id"]) == ("developer_token", app["public_app_id"])
    assert newest["metadata"]["request_id"].startswith("req_")
    assert len(ok(world.operator.get("/v1/developer/operations"))["wallets"]) == 4
    refused(world.client("mf_sess_" + "A" * 43).get("/v1/developer/operations"), 401, "invalid_session")
    assert ok(world.developer_admin.get(APPS))["items"]
