"""A developer's server that receives webhooks on loopback, and the way of the jobs that reach it by a public name."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks.webhooks import Webhook


@dataclass(frozen=True)
class Message:
    """What arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event

    def verified(self, secret: str) -> dict[str, Any]:
        """The event, checked by the specification's own library."""
        event: dict[str, Any] = Webhook(secret).verify(self.body, self.headers)
        return event


class Receiver:
    """The server while the block runs, with everything that it got. `status` is what it answers."""

    def __init__(self, status: int = 204) -> None:
        self.got: list[Message] = []
        self.status = status
        self.location: str | None = None
        self.before_answer: Callable[[Message], None] | None = None
        """Called when a message is whole and before it is answered."""

        def post(request: BaseHTTPRequestHandler) -> None:
            body = request.rfile.read(int(request.headers["content-length"]))
            message = Message(request.path, {k.lower(): v for k, v in request.headers.items()}, body)
            self.got.append(message)
            if self.before_answer is not None:
                self.before_answer(message)
            try:
                request.send_response(self.status)
                if self.location is not None:
                    request.send_header("location", self.location)
                request.send_header("content-length", "0")
                request.end_headers()
            except OSError:
                pass  # who sent it is dead

        methods = {"protocol_version": "HTTP/1.1", "do_POST": post, "log_message": lambda *_: None}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answer", (BaseHTTPRequestHandler,), methods))
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.url = f"http://127.0.0.1:{self.port}/hooks"

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
