"""Is it up, can it work, what has it counted: for load balancers and monitoring."""

from __future__ import annotations

import asyncio
from typing import LiteralString

import psycopg
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from faucet.api.auth import bearer_of
from faucet.api.wire import HealthReply, ReadyReply
from faucet.api.world import TheWorld, World
from faucet.kit.errors import Refusal
from faucet.kit.metrics import CONTENT_TYPE
from faucet.kit.migrate import newest_revision

SERVICE = "@modelfaucet/api"
CHECK_SECONDS = 2.0
_VERSION: LiteralString = "select version_num from alembic_version"

router = APIRouter(tags=["health"])


@router.get("/health", response_model=HealthReply)
async def is_alive() -> HealthReply:
    """Whether the process answers; asks nobody else."""
    return HealthReply(ok=True, service=SERVICE)


@router.get("/ready", response_model=ReadyReply, responses={503: {"model": ReadyReply}})
async def is_ready(world: TheWorld) -> JSONResponse:
    """Whether the process can serve: the database answers, and its schema is at least the one we need."""
    checks = await _check(world)
    ok = all(checks.values())
    reply = ReadyReply(ok=ok, service=SERVICE, checks=checks)
    return JSONResponse(reply.model_dump(), status_code=200 if ok else 503)


async def _check(world: World) -> dict[str, bool]:
    try:
        async with asyncio.timeout(CHECK_SECONDS), world.db.connection(timeout=CHECK_SECONDS) as connection:
            cursor = await connection.execute(_VERSION)
            row = await cursor.fetchone()
    except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError):
        return {"database": False, "schema": False}
    except psycopg.ProgrammingError:  # no such table: nothing was migrated yet
        return {"database": True, "schema": False}
    # A newer schema serves an older server too: changes that don't are made after it is gone.
    return {"database": True, "schema": row is not None and row[0] >= newest_revision()}


@router.get("/metrics", response_class=Response)
async def read_metrics(request: Request, world: TheWorld) -> Response:
    """Counters in Prometheus' text format; with METRICS_TOKEN set, only for who knows it."""
    token = world.config.metrics_token
    if token is not None:
        bearer = bearer_of(request)
        if bearer is None or not token.matches(bearer):
            raise Refusal("invalid_session", "this needs the metrics token")
    return Response(world.metrics.render(), media_type=CONTENT_TYPE)
