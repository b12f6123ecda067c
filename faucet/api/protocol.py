"""HTTP towards clients: uvicorn's own protocol, with a bounded head and our envelope for what is no HTTP at all.

uvicorn bounds neither the size of a request's head nor the time that one may take, and answers bytes that it can't
parse in plain text. Bodies, and everything that is a request, are the edge's.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from faucet.kit.ids import request_id, uuid7

HEAD_SECONDS = 10.0
HEAD_BYTES = 65_536


class ApiProtocol(HttpToolsProtocol):
    """One connection."""

    _in_head = True
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

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
        if self._head_bytes > HEAD_BYTES:
            # What came may have been mostly body: only now can the head be measured.
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > HEAD_BYTES:
                self._turn_away(431, "the request's head is too large")
                return
        self._head_bytes = 0
        super().on_headers_complete()

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
        body = json.dumps({"error": {"code": "invalid_request", "message": text, "request_id": ours}}).encode()
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: application/json\r\nconnection: close\r\nx-request-id: "
            + ours.encode()
            + b"\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()
