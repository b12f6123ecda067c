"""What stands around the gateway's requests: cross-origin rules, health, readiness, metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cable import database_cable
from gateway_world import CHAT, EndUser, Gateway, Mock, Reply, StartGateway, World, ask, chat, request, wait_for
from prometheus_client.parser import text_string_to_metric_families

ORIGIN = "https://app.example.com"
PREFLIGHT = {"origin": ORIGIN, "access-control-request-method": "POST"}
SECRETS = {
    "SECRET_ENCRYPTION_KEY": "q8Zr3vT1kLw6Yb0Nf5Hs9Dx2Gj7Mc4Pa",
    "ADMIN_TOKEN": "Vn2Xc8Bk5Rt1Ym7Qw4Ez9Uo3Ai6Sd0Fh",
    "METRICS_TOKEN": "Tz6Nb1Wq8Hs3Lx9Gm5Pd2Rk7Cv4Fy0Ej",
    "DEVELOPER_ADMIN_TOKEN": "Jp4Kd7Lf1Wg9Ze3Xr6Cv0Bt8Ny2Mu5Qi",
}


def exposed(reply: Reply) -> set[str]:
    return {name.strip() for name in reply.headers["access-control-expose-headers"].split(",")}


# ── cross-origin rules ──


def test_development_answers_any_origin(gateway: Gateway, rich: EndUser) -> None:
    """An app in a developer's browser could not call the gateway, or not read ids, limits and errors."""
    for reply in (
        ask(gateway, rich.bearer, chat(), {"origin": ORIGIN}),
        ask(gateway, rich.bearer, chat(stream=True), {"origin": ORIGIN}),
        ask(gateway, "mf_sess_nobody_has_this_one", chat(), {"origin": ORIGIN}),
        request(gateway, "GET", "/v1/nothing", None, {"origin": ORIGIN}),
        request(gateway, "GET", CHAT, None, {"origin": ORIGIN}),
    ):
        assert reply.headers["access-control-allow-origin"] == ORIGIN
        assert reply.headers["vary"] == "origin"
        assert {"x-request-id", "x-ratelimit-remaining", "x-ratelimit-reset", "retry-after"} <= exposed(reply)
        assert "access-control-allow-credentials" not in reply.headers
    assert "access-control-allow-origin" not in ask(gateway, rich.bearer, chat()).headers


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/models/mock-small"])
def test_a_preflight_is_answered(gateway: Gateway, path: str) -> None:
    """Browsers would not send the request that they ask about."""
    asked = {**PREFLIGHT, "access-control-request-headers": "authorization, content-type, x-stainless-os"}
    reply = request(gateway, "OPTIONS", path, None, asked)
    assert reply.status == 204 and reply.body == b"" and reply.request_id
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert reply.headers["access-control-allow-headers"] == asked["access-control-request-headers"]
    methods = reply.headers["access-control-allow-methods"].split(", ")
    assert methods == ["GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS"]
    assert "content-length" not in reply.headers, "RFC 9110 §8.6: none with 204"


@pytest.fixture(scope="module")
def production(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway as in production, without a provider yet."""
    origins = f"{ORIGIN},https://other.example.com"
    running = Gateway(
        world.dsn,
        "",
        tmp_path_factory.mktemp("production"),
        MODELFAUCET_ENV="production",
        GATEWAY_CORS_ORIGINS=origins,
        API_CORS_ORIGINS=origins,
        **SECRETS,
    )
    yield running
    running.stop()


def test_production_answers_its_own_origins_only(production: Gateway) -> None:
    """Any page could use, and pay with, a session that it got hold of."""
    gateway = production
    allowed = request(gateway, "OPTIONS", CHAT, None, PREFLIGHT)
    assert allowed.status == 204 and allowed.headers["access-control-allow-origin"] == ORIGIN
    for stranger in ("https://app.example.com.evil.test", "http://app.example.com", "null", "https://APP.example.com"):
        for reply in (
            request(gateway, "OPTIONS", CHAT, None, {**PREFLIGHT, "origin": stranger}),
            request(gateway, "GET", "/health", None, {"origin": stranger}),
        ):
            assert "access-control-allow-origin" not in reply.headers


def test_production_answers_the_origins_of_active_apps(production: Gateway, world: World) -> None:
    """A developer would have to ask the operator before their own page may call; or a dead app's page still may."""
    own = "https://crm.of-a-developer.example"

    def allowed() -> bool:
        reply = request(production, "OPTIONS", CHAT, None, {**PREFLIGHT, "origin": own})
        return reply.headers.get("access-control-allow-origin") == own

    assert not allowed()
    changes = [
        ("update app set allowed_origins = array[%s]", True),
        ("update app set status = 'disabled' where %s <> ''", False),
        ("update app set status = 'active' where %s <> ''", True),
        ("update developer set status = 'disabled' where %s <> ''", False),
    ]
    try:
        for change, expected in changes:
            world.books.rows(change, own)
            world.announce()
            wait_for(lambda expected=expected: allowed() is expected, seconds=6)  # type: ignore[misc]
    finally:
        world.books.rows("update developer set status = 'active'")
        world.books.rows("update app set status = 'active', allowed_origins = '{}'")
        world.announce()


# ── health ──


def test_health_is_only_about_the_process(gateway: Gateway) -> None:
    """Supervisors would restart a process that works."""
    reply = request(gateway, "GET", "/health")
    assert reply.status == 200 and reply.json == {"ok": True, "service": "@modelfaucet/gateway"}
    head = request(gateway, "HEAD", "/health")
    assert head.status == 200 and head.body == b"" and head.headers["content-length"] == str(len(reply.body))


def test_ready_follows_the_database(world: World, start_gateway: StartGateway, rich: EndUser) -> None:
    """A load balancer would send requests where they can't be booked."""
    with database_cable(world.dsn) as (cable, dsn):
        gateway = start_gateway(dsn=dsn)

        def ready() -> Reply:
            return request(gateway, "GET", "/ready")

        first = ready()
        assert first.status == 200
        assert first.json == {
            "ok": True,
            "service": "@modelfaucet/gateway",
            "checks": {"database": "ok", "ledger": "ok", "catalogue": "ok", "accepting": "ok"},
        }
        cable.cut()
        began = time.monotonic()
        down = ready()
        assert down.status == 503 and down.json["ok"] is False and down.json["checks"]["database"] == "failed"
        assert time.monotonic() - began < 5
        assert request(gateway, "GET", "/health").status == 200
        cable.mend()
        wait_for(lambda: ready().status == 200)
        assert ask(gateway, rich.bearer, chat()).status == 200
        cable.freeze()
        began = time.monotonic()
        assert ready().status == 503 and time.monotonic() - began < 10
        cable.mend()


def test_without_a_provider_nothing_is_ready(production: Gateway) -> None:
    """A gateway that has nothing to sell would be sent requests."""
    reply = request(production, "GET", "/ready")
    assert reply.status == 503 and reply.json["checks"] == {
        "database": "ok",
        "ledger": "ok",
        "catalogue": "failed",
        "accepting": "ok",
    }


def test_providers_are_looked_at(mock: Mock, world: World, gateway: Gateway, start_gateway: StartGateway) -> None:
    """An operator would learn from end users that a provider is away."""
    shown = request(gateway, "GET", "/health/providers")
    assert shown.status == 200 and shown.json["ok"] is True
    [provider] = shown.json["providers"]
    assert provider["ok"] is True and provider["provider"] == "mock" and provider["statusCode"] == 200
    seen = {"cooling", "firstByteMs"}  # of what other tests asked meanwhile
    assert provider["latencyMs"] >= 0 and set(provider) - seen == {"ok", "provider", "statusCode", "latencyMs"}
    away = request(start_gateway(mock_url="http://127.0.0.1:9/v1"), "GET", "/health/providers")
    assert away.json["ok"] is False and away.json["providers"][0]["error"] == "connect"
    assert b"127.0.0.1" not in away.body


# ── metrics ──


def samples(
    gateway: Gateway, headers: dict[str, str] | None = None
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by its name and labels."""
    reply = request(gateway, "GET", "/metrics", None, headers)
    assert reply.status == 200 and reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(reply.body.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_metrics_count_what_happened(world: World, start_gateway: StartGateway) -> None:
    """Alarms and dashboards would be built on figures that don't follow the traffic."""
    gateway = start_gateway()
    rich, poor = world.end_user(), world.end_user(0)
    assert ask(gateway, rich.bearer, chat()).status == 200
    assert ask(gateway, rich.bearer, chat(stream=True)).status == 200
    assert ask(gateway, poor.bearer, chat()).status == 402
    assert ask(gateway, rich.bearer, chat(model="fail-500")).status == 502
    request(gateway, "GET", "/v1/models/" + "x" * 50)
    request(gateway, "BREW", "/" + "y" * 50)
    request(gateway, "GET", "/" + "z" * 50)
    found = samples(gateway)

    def requests(method: str, route: str, status: int) -> float:
        labels = {"service": "@modelfaucet/gateway", "method": method, "route": route, "status": str(status)}
        return found.get(("modelfaucet_http_requests_total", tuple(sorted(labels.items()))), 0)

    assert requests("POST", CHAT, 200) == 2 and requests("POST", CHAT, 402) == 1 and requests("POST", CHAT, 502) == 1
    assert requests("GET", "/v1/models/{model}", 401) == 1 and requests("GET", "unknown", 404) == 1
    seconds = (("route", CHAT), ("service", "@modelfaucet/gateway"))
    assert found[("modelfaucet_http_request_duration_seconds_count", seconds)] == 4
    assert found[("modelfaucet_tokens_total", (("kind", "output"),))] == 96
    assert found[("modelfaucet_provider_errors_total", (("kind", "http_500"), ("provider", "mock")))] == 2
    assert found[("modelfaucet_wallet_refusals_total", (("code", "insufficient_balance"),))] == 1
    assert found[("modelfaucet_ledger_writes_total", (("kind", "settled"),))] == 2
    assert found[("modelfaucet_ledger_writes_total", (("kind", "released"),))] == 1
    assert found[("modelfaucet_holds_open", ())] == 0
    assert found[("modelfaucet_ledger_items_total", ())] >= found[("modelfaucet_ledger_groups_total", ())] > 0
    shown = json.dumps([str(key) for key in found])
    assert not any(text * 50 in shown for text in "xyz"), "a caller's text became a label"


def test_metrics_may_need_a_bearer(production: Gateway) -> None:
    """Figures of a whole business would be open to whoever finds the address."""
    refused: list[Any] = [request(production, "GET", "/metrics", None, h) for h in ({}, {"authorization": "Bearer no"})]
    assert [(reply.status, reply.code) for reply in refused] == [(403, "forbidden")] * 2
    assert samples(production, {"authorization": f"Bearer {SECRETS['METRICS_TOKEN']}"})
