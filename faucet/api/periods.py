"""Closing months: an operator asks, the jobs do it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response

from faucet.api.auth import TheOperator
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.paging import ThePage
from faucet.api.statement_wire import MonthText, PeriodItem, PeriodList, period_item
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.trail import Trail
from faucet.api.world import TheRequestId, TheWorld
from faucet.closing import periods
from faucet.closing.month import parse_month
from faucet.closing.periods import Period
from faucet.kit.errors import Refusal

router = APIRouter(tags=["operator: periods"])

PeriodPath = Annotated[MonthText, Path(description="A month in UTC, such as `2026-10`.")]
_NOBODY = UUID(int=0)


@router.post("/v1/admin/periods/{period}/close", status_code=202, response_model=PeriodItem)
async def close_period(
    period: PeriodPath,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Ask for a month to be closed: from then on nothing is booked into it, and its statements are signed.

    Months are closed in order, each some days after its end (PERIOD_CLOSE_GRACE_HOURS). The jobs do it within a minute
    or as long as it takes; until then its status is `closing`. One that was asked for before is answered as it is.
    """
    month = parse_month(period)

    async def act(t: TenantTx) -> PeriodItem:
        found, is_new = await periods.ask(
            t,
            month,
            by=str(caller.actor),
            now=world.clock.now(),
            grace=timedelta(hours=world.config.period_close_grace_hours),
        )
        if is_new:
            await Trail(caller.actor, rid).note(t, "period.close_asked", "period", period)
        return period_item(found)

    return await idempotent(
        world, request, principal=str(caller.actor), developer_id=None, key=key, body=None, act=act, status=202
    )


@router.get("/v1/admin/periods", response_model=PeriodList, response_model_exclude_none=True)
async def list_periods(caller: TheOperator, world: TheWorld, page: ThePage) -> PeriodList:
    """Months that were asked for or closed, the newest first, and the one that comes next."""
    before = None if page.after is None else page.after[0].date()
    async with tenant_tx(world, None) as t:
        rows = await periods.page(t, limit=page.fetch, before=before)
        following = await periods.next_month(t)
    shown, cursor = page.cut(rows, _place)
    return PeriodList(
        items=[period_item(row) for row in shown],
        next_cursor=cursor,
        next_period=None if following is None else str(following),
    )


@router.get("/v1/admin/periods/{period}", response_model=PeriodItem, response_model_exclude_none=True)
async def read_period(period: PeriodPath, caller: TheOperator, world: TheWorld) -> PeriodItem:
    """One month, and whether it is closed."""
    async with tenant_tx(world, None) as t:
        found = await periods.find(t, parse_month(period))
    if found is None:
        raise Refusal("not_found", "nobody asked for this month to be closed")
    return period_item(found)


def _place(period: Period) -> tuple[datetime, UUID]:
    return _midnight(period.month), _NOBODY


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
