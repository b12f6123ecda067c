"""The operator's levers: kill switches, and the log of who changed what."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import AfterValidator, StringConstraints

from faucet.api.auth import Actor, TheOperator
from faucet.api.developer_wire import AuditItem, stored_text
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.operations import AtQuery, audit_item
from faucet.api.operator_wire import ProviderName, SwitchAsk, SwitchItem
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.trail import Trail
from faucet.api.world import TheRequestId, TheWorld, World
from faucet.kit.db import Tx
from faucet.kit.errors import Refusal, field_error
from faucet.reports import operations
from faucet.reports.operations import AuditFilter
from faucet.tenants import store, switches
from faucet.tenants.switches import Switch
from faucet.webhooks.outbox import emit

router = APIRouter(tags=["operator: control"])

Wanted = Annotated[
    Annotated[str, StringConstraints(min_length=1, max_length=300), AfterValidator(stored_text)] | None, Query()
]


def switch_item(switch: Switch) -> SwitchItem:
    """The wire's view of a switch."""
    return SwitchItem.model_validate({name: getattr(switch, name) for name in SwitchItem.model_fields})


@router.get("/v1/admin/kill-switches", response_model=PageReply[SwitchItem], response_model_exclude_none=True)
async def list_kill_switches(caller: TheOperator, world: TheWorld, page: ThePage) -> PageReply[SwitchItem]:
    """What is switched off, the newest first."""
    async with tenant_tx(world, None) as t:
        rows = await switches.page(t, after=page.after, limit=page.fetch)
    shown, cursor = page.cut(rows, lambda switch: (switch.thrown_at, switch.place))
    return page_reply([switch_item(switch) for switch in shown], cursor)


@router.post("/v1/admin/kill-switches", status_code=201, response_model=SwitchItem)
async def throw_kill_switch(
    body: SwitchAsk,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Switch an app, a provider or everything off: within five seconds no gateway begins a request of it.

    Requests that have begun end as they would. A switch that is thrown already stays as it was.
    """

    async def act(t: TenantTx) -> SwitchItem:
        row_id, developer_id = await _row_of(t, body.target, body.target_id)
        if await switches.throw(t, body.target, row_id, reason=body.reason, by=str(caller.actor)):
            trail = Trail(caller.actor, rid)
            await _note(t, trail, "kill_switch.thrown", body.target, body.target_id, developer_id, body.reason)
            if developer_id is not None:
                told = {"public_app_id": body.target_id, "status": "switched_off", "by": caller.actor.scope}
                await emit(t, developer_id, "app.disabled", told)
        thrown = await switches.find(t, body.target, row_id)
        if thrown is None:
            raise Refusal("conflict", "the switch was released at the same moment")
        return switch_item(thrown)

    return await idempotent(world, request, principal=str(caller.actor), developer_id=None, key=key, body=body, act=act)


@router.delete("/v1/admin/kill-switches/everything", status_code=204, response_class=Response)
async def switch_everything_on(caller: TheOperator, world: TheWorld, rid: TheRequestId) -> Response:
    """Release the switch of everything; what is switched off by a switch of its own stays so."""
    return await _release(world, caller.actor, rid, "everything", None)


@router.delete("/v1/admin/kill-switches/{target}/{target_id}", status_code=204, response_class=Response)
async def release_kill_switch(
    target: Literal["app", "provider"],
    target_id: Annotated[ProviderName, Path()],
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
) -> Response:
    """Release the switch of an app or a provider."""
    return await _release(world, caller.actor, rid, target, target_id)


async def _release(world: World, actor: Actor, rid: str, target: str, target_id: str | None) -> Response:
    async with tenant_tx(world, None) as t:
        row_id, developer_id = await _row_of(t, target, target_id)
        if not await switches.release(t, target, row_id):
            raise Refusal("not_found", "this switch is not thrown")
        await _note(t, Trail(actor, rid), "kill_switch.released", target, target_id, developer_id, None)
    return Response(status_code=204)


async def _row_of(t: Tx, target: str, target_id: str | None) -> tuple[str, UUID | None]:
    """How the table names what is switched off, and whose it is. Raises Refusal `invalid_request`, `invalid_app`."""
    if (target == "everything") != (target_id is None):
        raise field_error("target_id", "must name the app or provider, and is absent where everything is meant")
    if target != "app" or target_id is None:
        return target_id or "", None
    app = await store.find_app(t, target_id)
    if app is None:
        raise Refusal("invalid_app", "there is no app with this public_app_id")
    return str(app.id), app.developer_id


async def _note(
    t: Tx, trail: Trail, action: str, target: str, target_id: str | None, developer_id: UUID | None, reason: str | None
) -> None:
    await trail.note(
        t,
        action,
        "kill_switch",
        target if target_id is None else f"{target}/{target_id}",
        developer_id=developer_id,
        after=None if reason is None else {"reason": reason},
    )


@router.get("/v1/admin/audit", response_model=PageReply[AuditItem], response_model_exclude_none=True)
async def search_audit_log(
    caller: TheOperator,
    world: TheWorld,
    page: ThePage,
    developer_id: Annotated[UUID | None, Query()] = None,
    actor_scope: Wanted = None,
    actor_id: Wanted = None,
    action: Wanted = None,
    resource_type: Wanted = None,
    resource_id: Wanted = None,
    request_id: Wanted = None,
    since: AtQuery = None,
    until: AtQuery = None,
) -> PageReply[AuditItem]:
    """Who changed what, newest first; each parameter narrows the search."""
    wanted = AuditFilter(
        developer_id=developer_id,
        actor_scope=actor_scope,
        actor_id=actor_id,
        action=action,
        resource_type=resource_type,
        resource_id=resource_id,
        request_id=request_id,
        since=since,
        until=until,
    )
    async with tenant_tx(world, None) as t:
        rows = await operations.search_audit(t, wanted, after=page.after, limit=page.fetch)
    shown, cursor = page.cut(rows, lambda row: (row.created_at, row.id))
    return page_reply([audit_item(row) for row in shown], cursor)
