"""Wallets: what an end user has, and credit that the operator gives: promotional, or for tests."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Request, Response

from faucet.api.auth import TheEndUser, TheOperator
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.operator_wire import GrantAsk, GrantReply
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
        frozen=wallet.frozen_at is not None,
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
        wallet, booked = await give(
            t,
            Trail(caller.actor, rid),
            wallet_id,
            body.amount_usd,
            key=None if key is None else f"test-credit:{wallet_id}:{key}",
            memo=f"Test credits; by the operator, request {rid}",
            action="wallet.test_credited",
        )
    if booked is moves.Booked.NOW:
        world.metrics.ledger_writes.add(("transfer",))
    return wallet_reply(wallet)


@router.post(
    "/v1/admin/wallets/{wallet_id}/grants", tags=["operator: wallets"], status_code=201, response_model=GrantReply
)
async def grant_credit(
    wallet_id: UUID,
    body: GrantAsk,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Give a wallet promotional credit, at the platform's expense. The reason is for the audit log; the wallet's
    statement calls it promotional credit."""

    async def act(t: TenantTx) -> GrantReply:
        wallet, booked = await give(
            t,
            Trail(caller.actor, rid),
            wallet_id,
            body.amount_usd,
            key=None if key is None else f"grant:{wallet_id}:{key}",
            memo=f"Promotional credit; by the operator, request {rid}: {body.reason}",
            action="wallet.granted",
            reason=body.reason,
        )
        if booked is moves.Booked.NOW:
            world.metrics.ledger_writes.add(("transfer",))
        return GrantReply(
            wallet_id=wallet.public_id,
            amount_usd=body.amount_usd,
            reason=body.reason,
            wallet_balance_usd=wallet.posted_e8,
        )

    return await idempotent(world, request, principal=str(caller.actor), developer_id=None, key=key, body=body, act=act)


async def give(
    t: TenantTx,
    trail: Trail,
    wallet_id: UUID,
    amount_e8: int,
    *,
    key: str | None,
    memo: str,
    action: str,
    reason: str | None = None,
) -> tuple[Wallet, moves.Booked]:
    """Grant credit to a wallet and note it, once for each key. Gives the wallet as it is then.

    Raises Refusal `not_found`, and `idempotency_conflict` where the key has booked something else.
    """
    wallet = await statement.wallet_by_public_id(t, wallet_id)
    if wallet is None:
        raise Refusal("not_found", "there is no such wallet")
    booked = await moves.grant(t, wallet.id, amount_e8, key=key, memo=memo)
    after = await statement.wallet(t, wallet.id)
    if after is None:
        raise InvariantBroken(f"the wallet {wallet_id} is gone within its own tx")
    if booked is moves.Booked.NOW:
        noted = {"amount_usd": to_wire(amount_e8)} | ({} if reason is None else {"reason": reason})
        await trail.note(t, action, "wallet", str(wallet.public_id), developer_id=wallet.developer_id, after=noted)
    return after, booked
