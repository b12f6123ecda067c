"""The platform's own provider keys, which the operator keeps sealed in the vault."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Request, Response

from faucet.api.auth import TheOperator
from faucet.api.credential_wire import PlatformKeyAsk, PlatformKeyReply
from faucet.api.credentials import ask_provider, create, disable, no_such_key, reply_of
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.world import TheRequestId, TheWorld
from faucet.kit.ids import uuid7
from faucet.kit.secret import Secret
from faucet.vault import store
from faucet.vault.seal import Place
from faucet.vault.store import Credential

router = APIRouter(tags=["operator: provider keys"])


def _platform_reply(row: Credential) -> PlatformKeyReply:
    return PlatformKeyReply(
        **reply_of(row).model_dump(), weight=row.weight, created_at=row.created_at, updated_at=row.updated_at
    )


@router.post(
    "/v1/admin/provider-keys",
    status_code=201,
    response_model=PlatformKeyReply,
    response_model_exclude_none=True,
)
async def add_platform_provider_key(
    body: PlatformKeyAsk,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    idempotency_key: TheIdempotencyKey = None,
) -> Response:
    """Keep a provider's key of the platform, sealed. The provider is asked first whether it takes it."""
    verdict = await ask_provider(world, body.provider, body.base_url, Secret(body.api_key), ask=body.validate_)

    async def act(tx: TenantTx) -> PlatformKeyReply:
        place = Place(
            row_id=uuid7(),
            owner="platform",
            developer_id=None,
            app_id=None,
            end_user_id=None,
            provider=body.provider,
            base_url=body.base_url,
        )
        row = await create(world, tx, place, body, verdict, weight=body.weight, actor=caller.actor, rid=rid)
        return _platform_reply(row)

    return await idempotent(
        world, request, principal=str(caller.actor), developer_id=None, key=idempotency_key, body=body, act=act
    )


@router.get("/v1/admin/provider-keys", response_model=PageReply[PlatformKeyReply], response_model_exclude_none=True)
async def list_platform_provider_keys(
    caller: TheOperator, world: TheWorld, page: ThePage
) -> PageReply[PlatformKeyReply]:
    """The platform's keys, newest first, disabled ones too; masked."""
    async with tenant_tx(world, None) as t:
        found = await store.list_of_platform(t, limit=page.fetch, after=page.after)
    rows, cursor = page.cut(found, lambda row: (row.created_at, row.id))
    return page_reply([_platform_reply(row) for row in rows], cursor)


@router.delete("/v1/admin/provider-keys/{key_id}", response_model=PlatformKeyReply, response_model_exclude_none=True)
async def disable_platform_provider_key(
    key_id: UUID, caller: TheOperator, world: TheWorld, rid: TheRequestId
) -> PlatformKeyReply:
    """Disable a key of the platform for good and erase its secret. Harmless to repeat."""
    async with tenant_tx(world, None) as t:
        row = await store.find(t, key_id, end_user_id=None, owner="platform")
        if row is None:
            raise no_such_key()
        return _platform_reply(await disable(t, row, now=world.clock.now(), actor=caller.actor, rid=rid))
