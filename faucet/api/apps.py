"""Apps: made, listed, changed, archived, by their developers and by staff."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response

from faucet.api.auth import DeveloperScope, require
from faucet.api.developer_wire import AppAsk, AppItem, AppPatch, AppSettings
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.trail import Trail, changed
from faucet.api.wire import Identifier
from faucet.api.world import TheRequestId, TheWorld
from faucet.kit.errors import field_error
from faucet.tenants import apps, developers
from faucet.tenants.apps import App
from faucet.webhooks.outbox import emit

router = APIRouter(tags=["developer: apps"])

Reader = Annotated[DeveloperScope, Depends(require("developer:apps:read"))]
Writer = Annotated[DeveloperScope, Depends(require("developer:apps:write"))]
PublicAppId = Annotated[Identifier, Path()]

_RENAMED = {
    "monthly_spend_limit_usd": "monthly_spend_limit_e8",
    "session_spend_limit_usd": "session_spend_limit_e8",
    "wallet_low_usd": "wallet_low_e8",
}
_NULLABLE = frozenset(("vertical", *_RENAMED))


def app_item(app: App) -> AppItem:
    """The wire's view of an app."""
    return AppItem.model_validate({name: getattr(app, _RENAMED.get(name, name)) for name in AppItem.model_fields})


def _settings(body: AppSettings, *, leave_out: frozenset[str] = frozenset()) -> dict[str, Any]:
    """What the body sets, by the names of an app's fields. Null lifts a limit; other nulls are refused."""
    given = {name: getattr(body, name) for name in body.model_fields_set - leave_out}
    for name, value in given.items():
        if value is None and name not in _NULLABLE:
            raise field_error(name, "may not be null")
    return {_RENAMED.get(name, name): value for name, value in given.items()}


@router.post("/v1/developer/apps", status_code=201, response_model=AppItem)
async def create_app(
    body: AppAsk,
    request: Request,
    caller: Writer,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Make an app. Its public id is taken for good, also when it is archived."""
    owner = caller.owner(body.developer_id)
    settings = _settings(body, leave_out=frozenset(("developer_id", "public_app_id", "name")))

    async def act(t: TenantTx) -> AppItem:
        await developers.find(t, owner)
        app = await apps.create(
            t, developer_id=owner, public_app_id=body.public_app_id, name=body.name, settings=settings
        )
        item = app_item(app)
        await Trail(caller.actor, rid).note(
            t, "app.created", "app", app.public_app_id, developer_id=owner, after=item.model_dump(mode="json")
        )
        return item

    return await idempotent(
        world, request, principal=str(caller.actor), developer_id=caller.developer_id, key=key, body=body, act=act
    )


@router.get("/v1/developer/apps", response_model=PageReply[AppItem], response_model_exclude_none=True)
async def list_apps(caller: Reader, world: TheWorld, page: ThePage) -> PageReply[AppItem]:
    """Apps, newest first, archived ones included."""
    async with tenant_tx(world, caller.developer_id) as t:
        rows = await apps.page(t, developer_id=caller.developer_id, after=page.after, limit=page.fetch)
    shown, cursor = page.cut(rows, lambda app: (app.created_at, app.id))
    return page_reply([app_item(app) for app in shown], cursor)


@router.get("/v1/developer/apps/{public_app_id}", response_model=AppItem, response_model_exclude_none=True)
async def read_app(public_app_id: PublicAppId, caller: Reader, world: TheWorld) -> AppItem:
    """One app."""
    async with tenant_tx(world, caller.developer_id) as t:
        return app_item(await apps.find(t, public_app_id))


@router.patch("/v1/developer/apps/{public_app_id}", response_model=AppItem, response_model_exclude_none=True)
async def change_app(
    public_app_id: PublicAppId, body: AppPatch, caller: Writer, world: TheWorld, rid: TheRequestId
) -> AppItem:
    """Change what is given; gateways and other processes act on it within five seconds. Null lifts a limit."""
    settings = _settings(body)
    async with tenant_tx(world, caller.developer_id) as t:
        return await _change(t, public_app_id, settings, "app.changed", Trail(caller.actor, rid))


@router.delete("/v1/developer/apps/{public_app_id}", response_model=AppItem, response_model_exclude_none=True)
async def archive_app(public_app_id: PublicAppId, caller: Writer, world: TheWorld, rid: TheRequestId) -> AppItem:
    """Archive an app: its sessions end within five seconds and none is minted any more. What it earned stays."""
    async with tenant_tx(world, caller.developer_id) as t:
        return await _change(t, public_app_id, {"status": "archived"}, "app.archived", Trail(caller.actor, rid))


async def _change(t: TenantTx, public_app_id: str, settings: dict[str, Any], action: str, trail: Trail) -> AppItem:
    app = await apps.find(t, public_app_id)
    item = app_item(await apps.change(t, app, settings))
    before, after = changed(app_item(app).model_dump(mode="json"), item.model_dump(mode="json"))
    if after:
        await trail.note(t, action, "app", public_app_id, developer_id=app.developer_id, before=before, after=after)
    if app.status == "active" and item.status != "active":
        told = {"public_app_id": public_app_id, "status": item.status, "by": trail.actor.scope}
        await emit(t, app.developer_id, "app.disabled", told)
    return item
