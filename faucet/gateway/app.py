"""The gateway's app: a dispatch table, CORS, and the border where refusals become responses."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable

from faucet.gateway import generations
from faucet.gateway.chat import chat_completions
from faucet.gateway.embeddings import embed
from faucet.gateway.exchange import ClientGone, Exchange, bearer_of
from faucet.gateway.faces.messages import MessagesFace
from faucet.gateway.faces.responses import ResponsesFace
from faucet.gateway.feature_run import run_feature
from faucet.gateway.health import ProviderHealth
from faucet.gateway.metrics import METRICS, SERVICE
from faucet.gateway.models import list_models
from faucet.gateway.world import World
from faucet.kit.errors import Refusal
from faucet.kit.log import logger

Handler = Callable[[World, Exchange], Awaitable[None]]

_EXPOSED = (
    b"x-request-id, retry-after, x-ratelimit-remaining, x-ratelimit-reset, ratelimit, ratelimit-policy,"
    b" idempotent-replayed"
)


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
    await exchange.reply(200, METRICS.text(), content_type=b"text/plain; version=0.0.4; charset=utf-8")


async def _messages(world: World, exchange: Exchange) -> None:
    """Anthropic's clients show their bearer as `x-api-key`, and read the request's id from `request-id`."""
    exchange.lines += b"request-id: %b\r\n" % exchange.request_id.encode()
    if exchange.authorization is None:
        exchange.authorization = next((b"Bearer " + v for name, v in exchange.headers if name == b"x-api-key"), None)
    await _through(world, exchange, MessagesFace())


async def _responses(world: World, exchange: Exchange) -> None:
    await _through(world, exchange, ResponsesFace())


async def _through(world: World, exchange: Exchange, face: MessagesFace | ResponsesFace) -> None:
    """A chat request under another API's shape. Nobody's body is taken apart before their bearer is known."""
    exchange.face = face
    bearer = bearer_of(exchange.authorization)
    if world.admission.recall(bearer) is None:
        await world.admission.find(bearer)
    exchange.body = face.chat(exchange.body)
    await chat_completions(world, exchange)


ROUTES: dict[str, dict[str, Handler]] = {
    "/v1/chat/completions": {"POST": chat_completions},
    "/v1/embeddings": {"POST": embed},
    "/v1/messages": {"POST": _messages},
    "/v1/responses": {"POST": _responses},
    "/v1/models": {"GET": list_models},
    "/health": {"GET": _health},
    "/ready": {"GET": _ready},
    "/metrics": {"GET": _metrics},
    "/health/providers": {"GET": ProviderHealth().show},
}
_MODEL = "/v1/models/"
_FEATURE, _RUN = "/v1/features/", "/run"


def _below(path: str) -> tuple[str, dict[str, Handler] | None]:
    """The pattern and the methods of a path that ends in a name."""
    if path.startswith(_MODEL):
        return _MODEL + "{model}", {"GET": _one_model}
    if path.startswith(generations.PATH):
        return generations.PATH + "{request_id}", {"GET": generations.show_generation}
    if path.startswith(_FEATURE) and path.endswith(_RUN) and path.count("/") == 4:
        return _FEATURE + "{key}" + _RUN, {"POST": _run}
    return "unknown", None


class Gateway:
    """Answers every exchange: nothing that goes wrong in here reaches the server."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.max_body_bytes = world.max_body_bytes
        self._origins = frozenset(world.config.gateway_cors_origins)
        self._reflects = not world.config.is_production

    async def answer(self, exchange: Exchange) -> None:
        """Dispatch, and turn what is raised into a response."""
        began = time.monotonic()
        route = exchange.path
        try:
            methods = ROUTES.get(route)
            if exchange.origin is not None:
                self._allow_origin(exchange)
            if methods is None:
                route, methods = _below(route)
                if methods is None:
                    raise Refusal("not_found", f"there is nothing at {exchange.path[:200]}")
            method = exchange.method
            handler = methods.get(method)
            if handler is None:
                if method == "OPTIONS":
                    await self._preflight(exchange)
                    return
                handler = methods.get("GET") if method == "HEAD" else None
                if handler is None:
                    exchange.lines += b"allow: %b\r\n" % ", ".join([*methods, "OPTIONS"]).encode()
                    raise Refusal("method_not_allowed", f"{method} is not possible here")
            await handler(self.world, exchange)
        except Refusal as refusal:
            await exchange.refuse(refusal)
        except ClientGone:
            exchange.status = exchange.status or 499
        except asyncio.CancelledError:
            exchange.break_off()
            raise
        except Exception as error:
            logger.error(
                "request.failed", request_id=exchange.request_id, route=route, error=repr(error), exc_info=True
            )
            if exchange.started:
                exchange.break_off()
            await exchange.refuse(Refusal("internal", "something went wrong on our side"))
        finally:
            method = exchange.method if exchange.method in _METHODS else "OTHER"
            METRICS.request(method, route, exchange.status, time.monotonic() - began)

    def _allow_origin(self, exchange: Exchange) -> None:
        origin = exchange.origin
        if origin is None:
            return
        if not self._reflects:
            text = origin.decode("latin-1")
            if text not in self._origins and text not in self.world.app_origins:
                return
        exchange.lines += (
            b"access-control-allow-origin: %b\r\nvary: origin\r\naccess-control-expose-headers: %b\r\n"
            % (origin, _EXPOSED)
        )

    async def _preflight(self, exchange: Exchange) -> None:
        asked = dict(exchange.headers).get(b"access-control-request-headers", b"authorization, content-type")
        headers = [
            (b"access-control-allow-methods", b"GET, HEAD, POST, PATCH, DELETE, OPTIONS"),
            (b"access-control-allow-headers", asked),
            (b"access-control-max-age", b"600"),
        ]
        await exchange.reply_empty(204, headers)


async def _one_model(world: World, exchange: Exchange) -> None:
    await list_models(world, exchange, exchange.path[len(_MODEL) :])


async def _run(world: World, exchange: Exchange) -> None:
    await run_feature(world, exchange, exchange.path[len(_FEATURE) : -len(_RUN)])


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
