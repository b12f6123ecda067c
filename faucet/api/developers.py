"""Developers, as the operator makes and keeps them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from faucet.api.auth import TheOperator
from faucet.api.developer_wire import Email
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.operator_wire import DeveloperAsk, DeveloperItem, DeveloperPatch
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.trail import Trail, changed
from faucet.api.world import TheRequestId, TheWorld
from faucet.kit.errors import field_error
from faucet.tenants import developers
from faucet.tenants.developers import Developer

router = APIRouter(tags=["operator: developers"])


def developer_item(developer: Developer) -> DeveloperItem:
    """The wire's view of a developer."""
    own = {name: getattr(developer, name) for name in DeveloperItem.model_fields if hasattr(developer, name)}
    return DeveloperItem.model_validate(
        own
        | {
            "free_quota_monthly_max_usd": developer.free_quota_month_max_e8,
            "free_quota_granted_usd": developer.free_quota_granted_e8,
        }
    )


@router.post("/v1/developers", status_code=201, response_model=DeveloperItem)
async def create_developer(
    body: DeveloperAsk,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Make a developer, with accounts for what they will earn. An e-mail address belongs to one."""

    async def act(t: TenantTx) -> DeveloperItem:
        item = developer_item(await developers.create(t, name=body.name, email=body.email))
        await Trail(caller.actor, rid).note(
            t,
            "developer.created",
            "developer",
            str(item.id),
            developer_id=item.id,
            after=item.model_dump(mode="json"),
        )
        return item

    return await idempotent(world, request, principal=str(caller.actor), developer_id=None, key=key, body=body, act=act)


@router.get("/v1/developers", response_model=PageReply[DeveloperItem], response_model_exclude_none=True)
async def list_developers(
    caller: TheOperator, world: TheWorld, page: ThePage, email: Annotated[Email | None, Query()] = None
) -> PageReply[DeveloperItem]:
    """Developers, newest first; with `email`, the one who has it."""
    async with tenant_tx(world, None) as t:
        rows = await developers.page(t, email=email, after=page.after, limit=page.fetch)
    shown, cursor = page.cut(rows, lambda developer: (developer.created_at, developer.id))
    return page_reply([developer_item(developer) for developer in shown], cursor)


@router.get("/v1/developers/{developer_id}", response_model=DeveloperItem)
async def read_developer(developer_id: UUID, caller: TheOperator, world: TheWorld) -> DeveloperItem:
    """One developer."""
    async with tenant_tx(world, None) as t:
        return developer_item(await developers.find(t, developer_id))


@router.patch("/v1/developers/{developer_id}", response_model=DeveloperItem)
async def change_developer(
    developer_id: UUID, body: DeveloperPatch, caller: TheOperator, world: TheWorld, rid: TheRequestId
) -> DeveloperItem:
    """Rename a developer, switch them off (their tokens, apps and sessions are refused within five seconds), or say
    what the platform gives away for their features' free quotas."""
    for name in sorted(body.model_fields_set):
        if getattr(body, name) is None:
            raise field_error(name, "may not be null")
    async with tenant_tx(world, None) as t:
        old = developer_item(await developers.find(t, developer_id))
        item = developer_item(
            await developers.change(
                t,
                developer_id,
                name=body.name,
                status=body.status,
                free_quota_month_max_e8=body.free_quota_monthly_max_usd,
            )
        )
        before, after = changed(old.model_dump(mode="json"), item.model_dump(mode="json"))
        if after:
            await Trail(caller.actor, rid).note(
                t,
                "developer.changed",
                "developer",
                str(developer_id),
                developer_id=developer_id,
                before=before,
                after=after,
            )
    return item
