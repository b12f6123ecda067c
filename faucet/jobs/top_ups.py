"""What top-ups need of the processor and nobody waits for: automatic charges, refunds that it didn't answer, receipts
and fees, pages that are over. Every call is made between txs, never in one; a crash at any point leaves a row to go on
from, and the same id, so that nothing is charged or refunded twice.
"""

from __future__ import annotations

from datetime import timedelta

from faucet.jobs.drain_inbox import record
from faucet.kit.clock import Clock
from faucet.kit.db import Tx
from faucet.kit.errors import FaucetError
from faucet.kit.log import logger
from faucet.ledger import moves
from faucet.payments import auto_top_ups, reversals, store, top_ups
from faucet.payments.auto_top_ups import Attempt
from faucet.payments.inbox import Note
from faucet.payments.processor import (
    CardDeclined,
    Payment,
    ProcessorConflict,
    ProcessorRefused,
    ProcessorUnsure,
    TopUpProcessor,
)
from faucet.payments.store import TopUp

BATCH = 50
ASK_AGAIN = timedelta(seconds=30)
"""After this, somebody who was asking may be taken for dead."""
LOOK_AFTER = timedelta(minutes=10)
FEE_DAYS = 14
PAGE_GRACE = timedelta(minutes=10)


async def charge_automatically(connection: Tx, processor: TopUpProcessor, clock: Clock) -> int:
    """Top up every wallet that is to be, and see attempts through that were left half-way; how many there were."""
    async with connection.transaction():
        left = await auto_top_ups.unresolved(connection, before=clock.now() - ASK_AGAIN, limit=BATCH)
    for attempt in left:
        if not await _see_through(connection, processor, attempt, clock):
            return 0  # the processor is away: the next sweep asks again
    async with connection.transaction():
        wallets = await auto_top_ups.due(connection, now=clock.now(), limit=BATCH)
    begun = 0
    for wallet in wallets:
        async with connection.transaction():
            claimed = await auto_top_ups.claim(connection, wallet, now=clock.now())
        if claimed is not None:
            begun += 1
            if not await _charge(connection, processor, claimed, clock):
                break
    return len(left) + begun


async def _charge(connection: Tx, processor: TopUpProcessor, attempt: Attempt, clock: Clock) -> bool:
    """Ask for an attempt's money and note the answer; False where there was none."""
    top_up = attempt.top_up
    assert attempt.payment_method_id is not None
    try:
        payment = await processor.charge(
            top_up_id=top_up.id,
            amount_cents=top_ups.cents_of(top_up.amount_e8),
            customer_id=attempt.customer_id,
            payment_method_id=attempt.payment_method_id,
        )
    except ProcessorUnsure as error:
        logger.warning("auto_top_up.unsure", top_up=str(top_up.id), error=str(error))
        return False  # the row stays pending: asked again with the same id
    except CardDeclined as error:
        reason = error.decline_code or error.code or "declined"
        await _fail(connection, top_up, f"the card was declined: {reason}", is_final=auto_top_ups.NEEDS_OWNER in reason)
        return True
    except ProcessorConflict:
        # Its card was another one when it was asked for before: what came of that decides, not this refusal.
        return await _look(connection, processor, attempt, clock)
    except ProcessorRefused as error:
        logger.error("auto_top_up.refused", top_up=str(top_up.id), error=str(error), code=error.code)
        await _fail(connection, top_up, f"the processor refused it: {error}", is_final=True)
        return True
    await _settle(connection, top_up, payment)
    return True


async def _settle(connection: Tx, top_up: TopUp, payment: Payment) -> None:
    if payment.status == "succeeded":
        async with connection.transaction():
            verdict = await top_ups.credit_payment(connection, top_up, payment)
            await record(connection, payment.intent_id, verdict.notes)
    elif payment.status in ("requires_action", "requires_confirmation"):
        await _fail(connection, top_up, f"the card was declined: {auto_top_ups.NEEDS_OWNER}", is_final=True)
    elif payment.status in ("requires_payment_method", "canceled"):
        await _fail(connection, top_up, "the card was declined", is_final=False)


async def _fail(connection: Tx, top_up: TopUp, reason: str, *, is_final: bool) -> None:
    async with connection.transaction():
        paused = await auto_top_ups.note_failure(connection, top_up, reason, is_final=is_final)
        notes = [_note(top_up, "auto_top_up.failed", reason)]
        if paused is not None:
            notes.append(_note(top_up, "auto_top_up.paused", paused))
        await record(connection, None, tuple(notes))


def _note(top_up: TopUp, action: str, reason: str) -> Note:
    return Note(
        action=action,
        resource_type="top_up",
        resource_id=str(top_up.id),
        developer_id=top_up.developer_id,
        after={"reason": reason},
    )


async def _see_through(connection: Tx, processor: TopUpProcessor, attempt: Attempt, clock: Clock) -> bool:
    """Find out how an attempt ended whose end nobody noted; False where the processor didn't answer."""
    top_up, now = attempt.top_up, clock.now()
    async with connection.transaction():
        await auto_top_ups.touch(connection, attempt, now=now)
    if auto_top_ups.may_repeat(attempt, now):
        return await _charge(connection, processor, attempt, clock)
    if now - top_up.created_at < LOOK_AFTER:
        return True  # a call of somebody who died may still be on its way
    return await _look(connection, processor, attempt, clock)


async def _look(connection: Tx, processor: TopUpProcessor, attempt: Attempt, clock: Clock) -> bool:
    """Look for an attempt's payment instead of asking for it; False where the processor didn't answer."""
    top_up = attempt.top_up
    try:
        found = await processor.payments_of(attempt.customer_id, since=top_up.created_at - LOOK_AFTER)
    except (ProcessorRefused, ProcessorUnsure) as error:
        logger.warning("auto_top_up.unsure", top_up=str(top_up.id), error=str(error))
        return False
    mine = [payment for payment in found if payment.top_up_id == str(top_up.id)]
    if mine:
        await _settle(connection, top_up, mine[0])
    elif clock.now() - top_up.created_at >= LOOK_AFTER:
        await _fail(connection, top_up, "the processor never heard of it", is_final=False)
    return True


async def send_refunds(connection: Tx, processor: TopUpProcessor, clock: Clock) -> int:
    """Ask again for refunds that the processor didn't answer; how many there were."""
    async with connection.transaction():
        wishes = await reversals.due_wishes(connection, before=clock.now() - ASK_AGAIN, limit=BATCH)
    for wish in wishes:
        if not reversals.may_repeat(wish, clock.now()):
            failure = (
                "nobody knows whether it was done: look at the payment at the processor, and ask anew if it wasn't"
            )
            logger.error("refund.stuck", refund=str(wish.id), top_up=str(wish.top_up_id))
            async with connection.transaction():
                await reversals.mark_failed(connection, wish, failure)
            continue
        try:
            cents = top_ups.cents_of(wish.amount_e8)
            refund = await processor.refund(wish.payment_intent_id, amount_cents=cents, refund_id=wish.id)
        except ProcessorUnsure as error:
            logger.warning("refund.unsure", refund=str(wish.id), error=str(error))
            break
        except ProcessorRefused as error:
            async with connection.transaction():
                await reversals.mark_failed(connection, wish, str(error))
        else:
            async with connection.transaction():
                verdict = await reversals.apply_refund(connection, refund)
                await record(connection, str(refund["id"]), verdict.notes)
    return len(wishes)


async def learn_payments(connection: Tx, processor: TopUpProcessor, clock: Clock) -> int:
    """Ask what the processor kept of each new payment, where its receipt is, and which card it saved."""
    async with connection.transaction():
        since = clock.now() - timedelta(days=FEE_DAYS)
        rows = await store.without_fee(connection, since=since, limit=BATCH)
    learned = 0
    for top_up in rows:
        assert top_up.payment_intent_id is not None
        try:
            payment = await processor.payment(top_up.payment_intent_id)
            card = None
            if top_up.saves_card and payment.payment_method_id is not None:
                card = await processor.card(payment.payment_method_id)
        except ProcessorUnsure as error:
            logger.warning("top_up.fee_unknown", top_up=str(top_up.id), error=str(error))
            break  # the processor is away: the next sweep asks again
        except ProcessorRefused as error:
            logger.warning("top_up.fee_unknown", top_up=str(top_up.id), error=str(error))
            continue
        async with connection.transaction():
            if card is not None:
                await auto_top_ups.keep_card(connection, top_up.end_user_id, card)
            if payment.fee_cents is not None:
                learned += await _note_fee(connection, top_up, payment, payment.fee_cents)
    return learned


async def _note_fee(connection: Tx, top_up: TopUp, payment: Payment, fee_cents: int) -> bool:
    fee_e8 = fee_cents * top_ups.E8_PER_CENT
    if fee_e8:
        key, memo = f"processor-fee:{top_up.id}", f"fee of top-up {top_up.id}, payment {payment.intent_id}"
        await moves.processor_fee(connection, fee_e8, key=key, memo=memo)
    return await store.set_receipt(
        connection,
        top_up.id,
        fee_e8=fee_e8,
        receipt_url=payment.receipt_url,
        receipt_number=payment.receipt_number,
    )


async def expire_checkouts(connection: Tx, processor: TopUpProcessor, clock: Clock) -> int:
    """End checkouts whose page is over and of which we weren't told; one that was paid after all is credited."""
    async with connection.transaction():
        rows = await store.overdue_checkouts(connection, before=clock.now() - PAGE_GRACE, limit=BATCH)
    for top_up in rows:
        assert top_up.checkout_session_id is not None
        try:
            session = await processor.checkout(top_up.checkout_session_id)
        except ProcessorUnsure as error:
            logger.warning("top_up.checkout_unknown", top_up=str(top_up.id), error=str(error))
            break
        except ProcessorRefused as error:
            logger.warning("top_up.checkout_unknown", top_up=str(top_up.id), error=str(error))
            continue
        try:
            async with connection.transaction():
                verdict = await top_ups.apply_session(connection, session)
                await record(connection, top_up.checkout_session_id, verdict.notes)
        except FaucetError as error:
            logger.error("top_up.session_failed", top_up=str(top_up.id), exc_info=error)
    return len(rows)
