"""The control plane as an app and as a process: routes, layers, start and end. No logic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from faucet.api import (
    adjustments,
    app_sessions,
    apps,
    auto_top_ups,
    control,
    developer_keys,
    developers,
    docs,
    end_user_keys,
    end_users,
    exports,
    features,
    health,
    invoices,
    local_usage,
    operations,
    payout_desk,
    payouts,
    periods,
    platform_keys,
    price_sync,
    prices,
    promos,
    reports,
    series,
    sessions,
    signing_keys,
    spend_limits,
    statements,
    stripe_events,
    tokens,
    top_up_desk,
    top_ups,
    wallets,
    webhooks,
)
from faucet.api.document import complete
from faucet.api.edge import Edge
from faucet.api.errors import respond
from faucet.api.health import SERVICE
from faucet.api.protocol import ApiProtocol
from faucet.api.wire import ErrorReply
from faucet.api.world import ROLE, World
from faucet.kit.clock import Clock
from faucet.kit.config import Config
from faucet.kit.db import open_pool
from faucet.kit.errors import Refusal
from faucet.kit.log import logger
from faucet.kit.metrics import Metrics
from faucet.kit.upstream import Pool
from faucet.limits.bucket import Bucket
from faucet.payments.connect import connect_of
from faucet.payments.stripe_top_ups import top_ups_of
from faucet.providers.probe import Prober

KEEP_ALIVE_SECONDS = 75
POOL_SIZE = 8

_ROUTES = (
    health,
    sessions,
    wallets,
    end_users,
    local_usage,
    end_user_keys,
    top_ups,
    auto_top_ups,
    stripe_events,
    reports,
    tokens,
    apps,
    app_sessions,
    signing_keys,
    features,
    developer_keys,
    webhooks,
    operations,
    series,
    exports,
    statements,
    periods,
    invoices,
    payouts,
    developers,
    adjustments,
    spend_limits,
    payout_desk,
    top_up_desk,
    promos,
    prices,
    price_sync,
    platform_keys,
    control,
    docs,
)
_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "Whatever else HTTP may refuse: a method, a head that is too large."},
    "5XX": {"model": ErrorReply, "description": "Something failed that is not the caller's doing."},
}


def build_app(
    config: Config, dsn: str | None = None, *, clock: Clock | None = None, upstream: Pool | None = None
) -> FastAPI:
    """The app over the database at `dsn`, else the configured one. Its lifespan opens and closes the pool.

    `upstream` is what providers are asked through, where their names resolve otherwise than by the system.

    It starts without the database too, and is then not ready. Raises ValueError where no database is named.
    """
    if dsn is None:
        if config.database_url is None:
            raise ValueError("name a database: DATABASE_URL is not set, and no dsn was given")
        dsn = config.database_url.reveal()
    metrics = Metrics(SERVICE)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool = await open_pool(dsn, ROLE, size=POOL_SIZE)
        prober = Prober(upstream)
        app.state.world = World(
            config,
            pool,
            clock or Clock(),
            metrics,
            prober,
            connect=connect_of(config),
            top_ups=top_ups_of(config),
            bearers=_bucket(config.api_rate_limit_max_requests, config.api_rate_limit_window_ms),
            session_bucket=_bucket(config.session_rate_limit_max_requests, config.session_rate_limit_window_ms),
        )
        try:
            yield
        finally:
            await prober.close()
            await pool.close()

    app = _assemble(lifespan)
    app.add_middleware(Edge, config=config, metrics=metrics)
    return app


def _bucket(most: int, window_ms: int) -> Bucket | None:
    """A limit of requests in a window, if there is one."""
    return Bucket(most, window_ms / 1000) if most else None


def openapi_document() -> dict[str, Any]:
    """The OpenAPI 3.1 document of all routes; the same whatever the settings."""
    return _assemble(None).openapi()


def _assemble(lifespan: Any) -> FastAPI:
    app = _App(
        title="ModelFaucet Control API",
        version="2.0.0",
        description="Developers, apps and their features; sessions, wallets and keys of end users; top-ups, payouts,"
        " statements, reports; and the operator's levers. Money is a decimal string of eight places.",
        lifespan=lifespan,
        openapi_url="/openapi.json",
        docs_url=None,  # FastAPI's pages load their scripts from other hosts; ours is `docs`
        redoc_url=None,
        redirect_slashes=False,
        responses=_ERRORS,
        generate_unique_id_function=lambda route: route.name,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    for room in _ROUTES:
        app.include_router(room.router)
    for kind in (Refusal, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _refuse)
    return app


class _App(FastAPI):
    """FastAPI's app, whose document has all errors and an example of each body."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = complete(super().openapi())
        return self.openapi_schema


async def _refuse(request: Request, error: Exception) -> Response:
    return respond(error, request.state.request_id)


def server_config(config: Config, app: FastAPI) -> uvicorn.Config:
    """How the app is served."""
    return uvicorn.Config(
        app,
        host=config.bind_address,
        port=config.port_api,
        http=ApiProtocol,
        lifespan="on",
        ws="none",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=False,  # the edge believes only the proxies that are configured
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=config.drain_seconds,
    )


async def run(config: Config, dsn: str | None = None, *, on_ready: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGTERM or SIGINT, then let requests in flight end."""
    await _Server(server_config(config, build_app(config, dsn)), on_ready).serve()


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it listens."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            logger.info("api.ready", port=self.config.port)
            self._on_ready()


def main(config: Config, dsn: str | None = None) -> None:
    """Run the API on uvloop until SIGTERM or SIGINT."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(config, dsn))
