"""The control API as clients meet it: shapes, codes, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest
from books import E8, Books, Settlement, Tenant
from conftest import RunningApi, serve
from documented import documented

from faucet.api.app import openapi_document
from faucet.kit.config import Config, load_config
from faucet.kit.db import open_pool, tx
from faucet.kit.errors import Refusal
from faucet.tenants.demo import Demo, seed_demo

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
AMOUNT = re.compile(r"-?\d+\.\d{8}")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
ASK = {"public_app_id": "app_pub_demo", "external_user_id": "crm-demo-user", "feature_key": "customer_reply"}


async def _seed(config: Config, dsn: str, times: int = 1) -> list[Demo]:
    pool = await open_pool(dsn, "faucet_api", size=4)

    async def once() -> Demo:
        async with tx(pool) as t:
            return await seed_demo(t, config)

    try:
        return list(await asyncio.gather(*[once() for _ in range(times)]))
    finally:
        await pool.close()


@pytest.fixture
def demo(config: Config, dsn: str) -> Demo:
    """The demo's data."""
    return asyncio.run(_seed(config, dsn))[0]


@pytest.fixture
def client(api: RunningApi, demo: Demo) -> Iterator[httpx2.Client]:
    """A client of a running API with the demo's data."""
    with httpx2.Client(base_url=api.base_url, event_hooks={"response": [documented]}) as client:
        yield client


@pytest.fixture
def operator(config: Config) -> dict[str, str]:
    return {"authorization": f"Bearer {config.admin_token.reveal()}"}


@pytest.fixture
def developer_admin(config: Config) -> dict[str, str]:
    return {"authorization": f"Bearer {config.developer_admin_token.reveal()}"}


def mint(client: httpx2.Client, **ask: Any) -> dict[str, Any]:
    """A session of the demo's end user, or of another's."""
    response = client.post("/v1/sessions", json=ASK | ask)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


def bearer(session: dict[str, Any]) -> dict[str, str]:
    return {"authorization": f"Bearer {session['session_token']}"}


def refused(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The error of a response that must be the envelope with this status and code."""
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert set(error) <= {"code", "message", "request_id", "details"}
    assert error["code"] == code
    assert error["message"]
    assert error["request_id"] == response.headers["x-request-id"]
    return error


# ── sessions ──


def test_a_session_has_exactly_its_keys(client: httpx2.Client) -> None:
    """Lost: clients of the 1.2 line, which take the reply apart."""
    session = mint(client)
    assert set(session) == {
        "session_token",
        "expires_in",
        "gateway_base_url",
        "available_modes",
        "wallet_balance_usd",
    }
    assert re.fullmatch(r"mf_sess_[A-Za-z0-9_-]{43}", session["session_token"])
    assert session["expires_in"] == 3600
    assert session["wallet_balance_usd"] == "10.00000000"
    assert session["available_modes"] == ["local", "platform"]


def test_a_bearer_is_stored_as_a_hash_and_a_person_as_a_keyed_one(client: httpx2.Client, books: Books) -> None:
    """Lost: a copy of the database is a bunch of keys and a list of customers."""
    session = mint(client, external_user_id="mx.turing@example.com")
    stored = books.rows("select s::text, u::text from session s join end_user u on u.id = s.end_user_id")
    text = repr(stored)
    assert session["session_token"] not in text and session["session_token"][8:] not in text
    assert "turing" not in text and "@" not in text
    plain = books.one("select count(*) from end_user where external_id_hash = sha256('mx.turing@example.com')")
    assert plain == 0


def test_one_person_has_one_wallet_and_another_another(client: httpx2.Client) -> None:
    """Lost: a second session finds an empty wallet, or somebody else's."""
    wallets = [
        client.get("/v1/user/wallet", headers=bearer(mint(client, external_user_id=name))).json()
        for name in ("crm-demo-user", "crm-demo-user", "somebody-else")
    ]
    assert wallets[0] == wallets[1]
    assert wallets[2]["id"] != wallets[0]["id"]
    assert wallets[2]["balance_usd"] == "0.00000000"


def test_a_session_without_a_feature(client: httpx2.Client, books: Books) -> None:
    """Lost: apps that name the feature with each request can't mint."""
    session = mint(client, feature_key=None, metadata={"plan": "pro", "nested": {"a": [1, None]}})
    assert session["available_modes"] == ["local", "platform"]
    assert books.one("select metadata ->> 'plan' from session where feature_id is null") == "pro"


@pytest.mark.parametrize(
    ("change", "ask", "status", "code"),
    [
        ("select 1", {"public_app_id": "nobody"}, 404, "invalid_app"),
        ("update app set status = 'archived'", {}, 404, "invalid_app"),
        ("update app set status = 'disabled'", {}, 403, "disabled"),
        ("update developer set status = 'disabled'", {}, 403, "disabled"),
        ("select 1", {"feature_key": "nothing"}, 404, "feature_not_found"),
        ("update feature set status = 'archived'", {}, 404, "feature_not_found"),
        ("update app set identity_mode = 'signed'", {}, 403, "forbidden"),
        ("update app set identity_mode = 'signed'", {"user_token": "a.b.c"}, 403, "forbidden"),
    ],
)
def test_sessions_that_are_not_minted(
    client: httpx2.Client, books: Books, change: str, ask: dict[str, str], status: int, code: str
) -> None:
    """Lost: an app that was switched off, or whose users are vouched for by nobody, still mints."""
    books.rows(change)
    refused(client.post("/v1/sessions", json=ASK | ask), status, code)
    assert books.one("select count(*) from session") == 0


def test_an_app_s_own_origins(client: httpx2.Client, books: Books) -> None:
    """Lost: any page can mint sessions for an app that named its own."""
    books.rows("update app set allowed_origins = array['https://crm.example']")
    good = client.post("/v1/sessions", json=ASK, headers={"origin": "https://crm.example"})
    assert good.status_code == 200
    refused(client.post("/v1/sessions", json=ASK, headers={"origin": "https://evil.example"}), 403, "forbidden")
    assert client.post("/v1/sessions", json=ASK).status_code == 200  # a backend has no origin


def test_a_revoked_session_is_over_and_gateways_are_told(client: httpx2.Client, dsn: str) -> None:
    """Lost: a stolen bearer works until it expires."""
    session = mint(client)
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute("listen faucet_changed")
        response = client.delete("/v1/sessions/current", headers=bearer(session))
        assert (response.status_code, response.content) == (204, b"")
        assert [n.channel for n in listener.notifies(timeout=5, stop_after=1)] == ["faucet_changed"]
    refused(client.get("/v1/user/wallet", headers=bearer(session)), 401, "invalid_session")
    refused(client.delete("/v1/sessions/current", headers=bearer(session)), 401, "invalid_session")


# ── bearers ──


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Basic dXNlcjpwdw==",
        "Bearer mf_sess_" + "A" * 43,
        "Bearer mf_sess_\u00e9",
        "Bearer " + "x" * 5_000,
        "mf_sess_" + "A" * 43,
    ],
)
def test_bearers_that_are_none(client: httpx2.Client, authorization: str | None) -> None:
    """Lost: a route of a person's money answers to strangers, or falls over odd headers."""
    headers = {} if authorization is None else {"authorization": authorization.encode("latin-1")}
    response = client.get("/v1/user/wallet", headers=headers)  # type: ignore[arg-type]
    refused(response, 401, "invalid_session")
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_session_ends_with_its_time_and_with_its_app(client: httpx2.Client, books: Books) -> None:
    """Lost: the time and the kill switch that the docs promise."""
    session = mint(client)
    lower = {"AUTHORIZATION": f"bEaReR {session['session_token']}"}
    assert client.get("/v1/user/wallet", headers=lower).status_code == 200
    books.rows("update app set status = 'disabled'")
    refused(client.get("/v1/user/wallet", headers=bearer(session)), 403, "disabled")
    books.rows("update app set status = 'active'")
    books.rows("update session set expires_at = now()")
    refused(client.get("/v1/user/wallet", headers=bearer(session)), 401, "expired_session")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/admin/wallets/{id}/credit-test-balance"),
        ("GET", "/v1/admin/reconciliation/ledger"),
    ],
)
def test_the_operator_s_routes_are_the_operator_s(
    client: httpx2.Client, developer_admin: dict[str, str], method: str, path: str
) -> None:
    """Lost: a developer's or an end user's bearer gives credit."""
    path = path.format(id=uuid4())
    body = {"json": {"amount_usd": "1"}} if method == "POST" else {}
    refused(client.request(method, path, **body), 401, "invalid_session")  # type: ignore[arg-type]
    session = bearer(mint(client))
    refused(client.request(method, path, headers=session, **body), 401, "invalid_session")  # type: ignore[arg-type]
    refused(client.request(method, path, headers=developer_admin, **body), 403, "forbidden")  # type: ignore[arg-type]


# ── wallets ──


def test_a_wallet_shows_what_is_held(client: httpx2.Client, books: Books, demo: Demo) -> None:
    """Lost: a user sees money as free that a request in flight has reserved."""
    session = bearer(mint(client))
    tenant = demo_tenant(books, demo)
    books.held(tenant, 3 * E8)
    wallet = client.get("/v1/user/wallet", headers=session).json()
    assert UUID.fullmatch(wallet.pop("id")) and UUID.fullmatch(wallet.pop("owner_id"))
    assert MOMENT.fullmatch(wallet.pop("updated_at")) and len(wallet.pop("fees")) == 2
    assert wallet == {
        "owner_scope": "end_user",
        "balance_usd": "10.00000000",
        "held_usd": "3.00000000",
        "available_usd": "7.00000000",
        "frozen": False,
    }


def test_test_credit_moves_once_per_key(client: httpx2.Client, operator: dict[str, str], books: Books) -> None:
    """Lost: a repeated click gives credit twice; a key is good for two amounts."""
    wallet = client.get("/v1/user/wallet", headers=bearer(mint(client))).json()
    path = f"/v1/admin/wallets/{wallet['id']}/credit-test-balance"

    def credit(amount: str, headers: dict[str, str] | None = None, **more: str) -> httpx2.Response:
        return client.post(path, json={"amount_usd": amount} | more, headers=operator | (headers or {}))

    reply = credit("2.5", idempotency_key="first-key")
    assert reply.status_code == 200
    assert reply.json()["id"] == wallet["id"]
    assert (reply.json()["owner_scope"], reply.json()["owner_id"]) == ("end_user", wallet["owner_id"])
    assert reply.json()["balance_usd"] == "12.50000000"
    assert credit("2.5", idempotency_key="first-key").json()["balance_usd"] == "12.50000000"
    assert credit("2.5", {"idempotency-key": "first-key"}).json()["balance_usd"] == "12.50000000"
    refused(credit("2.6", idempotency_key="first-key"), 409, "idempotency_conflict")
    refused(credit("1", {"idempotency-key": "another-key"}, idempotency_key="first-key"), 400, "invalid_request")
    assert credit("0.00000001").json()["balance_usd"] == "12.50000001"
    assert credit("0.00000001").json()["balance_usd"] == "12.50000002"
    memo = books.one("select memo from transfer where key like 'test-credit:%%'")
    assert memo.startswith("Test credits; by the operator, request req_")
    missing = client.post(
        f"/v1/admin/wallets/{uuid4()}/credit-test-balance", json={"amount_usd": "1"}, headers=operator
    )
    refused(missing, 404, "not_found")
    earnings = books.one("select public_id from account where kind = 'earnings'")
    other = client.post(f"/v1/admin/wallets/{earnings}/credit-test-balance", json={"amount_usd": "1"}, headers=operator)
    refused(other, 404, "not_found")
    books.assert_sound()


# ── reports ──


def demo_tenant(books: Books, demo: Demo) -> Tenant:
    """The demo's end user as the ledger knows it."""
    feature = books.one("select id from feature")
    accounts = [
        books.open_account(kind, demo.developer_id, label=label)
        for kind, label in (("earnings", ""), ("platform_revenue", ""), ("provider_cost", "mock"))
    ]
    return Tenant(demo.developer_id, demo.app_id, feature, demo.end_user_id, uuid4(), demo.wallet_id, *accounts)


def test_usage_of_an_app(client: httpx2.Client, books: Books, demo: Demo, operator: dict[str, str]) -> None:
    """Lost: the dashboard's rows and totals, for the demo without a token."""
    tenant = demo_tenant(books, demo)
    empty = client.get("/v1/apps/app_pub_demo/usage").json()
    assert (empty["total_calls"], empty["usage"]) == (0, [])
    first, second = books.held(tenant, E8), books.held(tenant, E8)
    assert books.settle(Settlement(tenant, first, cost=200, channel=24, platform=36)) == [0]
    assert books.settle(Settlement(tenant, second, channel=4, platform=6, payer=2)) == [0]
    body = client.get("/v1/apps/app_pub_demo/usage").json()
    rows = body.pop("usage")
    assert body == {
        "public_app_id": "app_pub_demo",
        "app_name": "CRM Demo",
        "total_calls": 2,
        "total_input_tokens": 10,
        "total_output_tokens": 14,
        "total_retail_price_usd": "0.00000270",
        "total_developer_revenue_usd": "0.00000028",
    }
    assert MOMENT.fullmatch(rows[0].pop("created_at"))
    assert rows[0] == {
        "request_id": f"req_{second.hex}",
        "feature_key": "customer_reply",
        "route_mode": "byok",
        "provider": "mock",
        "model": "mock-model",
        "input_tokens": 5,
        "output_tokens": 7,
        "retail_price_usd": "0.00000010",
        "channel_revenue_usd": "0.00000004",
    }
    assert (rows[1]["request_id"], rows[1]["route_mode"]) == (f"req_{first.hex}", "platform")
    assert client.get("/v1/apps/app_pub_demo/usage", headers=operator).json()["total_calls"] == 2


def test_usage_is_only_public_for_demos(
    client: httpx2.Client, books: Books, operator: dict[str, str], developer_admin: dict[str, str]
) -> None:
    """Lost: anybody reads how much any app sells; or an unknown app differs from a private one."""
    books.rows("update app set is_public_demo = false")
    path = "/v1/apps/app_pub_demo/usage"
    refused(client.get(path), 401, "invalid_session")
    refused(client.get(path, headers=bearer(mint(client))), 401, "invalid_session")
    refused(client.get("/v1/apps/nobody/usage"), 401, "invalid_session")
    assert client.get(path, headers=operator).status_code == 200
    assert client.get(path, headers=developer_admin).status_code == 200
    refused(client.get("/v1/apps/nobody/usage", headers=operator), 404, "invalid_app")


def test_usage_shows_the_last_hundred_and_nulls(client: httpx2.Client, books: Books, demo: Demo) -> None:
    """Lost: an answer of thousands of rows, or of rows that lack a field."""
    tenant = demo_tenant(books, demo)
    bare = Tenant(**(vars(tenant) | {"feature": None}))  # type: ignore[arg-type]
    for _ in range(102):
        assert books.settle(Settlement(bare, books.held(bare, 10), cost=1)) == [0]
    body = client.get("/v1/apps/app_pub_demo/usage").json()
    assert (body["total_calls"], len(body["usage"])) == (102, 100)
    assert body["usage"][0]["feature_key"] is None
    times = [row["created_at"] for row in body["usage"]]
    assert times == sorted(times, reverse=True)


def test_revenue_of_a_developer(
    client: httpx2.Client, books: Books, demo: Demo, operator: dict[str, str], developer_admin: dict[str, str]
) -> None:
    """Lost: a developer's balance that isn't what the ledger owes."""
    tenant = demo_tenant(books, demo)
    assert books.settle(Settlement(tenant, books.held(tenant, E8), cost=200, channel=24, platform=36)) == [0]
    assert books.settle(Settlement(tenant, books.held(tenant, E8), cost=100, channel=5, platform=6, payer=1)) == [0]
    clearing = books.open_account("payout_clearing", demo.developer_id)
    assert books.transfer(40, tenant.earnings, clearing, 29) == 0
    path = f"/v1/developers/{demo.developer_id}/revenue"
    expected = {
        "developer_id": str(demo.developer_id),
        "wallet_balance_usd": "0.00000100",
        "pending_payout_usd": "0.00000029",
        "lifetime_revenue_usd": "0.00000129",
    }
    assert client.get(path, headers=operator).json() == expected
    assert client.get(path, headers=developer_admin).json() == expected
    refused(client.get(path), 401, "invalid_session")
    refused(client.get(path, headers=bearer(mint(client))), 401, "invalid_session")
    refused(client.get(f"/v1/developers/{uuid4()}/revenue", headers=operator), 404, "not_found")


def test_the_ledger_s_reconciliation(client: httpx2.Client, books: Books, demo: Demo, operator: dict[str, str]) -> None:
    """Lost: a balance that was tampered with looks fine."""
    body = client.get("/v1/admin/reconciliation/ledger", headers=operator).json()
    assert MOMENT.fullmatch(body["generated_at"])
    assert body["summary"] == {"wallet_count": 2, "balanced_count": 2, "mismatch_count": 0}
    assert body["findings"] == []
    by_scope = {item["owner_scope"]: item for item in body["items"]}
    assert by_scope["end_user"]["owner_id"] == str(demo.end_user_id)
    assert by_scope["developer"]["owner_id"] == str(demo.developer_id)
    assert by_scope["end_user"]["wallet_balance_usd"] == by_scope["end_user"]["ledger_balance_usd"] == "10.00000000"

    books.rows("update account set posted_e8 = posted_e8 - 7 where id = %s", demo.wallet_id)
    body = client.get("/v1/admin/reconciliation/ledger", headers=operator).json()
    assert body["summary"] == {"wallet_count": 2, "balanced_count": 1, "mismatch_count": 1}
    first = body["items"][0]
    assert (first["owner_id"], first["status"]) == (str(demo.end_user_id), "mismatch")
    assert first["delta_usd"] == "-0.00000007"
    assert {finding["check"] for finding in body["findings"]} == {"account_balance", "trial_balance"}
    assert {item["status"] for item in body["items"][1:]} == {"balanced"}
    books.rows("update account set posted_e8 = posted_e8 + 7 where id = %s", demo.wallet_id)


# ── the demo's data ──


def test_seeding_at_once_and_again_changes_nothing(config: Config, dsn: str, books: Books) -> None:
    """Lost: two processes that start together give the demo's user twice its credits, or fail."""
    demos = asyncio.run(_seed(config, dsn, times=6))
    assert len(set(demos)) == 1
    assert books.posted(demos[0].wallet_id) == 10 * E8
    for table in ("developer", "app", "feature", "end_user", "transfer"):
        assert books.one(f"select count(*) from {table}") == 1
    books.rows("update app set name = 'Mine'")
    assert asyncio.run(_seed(config, dsn)) == [demos[0]]
    assert books.one("select name from app") == "Mine"
    books.assert_sound()


def test_demo_data_and_test_credit_are_for_development(production: Config, dsn: str, books: Books) -> None:
    """Lost: free money in production."""
    with pytest.raises(Refusal, match="never made in production"):
        asyncio.run(_seed(production, dsn))
    assert books.one("select count(*) from developer") == 0
    tenant = books.tenant(5)
    wallet = books.one("select public_id from account where id = %s", tenant.wallet)
    headers = {"authorization": f"Bearer {production.admin_token.reveal()}"}
    with serve(production, dsn) as base_url, httpx2.Client(base_url=base_url) as client:
        path = f"/v1/admin/wallets/{wallet}/credit-test-balance"
        refused(client.post(path, json={"amount_usd": "1"}, headers=headers), 403, "forbidden")
    assert books.posted(tenant.wallet) == 5


@pytest.fixture
def production(tmp_path: Any) -> Config:
    """Settings that production accepts."""
    return load_config(
        {
            "MODELFAUCET_ENV": "production",
            "FAUCET_DATA": str(tmp_path / "data"),
            "SECRET_ENCRYPTION_KEY": "Vq0mYc5Jr9TzN1hXo7GuKw3BsL8fDePa2Qi4",
            "ADMIN_TOKEN": "aG7kPz2WmX9rLt4QyB6nVc1JsH8dFe3Uo5Ti",
            "DEVELOPER_ADMIN_TOKEN": "hR3wNb8KvC5yMf1ZpS7gXj2LtQ9eDa6Uo4Ir",
            "API_CORS_ORIGINS": "https://app.example",
            "GATEWAY_CORS_ORIGINS": "https://app.example",
        }
    )


# ── the document ──


def test_the_document_is_the_one_that_is_kept_and_has_no_framework_s_errors() -> None:
    """Lost: generated clients that lack a route or believe in a 422."""
    document = openapi_document()
    assert document["openapi"].startswith("3.1")
    assert document == json.loads((Path(__file__).parents[2] / "openapi.json").read_text())
    assert "422" not in str(document)
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert document["components"]["schemas"]["SessionAsk"]["additionalProperties"] is False
