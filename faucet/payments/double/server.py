"""The double as a server: reads a request, finds who answers, keeps replies for idempotency keys.

`StripeDouble` listens inside the caller's loop, `faucet mock-stripe` runs one by itself. Requests are answered one at
a time, so each sees a whole state. Not here: what a resource does (its module), the knobs (`control`).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import uvicorn

from faucet.payments.double import memory
from faucet.payments.double import params as forms
from faucet.payments.double.control import CONTROLS, Failure, Knobs
from faucet.payments.double.problem import Problem
from faucet.payments.double.resources import CONTROLS_OF_RESOURCES, PAGES, ROUTES, TICKS
from faucet.payments.double.routes import EXPAND, Call, Route
from faucet.payments.double.state import API_VERSION, Object, State, expanded
from faucet.payments.double.webhooks import Endpoint, Webhooks

PORT = 4242
BODY_BYTES_MAX = 1 << 20
KEY_CHARACTERS_MAX = 255
KEY_SECONDS = 86_400
"""How long a key is remembered."""
TICK_SECONDS = 1.0

Send = Callable[[dict[str, Any]], Awaitable[None]]
Reply = tuple[int, bytes, dict[str, str]]


class StripeDouble:
    """A double and its listener. Use as an async context manager: `async with StripeDouble() as double`."""

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, webhook: Endpoint | None = None, kept_in: Path | None = None
    ) -> None:
        self.host = host
        self.port = port
        self.state = State()
        self.webhooks = Webhooks(self.state, [webhook] if webhook else [])
        self.state.listeners.append(self.webhooks.on_event)
        self.knobs = Knobs(self.state, self.webhooks, self._tick)
        self._kept: memory.Replies = {}
        self._kept_in = kept_in
        if kept_in is not None:
            self._kept |= memory.load(kept_in, self.state)
        self._is_changed = False
        self._server: _Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.host}:{self.port}"

    async def __aenter__(self) -> StripeDouble:
        """Listen. With port 0, `port` is the one that the system chose."""
        listener = socket.create_server((self.host, self.port))
        # asyncio does this only for sockets that name their protocol; without it a reply waits for a delayed ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = int(listener.getsockname()[1])
        self.state.base_url = self.url
        config = uvicorn.Config(
            self._answer,
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            log_level="critical",
            interface="asgi3",
            proxy_headers=False,
        )
        self._server = _Server(config)
        self._tasks = [
            asyncio.create_task(self._server.serve(sockets=[listener]), name="stripe-double"),
            asyncio.create_task(self._keep_time(), name="stripe-double-clock"),
        ]
        while not self._server.started:
            await asyncio.sleep(0.01)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """Stop listening and send nothing more."""
        await self.webhooks.close()
        self._save()
        if self._server is not None:
            self._server.should_exit = True
            self._server.force_exit = True
        self._tasks[1].cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _tick(self) -> None:
        for tick in TICKS:
            tick(self.state)

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._tick()
            self._save()

    def _save(self) -> None:
        if self._kept_in is not None and self._is_changed:
            self._is_changed = False
            memory.save(self._kept_in, self.state, self._kept)

    async def _answer(self, scope: Mapping[str, Any], receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > BODY_BYTES_MAX or not message.get("more_body"):
                break
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path, method = scope["path"], scope["method"]
        self._is_changed = self._is_changed or method != "GET"
        try:
            if path.startswith("/_control/"):
                reply = await self._control(method, path, body)
            elif path.startswith("/v1/"):
                reply = await self._api(method, path, scope["query_string"].decode("latin-1"), body, headers)
            else:
                reply = self._page(method, path, scope["query_string"].decode("latin-1"), body)
        except Problem as problem:
            reply = _json(problem.status, problem.body)
        except _BreakOff:
            await _drop(send)
            return
        await _write(send, reply)

    # ── the API ──

    async def _api(self, method: str, path: str, query: str, body: bytes, headers: dict[str, str]) -> Reply:
        """The reply. Raises Problem, and _BreakOff where the connection is to break."""
        _check_key(headers)
        route, own = _route(method, path)
        failure = self.knobs.failure(method, route.path)
        if failure is not None:
            await _fail_before(failure)
        text = body.decode("utf-8", "replace") if method == "POST" else query
        reply = self._asked(route, own, text, headers)
        if failure is not None and failure.how == "drop_after":
            raise _BreakOff
        return reply

    def answer(self, method: str, path: str, text: str, headers: dict[str, str]) -> Reply:
        """The API's reply without a socket: `text` is the form of a POST, else the query; headers in small letters."""
        try:
            _check_key(headers)
            route, own = _route(method, path)
            return self._asked(route, own, text, headers)
        except Problem as problem:
            return _json(problem.status, problem.body)

    def _asked(self, route: Route, own: dict[str, str], text: str, headers: dict[str, str]) -> Reply:
        key = headers.get("idempotency-key") if route.method == "POST" else None
        return self._once(route, own, text, key, headers.get("stripe-account") or None)

    def _once(self, route: Route, own: dict[str, str], text: str, key: str | None, account: str | None) -> Reply:
        """The reply to a request, which is the kept one where its idempotency key was used before."""
        request_id = {"request-id": self.state.new_id("req"), "stripe-version": API_VERSION}
        if key is None:
            return self._run(route, own, text, account, None, request_id)
        if len(key) > KEY_CHARACTERS_MAX:
            raise Problem(400, "Idempotency key is too long.", kind="idempotency_error")
        fingerprint = hashlib.sha256(f"{route.method} {route.path} {sorted(own.items())}\n{text}".encode()).hexdigest()
        kept = self._kept.get(f"{account} {key}")
        if kept is not None and self.state.now() - kept[2] < KEY_SECONDS:
            if kept[0] != fingerprint:
                raise Problem(
                    400,
                    "Keys for idempotent requests can only be used with the same parameters they were first used with."
                    f" Try using a key other than '{key}' if you meant to execute a different request.",
                    kind="idempotency_error",
                )
            status, content, shown = kept[1]
            return status, content, shown | {"idempotent-replayed": "true"} | request_id
        reply = self._run(route, own, text, account, key, request_id | {"idempotency-key": key})
        self._kept[f"{account} {key}"] = (fingerprint, reply, self.state.now())
        return reply

    def _run(
        self,
        route: Route,
        own: dict[str, str],
        text: str,
        account: str | None,
        key: str | None,
        headers: dict[str, str],
    ) -> Reply:
        """Read the parameters, which is not kept under a key when it fails, and answer."""
        params = forms.checked(forms.decode(text), {**route.params, **EXPAND})
        expand = params.pop("expand", [])
        self.state.asked = key
        try:
            made = route.act(self.state, Call(params, own, account))
            return _json(200, expanded(self.state, made, expand), headers)
        except Problem as problem:
            return _json(problem.status, problem.body, headers)
        finally:
            self.state.asked = None

    # ── knobs and pages ──

    async def _control(self, method: str, path: str, body: bytes) -> Reply:
        act = CONTROLS.get((method, path)) or CONTROLS_OF_RESOURCES.get((method, path))
        if act is None:
            raise Problem(404, f"There is no {method} {path} here.")
        try:
            ask = json.loads(body) if body else {}
        except ValueError:
            raise Problem(400, "The body is not JSON.") from None
        if not isinstance(ask, dict):
            raise Problem(400, "The body is not a JSON object.")
        if path == "/_control/reset":
            self._kept.clear()
        try:
            return _json(200, await act(self.knobs, ask))
        except (KeyError, TypeError, ValueError) as error:
            raise Problem(400, f"{type(error).__name__}: {error}") from None

    def _page(self, method: str, path: str, query: str, body: bytes) -> Reply:
        if (method, path) == ("GET", "/health"):
            return _json(200, {"ok": True, "service": "stripe-double"})
        for page in PAGES:
            own = Route(page.method, page.path, lambda state, call: {}).match(path) if page.method == method else None
            if own is not None:
                fields = forms.decode(body.decode("utf-8", "replace") if method == "POST" else query)
                shown = page.act(self.state, Call(fields, own))
                headers = {"content-type": "text/html; charset=utf-8", "cache-control": "no-store"}
                if shown.location is not None:
                    headers["location"] = shown.location
                return shown.status, shown.body.encode(), headers
        raise Problem(404, f"Unrecognized request URL ({method}: {path}).")


class _BreakOff(Exception):
    """The connection is to break."""


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to the process that it is in."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _check_key(headers: dict[str, str]) -> None:
    """Raises Problem (401) for a request without a secret key of the test mode."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode().partition(":")[0]
        except ValueError:
            value = ""
    if not value:
        raise Problem(401, "You did not provide an API key.")
    if not value.startswith(("sk_test_", "rk_test_")):
        raise Problem(401, "Invalid API Key provided. The double takes keys that begin with sk_test_.")


def _route(method: str, path: str) -> tuple[Route, dict[str, str]]:
    """Who answers, with the path's own parameters. Raises Problem (404)."""
    for route in ROUTES:
        if route.method == method and (own := route.match(path)) is not None:
            return route, own
    raise Problem(
        404,
        f"Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs or we can help at "
        "https://support.stripe.com/.",
    )


async def _fail_before(failure: Failure) -> None:
    """What a failure does before the request is carried out. Raises Problem, _BreakOff."""
    if failure.how == "delay":
        await asyncio.sleep(failure.seconds)
    elif failure.how == "drop_before":
        raise _BreakOff
    elif failure.how == "refuse":
        raise Problem(failure.status, failure.message, kind=failure.kind, code=failure.code)


def _json(status: int, content: Object | Any, headers: dict[str, str] | None = None) -> Reply:
    return status, json.dumps(content, indent=2).encode(), {"content-type": "application/json"} | (headers or {})


async def _write(send: Send, reply: Reply) -> None:
    status, content, headers = reply
    shown = headers | {"content-length": str(len(content))}
    encoded = [(name.encode(), value.encode("latin-1", "replace")) for name, value in shown.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": content})


async def _drop(send: Send) -> None:
    """Begin an answer that never ends: the server closes the connection under it."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
