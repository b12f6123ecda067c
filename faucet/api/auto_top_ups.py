"""An end user's standing order: top the wallet up by a saved card whenever it runs low."""

from __future__ import annotations

from fastapi import APIRouter, Response

from faucet.api.auth import Actor, EndUser, TheEndUser
from faucet.api.tenant import tenant_tx
from faucet.api.top_ups import check_amount, processor_of, said_by_processor
from faucet.api.trail import Trail
from faucet.api.wire_top_ups import AutoTopUpAsk, AutoTopUpReply, CardReply
from faucet.api.world import TheRequestId, TheWorld
from faucet.kit.errors import InvariantBroken, Refusal
from faucet.kit.money import to_wire
from faucet.ledger import statement
from faucet.payments import auto_top_ups
from faucet.payments.auto_top_ups import AutoTopUp
from faucet.payments.processor import ProcessorRefused, ProcessorUnsure

router = APIRouter(tags=["end user: top-ups"])


def _trail(caller: EndUser, rid: str) -> Trail:
    return Trail(Actor("end_user", str(caller.session.end_user_id)), rid)


def _reply(found: AutoTopUp) -> AutoTopUpReply:
    card = None
    if found.card_brand is not None and found.card_last4 is not None:
        card = CardReply(brand=found.card_brand, last4=found.card_last4)
    return AutoTopUpReply.model_validate(
        {
            "status": found.status,
            "threshold_usd": found.threshold_e8,
            "amount_usd": found.amount_e8,
            "monthly_cap_usd": found.monthly_cap_e8,
            "used_this_month_usd": found.used_e8,
            "reason": found.pause_reason if found.status == "paused" else None,
            "card": card,
            "consented_at": found.consented_at,
        }
    )


@router.get("/v1/user/auto-top-up", response_model=AutoTopUpReply, response_model_exclude_none=True)
async def read_auto_top_up(caller: TheEndUser, world: TheWorld) -> AutoTopUpReply:
    """Whether the wallet is topped up by itself, and how; `off` where nobody asked. The card, if one is saved."""
    session = caller.session
    async with tenant_tx(world, session.developer_id) as t:
        found = await auto_top_ups.find(t, session.end_user_id, now=world.clock.now())
        customer = await auto_top_ups.customer_of(t, session.end_user_id)
    if found is not None:
        return _reply(found)
    card = None
    if customer is not None and customer.card_brand is not None and customer.card_last4 is not None:
        card = CardReply(brand=customer.card_brand, last4=customer.card_last4)
    return AutoTopUpReply(status="off", card=card)


@router.put("/v1/user/auto-top-up", response_model=AutoTopUpReply, response_model_exclude_none=True)
async def switch_auto_top_up_on(
    body: AutoTopUpAsk, caller: TheEndUser, world: TheWorld, rid: TheRequestId
) -> AutoTopUpReply:
    """Top the wallet up by the saved card from now on, whenever less than the threshold is available.

    Only with `consent`, which the end user gives in the app. Never more than the cap in a month, one payment at a time;
    after three declined in a row it is paused until this is asked for again. Needs a card that was saved by paying with
    `save_card`. Harmless to repeat.
    """
    processor_of(world)
    check_amount(world, body.amount_usd)
    session = caller.session
    if not session.may_spend_paid:
        raise Refusal("forbidden", "what is paid in could not be spent by this app's sessions")
    async with tenant_tx(world, session.developer_id) as t:
        wallet = await statement.wallet_of_end_user(t, session.end_user_id)
        if wallet is None:
            raise InvariantBroken(f"the end user {session.end_user_id} has a session but no wallet")
        found = await auto_top_ups.switch_on(
            t,
            developer_id=session.developer_id,
            app_id=session.app_id,
            end_user_id=session.end_user_id,
            wallet_id=wallet.id,
            threshold_e8=body.threshold_usd,
            amount_e8=body.amount_usd,
            monthly_cap_e8=body.monthly_cap_usd,
            now=world.clock.now(),
        )
        after = {
            "threshold_usd": to_wire(body.threshold_usd),
            "amount_usd": to_wire(body.amount_usd),
            "monthly_cap_usd": to_wire(body.monthly_cap_usd),
        }
        await _trail(caller, rid).note(t, "auto_top_up.on", "wallet", str(wallet.public_id), after=after)
    return _reply(found)


@router.delete("/v1/user/auto-top-up", status_code=204, response_class=Response)
async def switch_auto_top_up_off(
    caller: TheEndUser, world: TheWorld, rid: TheRequestId, forget_card: bool = False
) -> Response:
    """Top the wallet up no more; with `forget_card=true`, the processor forgets the card too. Harmless to repeat."""
    session = caller.session
    if forget_card:
        async with tenant_tx(world, session.developer_id) as t:
            known = await auto_top_ups.customer_of(t, session.end_user_id)
        if known is not None and known.payment_method_id is not None:
            try:
                # There first: a card that only we forgot could still be charged.
                await processor_of(world).forget_card(known.payment_method_id)
            except (ProcessorRefused, ProcessorUnsure) as error:
                raise said_by_processor(error) from None
    async with tenant_tx(world, session.developer_id) as t:
        was_on = await auto_top_ups.switch_off(t, session.end_user_id)
        card = await auto_top_ups.drop_card(t, session.end_user_id) if forget_card else None
        if was_on or card is not None:
            after = {"card_forgotten": card is not None}
            owner = str(session.end_user_id)
            await _trail(caller, rid).note(t, "auto_top_up.off", "end_user", owner, after=after)
    return Response(status_code=204)
