"""The operator's desk for money that came in: top-ups, refunds, and wallets that were frozen over one."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Request, Response

from faucet.api.auth import TheOperator
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.stripe_events import note_all
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.top_ups import processor_of
from faucet.api.trail import Trail
from faucet.api.wire_top_ups import FreezeAsk, FrozenReply, OperatorTopUpReply, RefundAsk, RefundReply, operator_top_up
from faucet.api.world import TheRequestId, TheWorld, World
from faucet.kit.errors import InvariantBroken, Refusal
from faucet.kit.ids import uuid7
from faucet.kit.log import logger
from faucet.kit.money import to_wire
from faucet.ledger import moves, statement
from faucet.payments import reversals, store, told
from faucet.payments.processor import ProcessorRefused, ProcessorUnsure, TopUpProcessor
from faucet.payments.reversals import RefundWish
from faucet.payments.top_ups import cents_of

router = APIRouter(tags=["operator: top-ups"])


@router.get("/v1/admin/top-ups", response_model=PageReply[OperatorTopUpReply], response_model_exclude_none=True)
async def list_top_ups(
    caller: TheOperator, world: TheWorld, page: ThePage, developer_id: UUID | None = None
) -> PageReply[OperatorTopUpReply]:
    """Everybody's top-ups, or those of one developer's apps, newest first."""
    async with tenant_tx(world, None) as t:
        rows = await store.newest(t, developer_id=developer_id, limit=page.fetch, after=page.after)
    shown, cursor = page.cut(rows, lambda row: (row.created_at, row.id))
    return page_reply([operator_top_up(row) for row in shown], cursor)


@router.get("/v1/admin/top-ups/{topup_id}", response_model=OperatorTopUpReply, response_model_exclude_none=True)
async def read_top_up(topup_id: UUID, caller: TheOperator, world: TheWorld) -> OperatorTopUpReply:
    """One top-up, with what of it can still be refunded."""
    async with tenant_tx(world, None) as t:
        row = await store.find(t, topup_id)
    if row is None:
        raise Refusal("not_found", "there is no such top-up")
    return operator_top_up(row)


@router.post("/v1/admin/top-ups/{topup_id}/refunds", status_code=201, response_model=RefundReply)
async def refund_top_up(
    topup_id: UUID,
    body: RefundAsk,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Give a top-up back to its card, in whole or in part; never more than is left of it.

    What the wallet doesn't have any more is written off, and the wallet is frozen until it is unfrozen by hand.
    `requested` where the processor doesn't answer: the jobs ask it again, and it refunds once.
    """
    processor = processor_of(world)
    wish_id = uuid7()

    async def act(t: TenantTx) -> RefundReply:
        wish = await reversals.wish_refund(
            t, topup_id, body.amount_usd, reason=body.reason, asked_by=str(caller.actor), wish_id=wish_id
        )
        row = await store.find(t, topup_id)
        assert row is not None
        await Trail(caller.actor, rid).note(
            t,
            "top_up.refund_asked",
            "top_up",
            str(topup_id),
            developer_id=row.developer_id,
            after={"refund": str(wish.id), "amount_usd": to_wire(wish.amount_e8), "reason": wish.reason},
        )
        return _refund(wish)

    response = await idempotent(
        world, request, principal=str(caller.actor), developer_id=None, key=key, body=body, act=act
    )
    if "idempotent-replayed" in response.headers:
        return response
    wish = await _send(world, processor, wish_id)
    return Response(_refund(wish).model_dump_json(exclude_none=True), status_code=201, media_type="application/json")


async def _send(world: World, processor: TopUpProcessor, wish_id: UUID) -> RefundWish:
    """Ask the processor for a refund that was noted, and note its answer."""
    async with tenant_tx(world, None) as t:
        wish = await reversals.find_wish(t, wish_id)
    assert wish is not None
    try:
        refund = await processor.refund(
            wish.payment_intent_id, amount_cents=cents_of(wish.amount_e8), refund_id=wish.id
        )
    except ProcessorUnsure as error:
        logger.warning("refund.unsure", refund=str(wish.id), error=str(error))
        return wish
    except ProcessorRefused as error:
        async with tenant_tx(world, None) as t:
            await reversals.mark_failed(t, wish, str(error))
    else:
        async with tenant_tx(world, None) as t:
            verdict = await reversals.apply_refund(t, refund)
            await note_all(t, str(refund["id"]), verdict.notes)
    async with tenant_tx(world, None) as t:
        found = await reversals.find_wish(t, wish_id)
    assert found is not None
    return found


def _refund(wish: RefundWish) -> RefundReply:
    return RefundReply.model_validate(
        {
            "id": wish.id,
            "topup_id": wish.top_up_id,
            "amount_usd": wish.amount_e8,
            "status": wish.status,
            "reason": wish.reason,
            "provider_refund_id": wish.reversal_id,
            "failure": wish.failure,
            "created_at": wish.created_at,
        }
    )


@router.post("/v1/admin/wallets/{wallet_id}/unfreeze", response_model=FrozenReply)
async def unfreeze_wallet(
    wallet_id: UUID,
    body: FreezeAsk,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Let a frozen wallet be spent again. What was written off for it stays written off."""
    return await _freeze(world, request, Trail(caller.actor, rid), wallet_id, body, key, is_frozen=False)


@router.post("/v1/admin/wallets/{wallet_id}/freeze", response_model=FrozenReply)
async def freeze_wallet(
    wallet_id: UUID,
    body: FreezeAsk,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Let nothing new be spent from a wallet. Requests that have begun end as they would."""
    return await _freeze(world, request, Trail(caller.actor, rid), wallet_id, body, key, is_frozen=True)


async def _freeze(
    world: World, request: Request, trail: Trail, wallet_id: UUID, body: FreezeAsk, key: str | None, *, is_frozen: bool
) -> Response:
    async def act(t: TenantTx) -> FrozenReply:
        wallet = await statement.wallet_by_public_id(t, wallet_id)
        if wallet is None:
            raise Refusal("not_found", "there is no such wallet")
        if await moves.freeze(t, wallet.id, is_frozen=is_frozen):
            await trail.note(
                t,
                "wallet.frozen" if is_frozen else "wallet.unfrozen",
                "wallet",
                str(wallet_id),
                developer_id=wallet.developer_id,
                after={"reason": body.reason},
            )
            if is_frozen:
                await told.of_freeze(t, wallet_id=wallet_id, reason="operator")
        found = await statement.wallet(t, wallet.id)
        if found is None:
            raise InvariantBroken(f"the wallet {wallet_id} is gone within its own tx")
        return FrozenReply(
            wallet_id=wallet_id,
            frozen=found.frozen_at is not None,
            balance_usd=found.posted_e8,
            available_usd=found.available_e8,
        )

    return await idempotent(
        world, request, principal=str(trail.actor), developer_id=None, key=key, body=body, act=act, status=200
    )
