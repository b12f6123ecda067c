"""An economy: end users with wallets, developers, gateways that die, an office, a sweep; all decided by a seed.

Events happen one after another on a real database, through the functions that production calls. A small model in
Python says what each must answer and what every account must then hold; and after each event the books are compared
with themselves. The same seed makes the same economy. Not here: money that comes and goes across the border (`border`),
calls at the same time (the races' tests and the torture), and how a gateway works.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from books import Books, Hold, Settlement, Tenant

from faucet.kit.ids import uuid7
from faucet.rating.price import Price, PricePlan
from faucet.rating.rate import ceiling, rate
from faucet.rating.seed import seed_rows
from faucet.terms import Charge, Payer, Usage

DONE, INSUFFICIENT, BUDGET, FROZEN, RESOLVED, _, _, NO_HOLD = range(8)
LEASE_SECONDS = 86_400
"""Only leases that are told to run out do."""
NO_LIMIT = 9_000_000_000_000_000_000
PAYERS = (Payer.PLATFORM, Payer.DEVELOPER, Payer.BYOK, Payer.LOCAL)
PLANS = (
    PricePlan(markup_bps=3_000, share_bps=4_000, gateway_fee_e8=700),
    PricePlan(),
    PricePlan(markup_bps=1_250, share_bps=10_000, gateway_fee_e8=1),
)


@dataclass
class Request:
    """One request and what has become of it."""

    id: UUID
    tenant: Tenant
    amount_e8: int
    payer: Payer
    key: str | None
    state: str = "held"
    """held, settled, released or expired."""
    answer: Settlement | None = None
    """What it was settled with, or is to be settled with from a spool."""
    paid_e8: int = 0
    is_kept: bool = False
    """Its reply is stored for its key."""


@dataclass
class Gateway:
    """A process: what it has in flight, and its spool, which outlives it."""

    flying: list[Request] = field(default_factory=list)
    spool: list[Request] = field(default_factory=list)


@dataclass
class Limit:
    """A spend limit. What counts in it is worked out from the requests."""

    scope: str
    scope_id: UUID
    period: str
    amount_e8: int

    def bears_on(self, tenant: Tenant) -> bool:
        return self.scope_id == getattr(tenant, self.scope)


class Broken(AssertionError):
    """The ledger is not what it must be."""


class Economy:
    """Everybody and everything, with the model of what the ledger must say."""

    def __init__(self, books: Books, seed: int) -> None:
        self.books = books
        self.chance = random.Random(seed)
        self.happened: Counter[str] = Counter()
        self.prices = mock_prices()
        first, second = books.tenant(), books.tenant()
        self.tenants = [first, books.end_user(first), books.end_user(first), second, books.end_user(second)]
        self.plans = {tenant.developer: self.chance.choice(PLANS) for tenant in self.tenants}
        self.gateways = [Gateway(), Gateway()]
        self.requests: list[Request] = []
        self.limits: list[Limit] = []
        self.frozen: set[int] = set()
        self.keys: dict[tuple[UUID, str], Request] = {}
        """Who owns an Idempotency-Key of an end user."""
        self.posted: Counter[int] = Counter()
        self.platform = {
            kind: books.account(kind)
            for kind in ("grants", "write_off", "adjustments", "stripe_clearing", "bank", "processor_fees")
        }
        self.dear: set[UUID] = set()
        """Requests that cost cents and dollars, as many as were held for them or somewhat more."""
        self.periods = ("month", "total")
        """Of spend limits."""
        self._grants: list[tuple[UUID, int, int]] = []
        self._events: list[tuple[Callable[[], Any], int]] = [
            (self.grant, 12),
            (self.place_holds, 30),
            (self.settle, 30),
            (self.settle_into_spool, 5),
            (self.adopt_spool, 3),
            (self.release, 8),
            (self.outage, 5),
            (self.gateway_dies, 3),
            (self.leases_run_out, 8),
            (self.sweep, 8),
            (self.set_limit, 4),
            (self.lift_limit, 3),
            (self.freeze, 3),
            (self.repeat, 8),
            (self.adjust, 2),
        ]
        for tenant in self.tenants:
            self._grant(tenant.wallet, 40_000)

    def join(self, tenants: list[Tenant], events: list[tuple[Callable[[], Any], int]]) -> None:
        """Others come to live here too, with events of their own."""
        self.plans |= {tenant.developer: self.chance.choice(PLANS) for tenant in tenants}
        self.tenants += tenants
        self._events += events

    def step(self) -> None:
        """One event, then the validators. Raises Broken."""
        event = self.chance.choices([e for e, _ in self._events], [weight for _, weight in self._events])[0]
        self.happened[event.__name__] += 1
        event()
        self.check()

    # ── what the model knows ──

    def held(self, wallet: int) -> int:
        return sum(r.amount_e8 for r in self.requests if r.state == "held" and r.tenant.wallet == wallet)

    def available(self, wallet: int) -> int:
        return self.posted[wallet] - self.held(wallet)

    def spent(self, limit: Limit) -> int:
        return sum(r.paid_e8 for r in self.requests if limit.bears_on(r.tenant))

    def reserved(self, limit: Limit) -> int:
        return sum(r.amount_e8 for r in self.requests if r.state == "held" and limit.bears_on(r.tenant))

    def _expected_hold(self, request: Request) -> int:
        wallet = request.tenant.wallet
        if wallet in self.frozen:
            return FROZEN
        if self.available(wallet) < request.amount_e8:
            return INSUFFICIENT
        bearing = [limit for limit in self.limits if limit.bears_on(request.tenant)]
        if any(m.amount_e8 - self.spent(m) - self.reserved(m) < request.amount_e8 for m in bearing):
            return BUDGET
        return DONE

    # ── requests ──

    def place_holds(self) -> None:
        """Up to four requests in one group, some with a key that may be taken."""
        wanted = []
        for _ in range(self.chance.choice((1, 1, 2, 4))):
            tenant, payer = self.chance.choice(self.tenants), self.chance.choices(PAYERS, (8, 2, 1, 1))[0]
            price = self.chance.choice(self.prices)
            bound = ceiling(
                price,
                self.plans[tenant.developer],
                payer,
                input_tokens_max=self.chance.randint(1, 200),
                output_tokens_max=self.chance.choice((5, 60, 60, 500)),
                n=self.chance.choice((1, 1, 2)),
            )
            key = self.chance.choice((None, f"key {self.chance.randint(1, 4)}"))
            amount_e8 = bound.retail_e8
            if self.chance.random() < 0.15:  # shrunk to what is there
                amount_e8 = min(amount_e8, self.available(tenant.wallet)) or amount_e8
            request = Request(uuid7(), tenant, amount_e8, payer, key)
            if key is None or self._claim(request):
                wanted.append(request)
        if wanted:
            self.place(wanted)

    def place(self, wanted: list[Request]) -> None:
        told = self.books.hold(*[Hold(r.tenant, r.amount_e8, r.id) for r in wanted], lease=LEASE_SECONDS)
        for request, (status, _, _) in zip(wanted, told, strict=True):
            expected = self._expected_hold(request)
            self.require(status == expected, f"hold of {request}: {status}, not {expected}")
            self.happened[f"hold: {status}"] += 1
            if status == DONE:
                self.requests.append(request)
                self.chance.choice(self.gateways).flying.append(request)
            elif request.key is not None:
                self.books.rows("select reply_unclaim_v1(%s)", request.id, role="faucet_gateway")
                del self.keys[request.tenant.end_user, request.key]

    def _claim(self, request: Request) -> bool:
        """Ask for the key; True where the request may run under it."""
        assert request.key is not None
        place = (request.tenant.end_user, request.key)
        owner = self.keys.get(place)
        if owner is None or owner.state == "released":
            expected = "claimed"
        elif owner.state == "settled":
            expected = "stored" if owner.is_kept else "booked"
        else:
            expected = "running" if owner.state == "held" else "claimed"
        outcome = self.books.one(
            "select outcome from reply_claim_v1(%s, %s, %s, %s, %s)",
            place[0],
            hashlib.sha256(request.key.encode()).digest(),
            bytes(32),
            request.id,
            LEASE_SECONDS,
            role="faucet_gateway",
        )
        self.require(outcome == expected, f"claim of {place}, owned by {owner}: {outcome}, not {expected}")
        self.happened[f"claim: {outcome}"] += 1
        if outcome != "claimed":
            return False
        if owner is not None and owner.state == "expired":
            owner.state = "released"  # an answer of it that turns up isn't charged any more
        self.keys[place] = request
        return True

    def _flying(self) -> tuple[Gateway, Request] | None:
        gateway = self.chance.choice(self.gateways)
        if not gateway.flying:
            return None
        request = self.chance.choice(gateway.flying)
        gateway.flying.remove(request)
        return gateway, request

    def _answer(self, request: Request) -> Settlement:
        """An answer's settlement: as reported, cut short, or far above what was held for it."""
        if request.id in self.dear:
            due = self.chance.randint(0, request.amount_e8 * 6 // 5)
            cost = due * 2 // 5
            return Settlement(request.tenant, request.id, cost, cost, due - 2 * cost)
        price, plan = self.chance.choice(self.prices), self.plans[request.tenant.developer]
        most = self.chance.choice((5, 50, 50, 400))
        usage = Usage(input_tokens=self.chance.randint(0, most), output_tokens=self.chance.randint(0, most))
        charge: Charge = rate(price, plan, request.payer, usage)
        return Settlement(
            request.tenant,
            request.id,
            charge.cost_e8,
            charge.channel_e8,
            charge.platform_e8,
            PAYERS.index(request.payer),
            charge.retail_e8,
            usage.output_tokens,
        )

    def settle(self) -> None:
        """A gateway settles one of its requests, in time or late; one with a key keeps its reply."""
        if (found := self._flying()) is not None:
            _, request = found
            request.answer = self._answer(request)
            self._settle(request, keeps=request.key is not None and self.chance.random() < 0.9)

    def settle_into_spool(self) -> None:
        """The database is away when a gateway settles: the settlement is only written down."""
        if (found := self._flying()) is not None:
            gateway, request = found
            request.answer = self._answer(request)
            gateway.spool.append(request)

    def adopt_spool(self) -> None:
        """Whoever finds a spool settles what is in it."""
        gateway = self.chance.choice(self.gateways)
        while gateway.spool:
            self._settle(gateway.spool.pop(), keeps=False)

    def _settle(self, request: Request, *, keeps: bool) -> None:
        answer = request.answer
        assert answer is not None
        if request.state in ("held", "expired"):
            expected, room = DONE, request.amount_e8
            if request.state == "expired":
                room = max(0, min(room, self.available(request.tenant.wallet)))
                self.happened["settled late from too little"] += room < min(answer.due, request.amount_e8)
            self._book(request, answer, min(answer.due, room))
            request.is_kept = keeps
        else:
            expected = NO_HOLD if request.state == "released" else RESOLVED
        if keeps and expected == DONE:
            self.books.rows("select reply_keep_v1(%s::uuid[], %s)", [request.id], [b"sealed"], role="faucet_gateway")
        (status,) = self.books.settle(answer)
        self.require(status == expected, f"settlement of {request}: {status}, not {expected}")
        self.happened[f"settlement: {status}"] += 1

    def _book(self, request: Request, answer: Settlement, paid: int) -> None:
        """Pay the parts in their order: cost, channel, platform; what the wallet doesn't, `write_off` does."""
        tenant = request.tenant
        cost = answer.cost if answer.payer in (0, 1) else 0
        for account, amount in (
            (tenant.earnings if answer.payer == 1 else tenant.cost, cost),
            (tenant.earnings, answer.channel),
            (tenant.revenue, answer.platform),
        ):
            self.posted[account] += amount
        self.posted[tenant.wallet] -= paid
        self.posted[self.platform["write_off"]] -= answer.due - paid
        self.happened["settled late"] += request.state == "expired"
        self.happened["written off"] += paid < answer.due
        request.state, request.paid_e8 = "settled", paid

    def release(self) -> None:
        """Nothing was answered."""
        if (found := self._flying()) is not None:
            _, request = found
            (status,) = self.books.release(request.id)
            expected = DONE if request.state == "held" else RESOLVED
            self.require(status == expected, f"release of {request}: {status}, not {expected}")
            if request.state == "held":
                request.state = "released"

    def gateway_dies(self) -> None:
        """What it had in flight is nobody's any more; its spool stays."""
        self.chance.choice(self.gateways).flying.clear()

    def outage(self) -> None:
        """The database is away for longer than a lease: all that a gateway answers goes to its spool, and expires."""
        gateway = self.chance.choice(self.gateways)
        for request in gateway.flying:
            request.answer = self._answer(request)
            self._run_out(request)
        gateway.spool += gateway.flying
        gateway.flying.clear()
        self.sweep()
        for tenant in {request.tenant.wallet: request.tenant for request in gateway.spool}.values():
            if self.chance.random() < 0.5 and self.available(tenant.wallet):  # what came back is spent elsewhere
                self.place([Request(uuid7(), tenant, self.available(tenant.wallet), Payer.PLATFORM, None)])

    def leases_run_out(self) -> None:
        """Time passes: some holds, and the claims of their keys, are overdue."""
        held = [r for r in self.requests if r.state == "held"]
        for request in self.chance.sample(held, min(len(held), self.chance.randint(1, 4))):
            self._run_out(request)

    def _run_out(self, request: Request) -> None:
        self.books.run_out(request.id)
        self.books.rows("update idempotent_reply set claimed_until = '-infinity' where hold_id = %s", request.id)

    def sweep(self) -> None:
        """Overdue holds are given back."""
        overdue = {row[0] for row in self.books.rows("select id from hold where lease_expires_at < now()")}
        expired = set(self.books.expire(1_000))
        self.require(expired == overdue, f"swept {expired}, not {overdue}")
        for request in self.requests:
            if request.id in expired:
                request.state = "expired"
                self.happened["expired"] += 1

    # ── the office ──

    def grant(self) -> None:
        self._grant(self.chance.choice(self.tenants).wallet, self.chance.choice((1, 500, 8_000, 20_000)))

    def _grant(self, wallet: int, amount_e8: int) -> None:
        event = uuid7()
        self.transfer(12, self.platform["grants"], wallet, amount_e8, DONE, event)
        self._grants.append((event, wallet, amount_e8))

    def transfer(
        self, code: int, debit: int, credit: int, amount: int, expected: int, event: UUID | None = None
    ) -> None:
        """A move that must be answered so. Raises Broken."""
        status = self.books.transfer(code, debit, credit, amount, event=event)
        self.require(status == expected, f"transfer {code} of {amount}: {status}, not {expected}")
        if status == DONE:
            self.posted[debit] -= amount
            self.posted[credit] += amount

    def adjust(self) -> None:
        """An operator corrects a developer's earnings."""
        account, amount = self.chance.choice(self.tenants).earnings, self.chance.randint(1, 3_000)
        expected = DONE if self.posted[account] >= amount else INSUFFICIENT
        self.transfer(31, account, self.platform["adjustments"], amount, expected)

    def set_limit(self) -> None:
        """A spend limit appears in mid-flight, or changes."""
        tenant = self.chance.choice(self.tenants)
        scope = self.chance.choice(("app", "feature", "end_user", "session"))
        period = self.chance.choice(self.periods)
        wished = Limit(scope, getattr(tenant, scope), period, 0)
        wished.amount_e8 = self.spent(wished) + self.chance.choice((0, 5_000, 40_000))
        self.books.limit(scope, wished.scope_id, period, wished.amount_e8)
        place = (wished.scope_id, wished.period)
        self.limits = [m for m in self.limits if (m.scope_id, m.period) != place] + [wished]

    def lift_limit(self) -> None:
        if self.limits:
            limit = self.chance.choice(self.limits)
            self.books.limit(limit.scope, limit.scope_id, limit.period, None)
            limit.amount_e8 = NO_LIMIT

    def freeze(self) -> None:
        """A wallet is frozen, or thawed again; what is in flight on it ends as ever."""
        wallets = [tenant.wallet for tenant in self.tenants]
        if self.frozen and self.chance.random() < 0.8:
            wallets = sorted(self.frozen)
        wallet = self.chance.choice(wallets)
        self.frozen ^= {wallet}
        moment = "now()" if wallet in self.frozen else "null"
        self.books.rows(f"update account set frozen_at = {moment} where id = %s", wallet)

    def repeat(self) -> None:
        """Something that was done is done again, because its answer was lost."""
        event, wallet, amount_e8 = self.chance.choice(self._grants)
        self.transfer(12, self.platform["grants"], wallet, amount_e8, RESOLVED, event)
        if not self.requests:
            return
        request = self.chance.choice(self.requests)
        (told,) = self.books.hold(Hold(request.tenant, request.amount_e8, request.id))
        self.require(told[0] == (DONE if request.state == "held" else RESOLVED), f"hold again of {request}: {told}")
        if request.state == "settled" and request.answer is not None:
            self.require(self.books.settle(request.answer) == [RESOLVED], f"settlement again of {request}")

    # ── validators ──

    def check(self) -> None:
        """The books agree with themselves, and with the model. Raises Broken."""
        for (difference,) in self.books.rows(VALIDATORS):
            raise Broken(difference)
        held: dict[int, int] = defaultdict(int)
        for request in self.requests:
            if request.state == "held":
                held[request.tenant.wallet] += request.amount_e8
        for account, posted_e8, held_e8 in self.books.rows("select id, posted_e8, held_e8 from account"):
            wished = (self.posted[account], held[account])
            self.require((posted_e8, held_e8) == wished, f"account {account}: {posted_e8}, {held_e8}, not {wished}")
        counters = {
            (scope_id, period): figures
            for scope_id, period, *figures in self.books.rows(
                "select l.scope_id, l.period, l.limit_e8, c.spent_e8, c.held_e8 from spend_counter c"
                " join spend_limit l on l.id = c.limit_id"
            )
        }
        for limit in self.limits:
            told = counters[limit.scope_id, limit.period]
            wished_figures = [limit.amount_e8, self.spent(limit), self.reserved(limit)]
            self.require(told == wished_figures, f"{limit}: {told}, not {wished_figures}")
        for place, owner in self.keys.items():
            # Charged under one key: at most whoever owns it now.
            charged = [r.id for r in self.requests if (r.tenant.end_user, r.key) == place and r.state == "settled"]
            self.require(charged in ([], [owner.id]), f"the key {place} of {owner.id} is charged for {charged}")

    def require(self, holds: bool, text: str) -> None:
        """Raises Broken with the text where something doesn't hold."""
        if not holds:
            raise Broken(text)


def mock_prices() -> list[Price]:
    """The mock provider's prices, cheap and dear."""
    rows = seed_rows(effective_from=datetime(2026, 1, 1, tzinfo=UTC), providers=()).rows
    return [row for row in rows if row.model in ("mock-small", "mock-reasoner")]


VALIDATORS = """
with side as (
    select debit_id as id, -amount_e8 as e8 from transfer union all select credit_id, amount_e8 from transfer
), total as (select id, sum(e8) as e8 from side group by id),
part as (
    select event_id, sum(amount_e8) as e8, sum(amount_e8) filter (where code <= 3) as paid from transfer
     where code < 10 group by event_id
)
select 'account ' || a.id || ' is not the sum of its transfers' from account a left join total t on t.id = a.id
 where a.posted_e8 <> coalesce(t.e8, 0)
union all select 'trial balance' from account having sum(posted_e8) <> 0
union all select 'overdrawn: ' || id from account
 where (kind = 'wallet' and (posted_e8 < held_e8 or held_e8 < 0))
    or (kind in ('earnings', 'payout_clearing') and posted_e8 < 0)
union all select 'held by nobody: ' || a.id from account a
 where a.held_e8 <> (select coalesce(sum(h.amount_e8), 0) from hold h where h.wallet_id = a.id)
union all select 'parts of ' || u.id from usage_event u left join part p on p.event_id = u.id
 where coalesce(p.e8, 0) <> u.retail_e8 + u.write_off_e8 or coalesce(p.paid, 0) <> u.retail_e8
union all select 'transfers of nothing: ' || p.event_id from part p
 where not exists (select from usage_event u where u.id = p.event_id)
union all select 'two ends: ' || r.id from hold_resolution r
 where (r.settled_late_at is not null) <> exists (select from usage_event u where u.id = r.id)
    or exists (select from hold h where h.id = r.id)
union all select 'settled and held: ' || u.id from usage_event u join hold h on h.id = u.id
union all select 'counter ' || c.id from spend_counter c
 where c.held_e8 <> (select coalesce(sum(h.amount_e8), 0) from hold h where c.id = any (h.counters))
"""
