"""An upstream on loopback that answers every POST as a test says, and keeps what it was asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Answer:
    """A status, headers, and a body in the pieces in which it is written; a number is a pause in seconds."""

    status: int
    pieces: tuple[bytes | float, ...]
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)


class AnsweringProvider:
    """The server while the block runs."""

    def __init__(self, answer: Callable[[dict[str, str], bytes], Answer]) -> None:
        self.asked: list[bytes] = []
        """The bodies that it got."""
        self.answer = answer

        def post(request: BaseHTTPRequestHandler) -> None:
            body = request.rfile.read(int(request.headers.get("content-length", 0)))
            self.asked.append(body)
            told = self.answer({name.lower(): value for name, value in request.headers.items()}, body)
            request.send_response(told.status)
            for name, value in (*told.headers, ("connection", "close")):
                request.send_header(name, value)
            request.end_headers()
            for piece in told.pieces:
                if isinstance(piece, bytes):
                    request.wfile.write(piece)
                    request.wfile.flush()
                else:
                    time.sleep(piece)
            request.close_connection = True

        methods = {"protocol_version": "HTTP/1.1", "do_POST": post, "log_message": lambda *_: None}
        handler = type("Answering", (BaseHTTPRequestHandler,), methods)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> AnsweringProvider:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
