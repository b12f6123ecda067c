"""Money across the economy's border: top-ups, refunds, disputes, payouts, the processor's post, and the ends of months.

The offices of production do it, over the Stripe double by the real client, in the roles of their doors. Post comes
late, twice, in disorder, altered or old; whoever is at work may die at any statement, commit or call. A model
(`ledgered`) says what must then be booked, and the economy compares every account after every event. At the end all
post is delivered, and what Stripe has is compared with what the ledger says that it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import psycopg
from books import Tenant
from past import GRACE, SIGNER, date_back, months_ago
from payout_kills import Died, Fate, FatedPool, FatedProcessor
from payout_world import Stripe, problems

from faucet.jobs import top_ups as top_up_jobs
from faucet.jobs.close_periods import ask_for_last_month, close_periods
from faucet.jobs.drain_inbox import drain_inbox
from faucet.jobs.send_payouts import send_payouts
from faucet.kit.clock import ManualClock
from faucet.kit.db import Tx, open_pool, tx
from faucet.kit.errors import Refusal
from faucet.kit.ids import uuid7
from faucet.payments import auto_top_ups, inbox, payout_events, payouts, reversals, store
from faucet.payments.appliers import TOP_UPS
from faucet.payments.inbox import Applier, Event, Outcome, Verdict
from faucet.payments.payouts import Terms
from faucet.payments.processor import CheckoutAsk, ProcessorRefused
from faucet.tenants.tenancy import see_all
from faucet.terms import AccountId, Payer
from simulation.economy import DONE, Economy, Request
from simulation.ledgered import CENT, Ledgered, TopUp
from simulation.line import SECRET, Json, Processor, letter
from simulation.standing import Standing

CARDS = (
    *("4242424242424242", "4242424242424242", "5555555555554444", "378282246310005"),
    "4000000000000002",  # declined
    *("4000000000000341", "4000002760003184"),  # declined when its owner isn't there
)
DAY, HOUR = 86_400, 3_600
MONTHS = 24
OPERATORS = ("alice", "bob")
DIES = 0.3
"""How often whoever works has a moment at which they die, if they get there."""
POINTS_MAX = 30
NOW_DAYS, NEVER_DAYS = 0, 36_500
"""Hold-backs under which everything is old enough, and nothing is."""

Mortal = Callable[[Fate], Awaitable[None]]


class Border:
    """The border of one economy. Close it."""

    def __init__(self, economy: Economy, dsn: str) -> None:
        self.economy, self.books, self.chance, self._dsn = economy, economy.books, economy.chance, dsn
        self.stripe = Processor()
        self.model = Ledgered(economy)
        self.clock = ManualClock(datetime.now(UTC) + timedelta(days=1))
        self._heard: set[str] = set()
        self._applied: list[tuple[Event, Verdict]] = []
        self._refunded: list[Json] = []
        self._payouts: dict[UUID, tuple[str, bool]] = {}
        self._months_left = MONTHS if self.chance.random() < 0.5 else 0
        if self._months_left:
            economy.periods = ("total",)  # time is put back below, and a month's counter with it
        self._runner = asyncio.Runner()
        self._api, self.jobs = (self._run(open_pool(dsn, f"faucet_{door}", size=2)) for door in ("api", "jobs"))
        first, second = self.books.tenant(), self.books.tenant()
        self.tenants = [first, self.books.end_user(first), second]
        for tenant in (first, second):
            self.books.open_account("payout_clearing", tenant.developer)
        self._run(self._onboard(first))
        self.standing = Standing(self)
        economy.join(self.tenants, self._events())
        for _ in range(4):
            self.bonus()
        self._save_cards()

    def close(self) -> None:
        """Let go of the database."""
        for pool in (self._api, self.jobs):
            self._run(pool.close())
        self._runner.close()

    def _events(self) -> list[tuple[Callable[[], Any], int]]:
        self.mortal: dict[Mortal, int] = {
            self.top_up: 8,
            self.drain: 10,
            self.clerk_refunds: 3,
            self.jobs_about_top_ups: 4,
            self.ask_payout: 7,
            self.decide_payout: 9,
            self.send: 7,
            self.month_ends: 2,
            self.standing.order: 7,
            self.standing.charge: 9,
        }
        others: dict[Callable[[], Any], int] = {
            self.buy: 14,
            self.bonus: 4,
            self.somebody_pays: 9,
            self.post_comes: 14,
            self.refund_at_stripe: 4,
            self.refund_is_sent_back: 2,
            self.dispute_opens: 3,
            self.dispute_ends: 3,
            self.bank_decides: 6,
            self.stripe_pays_us: 2,
            self.transfer_is_reversed: 1,
            self.time_passes: 2,
        }
        return [(self._mortally(act), weight) for act, weight in self.mortal.items()] + list(others.items())

    # ── how things are done here ──

    def _run(self, work: Any) -> Any:
        return self._runner.run(work)

    def _mortally(self, act: Mortal) -> Callable[[], None]:
        """Who does it may die on the way; what was booked till then is what the books must have."""

        def event() -> None:
            fate = Fate(self.chance.randint(1, POINTS_MAX) if self.chance.random() < DIES else 0)
            self.live(act, fate)
            self.economy.happened[f"died: {act.__name__}"] += bool(fate.died_at)

        event.__name__ = act.__name__  # type: ignore[attr-defined]
        return event

    def live(self, act: Mortal, fate: Fate) -> None:
        """Let somebody do something, and perhaps die over it; the model follows what was committed."""
        self._run(self._lived(act, fate))

    async def _lived(self, act: Mortal, fate: Fate) -> None:
        try:
            await act(fate)
        except Died:
            pass
        self._fold()

    @asynccontextmanager
    async def desk(self, fate: Fate) -> AsyncIterator[Tx]:
        async with tx(FatedPool(self._api, fate)) as t:  # type: ignore[arg-type]
            await see_all(t)
            yield t

    def _appliers(self, fate: Fate) -> dict[str, Applier]:
        return {name: self._noted(real, fate) for name, real in self._all_appliers().items()}

    def _all_appliers(self) -> dict[str, Applier]:
        return {**TOP_UPS, **payout_events.appliers(self.clock)}

    def _noted(self, real: Applier, fate: Fate) -> Applier:
        async def noted(t: Tx, event: Event) -> Verdict:
            verdict = await real(t, event)
            fate.point("event applied")
            self._applied.append((event, verdict))
            return verdict

        return noted

    def _fold(self) -> None:
        """Let the model follow what was committed, in its order."""
        settled = dict(self.books.rows("select id, outcome from stripe_event where settled_at is not null"))
        for event, verdict in self._applied:
            self.economy.require(
                verdict.outcome is not Outcome.REFUSED, f"{event.type} {event.id} was refused: {verdict.reason}"
            )
            if settled.get(event.id) == "applied" and verdict.outcome is Outcome.APPLIED:
                self.model.event(event.type, event.about)
                if event.type == "payment_intent.succeeded":
                    self.standing.fold(event.about["metadata"]["top_up"])
        self._applied.clear()
        self.standing.fold()
        booked = {row[0] for row in self.books.rows("select id from top_up_reversal")}
        for refund in self._refunded:
            if refund["id"] in booked:
                self.model.refund(refund)
        self._refunded.clear()
        self._fold_fees()
        self._fold_payouts()
        self.standing.check()

    def _fold_fees(self) -> None:
        fees = dict(self.books.rows("select id, fee_e8 from top_up where fee_e8 is not null"))
        for top_up in self.model.top_ups.values():
            if not top_up.fee_is_known and top_up.id in fees:
                charge = self.stripe.state.objects[self.stripe.state.objects[top_up.intent or ""]["latest_charge"]]
                kept = self.stripe.state.objects[charge["balance_transaction"]]["fee"] * CENT
                self.economy.require(fees[top_up.id] == kept, f"fee of {top_up}: {fees[top_up.id]}, not {kept}")
                self.model.fee(top_up, kept)

    def _fold_payouts(self) -> None:
        rows = self.books.rows(
            "select p.id, p.status, p.paid_at is not null, p.amount_e8, p.requested_by, p.approved_by, p.provider,"
            " e.id, c.id from payout p join account e on e.developer_id = p.developer_id and e.kind = 'earnings'"
            " join account c on c.developer_id = p.developer_id and c.kind = 'payout_clearing'"
        )
        for name, status, was_paid, amount_e8, asked_by, approved_by, provider, earnings, clearing in rows:
            left = self.economy.platform["bank" if provider == "manual" else "stripe_clearing"]
            self.economy.require(approved_by is None or approved_by != asked_by, f"{name} was approved by who asked")
            before = self._payouts.get(name)
            steps = []
            if before is None:
                steps.append((earnings, clearing))
            if was_paid and not (before is not None and before[1]):
                steps.append((clearing, left))
            if status in ("failed", "cancelled") and (before is None or before[0] not in ("failed", "cancelled")):
                steps.append((left if was_paid else clearing, earnings))
            for debit, credit in steps:
                self.economy.posted[debit] -= amount_e8
                self.economy.posted[credit] += amount_e8
            if before is None or before[0] != status:
                self.economy.happened[f"payout {status}"] += 1
            self._payouts[name] = (status, was_paid)

    # ── money in ──

    def buy(self) -> None:
        """Somebody asks for something that costs cents or dollars; it is settled or not, as anything else."""
        tenant = self.chance.choice(self.tenants)
        available = self.economy.available(tenant.wallet)
        if available > 0:
            amount_e8 = self.chance.choice((available, available + 1, available // 3 + 1, available // 10 + 1))
            request = Request(uuid7(), tenant, amount_e8, Payer.PLATFORM, None)
            self.economy.dear.add(request.id)
            self.economy.place([request])

    async def top_up(self, fate: Fate) -> None:
        """Somebody asks for a page to pay on."""
        tenant = self.chance.choice(self.tenants)
        if tenant.wallet not in self.economy.frozen:
            await self._open_page(tenant, fate, saves_card=self.chance.random() < 0.5)

    async def _open_page(self, tenant: Tenant, fate: Fate, *, saves_card: bool) -> str:
        top_up_id, cents = uuid7(), self.chance.randint(50, 3_000)
        customer = await self._customer(tenant, fate) if saves_card else None
        ask = CheckoutAsk(
            top_up_id=top_up_id, amount_cents=cents, success_url="https://x.example/", cancel_url="https://x.example/",
            lasts_seconds=23 * HOUR + self.stripe.state.clock_offset, customer_id=customer,
        )  # fmt: skip
        page = await self.stripe.top_ups.open_checkout(ask)
        made = TopUp(top_up_id, tenant, page.id, cents * CENT)
        try:
            async with self.desk(fate) as t:
                await store.insert_checkout(
                    t, top_up_id=top_up_id, developer_id=tenant.developer, app_id=tenant.app,
                    end_user_id=tenant.end_user, wallet_id=AccountId(tenant.wallet), amount_e8=cents * CENT,
                    session_id=page.id, url=page.url, saves_card=customer is not None, now=datetime.now(UTC),
                    expires_at=page.expires_at,
                )  # fmt: skip
        finally:
            if self.books.one("select count(*) from top_up where id = %s", top_up_id):
                self.model.top_ups[page.id] = made
        return page.id

    def _save_cards(self) -> None:
        """Some have paid before, and their cards were kept."""
        for tenant, card in zip(self.tenants, CARDS, strict=False):
            page = self._run(self._open_page(tenant, Fate(0), saves_card=True))
            self.economy.require(self.stripe.pay(page, card), f"{card} was declined")
        self._hear_all()
        for act in (self.drain, self.jobs_about_top_ups):
            self.live(act, Fate(0))

    async def _customer(self, tenant: Tenant, fate: Fate) -> str:
        """Whom Stripe knows an end user as, who wants their card kept."""
        customer: str = await self.processor(fate).ensure_customer(tenant.end_user)
        async with self.desk(fate) as t:
            await auto_top_ups.keep_customer(
                t, developer_id=tenant.developer, end_user_id=tenant.end_user, customer_id=customer
            )
        return customer

    def somebody_pays(self) -> None:
        """On a page that is open; or they leave it."""
        pages = [t for t in self.model.top_ups if t in self.stripe.state.objects]
        found = [t for t in pages if self.stripe.state.objects[t]["status"] == "open"]
        if found:
            session = self.chance.choice(found)
            if self.chance.random() < 0.1:
                self.stripe.leave(session)
            elif not self.stripe.pay(session, self.chance.choice(CARDS)):
                self.economy.happened["card declined"] += 1

    def _paid(self) -> str | None:
        """A payment at Stripe, whether we know of it or not."""
        found = [row["id"] for row in self.stripe.of("payment_intent") if row["status"] == "succeeded"]
        return self.chance.choice(found) if found else None

    # ── the post ──

    def post_comes(self) -> None:
        """Some of what Stripe told, in any order, heard before or not; and some that nobody told."""
        told = self.stripe.state.events
        fresh = [event for event in told if event["id"] not in self._heard]
        found = self.chance.sample(fresh, min(len(fresh), self.chance.randint(1, 6)))
        found += self.chance.sample(told, min(len(told), self.chance.choice((0, 0, 1, 3))))
        self.chance.shuffle(found)
        for event in found:
            self._hear(event)

    def _hear(self, told: Json) -> None:
        body, header = letter(told)
        if self.chance.random() < 0.2:
            self._forge(told)
        event = inbox.verified(body, header, SECRET)
        is_new = self._run(self._keep(event))
        self.economy.require(is_new == (event.id not in self._heard), f"{event.id}, kept before or not: {is_new}")
        self.economy.happened["post kept" if is_new else "post again"] += 1
        self._heard.add(event.id)

    def _hear_all(self) -> None:
        for event in list(self.stripe.state.events):
            if event["id"] not in self._heard:
                self._hear(event)

    async def _keep(self, event: Event) -> bool:
        async with tx(self._api) as t:
            return await inbox.store(t, event)

    def _forge(self, told: Json) -> None:
        body, header = letter(told)
        old = letter(told, age=HOUR)
        forged = [
            (body.replace(b'"amount', b'"amount_', 1) + b" ", header),
            (body[: len(body) // 2], header),
            old,
            (body, header[:-1] + ("0" if header[-1] != "0" else "1")),
            (body, None),
        ]
        try:
            inbox.verified(*self.chance.choice(forged), SECRET)
        except Refusal:
            self.economy.happened["post forged"] += 1
        else:
            self.economy.require(False, "a forged event was taken")

    async def drain(self, fate: Fate) -> None:
        """The jobs apply what came."""
        self.clock.advance(10)
        async with FatedPool(self.jobs, fate).connection() as connection:
            await drain_inbox(connection, self._appliers(fate), self.clock)

    # ── money back ──

    def refund_at_stripe(self) -> None:
        """An operator gives money back on Stripe's own pages."""
        if (intent := self._paid()) is not None:
            most = self.stripe.state.objects[intent]["amount"]
            self.stripe.refund(intent, self.chance.choice((most, self.chance.randint(1, most))))

    def refund_is_sent_back(self) -> None:
        """The card is closed: its bank sends a refund back."""
        if found := [row["id"] for row in self.stripe.of("refund") if row["status"] == "succeeded"]:
            self._run(self.stripe.control("refunds/fail", refund=self.chance.choice(found)))

    def dispute_opens(self) -> None:
        """A card's owner denies what they paid."""
        if (intent := self._paid()) is not None:
            self.stripe.deny(intent)

    def dispute_ends(self) -> None:
        """The bank decides."""
        if found := [row["id"] for row in self.stripe.of("dispute") if row["status"] not in ("won", "lost")]:
            status = self.chance.choice(("won", "lost"))
            self._run(self.stripe.control("disputes/close", dispute=self.chance.choice(found), status=status))

    async def clerk_refunds(self, fate: Fate) -> None:
        """An operator refunds a top-up from here."""
        found = [t for t in self.model.top_ups.values() if t.intent is not None]
        if not found:
            return
        top_up = self.chance.choice(found)
        asked = self.books.one(
            "select coalesce(sum(amount_e8), 0)::bigint from top_up_refund where top_up_id = %s"
            " and status = 'requested'",
            top_up.id,
        )
        rest = max(0, self.model.rest(top_up) - asked)
        amount_e8 = self.chance.choice((None, CENT, rest // CENT // 2 * CENT or CENT, rest + CENT))
        may = rest > 0 and (amount_e8 is None or amount_e8 <= rest)
        try:
            async with self.desk(fate) as t:
                wish = await reversals.wish_refund(t, top_up.id, amount_e8, reason="why not", asked_by="alice")
        except Refusal as refusal:
            self.economy.require(not may, f"refund of {amount_e8} of {rest}: {refusal}")
            return
        self.economy.require(may, f"a refund of {amount_e8} was taken, of {rest}")
        processor = self.processor(fate)
        try:
            refund = await processor.refund(
                wish.payment_intent_id, amount_cents=wish.amount_e8 // CENT, refund_id=wish.id
            )
        except ProcessorRefused as error:  # refunded or denied there, of which we have not heard
            async with self.desk(fate) as t:
                await reversals.mark_failed(t, wish, str(error))
            return
        async with self.desk(fate) as t:
            await reversals.apply_refund(t, refund)

    async def jobs_about_top_ups(self, fate: Fate) -> None:
        """What nobody waits for: refunds again, fees and receipts."""
        processor = self.processor(fate)
        clock = ManualClock(datetime.now(UTC) + timedelta(minutes=5))
        async with FatedPool(self.jobs, fate).connection() as connection:
            await top_up_jobs.send_refunds(connection, processor, clock)
            await top_up_jobs.learn_payments(connection, processor, clock)

    def processor(self, fate: Fate) -> Any:
        fated = FatedProcessor(cast(Any, self.stripe.top_ups), fate)
        refunded, refund = self._refunded, fated.refund

        async def noted(*values: Any, **named: Any) -> Json:
            made: Json = await refund(*values, **named)
            refunded.append(made)
            return made

        fated.refund = noted  # type: ignore[attr-defined]
        return fated

    # ── money out ──

    async def _onboard(self, tenant: Tenant) -> None:
        account = await self.stripe.connect.open_account(developer_id=tenant.developer, email="d@x.example")
        await self.stripe.control("accounts", account=account, ready=True)
        self.books.rows(
            "insert into payout_account (developer_id, provider_account_id, is_ready) values (%s, %s, true)",
            tenant.developer,
            account,
        )

    async def ask_payout(self, fate: Fate) -> None:
        """A developer or an operator asks for earnings, too early, in time, or for too much."""
        tenant = self.chance.choice(self.tenants)
        days = self.chance.choice((NOW_DAYS, NOW_DAYS, NOW_DAYS, NEVER_DAYS))
        terms = Terms(timedelta(days=days), CENT, 0, 0, uses_stripe=True)
        ripe = self.economy.posted[tenant.earnings] if days == NOW_DAYS else 0
        whole = ripe // CENT * CENT
        amount_e8 = self.chance.choice((None, CENT, whole // 2 // CENT * CENT or CENT, whole + CENT))
        may = whole >= (CENT if amount_e8 is None else amount_e8)
        by = self.chance.choice((*OPERATORS, "developer"))
        try:
            async with self.desk(fate) as t:
                payout, _ = await payouts.request(
                    t, terms, developer_id=tenant.developer, amount_e8=amount_e8, by=by, key=None, now=self.clock.now()
                )
        except Refusal as refusal:
            self.economy.require(not may, f"payout of {amount_e8} of {ripe}: {refusal}")
            self.economy.happened["payout refused"] += 1
            return
        self.economy.require(may, f"a payout of {amount_e8} was opened, of {ripe}")
        self.economy.require(payout.amount_e8 == (amount_e8 or whole), f"{payout.amount_e8} of {whole} was opened")

    async def decide_payout(self, fate: Fate) -> None:
        """An operator approves, calls off, fails or has paid by hand, rightly or not."""
        rows = self.books.rows("select id, status, requested_by, provider from payout order by id")
        if not rows:
            return
        payout_id, status, asked_by, provider = self.chance.choice(
            [row for row in rows if row[1] in ("requested", "approved")] or rows
        )
        if self.chance.random() < 0.2:
            payout_id, status, asked_by, provider = self.chance.choice(rows)
        by, now = self.chance.choice(OPERATORS), self.clock.now()
        what = self.chance.choice(("approve", "approve", "approve", "cancel", "mark_paid", "fail"))
        may = {
            "approve": status == "requested" and by != asked_by,
            "cancel": status in ("requested", "approved"),
            "mark_paid": status == "approved" and provider == "manual",
            "fail": status in ("approved", "sent") or (status == "paid" and provider == "manual"),
        }[what]
        try:
            async with self.desk(fate) as t:
                match what:
                    case "approve":
                        await payouts.approve(t, payout_id, by=by, note=None, now=now)
                    case "cancel":
                        await payouts.cancel(t, payout_id, by=by, reason=None, now=now)
                    case "mark_paid":
                        await payouts.mark_paid(t, payout_id, by=by, reference=None, now=now)
                    case _:
                        await payouts.fail(t, payout_id, reason="no", now=now)
        except Refusal as refusal:
            self.economy.require(not may, f"{what} of a payout that is {status} by {by}: {refusal}")
            self.economy.happened[f"{what} refused"] += 1
            return
        self.economy.require(may, f"{by} could {what} a payout that is {status}, of {asked_by}")

    async def send(self, fate: Fate) -> None:
        """The sweep that sends; and whoever does the work of one that died waits for its claim to run out."""
        self.clock.advance(self.chance.choice((60, HOUR)))
        processor: Any = FatedProcessor(self.stripe.connect, fate)
        await send_payouts(cast(Any, FatedPool(self.jobs, fate)), processor, self.clock)

    def bonus(self) -> None:
        """An operator adds to a developer's earnings, so that there is always somebody to be paid out."""
        earnings = self.chance.choice(self.tenants).earnings
        amount_e8 = self.chance.randint(CENT, 2_000 * CENT)
        self.economy.transfer(30, self.economy.platform["adjustments"], earnings, amount_e8, DONE)

    def stripe_pays_us(self) -> None:
        """A part of what Stripe has is on its way to our own bank."""
        self.economy.happened["collected"] += self.stripe.collect(self.chance.randint(1, 5_000))

    def bank_decides(self) -> None:
        """A payout to a bank arrives there, or doesn't, or comes back later."""
        if found := [row["id"] for row in self.stripe.of("payout") if row["status"] in ("pending", "in_transit")]:
            status = self.chance.choice(("in_transit", "paid", "paid", "failed"))
            self._run(self.stripe.control("payouts", payout=self.chance.choice(found), status=status))

    def transfer_is_reversed(self) -> None:
        """Somebody takes one back on Stripe's own pages, whose bank has sent it back.

        Any other would be taken back with another payout's money, if the account has some: to the cent that is the
        same, but then one that has failed here has left there, and one that has not left is paid.
        """
        returned = {row["metadata"].get("payout_id") for row in self.stripe.of("payout") if row["status"] == "failed"}
        kept = [row for row in self.stripe.of("transfer") if not row["reversed"]]
        if found := [row["id"] for row in kept if row["transfer_group"] in returned]:
            self._run(self.stripe.control("transfers", transfer=self.chance.choice(found)))

    def time_passes(self) -> None:
        """Here and there."""
        self.clock.advance(HOUR)
        self.stripe.later(HOUR)

    # ── the ends of months, and of everything ──

    async def month_ends(self, fate: Fate) -> None:
        """What was booked till now was booked in a month that is over; it is closed, whoever dies over it."""
        if self._months_left < 2:
            return
        month = months_ago(self._months_left)
        date_back(self.books, month.starts_at + timedelta(days=14))
        if not self.books.one("select count(*) from transfer where created_at < %s", month.ends_at):
            return
        self._months_left -= 1
        try:
            await self._close_month(fate)
        except Died:
            self.economy.happened["died: closing"] += 1
        while await self._close_month(Fate(0), asks=not self._is_asked(month.first_day)):
            pass
        row = self.books.row("select closed_at is not null, statements from period where month = %s", month.first_day)
        self.economy.require(row is not None and row[0] and row[1] > 0, f"{month} is not closed: {row}")

    def _is_asked(self, first_day: object) -> bool:
        return bool(self.books.one("select count(*) from period where month = %s", first_day))

    async def _close_month(self, fate: Fate, *, asks: bool = True) -> bool:
        """A process of its own, whose connection dies with it; whether it closed anything."""
        async with await psycopg.AsyncConnection.connect(self._dsn) as real:
            await real.execute("set role faucet_jobs")
            await real.commit()
            connection = cast(Any, FatedPool(_One(real), fate))  # type: ignore[arg-type]
            async with connection.connection() as fated:
                if asks:
                    await ask_for_last_month(fated, now=datetime.now(UTC), grace=GRACE)
                return bool(await close_periods(fated, SIGNER, now=datetime.now(UTC)))

    def settle_down(self) -> None:
        """All post comes, all is applied, banks decide; then Stripe and the ledger agree. Raises Broken."""
        for _ in range(12):
            self._hear_all()
            for act in (self.drain, self.standing.charge, self.jobs_about_top_ups, self.send):
                self.live(act, Fate(0))
            self.clock.advance(7 * HOUR)
            for row in self.stripe.of("payout"):
                if row["status"] in ("pending", "in_transit"):
                    self._run(self.stripe.control("payouts", payout=row["id"], status="paid"))
            self.economy.check()
        self._compare()

    def _compare(self) -> None:
        waiting = self.books.rows("select type, reason from stripe_event where settled_at is null")
        self.economy.require(not waiting, f"post that nobody could apply: {waiting}")
        self.economy.require(not (left := problems(self.books, cast(Stripe, self.stripe))), f"payouts: {left}")
        pages = {row["id"] for row in self.stripe.of("checkout.session")}
        paid = {row["id"] for row in self.stripe.of("checkout.session") if row["payment_status"] == "paid"}
        credited = {t.session for t in self.model.top_ups.values() if t.intent is not None and t.session in pages}
        self.economy.require(paid == credited, f"paid and not credited, or credited and not paid: {paid ^ credited}")
        self.standing.compare()
        there = self.stripe.balance() * CENT
        here = -self.economy.posted[self.economy.platform["stripe_clearing"]]
        self.economy.require(there == here, f"Stripe has {there} e8 for us, the ledger says {here}")
        owed = self.model.owed.values()
        self.economy.require(min(owed, default=0) >= 0, "more was made good than written off")


class _One:
    """A pool of one connection that isn't given back."""

    def __init__(self, connection: Tx) -> None:
        self._connection = connection

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Tx]:
        yield self._connection
