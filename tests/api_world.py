"""The control API for tests, as its callers have it: the operator, developers with tokens, and what they make."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx2
from books import E8, Books, Tenant
from conftest import RunningApi
from documented import documented

from faucet.tenants.tokens import SCOPES

Json = dict[str, Any]
POLICY = {"route_preference": ["platform_pool"], "model_policy": "cheapest_sufficient"}
PRICING = {"mode": "usage_markup", "markup_percent": 30, "channel_share_bps": 4000}
_numbers = itertools.count(1)


def ok(response: httpx2.Response, status: int = 200) -> Any:
    """The body of a response that must have this status."""
    assert response.status_code == status, response.text
    return response.json() if response.content else None


def refused(response: httpx2.Response, status: int, code: str) -> Json:
    """The error of a response that must be the envelope with this status and code."""
    assert response.status_code == status, response.text
    error: Json = response.json()["error"]
    assert error["code"] == code and error["message"], error
    assert error["request_id"] == response.headers["x-request-id"]
    return error


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@dataclass(frozen=True)
class Developer:
    """A developer with a client that shows their token."""

    id: str
    token: str
    http: httpx2.Client

    def app(self, **settings: Any) -> Json:
        """A new app of theirs."""
        name = f"app_{next(_numbers)}"
        app: Json = ok(
            self.http.post("/v1/developer/apps", json={"public_app_id": name, "name": "App"} | settings), 201
        )
        return app

    def feature(self, app: Json, **fields: Any) -> Json:
        """A new feature of an app of theirs."""
        ask = {"feature_key": f"f{next(_numbers)}", "display_name": "F", "policy": POLICY, "pricing": PRICING}
        path = f"/v1/developer/apps/{app['public_app_id']}/features"
        feature: Json = ok(self.http.post(path, json=ask | fields), 201)
        return feature


def tenant_of(books: Books, app: Json, feature: Json | None = None) -> Tenant:
    """An end user of an app with money, as the ledger knows them."""
    app_id, developer_id = (
        books.row("select id, developer_id from app where public_app_id = %s", app["public_app_id"]) or ()
    )
    feature_id = books.one("select id from feature where id = %s", feature["id"]) if feature else None
    accounts = [
        books.open_account(kind, developer_id, label=label)
        for kind, label in (("earnings", ""), ("platform_revenue", ""), ("provider_cost", "mock"))
    ]
    nobody = Tenant(developer_id, app_id, feature_id, uuid4(), uuid4(), 0, *accounts)
    return books.end_user(nobody, 100 * E8)


class ApiWorld:
    """A running API with its operator."""

    def __init__(self, api: RunningApi) -> None:
        self.api = api
        self._clients: list[httpx2.Client] = []
        self.operator = self.client(api.config.admin_token.reveal())
        self.developer_admin = self.client(api.config.developer_admin_token.reveal())
        self.nobody = self.client(None)

    def client(self, token: str | None) -> httpx2.Client:
        """A client that shows this token."""
        headers = {} if token is None else bearer(token)
        client = httpx2.Client(
            base_url=self.api.base_url, headers=headers, timeout=30, event_hooks={"response": [documented]}
        )
        self._clients.append(client)
        return client

    def developer(self, scopes: tuple[str, ...] = SCOPES) -> Developer:
        """A new developer, with a token of these scopes."""
        number = next(_numbers)
        made = ok(
            self.operator.post("/v1/developers", json={"name": f"D{number}", "email": f"d{number}@x.example"}), 201
        )
        ask = {"developer_id": made["id"], "name": "T", "scopes": list(scopes)}
        token = ok(self.operator.post("/v1/developer/tokens", json=ask), 201)["token"]
        return Developer(made["id"], token, self.client(token))

    def close(self) -> None:
        for client in self._clients:
            client.close()
