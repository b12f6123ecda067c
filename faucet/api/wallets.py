"""Wallets: what an end user has, and test credits for development."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header

from faucet.api.auth import TheEndUser, TheOperator
from faucet.api.tenant import tenant_tx
from faucet.api.trail import Trail
from faucet.api.wire import IdempotencyKey, TestCreditAsk, WalletReply
from faucet.api.world import TheRequestId, TheWorld
from faucet.kit.errors import InvariantBroken, Refusal, field_error
from faucet.kit.money import to_wire
from faucet.ledger import moves, statement
from faucet.ledger.statement import Wallet

router = APIRouter()


def wallet_reply(wallet: Wallet) -> WalletReply:
    """The wire's view of a wallet."""
    return WalletReply(
        id=wallet.public_id,
        owner_scope="end_user",
        owner_id=wallet.owner_id,
        balance_usd=wallet.posted_e8,
        held_usd=wallet.held_e8,
        available_usd=wallet.available_e8,
        updated_at=wallet.updated_at,
    )


@router.get("/v1/user/wallet", tags=["end user"], response_model=WalletReply)
async def read_own_wallet(caller: TheEndUser, world: TheWorld) -> WalletReply:
    """The wallet of the session's end user: what is booked, what requests in flight hold, what is left."""
    async with tenant_tx(world, caller.session.developer_id) as t:
        wallet = await statement.wallet_of_end_user(t, caller.session.end_user_id)
    if wallet is None:
        raise InvariantBroken(f"the end user {caller.session.end_user_id} has a session but no wallet")
    return wallet_reply(wallet)


@router.post("/v1/admin/wallets/{wallet_id}/credit-test-balance", tags=["operator"], response_model=WalletReply)
async def credit_test_balance(
    wallet_id: UUID,
    body: TestCreditAsk,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    idempotency_key: Annotated[IdempotencyKey | None, Header()] = None,
) -> WalletReply:
    """Give a wallet credit that nobody paid for. Development only."""
    if world.config.is_production:
        raise Refusal("forbidden", "test credits are for development")
    if idempotency_key and body.idempotency_key and idempotency_key != body.idempotency_key:
        raise field_error("idempotency_key", "differs from the header Idempotency-Key")
    key = idempotency_key or body.idempotency_key
    async with tenant_tx(world, None) as t:
        wallet = await statement.wallet_by_public_id(t, wallet_id)
        if wallet is None:
            raise Refusal("not_found", "there is no such wallet")
        booked = await moves.grant(
            t,
            wallet.id,
            body.amount_usd,
            key=None if key is None else f"test-credit:{wallet.public_id}:{key}",
            memo=f"test credits by the operator, request {rid}",
        )
        wallet = await statement.wallet(t, wallet.id)
        if wallet is None:
            raise InvariantBroken(f"the wallet {wallet_id} is gone within its own tx")
        if booked is moves.Booked.NOW:
            await Trail(caller.actor, rid).note(
                t,
                "wallet.test_credited",
                "wallet",
                str(wallet.public_id),
                developer_id=wallet.developer_id,
                after={"amount_usd": to_wire(body.amount_usd)},
            )
    if booked is moves.Booked.NOW:
        world.metrics.ledger_writes.add(("transfer",))
    return wallet_reply(wallet)
