"""One HTTP exchange: a complete request, one response, and the knowledge of whether the client is still there.

Not here: what a body means (`wire`), what an answer costs, and how bytes get on the network (`server`).
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol
from urllib.parse import unquote_to_bytes

from faucet.gateway.wire import error_body
from faucet.kit.errors import Refusal, field_error
from faucet.kit.ids import is_request_id, request_id, uuid7

Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
_EVENTS = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"x-accel-buffering: no\r\nx-request-id: "
)


_CHUNKED = (b"transfer-encoding", b"chunked")
_STATUS = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}


class ClientGone(Exception):
    """The client closed the connection before its request was answered."""


class Face(Protocol):
    """Another API's shape over this exchange (`faces`): what leaves is a chat completion's, until it passes here."""

    def reply(self, body: bytes) -> bytes: ...

    def events(self, data: bytes, *, last: bool) -> bytes: ...

    def error(self, refusal: Refusal, request_id: str) -> bytes: ...


class Wire(Protocol):
    """The connection under an exchange."""

    drained: Future[None] | None
    """Set while the client reads too slowly to be sent more."""

    async def room(self) -> None:
        """Wait until a slow client has caught up; one that stopped reading is let go."""

    def send(self, data: bytes) -> None:
        """Send bytes now, after waiting for `room` where `drained` is set."""

    def completed(self, exchange: Exchange) -> None: ...

    def close(self) -> None: ...


class Exchange:
    """One request and its response."""

    __slots__ = (
        "_wire",
        "authorization",
        "body",
        "client_request_id",
        "content_length",
        "debug",
        "expects_continue",
        "face",
        "gone",
        "headers",
        "hold_id",
        "idempotency_key",
        "keep_alive",
        "lines",
        "method",
        "on_gone",
        "origin",
        "path",
        "request_id",
        "started",
        "status",
    )

    def __init__(self, wire: Wire, method: str, target: bytes, headers: Headers, *, keep_alive: bool) -> None:
        self._wire = wire
        self.method = method
        self.path = _path(target)
        self.headers = headers
        self.keep_alive = keep_alive
        self.body = b""
        self.authorization: bytes | None = None
        self.client_request_id: str | None = None
        self.content_length = 0
        self.debug: bytes | None = None
        self.expects_continue = False
        self.idempotency_key: bytes | None = None
        self.origin: bytes | None = None
        for name, value in headers:
            if name == b"authorization":
                self.authorization = value
            elif name == b"content-length":
                self.content_length = int(value) if value.isdigit() else 0
            elif name == b"x-request-id":
                text = value.decode("latin-1")
                self.client_request_id = text if is_request_id(text) else None
            elif name == b"idempotency-key":
                self.idempotency_key = value
            elif name == b"origin":
                self.origin = value
            elif name == b"x-modelfaucet-debug":
                self.debug = value
            elif name == b"expect":
                self.expects_continue = value.lower() == b"100-continue"
        self.hold_id = uuid7()
        self.request_id = self.client_request_id or request_id(self.hold_id)
        self.lines = b""
        """Lines for the head of whatever is answered, as they are sent."""
        self.face: Face | None = None
        self.gone = False
        self.on_gone: Callable[[], object] | None = None
        self.started = False
        self.status = 0

    def left(self) -> None:
        """The connection is lost: whoever works for this client may stop."""
        self.gone = True
        if self.on_gone is not None:
            self.on_gone()

    async def reply(
        self, status: int, body: bytes, headers: Headers | None = None, *, content_type: bytes = JSON
    ) -> None:
        """Send a complete response."""
        self.started = True
        self.status = status
        if self.face is not None and status == 200:
            body = self.face.reply(body)
        lines = self.lines if self.keep_alive and not headers else self._lines(headers)
        wire = self._wire
        if wire.drained is not None:
            await wire.room()
        wire.send(
            b"%bcontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b"
            % (
                status_line(status),
                content_type,
                len(body),
                self.request_id.encode(),
                lines,
                body if self.method != "HEAD" else b"",
            )
        )
        wire.completed(self)

    async def reply_empty(self, status: int, headers: Headers) -> None:
        """Send a response without a body."""
        self.started = True
        self.status = status
        if self._wire.drained is not None:
            await self._wire.room()
        ours = self.request_id.encode()
        self._wire.send(b"%bx-request-id: %b\r\n%b\r\n" % (status_line(status), ours, self._lines(headers)))
        self._wire.completed(self)

    async def events(self, data: bytes, *, last: bool = False, headers: Headers | None = None) -> None:
        """Send event bytes as they are, after the head where they are the first; `last` ends the response."""
        wire = self._wire
        parts: list[bytes] = []
        if self.face is not None:
            data = self.face.events(data, last=last)
        if not self.started:
            self.started = True
            self.status = 200
            lines = self._lines([_CHUNKED, *(headers or ())])
            parts += (_EVENTS, self.request_id.encode(), b"\r\n", lines, b"\r\n")
        if data:
            parts += (b"%x\r\n" % len(data), data, b"\r\n")
        if last:
            parts.append(b"0\r\n\r\n")
        if wire.drained is not None:
            await wire.room()
        wire.send(b"".join(parts))
        if last:
            wire.completed(self)

    async def refuse(self, refusal: Refusal) -> None:
        """Send the error envelope, unless a response has already begun."""
        if self.started:
            return
        headers: Headers = []
        if refusal.retry_after_seconds is not None:
            headers.append((b"retry-after", b"%d" % refusal.retry_after_seconds))
        told = error_body if self.face is None else self.face.error
        await self.reply(refusal.status, told(refusal, self.request_id), headers)

    def break_off(self) -> None:
        """Close the connection: a response that has begun can't be completed."""
        self._wire.close()

    def _lines(self, headers: Headers | None) -> bytes:
        """The rest of the head's lines: what was known before, and what this response adds."""
        lines = [self.lines]
        for name, value in headers or ():
            lines += (name, b": ", value, b"\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        return b"".join(lines)


@lru_cache(maxsize=256)
def _path(target: bytes) -> str:
    """The decoded path of a request target, without its query."""
    path = target.partition(b"?")[0].partition(b"#")[0]
    if path[:1] != b"/" and b"://" in path:
        # The absolute form (RFC 9112 §3.2.2): what follows the authority is the path.
        path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
    return unquote_to_bytes(path).decode("utf-8", "replace")


def status_line(status: int) -> bytes:
    """The first line of a response."""
    return _STATUS.get(status) or b"HTTP/1.1 %d \r\n" % status


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


def too_large(most: int) -> Refusal:
    """The refusal of a body above the limit."""
    return Refusal("payload_too_large", f"the body may have at most {most} bytes")
