"""An end user's top-ups: paying in by the processor's checkout page, and what came of it."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter, Request, Response

from faucet.api.auth import Actor, EndUser, TheEndUser
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.trail import Trail
from faucet.api.wire_top_ups import CheckoutAsk, CheckoutReply, OwnTopUpReply, own_top_up
from faucet.api.world import TheRequestId, TheWorld, World
from faucet.kit.errors import InvariantBroken, Refusal, field_error
from faucet.kit.ids import uuid7
from faucet.kit.log import logger
from faucet.kit.money import to_wire
from faucet.ledger import statement
from faucet.ledger.statement import Wallet
from faucet.payments import auto_top_ups, store, top_ups
from faucet.payments import processor as port
from faucet.payments.processor import (
    CheckoutPage,
    ProcessorConflict,
    ProcessorRefused,
    ProcessorUnsure,
    TopUpProcessor,
    not_configured,
)
from faucet.tenants import apps

router = APIRouter(tags=["end user: top-ups"])


def processor_of(world: World) -> TopUpProcessor:
    """Where people pay. Raises Refusal `unavailable` where Stripe isn't configured."""
    if world.top_ups is None:
        raise not_configured()
    return world.top_ups


def said_by_processor(error: ProcessorRefused | ProcessorUnsure) -> Refusal:
    """What the caller is told of a call that the processor didn't carry out."""
    if isinstance(error, ProcessorConflict):
        return Refusal("idempotency_conflict", "this Idempotency-Key was used for something else; use a new one")
    if isinstance(error, ProcessorUnsure):
        logger.warning("processor.unsure", error=str(error))
        return Refusal("unavailable", "the payment processor doesn't answer; try again", retry_after_seconds=2)
    if error.code == "resource_missing":
        return Refusal("not_found", "the payment processor knows nothing of it")
    logger.error("processor.refused", error=str(error), code=error.code)
    return Refusal("unavailable", "the payment processor refused this; the operator has to look at it")


def check_amount(world: World, amount_e8: int) -> None:
    """Raises Refusal `invalid_request` for less or more than may be paid in at once."""
    least, most = world.config.top_up_min_e8, world.config.top_up_max_e8
    if not least <= amount_e8 <= most:
        raise field_error("amount_usd", f"must be between {to_wire(least)} and {to_wire(most)}")


@router.post("/v1/user/stripe/checkout-sessions", status_code=201, response_model=CheckoutReply)
async def open_checkout(
    body: CheckoutAsk,
    caller: TheEndUser,
    world: TheWorld,
    request: Request,
    rid: TheRequestId,
    idempotency_key: TheIdempotencyKey = None,
) -> Response:
    """Begin a top-up: the address of a page where the end user pays, by card. The wallet is credited when they have.

    `success_url` and `cancel_url` must be pages of the app's `allowed_origins`. Refused where the app's sessions may
    not spend what is paid in.
    """
    processor = processor_of(world)
    check_amount(world, body.amount_usd)
    session = caller.session
    top_up_id = uuid7() if idempotency_key is None else top_ups.id_for(session.end_user_id, idempotency_key)
    async with tenant_tx(world, session.developer_id) as t:
        wallet = await _payable(t, world, caller, body)
        known = await store.find(t, top_up_id)
        customer = await auto_top_ups.customer_of(t, session.end_user_id)
    page, customer_id = None, None if customer is None else customer.customer_id
    if known is None:
        try:
            if body.save_card and customer_id is None:
                customer_id = await processor.ensure_customer(session.end_user_id)
            page = await processor.open_checkout(_asked(body, top_up_id, customer_id if body.save_card else None))
        except (ProcessorRefused, ProcessorUnsure) as error:
            raise said_by_processor(error) from None
    now = world.clock.now()

    async def act(t: TenantTx) -> CheckoutReply:
        if page is not None:
            if customer_id is not None:
                await auto_top_ups.keep_customer(
                    t, developer_id=session.developer_id, end_user_id=session.end_user_id, customer_id=customer_id
                )
            if await _insert(t, caller, wallet, body, top_up_id, page, now):
                await Trail(Actor("end_user", str(session.end_user_id)), rid).note(
                    t, "top_up.opened", "top_up", str(top_up_id), after={"amount_usd": to_wire(body.amount_usd)}
                )
        return await _opened(t, top_up_id, body)

    return await idempotent(
        world,
        request,
        principal=f"end_user:{session.end_user_id}",
        developer_id=session.developer_id,
        key=idempotency_key,
        body=body,
        act=act,
    )


async def _payable(t: TenantTx, world: World, caller: EndUser, body: CheckoutAsk) -> Wallet:
    """The wallet that is to be topped up.

    Raises Refusal `invalid_request` for an address that isn't the app's, `forbidden` where the money couldn't be spent,
    `disabled` for a frozen wallet, `rate_limited` for too many open pages.
    """
    session = caller.session
    origins = await apps.origins_of(t, session.app_id)
    for field, address in (("success_url", body.success_url), ("cancel_url", body.cancel_url)):
        top_ups.checked_address(field, address, origins, is_production=world.config.is_production)
    if not session.may_spend_paid:
        raise Refusal(
            "forbidden",
            "what is paid in could not be spent: the app's backend has to vouch for its users (identity mode signed)",
        )
    wallet = await statement.wallet_of_end_user(t, session.end_user_id)
    if wallet is None:
        raise InvariantBroken(f"the end user {session.end_user_id} has a session but no wallet")
    if wallet.frozen_at is not None:
        raise Refusal("disabled", "this wallet is frozen until an operator has looked at it")
    if await store.count_pending(t, wallet.id) >= top_ups.PENDING_MAX:
        raise Refusal("rate_limited", "too many checkout pages of this wallet are open", retry_after_seconds=600)
    return wallet


def _asked(body: CheckoutAsk, top_up_id: UUID, customer_id: str | None) -> port.CheckoutAsk:
    return port.CheckoutAsk(
        top_up_id=top_up_id,
        amount_cents=top_ups.cents_of(body.amount_usd),
        success_url=body.success_url,
        cancel_url=body.cancel_url,
        customer_id=customer_id,
        lasts_seconds=top_ups.CHECKOUT_SECONDS,
    )


async def _insert(
    t: TenantTx,
    caller: EndUser,
    wallet: Wallet,
    body: CheckoutAsk,
    top_up_id: UUID,
    page: CheckoutPage,
    now: datetime,
) -> bool:
    return await store.insert_checkout(
        t,
        top_up_id=top_up_id,
        developer_id=caller.session.developer_id,
        app_id=caller.session.app_id,
        end_user_id=caller.session.end_user_id,
        wallet_id=wallet.id,
        amount_e8=body.amount_usd,
        session_id=page.id,
        url=page.url,
        saves_card=body.save_card,
        now=now,
        expires_at=page.expires_at,
    )


async def _opened(t: TenantTx, top_up_id: UUID, body: CheckoutAsk) -> CheckoutReply:
    """The reply about a top-up that is pending. Raises Refusal `idempotency_conflict` for one of an older use."""
    row = await store.find(t, top_up_id)
    if row is None or row.amount_e8 != body.amount_usd or row.status != "pending" or row.checkout_url is None:
        raise Refusal("idempotency_conflict", "this Idempotency-Key was used for a top-up before; use a new one")
    assert row.checkout_session_id is not None
    return CheckoutReply(
        checkout_session_id=row.checkout_session_id,
        checkout_url=row.checkout_url,
        wallet_id=row.wallet_public_id,
        amount_usd=row.amount_e8,
        status="pending",
    )


@router.get("/v1/user/top-ups", response_model=PageReply[OwnTopUpReply], response_model_exclude_none=True)
async def list_own_top_ups(caller: TheEndUser, world: TheWorld, page: ThePage) -> PageReply[OwnTopUpReply]:
    """The end user's own top-ups, newest first, with their receipts."""
    async with tenant_tx(world, caller.session.developer_id) as t:
        rows = await store.page_of_end_user(t, caller.session.end_user_id, limit=page.fetch, after=page.after)
    shown, cursor = page.cut(rows, lambda row: (row.created_at, row.id))
    return page_reply([own_top_up(row) for row in shown], cursor)


@router.get("/v1/user/top-ups/{topup_id}", response_model=OwnTopUpReply, response_model_exclude_none=True)
async def read_own_top_up(topup_id: UUID, caller: TheEndUser, world: TheWorld) -> OwnTopUpReply:
    """One of the end user's own top-ups."""
    async with tenant_tx(world, caller.session.developer_id) as t:
        row = await store.find(t, topup_id)
    if row is None or row.end_user_id != caller.session.end_user_id:
        raise Refusal("not_found", "there is no such top-up")
    return own_top_up(row)
