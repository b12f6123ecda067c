"""Promo codes: the operator's routes, and the end user's to redeem one, which is slow to answer guesses."""

from __future__ import annotations

import math
import time
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response

from faucet.api.auth import Actor, TheEndUser, TheOperator
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.operator_wire import PromoAsk, PromoItem
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.trail import Trail
from faucet.api.wire_end_users import RedeemAsk, RedeemReply
from faucet.api.world import TheRequestId, TheWorld, World
from faucet.kit.errors import Refusal
from faucet.kit.money import to_wire
from faucet.limits.bucket import Bucket
from faucet.tenants import promos
from faucet.tenants.promos import Promo

router = APIRouter()
PromoId = Annotated[UUID, Path()]


def promo_item(promo: Promo, world: World) -> PromoItem:
    """The wire's view of a code."""
    return PromoItem.model_validate(
        {
            "id": promo.id,
            "code": promo.code,
            "amount_usd": promo.amount_e8,
            "redemptions": promo.redemptions,
            "redemptions_max": promo.redemptions_max,
            "granted_usd": promo.redemptions * promo.amount_e8,
            "public_app_id": promo.public_app_id,
            "status": promo.status(world.clock.now()),
            "expires_at": promo.expires_at,
            "disabled_at": promo.disabled_at,
            "created_by": promo.created_by,
            "created_at": promo.created_at,
        }
    )


@router.post("/v1/admin/promo-codes", tags=["operator: wallets"], status_code=201, response_model=PromoItem)
async def create_promo_code(
    body: PromoAsk,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Make a code that end users redeem for credit, each once, at the platform's expense."""

    async def act(t: TenantTx) -> PromoItem:
        promo = await promos.create(
            t,
            code=body.code or promos.made_up_code(),
            amount_e8=body.amount_usd,
            redemptions_max=body.redemptions_max,
            public_app_id=body.public_app_id,
            expires_at=body.expires_at,
            created_by=str(caller.actor),
        )
        item = promo_item(promo, world)
        after = item.model_dump(mode="json", exclude_none=True)
        await Trail(caller.actor, rid).note(t, "promo_code.created", "promo_code", str(promo.id), after=after)
        return item

    return await idempotent(world, request, principal=str(caller.actor), developer_id=None, key=key, body=body, act=act)


@router.get(
    "/v1/admin/promo-codes",
    tags=["operator: wallets"],
    response_model=PageReply[PromoItem],
    response_model_exclude_none=True,
)
async def list_promo_codes(caller: TheOperator, world: TheWorld, page: ThePage) -> PageReply[PromoItem]:
    """Codes, newest first, with how often each was redeemed and what it gave in all."""
    async with tenant_tx(world, None) as t:
        rows = await promos.page(t, after=page.after, limit=page.fetch)
    shown, cursor = page.cut(rows, lambda row: (row.created_at, row.id))
    return page_reply([promo_item(row, world) for row in shown], cursor)


@router.get(
    "/v1/admin/promo-codes/{promo_id}",
    tags=["operator: wallets"],
    response_model=PromoItem,
    response_model_exclude_none=True,
)
async def read_promo_code(promo_id: PromoId, caller: TheOperator, world: TheWorld) -> PromoItem:
    """One code."""
    async with tenant_tx(world, None) as t:
        return promo_item(await promos.find(t, promo_id), world)


@router.delete(
    "/v1/admin/promo-codes/{promo_id}",
    tags=["operator: wallets"],
    response_model=PromoItem,
    response_model_exclude_none=True,
)
async def disable_promo_code(promo_id: PromoId, caller: TheOperator, world: TheWorld, rid: TheRequestId) -> PromoItem:
    """End a code for good; what it gave stays. Harmless to repeat."""
    async with tenant_tx(world, None) as t:
        await promos.find(t, promo_id)
        if await promos.disable(t, promo_id, now=world.clock.now()):
            await Trail(caller.actor, rid).note(t, "promo_code.disabled", "promo_code", str(promo_id))
        return promo_item(await promos.find(t, promo_id), world)


@router.post("/v1/user/promo-codes/redeem", tags=["end user"], status_code=201, response_model=RedeemReply)
async def redeem_promo_code(
    body: RedeemAsk,
    request: Request,
    caller: TheEndUser,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Redeem a code for credit in the session's wallet. Each end user may redeem a code once.

    A code that is unknown, expired, used up, switched off or another app's gets the same answer.
    """
    session = caller.session
    _count(world.guesses, session.end_user_id.bytes)
    if world.wrong_guesses.is_spent(session.app_id.bytes, time.monotonic()):
        raise _too_many(60)

    async def act(t: TenantTx) -> RedeemReply:
        redeemed = await promos.redeem(
            t,
            body.code,
            end_user_id=session.end_user_id,
            app_id=session.app_id,
            developer_id=session.developer_id,
            now=world.clock.now(),
        )
        await Trail(Actor("end_user", str(session.end_user_id)), rid).note(
            t,
            "promo_code.redeemed",
            "promo_code",
            str(redeemed.promo_id),
            developer_id=session.developer_id,
            after={"amount_usd": to_wire(redeemed.amount_e8), "wallet_id": str(redeemed.wallet.public_id)},
        )
        return RedeemReply(amount_usd=redeemed.amount_e8, wallet_balance_usd=redeemed.wallet.posted_e8)

    try:
        reply = await idempotent(
            world,
            request,
            principal=f"end_user:{session.end_user_id}",
            developer_id=session.developer_id,
            key=key,
            body=body,
            act=act,
        )
    except Refusal as refusal:
        if refusal.code == "not_found":
            world.wrong_guesses.take(session.app_id.bytes, time.monotonic())
        raise
    world.metrics.ledger_writes.add(("transfer",))
    return reply


def _count(bucket: Bucket, key: bytes) -> None:
    """Raises Refusal `rate_limited`."""
    verdict = bucket.take(key, time.monotonic())
    if not verdict.allowed:
        raise _too_many(max(1, math.ceil(verdict.retry_after_seconds)))


def _too_many(seconds: int) -> Refusal:
    return Refusal("rate_limited", "too many codes were tried; wait a little", retry_after_seconds=seconds)
