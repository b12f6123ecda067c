"""HTTP/1.1 towards clients: our own protocol inside uvicorn's server.

uvicorn keeps what it is good at: the listening socket, the life of connections, the graceful end. The protocol is
ours because the gateway owns bytes, cancellation and time here: a head and a body are bounded in size and in how
long they may take, a request starts when it is complete, a response is one write, and a lost connection tells the
request at once. Parsing is httptools' (llhttp). Not here: what a request means (`app.py` and below).
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from asyncio import Future, TimerHandle, Transport
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, cast

import httptools
import uvicorn
from uvicorn.server import ServerState

from faucet.gateway.exchange import Exchange, status_line, too_large
from faucet.kit.ids import request_id, uuid7

HEAD_SECONDS = 10.0
HEAD_BYTES = 65_536
BODY_SECONDS = 30.0
"""From the end of the head to the end of the body; a slower sender is turned away."""
KEEP_ALIVE_SECONDS = 75.0
PARTING_SECONDS = 2.0
UNREAD_SECONDS = 60.0
"""How long a client may leave its response unread before the connection is broken off."""
PIPELINE_MAX = 8
BACKLOG = 4096


class Answers(Protocol):
    """What the server serves."""

    max_body_bytes: int

    def answer(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """Answer one complete request. Never raises."""
        ...


class Connection(asyncio.Protocol):
    """One client connection: requests in, responses out, one after the other."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._app = cast(Answers, config.loaded_app)
        self._loop = _loop or asyncio.get_running_loop()
        self._connections = server_state.connections
        self._tasks = server_state.tasks
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Transport | None = None
        self._current: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._deaf = False
        """What still comes is not listened to: the connection is about to close."""
        self._task: asyncio.Task[None] | None = None
        self.drained: Future[None] | None = None
        # the request that is being read
        self._in_head = True
        self._head_bytes = 0
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._reading: Exchange | None = None
        self._body: list[bytes] = []
        self._body_bytes = 0
        # time: one timer, moved lazily
        self._due = self._loop.time() + HEAD_SECONDS
        self._timer: TimerHandle | None = None

    # ── asyncio's side ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(Transport, transport)
        self._connections.add(cast(Any, self))
        self._timer = self._loop.call_at(self._due, self._on_time)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._in_head:
            if self._head_bytes == 0:
                self._due = self._loop.time() + HEAD_SECONDS
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._turn_away(400, "this server speaks plain HTTP/1.1; don't ask for an upgrade")
            return
        except httptools.HttpParserError:
            if not self._deaf:
                self._turn_away(400, "this is not a valid HTTP request")
            return
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self._turn_away(431, "the request's head is too large")

    def eof_received(self) -> None:
        """A client that closes its side has left: returning nothing lets the transport close."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(cast(Any, self))
        self._deaf = True
        if self._timer is not None:
            self._timer.cancel()
        self.resume_writing()
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            exchange.left()
        if self._current is not None:
            self._current.left()
        self._be_waited_for()

    def _be_waited_for(self) -> None:
        """Let a server that stops wait for the request, and cut it off at the end of its patience.

        Only where that may be needed: its connection stands for it otherwise. Money may be on its way still.
        """
        task = self._task
        if task is not None and not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def pause_writing(self) -> None:
        self.drained = self._loop.create_future()

    def resume_writing(self) -> None:
        if self.drained is not None and not self.drained.done():
            self.drained.set_result(None)
        self.drained = None

    def shutdown(self) -> None:
        """The server is stopping: idle connections close, busy ones after their response."""
        if self._current is None and self._transport is not None:
            self._deaf = True
            self._transport.close()
        elif self._current is not None:
            self._current.keep_alive = False
            self._waiting.clear()
            self._be_waited_for()

    # ── httptools' side ──

    def on_message_begin(self) -> None:
        self._in_head = True
        self._url = b""
        self._headers = []
        self._body = []
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_bytes > HEAD_BYTES // 2:
            size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._headers)
            if size > HEAD_BYTES:
                self._turn_away(431, "the request's head is too large")
                return
        self._head_bytes = 0
        parser = self._parser
        exchange = Exchange(
            self,
            parser.get_method().decode("latin-1"),
            self._url,
            self._headers,
            keep_alive=parser.should_keep_alive(),
        )
        self._reading = exchange
        self._due = self._loop.time() + BODY_SECONDS
        if exchange.content_length > self._app.max_body_bytes:
            self._refuse_body(exchange)
        elif exchange.expects_continue and self._current is None and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if self._deaf or self._reading is None:
            return
        self._body.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > self._app.max_body_bytes:
            self._refuse_body(self._reading)

    def on_message_complete(self) -> None:
        exchange, self._reading = self._reading, None
        self._in_head = True
        if exchange is None or self._deaf:
            return
        body = self._body
        exchange.body = body[0] if len(body) == 1 else b"".join(body)
        self._body = []
        if self._current is None:
            self._start(exchange)
            return
        # Pipelined: answered in order. More than a few and the sender has to wait.
        self._waiting.append(exchange)
        if len(self._waiting) >= PIPELINE_MAX and self._transport is not None:
            self._transport.pause_reading()

    # ── the exchange's side ──

    async def room(self) -> None:
        """Wait for a slow reader to catch up; one that stopped reading is let go."""
        while self.drained is not None:
            try:
                async with asyncio.timeout(UNREAD_SECONDS):
                    await self.drained
            except TimeoutError:
                self.close()

    def send(self, data: bytes) -> None:
        """Write, unless the connection is gone."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def completed(self, exchange: Exchange) -> None:
        """The exchange's response is written whole."""
        self._current = None
        if self._transport is None or self._transport.is_closing():
            return
        if not exchange.keep_alive:
            self._part()
        elif self._waiting:
            was_full = len(self._waiting) >= PIPELINE_MAX
            self._start(self._waiting.popleft())
            if was_full:
                self._transport.resume_reading()
        else:
            self._due = self._loop.time() + KEEP_ALIVE_SECONDS

    def _start(self, exchange: Exchange) -> None:
        self._current = exchange
        self._task = self._loop.create_task(self._app.answer(exchange))

    def close(self) -> None:
        """Break the connection off: what was promised can't be completed."""
        self._deaf = True
        if self._transport is not None:
            self._transport.abort()

    # ── limits ──

    def _part(self) -> None:
        """Say no more. A client that still sends is listened to for a moment: closing on bytes that nobody has
        read makes its system throw away our last words (RFC 9112 §9.6)."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._deaf and transport.can_write_eof():
            transport.write_eof()
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(PARTING_SECONDS, transport.close)
        else:
            self._deaf = True
            transport.close()

    def _refuse_body(self, exchange: Exchange) -> None:
        """Too large: say so without reading on, then close."""
        self._reading = None
        self._deaf = True
        self._body = []
        exchange.keep_alive = False
        if self._current is not None:
            self._current.keep_alive = False  # its answer is still owed; then the connection closes
            self._waiting.clear()
            return
        self._current = exchange
        self._task = self._loop.create_task(exchange.refuse(too_large(self._app.max_body_bytes)))

    def _on_time(self) -> None:
        """Look whether something is overdue; else look again when it would be."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        now = self._loop.time()
        if self._current is not None and self._reading is None:
            self._timer = self._loop.call_at(now + BODY_SECONDS, self._on_time)
        elif now < self._due:
            # Soon enough for a head that may begin, and dawdle, meanwhile.
            self._timer = self._loop.call_at(min(self._due, now + HEAD_SECONDS), self._on_time)
        elif self._reading is not None:
            self._turn_away(408, f"the body did not arrive within {BODY_SECONDS:.0f} seconds")
        elif self._head_bytes:
            self._turn_away(408, f"the request's head did not arrive within {HEAD_SECONDS:.0f} seconds")
        else:
            self._deaf = True
            transport.close()

    def _turn_away(self, status: int, text: str) -> None:
        """The envelope for what never became a request; then the connection closes."""
        if self._deaf:
            return
        self._deaf = True
        self._reading = None
        if self._transport is None:
            return
        if self._current is not None:
            # A response is under way; after it there is nothing more to say to this client.
            self._current.keep_alive = False
            self._waiting.clear()
            return
        ours = request_id(uuid7())
        error = {
            "code": "invalid_request",
            "message": text,
            "request_id": ours,
            "type": "invalid_request_error",
            "param": None,
        }
        body = json.dumps({"error": error}).encode()
        self._transport.write(
            status_line(status)
            + b"content-type: application/json\r\nconnection: close\r\nx-request-id: "
            + ours.encode()
            + b"\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )
        self._part()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket that several processes may share: the kernel spreads connections over them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


async def serve(app: Answers, listener: socket.socket, *, drain_seconds: float, on_drain: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; then take no new request and let those in flight end."""
    config = uvicorn.Config(
        cast(Any, app),
        http=cast(Any, Connection),
        ws="none",
        loop="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=int(drain_seconds),
    )
    config.load()
    config.loaded_app = app  # as it is: uvicorn would wrap it for ASGI
    server = uvicorn.Server(config)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        on_drain()
        server.should_exit = True

    stops = (signal.SIGTERM, signal.SIGINT)
    for number in stops:
        loop.add_signal_handler(number, stop)
    try:
        await server._serve([listener])
    finally:
        for number in stops:
            loop.remove_signal_handler(number)
