"""What developers look at: the newest wallets and changes, and usage over time."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BeforeValidator, WithJsonSchema

from faucet.api.auth import DeveloperScope, UsageReader, require
from faucet.api.developer_wire import (
    AuditItem,
    OperationsReply,
    UsagePoint,
    UsageSeriesReply,
    WalletItem,
    moment_of,
)
from faucet.api.tenant import tenant_tx
from faucet.api.wire import Identifier
from faucet.api.world import TheWorld
from faucet.kit.errors import field_error
from faucet.reports import operations, series
from faucet.reports.operations import AuditFilter, AuditRow
from faucet.tenants import apps

router = APIRouter(tags=["developer: reports"])

ROWS_MAX = 100
POINTS_MAX = 10_000
LONGEST = {"day": timedelta(days=366), "hour": timedelta(days=31)}
USUAL = {"day": timedelta(days=30), "hour": timedelta(days=2)}

Reader = Annotated[DeveloperScope, Depends(require("developer:operations:read"))]
AtQuery = Annotated[
    datetime | None,
    BeforeValidator(lambda value: None if value is None else moment_of(value)),
    WithJsonSchema({"type": "string", "format": "date-time"}),
    Query(),
]


def audit_item(row: AuditRow) -> AuditItem:
    """The wire's view of a row of the audit log."""
    metadata = {"request_id": row.request_id, "before": row.before, "after": row.after}
    return AuditItem(
        id=row.id,
        developer_id=row.developer_id,
        actor_scope=row.actor_scope,
        actor_id=row.actor_id,
        action=row.action,
        resource_type=row.resource_type,
        resource_id=row.resource_id,
        metadata={name: value for name, value in metadata.items() if value is not None},
        created_at=row.created_at,
    )


@router.get("/v1/developer/operations", response_model=OperationsReply, response_model_exclude_none=True)
async def read_operations(caller: Reader, world: TheWorld) -> OperationsReply:
    """The hundred wallets that changed last and the hundred newest changes.

    Nothing takes payments or pays out yet, so there are no top-ups and no payouts to show.
    """
    async with tenant_tx(world, caller.developer_id) as t:
        wallets = await operations.newest_wallets(t, developer_id=caller.developer_id, limit=ROWS_MAX)
        wanted = AuditFilter(developer_id=caller.developer_id)
        rows = await operations.search_audit(t, wanted, after=None, limit=ROWS_MAX)
    return OperationsReply(
        wallets=[
            WalletItem(
                id=wallet.id,
                owner_scope="end_user" if wallet.owner_scope == "end_user" else "developer",
                owner_id=wallet.owner_id,
                owner_name=wallet.owner_name,
                balance_usd=wallet.posted_e8,
                updated_at=wallet.updated_at,
            )
            for wallet in wallets
        ],
        topups=[],
        payouts=[],
        audit_logs=[audit_item(row) for row in rows],
    )


@router.get("/v1/developer/usage", response_model=UsageSeriesReply, response_model_exclude_none=True)
async def read_usage_series(
    caller: UsageReader,
    world: TheWorld,
    since: AtQuery = None,
    until: AtQuery = None,
    interval: series.Interval = "day",
    group_by: series.GroupBy | None = None,
    public_app_id: Annotated[Identifier | None, Query()] = None,
) -> UsageSeriesReply:
    """Usage by day or hour in UTC, of all apps or one, as one line or by app, feature or model.

    From `since`, included, to `until`, excluded; the last 30 days, or two days by the hour, where neither is given.
    Intervals without an answer are absent.
    """
    end = until or world.clock.now()
    start = since or end - USUAL[interval]
    if start >= end:
        raise field_error("since", "must be before until")
    if end - start > LONGEST[interval]:
        raise field_error("since", f"is more than {LONGEST[interval].days} days before until")
    async with tenant_tx(world, caller.developer_id) as t:
        app = None if public_app_id is None else await apps.find(t, public_app_id)
        points = await series.usage_series(
            t,
            developer_id=caller.developer_id,
            app_id=None if app is None else app.id,
            since=start,
            until=end,
            interval=interval,
            group_by=group_by,
            limit=POINTS_MAX + 1,
        )
    if len(points) > POINTS_MAX:
        raise field_error("since", f"gives more than {POINTS_MAX} points; ask for less at once")
    return UsageSeriesReply(
        since=start,
        until=end,
        interval=interval,
        group_by=group_by,
        items=[
            UsagePoint(
                at=point.at,
                public_app_id=point.public_app_id,
                feature_key=point.feature_key,
                feature_version=point.feature_version,
                model=point.model,
                calls=point.calls,
                input_tokens=point.input_tokens,
                output_tokens=point.output_tokens,
                retail_price_usd=point.retail_e8,
                channel_revenue_usd=point.channel_e8,
            )
            for point in points
        ],
    )
