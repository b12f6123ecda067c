"""Keys with which an app's backend signs its users' ids: made, listed, revoked."""

from __future__ import annotations

import base64
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request, Response
from pydantic import StringConstraints

from faucet.api.apps import PublicAppId, Reader, Writer
from faucet.api.developer_wire import Name
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.trail import Trail
from faucet.api.wire import Ask, Identifier, Moment, Reply
from faucet.api.world import TheRequestId, TheWorld
from faucet.tenants import apps, identity
from faucet.tenants.identity import SigningKey

router = APIRouter(tags=["developer: apps"])
KeyId = Annotated[Identifier, Path()]


class SigningKeyAsk(Ask):
    name: Name
    kind: Literal["HS256", "EdDSA"]
    public_key: Annotated[str, StringConstraints(min_length=1, max_length=2_000)] | None = None
    """For EdDSA: the Ed25519 public key as PEM, or its 32 bytes in base64url."""


class SigningKeyItem(Reply):
    key_id: str
    name: str
    kind: Literal["HS256", "EdDSA"]
    public_key: str | None = None
    status: Literal["active", "revoked"]
    created_at: Moment
    revoked_at: Moment | None = None


class SigningKeyReply(Reply):
    item: SigningKeyItem
    secret: str | None = None
    """Of an HS256 key; shown in this answer alone."""


def key_item(key: SigningKey) -> SigningKeyItem:
    """The wire's view of a key."""
    public = None if key.public_key is None else base64.urlsafe_b64encode(key.public_key).rstrip(b"=").decode()
    return SigningKeyItem(
        key_id=key.key_id,
        name=key.name,
        kind=key.kind,
        public_key=public,
        status="active" if key.revoked_at is None else "revoked",
        created_at=key.created_at,
        revoked_at=key.revoked_at,
    )


@router.post("/v1/developer/apps/{public_app_id}/signing-keys", status_code=201, response_model=SigningKeyReply)
async def create_signing_key(
    public_app_id: PublicAppId,
    body: SigningKeyAsk,
    request: Request,
    caller: Writer,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Add a key. Several may be active, so that a backend can change from one to the next."""

    async def act(t: TenantTx) -> SigningKeyReply:
        app = await apps.find(t, public_app_id)
        made, secret = await identity.add_key(
            t,
            app,
            name=body.name,
            kind=body.kind,
            public_key=body.public_key,
            created_by=str(caller.actor),
            sealing_key=world.config.signing_key,
        )
        item = key_item(made)
        await Trail(caller.actor, rid).note(
            t,
            "signing_key.created",
            "signing_key",
            made.key_id,
            developer_id=app.developer_id,
            after={"public_app_id": public_app_id, "name": made.name, "kind": made.kind},
        )
        return SigningKeyReply(item=item, secret=None if secret is None else secret.reveal())

    return await idempotent(
        world, request, principal=str(caller.actor), developer_id=caller.developer_id, key=key, body=body, act=act
    )


@router.get(
    "/v1/developer/apps/{public_app_id}/signing-keys",
    response_model=PageReply[SigningKeyItem],
    response_model_exclude_none=True,
)
async def list_signing_keys(
    public_app_id: PublicAppId, caller: Reader, world: TheWorld, page: ThePage
) -> PageReply[SigningKeyItem]:
    """The app's keys, newest first, revoked ones included; never a secret."""
    async with tenant_tx(world, caller.developer_id) as t:
        app = await apps.find(t, public_app_id)
        rows = await identity.page(t, app, after=page.after, limit=page.fetch)
    shown, cursor = page.cut(rows, lambda key: (key.created_at, key.id))
    return page_reply([key_item(key) for key in shown], cursor)


@router.delete(
    "/v1/developer/apps/{public_app_id}/signing-keys/{signing_key_id}",
    response_model=SigningKeyItem,
    response_model_exclude_none=True,
)
async def revoke_signing_key(
    public_app_id: PublicAppId, signing_key_id: KeyId, caller: Writer, world: TheWorld, rid: TheRequestId
) -> SigningKeyItem:
    """Revoke a key: what it signs is refused from now on. Sessions that it made end by themselves."""
    async with tenant_tx(world, caller.developer_id) as t:
        app = await apps.find(t, public_app_id)
        key = await identity.revoke_key(t, app, signing_key_id, at=world.clock.now())
        await Trail(caller.actor, rid).note(
            t,
            "signing_key.revoked",
            "signing_key",
            key.key_id,
            developer_id=app.developer_id,
            after={"public_app_id": public_app_id},
        )
        return key_item(key)
