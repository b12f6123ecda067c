"""One pooled HTTP/1.1 connection: the protocol under `kit.upstream`, its deadlines, its origin's queue.

Lives here: `Connection` (bytes in, bytes out, one request at a time) and `Origin` (the connections of one
scheme, host, port and trust: idle ones, a limit, and a first-come queue). Does not live here: addresses,
resolving, connecting, and the interface that callers use (`kit.upstream`).

The hot path makes no task and no timer per request. A request waits on one future; a connection owns one
timer that is left running across requests and asks, when it fires, whether anything is overdue.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, cast

import httptools

from faucet.kit.errors import Fault

STREAM_BUFFER_BYTES = 256 * 1024
"""How much unread body is held before the provider is made to wait."""
WRITE_SLICE_BYTES = 128 * 1024
"""How much of a large request body is handed to the transport at once."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long to wait, in seconds: for a connection, for the head, between two reads, and for all of it."""

    connect: float = 5.0
    first_byte: float = 30.0
    idle: float = 30.0
    total: float = 600.0


class UpstreamError(Fault):
    """A request failed below HTTP's meaning. `sent`: bytes of it may have reached the provider.

    `kind` is one of connect, refused_address, tls, first_byte_timeout, idle_timeout, total_timeout, closed,
    protocol.
    """

    def __init__(self, kind: str, sent: bool, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.sent = sent
        self.detail = detail


class _BadResponse(Exception):
    """Stops the parser from inside one of its callbacks."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a pool allows each of its connections."""

    keepalive_seconds: float
    header_bytes: int
    body_bytes: int


class Connection(asyncio.Protocol):
    """Sends one request at a time, gathers its response, and goes back to its origin when both are whole."""

    __slots__ = (
        "origin", "loop", "status", "raw_headers", "parts", "head", "done", "closed", "error", "detail",
        "waiter", "adopted", "received", "limits", "_transport", "_parser", "_raw", "_busy", "_bodiless",
        "_keep", "_whole", "_head_bytes", "_framing_bytes", "_buffered", "_mark", "_blobs", "_blob_bytes",
        "_paused", "_unsent", "_large", "_write_paused", "_last", "_first_byte", "_idle", "_total_at",
        "_idle_until", "_timer", "_timer_at", "_now",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, origin: Origin, limits: Limits) -> None:
        self.origin = origin
        self.loop = loop
        self._now = loop.time
        self.limits = limits
        self._transport: asyncio.Transport  # set by connection_made, before anyone else sees this
        self.status = 0
        self.raw_headers: list[tuple[bytes, bytes]] = []
        self._raw: list[tuple[bytes, bytes]] = []
        self.parts: list[bytes] = []
        self.head = self.done = self.closed = self.adopted = self.received = False
        self.error = ""
        self.detail = ""
        self.waiter: asyncio.Future[None] | None = None
        self._busy = self._bodiless = self._keep = self._whole = False
        self._head_bytes = self._framing_bytes = self._buffered = self._blobs = self._blob_bytes = 0
        self._mark = STREAM_BUFFER_BYTES
        self._paused = self._large = self._write_paused = False
        self._unsent: memoryview | None = None
        self._last = self._first_byte = self._idle = self._total_at = self._idle_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    @property
    def on_body(self) -> Callable[[bytes], None]:
        """What the parser calls with body bytes: the list's own append, which costs no Python frame."""
        return self.parts.append

    # ── a request ───────────────────────────────────────────────────────────────────────────────────────────

    def is_usable(self) -> bool:
        """Whether a request can still be written."""
        return not self.closed and not self._transport.is_closing()

    def start(self, head: bytes, body: bytes, *, bodiless: bool, started: float, deadlines: Deadlines) -> None:
        """Write a request and expect its response. Where `head` already holds the body, `body` is empty."""
        now = self._now()
        self._busy = True
        self._bodiless = bodiless
        self.head = self.done = self.received = self._keep = self._whole = self._large = False
        self._head_bytes = self._framing_bytes = 0
        self._last = now
        self._first_byte = deadlines.first_byte
        self._idle = deadlines.idle
        self._total_at = started + deadlines.total
        due = now + deadlines.first_byte
        if due > self._total_at:
            due = self._total_at
        if self._timer_at > due:
            self._arm(due)
        self._transport.write(head)
        if body:
            self._large = True
            self._unsent = memoryview(body)
            self._pump()

    def wait(self) -> asyncio.Future[None]:
        """A future that completes when there is news: the head, a piece of body, the end, or a failure."""
        waiter = self.waiter = self.loop.create_future()
        return waiter

    def gather(self) -> None:
        """Collect the whole body, as far as the limit allows, and give no news before its end."""
        self._whole = True
        if self._paused:
            self._resume()
        if not self.done and not self.closed:
            self._measure()

    def take(self) -> bytes:
        """All body bytes that have arrived since the last call."""
        parts = self.parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._buffered = self._blobs = self._blob_bytes = 0
        self._mark = STREAM_BUFFER_BYTES
        if self._paused:
            self._resume()
        return data

    def finish(self) -> None:
        """End the request: back to the pool if its response is whole and both sides go on, else close."""
        self._busy = False
        if not (self.done and self._keep) or self.closed or self._unsent is not None or self.parts:
            self.abort()
            return
        if self._large and self._transport.get_write_buffer_size():
            self.abort()  # answered before all of our body had left
            return
        until = self._idle_until = self._now() + self.limits.keepalive_seconds
        if self._timer_at > until:
            self._arm(until)
        self.origin.put_back(self)

    def drop(self) -> None:
        """End a request whose response nobody will read."""
        self.take()
        self.finish()

    def abort(self) -> None:
        """Close at once. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._unsent = None
        self._parser = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()
        self.origin.forget(self)
        self._wake()

    def fail(self, kind: str, detail: str) -> None:
        """Close because of a failure, which the one who waits gets to see."""
        if not self.error and not self.done:
            self.error = kind
            self.detail = detail
        self.abort()

    def _wake(self) -> None:
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    # ── asyncio's side ──────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.origin.live.add(self)

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            return
        if not self._busy:
            self.abort()  # bytes that nobody asked for: the next response could be a forged one
            return
        self.received = True
        pieces = len(self.parts)
        if not self.head:
            self._head_bytes += len(data)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as problem:
            self._keep = False
            if not self.done:
                self.fail("protocol", str(problem.__context__ or problem))
                return
        if self._head_bytes > self.limits.header_bytes and self._is_head_too_long():
            self.head = self.done = False
            self.fail("protocol", "the response's head is too long")
            return
        if self.done:
            if self._bodiless:
                self.parts.clear()
            self._wake()
            return
        if not self.head:
            return
        now = self._last = self._now()
        if self._timer_at > now + self._idle:
            self._arm(min(now + self._idle, self._total_at))
        if len(self.parts) == pieces:
            # Chunk sizes, extensions or trailers only. Endless ones would otherwise be held for ever.
            self._framing_bytes += len(data)
            if self._framing_bytes > self.limits.header_bytes:
                self.fail("protocol", "the response's chunk framing is too long")
                return
        else:
            self._framing_bytes = 0
            self._buffered += len(data)
            if self._buffered > self._mark:
                self._measure()
        waiter = self.waiter
        if waiter is not None and not self._whole:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _is_head_too_long(self) -> bool:
        """Judge a head that did not come alone: of the bytes that came with its end, some are body."""
        self._head_bytes = 0
        return not self.head or sum(len(n) + len(v) + 4 for n, v in self.raw_headers) > self.limits.header_bytes

    def eof_received(self) -> bool:
        if self._busy and self.head and not self.done and self._ends_at_eof():
            self.done = True
        self.fail("closed", "the peer closed the connection before the response was complete")
        return False

    def connection_lost(self, problem: Exception | None) -> None:
        self.origin.live.discard(self)
        if problem is None and not self.closed and self._busy and self.head and not self.done:
            self.done = self._ends_at_eof()
        self.fail("closed", f"the connection was lost: {problem}" if problem else "the peer closed the connection")

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._pump()

    def _pump(self) -> None:
        """Hand on what is left of a large body, as fast as the socket takes it."""
        rest = self._unsent
        if rest is None:
            return
        self._last = self._now()  # a body on its way is not a provider that is silent
        while rest is not None and not self._write_paused and not self.closed:
            self._transport.write(rest[:WRITE_SLICE_BYTES])
            rest = rest[WRITE_SLICE_BYTES:] if len(rest) > WRITE_SLICE_BYTES else None
            self._unsent = rest

    def _measure(self) -> None:
        """Look at what is buffered: pause a stream that is read slowly, bound a body that is read whole."""
        parts, blobs = self.parts, self._blobs
        if len(parts) > blobs:
            # Joined now, so that tiny chunks don't cost forty bytes of bookkeeping each.
            parts[blobs:] = [b"".join(parts[blobs:])]
            self._blobs = blobs + 1
            self._blob_bytes += len(parts[blobs])
        if not self._whole:
            if not self._transport.is_closing():
                self._paused = True
                self._transport.pause_reading()
        elif self._blob_bytes > self.limits.body_bytes:
            self.fail("protocol", "the response's body is over the limit")
        else:
            self._mark = self._buffered + STREAM_BUFFER_BYTES

    def _resume(self) -> None:
        self._paused = False
        self._last = self._now()
        if not self.closed and not self._transport.is_closing():
            self._transport.resume_reading()

    # ── the parser's side ───────────────────────────────────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        if self.done:
            raise _BadResponse("bytes after the end of the response")
        self._raw = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._raw.append((name, value))

    def on_headers_complete(self) -> None:
        parser = cast(httptools.HttpResponseParser, self._parser)
        status = parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                raise _BadResponse(f"status {status} was not asked for")
            return
        self.status = status
        self.raw_headers = self._raw
        self._raw = []  # trailers go here, and nowhere else
        self.head = True
        if self._bodiless:
            self.done = True  # and not kept: the parser would take what comes next for this one's body

    def on_message_complete(self) -> None:
        if self.head and not self.done:
            self.done = True
            self._keep = self._parser is not None and self._parser.should_keep_alive()

    def _ends_at_eof(self) -> bool:
        """Whether the response's body is everything up to the end of the connection."""
        for name, value in self.raw_headers:
            name = name.lower()
            if name == b"content-length" or (name == b"transfer-encoding" and _is_chunked(value)):
                return False
        return True

    # ── deadlines ───────────────────────────────────────────────────────────────────────────────────────────

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self.loop.call_at(due, self._check_deadlines)

    def _check_deadlines(self) -> None:
        """The connection's one timer: it may fire early for what goes on now; then it is set again."""
        self._timer = None
        self._timer_at = inf
        if self.closed:
            return
        now = self._now()
        if not self._busy:
            due = self._idle_until
            if now >= due:
                self.abort()
                return
        elif now >= self._total_at:
            self.fail("total_timeout", "the request took longer than it may in all")
            return
        elif self.done:
            due = self._total_at
        else:
            if self._paused:
                self._last = now  # it is our reader that is slow, not the provider
            due = self._last + (self._idle if self.head else self._first_byte)
            if now >= due:
                kind = "idle_timeout" if self.head else "first_byte_timeout"
                self.fail(kind, "the provider was silent for too long")
                return
            due = min(due, self._total_at)
        self._arm(due)


def _is_chunked(value: bytes) -> bool:
    return value.lower().rpartition(b",")[2].strip() == b"chunked"


class Origin:
    """The connections to one scheme, host, port and trust: the idle ones, their number, and who waits."""

    __slots__ = (
        "key", "trusted", "limit", "count", "idle", "live", "waiters", "addresses", "resolved_until",
        "resolving", "preferred", "_all",
    )  # fmt: skip

    def __init__(self, key: str, trusted: bool, limit: int, everyone: dict[str, Origin], live: set[Connection]) -> None:
        self.key = key
        self.trusted = trusted
        self.limit = limit
        self.count = 0
        self.idle: dict[Connection, None] = {}
        self.live = live
        self.waiters: OrderedDict[asyncio.Future[Connection | None], None] = OrderedDict()
        self.addresses: list[str] = []
        self.resolved_until = -inf
        self.resolving: asyncio.Future[Any] | None = None
        self.preferred = ""
        self._all = everyone

    async def turn(self, loop: asyncio.AbstractEventLoop) -> Connection | None:
        """Wait in line: a connection that became free, or None with leave to make one, already counted."""
        if self.count < self.limit:
            self.count += 1
            return None
        place: asyncio.Future[Connection | None] = loop.create_future()
        self.waiters[place] = None
        try:
            return await place
        except BaseException:
            # Runner one: we are cancelled. Runner two: it was just our turn. What we got goes to the next.
            self.waiters.pop(place, None)
            if place.done() and not place.cancelled() and place.exception() is None:
                given = place.result()
                if given is None:
                    self.free()
                elif given.is_usable():
                    self.put_back(given)
            raise

    def put_back(self, connection: Connection) -> None:
        """Take a clean connection: for the first who waits, else for later."""
        waiters = self.waiters
        while waiters:
            place = waiters.popitem(last=False)[0]
            if not place.done():
                place.set_result(connection)
                return
        self.idle[connection] = None

    def forget(self, connection: Connection) -> None:
        """Strike a closed connection off, once."""
        self.idle.pop(connection, None)
        if connection.adopted:
            connection.adopted = False
            self.free()

    def refuse(self, reason: UpstreamError) -> None:
        """Fail everyone who waits, and stop resolving."""
        while self.waiters:
            place = self.waiters.popitem(last=False)[0]
            if not place.done():
                place.set_exception(reason)
        if self.resolving is not None:
            self.resolving.cancel()

    def resolution_ended(self, question: asyncio.Future[Any]) -> None:
        """Forget a finished question; whoever asked it may be gone, so its failure counts as seen."""
        self.resolving = None
        if not question.cancelled():
            question.exception()
        self._leave_if_unused()

    def free(self) -> None:
        """Give one counted place to the first who waits, or give it up."""
        waiters = self.waiters
        while waiters:
            place = waiters.popitem(last=False)[0]
            if not place.done():
                place.set_result(None)
                return
        self.count -= 1
        self._leave_if_unused()

    def _leave_if_unused(self) -> None:
        """Tenants can name any number of hosts: one of theirs that nothing goes on with is not remembered."""
        if self.count == 0 and self.resolving is None and not self.trusted and self._all.get(self.key) is self:
            del self._all[self.key]
