"""Whether time tells another tenant's id from one that doesn't exist.

    python -m tests.timing [--tries 10000]

A developer, or an end user, asks over HTTP for things of another and for things that nobody has, in random order. For
each route the two sets of times are compared: their medians, and the Mann-Whitney test's z (how far apart their ranks
are, in standard deviations). A difference that could be told apart in so many tries is reported, and fails.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).parent))

from conftest import serve

from faucet.kit.config import load_config
from faucet.kit.embedded_postgres import EmbeddedPostgres
from faucet.kit.migrate import migrate
from faucet.stack.keys import ensure_vault_key
from faucet.tenants.tokens import SCOPES

SURE = 4.0
"""|z| from here on is no chance (1 in 16,000 by accident), if the medians differ by more than `NOTICEABLE` too."""
NOTICEABLE = 0.03
Answer = tuple[int, dict[str, Any]]


class Caller:
    """One connection to the API, with a bearer."""

    def __init__(self, base_url: str, bearer: str) -> None:
        parts = urlsplit(base_url)
        self._line = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        self._headers = {"authorization": f"Bearer {bearer}", "content-type": "application/json"}

    def __call__(self, method: str, path: str, body: object = None) -> Answer:
        self._line.request(method, path, None if body is None else json.dumps(body), self._headers)
        response = self._line.getresponse()
        return response.status, json.loads(response.read() or b"{}")

    def made(self, path: str, body: object) -> dict[str, Any]:
        """What a POST made. Raises AssertionError where it was refused."""
        status, reply = self("POST", path, body)
        assert status in (200, 201), reply
        return reply


def z_of(one: Sequence[float], other: Sequence[float]) -> float:
    """The Mann-Whitney test's z, by its normal approximation; ties are few in times."""
    ranked = sorted([(value, 0) for value in one] + [(value, 1) for value in other])
    ranks = sum(rank for rank, (_, whose) in enumerate(ranked, 1) if whose == 0)
    n, m = len(one), len(other)
    u = ranks - n * (n + 1) / 2
    return float((u - n * m / 2) / (n * m * (n + m + 1) / 12) ** 0.5)


def compare(caller: Caller, method: str, theirs: str, nobodys: str, tries: int) -> tuple[float, float, float]:
    """The median times in ms for another's and for nobody's, and z. Raises AssertionError where answers differ."""
    times: dict[str, list[float]] = {theirs: [], nobodys: []}
    order = [theirs, nobodys] * (tries // 2)
    random.shuffle(order)
    bodies = set()
    for number, path in enumerate([*[theirs, nobodys] * 50, *order]):
        began = time.perf_counter()
        status, reply = caller(method, path)
        took = time.perf_counter() - began
        assert status == 404, reply
        bodies.add((reply["error"]["code"], reply["error"]["message"]))
        if number >= 100:
            times[path].append(took * 1000)
    assert len(bodies) == 1, f"the answers differ: {bodies}"
    return statistics.median(times[theirs]), statistics.median(times[nobodys]), z_of(times[theirs], times[nobodys])


def measure(base_url: str, operator: Caller, tries: int) -> int:
    """Compare each route; how many of them tell."""
    telling = 0
    print(f"{'route':45} {'tries':>6} {'theirs ms':>10} {'nobody ms':>10} {'apart':>7} {'z':>6}")
    for caller, name, theirs, nobodys in _routes(base_url, operator):
        method = name.partition(" ")[0]
        one, other, z = compare(caller, method, theirs, nobodys, tries)
        apart = one / other - 1
        tells = abs(z) >= SURE and abs(apart) >= NOTICEABLE
        telling += tells
        verdict = "TELLS" if tells else "same"
        print(f"{name:45} {tries:>6} {one:>10.3f} {other:>10.3f} {apart:>+7.1%} {z:>+6.1f}  {verdict}", flush=True)
    return telling


def _routes(base_url: str, operator: Caller) -> list[tuple[Caller, str, str, str]]:
    """Who asks, a route, and its paths with another's id and with nobody's. Asking changes nothing: all are 404."""
    developers = [
        operator.made("/v1/developers", {"name": name, "email": f"{name}@example.com"})["id"]
        for name in ("alice", "bob")
    ]
    tokens = [
        operator.made("/v1/developer/tokens", {"developer_id": owner, "name": "timing", "scopes": [*SCOPES]})
        for owner in developers
    ]
    alice, bob = (Caller(base_url, token["token"]) for token in tokens)
    apps = "/v1/developer/apps"
    alice.made(apps, {"public_app_id": "app_of_alice", "name": "Alice's"})
    bob.made(apps, {"public_app_id": "app_of_bob", "name": "Bob's"})
    key = {"provider": "openai", "api_key": "timing-key-of-alice", "validate": False}
    developer_key = alice.made("/v1/developer/provider-keys", key | {"public_app_id": "app_of_alice"})["id"]
    ann, ben = (
        Caller(
            base_url, operator.made("/v1/sessions", {"public_app_id": app, "external_user_id": "x"})["session_token"]
        )
        for app in ("app_of_alice", "app_of_bob")
    )
    own_key = ann.made("/v1/user/provider-keys", key)["id"]
    endpoint = {"name": "laptop", "kind": "ollama", "base_url": "http://127.0.0.1:11434/v1"}
    local = ann.made("/v1/local/endpoints", endpoint)["id"]
    session = alice("GET", f"{apps}/app_of_alice/sessions")[1]["items"][0]["id"]
    of_apps = [
        (bob, f"{name}", path.format("app_of_alice"), path.format("app_of_nobdy"))
        for name, path in (
            ("GET /v1/developer/apps/{id}", apps + "/{}"),
            ("GET /v1/developer/apps/{id}/features", apps + "/{}/features"),
            ("GET /v1/developer/apps/{id}/sessions", apps + "/{}/sessions"),
            ("GET /v1/developer/apps/{id}/signing-keys", apps + "/{}/signing-keys"),
            ("GET /v1/apps/{id}/usage", "/v1/apps/{}/usage"),
            ("GET /v1/developer/usage?public_app_id={id}", "/v1/developer/usage?public_app_id={}"),
        )
    ]
    of_rows = [
        (caller, name, path.format(theirs), path.format(uuid4()))
        for caller, name, path, theirs in (
            (bob, "GET /v1/developers/{id}/revenue", "/v1/developers/{}/revenue", developers[0]),
            (bob, "DELETE /v1/developer/tokens/{id}", "/v1/developer/tokens/{}", tokens[0]["item"]["id"]),
            (bob, "DELETE /v1/developer/provider-keys/{id}", "/v1/developer/provider-keys/{}", developer_key),
            (bob, "DELETE /v1/developer/apps/…/sessions/{id}", apps + "/app_of_bob/sessions/{}", session),
            (ben, "DELETE /v1/user/provider-keys/{id}", "/v1/user/provider-keys/{}", own_key),
            (ben, "DELETE /v1/local/endpoints/{id}", "/v1/local/endpoints/{}", local),
        )
    ]
    return of_apps + of_rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=10_000, help="requests for each route (10000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faucet-timing-") as name:
        os.chmod(name, 0o755)
        with EmbeddedPostgres(Path(name) / "db") as running:
            migrate(running.dsn)
            settings = {"FAUCET_DATA": f"{name}/data", "API_RATE_LIMIT_MAX_REQUESTS": "0"}
            config = load_config(settings)
            asyncio.run(ensure_vault_key(running.dsn, config))
            with serve(config, running.dsn) as base_url:
                return measure(base_url, Caller(base_url, config.admin_token.reveal()), options.tries)


if __name__ == "__main__":
    sys.exit(main())
