"""What end users see of themselves over HTTP: their answers, the statement of their wallet, their local endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from books import E8, Books, Hold, Settlement, Tenant
from conftest import RunningApi
from documented import documented

from faucet.kit.config import Config
from faucet.kit.db import open_pool, tx
from faucet.tenants.demo import Demo, seed_demo
from faucet.tenants.tenancy import see_all

ENDPOINT = {"name": "my laptop", "kind": "ollama", "base_url": "http://127.0.0.1:11434/v1", "models": ["qwen2.5:7b"]}


async def _seed(config: Config, dsn: str) -> Demo:
    pool = await open_pool(dsn, "faucet_api", size=2)
    try:
        async with tx(pool) as t:
            await see_all(t)
            return await seed_demo(t, config)
    finally:
        await pool.close()


@pytest.fixture
def client(api: RunningApi, config: Config, dsn: str) -> Iterator[httpx2.Client]:
    """A client of a running API with the demo's data."""
    asyncio.run(_seed(config, dsn))
    with httpx2.Client(base_url=api.base_url, event_hooks={"response": [documented]}) as client:
        yield client


def session_of(client: httpx2.Client, user: str) -> dict[str, str]:
    """The headers of a new session."""
    response = client.post("/v1/sessions", json={"public_app_id": "app_pub_demo", "external_user_id": user})
    assert response.status_code == 200, response.text
    return {"authorization": f"Bearer {response.json()['session_token']}"}


def all_of(client: httpx2.Client, path: str, headers: dict[str, str], limit: int) -> list[dict[str, Any]]:
    """A whole list, page by page."""
    items: list[dict[str, Any]] = []
    cursor: str | None = None
    for _ in range(100):
        params: dict[str, Any] = {"limit": limit} | ({} if cursor is None else {"cursor": cursor})
        reply = client.get(path, headers=headers, params=params).json()
        items += reply["items"]
        cursor = reply.get("next_cursor")
        if cursor is None:
            return items
        assert len(reply["items"]) == limit
    raise AssertionError("the list does not end")


def served(books: Books, wallet_public_id: str, count: int) -> None:
    """Answers that this wallet paid for."""
    [row] = books.rows(
        "select a.developer_id, s.app_id, s.feature_id, a.owner_id, s.id, a.id from account a"
        " join session s on s.end_user_id = a.owner_id where a.public_id = %s limit 1",
        wallet_public_id,
    )
    kinds = (("earnings", ""), ("platform_revenue", ""), ("provider_cost", "mock"))
    accounts = [books.open_account(kind, row[0], label=label) for kind, label in kinds]
    tenant = Tenant(*row, *accounts)
    for _ in range(count):
        hold = Hold(tenant, 1_000)
        assert books.hold(hold)[0][0] == 0
        assert books.settle(Settlement(tenant, hold.id, cost=100, channel=10, platform=20)) == [0]


def test_a_persons_own_answers_and_movements_add_up(client: httpx2.Client, books: Books) -> None:
    """Someone would see others' answers, miss some of their own, or a statement that doesn't explain the balance."""
    mine, other = session_of(client, "crm-demo-user"), session_of(client, "somebody-else")
    wallet = client.get("/v1/user/wallet", headers=mine).json()
    served(books, wallet["id"], 7)
    answers = all_of(client, "/v1/user/usage", mine, 3)
    assert len(answers) == len({answer["request_id"] for answer in answers}) == 7
    assert [a["created_at"] for a in answers] == sorted((a["created_at"] for a in answers), reverse=True)
    lines = all_of(client, "/v1/user/statement", mine, 3)
    assert [line["kind"] for line in lines] == ["usage"] * 7 + ["grant"]
    balance = client.get("/v1/user/wallet", headers=mine).json()["balance_usd"]
    assert sum(Decimal(line["amount_usd"]) for line in lines) == Decimal(balance) < 10
    assert sum(Decimal(a["price_usd"]) for a in answers) == 10 - Decimal(balance)
    assert {line["request_id"] for line in lines if "request_id" in line} == {a["request_id"] for a in answers}
    assert all_of(client, "/v1/user/usage", other, 3) == []
    told = client.get("/v1/user/statement", headers=mine).json()
    assert told["balance_usd"] == balance and told["wallet_id"] == wallet["id"] and "next_cursor" not in told


def test_local_endpoints_are_noted_listed_and_forgotten_by_their_owner_alone(client: httpx2.Client) -> None:
    """Somebody would find, or delete, what runs on another's machine."""
    mine, other = session_of(client, "me"), session_of(client, "you")
    key = {"idempotency-key": "endpoint-0001"}
    made = client.post("/v1/local/endpoints", headers=mine | key, json=ENDPOINT)
    assert made.status_code == 201, made.text
    again = client.post("/v1/local/endpoints", headers=mine | key, json=ENDPOINT)
    assert again.json() == made.json() and again.headers["idempotent-replayed"] == "true"
    assert made.json().items() >= ENDPOINT.items()
    assert client.post("/v1/local/endpoints", headers=mine, json=ENDPOINT).json()["error"]["code"] == "conflict"
    assert client.get("/v1/local/endpoints", headers=mine).json() == {"items": [made.json()]}
    assert client.get("/v1/local/endpoints", headers=other).json() == {"items": []}
    path = f"/v1/local/endpoints/{made.json()['id']}"
    assert client.delete(path, headers=other).json()["error"]["code"] == "not_found"
    assert client.delete(path, headers=mine).status_code == 204
    assert client.delete(path, headers=mine).status_code == 404
    assert client.get("/v1/local/endpoints", headers=mine).json() == {"items": []}


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_url": "ftp://127.0.0.1/"},
        {"base_url": "http://me:secret@127.0.0.1:11434"},
        {"base_url": "http://127.0.0.1:11434/v1?key=secret"},
        {"base_url": "http://"},
        {"base_url": "http://[::1"},
        {"kind": "something"},
        {"name": ""},
        {"name": "a\u0000b"},
        {"models": ["a b"]},
        {"api_key": "sk-12345678"},
    ],
)
def test_a_local_endpoint_that_makes_no_sense_is_refused(client: httpx2.Client, wrong: dict[str, Any]) -> None:
    """A secret would be kept and shown again, or a bridge be sent nowhere."""
    response = client.post("/v1/local/endpoints", headers=session_of(client, "me"), json=ENDPOINT | wrong)
    assert response.status_code == 400, response.text
    [field] = response.json()["error"]["details"]["fieldErrors"]
    assert [field.partition(".")[0]] == list(wrong)


def test_there_is_an_end_to_local_endpoints(client: httpx2.Client) -> None:
    """Anybody with a session could fill the disk."""
    headers = session_of(client, "me")
    codes = [
        client.post("/v1/local/endpoints", headers=headers, json=ENDPOINT | {"name": f"machine {number}"}).status_code
        for number in range(51)
    ]
    assert codes == [201] * 50 + [409]
    assert len(all_of(client, "/v1/local/endpoints", headers, 20)) == 50


def test_a_statement_shows_what_was_booked_for_it(client: httpx2.Client, books: Books) -> None:
    """Refunds and adjustments would move a balance without a line."""
    headers = session_of(client, "me")
    wallet = client.get("/v1/user/wallet", headers=headers).json()
    account = books.one("select id from account where public_id = %s", wallet["id"])
    assert books.transfer(30, books.account("adjustments"), account, 3 * E8) == 0
    lines = all_of(client, "/v1/user/statement", headers, 50)
    assert [(line["kind"], line["amount_usd"]) for line in lines] == [("adjust_credit", "3.00000000")]
