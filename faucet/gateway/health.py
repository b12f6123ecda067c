"""GET /health/providers: whether each provider answers, asked at most every few seconds and told without secrets."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from faucet.gateway.catalogue import Account
from faucet.gateway.exchange import Exchange
from faucet.gateway.world import World
from faucet.kit.upstream import Deadlines, UpstreamError
from faucet.providers.base import Provider
from faucet.routing.health import State

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
                accounts = world.accounts
                self._shown = await asyncio.gather(*(_look(world, account) for account in accounts))
                self._until = time.monotonic() + BELIEVED_SECONDS
        ok = bool(self._shown) and all(each["ok"] for each in self._shown)
        await exchange.reply(200, json.dumps({"ok": ok, "providers": self._shown}).encode())


async def _look(world: World, account: Account) -> dict[str, Any]:
    provider = account.provider
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
    return shown | _observed(world, account, shown)


def _observed(world: World, account: Account, shown: dict[str, Any]) -> dict[str, Any]:
    """What requests saw of it: models that are cooling down after failures, and the time to their first bytes."""
    models = world.circuits.models(account.name)
    cooling = sorted(model for model, circuit in models.items() if circuit.state is not State.CLOSED)
    seen: dict[str, Any] = {}
    if cooling:
        seen["cooling"] = cooling
        seen["ok"] = shown["ok"] and len(cooling) < len(models)
    fastest = [circuit for circuit in models.values() if circuit.samples]
    if fastest:
        seen["firstByteMs"] = {
            name: max(circuit.percentile_ms(percent) for circuit in fastest)
            for name, percent in (("p50", 50), ("p95", 95))
        }
    return seen


async def _ask(world: World, provider: Provider, question: bytes, shown: dict[str, Any]) -> None:
    response = await world.pool.request(provider.endpoint, b"GET", question, provider.headers, b"", _DEADLINES)
    shown["statusCode"] = response.status
    shown["ok"] = response.status < 500
    await response.read()
