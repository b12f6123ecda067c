"""Developers' webhooks: endpoints, their secrets, a test, what was sent, and sending it again.

Events are delivered by the jobs, at least once and in no promised order. Not here: what makes an event.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response

from faucet.api.auth import DeveloperScope, require
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.trail import Trail, changed
from faucet.api.webhook_wire import (
    AttemptItem,
    DeliveryItem,
    EventItem,
    ReplayAsk,
    ReplayReply,
    RotateAsk,
    WebhookAsk,
    WebhookItem,
    WebhookPatch,
    WebhookReply,
)
from faucet.api.world import TheRequestId, TheWorld, World
from faucet.kit.db import Tx
from faucet.kit.errors import Refusal, field_error
from faucet.tenants import developers
from faucet.webhooks import endpoints, outbox
from faucet.webhooks.endpoints import WebhookEndpoint
from faucet.webhooks.outbox import Event, EventType
from faucet.webhooks.target import Rules, target_of

router = APIRouter(tags=["developer: webhooks"])

Reader = Annotated[DeveloperScope, Depends(require("developer:webhooks:read"))]
Writer = Annotated[DeveloperScope, Depends(require("developer:webhooks:write"))]


def webhook_item(endpoint: WebhookEndpoint) -> WebhookItem:
    """The wire's view of an endpoint."""
    return WebhookItem.model_validate({name: getattr(endpoint, name) for name in WebhookItem.model_fields})


def _checked(world: World, url: str) -> str:
    """The URL, if events may be sent there. Raises Refusal `invalid_request`."""
    try:
        target_of(url, Rules.of(world.config))
    except ValueError as problem:
        raise field_error("url", str(problem)) from None
    return url


@router.post("/v1/developer/webhooks", status_code=201, response_model=WebhookReply)
async def create_webhook(
    body: WebhookAsk,
    request: Request,
    caller: Writer,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Add an endpoint. Its secret, with which what is sent there is signed, is shown in this answer alone.

    Addresses are https and public. What is sent, and how to check it, is in the Standard Webhooks specification:
    headers `webhook-id`, `webhook-timestamp`, `webhook-signature`. An event is delivered at least once, so compare
    ids; events may come in another order than they happened.
    """
    owner = caller.owner(body.developer_id)
    url = _checked(world, body.url)

    async def act(t: TenantTx) -> WebhookReply:
        await developers.find(t, owner)
        endpoint, secret = await endpoints.create(
            t,
            developer_id=owner,
            url=url,
            description=body.description,
            event_types=body.event_types,
            created_by=str(caller.actor),
            sealing_key=world.config.webhook_key,
        )
        item = webhook_item(endpoint)
        after = item.model_dump(mode="json", include={"url", "description", "event_types"})
        await _note(t, caller, rid, "webhook_endpoint.created", endpoint, after=after)
        return WebhookReply(item=item, secret=secret.reveal())

    return await idempotent(
        world, request, principal=str(caller.actor), developer_id=caller.developer_id, key=key, body=body, act=act
    )


@router.get("/v1/developer/webhooks", response_model=PageReply[WebhookItem], response_model_exclude_none=True)
async def list_webhooks(caller: Reader, world: TheWorld, page: ThePage) -> PageReply[WebhookItem]:
    """Endpoints, newest first; never a secret."""
    async with tenant_tx(world, caller.developer_id) as t:
        rows = await endpoints.page(t, developer_id=caller.developer_id, after=page.after, limit=page.fetch)
    shown, cursor = page.cut(rows, lambda row: (row.created_at, row.id))
    return page_reply([webhook_item(row) for row in shown], cursor)


@router.get("/v1/developer/webhooks/{webhook_id}", response_model=WebhookItem, response_model_exclude_none=True)
async def read_webhook(webhook_id: UUID, caller: Reader, world: TheWorld) -> WebhookItem:
    """One endpoint: whether it is on, and since when it fails."""
    async with tenant_tx(world, caller.developer_id) as t:
        return webhook_item(await endpoints.find(t, webhook_id))


@router.patch("/v1/developer/webhooks/{webhook_id}", response_model=WebhookItem, response_model_exclude_none=True)
async def change_webhook(
    webhook_id: UUID, body: WebhookPatch, caller: Writer, world: TheWorld, rid: TheRequestId
) -> WebhookItem:
    """Change what is given. Switched off, an endpoint is sent nothing, and what waited for it is given up; switched
    on again, also after it was switched off for failing, it begins anew."""
    settings = {name: getattr(body, name) for name in body.model_fields_set}
    for name, value in settings.items():
        if value is None and name != "description":
            raise field_error(name, "may not be null")
    if body.url is not None:
        _checked(world, body.url)
    async with tenant_tx(world, caller.developer_id) as t:
        endpoint = await endpoints.find(t, webhook_id, lock=True)
        item = webhook_item(await endpoints.change(t, endpoint, settings))
        before, after = changed(webhook_item(endpoint).model_dump(mode="json"), item.model_dump(mode="json"))
        if after:
            await _note(t, caller, rid, "webhook_endpoint.changed", endpoint, before=before, after=after)
    return item


@router.delete("/v1/developer/webhooks/{webhook_id}", status_code=204, response_class=Response)
async def delete_webhook(webhook_id: UUID, caller: Writer, world: TheWorld, rid: TheRequestId) -> Response:
    """Forget an endpoint with its secrets and deliveries; events stay."""
    async with tenant_tx(world, caller.developer_id) as t:
        endpoint = await endpoints.find(t, webhook_id, lock=True)
        await endpoints.delete(t, webhook_id)
        await _note(t, caller, rid, "webhook_endpoint.deleted", endpoint, before={"url": endpoint.url})
    return Response(status_code=204)


@router.post("/v1/developer/webhooks/{webhook_id}/rotate", status_code=201, response_model=WebhookReply)
async def rotate_webhook_secret(
    webhook_id: UUID,
    body: RotateAsk,
    request: Request,
    caller: Writer,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Make a new secret, shown in this answer alone. During the overlap everything is signed with both."""

    async def act(t: TenantTx) -> WebhookReply:
        endpoint, secret = await endpoints.rotate(
            t,
            await endpoints.find(t, webhook_id, lock=True),
            overlap_seconds=body.overlap_seconds,
            now=world.clock.now(),
            sealing_key=world.config.webhook_key,
        )
        after = {"overlap_seconds": body.overlap_seconds}
        await _note(t, caller, rid, "webhook_endpoint.rotated", endpoint, after=after)
        return WebhookReply(item=webhook_item(endpoint), secret=secret.reveal())

    return await idempotent(
        world, request, principal=str(caller.actor), developer_id=caller.developer_id, key=key, body=body, act=act
    )


@router.post("/v1/developer/webhooks/{webhook_id}/ping", status_code=202, response_model=EventItem)
async def ping_webhook(
    webhook_id: UUID,
    request: Request,
    caller: Writer,
    world: TheWorld,
    key: TheIdempotencyKey = None,
) -> Response:
    """Send a test event to this endpoint, whatever it subscribes to. How that went is in the event's attempts."""

    async def act(t: TenantTx) -> EventItem:
        endpoint = await endpoints.find(t, webhook_id)
        if endpoint.status != "active":
            raise Refusal("conflict", "this endpoint is switched off")
        event_id = await outbox.emit(t, endpoint.developer_id, "ping", {"webhook_id": endpoint.id}, only=endpoint.id)
        assert event_id is not None  # an event without a key is always new
        return (await _event_items(t, [await outbox.find(t, event_id)]))[0]

    return await idempotent(
        world,
        request,
        principal=str(caller.actor),
        developer_id=caller.developer_id,
        key=key,
        body=None,
        act=act,
        status=202,
    )


# ── events ──


async def _event_items(t: Tx, events: Sequence[Event]) -> list[EventItem]:
    """The wire's view of events, with where they go."""
    found = await outbox.deliveries_of(t, [event.id for event in events])
    return [
        EventItem(
            id=event.id,
            developer_id=event.developer_id,
            type=event.type,
            data=json.loads(event.data),
            deliveries=[
                DeliveryItem.model_validate(
                    {
                        "webhook_id": each.endpoint_id,
                        "state": each.state,
                        "tries": each.tries,
                        "next_try_at": each.due_at if each.state == "pending" else None,
                    }
                )
                for each in found.get(event.id, [])
            ],
            created_at=event.created_at,
        )
        for event in events
    ]


@router.get("/v1/developer/webhook-events", response_model=PageReply[EventItem], response_model_exclude_none=True)
async def list_webhook_events(
    caller: Reader,
    world: TheWorld,
    page: ThePage,
    event_type: Annotated[EventType | None, Query(alias="type")] = None,
) -> PageReply[EventItem]:
    """What happened in the last 30 days, newest first, and how far it was delivered."""
    async with tenant_tx(world, caller.developer_id) as t:
        rows = await outbox.page(
            t, developer_id=caller.developer_id, event_type=event_type, after=page.after, limit=page.fetch
        )
        shown, cursor = page.cut(rows, lambda row: (row.created_at, row.id))
        return page_reply(await _event_items(t, shown), cursor)


@router.get("/v1/developer/webhook-events/{event_id}", response_model=EventItem, response_model_exclude_none=True)
async def read_webhook_event(event_id: UUID, caller: Reader, world: TheWorld) -> EventItem:
    """One event, and how far it was delivered."""
    async with tenant_tx(world, caller.developer_id) as t:
        return (await _event_items(t, [await outbox.find(t, event_id)]))[0]


@router.get(
    "/v1/developer/webhook-events/{event_id}/attempts",
    response_model=PageReply[AttemptItem],
    response_model_exclude_none=True,
)
async def list_webhook_attempts(
    event_id: UUID, caller: Reader, world: TheWorld, page: ThePage
) -> PageReply[AttemptItem]:
    """Every try to deliver an event, newest first: the status that came back, or why none did."""
    async with tenant_tx(world, caller.developer_id) as t:
        await outbox.find(t, event_id)
        rows = await outbox.attempts_of(t, event_id, after=page.after, limit=page.fetch)
    shown, cursor = page.cut(rows, lambda row: (row.created_at, row.id))
    return page_reply(
        [
            AttemptItem(
                id=row.id,
                webhook_id=row.endpoint_id,
                number=row.number,
                status_code=row.status_code,
                failure=row.failure,
                duration_ms=row.duration_ms,
                created_at=row.created_at,
            )
            for row in shown
        ],
        cursor,
    )


@router.post("/v1/developer/webhook-events/{event_id}/replay", status_code=202, response_model=ReplayReply)
async def replay_webhook_event(
    event_id: UUID,
    body: ReplayAsk,
    request: Request,
    caller: Writer,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Deliver an event once more, with the id that it has, also where it was accepted before."""

    async def act(t: TenantTx) -> ReplayReply:
        event = await outbox.find(t, event_id)
        if body.webhook_id is not None:
            endpoint = await endpoints.find(t, body.webhook_id)
            if endpoint.developer_id != event.developer_id:
                raise Refusal("not_found", "there is no such webhook endpoint")
        count = await outbox.replay(t, event, only=body.webhook_id)
        await Trail(caller.actor, rid).note(
            t,
            "webhook_event.replayed",
            "webhook_event",
            str(event_id),
            developer_id=event.developer_id,
            after={"deliveries": count},
        )
        return ReplayReply(event_id=event_id, deliveries=count)

    return await idempotent(
        world,
        request,
        principal=str(caller.actor),
        developer_id=caller.developer_id,
        key=key,
        body=body,
        act=act,
        status=202,
    )


async def _note(
    t: TenantTx,
    caller: DeveloperScope,
    rid: str,
    action: str,
    endpoint: WebhookEndpoint,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    await Trail(caller.actor, rid).note(
        t,
        action,
        "webhook_endpoint",
        str(endpoint.id),
        developer_id=endpoint.developer_id,
        before=before,
        after=after,
    )
