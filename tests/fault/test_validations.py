"""Trying a stored key again: the control API asks, a gateway opens the key and answers, or nobody does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest
from books import Books
from fakes.keyed_provider import NAMES, PUBLIC, KeyedProvider, Rerouted
from gateway_world import Gateway, add_prices, mock
from keyed_world import KEYS, client, config, demo, me, operator, provider

from faucet.api import end_user_keys
from faucet.gateway.validations import ASKED, Validations
from faucet.kit.clock import Clock
from faucet.kit.config import Config
from faucet.kit.db import open_pool
from faucet.providers.probe import Prober

__all__ = ["client", "config", "demo", "me", "mock", "operator", "provider"]

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def answering(dsn: str, config: Config) -> AsyncIterator[None]:
    """The part of a gateway that tries keys, asking through the rerouted pool."""
    validations = Validations(config, Clock(), Prober(Rerouted()))
    pool = await open_pool(dsn, "faucet_gateway", size=2)
    listening = await asyncpg.connect(dsn)
    await listening.add_listener(ASKED, validations.wake)
    running = asyncio.create_task(validations.run(pool))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await listening.close()
        await pool.close()


Send = Callable[..., Awaitable[httpx2.Response]]


@pytest.fixture
def send(client: httpx2.Client, me: dict[str, str]) -> Send:
    """Ask the API as the demo's end user, while the loop goes on."""

    async def send(method: str, path: str, body: Any = None) -> httpx2.Response:
        return await asyncio.to_thread(client.request, method, KEYS + path, headers=me, json=body)

    return send


async def add(send: Send, provider: KeyedProvider, word: str, **ask: Any) -> dict[str, Any]:
    """A key that the provider treats as this word says, not tried yet."""
    body = {
        "provider": "openai_compatible",
        "api_key": f"sk-{word}-0123456789",
        "base_url": provider.base_url,
        "validate": False,
    }
    response = await send("POST", "", body | ask)
    assert response.status_code == 201, response.text
    reply: dict[str, Any] = response.json()
    return reply


async def test_a_stored_key_is_tried(
    send: Send, provider: KeyedProvider, dsn: str, config: Config, books: Books
) -> None:
    """Lost: nobody can find out whether a key that was kept last month still works."""
    good, wrong, broken = [await add(send, provider, word) for word in ("good", "wrong", "broken")]
    async with answering(dsn, config):
        tried = await send("POST", f"/{good['id']}/validate")
        assert tried.status_code == 200 and set(tried.json()) - set(good) == {"last_validated_at"}
        refused = await send("POST", f"/{wrong['id']}/validate")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "secret_validation_failed")
        unknown = await send("POST", f"/{broken['id']}/validate")
        assert unknown.status_code == 200 and unknown.json() == broken
        provider.answers["good"] = 401
        again = await send("POST", f"/{good['id']}/validate")
        assert again.json()["error"]["code"] == "secret_validation_failed"
    listed = (await send("GET", "")).json()["items"]
    assert listed == [broken, wrong, tried.json()], "a refusal must not disable a key, nor forget when it last worked"
    assert books.one("select count(*) from credential where validation_asked_at is not null") == 0
    assert [headers["authorization"] for _, headers in provider.seen] == [
        f"Bearer sk-{word}-0123456789" for word in ("good", "wrong", "broken", "good")
    ]


async def test_many_are_tried_by_many_gateways_once_each(
    send: Send, provider: KeyedProvider, dsn: str, config: Config
) -> None:
    """Lost: every gateway tries every key, and the provider blocks them all."""
    keys = [await add(send, provider, "good") for _ in range(6)]
    async with answering(dsn, config), answering(dsn, config):
        tried = await asyncio.gather(*(send("POST", f"/{key['id']}/validate") for key in keys))
    assert [reply.status_code for reply in tried] == [200] * 6
    assert all("last_validated_at" in reply.json() for reply in tried)
    assert len(provider.seen) == 6


async def test_a_key_that_does_not_open_is_no_fault_of_its_owner(
    send: Send, provider: KeyedProvider, dsn: str, config: Config, books: Books
) -> None:
    """Lost: a row that was tampered with is sent somewhere, or answers 500."""
    key = await add(send, provider, "good")
    books.rows("update credential set base_url = base_url || '/elsewhere'")
    async with answering(dsn, config):
        tried = await send("POST", f"/{key['id']}/validate")
        assert tried.status_code == 200 and "last_validated_at" not in tried.json()
        books.rows("update credential set base_url = %s", f"http://inside.example.com:{provider.port}/v1")
        assert "last_validated_at" not in (await send("POST", f"/{key['id']}/validate")).json()
        books.rows("update credential set base_url = 'http://127.0.0.1/v1'")
        stored = await send("POST", f"/{key['id']}/validate")
        assert (stored.status_code, stored.json()["error"]["code"]) == (400, "no_available_route")
    assert provider.seen == []


async def test_a_name_that_turned_bad_is_refused(
    send: Send, provider: KeyedProvider, dsn: str, config: Config, books: Books
) -> None:
    """Lost: a name that was good when it was stored leads a key inside when it is tried."""
    NAMES["turning.example.com"] = [PUBLIC]
    key = await add(send, provider, "good", base_url=f"http://turning.example.com:{provider.port}/v1")
    NAMES["turning.example.com"] = ["192.168.0.1"]
    async with answering(dsn, config):
        tried = await send("POST", f"/{key['id']}/validate")
    assert (tried.status_code, tried.json()["error"]["code"]) == (400, "no_available_route")
    assert provider.seen == []


async def test_without_a_gateway_nothing_changes(send: Send, provider: KeyedProvider) -> None:
    """Lost: an end user waits for ever, or is told that a good key is bad, because no gateway runs."""
    key = await add(send, provider, "good")
    began = time.monotonic()
    tried = await send("POST", f"/{key['id']}/validate")
    assert tried.status_code == 200 and tried.json() == key
    assert end_user_keys.ANSWER_SECONDS <= time.monotonic() - began < end_user_keys.ANSWER_SECONDS + 5


async def test_a_gateway_process_answers(
    send: Send, provider: KeyedProvider, dsn: str, config: Config, books: Books, mock: Any, tmp_path: Path
) -> None:
    """Lost: the part that answers is in no gateway that really runs, or can't open what the API sealed."""
    add_prices(dsn)
    key = await add(send, provider, "good", base_url=f"http://nobody.invalid:{provider.port}/v1")
    gateway = Gateway(
        dsn,
        mock.url,
        tmp_path,
        data_dir=config.faucet_data,
        TENANT_UPSTREAM_PORTS=provider.port,
        TENANT_UPSTREAM_HTTP="true",
    )
    try:
        tried = await send("POST", f"/{key['id']}/validate")
        assert tried.status_code == 200 and tried.json() == key
        assert books.row("select validation_asked_at, validation_answer from credential") == (None, "unknown")
        assert "unopenable" not in gateway.log.read_text()
    finally:
        gateway.stop()
