"""Stop eight: the end of every request. Rate, record, post; or release. Nothing may skip it.

A settlement is queued in one step, so cancelling the request can't stop it half-way. While the database is away
it is repeated, with the rated usage already safe in the spool, until patience ends; after that the client gets an
error instead of its last byte, and the lane or the spool settles when the database is back: billed once.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from faucet.gateway.admit import Caller
from faucet.gateway.catalogue import Product
from faucet.gateway.metrics import METRICS
from faucet.gateway.reserve import AT_COST
from faucet.gateway.spool import Spool
from faucet.kit.errors import Refusal
from faucet.kit.log import logger
from faucet.ledger import moves
from faucet.ledger.lane import Lane, LedgerUnavailable, SettleItem, SettleRefused
from faucet.ledger.queue import Freed
from faucet.rating.price import PricePlan
from faucet.rating.rate import rate
from faucet.rating.share import capped
from faucet.terms import Charge, Outcome, Payer, Usage

_INT_MAX = 2**31 - 1


PAYER_CODES = {payer: code for code, payer in enumerate(Payer)}
"""What usage events call a payer."""


class Rated(msgspec.Struct, frozen=True):
    """An answer's usage with its charge: what the wallet pays of it, and what its hold doesn't cover."""

    usage: Usage
    charge: Charge
    paid_e8: int
    excess_e8: int


def rated(product: Product, plan: PricePlan, usage: Usage, held_e8: int, *, whole: bool = True) -> Rated:
    """Rate an answer against its hold; one that its provider broke off is not `whole`."""
    at = datetime.now(UTC) if product.price.tiers and product.price.has_hours else None
    charge = rate(product.price, plan, product.payer, usage, at, whole=whole)
    _, excess_e8 = capped(charge, held_e8)
    return Rated(usage, charge, charge.retail_e8 - excess_e8, excess_e8)


def _taken_of_budget(product: Product, usage: Usage) -> tuple[UUID | None, int]:
    """The credential whose budget the answer takes from, and what it cost its owner at the provider."""
    if product.account.budget_left_e8 is None:
        return None, 0
    at = datetime.now(UTC) if product.price.has_hours else None
    return product.account.credential, rate(product.price, AT_COST, Payer.PLATFORM, usage, at).cost_e8


def _in_columns(usage: Usage) -> Usage:
    """The usage as its columns can hold it; nobody has ever been charged for more tokens than that."""
    if usage.total_input_tokens <= _INT_MAX and usage.output_tokens <= _INT_MAX:
        return usage
    return msgspec.structs.replace(
        usage,
        input_tokens=min(usage.input_tokens, _INT_MAX),
        cached_read_tokens=min(usage.cached_read_tokens, _INT_MAX),
        cached_write_tokens=min(usage.cached_write_tokens, _INT_MAX),
        output_tokens=min(usage.output_tokens, _INT_MAX),
        reasoning_tokens=min(usage.reasoning_tokens, _INT_MAX),
    )


class Settler:
    """Ends requests: settles or releases their holds."""

    def __init__(self, lane: Lane, spool: Spool, freed: Freed) -> None:
        self._lane = lane
        self._spool = spool
        self._freed = freed
        self.open: dict[UUID, float] = {}
        """Holds in flight and when each was placed (monotonic), for the renewal of leases."""

    async def settle(
        self,
        hold_id: UUID,
        caller: Caller,
        product: Product,
        answer: Rated,
        *,
        wallet_id: int,
        feature_version: int,
        has_budgets: bool,
        cost_account: int,
        outcome: Outcome,
        first_byte_ms: int,
        duration_ms: int,
        raw_usage: str | None,
        reply: bytes | None = None,
    ) -> int:
        """Book an answer durably on the account that its hold is on; that account's balance in e8 afterwards.

        Raises Refusal `unavailable` when patience with an absent database ends; the answer is billed later.
        """
        if answer.excess_e8:
            METRICS.write_offs += 1
            logger.error(
                "settle.above_hold",
                hold_id=str(hold_id),
                provider=product.provider.name,
                model=product.price.model,
                excess_e8=answer.excess_e8,
            )
        usage, charge = _in_columns(answer.usage), answer.charge
        item = SettleItem(
            hold_id,
            wallet_id,
            charge.cost_e8,
            charge.retail_e8,
            charge.channel_e8,
            charge.platform_e8,
            cost_account,
            caller.earnings_account,
            caller.revenue_account,
            product.price.id,
            usage.input_tokens,
            usage.cached_read_tokens,
            usage.cached_write_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
            first_byte_ms,
            duration_ms,
            PAYER_CODES[product.payer],
            usage.source,
            outcome,
            product.provider.name,
            product.price.model,
            raw_usage,
            feature_version,
            budget=_taken_of_budget(product, usage) if has_budgets else None,
        )
        self.open.pop(hold_id, None)
        try:
            # Queued before the first await: cancelling this request no longer stops the settlement.
            balance_e8 = await moves.settle(self._lane, item, reply)
        except LedgerUnavailable as error:
            raise Refusal(
                "unavailable",
                "the answer could not be settled in time; it is billed once when the ledger is back",
            ) from error
        self._freed.notify(wallet_id)
        return balance_e8

    def release(self, hold_id: UUID, wallet_id: int, reason: str) -> None:
        """Give a hold back. Returns at once; the lane repeats it until it is durable."""
        self.open.pop(hold_id, None)
        future = moves.release(self._lane, hold_id, reason)

        def freed(done: asyncio.Future[int]) -> None:
            if not done.cancelled() and done.exception() is None:
                self._freed.notify(wallet_id)

        future.add_done_callback(freed)

    async def recover(self) -> int:
        """Settle what an earlier process left in its spool. Returns how many were settled."""
        settled = 0
        if not self._lane.connected:
            return settled
        for item in self._spool.left_behind():
            try:
                await moves.settle(self._lane, item, None)
                settled += 1
            except LedgerUnavailable:
                self._spool.let_go()  # adopted again when the ledger is back
                break
            except SettleRefused as refused:
                # Released or settled otherwise since: there is nothing more to book for it.
                logger.error("spool.refused", hold_id=str(item.id), status=refused.status)
            self._spool.finished(item.id)
        if settled:
            logger.info("spool.recovered", count=settled)
        return settled

    async def renew_leases(self, lease_seconds: int) -> None:
        """Keep the leases of running requests alive until cancelled."""
        while True:
            await asyncio.sleep(lease_seconds / 6)
            old = time.monotonic() - lease_seconds / 4
            due = [hold_id for hold_id, placed in self.open.items() if placed < old]
            if due and self._lane.connected:
                self._lane.renew(due)
