"""GET /health/providers: whether each provider answers, asked at most every few seconds and told without secrets."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from faucet.gateway.exchange import Exchange
from faucet.gateway.world import World
from faucet.kit.upstream import Deadlines, UpstreamError
from faucet.providers.base import Provider

BELIEVED_SECONDS = 10.0
_DEADLINES = Deadlines(connect=2, first_byte=3, idle=3, total=5)


class ProviderHealth:
    """The last look at every provider."""

    def __init__(self) -> None:
        self._shown: list[dict[str, Any]] = []
        self._until = 0.0
        self._looking = asyncio.Lock()

    async def show(self, world: World, exchange: Exchange) -> None:
        """Answer with the last look, or take a new one."""
        async with self._looking:
            if time.monotonic() >= self._until:
                self._shown = await asyncio.gather(*(_look(world, provider) for provider in world.providers))
                self._until = time.monotonic() + BELIEVED_SECONDS
        ok = bool(self._shown) and all(each["ok"] for each in self._shown)
        await exchange.reply(200, json.dumps({"ok": ok, "providers": self._shown}).encode())


async def _look(world: World, provider: Provider) -> dict[str, Any]:
    began = time.monotonic()
    shown: dict[str, Any] = {"ok": False, "provider": provider.name}
    try:
        if provider.question is None:
            await world.pool.check(provider.endpoint)
            shown["ok"] = True
        else:
            await _ask(world, provider, provider.question, shown)
    except UpstreamError as error:
        shown["ok"] = False
        shown["error"] = error.kind
    shown["latencyMs"] = round((time.monotonic() - began) * 1000)
    return shown


async def _ask(world: World, provider: Provider, question: bytes, shown: dict[str, Any]) -> None:
    response = await world.pool.request(provider.endpoint, b"GET", question, provider.headers, b"", _DEADLINES)
    shown["statusCode"] = response.status
    shown["ok"] = response.status < 500
    await response.read()
