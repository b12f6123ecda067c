"""Stripe's events: the webhook that takes them, and the operator's view of the inbox.

The webhook keeps an event first, in a tx of its own, and answers only then. What a person waits for, a paid checkout,
is applied before the answer; all else by the jobs, within seconds.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Annotated, Literal

import psycopg
from fastapi import APIRouter, Query, Request, Response

from faucet.api.auth import TheOperator
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.top_ups import processor_of, said_by_processor
from faucet.api.trail import Trail
from faucet.api.wire_top_ups import (
    EVENTS_REPLAYED_MAX,
    EventItem,
    ReplayAsk,
    ReplayReply,
    WebhookReply,
    topup_item,
)
from faucet.api.world import TheRequestId, TheWorld, World
from faucet.kit.errors import FaucetError, Refusal
from faucet.kit.log import logger
from faucet.payments import inbox, store
from faucet.payments.appliers import AT_ONCE
from faucet.payments.inbox import Event, Note, Outcome, Verdict
from faucet.payments.processor import ProcessorRefused, ProcessorUnsure
from faucet.tenants import audit

router = APIRouter()

PROCESSOR = "stripe"
"""The actor of what an event brings about."""
ODD = (FaucetError, psycopg.DataError, psycopg.IntegrityError, ValueError, KeyError, TypeError)
"""What an event that makes no sense may raise; the jobs try it again, and say so."""


async def note_all(t: TenantTx, event_id: str, notes: tuple[Note, ...]) -> None:
    """Write the audit log's rows of an event that was applied, in its tx."""
    for note in notes:
        await audit.record(
            t,
            actor_scope=PROCESSOR,
            actor_id=event_id,
            action=note.action,
            resource_type=note.resource_type,
            resource_id=note.resource_id,
            request_id=None,
            before=note.before,
            after=note.after,
            developer_id=note.developer_id,
        )


@router.post(
    "/v1/stripe/webhook",
    tags=["stripe"],
    response_model=WebhookReply,
    response_model_exclude_none=True,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "An event, signed over its raw bytes in the header `Stripe-Signature`.",
            "content": {"application/json": {"schema": {"type": "object", "title": "StripeEvent"}}},
        }
    },
)
async def take_event(request: Request, world: TheWorld) -> WebhookReply:
    """Take an event of Stripe's, once, whatever order they come in. The bearer is the signature, five minutes long."""
    secret = world.config.stripe_webhook_secret
    if secret is None:
        raise Refusal("unavailable", "payments are not set up here: STRIPE_WEBHOOK_SECRET is not configured")
    # Stripe signs what happens to connected accounts with the secret of another endpoint of its own.
    secrets = [each for each in (secret, world.config.stripe_connect_webhook_secret) if each is not None]
    event = inbox.verified(await request.body(), request.headers.get("stripe-signature"), *secrets)
    if inbox.applier_of(event.type, world.appliers) is None:
        return WebhookReply(ignored=True)
    async with tenant_tx(world, None) as t:
        await inbox.store(t, event)
    if not event.type.startswith(AT_ONCE):
        return WebhookReply(queued=True)
    try:
        verdict = await _apply(world, event.id)
    except ODD as error:
        # It is kept, so the jobs try again; and so would Stripe, in vain, if it were told of our fault.
        logger.error("stripe.event_failed", event_id=event.id, type=event.type, exc_info=error)
        return WebhookReply(queued=True)
    return await _reply(world, event, verdict)


async def _apply(world: World, event_id: str) -> Verdict:
    async with tenant_tx(world, None) as t:
        kept = await inbox.claim(t, event_id)
        assert kept is not None  # events are never deleted
        verdict = await inbox.apply(t, kept, world.appliers, now=world.clock.now(), is_live=world.config.stripe_is_live)
        await note_all(t, event_id, verdict.notes)
    if verdict.notes and verdict.outcome is Outcome.APPLIED:
        world.metrics.ledger_writes.add(("transfer",))
        async with tenant_tx(world, None) as t:
            await inbox.wake(t, now=world.clock.now())
    return verdict


async def _reply(world: World, event: Event, verdict: Verdict) -> WebhookReply:
    match verdict.outcome:
        case Outcome.REFUSED:
            return WebhookReply(refused=True, reason=verdict.reason)
        case Outcome.IGNORED:
            return WebhookReply(ignored=True)
        case Outcome.WAITING:
            return WebhookReply(queued=True)
    async with tenant_tx(world, None) as t:
        row = await store.find_by_session(t, str(event.about.get("id")))
    return WebhookReply(topup=None if row is None else topup_item(row))


# ── the operator's view ──


@router.get(
    "/v1/admin/stripe/events",
    tags=["operator: stripe"],
    response_model=PageReply[EventItem],
    response_model_exclude_none=True,
)
async def list_events(
    caller: TheOperator,
    world: TheWorld,
    page: ThePage,
    outcome: Literal["waiting", "applied", "ignored", "refused"] | None = None,
    type: Annotated[str | None, Query(min_length=1, max_length=255, pattern=r"^[a-z0-9_.]+$")] = None,
) -> PageReply[EventItem]:
    """The inbox of Stripe's events, newest first, and what became of each."""
    async with tenant_tx(world, None) as t:
        rows = await inbox.page(t, outcome=outcome, kind=type, after=page.after, limit=page.fetch)
    shown, cursor = page.cut(rows, lambda row: (row.received_at, row.row_id))
    return page_reply(
        [
            EventItem.model_validate(
                {
                    "id": row.id,
                    "type": row.type,
                    "outcome": row.outcome,
                    "reason": row.reason,
                    "attempts": row.attempts,
                    "account": row.account,
                    "created_at": row.created_at,
                    "received_at": row.received_at,
                }
            )
            for row in shown
        ],
        cursor,
    )


@router.post("/v1/admin/stripe/events/replay", tags=["operator: stripe"], response_model=ReplayReply)
async def replay_events(
    body: ReplayAsk,
    caller: TheOperator,
    world: TheWorld,
    request: Request,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Ask Stripe for events again, keep those that never came here, and apply what waits.

    Harmless to repeat: an event is applied once. At most five hundred at a time, the newest.
    """
    processor = processor_of(world)
    try:
        if body.event_ids is not None:
            bodies = [await processor.event(event_id) for event_id in body.event_ids]
        else:
            since = world.clock.now() - timedelta(hours=body.hours)
            bodies = await processor.events(since=since, limit=EVENTS_REPLAYED_MAX)
    except (ProcessorRefused, ProcessorUnsure) as error:
        raise said_by_processor(error) from None
    events = [inbox.read(each) for each in reversed(bodies)]
    wanted = [event for event in events if inbox.applier_of(event.type, world.appliers) is not None]
    stored = 0
    for event in wanted:
        async with tenant_tx(world, None) as t:
            stored += await inbox.store(t, event)
    counts = await _settle_all(world, [event.id for event in wanted])

    async def act(t: TenantTx) -> ReplayReply:
        reply = ReplayReply(asked=len(events), stored=stored, **counts)
        await Trail(caller.actor, rid).note(
            t, "stripe.events_replayed", "stripe", None, after=json.loads(reply.model_dump_json())
        )
        return reply

    return await idempotent(
        world, request, principal=str(caller.actor), developer_id=None, key=key, body=body, act=act, status=200
    )


async def _outcome(world: World, event_id: str) -> Outcome:
    """What became of an event; one that can't be applied waits for the jobs, and holds up no other."""
    try:
        return (await _apply(world, event_id)).outcome
    except ODD as error:
        logger.error("stripe.event_failed", event_id=event_id, exc_info=error)
        return Outcome.WAITING


async def _settle_all(world: World, ids: list[str]) -> dict[str, int]:
    """Apply these, twice where some of them waited for others of them."""
    left = {event_id: Outcome.WAITING for event_id in ids}
    for _ in range(2):
        for event_id, outcome in list(left.items()):
            if outcome is Outcome.WAITING:
                left[event_id] = await _outcome(world, event_id)
    outcomes = list(left.values())
    return {
        "applied": outcomes.count(Outcome.APPLIED),
        "waiting": outcomes.count(Outcome.WAITING),
        "refused": outcomes.count(Outcome.REFUSED),
    }
