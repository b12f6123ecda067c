"""The gateway's ASGI app: a dispatch table, CORS, and the border where refusals become responses."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from faucet.gateway.chat import chat_completions
from faucet.gateway.exchange import ClientGone, Exchange, Receive, Send
from faucet.gateway.metrics import METRICS, SERVICE
from faucet.gateway.models import list_models
from faucet.gateway.world import World
from faucet.kit.errors import Refusal
from faucet.kit.log import logger

Handler = Callable[[World, Exchange], Awaitable[None]]

_EXPOSED = b"x-request-id, x-ratelimit-remaining, x-ratelimit-reset, retry-after, idempotent-replayed"


async def _health(world: World, exchange: Exchange) -> None:
    await exchange.reply(200, json.dumps({"ok": True, "service": SERVICE}).encode())


async def _ready(world: World, exchange: Exchange) -> None:
    checks = await world.is_ready()
    ok = all(checks.values())
    words = {name: "ok" if good else "failed" for name, good in checks.items()}
    await exchange.reply(200 if ok else 503, json.dumps({"ok": ok, "service": SERVICE, "checks": words}).encode())


async def _metrics(world: World, exchange: Exchange) -> None:
    wanted = world.config.metrics_token
    if wanted is not None:
        given = (exchange.authorization or b"").removeprefix(b"Bearer ")
        if not hmac.compare_digest(given, wanted.reveal().encode()):
            raise Refusal("forbidden", "metrics need their own bearer")
    exchange.started = True
    exchange.status = 200
    body = METRICS.text()
    headers = [
        (b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", exchange.request_id.encode()),
    ]
    await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
    await exchange.send({"type": "http.response.body", "body": body})


async def _providers(world: World, exchange: Exchange) -> None:
    shown = [{"ok": True, "provider": provider.name} for provider in world.providers]
    await exchange.reply(200, json.dumps({"ok": bool(shown), "providers": shown}).encode())


ROUTES: dict[str, dict[str, Handler]] = {
    "/v1/chat/completions": {"POST": chat_completions},
    "/v1/models": {"GET": list_models},
    "/health": {"GET": _health},
    "/ready": {"GET": _ready},
    "/metrics": {"GET": _metrics},
    "/health/providers": {"GET": _providers},
}
_MODEL = "/v1/models/"


class Gateway:
    """The ASGI callable."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._origins = frozenset(world.config.gateway_cors_origins)
        self._reflects = not world.config.is_production

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        began = time.monotonic()
        exchange = Exchange(scope, receive, send)
        path: str = scope["path"]
        method: str = scope["method"]
        route = path
        try:
            methods = ROUTES.get(path)
            if exchange.origin is not None:
                self._allow_origin(exchange)
            if methods is None and path.startswith(_MODEL):
                route = _MODEL + "{model}"
                methods = {"GET": _one_model}
            if methods is None:
                route = "unknown"
                raise Refusal("not_found", f"there is nothing at {path[:200]}")
            if method == "OPTIONS":
                await self._preflight(exchange, methods)
                return
            handler = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
            if handler is None:
                exchange.extra.append((b"allow", ", ".join([*methods, "OPTIONS"]).encode()))
                raise Refusal("method_not_allowed", f"{method} is not possible here")
            await handler(self.world, exchange)
        except Refusal as refusal:
            await exchange.refuse(refusal)
        except ClientGone:
            exchange.status = exchange.status or 499
        except asyncio.CancelledError:
            raise
        except Exception as error:
            logger.error("request.failed", request_id=exchange.request_id, path=route, error=repr(error), exc_info=True)
            await exchange.refuse(Refusal("internal", "something went wrong on our side"))
            if exchange.status != 500:
                raise
        finally:
            METRICS.request(method if method in _METHODS else "OTHER", route, exchange.status, time.monotonic() - began)

    def _allow_origin(self, exchange: Exchange) -> None:
        origin = exchange.origin
        if origin is None or not (self._reflects or origin.decode("latin-1") in self._origins):
            return
        exchange.extra += [
            (b"access-control-allow-origin", origin),
            (b"vary", b"origin"),
            (b"access-control-expose-headers", _EXPOSED),
        ]

    async def _preflight(self, exchange: Exchange, methods: dict[str, Handler]) -> None:
        asked = dict(exchange.scope["headers"]).get(b"access-control-request-headers", b"authorization, content-type")
        exchange.started = True
        exchange.status = 204
        headers = [
            *exchange.extra,
            (b"access-control-allow-methods", b"GET, HEAD, POST, PATCH, DELETE, OPTIONS"),
            (b"access-control-allow-headers", asked),
            (b"access-control-max-age", b"600"),
            (b"x-request-id", exchange.request_id.encode()),
        ]
        await exchange.send({"type": "http.response.start", "status": 204, "headers": headers})
        await exchange.send({"type": "http.response.body", "body": b""})


async def _one_model(world: World, exchange: Exchange) -> None:
    await list_models(world, exchange, unquote(exchange.scope["path"][len(_MODEL) :]))


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
