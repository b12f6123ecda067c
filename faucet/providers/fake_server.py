"""The mock provider as a server.

`serve` runs until stopped; `MockProvider` is the same for tests, inside their own loop. Answers come from
`fake`, connections are `fake_http`'s; here are the routes, the bearer, the cache and the counters:

    POST /v1/chat/completions                     GET /requests/count   {"chat", "hung_up", "bytes_sent"}
    POST /v1/messages                             POST /v1beta/models/{model}:generateContent and its kin
    POST /v1/embeddings
    GET  /v1/models, /v1/models/{model}, /health  GET /requests/last    the last bodies and headers
    POST /sick?percent=50                         answers 500 to that share of chat requests, until told otherwise

A key with one of these words in it is treated so: `-wrong-` 401, `-barred-` 403, `-limited-` 429, `-broken-` 500.

`python -m faucet.providers.fake_server --port 0` prints one JSON line {"url": …} when it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hmac
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from hashlib import sha256
from types import TracebackType
from typing import Any

import msgspec
import uvloop

from faucet.providers import fake
from faucet.providers.fake import Answer
from faucet.providers.fake_ask import FAILURES, MODELS, Problem
from faucet.providers.fake_faces import EMBEDDERS, face_of
from faucet.providers.fake_http import CHAT_PATH, Connection, Headers, Ready, Request, prepared

PORT = 4010
LAST_LIMIT = 100
LAST_BYTES_LIMIT = 32 << 20
CACHE_LIMIT = 512
CACHED_BODY_LIMIT = 64 << 10
_KEYS = {
    b"-wrong-": (401, "Incorrect API key provided.", "invalid_api_key"),
    b"-barred-": (403, "This key may not do that.", "forbidden"),
    b"-limited-": (429, "Rate limit reached.", "rate_limit_exceeded"),
    b"-broken-": (500, "The server had an error.", "server_error"),
}
_SICK = Problem(500, "The server had an error.", kind="server_error")
_SECRET_HEADERS = {"authorization", "api-key", "x-api-key", "x-goog-api-key"}
_KEY_HEADERS = (b"x-api-key", b"x-goog-api-key", b"api-key")


class MockProvider:
    """The state behind all connections, and the listener. Use as an async context manager, or `serve`."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        api_key: str | None = None,
        delay_ms: int = 0,
        chunk_delay_ms: int = 0,
    ) -> None:
        self.host = host
        self.port = port
        self.api_key = api_key
        self.delay_ms = delay_ms
        self.chunk_delay_ms = chunk_delay_ms
        self.sick_percent = 0
        self._sickness = 0
        self.chat = 0
        self.hung_up = 0
        self.bytes_sent = 0
        self.connections: set[Connection] = set()
        self._last: deque[tuple[Headers, bytes]] = deque()
        self._last_bytes = 0
        self._cache: dict[bytes, Ready] = {}
        self._failed: dict[bytes, int] = {}
        self._started = int(time.time())
        self._serial_tag = os.urandom(6).hex().encode()
        self._serial = 0
        self._listener: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The base address for OpenAI clients."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"

    async def __aenter__(self) -> MockProvider:
        """Listen. With port 0, `port` is the one that the system chose."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self, loop), self.host, self.port)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """Stop listening and close every connection at once."""
        if self._listener is not None:
            self._listener.close()
            for connection in list(self.connections):
                connection.abort()
            await self._listener.wait_closed()

    def serial(self) -> bytes:
        """A new reply's own part of its id: 24 hex digits, always of one length."""
        self._serial += 1
        return b"%b%012x" % (self._serial_tag, self._serial)

    def answer(self, request: Request) -> Ready:
        """The answer to a request. Raises Problem (400, 401, 404, 405)."""
        if request.is_chat:
            return self._chat(request)
        face = face_of(request.path) if request.method == b"POST" else None
        if face is None:
            return prepared(self._other(request))
        self._check_bearer(request.headers)
        self._saw(request)
        return prepared(face(request.path, request.body))

    def _chat(self, request: Request) -> Ready:
        """The answer to a chat request, counted and recorded. Raises Problem (400, 401, 403, 404, 429, 500)."""
        self._check_bearer(request.headers)
        body = request.body
        ready = self._cache.get(body)
        if ready is None:
            ready = prepared(fake.answer(body))
            if len(body) <= CACHED_BODY_LIMIT:
                if len(self._cache) >= CACHE_LIMIT:
                    del self._cache[next(iter(self._cache))]
                self._cache[body] = ready
        self._saw(request)
        if self.sick_percent:
            self._sickness += self.sick_percent
            if self._sickness >= 100:
                self._sickness -= 100
                raise _SICK
        if ready.answer.fail_times and self._fails_once_more(body, ready.answer.fail_times):
            return prepared(fake.FLAKY)
        return ready

    def _saw(self, request: Request) -> None:
        self.chat += 1
        self._last.append((request.headers, request.body))
        self._last_bytes += len(request.body)
        while len(self._last) > LAST_LIMIT or (self._last_bytes > LAST_BYTES_LIMIT and len(self._last) > 1):
            self._last_bytes -= len(self._last.popleft()[1])

    def _fails_once_more(self, body: bytes, times: int) -> bool:
        key = sha256(body).digest()
        failed = self._failed.get(key, 0)
        if failed >= times:
            return False
        if len(self._failed) >= 10_000:
            del self._failed[next(iter(self._failed))]
        self._failed[key] = failed + 1
        return True

    def _check_bearer(self, headers: Headers) -> None:
        """Raises Problem (401) where a key is set and the request doesn't carry it, and what a key's words say."""
        given = next((value for name, value in headers if name.lower() == b"authorization"), b"")
        if b"-" in given:
            for word, (status, message, code) in _KEYS.items():
                if word in given:
                    raise Problem(status, message, code=code)
        if self.api_key is None:
            return
        shown = {name.lower(): value for name, value in headers}
        given = next((b"bearer " + shown[name] for name in _KEY_HEADERS if name in shown), b"")
        scheme, _, key = shown.get(b"authorization", given).partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(key.strip(), self.api_key.encode()):
            raise Problem(401, "Incorrect API key provided.", code="invalid_api_key")

    def _other(self, request: Request) -> Answer:
        """The answer to anything but a chat request. Raises Problem (401, 404, 405)."""
        path = request.path.partition(b"?")[0].decode("latin-1")
        if path == "/sick":
            return self._fall_sick(request)
        name = path.removeprefix("/v1/models/")
        pages: dict[str, Callable[[], dict[str, Any]]] = {
            "/health": lambda: {"ok": True, "service": "mock-provider"},
            "/requests/count": self._counters,
            "/requests/last": self._last_seen,
            "/v1/models": lambda: fake.models(self._started),
        }
        if name in MODELS or name in FAILURES or name in EMBEDDERS:
            pages[path] = lambda: fake.model(name, self._started)
        if request.path == CHAT_PATH:
            raise Problem(405, "Only POST is allowed here.", headers=(("allow", "POST"),))
        if path not in pages:
            raise Problem(404, f"Unknown address {path}.", code="not_found")
        if request.method not in (b"GET", b"HEAD"):
            raise Problem(405, "Only GET is allowed here.", headers=(("allow", "GET, HEAD"),))
        if path.startswith("/v1/"):
            self._check_bearer(request.headers)
        return Answer(200, (msgspec.json.encode(pages[path]()),))

    def _fall_sick(self, request: Request) -> Answer:
        """Fail a share of chat requests from now on. Raises Problem (400, 405)."""
        if request.method != b"POST":
            raise Problem(405, "Only POST is allowed here.", headers=(("allow", "POST"),))
        percent = request.path.partition(b"percent=")[2]
        if not percent.isdigit() or int(percent) > 100:
            raise Problem(400, "percent must be 0 to 100.", param="percent")
        self.sick_percent = int(percent)
        return Answer(200, (msgspec.json.encode({"percent": self.sick_percent}),))

    def _counters(self) -> dict[str, Any]:
        return {"chat": self.chat, "hung_up": self.hung_up, "bytes_sent": self.bytes_sent}

    def _last_seen(self) -> dict[str, Any]:
        """The last chat requests, oldest first; of a key only the start of its hash."""
        seen = []
        for headers, body in self._last:
            shown = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
            for name in shown.keys() & _SECRET_HEADERS:
                key = shown[name].removeprefix("Bearer ").strip()
                shown[name] = "sha256:" + sha256(key.encode()).hexdigest()[:12]
            seen.append({"headers": shown, "body": msgspec.json.decode(body)})
        return {"items": seen}


async def serve(
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    api_key: str | None = None,
    delay_ms: int = 0,
    chunk_delay_ms: int = 0,
    ready: Callable[[int], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until `stop` is set, or for ever. `ready` is told the port once connections are accepted."""
    provider = MockProvider(host, port, api_key=api_key, delay_ms=delay_ms, chunk_delay_ms=chunk_delay_ms)
    async with provider:
        if ready is not None:
            ready(provider.port)
        await (stop or asyncio.Event()).wait()


async def _serve_until_signalled(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def ready(port: int) -> None:
        gc.collect()
        gc.freeze()
        url = MockProvider(options.host, port).url
        print(msgspec.json.encode({"url": url}).decode(), flush=True)

    await serve(
        options.host,
        options.port,
        api_key=options.api_key,
        delay_ms=options.delay_ms,
        chunk_delay_ms=options.chunk_delay_ms,
        ready=ready,
        stop=stop,
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line: serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="fake_server", description="A deterministic OpenAI-compatible mock.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=PORT, help="0 lets the system choose")
    parser.add_argument("--api-key", help="refuse every other bearer")
    parser.add_argument("--delay-ms", type=int, default=0, help="before the first byte of a chat answer")
    parser.add_argument("--chunk-delay-ms", type=int, default=0, help="between the events of a stream")
    uvloop.run(_serve_until_signalled(parser.parse_args(arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
