"""The ledger against a model of twenty lines: whatever sequence of calls, both say and hold the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

import psycopg
import pytest
from books import Books, Hold, Settlement, Tenant
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from faucet.kit.ids import uuid7

DONE, INSUFFICIENT, BUDGET, RESOLVED, CONFLICT, UNFIT, NO_HOLD = 0, 1, 2, 4, 5, 6, 7
WALLETS = 3
EXAMPLES, STEPS = 100, 20
LEASE_SECONDS = 86_400
"""Only holds that are told to run out do, however long the whole test takes."""

amounts = st.integers(0, 120)
wallets = st.integers(0, WALLETS - 1)
picks = st.integers(0, 10**6)


@dataclass
class Model:
    """What the ledger should be: money per wallet, open holds, what became of the others, one limit."""

    posted: list[int] = field(default_factory=lambda: [0] * WALLETS)
    open: dict[UUID, tuple[int, int]] = field(default_factory=dict)
    """Wallet and amount."""
    ended: dict[UUID, str] = field(default_factory=dict)
    expired: dict[UUID, tuple[int, int]] = field(default_factory=dict)
    paid: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("cost", "channel", "platform", "lost"), 0))
    limit: int = 500
    spent: int = 0

    def held(self, wallet: int | None = None) -> int:
        return sum(amount for w, amount in self.open.values() if wallet in (None, w))

    def hold(self, id_: UUID, wallet: int, amount: int) -> int:
        if id_ in self.ended:
            return RESOLVED
        if id_ in self.open:
            return DONE if self.open[id_] == (wallet, amount) else CONFLICT
        if self.posted[wallet] - self.held(wallet) < amount:
            return INSUFFICIENT
        if self.limit - self.spent - self.held() < amount:
            return BUDGET
        self.open[id_] = (wallet, amount)
        return DONE

    def settle(self, id_: UUID, cost: int, channel: int, platform: int) -> int:
        if self.ended.get(id_) == "settled":
            return RESOLVED
        if id_ in self.open:
            wallet, room = self.open.pop(id_)
        elif id_ in self.expired:
            wallet, reserved = self.expired.pop(id_)
            room = max(0, min(reserved, self.posted[wallet] - self.held(wallet)))
        else:
            return NO_HOLD
        paid = min(cost + channel + platform, room)
        self.posted[wallet] -= paid
        self.spent += paid
        for part, amount in (("cost", cost), ("channel", channel), ("platform", platform)):
            self.paid[part] += amount
        self.paid["lost"] += cost + channel + platform - paid
        self.ended[id_] = "settled"
        return DONE

    def release(self, id_: UUID) -> int:
        if id_ not in self.open:
            return RESOLVED if id_ in self.ended else NO_HOLD
        del self.open[id_]
        self.ended[id_] = "released"
        return DONE


class Machine(RuleBasedStateMachine):
    """Random calls, in groups and alone, of both."""

    books: Books
    begun = 0

    @initialize()
    def begin(self) -> None:
        type(self).begun += 1
        first = self.books.tenant()
        self.tenants: list[Tenant] = [first, *(self.books.end_user(first) for _ in range(WALLETS - 1))]
        self.model = Model()
        self.parts: dict[UUID, tuple[int, ...]] = {}
        self.wallets: dict[UUID, int] = {}
        self.given = 0
        self.before = {a: self.books.posted(a) for a in (self.books.account("grants"), self.books.account("write_off"))}
        self.books.limit("app", first.app, "month", self.model.limit)

    def _known(self, pick: int) -> UUID:
        """An id that was used before, or a new one."""
        ids = [*self.model.open, *self.model.ended]
        return ids[pick % len(ids)] if ids and pick % 4 else uuid7()

    @rule(wallet=wallets, amount=st.integers(1, 300), again=st.booleans())
    def credit(self, wallet: int, amount: int, again: bool) -> None:
        grants, key = self.books.account("grants"), str(uuid7())
        account = self.tenants[wallet].wallet
        assert self.books.transfer(12, grants, account, amount, key=key) == DONE
        if again:
            assert self.books.transfer(12, grants, account, amount, key=key) == RESOLVED
            assert self.books.transfer(12, grants, account, amount + 1, key=key) == CONFLICT
        self.model.posted[wallet] += amount
        self.given += amount

    @rule(wallet=wallets, amount=amounts)
    def debit(self, wallet: int, amount: int) -> None:
        status = self.books.transfer(31, self.tenants[wallet].wallet, self.books.account("adjustments"), amount)
        if amount == 0:
            assert status == UNFIT
        elif self.model.posted[wallet] - self.model.held(wallet) < amount:
            assert status == INSUFFICIENT
        else:
            assert status == DONE
            self.model.posted[wallet] -= amount
            self.given -= amount

    @rule(items=st.lists(st.tuples(wallets, amounts), min_size=1, max_size=5))
    def hold(self, items: list[tuple[int, int]]) -> None:
        holds = [Hold(self.tenants[wallet], amount) for wallet, amount in items]
        expected = [self.model.hold(h.id, w, a) for h, (w, a) in zip(holds, items, strict=True)]
        assert [status for status, _, _ in self.books.hold(*holds, lease=LEASE_SECONDS)] == expected

    @rule(pick=picks, wallet=wallets, amount=amounts)
    def hold_again(self, pick: int, wallet: int, amount: int) -> None:
        hold = self._known(pick)
        if hold in self.model.open and pick % 2:
            wallet, amount = self.model.open[hold]
        expected = self.model.hold(hold, wallet, amount)
        assert self.books.hold(Hold(self.tenants[wallet], amount, id=hold), lease=LEASE_SECONDS)[0][0] == expected

    @rule(items=st.lists(st.tuples(picks, amounts, amounts, amounts), min_size=1, max_size=4))
    def settle(self, items: list[tuple[int, int, int, int]]) -> None:
        group = {self._known(pick): parts for pick, *parts in items}
        expected = {}
        # Late ones take what the wallet has before the group's other holds are freed, in the order of their ids.
        for hold in sorted(group, key=lambda id_: (id_ not in self.model.expired, id_)):
            parts = self.parts.setdefault(hold, tuple(group[hold]))
            wallet, _ = self.model.open.get(hold) or self.model.expired.get(hold) or (0, 0)
            self.wallets.setdefault(hold, wallet)
            expected[hold] = self.model.settle(hold, *parts)
        settlements = [Settlement(self.tenants[self.wallets[hold]], hold, *self.parts[hold]) for hold in group]
        assert self.books.settle(*settlements) == [expected[hold] for hold in group]

    @rule(picks_=st.lists(picks, min_size=1, max_size=4, unique=True))
    def release(self, picks_: list[int]) -> None:
        ids = list(dict.fromkeys(self._known(pick) for pick in picks_))
        expected = [self.model.release(id_) for id_ in ids]
        assert self.books.release(*ids) == expected

    @rule(picks_=st.lists(picks, max_size=3))
    def expire(self, picks_: list[int]) -> None:
        dead = sorted({id_ for id_ in map(self._known, picks_) if id_ in self.model.open})
        for id_ in dead:
            self.books.run_out(id_)
        assert sorted(self.books.expire()) == dead
        for id_ in dead:
            self.model.expired[id_] = self.model.open.pop(id_)
            self.model.ended[id_] = "expired"

    @rule(amount=st.integers(0, 2_000))
    def move_the_limit(self, amount: int) -> None:
        self.books.limit("app", self.tenants[0].app, "month", amount)
        self.model.limit = amount

    @invariant()
    def both_hold_the_same(self) -> None:
        if not hasattr(self, "tenants"):
            return
        books, model, first = self.books, self.model, self.tenants[0]
        for wallet, tenant in enumerate(self.tenants):
            assert books.balance(tenant.wallet) == (model.posted[wallet], model.held(wallet))
        assert books.counter(first.app) == (model.spent, model.held())
        earned = {"cost": first.cost, "channel": first.earnings, "platform": first.revenue}
        assert {part: books.posted(account) for part, account in earned.items()} == {
            part: model.paid[part] for part in earned
        }
        write_off = books.account("write_off")
        assert self.before[write_off] - books.posted(write_off) == model.paid["lost"]
        assert sum(model.posted) + sum(model.paid[part] for part in earned) - model.paid["lost"] == self.given
        books.assert_sound()


@pytest.fixture
def quick(dsn: str) -> Iterator[Books]:
    """The books over a connection that doesn't wait for the disk: thousands of commits, none worth keeping."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set synchronous_commit = off")
        yield Books(connection)


def test_the_ledger_is_its_model(quick: Books) -> None:
    """Lost: some order of holds, settlements, releases, expiries and moves in which money comes or goes."""

    class Bound(Machine):
        books = quick

    run_state_machine_as_test(
        Bound,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert Bound.begun >= EXAMPLES
