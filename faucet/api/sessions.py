"""Sessions: `POST /v1/sessions` for whoever knows an app, `DELETE /v1/sessions/current` for who holds one."""

from __future__ import annotations

import hashlib
import math
import time
from uuid import UUID

from fastapi import APIRouter, Request, Response

from faucet.api.auth import TheEndUser
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.wire import SessionAsk, SessionReply
from faucet.api.world import TheWorld, World
from faucet.kit.errors import Refusal
from faucet.tenants import sessions

router = APIRouter(tags=["sessions"])


@router.post("/v1/sessions", response_model=SessionReply)
async def create_session(
    body: SessionAsk, request: Request, world: TheWorld, key: TheIdempotencyKey = None
) -> Response:
    """Mint a short-lived session for one end user of one app.

    A `user_token` is good for one session; where the answer was lost, the same `Idempotency-Key` gives it again.
    """
    config = world.config
    ask = sessions.Ask(
        public_app_id=body.public_app_id,
        external_user_id=body.external_user_id,
        feature_key=body.feature_key,
        metadata=body.metadata,
        origin=request.headers.get("origin"),
        user_token=body.user_token,
    )
    rules = sessions.Rules(
        external_id_key=config.external_id_key,
        signing_key=config.signing_key,
        ttl_seconds=config.session_token_ttl_seconds,
        open_session_limit_e8=config.open_session_spend_limit_e8,
        open_spends_paid=config.open_sessions_spend_paid_money,
    )

    async def act(t: TenantTx) -> SessionReply:
        app = await sessions.find_app(t, ask)
        _count(world, app.id)
        minted = await sessions.mint(t, app, ask, rules=rules, now=world.clock.now())
        return SessionReply(
            session_token=minted.bearer.reveal(),
            expires_in=config.session_token_ttl_seconds,
            gateway_base_url=config.gateway_base_url,
            available_modes=minted.available_modes,
            wallet_balance_usd=minted.wallet_balance_e8,
        )

    # A page of another origin must not be given what was minted for this one.
    who = f"app:{body.public_app_id}:{hashlib.sha256((ask.origin or '').encode()).hexdigest()}"
    return await idempotent(
        world,
        request,
        principal=who,
        developer_id=None,  # the app says whose
        key=key,
        body=body,
        act=act,
        status=200,
    )


def _count(world: World, app_id: UUID) -> None:
    """Count a new session against its app's rate. Raises Refusal `rate_limited`."""
    if world.session_bucket is None:
        return
    verdict = world.session_bucket.take(app_id.bytes, time.monotonic())
    if not verdict.allowed:
        raise Refusal(
            "rate_limited",
            "too many new sessions of this app; slow down",
            retry_after_seconds=max(1, math.ceil(verdict.retry_after_seconds)),
        )


@router.delete("/v1/sessions/current", status_code=204, response_class=Response)
async def revoke_current_session(caller: TheEndUser, world: TheWorld) -> Response:
    """End the session that asks; gateways refuse it within five seconds."""
    async with tenant_tx(world, caller.session.developer_id) as t:
        await sessions.revoke(t, caller.session, now=world.clock.now())
    return Response(status_code=204)
