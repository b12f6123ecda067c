"""One HTTP exchange on raw ASGI: reads a bounded body in bounded time, writes once, knows when the client left.

Not here: what a body means (`wire`), or what an answer costs. The server (`server.py`) calls the `gone` callback
the moment the connection is lost, so no task has to watch for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from faucet.gateway import direct
from faucet.gateway.wire import error_body
from faucet.kit.errors import Refusal, field_error
from faucet.kit.ids import is_request_id, request_id, uuid7

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

BODY_SECONDS = 30.0
"""From the end of the head to the end of the body; a slower sender is turned away."""

JSON = (b"content-type", b"application/json")
_EVENTS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


class Exchange:
    """One request and its response."""

    __slots__ = (
        "_cycle",
        "authorization",
        "client_request_id",
        "content_length",
        "content_type",
        "extra",
        "gone",
        "hold_id",
        "idempotency_key",
        "on_gone",
        "origin",
        "receive",
        "request_id",
        "scope",
        "send",
        "started",
        "status",
    )

    def __init__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.authorization: bytes | None = None
        self.client_request_id: str | None = None
        self.content_length: bytes | None = None
        self.content_type: bytes | None = None
        self.idempotency_key: bytes | None = None
        self.origin: bytes | None = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                self.authorization = value
            elif name == b"content-length":
                self.content_length = value
            elif name == b"content-type":
                self.content_type = value
            elif name == b"x-request-id":
                text = value.decode("latin-1")
                self.client_request_id = text if is_request_id(text) else None
            elif name == b"idempotency-key":
                self.idempotency_key = value
            elif name == b"origin":
                self.origin = value
        self.hold_id = uuid7()
        self.request_id = self.client_request_id or request_id(self.hold_id)
        self.extra: Headers = []
        self.gone = False
        self.on_gone: Callable[[], None] | None = None
        self.started = False
        self.status = 0
        scope["faucet.gone"] = self._left
        self._cycle = scope.get(direct.KEY) if scope["method"] != "HEAD" else None

    def _left(self) -> None:
        self.gone = True
        if self.on_gone is not None:
            self.on_gone()

    async def body(self, most: int) -> bytes:
        """The whole request body. Raises Refusal 413 above `most` bytes, 400 when it comes too slowly."""
        if self.content_length is not None and self.content_length.isdigit() and int(self.content_length) > most:
            raise _too_large(most)
        cycle = self._cycle
        if cycle is not None and not cycle.more_body and not cycle.disconnected:
            # The body came with the head, as most do.
            body = bytes(cycle.body)
            cycle.body = bytearray()
            if len(body) > most:
                raise _too_large(most)
            return body
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await self._read(most)
        except TimeoutError:
            self.extra.append((b"connection", b"close"))
            raise Refusal(
                "invalid_request", f"the body did not arrive within {BODY_SECONDS:.0f} seconds", status=408
            ) from None

    async def _read(self, most: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message["body"])
            size += len(message["body"])
            if size > most:
                raise _too_large(most)
            if not message.get("more_body"):
                return b"".join(parts)

    async def reply(self, status: int, body: bytes, headers: Headers | None = None) -> None:
        """Send a complete JSON response."""
        self.started = True
        self.status = status
        head: Headers = [
            JSON,
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", self.request_id.encode()),
        ]
        head += self.extra
        if headers:
            head += headers
        if self._cycle is not None:
            await direct.whole(self._cycle, status, head, body)
            return
        await self.send({"type": "http.response.start", "status": status, "headers": head})
        await self.send({"type": "http.response.body", "body": body})

    async def events(self, data: bytes, *, last: bool = False, headers: Headers | None = None) -> None:
        """Send event bytes as they are, after the head where they are the first; `last` ends the response."""
        cycle = self._cycle
        if not self.started:
            self.started = True
            self.status = 200
            head = [*_EVENTS, (b"x-request-id", self.request_id.encode()), *self.extra, *(headers or [])]
            if cycle is None:
                await self.send({"type": "http.response.start", "status": 200, "headers": head})
            elif last:
                await direct.whole(cycle, 200, [*head, (b"content-length", b"%d" % len(data))], data)
                return
            else:
                await direct.begin(cycle, 200, head, data)
                return
        if cycle is None:
            await self.send({"type": "http.response.body", "body": data, "more_body": not last})
        else:
            await direct.more(cycle, data, last=last)

    async def refuse(self, refusal: Refusal) -> None:
        """Send the error envelope, unless a response has already begun."""
        if self.started:
            return
        headers: Headers = []
        if refusal.retry_after_seconds is not None:
            headers.append((b"retry-after", b"%d" % refusal.retry_after_seconds))
        if refusal.status == 413:
            headers.append((b"connection", b"close"))
        await self.reply(refusal.status, error_body(refusal, self.request_id), headers)


def bearer_of(authorization: bytes | None) -> bytes:
    """The bearer of an Authorization header. Raises Refusal `invalid_session` where there is none."""
    if authorization is not None and authorization[:7].lower() == b"bearer ":
        bearer = authorization[7:].strip()
        if 16 <= len(bearer) <= 256:
            return bearer
    raise Refusal("invalid_session", "send a session token: `Authorization: Bearer mf_sess_…`")


def idempotency_key_of(value: bytes) -> bytes:
    """A usable Idempotency-Key. Raises Refusal `invalid_request`."""
    if not 1 <= len(value) <= 255:
        raise field_error("Idempotency-Key", "must have 1 to 255 characters")
    return value


def _too_large(most: int) -> Refusal:
    return Refusal("payload_too_large", f"the body may have at most {most} bytes")
