"""Wallets: what an end user has, and test credits for development."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header

from faucet.api.auth import OPERATOR, TheEndUser, TheOperator
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.trail import Trail
from faucet.api.wire import FeeLine, IdempotencyKey, TestCreditAsk, WalletReply
from faucet.api.world import TheRequestId, TheWorld
from faucet.kit.errors import InvariantBroken, Refusal, field_error
from faucet.kit.money import to_wire
from faucet.ledger import moves, statement
from faucet.ledger.statement import Wallet
from faucet.tenants import store
from faucet.tenants.manifest import MODE_BY_ROUTE, Route, parse_manifest
from faucet.tenants.store import Session

router = APIRouter()


def wallet_reply(wallet: Wallet, fees: list[FeeLine] | None = None) -> WalletReply:
    """The wire's view of a wallet."""
    return WalletReply(
        id=wallet.public_id,
        owner_scope="end_user",
        owner_id=wallet.owner_id,
        balance_usd=wallet.posted_e8,
        held_usd=wallet.held_e8,
        available_usd=wallet.available_e8,
        updated_at=wallet.updated_at,
        fees=fees,
    )


async def _fees(t: TenantTx, session: Session) -> list[FeeLine]:
    """What the session's features charge where somebody else pays the provider."""
    fees = []
    for feature in await store.list_features(t, session.app_id):
        if session.feature_id not in (None, feature.id):
            continue
        manifest = parse_manifest(feature.policy, feature.pricing, default_share_bps=0)
        for route in manifest.policy.routes:
            if route in (Route.BYOK, Route.LOCAL):
                # What a local answer is, its end user reports alone: it is never charged.
                fee_e8 = manifest.pricing.gateway_fee_e8 if route is Route.BYOK else 0
                fees.append(FeeLine(feature_key=feature.feature_key, route_mode=MODE_BY_ROUTE[route], fee_usd=fee_e8))
    return fees


@router.get("/v1/user/wallet", tags=["end user"], response_model=WalletReply, response_model_exclude_none=True)
async def read_own_wallet(caller: TheEndUser, world: TheWorld) -> WalletReply:
    """The wallet of the session's end user: what is booked, what requests in flight hold, what is left; and what the
    session's features charge where the end user's own key or machine answers."""
    async with tenant_tx(world, caller.session.developer_id) as t:
        wallet = await statement.wallet_of_end_user(t, caller.session.end_user_id)
        fees = await _fees(t, caller.session)
    if wallet is None:
        raise InvariantBroken(f"the end user {caller.session.end_user_id} has a session but no wallet")
    return wallet_reply(wallet, fees)


@router.post(
    "/v1/admin/wallets/{wallet_id}/credit-test-balance",
    tags=["operator"],
    response_model=WalletReply,
    response_model_exclude_none=True,
)
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
            await Trail(OPERATOR, rid).note(
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
