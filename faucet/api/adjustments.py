"""Corrections of a balance by the operator's hand."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Request, Response

from faucet.api.auth import TheOperator
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.operator_wire import AdjustmentAsk, AdjustmentReply
from faucet.api.tenant import TenantTx
from faucet.api.trail import Trail
from faucet.api.world import TheRequestId, TheWorld
from faucet.kit.errors import InvariantBroken, Refusal, field_error
from faucet.kit.ids import uuid7
from faucet.kit.log import logger
from faucet.kit.money import to_wire
from faucet.ledger import moves, statement
from faucet.ledger.statement import Purse
from faucet.payments import told

router = APIRouter(tags=["operator: wallets"])


@router.post("/v1/admin/wallets/{wallet_id}/adjustments", status_code=201, response_model=AdjustmentReply)
async def adjust_wallet(
    wallet_id: UUID,
    body: AdjustmentAsk,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Credit or debit an end user's wallet or a developer's earnings, against the adjustments account.

    A refund or chargeback that is entered here only corrects the balance: money at the processor doesn't move. As a
    debit of a wallet it takes what no request in flight holds; what is missing is written off, and the wallet is frozen
    until it is unfrozen by hand. Any other debit takes at most what is there.
    """
    if key and body.idempotency_key and key != body.idempotency_key:
        raise field_error("idempotency_key", "differs from the header Idempotency-Key")
    key = key or body.idempotency_key

    async def act(t: TenantTx) -> AdjustmentReply:
        purse = await statement.purse_by_public_id(t, wallet_id)
        if purse is None:
            raise Refusal("not_found", "there is no such wallet")
        booked, written_off_e8 = await _book(t, purse, body, key=key, rid=rid)
        after = await statement.purse_by_public_id(t, wallet_id)
        if after is None:
            raise InvariantBroken(f"the wallet {wallet_id} is gone within its own tx")
        reply = AdjustmentReply(
            id=uuid7(),
            wallet_id=purse.public_id,
            kind=body.kind,
            direction=body.direction,
            amount_usd=body.amount_usd,
            status="applied",
            reason=body.reason,
            idempotency_key=body.idempotency_key,
            wallet_balance_usd=after.posted_e8,
            written_off_usd=written_off_e8,
            frozen=None if written_off_e8 is None else after.is_frozen,
        )
        if booked is moves.Booked.NOW:
            world.metrics.ledger_writes.add(("transfer",))
            await Trail(caller.actor, rid).note(
                t,
                "wallet.adjusted",
                "wallet",
                str(purse.public_id),
                developer_id=purse.developer_id,
                before={"balance_usd": to_wire(purse.posted_e8)},
                after={"adjustment": reply.model_dump(mode="json", exclude_none=True)},
            )
        return reply

    return await idempotent(world, request, principal=str(caller.actor), developer_id=None, key=key, body=body, act=act)


async def _book(
    t: TenantTx, purse: Purse, body: AdjustmentAsk, *, key: str | None, rid: str
) -> tuple[moves.Booked, int | None]:
    """Book it; and what was written off, in e8, where that can be."""
    key = None if key is None else f"adjustment:{purse.public_id}:{key}"
    memo = f"{body.kind} by the operator, request {rid}" + (f": {body.reason}" if body.reason else "")
    if body.kind == "adjustment" or body.direction == "credit" or purse.kind != "wallet":
        return await moves.adjust(t, purse.id, body.amount_usd, direction=body.direction, key=key, memo=memo), None
    _, written_off_e8, booked = await moves.take_by_hand(t, purse.id, body.amount_usd, key=key, memo=memo)
    if written_off_e8 and booked is moves.Booked.NOW:
        logger.error("wallet.written_off", wallet_id=str(purse.public_id), amount_usd=to_wire(written_off_e8))
        await told.of_freeze(t, wallet_id=purse.public_id, reason="refund" if body.kind == "refund" else "dispute")
    return booked, written_off_e8
