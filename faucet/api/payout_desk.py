"""Payouts as operators have them: opening them for everybody, and deciding what becomes of each.

Who asked for a payout doesn't approve it: four eyes. Each operator has a name for that, see OPERATOR_TOKENS.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from faucet.api.auth import Actor, Operator, TheOperator
from faucet.api.developer_wire import PayoutItem
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.payout_wire import (
    ApproveAsk,
    CancelAsk,
    FailAsk,
    MarkPaidAsk,
    PayoutDetail,
    RunAsk,
    RunReply,
    Status,
    payout_detail,
    payout_item,
)
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.trail import Trail
from faucet.api.world import TheRequestId, TheWorld, World
from faucet.kit.config import Config
from faucet.kit.db import Tx
from faucet.kit.errors import Refusal
from faucet.ledger.moves import Booked
from faucet.payments import payout_store as store
from faucet.payments import payouts
from faucet.payments.payout_store import Payout, PayoutFilter
from faucet.payments.payouts import Change, Terms, difference, happened, shown, terms_of
from faucet.tenants import audit, tokens

router = APIRouter(tags=["operator: payouts"])

RUN_MAX = 1_000
"""Developers whom one run serves; who is left is served by the next."""
_ONE_RUN = 7_219_014
"""The lock of a run: two at once would open the same payouts."""

_MAY_NOT = "may not approve it; somebody else must"
Decide = Callable[[Tx], Awaitable[Change]]


@router.get("/v1/admin/payouts", response_model=PageReply[PayoutItem], response_model_exclude_none=True)
async def list_payouts(
    caller: TheOperator,
    world: TheWorld,
    page: ThePage,
    status: Annotated[Status | None, Query()] = None,
    developer_id: Annotated[UUID | None, Query()] = None,
) -> PageReply[PayoutItem]:
    """All developers' payouts, newest first."""
    async with tenant_tx(world, None) as t:
        wanted = PayoutFilter(developer_id=developer_id, status=status)
        rows = await store.page(t, wanted, after=page.after, limit=page.fetch)
    found, cursor = page.cut(rows, lambda row: (row.created_at, row.id))
    return page_reply([payout_item(row) for row in found], cursor)


@router.get("/v1/admin/payouts/{payout_id}", response_model=PayoutDetail, response_model_exclude_none=True)
async def read_payout(payout_id: UUID, caller: TheOperator, world: TheWorld) -> PayoutDetail:
    """One payout, with who decided what, and how it stands at Stripe."""
    async with tenant_tx(world, None) as t:
        payout = await store.find(t, payout_id)
    if payout is None:
        raise Refusal("not_found", "there is no such payout")
    return payout_detail(payout)


# ── opening them for everybody ──


@router.post("/v1/admin/payouts/run-mock", response_model=RunReply, response_model_exclude_none=True)
async def run_payouts_as_before(
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    body: RunAsk | None = None,
    key: TheIdempotencyKey = None,
) -> Response:
    """The former name of `/v1/admin/payouts/run`; it does the same."""
    return await _run(world, request, caller, rid, key, body or RunAsk())


@router.post("/v1/admin/payouts/run", response_model=RunReply, response_model_exclude_none=True)
async def run_payouts(
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    body: RunAsk | None = None,
    key: TheIdempotencyKey = None,
) -> Response:
    """Open a payout for each active developer who has earned enough, of all that is old enough within the limits.

    Each waits for an approval. `items` are those that were opened, at most a thousand; repeat it where there are more.
    """
    return await _run(world, request, caller, rid, key, body or RunAsk())


async def _run(world: World, request: Request, caller: Operator, rid: str, key: str | None, body: RunAsk) -> Response:
    terms = terms_of(world.config)
    if body.threshold_usd is not None:
        terms = replace(terms, least_e8=body.threshold_usd)
    by = run_by(world.config, caller)

    async def act(t: TenantTx) -> RunReply:
        cursor = await t.execute("select pg_try_advisory_xact_lock(%s)", (_ONE_RUN,))
        row = await cursor.fetchone()
        if row is None or not row[0]:
            raise Refusal("conflict", "a run is under way; try again when it has ended")
        earned_by = terms.after_hold_back(world.clock.now())
        found = await store.candidates(
            t, least_e8=terms.at_least_e8, earned_by=earned_by, run=None, after=None, limit=RUN_MAX
        )
        opened = [
            await _open(world, terms, developer_id, Trail(caller.actor, rid), by=by, key=key) for developer_id in found
        ]
        return RunReply(items=[payout_item(payout) for payout in opened if payout is not None])

    return await idempotent(
        world, request, principal=str(caller.actor), developer_id=None, key=key, body=body, act=act, status=200
    )


def run_by(config: Config, caller: Operator) -> str:
    """Who asks for the payouts of a run: the operator who starts it, who then may not approve them.

    A development machine has one operator, whom nobody else could approve for; there it is the run itself.
    """
    return str(caller.actor) if _are_several(config) else "run"


def _are_several(config: Config) -> bool:
    """Whether there is somebody else who could approve."""
    return config.is_production or bool(config.operator_tokens)


async def _makers(t: Tx, config: Config, payout: Payout) -> frozenset[str]:
    """Who made the token that asked for a payout, for whom its asking is as their own."""
    return await _behind(t, {payout.requested_by}) if _are_several(config) else frozenset()


async def _bankers(t: Tx, config: Config, payout: Payout) -> frozenset[str]:
    """Who had a link with which the bank can be named that a payout goes to."""
    if payout.provider == "manual" or not _are_several(config):
        return frozenset()
    found = await audit.actors_of(t, "payout_account", str(payout.developer_id))
    actors = {str(Actor(scope, name)) for scope, name in found}
    return await _behind(t, actors) | actors


async def _behind(t: Tx, actors: set[str]) -> frozenset[str]:
    """Who made the developers' tokens among these."""
    found: frozenset[str] = frozenset()
    for actor in actors:
        scope, _, token_id = actor.partition(":")
        if scope == "developer_token":
            found |= await tokens.makers(t, UUID(token_id))
    return found


async def _open(
    world: World, terms: Terms, developer_id: UUID, trail: Trail, *, by: str, key: str | None
) -> Payout | None:
    """One developer's payout in a tx of its own, so that no earnings are locked for the length of a run."""
    try:
        async with tenant_tx(world, None) as t:
            found = await payouts.open_by_run(
                t,
                terms,
                developer_id=developer_id,
                by=by,
                key=None if key is None else f"payout-run:{trail.actor}:{key}:{developer_id}",
                run=None,
                now=world.clock.now(),
            )
            if found is None:
                return None
            payout, booked = found
            if booked is Booked.NOW:
                await trail.note(
                    t, "payout.requested", "payout", str(payout.id), developer_id=developer_id, after=shown(payout)
                )
    except Refusal:  # somebody else was quicker with the same earnings
        return None
    if booked is Booked.NOW:
        world.metrics.ledger_writes.add(("transfer",))
    return payout


# ── deciding ──


@router.post("/v1/admin/payouts/{payout_id}/approve", response_model=PayoutItem, response_model_exclude_none=True)
async def approve_payout(
    payout_id: UUID,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    body: ApproveAsk | None = None,
    key: TheIdempotencyKey = None,
) -> Response:
    """Let a payout go: it is sent by the jobs, or paid by hand.

    403 for who asked for it, made the token that asked, or had a link to name the bank; 409 where it isn't waiting for
    an approval any more, also for the second of two at once.
    """

    async def decide(t: Tx) -> Change:
        note = None if body is None else body.operator_note
        by, now = str(caller.actor), world.clock.now()
        if (payout := await store.find(t, payout_id)) is not None:
            if by in await _makers(t, world.config, payout):
                raise Refusal("forbidden", f"who made the token that asked for a payout {_MAY_NOT}")
            if by in await _bankers(t, world.config, payout):
                raise Refusal("forbidden", f"who had a link to name the bank that it goes to {_MAY_NOT}")
        return await payouts.approve(t, payout_id, by=by, note=note, now=now)

    return await _decide(world, request, caller.actor, rid, key, body, decide)


@router.post("/v1/admin/payouts/{payout_id}/mark-paid", response_model=PayoutItem, response_model_exclude_none=True)
async def mark_payout_paid(
    payout_id: UUID,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    body: MarkPaidAsk | None = None,
    key: TheIdempotencyKey = None,
) -> Response:
    """Note that an approved payout was paid by hand. 409 before it is approved, or if it goes through Stripe."""

    async def decide(t: Tx) -> Change:
        reference = None if body is None else body.provider_payout_id
        return await payouts.mark_paid(t, payout_id, by=str(caller.actor), reference=reference, now=world.clock.now())

    return await _decide(world, request, caller.actor, rid, key, body, decide)


@router.post("/v1/admin/payouts/{payout_id}/cancel", response_model=PayoutItem, response_model_exclude_none=True)
async def cancel_payout(
    payout_id: UUID,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    body: CancelAsk | None = None,
    key: TheIdempotencyKey = None,
) -> Response:
    """Call a payout off; what was set apart is earnings again. 409 once it has begun to leave."""

    async def decide(t: Tx) -> Change:
        reason = None if body is None else body.reason
        return await payouts.cancel(t, payout_id, by=str(caller.actor), reason=reason, now=world.clock.now())

    return await _decide(world, request, caller.actor, rid, key, body, decide)


@router.post("/v1/admin/payouts/{payout_id}/fail", response_model=PayoutItem, response_model_exclude_none=True)
async def fail_payout(
    payout_id: UUID,
    body: FailAsk,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Note that an approved payout could not be paid, or that one that was paid by hand came back.

    One that has begun to leave through Stripe stays `sent` until it was taken back there, and is `failed` then; if it
    turns out to have reached the bank, it is `paid`.
    """

    async def decide(t: Tx) -> Change:
        return await payouts.fail(t, payout_id, reason=body.reason, now=world.clock.now())

    return await _decide(world, request, caller.actor, rid, key, body, decide)


async def _decide(
    world: World,
    request: Request,
    actor: Actor,
    rid: str,
    key: str | None,
    body: ApproveAsk | MarkPaidAsk | CancelAsk | FailAsk | None,
    decide: Decide,
) -> Response:
    async def act(t: TenantTx) -> PayoutItem:
        change = await decide(t)
        before, after = difference(change)
        await Trail(actor, rid).note(
            t,
            happened(change),
            "payout",
            str(change.after.id),
            developer_id=change.after.developer_id,
            before=before,
            after=after,
        )
        return payout_item(change.after)

    return await idempotent(
        world, request, principal=str(actor), developer_id=None, key=key, body=body, act=act, status=200
    )
