"""Every route of the document, asked by developer B with the ids of developer A: B gets nothing and changes nothing.

The routes are those of the document, so one that is added later is swept without being named here; one that has a
parameter of a new name fails until the sweep knows what to put there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from api_world import ApiWorld, Developer, Json, ok, tenant_of
from books import E8, Books, Settlement, Tenant
from conftest import RunningApi
from past import as_jobs, close_all, date_back, months_ago

from faucet.api.app import openapi_document
from faucet.jobs.roll_up import roll_up
from faucet.kit.ids import uuid7

MINE = (
    "developer", "app", "feature", "feature_version", "end_user", "session", "account", "hold", "hold_resolution",
    "usage_event", "developer_token", "audit_log", "credential", "app_signing_key", "end_user_token_seen",
    "local_endpoint", "top_up", "top_up_reversal", "top_up_refund", "payment_customer", "auto_top_up", "payout",
    "payout_account", "usage_hour", "period_sum", "statement", "webhook_endpoint", "webhook_event", "webhook_delivery",
    "promo_redemption",
)  # fmt: skip
SAFE = {
    "/health", "/ready", "/metrics", "/v1/sessions", "/v1/stripe/webhook",
    "/.well-known/modelfaucet/statement-keys.json",
}  # fmt: skip
"""Routes without a tenant: whoever knows an app may mint sessions of it, Stripe signs what it says."""
_UUIDS = (
    "developer_id", "token_id", "wallet_id", "key_id", "topup_id", "payout_id", "promo_id", "webhook_id", "event_id",
    "session_id",
)  # fmt: skip
LAST = str(months_ago(1))
INVOICE = {
    "provider": "mock",
    "reference": "swept",
    "first_day": "2026-01-01",
    "last_day": "2026-01-31",
    "lines": [],
}


@pytest.fixture
def world(api: RunningApi) -> Iterator[ApiWorld]:
    world = ApiWorld(api)
    yield world
    world.close()


def _operations() -> list[tuple[str, str, Json]]:
    paths = openapi_document()["paths"]
    return [(m.upper(), path, op) for path, item in paths.items() for m, op in item.items() if path not in SAFE]


def _body(operation: Json, document: Json, ids: dict[str, str]) -> Any:
    """A body that the route accepts, with A's ids in it; None where it takes none."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    return None if content is None else _value(content["schema"], document, ids, "")


def _value(schema: Json, document: Json, ids: dict[str, str], name: str) -> Any:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    if name in ids:
        return ids[name]
    if "anyOf" in schema:
        schema = next(option for option in schema["anyOf"] if option.get("type") != "null")
        return _value(schema, document, ids, name)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            wanted = {*schema.get("required", ()), *(set(ids) & set(schema.get("properties", {})))}
            return {key: _value(schema["properties"][key], document, ids, key) for key in sorted(wanted)}
        case "array":
            return [_value(schema["items"], document, ids, name)]
        case "integer":
            return 1
        case "boolean":
            return True
    if schema.get("pattern", "").startswith("^(0|"):
        return "1.00"
    if schema.get("format") == "date-time":
        return "2099-01-01T00:00:00Z"
    if "@" in schema.get("pattern", ""):
        return "swept@b.example"
    return "swept-value"


def _payout(books: Books, tenant: Tenant) -> str:
    """A payout of a developer's, and the account that it goes to."""
    books.rows(
        "insert into payout_account (developer_id, provider_account_id) values (%s, 'acct_of_a')", tenant.developer
    )
    return str(
        books.one(
            "insert into payout (id, developer_id, amount_e8, provider, requested_by)"
            " values (gen_random_uuid(), %s, 1000000, 'manual', 'operator') returning id",
            tenant.developer,
        )
    )


class Swept:
    """A's rows, with the ids that the wire knows them by."""

    def __init__(self, world: ApiWorld, books: Books) -> None:
        self.owner = world.developer()
        app = self.owner.app(public_app_id="the_app_of_a")
        feature = self.owner.feature(app, feature_key="the_feature_of_a")
        tenant = tenant_of(books, app, feature)
        assert books.settle(Settlement(tenant, books.held(tenant, E8), cost=100, channel=5)) == [0]
        path = f"/v1/developer/apps/{app['public_app_id']}/signing-keys"
        signing = ok(self.owner.http.post(path, json={"name": "K", "kind": "HS256"}), 201)
        session = {"public_app_id": app["public_app_id"], "external_user_id": "u"}
        bearer = ok(world.nobody.post("/v1/sessions", json=session))["session_token"]
        endpoint = {"name": "laptop of a", "kind": "ollama", "base_url": "http://127.0.0.1:11434/v1"}
        noted = world.client(bearer).post("/v1/local/endpoints", json=endpoint)
        promo = {"code": "SWEPT", "amount_usd": "1", "redemptions_max": 2, "public_app_id": app["public_app_id"]}
        promo_id = ok(world.operator.post("/v1/admin/promo-codes", json=promo), 201)["id"]
        ok(world.client(bearer).post("/v1/user/promo-codes/redeem", json={"code": "SWEPT"}), 201)
        hook = {"url": "https://hooks.a.example/"}
        webhook_id = ok(self.owner.http.post("/v1/developer/webhooks", json=hook), 201)["item"]["id"]
        event_id = ok(self.owner.http.post(f"/v1/developer/webhooks/{webhook_id}/ping"), 202)["id"]
        key = {"provider": "openai", "api_key": "sk-of-developer-a", "validate": False}
        self.ids = {
            "public_app_id": app["public_app_id"],
            "feature_key": feature["feature_key"],
            "developer_id": self.owner.id,
            "token_id": ok(self.owner.http.get("/v1/developer/tokens"))["items"][0]["id"],
            "signing_key_id": signing["item"]["key_id"],
            "wallet_id": str(books.one("select public_id from account where id = %s", tenant.wallet)),
            "key_id": ok(self.owner.http.post("/v1/developer/provider-keys", json=key), 201)["id"],
            "price_id": "1",
            "session_id": str(books.one("select id from session where developer_id = %s", self.owner.id)),
            "endpoint_id": ok(noted, 201)["id"],
            "period": LAST,
            "invoice_id": ok(world.operator.post("/v1/admin/provider-invoices", json=INVOICE), 201)["id"],
            "payout_id": _payout(books, tenant),
            "topup_id": str(self._top_up(books, tenant)),
            "promo_id": promo_id,
            "webhook_id": webhook_id,
            "event_id": event_id,
            "target": "app",
            "target_id": app["public_app_id"],
        }
        date_back(books, months_ago(1).starts_at)
        assert close_all(books.connection.info.dsn) == [months_ago(1)]
        assert as_jobs(books.connection.info.dsn, roll_up) > 0
        self.words = set(self.ids.values()) - {"1", "app", LAST} | {
            str(tenant.app),
            str(tenant.end_user),
            feature["id"],
        }
        """What of A's must be in no answer to B."""

    @staticmethod
    def _top_up(books: Books, tenant: Tenant) -> UUID:
        """A top-up of A's end user, with what went back of it."""
        top_up = uuid7()
        who = (tenant.developer, tenant.app, tenant.end_user, tenant.wallet)
        books.rows(
            "insert into top_up (id, developer_id, app_id, end_user_id, wallet_id, kind, amount_e8,"
            " checkout_session_id) values (%s, %s, %s, %s, %s, 'checkout', 1000000, 'cs_of_a')",
            top_up,
            *who,
        )
        books.rows(
            "insert into top_up_reversal (id, developer_id, top_up_id, wallet_id, kind, amount_e8, taken_e8,"
            " written_off_e8, state) values ('re_of_a', %s, %s, %s, 'refund', 1, 1, 0, 'gone')",
            tenant.developer,
            top_up,
            tenant.wallet,
        )
        return top_up

    def rows(self, books: Books) -> dict[str, list[tuple[Any, ...]]]:
        """All of A's rows."""
        column = {"developer": "id"}
        return {
            table: books.rows(
                f"select t::text from {table} t where {column.get(table, 'developer_id')} = %s order by 1",
                self.owner.id,
            )
            for table in MINE
        }


def _asked(path: str, ids: dict[str, str]) -> str:
    unknown = set(re.findall(r"{(\w+)}", path)) - set(ids)
    assert not unknown, f"the sweep doesn't know what to put for {unknown} in {path}"
    return path.format(**ids)


def test_another_developer_gets_and_changes_nothing(world: ApiWorld, books: Books) -> None:
    """Lost: the one thing that a platform for many must never lose."""
    swept, document = Swept(world, books), openapi_document()
    stranger = world.developer()
    before = swept.rows(books)
    assert all(
        before[table] for table in ("app", "feature_version", "usage_event", "developer_token", "session", "credential")
    )
    reached = 0
    for method, path, operation in _operations():
        asked = _asked(path, swept.ids)
        body = _body(operation, document, swept.ids) if method in ("POST", "PUT", "PATCH") else None
        for client in (stranger.http, world.nobody):
            reply = client.request(method, asked, json=body)
            told = f"{method} {asked} {body} → {reply.status_code} {reply.text}"
            assert reply.status_code < 500, told
            if "{" in path:
                assert reply.status_code in (401, 403, 404), told
            # A path and a body are repeated in a refusal; what the caller didn't say itself is not known to it.
            known = asked + str(body)
            assert not [word for word in swept.words if word in reply.text and word not in known], told
            reached += 1
    assert reached > 40
    assert swept.rows(books) == before


def test_another_s_id_looks_like_one_that_is_not_there(world: ApiWorld, books: Books) -> None:
    """Lost: a developer finds out which ids are taken by whom, one at a time."""
    swept, document = Swept(world, books), openapi_document()
    stranger = world.developer()
    missing = swept.ids | {
        "public_app_id": "none_such",
        "feature_key": "none_such",
        **dict.fromkeys(_UUIDS, "01890000-0000-7000-8000-000000000000"),
        "target_id": "none_such",
    }
    for method, path, operation in _operations():
        if "{" not in path:
            continue
        seen = []
        for ids in (swept.ids, missing):
            body = _body(operation, document, ids) if method in ("POST", "PUT", "PATCH") else None
            reply = stranger.http.request(method, _asked(path, ids), json=body)
            error = {k: v for k, v in reply.json()["error"].items() if k != "request_id"}
            seen.append((reply.status_code, error))
        assert seen[0] == seen[1], f"{method} {path}"


def test_lists_hold_only_one_s_own(world: ApiWorld, books: Books) -> None:
    """Lost: a list of everybody's, because a condition was forgotten."""
    swept = Swept(world, books)
    stranger: Developer = world.developer()
    mine = stranger.app()
    assert [a["public_app_id"] for a in ok(stranger.http.get("/v1/developer/apps"))["items"]] == [mine["public_app_id"]]
    for path in (
        "/v1/developer/tokens",
        "/v1/developer/operations",
        "/v1/developer/usage",
        "/v1/developer/provider-keys",
        "/v1/developer/payouts",
        "/v1/developer/webhooks",
        "/v1/developer/webhook-events",
    ):
        text = stranger.http.get(path).text
        assert not [word for word in swept.words if word in text], path
