"""What every request to the control API meets first: errors, ids, bodies, origins, rates, health, and faults."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psycopg
import pytest
from books import Books
from conftest import RunningApi, serve

from faucet.kit.config import Config, load_config
from faucet.kit.db import open_pool, tx
from faucet.tenants.demo import seed_demo

ASK = {"public_app_id": "app_pub_demo", "external_user_id": "u"}
SESSIONS = "/v1/sessions"


def seed(config: Config, dsn: str) -> None:
    """The demo's data."""

    async def work() -> None:
        pool = await open_pool(dsn, "faucet_api", size=1)
        async with tx(pool) as t:
            await seed_demo(t, config)
        await pool.close()

    asyncio.run(work())


@pytest.fixture(scope="module")
def shared_config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return load_config({"FAUCET_DATA": str(tmp_path_factory.mktemp("api") / "data")})


@pytest.fixture(scope="module")
def shared(shared_config: Config, module_dsn: str) -> Iterator[RunningApi]:
    """One API for all tests that leave nothing behind that others would mind."""
    seed(shared_config, module_dsn)
    with serve(shared_config, module_dsn) as base_url:
        yield RunningApi(base_url, shared_config, module_dsn)


@pytest.fixture
def client(shared: RunningApi) -> Iterator[httpx2.Client]:
    """A client of the shared API."""
    with httpx2.Client(base_url=shared.base_url) as client:
        yield client


@pytest.fixture
def own(api: RunningApi) -> Iterator[httpx2.Client]:
    """A client of an API that this test may break."""
    seed(api.config, api.dsn)
    with httpx2.Client(base_url=api.base_url) as client:
        yield client


def refused(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The error of a response that must be the envelope with this status and code."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) <= {"code", "message", "request_id", "details"}
    assert (error["code"], error["request_id"]) == (code, response.headers["x-request-id"])
    assert error["message"]
    return error


# ── bad input ──

BAD_BODIES: list[tuple[bytes, str]] = [
    (b"", "body"),
    (b"{", "JSON"),
    (b'{"public_app_id":"a"} trailing', "JSON"),
    (b"\xff\xfe", "JSON"),
    (b"[]", "object"),
    (b'"text"', "object"),
    (b"null", "body"),
    (b"1e999", "object"),
    (b"[" * 100_000, "JSON"),
]


@pytest.mark.parametrize(("body", "word"), BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_bodies_that_are_no_request(client: httpx2.Client, body: bytes, word: str) -> None:
    """Lost: malformed JSON is a 422, a 500, or an answer without the envelope."""
    response = client.post(SESSIONS, content=body, headers={"content-type": "application/json"})
    error = refused(response, 400, "invalid_request")
    assert word in error["message"]
    assert set(error["details"]) == {"formErrors", "fieldErrors"}


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"public_app_id": None}, "public_app_id"),
    ({"public_app_id": ""}, "public_app_id"),
    ({"public_app_id": "a" * 129}, "public_app_id"),
    ({"public_app_id": "no spaces"}, "public_app_id"),
    ({"public_app_id": "line\n"}, "public_app_id"),
    ({"public_app_id": 7}, "public_app_id"),
    ({"external_user_id": ""}, "external_user_id"),
    ({"external_user_id": "u" * 513}, "external_user_id"),
    ({"external_user_id": "\ud800"}, "external_user_id"),
    ({"external_user_id": True}, "external_user_id"),
    ({"feature_key": "no/slash"}, "feature_key"),
    ({"metadata": []}, "metadata"),
    ({"metadata": {"a": "x" * 5_000}}, "metadata"),
    ({"metadata": {"a": "nul\u0000"}}, "metadata"),
    ({"metadata": {"a": "\udfff"}}, "metadata"),
    ({"user_token": ""}, "user_token"),
    ({"surprise": 1}, "surprise"),
    ({"Public_App_Id": "x"}, "Public_App_Id"),
]


@pytest.mark.parametrize(("change", "field"), BAD_FIELDS, ids=range(len(BAD_FIELDS)))
def test_fields_that_are_wrong_are_named(client: httpx2.Client, change: dict[str, Any], field: str) -> None:
    """Lost: a typo is silently ignored; a database error is shown instead of the field."""
    response = client.post(SESSIONS, content=json.dumps(ASK | change), headers={"content-type": "application/json"})
    error = refused(response, 400, "invalid_request")
    assert list(error["details"]["fieldErrors"]) == [field]
    assert error["message"].startswith(f"{field}: ")
    assert error["details"]["formErrors"] == []


def test_required_fields_are_all_named_and_values_never_repeated(client: httpx2.Client) -> None:
    """Lost: one error a try; or an error that repeats a secret."""
    error = refused(client.post(SESSIONS, json={"feature_key": "mf_sess_secret value"}), 400, "invalid_request")
    assert set(error["details"]["fieldErrors"]) == {"public_app_id", "external_user_id", "feature_key"}
    assert "secret" not in json.dumps(error)


BAD_AMOUNTS = ["0", "0.00", "-1", "1.000000001", "01", "1e3", "", " 1", "1,5", "NaN", "1000000.00000001", "9" * 40]


@pytest.mark.parametrize("amount", [*BAD_AMOUNTS, 1, 1.5, None, ["1"]], ids=repr)
def test_amounts_that_are_none(client: httpx2.Client, shared_config: Config, amount: object) -> None:
    """Lost: a float, a negative or an overflowing amount reaches the ledger."""
    response = client.post(
        "/v1/admin/wallets/01890000-0000-7000-8000-000000000000/credit-test-balance",
        json={"amount_usd": amount},
        headers={"authorization": f"Bearer {shared_config.admin_token.reveal()}"},
    )
    error = refused(response, 400, "invalid_request")
    assert list(error["details"]["fieldErrors"]) == ["amount_usd"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/sessions/", 404, "not_found"),
        ("GET", "/docs/oauth2-redirect", 404, "not_found"),
        ("GET", "/redoc", 404, "not_found"),
        ("GET", "/v1/../etc/passwd", 404, "not_found"),
        ("PUT", "/v1/sessions", 405, "method_not_allowed"),
        ("PATCH", "/health", 405, "method_not_allowed"),
        ("PROPFIND", "/health", 405, "method_not_allowed"),
        ("GET", "/v1/developers/not-a-uuid/revenue", 400, "invalid_request"),
        ("GET", "/v1/apps/a%00b/usage", 400, "invalid_request"),
        ("GET", f"/v1/apps/{'a' * 129}/usage", 400, "invalid_request"),
    ],
)
def test_paths_that_lead_nowhere(
    client: httpx2.Client, shared_config: Config, method: str, path: str, status: int, code: str
) -> None:
    """Lost: the router's own errors have another shape."""
    headers = {"authorization": f"Bearer {shared_config.admin_token.reveal()}"}
    error = refused(client.request(method, path, headers=headers), status, code)
    assert "details" not in error or error["details"]["fieldErrors"]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_bodies_of_another_kind(client: httpx2.Client, kind: str | None) -> None:
    """Lost: a page of another origin posts without a preflight."""
    headers = {} if kind is None else {"content-type": kind}
    response = client.post(SESSIONS, content=json.dumps(ASK).encode(), headers=headers)
    refused(response, 415, "unsupported_media_type")
    good = client.post(SESSIONS, content=json.dumps(ASK), headers={"content-type": "Application/JSON; charset=utf-8"})
    assert good.status_code == 200


def test_bodies_are_bounded_announced_or_not(client: httpx2.Client, shared_config: Config) -> None:
    """Lost: one request fills the memory."""
    most = shared_config.api_max_body_bytes
    kind = {"content-type": "application/json"}
    response = client.post(SESSIONS, content=b" " * (most + 1), headers=kind)
    refused(response, 413, "payload_too_large")
    assert response.headers["connection"] == "close"

    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * (most // 16)

    refused(client.post(SESSIONS, content=chunks(), headers=kind), 413, "payload_too_large")
    padded = json.dumps(ASK).encode().ljust(most)
    assert client.post(SESSIONS, content=padded, headers=kind).status_code == 200


# ── ids, heads, origins ──


def test_request_ids(client: httpx2.Client) -> None:
    """Lost: a caller can't find its request in our logs, or writes into them what it likes."""
    good = "caller-1.2:3_4"
    assert client.get("/health", headers={"x-request-id": good}).headers["x-request-id"] == good
    for bad in ("", "with space", "x" * 129, 'quote"'):
        own = client.get("/health", headers={"x-request-id": bad}).headers["x-request-id"]
        assert own.startswith("req_") and len(own) == 36
    first, second = (client.get("/health").headers["x-request-id"] for _ in range(2))
    assert first < second
    error = refused(client.get("/nothing", headers={"x-request-id": good}), 404, "not_found")
    assert error["request_id"] == good


def test_head_is_get_without_a_body(shared: RunningApi) -> None:
    """Lost: monitors that ask with HEAD, and connections that break after one."""
    connection = http.client.HTTPConnection(urlsplit(shared.base_url).netloc)
    for path, status in (("/health", 200), ("/nothing", 404), ("/health", 200)):
        connection.request("HEAD", path)
        response = connection.getresponse()
        assert (response.status, response.read()) == (status, b"")
        assert int(response.headers["content-length"]) > 0
    connection.close()


def test_answers_are_not_stored_or_guessed_at(client: httpx2.Client) -> None:
    """Lost: a proxy keeps a session's bearer."""
    response = client.post(SESSIONS, json=ASK)
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "server" not in response.headers


def test_development_reflects_any_origin(client: httpx2.Client) -> None:
    """Lost: the dashboard on another port can't call."""
    response = client.post(SESSIONS, json=ASK, headers={"origin": "http://localhost:5173"})
    assert response.headers["access-control-allow-origin"] == "http://localhost:5173"
    assert "x-request-id" in response.headers["access-control-expose-headers"]
    assert response.headers["vary"] == "origin"
    assert "access-control-allow-credentials" not in response.headers
    asked = {"origin": "http://localhost:5173", "access-control-request-method": "DELETE"}
    preflight = client.options("/v1/sessions/current", headers=asked)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "http://localhost:5173"
    allowed = preflight.headers["access-control-allow-methods"].split(", ")
    assert set(allowed) == {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    error = client.get("/nothing", headers={"origin": "http://localhost:5173"})
    assert error.headers["access-control-allow-origin"] == "http://localhost:5173"


@pytest.fixture
def strict(tmp_path: Path) -> dict[str, str]:
    """Variables that production accepts."""
    return {
        "MODELFAUCET_ENV": "production",
        "FAUCET_DATA": str(tmp_path / "data"),
        "SECRET_ENCRYPTION_KEY": "Vq0mYc5Jr9TzN1hXo7GuKw3BsL8fDePa2Qi4",
        "ADMIN_TOKEN": "aG7kPz2WmX9rLt4QyB6nVc1JsH8dFe3Uo5Ti",
        "DEVELOPER_ADMIN_TOKEN": "hR3wNb8KvC5yMf1ZpS7gXj2LtQ9eDa6Uo4Ir",
        "API_CORS_ORIGINS": "https://app.example,https://other.example",
        "GATEWAY_CORS_ORIGINS": "https://app.example",
    }


def test_production_knows_its_origins(strict: dict[str, str], dsn: str) -> None:
    """Lost: any page reads the API with a user's bearer."""
    with serve(load_config(strict), dsn) as base_url, httpx2.Client(base_url=base_url) as client:
        known = client.get("/health", headers={"origin": "https://other.example"})
        assert known.headers["access-control-allow-origin"] == "https://other.example"
        for origin in ("https://evil.example", "https://app.example.evil", "null", "http://app.example"):
            response = client.get("/health", headers={"origin": origin})
            assert "access-control-allow-origin" not in response.headers
            asked = {"origin": origin, "access-control-request-method": "POST"}
            preflight = client.options(SESSIONS, headers=asked)
            refused(preflight, 403, "forbidden")
            assert "access-control-allow-origin" not in preflight.headers


def test_a_client_is_counted_by_its_own_address(strict: dict[str, str], dsn: str) -> None:
    """Lost: one client behind a proxy uses up everybody's rate, or picks a new address for each request."""
    strict |= {
        "API_RATE_LIMIT_MAX_REQUESTS": "3",
        "API_RATE_LIMIT_WINDOW_MS": "60000",
        "TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8",
    }
    with serve(load_config(strict), dsn) as base_url, httpx2.Client(base_url=base_url) as client:

        def ask(*chain: str) -> httpx2.Response:
            headers = [("x-forwarded-for", value) for value in chain]
            return client.get("/v1/nothing", headers=headers)

        remaining = [ask("203.0.113.7").headers["x-ratelimit-remaining"] for _ in range(3)]
        assert remaining == ["2", "1", "0"]
        # What the client wrote itself stands before what the proxies saw, and isn't believed.
        limited = ask("1.2.3.4, 203.0.113.7, 10.1.2.3")
        error = refused(limited, 429, "rate_limited")
        assert "details" not in error
        assert 1 <= int(limited.headers["retry-after"]) <= 60
        assert limited.headers["ratelimit-policy"] == '"client";q=3;w=60'
        assert limited.headers["ratelimit"].startswith('"client";r=0;t=')
        assert ask("198.51.100.9").status_code == 404
        assert client.get("/health").status_code == 200


def test_forwarded_addresses_of_strangers_are_not_believed(strict: dict[str, str], dsn: str) -> None:
    """Lost: whoever writes X-Forwarded-For has no rate limit."""
    strict |= {"API_RATE_LIMIT_MAX_REQUESTS": "2"}
    with serve(load_config(strict), dsn) as base_url, httpx2.Client(base_url=base_url) as client:
        statuses = [
            client.get("/v1/nothing", headers={"x-forwarded-for": f"203.0.113.{i}"}).status_code for i in range(3)
        ]
        assert statuses == [404, 404, 429]


# ── health, metrics, faults ──


def test_health_and_readiness(own: httpx2.Client, books: Books) -> None:
    """Lost: traffic goes to a process that can't serve it."""
    assert own.get("/health").json() == {"ok": True, "service": "@modelfaucet/api"}
    ready = own.get("/ready")
    assert (ready.status_code, ready.json()) == (
        200,
        {"ok": True, "service": "@modelfaucet/api", "checks": {"database": True, "schema": True}},
    )
    books.rows("update alembic_version set version_num = '0001_pre_roles'")
    old = own.get("/ready")
    assert (old.status_code, old.json()["checks"]) == (503, {"database": True, "schema": False})
    books.rows("update alembic_version set version_num = '9999_post_future'")
    assert own.get("/ready").status_code == 200
    books.rows("drop table alembic_version")
    assert own.get("/ready").json()["checks"] == {"database": True, "schema": False}
    assert own.get("/health").status_code == 200


def test_metrics_have_bounded_labels(own: httpx2.Client) -> None:
    """Lost: any caller can grow the monitoring system by asking for new paths."""
    for i in range(5):
        own.get(f"/v1/apps/app_{i}/usage")
        own.get(f"/nothing/{i}")
        own.request("PROPFIND", "/health")
    own.post(SESSIONS, json=ASK)
    response = own.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in response.text.splitlines() if line.startswith("modelfaucet_http_requests_total")]
    labels = {line.rpartition(" ")[0] for line in lines}
    assert all('service="@modelfaucet/api"' in label for label in labels)
    usage = [line for line in lines if 'route="/v1/apps/{public_app_id}/usage"' in line]
    assert len(usage) == 1 and usage[0].endswith(" 5.0")
    assert [line for line in lines if 'route="unknown"' in line][0].endswith(" 5.0")
    assert 'method="other"' in response.text and "PROPFIND" not in response.text
    assert 'modelfaucet_http_request_duration_seconds_count{route="/v1/sessions"' in response.text


def test_metrics_may_need_a_token(tmp_path: Path, dsn: str) -> None:
    """Lost: everybody sees the traffic of an operator who asked for a token."""
    config = load_config({"FAUCET_DATA": str(tmp_path / "d"), "METRICS_TOKEN": "m" * 32})
    with serve(config, dsn) as base_url, httpx2.Client(base_url=base_url) as client:
        refused(client.get("/metrics"), 401, "invalid_session")
        refused(client.get("/metrics", headers={"authorization": "Bearer wrong"}), 401, "invalid_session")
        assert client.get("/metrics", headers={"authorization": f"Bearer {'m' * 32}"}).status_code == 200


def test_without_a_database_it_starts_and_says_so(config: Config, tmp_path: Path) -> None:
    """Lost: a database that is away is our fault (500), or keeps the process from starting."""
    nowhere = f"postgresql://faucet@/faucet?host={tmp_path}&port=5432"
    with serve(config, nowhere) as base_url, httpx2.Client(base_url=base_url, timeout=30) as client:
        assert client.get("/health").status_code == 200
        ready = client.get("/ready")
        assert (ready.status_code, ready.json()["checks"]) == (503, {"database": False, "schema": False})
        response = client.post(SESSIONS, json=ASK)
        refused(response, 503, "unavailable")
        assert response.headers["retry-after"] == "1"


def test_lost_connections_are_replaced(own: httpx2.Client, books: Books) -> None:
    """Lost: every request after a database restart fails until somebody restarts the API."""
    assert own.post(SESSIONS, json=ASK).status_code == 200
    killed = books.one(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where datname = current_database() and application_name = 'faucet_api'"
    )
    assert killed >= 1
    assert own.post(SESSIONS, json=ASK).status_code == 200


def test_a_fault_tells_nothing_and_logs_no_secret(
    own: httpx2.Client, books: Books, capfd: pytest.CaptureFixture[str]
) -> None:
    """Lost: an error page that shows tables and statements; a log that holds bearers."""
    session = own.post(SESSIONS, json=ASK).json()["session_token"]
    books.rows("alter table account rename column posted_e8 to gone_e8")
    response = own.get("/v1/user/wallet", headers={"authorization": f"Bearer {session}"})
    error = refused(response, 500, "internal")
    assert "details" not in error and "gone" not in error["message"] and "posted" not in error["message"]
    logged = capfd.readouterr().err
    assert error["request_id"] in logged and "UndefinedColumn" in logged
    assert session not in logged


def test_odd_bytes_never_make_a_fault(shared: RunningApi) -> None:
    """Lost: a request that breaks the parser kills the connection of others, or the process."""
    where = urlsplit(shared.base_url)
    for raw in (
        b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-length: nonsense\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nauthorization: \xff\r\n\r\n",
    ):
        with socket.create_connection((where.hostname, where.port), timeout=5) as connection:
            connection.sendall(raw)
            answer = connection.recv(2_000)
            while b"\r\n\r\n{" not in answer and (more := connection.recv(2_000)):
                answer += more
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200")), raw
        assert b"x-request-id: req_" in answer
        assert b'{"error"' in answer or b'{"ok":true' in answer
    assert httpx2.get(f"{shared.base_url}/health").status_code == 200


def test_a_head_is_bounded(shared: RunningApi) -> None:
    """Lost: a client that never ends its head keeps a connection's memory for ever."""
    connection = http.client.HTTPConnection(urlsplit(shared.base_url).netloc, timeout=5)
    connection.putrequest("GET", "/health")
    for i in range(80):
        connection.putheader(f"x-{i}", "v" * 1_000)
    connection.endheaders()
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["error"]["code"]) == (431, "invalid_request")
    connection.close()


def test_the_process_s_connections_have_only_its_role(own: httpx2.Client, books: Books) -> None:
    """Lost: a hole in the API is a hole with the login's rights."""
    assert own.post(SESSIONS, json=ASK).status_code == 200
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        books.rows("update account set posted_e8 = 1", role="faucet_api")


def test_a_token_has_one_rate_from_wherever_it_comes(strict: dict[str, str], dsn: str) -> None:
    """A stolen token would be used from a thousand addresses at once."""
    strict |= {"API_RATE_LIMIT_MAX_REQUESTS": "5", "TRUSTED_PROXIES": "127.0.0.1"}
    config = load_config(strict)
    with serve(config, dsn) as base_url, httpx2.Client(base_url=base_url) as client:
        operator = {"authorization": f"Bearer {config.admin_token.reveal()}"}

        def made(path: str, body: dict[str, object], address: str) -> dict[str, str]:
            response = client.post(path, json=body, headers=operator | {"x-forwarded-for": address})
            assert response.status_code == 201, response.text
            return dict(response.json())

        developer = made("/v1/developers", {"name": "D", "email": "d@example.com"}, "203.0.113.1")
        ask = {"developer_id": developer["id"], "name": "t", "scopes": ["developer:apps:read"]}
        tokens = [made("/v1/developer/tokens", ask, "203.0.113.2")["token"] for _ in range(2)]

        def listed(token: str, address: str) -> httpx2.Response:
            headers = {"authorization": f"Bearer {token}", "x-forwarded-for": address}
            return client.get("/v1/developer/apps", headers=headers)

        assert [listed(tokens[0], f"198.51.100.{i}").status_code for i in range(5)] == [200] * 5
        limited = listed(tokens[0], "198.51.100.77")
        refused(limited, 429, "rate_limited")
        assert 1 <= int(limited.headers["retry-after"]) <= 60
        assert listed(tokens[1], "198.51.100.77").status_code == 200
