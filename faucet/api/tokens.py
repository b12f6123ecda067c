"""Developers' tokens: made and shown once, listed, revoked."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from faucet.api.auth import DeveloperScope, require
from faucet.api.developer_wire import TokenAsk, TokenItem, TokenReply
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.trail import Trail
from faucet.api.world import TheRequestId, TheWorld
from faucet.kit.errors import Refusal
from faucet.tenants import developers, tokens
from faucet.tenants.tokens import Token

router = APIRouter(tags=["developer: tokens"])

Reader = Annotated[DeveloperScope, Depends(require("developer:tokens:read"))]
Writer = Annotated[DeveloperScope, Depends(require("developer:tokens:write"))]


def token_item(token: Token, now: datetime) -> TokenItem:
    """The wire's view of a token."""
    return TokenItem.model_validate(
        {name: getattr(token, name) for name in TokenItem.model_fields if name != "status"}
        | {"status": token.status(now)}
    )


@router.post("/v1/developer/tokens", status_code=201, response_model=TokenReply)
async def create_developer_token(
    body: TokenAsk,
    request: Request,
    caller: Writer,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Make a token; it is shown in this answer alone. A token can't give a scope that it lacks itself, nor more
    time than it has: what it makes ends when it does, unless sooner."""
    owner = caller.owner(body.developer_id)

    async def act(t: TenantTx) -> TokenReply:
        await developers.find(t, owner)
        now = world.clock.now()
        secret, token = await tokens.mint(
            t,
            developer_id=owner,
            name=body.name,
            scopes=body.scopes,
            allowed=caller.scopes,
            expires_at=body.expires_at,
            ends_by=caller.expires_at,
            created_by=str(caller.actor),
            now=now,
        )
        item = token_item(token, now)
        after = {"name": token.name, "scopes": token.scopes, "expires_at": token.expires_at}
        await Trail(caller.actor, rid).note(
            t, "token.created", "developer_token", str(token.id), developer_id=owner, after=after
        )
        return TokenReply(token=secret.reveal(), item=item)

    return await idempotent(
        world, request, principal=str(caller.actor), developer_id=caller.developer_id, key=key, body=body, act=act
    )


@router.get("/v1/developer/tokens", response_model=PageReply[TokenItem], response_model_exclude_none=True)
async def list_developer_tokens(caller: Reader, world: TheWorld, page: ThePage) -> PageReply[TokenItem]:
    """Tokens, newest first, those that were revoked included; never the secrets."""
    async with tenant_tx(world, caller.developer_id) as t:
        rows = await tokens.page(t, developer_id=caller.developer_id, after=page.after, limit=page.fetch)
    shown, cursor = page.cut(rows, lambda token: (token.created_at, token.id))
    now = world.clock.now()
    return page_reply([token_item(token, now) for token in shown], cursor)


@router.delete("/v1/developer/tokens/{token_id}", response_model=TokenItem, response_model_exclude_none=True)
async def revoke_developer_token(token_id: UUID, caller: Writer, world: TheWorld, rid: TheRequestId) -> TokenItem:
    """End a token for good, at once. Harmless to repeat."""
    now = world.clock.now()
    async with tenant_tx(world, caller.developer_id) as t:
        token = await tokens.find(t, token_id)
        if token is None:
            raise Refusal("not_found", "there is no such token")
        if await tokens.revoke(t, token_id, now=now):
            await Trail(caller.actor, rid).note(
                t, "token.revoked", "developer_token", str(token_id), developer_id=token.developer_id
            )
            token = await tokens.find(t, token_id)
            assert token is not None  # tokens are never deleted
    return token_item(token, now)
