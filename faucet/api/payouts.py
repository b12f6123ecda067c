"""Payouts as developers have them: asking for one, looking at them, and the way to an account that they go to."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from faucet.api.auth import DeveloperScope, require
from faucet.api.developer_wire import PayoutItem
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.payout_wire import OnboardingAsk, OnboardingReply, PayoutAsk, payout_item
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.trail import Trail
from faucet.api.world import TheRequestId, TheWorld, World
from faucet.kit.errors import Refusal, field_error
from faucet.ledger.moves import Booked
from faucet.payments import payout_store as store
from faucet.payments import payouts
from faucet.payments.payout_store import PayoutAccount, PayoutFilter
from faucet.payments.payouts import shown, terms_of
from faucet.payments.processor import ProcessorRefused, ProcessorUnsure, not_configured
from faucet.tenants import developers

router = APIRouter(tags=["developer: payouts"])

Writer = Annotated[DeveloperScope, Depends(require("developer:payouts:write"))]
Reader = Annotated[DeveloperScope, Depends(require("developer:payouts:write", "developer:operations:read"))]


@router.post("/v1/developer/payouts", status_code=201, response_model=PayoutItem)
async def request_payout(
    body: PayoutAsk,
    request: Request,
    caller: Writer,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Ask for earnings to be paid out. They are set apart at once, and an operator has to approve.

    Earnings younger than the hold-back don't count, and whatever left the earnings is taken from the oldest. A payout
    is whole cents, within the limits of one payout and of a day. It goes to the developer's account at Stripe if that
    is ready, else it is paid by hand.
    """
    owner = caller.owner(body.developer_id)

    async def act(t: TenantTx) -> PayoutItem:
        await developers.find(t, owner)
        payout, booked = await payouts.request(
            t,
            terms_of(world.config),
            developer_id=owner,
            amount_e8=body.amount_usd,
            by=str(caller.actor),
            key=None if key is None else f"payout:{caller.actor}:{key}",
            now=world.clock.now(),
        )
        if booked is Booked.NOW:
            world.metrics.ledger_writes.add(("transfer",))
            await Trail(caller.actor, rid).note(
                t, "payout.requested", "payout", str(payout.id), developer_id=owner, after=shown(payout)
            )
        return payout_item(payout)

    return await idempotent(
        world, request, principal=str(caller.actor), developer_id=caller.developer_id, key=key, body=body, act=act
    )


@router.get("/v1/developer/payouts", response_model=PageReply[PayoutItem], response_model_exclude_none=True)
async def list_own_payouts(caller: Reader, world: TheWorld, page: ThePage) -> PageReply[PayoutItem]:
    """Payouts, newest first."""
    async with tenant_tx(world, caller.developer_id) as t:
        wanted = PayoutFilter(developer_id=caller.developer_id)
        rows = await store.page(t, wanted, after=page.after, limit=page.fetch)
    found, cursor = page.cut(rows, lambda row: (row.created_at, row.id))
    return page_reply([payout_item(row) for row in found], cursor)


@router.get("/v1/developer/payouts/{payout_id}", response_model=PayoutItem, response_model_exclude_none=True)
async def read_own_payout(payout_id: UUID, caller: Reader, world: TheWorld) -> PayoutItem:
    """One payout."""
    async with tenant_tx(world, caller.developer_id) as t:
        payout = await store.find(t, payout_id)
    if payout is None:
        raise Refusal("not_found", "there is no such payout")
    return payout_item(payout)


@router.post("/v1/developer/payouts/onboarding", status_code=201, response_model=OnboardingReply)
async def start_onboarding(
    body: OnboardingAsk,
    request: Request,
    caller: Writer,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """A link to Stripe's page on which the developer says who they are and which bank is theirs.

    The first one makes the developer's account there. A link opens once; a new one may be asked for at any time, also
    to change what was said. 503 where Stripe isn't set up.
    """
    owner = caller.owner(body.developer_id)
    if world.config.is_production and not body.return_url.startswith("https://"):
        raise field_error("return_url", "must be https")
    reply, is_new = await _onboarding(world, caller.developer_id, owner, body)

    async def act(t: TenantTx) -> OnboardingReply:
        # Each link, for who opens it can name another bank.
        action = "payout_account.created" if is_new else "payout_account.link_given"
        after = {"provider": "stripe", "provider_account_id": reply.provider_account_id}
        await Trail(caller.actor, rid).note(t, action, "payout_account", str(owner), developer_id=owner, after=after)
        return reply

    return await idempotent(
        world, request, principal=str(caller.actor), developer_id=caller.developer_id, key=key, body=body, act=act
    )


async def _onboarding(
    world: World, sees: UUID | None, owner: UUID, body: OnboardingAsk
) -> tuple[OnboardingReply, bool]:
    """A new link, and whether the account is new. Stripe is asked between txs; asked again, it makes no second one."""
    if world.connect is None:
        raise not_configured()
    async with tenant_tx(world, sees) as t:
        developer = await developers.find(t, owner)
        account = await store.account_of(t, owner)
    is_new = account is None
    try:
        if account is None:
            name = await world.connect.open_account(developer_id=owner, email=developer.email)
            async with tenant_tx(world, sees) as t:
                account = await store.keep_account(t, PayoutAccount(owner, name, is_ready=False))
        link = await world.connect.onboarding_link(
            account.provider_account_id, return_url=body.return_url, refresh_url=body.refresh_url
        )
        is_ready = await world.connect.is_ready(account.provider_account_id)
    except ProcessorRefused as error:
        raise field_error("return_url", f"Stripe refused: {error}") from None
    except ProcessorUnsure:
        raise Refusal("unavailable", "Stripe can't be reached; try again", retry_after_seconds=5) from None
    async with tenant_tx(world, sees) as t:
        await store.set_ready(t, account.provider_account_id, is_ready=is_ready, now=world.clock.now())
    reply = OnboardingReply(
        url=link.url,
        expires_at=link.expires_at,
        provider="stripe",
        provider_account_id=account.provider_account_id,
        is_ready=is_ready,
    )
    return reply, is_new
