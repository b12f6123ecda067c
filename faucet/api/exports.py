"""Reports as files: CSV, or Parquet where it is installed, sent as they are read.

An export holds one connection of the pool while it runs, so only a few run at once; a reader that stops reading is
cut off. What fails after the first byte ends the connection without the end that a whole file has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BeforeValidator, WithJsonSchema
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Send

from faucet.api.auth import TheOperator, UsageReader
from faucet.api.developer_wire import moment_of
from faucet.api.tenant import tenant_tx
from faucet.api.world import TheWorld, World
from faucet.kit.errors import Refusal, field_error
from faucet.reports import exports
from faucet.reports.exports import Export
from faucet.reports.parquet import ParquetFile

router = APIRouter()

AT_ONCE = 3
"""Exports of one process; each holds a connection. One of them is kept for operators, and a developer has one."""
EXPORT_SECONDS = 3_600
"""However slowly it is read, an export ends then: the database keeps old rows for as long as it is read."""
READER_SECONDS = 60
"""A reader that takes nothing for so long is gone."""
CSV = "text/csv; charset=utf-8"
PARQUET = "application/vnd.apache.parquet"


def _moment(value: object) -> datetime | None:
    """A day, from its first moment in UTC, or a moment."""
    if isinstance(value, str) and len(value) == len("2026-01-31"):
        return moment_of(f"{value}T00:00:00Z")
    return None if value is None else moment_of(value)


BoundQuery = Annotated[
    datetime | None,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "examples": ["2026-10-01", "2026-10-01T00:00:00Z"]}),
]
Since = Annotated[BoundQuery, Query(alias="from", description="A day or moment in UTC, included.")]
Until = Annotated[BoundQuery, Query(alias="to", description="A day or moment in UTC, excluded.")]
Format = Annotated[Literal["csv", "parquet"], Query(alias="format")]
_FILES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {"text/csv": {"schema": {"type": "string"}}, PARQUET: {}}}
}


class _File(StreamingResponse):
    """Parts as they come, for a reader that goes on reading. Whatever becomes of it, the parts are closed."""

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes], kind: str, name: str) -> None:
        super().__init__(
            _both(first, rest), media_type=kind, headers={"content-disposition": f'attachment; filename="{name}"'}
        )
        self._rest = rest

    async def stream_response(self, send: Send) -> None:
        async def sent(message: Message) -> None:
            async with asyncio.timeout(READER_SECONDS):
                await send(message)

        async with asyncio.timeout(EXPORT_SECONDS), aclosing(self._rest):
            await super().stream_response(sent)


async def _both(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    async for part in rest:
        yield part


async def _export(
    world: World,
    export: Export,
    developer_id: UUID | None,
    since: datetime | None,
    until: datetime | None,
    kind: Literal["csv", "parquet"],
) -> Response:
    """The file. Raises Refusal `invalid_request`, `rate_limited`."""
    if since is not None and until is not None and since >= until:
        raise field_error("from", "must be before to")
    if developer_id is not None and developer_id in world.exports:
        raise Refusal("rate_limited", "another export of yours is running; try again after it", retry_after_seconds=5)
    others = [each for each in world.exports if each is not None]
    if len(world.exports) >= AT_ONCE or (developer_id is not None and len(others) >= AT_ONCE - 1):
        raise Refusal("rate_limited", "other exports are running; try again in a moment", retry_after_seconds=5)
    parquet = ParquetFile(export) if kind == "parquet" else None
    parts = _parts(world, export, developer_id, since, until, parquet)
    first = await anext(parts)  # what fails before the first byte is refused as everything is

    return _File(first, parts, CSV if parquet is None else PARQUET, f"{export.name}.{kind}")


async def _parts(
    world: World,
    export: Export,
    developer_id: UUID | None,
    since: datetime | None,
    until: datetime | None,
    parquet: ParquetFile | None,
) -> AsyncGenerator[bytes]:
    """The bytes of the file, batch by batch; the first come when the rows can be read."""
    world.exports.append(developer_id)
    try:
        async with (
            tenant_tx(world, developer_id) as t,
            aclosing(exports.batches(t, export, developer_id=developer_id, since=since, until=until)) as batches,
        ):
            head = export.header.encode() if parquet is None else b""
            async for rows in batches:
                part = "".join(exports.csv_lines(export, rows)).encode() if parquet is None else parquet.add(rows)
                if head or part:
                    yield head + part
                head = b""
            end = head if parquet is None else parquet.end()
            if end:
                yield end
    finally:
        world.exports.remove(developer_id)


@router.get(
    "/v1/admin/reports/usage.csv", tags=["operator: reports"], response_class=StreamingResponse, responses=_FILES
)
async def export_usage(
    caller: TheOperator, world: TheWorld, since: Since = None, until: Until = None, kind: Format = "csv"
) -> Response:
    """Every answer, oldest first: one line each, of any number."""
    return await _export(world, exports.USAGE, None, since, until, kind)


@router.get(
    "/v1/admin/reports/revenue.csv", tags=["operator: reports"], response_class=StreamingResponse, responses=_FILES
)
async def export_revenue(
    caller: TheOperator, world: TheWorld, since: Since = None, until: Until = None, kind: Format = "csv"
) -> Response:
    """What each app's answers add up to."""
    return await _export(world, exports.REVENUE, None, since, until, kind)


@router.get(
    "/v1/admin/reports/payouts.csv", tags=["operator: reports"], response_class=StreamingResponse, responses=_FILES
)
async def export_payouts(
    caller: TheOperator, world: TheWorld, since: Since = None, until: Until = None, kind: Format = "csv"
) -> Response:
    """Every payout that was opened, oldest first."""
    return await _export(world, exports.PAYOUTS, None, since, until, kind)


@router.get(
    "/v1/developer/exports/usage.csv",
    tags=["developer: reports"],
    response_class=StreamingResponse,
    responses=_FILES,
)
async def export_own_usage(
    caller: UsageReader, world: TheWorld, since: Since = None, until: Until = None, kind: Format = "csv"
) -> Response:
    """Every answer of the developer's apps, oldest first. A month of it proves the month's statement."""
    return await _export(world, exports.USAGE, caller.developer_id, since, until, kind)


@router.get(
    "/v1/developer/exports/revenue.csv",
    tags=["developer: reports"],
    response_class=StreamingResponse,
    responses=_FILES,
)
async def export_own_revenue(
    caller: UsageReader, world: TheWorld, since: Since = None, until: Until = None, kind: Format = "csv"
) -> Response:
    """What each of the developer's apps' answers add up to."""
    return await _export(world, exports.REVENUE, caller.developer_id, since, until, kind)


@router.get(
    "/v1/developer/exports/payouts.csv",
    tags=["developer: reports"],
    response_class=StreamingResponse,
    responses=_FILES,
)
async def export_own_payouts(
    caller: UsageReader, world: TheWorld, since: Since = None, until: Until = None, kind: Format = "csv"
) -> Response:
    """Every payout of the developer's, oldest first."""
    return await _export(world, exports.PAYOUTS, caller.developer_id, since, until, kind)
