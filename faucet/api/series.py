"""Usage over time, for charts: a developer's own, and the whole platform's for the operator."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query

from faucet.api.auth import TheOperator, UsageReader
from faucet.api.developer_wire import PlatformPoint, PlatformSeriesReply, UsagePoint, UsageSeriesReply
from faucet.api.operations import AtQuery
from faucet.api.tenant import tenant_tx
from faucet.api.wire import Identifier
from faucet.api.world import TheWorld, World
from faucet.kit.errors import field_error
from faucet.reports import series
from faucet.tenants import apps

router = APIRouter()

POINTS_MAX = 10_000
LONGEST = {"day": timedelta(days=366), "hour": timedelta(days=31)}
USUAL = {"day": timedelta(days=30), "hour": timedelta(days=2)}


@router.get(
    "/v1/developer/usage",
    tags=["developer: reports"],
    response_model=UsageSeriesReply,
    response_model_exclude_none=True,
)
async def read_usage_series(
    caller: UsageReader,
    world: TheWorld,
    since: AtQuery = None,
    until: AtQuery = None,
    interval: series.Interval = "day",
    group_by: Literal["app", "feature", "feature_version", "model", "provider"] | None = None,
    public_app_id: Annotated[Identifier | None, Query()] = None,
) -> UsageSeriesReply:
    """Usage by day or hour in UTC, of all apps or one, as one line or by app, feature, its version, model or provider.

    From `since`, included, to `until`, excluded; the last 30 days, or two days by the hour, where neither is given.
    Intervals without an answer are absent.
    """
    start, end = _bounds(world, since, until, interval)
    points = await _points(world, caller.developer_id, start, end, interval, group_by, public_app_id)
    return UsageSeriesReply(
        since=start, until=end, interval=interval, group_by=group_by, items=[_point(point) for point in points]
    )


@router.get(
    "/v1/admin/usage",
    tags=["operator: reports"],
    response_model=PlatformSeriesReply,
    response_model_exclude_none=True,
)
async def read_platform_series(
    caller: TheOperator,
    world: TheWorld,
    since: AtQuery = None,
    until: AtQuery = None,
    interval: series.Interval = "day",
    group_by: series.GroupBy | None = None,
    developer_id: Annotated[UUID | None, Query()] = None,
    public_app_id: Annotated[Identifier | None, Query()] = None,
) -> PlatformSeriesReply:
    """As the developer's usage, of everybody or one developer, with what providers cost and what the platform earned.

    It can be grouped by developer too.
    """
    start, end = _bounds(world, since, until, interval)
    points = await _points(world, developer_id, start, end, interval, group_by, public_app_id)
    return PlatformSeriesReply(
        since=start,
        until=end,
        interval=interval,
        group_by=group_by,
        items=[
            PlatformPoint(
                **_point(point).model_dump(),
                developer_id=point.developer_id,
                upstream_cost_usd=point.cost_e8,
                platform_revenue_usd=point.platform_e8,
            )
            for point in points
        ],
    )


def _bounds(
    world: World, since: datetime | None, until: datetime | None, interval: series.Interval
) -> tuple[datetime, datetime]:
    """The span that is asked for. Raises Refusal `invalid_request` for one that is empty or too long."""
    end = until or world.clock.now()
    start = since or end - USUAL[interval]
    if start >= end:
        raise field_error("since", "must be before until")
    if end - start > LONGEST[interval]:
        raise field_error("since", f"is more than {LONGEST[interval].days} days before until")
    return start, end


async def _points(
    world: World,
    developer_id: UUID | None,
    start: datetime,
    end: datetime,
    interval: series.Interval,
    group_by: series.GroupBy | None,
    public_app_id: str | None,
) -> list[series.UsagePoint]:
    """Raises Refusal `invalid_app`, and `invalid_request` where there are too many."""
    async with tenant_tx(world, developer_id) as t:
        app = None if public_app_id is None else await apps.find(t, public_app_id)
        points = await series.usage_series(
            t,
            developer_id=developer_id,
            app_id=None if app is None else app.id,
            since=start,
            until=end,
            interval=interval,
            group_by=group_by,
            limit=POINTS_MAX + 1,
        )
    if len(points) > POINTS_MAX:
        raise field_error("since", f"gives more than {POINTS_MAX} points; ask for less at once")
    return points


def _point(point: series.UsagePoint) -> UsagePoint:
    return UsagePoint(
        at=point.at,
        public_app_id=point.public_app_id,
        feature_key=point.feature_key,
        feature_version=point.feature_version,
        provider=point.provider,
        model=point.model,
        calls=point.calls,
        input_tokens=point.input_tokens,
        output_tokens=point.output_tokens,
        retail_price_usd=point.retail_e8,
        channel_revenue_usd=point.channel_e8,
    )
