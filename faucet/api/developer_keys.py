"""Developers' own provider keys: for one app, or for all of a developer's."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response

from faucet.api.auth import DeveloperScope, require
from faucet.api.credential_wire import DeveloperKeyAsk, DeveloperKeyReply
from faucet.api.credentials import ask_provider, create, disable, no_such_key, reply_of
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.wire import Identifier
from faucet.api.world import TheRequestId, TheWorld
from faucet.kit.errors import InvariantBroken, Refusal, field_error
from faucet.kit.ids import uuid7
from faucet.kit.secret import Secret
from faucet.tenants.store import App, find_app
from faucet.vault import store
from faucet.vault.seal import Place
from faucet.vault.store import Credential

router = APIRouter()

KeyReader = Annotated[DeveloperScope, Depends(require("developer:provider_keys:read"))]
KeyWriter = Annotated[DeveloperScope, Depends(require("developer:provider_keys:write"))]


def _developer_reply(row: Credential, public_app_id: str | None) -> DeveloperKeyReply:
    if row.developer_id is None:
        raise InvariantBroken(f"the credential {row.id} belongs to no developer")
    return DeveloperKeyReply(
        **reply_of(row).model_dump(),
        developer_id=row.developer_id,
        public_app_id=public_app_id,
        weight=row.weight,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


async def _app(tx: TenantTx, public_app_id: str) -> App:
    """An app of a developer whose rows the tx may see. Raises Refusal `invalid_app`."""
    app = await find_app(tx, public_app_id)
    if app is None or app.status == "archived":
        raise Refusal("invalid_app", "there is no app with this public_app_id")
    return app


@router.post(
    "/v1/developer/provider-keys",
    tags=["developer"],
    status_code=201,
    response_model=DeveloperKeyReply,
    response_model_exclude_none=True,
)
async def add_developer_provider_key(
    body: DeveloperKeyAsk,
    request: Request,
    caller: KeyWriter,
    world: TheWorld,
    rid: TheRequestId,
    idempotency_key: TheIdempotencyKey = None,
) -> Response:
    """Keep a provider's key of a developer, sealed: for one app, or without `public_app_id` for all of them.

    Who may act for all developers has to name an app.
    """
    app: App | None = None
    if body.public_app_id is not None:
        async with tenant_tx(world, caller.developer_id) as t:
            app = await _app(t, body.public_app_id)
    elif caller.developer_id is None:
        raise field_error("public_app_id", "is required with this bearer")
    developer_id = caller.developer_id if app is None else app.developer_id
    verdict = await ask_provider(world, body.provider, body.base_url, Secret(body.api_key), ask=body.validate_)

    async def act(tx: TenantTx) -> DeveloperKeyReply:
        place = Place(
            row_id=uuid7(),
            owner="developer",
            developer_id=developer_id,
            app_id=None if app is None else app.id,
            end_user_id=None,
            provider=body.provider,
            base_url=body.base_url,
        )
        row = await create(world, tx, place, body, verdict, weight=body.weight, actor=caller.actor, rid=rid)
        return _developer_reply(row, body.public_app_id)

    return await idempotent(
        world,
        request,
        principal=str(caller.actor),
        developer_id=developer_id,
        key=idempotency_key,
        body=body,
        act=act,
    )


@router.get(
    "/v1/developer/provider-keys",
    tags=["developer"],
    response_model=PageReply[DeveloperKeyReply],
    response_model_exclude_none=True,
)
async def list_developer_provider_keys(
    caller: KeyReader,
    world: TheWorld,
    page: ThePage,
    public_app_id: Annotated[Identifier | None, Query()] = None,
) -> PageReply[DeveloperKeyReply]:
    """Developers' own keys, newest first, disabled ones too; masked. With `public_app_id`: those of one app."""
    async with tenant_tx(world, caller.developer_id) as t:
        app = None if public_app_id is None else await _app(t, public_app_id)
        found = await store.list_of_developers(
            t, app_id=None if app is None else app.id, limit=page.fetch, after=page.after
        )
        rows, cursor = page.cut(found, lambda row: (row.created_at, row.id))
        names = await store.public_app_ids(t, [row.app_id for row in rows if row.app_id is not None])
    return page_reply([_developer_reply(row, names.get(row.app_id)) for row in rows], cursor)


@router.delete(
    "/v1/developer/provider-keys/{key_id}",
    tags=["developer"],
    response_model=DeveloperKeyReply,
    response_model_exclude_none=True,
)
async def disable_developer_provider_key(
    key_id: UUID, caller: KeyWriter, world: TheWorld, rid: TheRequestId
) -> DeveloperKeyReply:
    """Disable a developer's key for good and erase its secret. Harmless to repeat."""
    async with tenant_tx(world, caller.developer_id) as t:
        row = await store.find(t, key_id, end_user_id=None)
        if row is None:
            raise no_such_key()
        after = await disable(t, row, now=world.clock.now(), actor=caller.actor, rid=rid)
        names = await store.public_app_ids(t, [] if row.app_id is None else [row.app_id])
    return _developer_reply(after, names.get(after.app_id))
