"""What bridges report of models on end users' own machines, over HTTP."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest
from books import Books
from keyed_world import KEYS, client, config, demo, me, operator, provider, session

__all__ = ["client", "config", "demo", "me", "operator", "provider"]

PATH = "/v1/local/usage-reports"


def report(**fields: Any) -> dict[str, Any]:
    return {
        "request_id": f"req_{uuid4().hex}", "provider": "ollama", "model": "qwen2.5:7b", "input_tokens": 31,
        "output_tokens": 12, "duration_ms": 900, "created_at": "2026-02-03T04:05:06Z",
    } | fields  # fmt: skip


def test_reports_are_noted_once_and_cost_nothing(
    client: httpx2.Client, me: dict[str, str], db: psycopg.Connection[Any]
) -> None:
    """Lost: an outbox that sends again counts twice, or an end user pays for their own machine."""
    before = client.get("/v1/user/wallet", headers=me).json()
    reports = [report(feature_key="customer_reply"), report(route_mode="local"), report(feature_key="gone")]
    reply = client.post(PATH, headers=me, json={"reports": reports})
    assert reply.status_code == 200, reply.text
    assert [one["status"] for one in reply.json()["items"]] == ["noted", "noted", "feature_not_found"]
    changed = reports[1] | {"output_tokens": 13}
    again = client.post(PATH, headers=me, json={"reports": [reports[0], changed, report()]}).json()["items"]
    assert [one["status"] for one in again] == ["known", "conflict", "noted"]
    own = client.get("/v1/user/usage", headers=me).json()["items"]
    assert {(one["route_mode"], one["usage_source"], one["price_usd"]) for one in own} == {
        ("local", "self_reported", "0.00000000")
    }
    assert sorted(one["request_id"] for one in own)[:1] and len(own) == 3
    named = next(one for one in own if one["request_id"] == reports[0]["request_id"])
    assert (named["feature_key"], named["input_tokens"], named["output_tokens"]) == ("customer_reply", 31, 12)
    assert client.get("/v1/user/wallet", headers=me).json() == before
    Books(db).assert_sound()


def test_reports_are_of_who_sends_them(client: httpx2.Client, me: dict[str, str]) -> None:
    """Lost: one end user writes into another's usage, or learns of their ids."""
    other = session(client, "somebody else")
    mine = report()
    for headers in (me, other):
        items = client.post(PATH, headers=headers, json={"reports": [mine]}).json()["items"]
        assert items == [{"request_id": mine["request_id"], "status": "noted"}]
    assert len(client.get("/v1/user/usage", headers=other).json()["items"]) == 1
    assert client.post(PATH, json={"reports": [mine]}).status_code == 401


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        ({"input_tokens": -1}, "reports[0].input_tokens"),
        ({"output_tokens": 2**31}, "reports[0].output_tokens"),
        ({"provider": "No Such"}, "reports[0].provider"),
        ({"model": "with blank"}, "reports[0].model"),
        ({"request_id": ""}, "reports[0].request_id"),
        ({"route_mode": "platform"}, "reports[0].route_mode"),
        ({"created_at": "yesterday"}, "reports[0].created_at"),
        ({"price_usd": "1.00"}, "reports[0].price_usd"),
    ],
)
def test_bad_reports_name_their_field(
    client: httpx2.Client, me: dict[str, str], broken: dict[str, Any], field: str
) -> None:
    """Lost: a bridge that can't find out what is wrong with its report, or one that names a price."""
    reply = client.post(PATH, headers=me, json={"reports": [report(**broken)]})
    assert reply.status_code == 400
    fields = reply.json()["error"]["details"]["fieldErrors"]
    assert len(fields) == 1 and next(iter(fields)).replace("[", ".").replace("]", "") == field.replace(
        "[", "."
    ).replace("]", "")


def test_there_is_a_most_of_reports(client: httpx2.Client, me: dict[str, str]) -> None:
    """Lost: one request keeps the database busy for minutes."""
    assert client.post(PATH, headers=me, json={"reports": [report() for _ in range(100)]}).status_code == 200
    for reports in ([], [report() for _ in range(101)]):
        assert client.post(PATH, headers=me, json={"reports": reports}).status_code == 400


def test_fees_are_told_before_use(client: httpx2.Client, me: dict[str, str], db: psycopg.Connection[Any]) -> None:
    """Lost: an end user learns of a fee by paying it."""
    assert client.get("/v1/user/wallet", headers=me).json()["fees"] == [
        {"feature_key": "customer_reply", "route_mode": "local", "fee_usd": "0.00000000"},
        {"feature_key": "customer_reply", "route_mode": "byok", "fee_usd": "0.00000000"},
    ]
    db.execute("""update feature set pricing = pricing || '{"explicit_gateway_fee_usd": "0.002"}'""")
    db.commit()
    fees = client.get("/v1/user/wallet", headers=me).json()["fees"]
    assert [(one["route_mode"], one["fee_usd"]) for one in fees] == [("local", "0.00000000"), ("byok", "0.00200000")]


def test_modes_are_what_keys_allow(client: httpx2.Client, me: dict[str, str]) -> None:
    """Lost: a client offers a route that isn't there, or not the one that is."""
    ask = {"public_app_id": "app_pub_demo", "external_user_id": "crm-demo-user"}
    assert client.post("/v1/sessions", json=ask).json()["available_modes"] == ["local", "platform"]
    key = {"provider": "openai", "api_key": "sk-good-key-0123456789", "validate": False}
    made = client.post(KEYS, headers=me, json=key)
    assert made.status_code == 201, made.text
    assert made.json()["status"] == "active"
    minted = client.post("/v1/sessions", json=ask).json()
    assert minted["available_modes"] == ["local", "byok", "platform"]
    assert len(minted) == 5
    neighbour = client.post("/v1/sessions", json=ask | {"external_user_id": "other"}).json()
    assert neighbour["available_modes"] == ["local", "platform"]
