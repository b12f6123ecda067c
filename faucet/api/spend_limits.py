"""Spend limits by the operator's hand: of apps, features, end users and sessions."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from faucet.api.auth import TheOperator
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.operator_wire import SpendLimitAsk, SpendLimitLift, SpendLimitReply
from faucet.api.tenant import TenantTx
from faucet.api.trail import Trail
from faucet.api.world import TheRequestId, TheWorld, World
from faucet.kit.money import to_wire
from faucet.tenants import spend_limits

router = APIRouter(tags=["operator: spend limits"])


@router.post("/v1/admin/spend-limits", status_code=201, response_model=SpendLimitReply)
async def set_spend_limit(
    body: SpendLimitAsk,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Set or change a spend limit. It counts what was spent in its period before, too; 0 stops everything."""

    async def act(t: TenantTx) -> SpendLimitReply:
        return await _set(t, world, Trail(caller.actor, rid), body, body.limit_usd)

    return await idempotent(world, request, principal=str(caller.actor), developer_id=None, key=key, body=body, act=act)


@router.post("/v1/admin/spend-limits/lift", response_model=SpendLimitReply)
async def lift_spend_limit(
    body: SpendLimitLift,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Lift a spend limit. Harmless to repeat."""

    async def act(t: TenantTx) -> SpendLimitReply:
        return await _set(t, world, Trail(caller.actor, rid), body, None)

    return await idempotent(
        world, request, principal=str(caller.actor), developer_id=None, key=key, body=body, act=act, status=200
    )


async def _set(t: TenantTx, world: World, trail: Trail, ask: SpendLimitLift, limit_e8: int | None) -> SpendLimitReply:
    """Raises Refusal `not_found`."""
    row_id, developer_id = await spend_limits.find(
        t, ask.scope, ask.target, external_id_key=world.config.external_id_key
    )
    await spend_limits.set_limit(t, ask.scope, row_id, ask.period, limit_e8)
    after = {"period": ask.period, "limit_usd": None if limit_e8 is None else to_wire(limit_e8)}
    action = "spend_limit.lifted" if limit_e8 is None else "spend_limit.set"
    await trail.note(t, action, ask.scope, str(row_id), developer_id=developer_id, after=after)
    return SpendLimitReply(id=row_id, scope=ask.scope, period=ask.period, limit_usd=limit_e8)
