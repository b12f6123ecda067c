"""The outermost layer of every request: id, size and kind of body, speed, origin, and the last net for faults.

It decides nothing about the business. Plain ASGI, so that it sees every response, those of the router's own 404
and 405 included.
"""

from __future__ import annotations

import asyncio
import math
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from faucet.api.errors import respond
from faucet.kit.config import Config
from faucet.kit.errors import Refusal
from faucet.kit.ids import is_request_id, request_id, uuid7
from faucet.kit.log import logger
from faucet.kit.metrics import Metrics
from faucet.kit.proxies import client_address, parse_networks
from faucet.limits.bucket import Bucket

BODY_SECONDS = 30.0
PREFLIGHT_SECONDS = 600
METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
ALLOWED_HEADERS = "authorization, content-type, idempotency-key, x-request-id"
EXPOSED_HEADERS = "x-request-id, retry-after, x-ratelimit-remaining, x-ratelimit-reset, ratelimit, ratelimit-policy"
_COUNTED_METHODS = frozenset(METHODS.split(", "))
_UNLIMITED_PATHS = frozenset(("/health", "/ready", "/metrics"))


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


class Edge:
    """Wraps the app. Adds headers to every response and turns every exception into the envelope."""

    def __init__(self, app: ASGIApp, *, config: Config, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics
        self._body_bytes_max = config.api_max_body_bytes
        # Development reflects any origin; production knows its own.
        self._origins = frozenset(config.api_cors_origins) if config.is_production else None
        self._proxies = parse_networks(config.trusted_proxies)
        limit, window_ms = config.api_rate_limit_max_requests, config.api_rate_limit_window_ms
        self._bucket = Bucket(limit, window_ms / 1000) if limit else None
        self._policy = f'"client";q={limit};w={math.ceil(window_ms / 1000)}'

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        method = scope["method"]
        headers = Headers(scope=scope)
        offered = headers.get("x-request-id", "")
        rid = offered if is_request_id(offered) else request_id(uuid7())
        scope.setdefault("state", {})["request_id"] = rid
        reply = _Reply(send, {"x-request-id": rid, **self._cors(headers)}, head_only=method == "HEAD")
        try:
            await self._serve(scope, headers, receive, reply)
        except ClientGone:
            reply.status = 499
        except Exception as error:
            if reply.started:
                logger.error("api.fault_after_start", request_id=rid, exc_info=error)
                raise
            await respond(error, rid)(scope, receive, reply)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            counted = method if method in _COUNTED_METHODS else "other"
            self._metrics.request(counted, route, reply.status, time.perf_counter() - began)

    async def _serve(self, scope: Scope, headers: Headers, receive: Receive, reply: _Reply) -> None:
        """Raises Refusal for what isn't let in, and ClientGone."""
        if self._bucket is not None and scope["path"] not in _UNLIMITED_PATHS:
            self._count(self._bucket, scope, headers, reply)
        if scope["method"] == "OPTIONS":
            await self._preflight(headers)(scope, receive, reply)
            return
        body = await self._body(headers, receive)
        if body and headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal("unsupported_media_type", "the body must be application/json")
        # HEAD is GET, of which only the head is sent. A copy, because the server looks at its own.
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            await self.app(inner, _replay(body, receive), reply)
        finally:
            scope["route"] = inner.get("route")

    def _cors(self, headers: Headers) -> dict[str, str]:
        origin = headers.get("origin")
        if origin is None or not self._allows(origin):
            return {"vary": "origin"}
        return {
            "vary": "origin",
            "access-control-allow-origin": origin,
            "access-control-expose-headers": EXPOSED_HEADERS,
        }

    def _allows(self, origin: str) -> bool:
        return self._origins is None or origin in self._origins

    def _preflight(self, headers: Headers) -> Response:
        """The answer to OPTIONS. Raises Refusal `forbidden` for pages of other origins."""
        if "origin" not in headers or "access-control-request-method" not in headers:
            return Response(status_code=204, headers={"allow": METHODS})
        if not self._allows(headers["origin"]):
            raise Refusal("forbidden", "pages of this origin may not call this API")
        return Response(
            status_code=204,
            headers={
                "access-control-allow-methods": METHODS,
                "access-control-allow-headers": ALLOWED_HEADERS,
                "access-control-max-age": str(PREFLIGHT_SECONDS),
            },
        )

    def _count(self, bucket: Bucket, scope: Scope, headers: Headers, reply: _Reply) -> None:
        """Count the request against its client's rate. Raises Refusal `rate_limited`."""
        peer = scope["client"][0] if scope.get("client") else ""
        address = client_address(peer, headers.getlist("x-forwarded-for"), self._proxies)
        verdict = bucket.take(address.encode(), time.monotonic())
        reset = math.ceil(verdict.reset_seconds)
        reply.headers |= {
            "x-ratelimit-remaining": str(verdict.remaining),
            "x-ratelimit-reset": str(reset),
            "ratelimit": f'"client";r={verdict.remaining};t={reset}',
            "ratelimit-policy": self._policy,
        }
        if not verdict.allowed:
            raise Refusal(
                "rate_limited",
                "too many requests from this address; slow down",
                retry_after_seconds=max(1, math.ceil(verdict.retry_after_seconds)),
            )

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body. Raises Refusal where it is too large or too slow, and ClientGone."""
        announced = headers.get("content-length", "")
        if announced.isdigit() and int(announced) > self._body_bytes_max:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._body_bytes_max:
                        raise self._too_large()
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise Refusal(
                "invalid_request", f"the body did not arrive within {BODY_SECONDS:.0f} seconds", status=408
            ) from None

    def _too_large(self) -> Refusal:
        return Refusal("payload_too_large", f"the body may have at most {self._body_bytes_max} bytes")


class _Reply:
    """Sends a response with the headers that all have; remembers its status."""

    def __init__(self, send: Send, headers: dict[str, str], *, head_only: bool) -> None:
        self._send = send
        self._head_only = head_only
        self.headers = headers
        self.status = 0
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers.setdefault("cache-control", "no-store")
            headers["x-content-type-options"] = "nosniff"
            for name, value in self.headers.items():
                headers[name] = value
            if self.status in (408, 413):
                headers["connection"] = "close"  # the rest of the body is not read
        elif self._head_only:
            message = {**message, "body": b""}
        await self._send(message)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read already, then what follows it."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
