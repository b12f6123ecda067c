"""The kept server under the gateway: uvicorn with limits on what a client may take its time for.

uvicorn has no limit on the size of a head nor on how long one may take, and tells an app of a lost connection
only when asked. This subclass adds those three things and our error envelope; everything else is uvicorn's.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from asyncio import TimerHandle
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from faucet.gateway import direct
from faucet.kit.ids import request_id, uuid7

HEAD_SECONDS = 10.0
HEAD_BYTES = 65_536
KEEP_ALIVE_SECONDS = 75
BACKLOG = 4096


class GatewayProtocol(HttpToolsProtocol):
    """One connection, with a bounded head and a callback when it is lost."""

    _in_head = True
    _head_bytes = 0
    _head_timer: TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            if self._head_bytes > HEAD_BYTES:
                self._turn_away(431, "the request's head is too large")
            elif self._head_timer is None and self._head_bytes:
                self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._head_bytes > HEAD_BYTES // 2:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > HEAD_BYTES:
                self._turn_away(431, "the request's head is too large")
                return
        self._head_bytes = 0
        super().on_headers_complete()
        self.scope[direct.KEY] = self.cycle  # type: ignore[literal-required]

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.cycle is not None and not self.transport.is_closing():
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().connection_lost(exc)
        cycles = [cycle for cycle, _ in self.pipeline]
        if self.cycle is not None:
            cycles.append(self.cycle)
        for cycle in cycles:
            gone: Callable[[], None] | None = cycle.scope.get("faucet.gone")  # type: ignore[assignment]
            if gone is not None and not cycle.response_complete:
                gone()

    def send_400_response(self, msg: str) -> None:
        self._turn_away(400, "this is not a valid HTTP request")

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport is None or self.transport.is_closing():
            return
        if self._head_bytes == 0:
            self.transport.close()
        else:
            self._turn_away(408, f"the request's head did not arrive within {HEAD_SECONDS:.0f} seconds")

    def _turn_away(self, status: int, text: str) -> None:
        """The envelope, written by hand because no request exists to answer; then the connection closes."""
        ours = request_id(uuid7())
        error = {
            "code": "invalid_request",
            "message": text,
            "request_id": ours,
            "type": "invalid_request_error",
            "param": None,
        }
        body = json.dumps({"error": error}).encode()
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: application/json\r\nconnection: close\r\nx-request-id: "
            + ours.encode()
            + b"\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()


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


async def serve(app: Any, listener: socket.socket, *, drain_seconds: float, on_drain: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; then take no new request and let those in flight end."""
    config = uvicorn.Config(
        app,
        http=GatewayProtocol,
        ws="none",
        loop="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(drain_seconds),
    )
    server = uvicorn.Server(config)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        on_drain()
        server.should_exit = True

    stops = (signal.SIGTERM, signal.SIGINT)
    for number in stops:
        loop.add_signal_handler(number, stop)
    try:
        config.load()
        await server._serve([listener])
    finally:
        for number in stops:
            loop.remove_signal_handler(number)
