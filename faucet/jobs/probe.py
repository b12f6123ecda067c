"""Three pages of the jobs' process for who watches it: alive, able to work, and what it counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import Receive, Scope, Send

from faucet.kit.config import Config
from faucet.kit.metrics import CONTENT_TYPE, Metrics

SERVICE = "@modelfaucet/jobs"


class Probe(uvicorn.Server):
    """Serves /health, /ready and /metrics on PORT_JOBS."""

    def __init__(self, config: Config, port: int, metrics: Metrics, is_ready: Callable[[], bool]) -> None:
        self._metrics = metrics
        self._token = config.metrics_token
        self._is_ready = is_ready
        super().__init__(
            uvicorn.Config(
                self._answer,
                host=config.bind_address,
                port=port,
                interface="asgi3",
                lifespan="off",
                ws="none",
                access_log=False,
                log_config=None,
                log_level="warning",
                server_header=False,
                proxy_headers=False,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, kind, body = self._page(scope)
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _page(self, scope: Scope) -> tuple[int, bytes, bytes]:
        if scope["path"] == "/health":
            return 200, b"application/json", json.dumps({"ok": True, "service": SERVICE}).encode()
        if scope["path"] == "/ready":
            ok = self._is_ready()
            reply = {"ok": ok, "service": SERVICE, "checks": {"database": ok}}
            return (200 if ok else 503), b"application/json", json.dumps(reply).encode()
        if scope["path"] != "/metrics":
            return 404, b"text/plain", b"there is nothing at this path\n"
        if self._token is not None:
            offered = dict(scope["headers"]).get(b"authorization", b"").removeprefix(b"Bearer ")
            if not self._token.matches(offered):
                return 401, b"text/plain", b"this needs the metrics token\n"
        return 200, CONTENT_TYPE.encode(), self._metrics.render()
