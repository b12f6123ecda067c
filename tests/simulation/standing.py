"""Standing orders in the economy: saved cards, wallets that are topped up automatically, and what may be charged.

An end user saves a card by paying, asks to be topped up, and thinks better of it; the jobs charge, and die over it, and
ask again, sometimes when another card is saved or a day has passed. By Stripe's own record no attempt may have been
paid twice, no wallet charged that wasn't to be, and none beyond its cap. Not here: money that people pay in by
themselves (`border`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from payout_kills import Fate, FatedPool

from faucet.jobs import top_ups as top_up_jobs
from faucet.kit.clock import Clock
from faucet.kit.errors import Refusal
from faucet.payments import auto_top_ups
from faucet.terms import AccountId
from simulation.ledgered import CENT, TopUp
from simulation.line import Processor

if TYPE_CHECKING:
    from simulation.border import Border

HOUR = 3_600
SAVED = ("4242424242424242", "5555555555554444", "378282246310005")


class ClockOfStripe(Clock):
    """The time that it is at Stripe, which is put forward there."""

    def __init__(self, stripe: Processor) -> None:
        self._stripe = stripe

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._stripe.state.now(), UTC)


@dataclass
class Order:
    """What somebody wished last."""

    threshold_e8: int
    amount_e8: int
    cap_e8: int
    is_on: bool


class Standing:
    """The standing orders of one economy, and what the model knows of them."""

    def __init__(self, border: Border) -> None:
        self.border, self.economy, self.chance = border, border.economy, border.chance
        self.clock = ClockOfStripe(border.stripe)
        self.orders: dict[int, Order] = {}
        """By wallet."""
        self.caps: Counter[int] = Counter()
        """By wallet, the highest cap that there ever was."""
        self._credited: set[UUID] = set()

    # ── the wish ──

    async def order(self, fate: Fate) -> None:
        """An end user wants to be topped up automatically, or no more, or wants the card forgotten."""
        tenant = self.chance.choice(self.border.tenants)
        now, dice = self.clock.now(), self.chance.random()
        cents = self.chance.randint(50, 800)
        times = self.chance.choice((1, 2, 2, 8))
        wish = Order(
            self.chance.choice((300 * CENT, 3_000 * CENT, 20_000 * CENT)), cents * CENT, times * cents * CENT, True
        )
        card = self._card(tenant.end_user)
        if dice > 0.75 and card is not None:
            await self._save_another(tenant.end_user, fate)
            return
        try:
            if dice < 0.1 and card is not None:
                await self.border.processor(fate).forget_card(card)
            async with self.border.desk(fate) as t:
                if dice < 0.1:
                    await auto_top_ups.drop_card(t, tenant.end_user)
                elif dice < 0.25:
                    await auto_top_ups.switch_off(t, tenant.end_user)
                else:
                    await auto_top_ups.switch_on(
                        t, developer_id=tenant.developer, app_id=tenant.app, end_user_id=tenant.end_user,
                        wallet_id=AccountId(tenant.wallet), threshold_e8=wish.threshold_e8, amount_e8=wish.amount_e8,
                        monthly_cap_e8=wish.cap_e8, now=now,
                    )  # fmt: skip
        except Refusal as refusal:
            self.economy.require(card is None, f"standing order with a card: {refusal}")
            return
        finally:
            self._learn(tenant.wallet)

    async def _save_another(self, end_user: UUID, fate: Fate) -> None:
        """The card that is charged from now on is another one, also for what was asked for before."""
        customer = self.border.books.one("select customer_id from payment_customer where end_user_id = %s", end_user)
        name = self.border.stripe.save_card(customer, self.chance.choice(SAVED))
        card = await self.border.processor(fate).card(name)
        async with self.border.desk(fate) as t:
            await auto_top_ups.keep_card(t, end_user, card)
        self.economy.happened["another card"] += 1

    def _card(self, end_user: UUID) -> str | None:
        row = self.border.books.row("select payment_method_id from payment_customer where end_user_id = %s", end_user)
        return None if row is None else row[0]

    def _learn(self, wallet: int) -> None:
        """What of a wish was committed, whoever died over it."""
        row = self.border.books.row(
            "select threshold_e8, amount_e8, monthly_cap_e8, status from auto_top_up where wallet_id = %s", wallet
        )
        if row is not None:
            self.orders[wallet] = Order(row[0], row[1], row[2], row[3] == "on")
            self.caps[wallet] = max(self.caps[wallet], row[2])

    # ── charging ──

    async def charge(self, fate: Fate) -> None:
        """The jobs' sweep, some time after whoever made the last one; sometimes after Stripe forgot its keys."""
        self.border.stripe.later(self.chance.choices((5, 60, 900, 21 * HOUR), (4, 12, 4, 1))[0])
        for wallet in self.orders:
            self._learn(wallet)  # declined too often, it was paused
        may = {
            wallet
            for wallet, order in self.orders.items()
            if order.is_on and wallet not in self.economy.frozen and self.economy.available(wallet) < order.threshold_e8
        }
        before = set(self._attempts())
        try:
            async with FatedPool(self.border.jobs, fate).connection() as connection:
                await top_up_jobs.charge_automatically(connection, self.border.processor(fate), self.clock)
        finally:
            for attempt, wallet in self._attempts().items():
                if attempt not in before:
                    self.economy.happened["automatic top-up"] += 1
                    self.economy.require(wallet in may, f"{wallet} was charged, and {self.orders.get(wallet)}")

    def _attempts(self) -> dict[UUID, int]:
        return dict(self.border.books.rows("select id, wallet_id from top_up where kind = 'auto'"))

    def fold(self, only: str | None = None) -> None:
        """Let the model follow what was credited: all of it, or the one of an event."""
        rows = self.border.books.rows(
            "select id, wallet_id, payment_intent_id, amount_e8 from top_up where kind = 'auto' and status = 'credited'"
        )
        for name, wallet, intent, amount_e8 in rows:
            if name in self._credited or only not in (None, str(name)):
                continue
            self._credited.add(name)
            there = self.border.stripe.state.objects[intent]
            self.economy.require(
                (there["status"], there["amount_received"] * CENT, there["metadata"]["top_up"])
                == ("succeeded", amount_e8, str(name)),
                f"{name} was credited for {there}",
            )
            tenant = next(t for t in self.border.tenants if t.wallet == wallet)
            self.border.model.credit_automatic(TopUp(name, tenant, f"automatic {name}", amount_e8, intent))
            self.economy.happened["automatic top-up credited"] += 1

    # ── validators ──

    def check(self) -> None:
        """By Stripe's record, nothing was paid twice, or though it failed, or beyond a wallet's cap. Raises Broken."""
        rows = {
            str(name): (wallet, at.astimezone(UTC).strftime("%Y-%m"), status)
            for name, wallet, at, status in self.border.books.rows(
                "select id, wallet_id, created_at, status from top_up where kind = 'auto'"
            )
        }
        times: Counter[str] = Counter()
        spent: Counter[tuple[int, str]] = Counter()
        for intent in self.border.stripe.of("payment_intent"):
            name = intent["metadata"].get("top_up")
            if intent["status"] == "succeeded" and name in rows:
                times[name] += 1
                spent[rows[name][:2]] += intent["amount_received"] * CENT
        for name, count in times.items():
            self.economy.require(count == 1, f"the automatic top-up {name} was paid {count} times")
            self.economy.require(
                rows[name][2] != "failed", f"the automatic top-up {name} was paid, and is called failed"
            )
        for (wallet, month), total in spent.items():
            most = self.caps[wallet]
            self.economy.require(total <= most, f"{wallet} was charged {total} in {month}, and its cap was {most}")

    def compare(self) -> None:
        """At the end nothing is under way, and what was paid is credited. Raises Broken."""
        left = self.border.books.rows("select id, updated_at from top_up where kind = 'auto' and status = 'pending'")
        self.economy.require(not left, f"automatic top-ups whose end nobody knows: {left}")
        names = {str(name) for name in self._attempts()}
        paid = {
            intent["metadata"]["top_up"]
            for intent in self.border.stripe.of("payment_intent")
            if intent["status"] == "succeeded" and intent["metadata"].get("top_up") in names
        }
        credited = {str(name) for name in self._credited}
        self.economy.require(paid == credited, f"automatic: paid and not credited, or the reverse: {paid ^ credited}")
