"""Planted keys are looked for wherever they must not be: replies, logs, every column of every table."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest
from fakes.keyed_provider import KeyedProvider
from gateway_world import Gateway, Mock, World, ask, chat, request, wait_for
from keyed_world import DEVELOPER_KEYS, KEYS, client, config, demo, me, operator, provider
from keys_world import SETTINGS, KeysWorld

__all__ = ["client", "config", "demo", "me", "operator", "provider"]


def dump(db: psycopg.Connection[Any]) -> str:
    """Every row of every table, as text; bytes in hexadecimal."""
    tables = db.execute(
        "select format('%I.%I', schemaname, tablename) from pg_tables"
        " where schemaname not in ('pg_catalog', 'information_schema')"
    ).fetchall()
    assert len(tables) > 20
    text = []
    for (table,) in tables:
        text += [row[0] for row in db.execute(f"select t::text from {table} t".encode())]
    return "\n".join(text)


def spellings(secret: str) -> set[str]:
    """The ways in which a secret may be written: plain, in hexadecimal, in base64 at each of its three offsets."""
    raw = secret.encode()
    shifted = {base64.b64encode(b"\0" * n + raw).decode()[4:-4] for n in range(3)}
    return {secret, secret[8:], raw.hex(), raw.hex().upper(), *shifted}


def found(canaries: list[str], text: str) -> list[str]:
    """The canaries that a text has in any spelling."""
    return [canary for canary in canaries if any(each in text for each in spellings(canary))]


class Planted:
    """Keys that were sent, and everything that came back."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client = client
        self.canaries: list[str] = []
        self.came_back: list[str] = []
        self.statuses: list[int] = []

    def key(self, word: str) -> str:
        """A new canary that the provider treats as this word says."""
        self.canaries.append(f"sk-{word}-canary{uuid4().hex}")
        return self.canaries[-1]

    def send(self, method: str, path: str, headers: dict[str, str], body: Any = None) -> httpx2.Response:
        """Send something and keep what comes back."""
        response = self.client.request(method, path, headers=headers, json=body)
        self.came_back.append(f"{response.headers}\n{response.text}")
        self.statuses.append(response.status_code)
        return response


def plant(planted: Planted, headers: dict[str, str], operator: dict[str, str], base_url: str) -> None:
    """Send keys in every way that there is, welcome and not."""
    for word in ("good", "wrong", "barred", "limited", "broken", "moved", "google", "silent"):
        ask = {"provider": "openai_compatible", "api_key": planted.key(word), "base_url": base_url}
        kept = headers | {"idempotency-key": f"canary-{word}"}
        for _ in range(2):
            planted.send("POST", KEYS, kept, ask)
        planted.send("POST", KEYS, kept, ask | {"api_key": planted.key(word)})
        planted.send("POST", DEVELOPER_KEYS, operator, ask | {"public_app_id": "app_pub_demo"})
    row_id = planted.send("GET", KEYS, headers).json()["items"][0]["id"]
    for word in ("good", "broken", "wrong"):
        planted.send("POST", f"{KEYS}/{row_id}/rotate", headers, {"api_key": planted.key(word)})
    for body in (
        {"provider": planted.key("good"), "api_key": planted.key("good")},
        {"provider": "openai", "api_key": [planted.key("good")]},
        {"provider": "openai", "api_key": planted.key("good") + " "},
        {"provider": "openai", "api_key": planted.key("good"), planted.key("field"): 1},
        {"provider": "openai", "api_key": planted.key("good") * 200},
        {"provider": "openai", "api_key": planted.key("good"), "base_url": "https://127.0.0.1/v1"},
        [planted.key("good")],
        planted.key("good"),
    ):
        planted.send("POST", KEYS, headers, body)
    planted.send("PATCH", f"{KEYS}/{row_id}", headers, {"api_key": planted.key("good")})
    planted.send("POST", KEYS, {}, {"provider": "openai", "api_key": planted.key("good")})
    planted.send("DELETE", f"{KEYS}/{row_id}", headers)
    planted.send("GET", KEYS, headers)
    planted.send("GET", DEVELOPER_KEYS, operator)


def test_planted_keys_are_nowhere(
    client: httpx2.Client,
    me: dict[str, str],
    operator: dict[str, str],
    provider: KeyedProvider,
    db: psycopg.Connection[Any],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Lost: one log line, error or column is enough to lose everybody's keys, and nobody would look there."""
    planted = Planted(client)
    plant(planted, me, operator, provider.base_url)
    assert {200, 201, 400, 401, 409} == set(planted.statuses)
    assert len(provider.seen) > 20 and found(planted.canaries, str(provider.seen))  # so the search can find
    # Fields' own names are shown back, whatever a caller writes there; nothing else is.
    planted.canaries = [canary for canary in planted.canaries if not canary.startswith("sk-field")]
    assert found(planted.canaries, "\n".join(planted.came_back)) == []
    stored = dump(db)
    assert "provider_key.created" in stored and stored.count("sk-...") > 5
    assert found(planted.canaries, stored) == []
    logged = capfd.readouterr()
    assert found(planted.canaries, logged.out + logged.err) == []


def test_keys_in_use_are_nowhere(world: World, mock: Mock, tmp_path: Path) -> None:
    """Lost: a key that serves requests turns up in a reply, an error, a log or a row, where its owner never put it."""
    keys = KeysWorld(world)
    canaries = []
    came_back: list[str] = []
    gateway = Gateway(world.dsn, mock.url, tmp_path, LOG_LEVEL="debug", **SETTINGS)
    try:
        for word in ("good", "wrong", "barred", "limited", "broken", "own\u00e9"):
            app = keys.app(routes="byok_first")
            user = keys.end_user(app)
            for owner in (user, app, None):
                canaries.append(f"sk-{word}-canary{uuid4().hex}")
                kept = keys.key(owner, secret=canaries[-1], models=("mock-small", "canary-model"), lets_go=True)
                for body in (chat(), chat(stream=True), chat(model="canary-model"), chat(mock={"tokens": "x"})):
                    reply = ask(gateway, user.bearer, body)
                    came_back.append(f"{reply.headers}{reply.body!r}")
                if owner is None:
                    keys.forget(kept)
        for path in ("/metrics", "/health/providers", "/ready"):
            came_back.append(str(request(gateway, "GET", path).body))
        used = "select sum(use_count) from credential"
        wait_for(lambda: (world.books.one(used) or 0) > 0)
    finally:
        gateway.stop()
    seen = json.dumps(mock.last())
    assert len(came_back) > 60
    for text in ("\n".join(came_back), gateway.log.read_text(), dump(world.connection), seen):
        assert found(canaries, text) == []
    assert "provider.failed" in gateway.log.read_text()
