"""A provider that judges keys, on loopback, behind a public name: it is reached through a pool that lets the address
guard judge made-up public addresses first and then connects to the one server that there is.

What a key gets is in its words: `good` 200, `wrong` 401, `barred` 403, `limited` 429, `broken` 500 with every header of
the request in the body, `moved` a redirect, `google` Google's way to refuse, `silent` nothing.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from faucet.kit.upstream import Endpoint, Pool
from faucet.kit.upstream_pool import Origin

PUBLIC = "93.184.215.14"
NAMES: dict[str, Sequence[str]] = {
    "llm.example.com": [PUBLIC],
    "res.openai.azure.com": [PUBLIC],
    "inside.example.com": ["10.1.2.3"],
    "mixed.example.com": [PUBLIC, "169.254.169.254"],
    "six.example.com": ["64:ff9b::7f00:1"],
}
"""The names that resolve. Everybody else's don't: no test asks a real provider."""


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a name that this provider, or an attacker, has."""
    if host not in NAMES:
        raise OSError(f"{host} is not known here")
    return NAMES[host]


class Rerouted(Pool):
    """A pool whose connections go to loopback after the guard has judged where they would have gone."""

    def __init__(self) -> None:
        super().__init__(resolve=resolve)

    async def _checked_addresses(
        self, loop: asyncio.AbstractEventLoop, origin: Origin, endpoint: Endpoint
    ) -> list[str]:
        await super()._checked_addresses(loop, origin, endpoint)
        return ["127.0.0.1"]


class KeyedProvider:
    """The server while the block runs, with every request that it got."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.answers: dict[str, int] = {"good": 200, "wrong": 401, "barred": 403, "limited": 429}

        def get(request: BaseHTTPRequestHandler) -> None:
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.seen.append((request.path, headers))
            self.answer(request, headers)

        methods = {"protocol_version": "HTTP/1.1", "do_GET": get, "log_message": lambda *_: None}
        answer = type("Answer", (BaseHTTPRequestHandler,), methods)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), answer)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.base_url = f"http://llm.example.com:{self.port}/v1"

    def answer(self, request: BaseHTTPRequestHandler, headers: dict[str, str]) -> None:
        """Answer by the words in the key."""
        key = " ".join(headers.get(name, "") for name in ("authorization", "api-key", "x-api-key", "x-goog-api-key"))
        status, body = next((code for word, code in self.answers.items() if word in key), 404), b"{}"
        if "broken" in key:
            status, body = 500, json.dumps(headers).encode()
        elif "moved" in key:
            status = 302
        elif "google" in key:
            status, body = 400, b'{"error":{"details":[{"reason":"API_KEY_INVALID"}]}}'
        elif "silent" in key:
            request.close_connection = True
            return
        request.send_response(status)
        if status == 302:
            request.send_header("location", "http://169.254.169.254/latest/meta-data")
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def __enter__(self) -> KeyedProvider:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
