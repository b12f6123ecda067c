"""Send what was approved, and see it through: each payout's next step at the processor, one payout after the other.

Two txs with calls between them (`payments/payout_steps.py` says why that never pays twice). Any number of these may
run at once. And the run that opens payouts by the calendar.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from psycopg_pool import AsyncConnectionPool

from faucet.kit.clock import Clock
from faucet.kit.db import Tx, tx
from faucet.kit.errors import InvariantBroken, Refusal
from faucet.kit.log import logger
from faucet.payments import payout_steps as steps
from faucet.payments import payout_store as store
from faucet.payments import payouts
from faucet.payments.connect import PayoutProcessor
from faucet.payments.payout_store import Payout
from faucet.payments.payouts import Change, Terms, difference, happened, shown
from faucet.payments.processor import ProcessorConflict, ProcessorRefused, ProcessorUnsure
from faucet.tenants import audit

STEPS_MAX = 1_000
"""A sweep ends after so many calls and leaves the rest to the next one."""
BATCH = 200
SCHEDULE = "schedule"
"""Who asks for what the calendar opens."""
LATE_ATTEMPTS = 6
"""A step that was asked for so often is an alarm."""


async def send_payouts(pool: AsyncConnectionPool[Tx], processor: PayoutProcessor, clock: Clock) -> int:
    """Take every step that is due now; how many there were."""
    for count in range(STEPS_MAX):
        async with tx(pool) as t:
            claimed = await steps.claim(t, now=clock.now())
            if claimed is not None and claimed.before.status != claimed.after.status:
                await _note(t, claimed)
        if claimed is None:
            return count
        await _step(pool, processor, claimed.after, clock)
    return STEPS_MAX


async def _step(pool: AsyncConnectionPool[Tx], processor: PayoutProcessor, payout: Payout, clock: Clock) -> None:
    """Ask for a claimed payout's step and note the answer."""
    change: Change | None
    try:
        answer = await steps.ask(processor, payout)
        async with tx(pool) as t:
            change = await steps.note(t, payout, answer, now=clock.now())
            await _note(t, change)
        return
    except (ProcessorUnsure, ProcessorConflict) as error:
        logger.warning("payout.unsure", payout_id=str(payout.id), attempts=payout.attempts, error=str(error))
        async with tx(pool) as t:
            change = await steps.note_doubt(t, payout, error, now=clock.now())
            await _note(t, change)
    except ProcessorRefused as error:
        logger.warning("payout.refused", payout_id=str(payout.id), code=error.code, error=str(error))
        async with tx(pool) as t:
            change = await steps.note_refusal(t, payout, error, now=clock.now())
            await _note(t, change)
    except InvariantBroken as broken:  # a person has to look; the claim runs out, and the next try says so again
        logger.error("payout.broken", payout_id=str(payout.id), error=str(broken))
        return
    if payout.attempts >= LATE_ATTEMPTS:
        logger.error("payout.stuck", payout_id=str(payout.id), attempts=payout.attempts)


async def run_payouts(pool: AsyncConnectionPool[Tx], terms: Terms, clock: Clock, *, day: int) -> list[Payout]:
    """Open a payout for everybody who has earned enough, if this is the day of the month and it hasn't been done."""
    now = clock.now().astimezone(UTC)
    if not day or now.day != day:
        return []
    run = now.strftime("%Y-%m")
    opened: list[Payout] = []
    after: UUID | None = None
    while True:
        async with tx(pool) as t:
            found = await store.candidates(
                t,
                least_e8=terms.at_least_e8,
                earned_by=terms.after_hold_back(now),
                run=run,
                after=after,
                limit=BATCH,
            )
        for developer_id in found:
            payout = await _open(pool, terms, developer_id, run=run, now=now)
            if payout is not None:
                opened.append(payout)
        if len(found) < BATCH:
            break
        after = found[-1]
    if opened:
        logger.info("payouts.opened", run=run, count=len(opened), amount_e8=sum(p.amount_e8 for p in opened))
    return opened


async def _open(
    pool: AsyncConnectionPool[Tx], terms: Terms, developer_id: UUID, *, run: str, now: datetime
) -> Payout | None:
    try:
        async with tx(pool) as t:
            key = f"payout-run:{run}:{developer_id}"
            found = await payouts.open_by_run(
                t, terms, developer_id=developer_id, by=SCHEDULE, key=key, run=run, now=now
            )
            if found is None:
                return None
            await _record(t, "payout.requested", found[0], None, shown(found[0]))
            return found[0]
    except Refusal as refusal:  # somebody else was quicker with the same earnings
        logger.info("payout.not_opened", developer_id=str(developer_id), reason=refusal.public)
        return None


async def _note(t: Tx, change: Change | None) -> None:
    """The audit log's row for what became of a payout, where that is news."""
    if change is None:
        return
    before, after = difference(change)
    if after:
        await _record(t, happened(change), change.after, before, after)


async def _record(
    t: Tx, action: str, payout: Payout, before: dict[str, object] | None, after: dict[str, object]
) -> None:
    await audit.record(
        t,
        actor_scope="jobs",
        actor_id=None,
        action=action,
        resource_type="payout",
        resource_id=str(payout.id),
        request_id=None,
        before=before,
        after=after,
        developer_id=payout.developer_id,
    )
