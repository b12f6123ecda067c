"""Free quotas against a model of thirty lines: whatever is asked, answered, broken off, and whenever months end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from uuid import UUID

import psycopg
import pytest
from books import Books, Hold, Settlement, Tenant
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from faucet.kit.ids import uuid7

DONE, INSUFFICIENT = 0, 1
END_USERS, QUOTA, MOST = 3, 300, 700
EXAMPLES, STEPS = 60, 25
LEASE_SECONDS = 86_400

users = st.integers(0, END_USERS - 1)
amounts = st.integers(0, 200)
picks = st.integers(0, 10**6)
Purse = tuple[int, int]
"""Whose it is, and of which month; the wallet is of month -1."""


@dataclass
class Model:
    """What each purse has, what is held of it, and what the platform has given."""

    posted: dict[Purse, int] = field(default_factory=lambda: {(user, -1): 0 for user in range(END_USERS)})
    open: dict[UUID, tuple[Purse, int]] = field(default_factory=dict)
    expired: dict[UUID, tuple[Purse, int]] = field(default_factory=dict)
    month: int = 0
    granted: int = 0
    """This month."""
    given: int = 0
    """By the platform in all, without what came back."""
    earned: int = 0
    lost: int = 0

    def held(self, purse: Purse) -> int:
        return sum(amount for where, amount in self.open.values() if where == purse)

    def allowance(self, user: int) -> Purse | None:
        purse = (user, self.month)
        if purse not in self.posted:
            if self.granted + QUOTA > MOST:
                return None
            self.granted += QUOTA
            self.given += QUOTA
            self.posted[purse] = QUOTA
        return purse

    def fits(self, purse: Purse, amount: int) -> bool:
        return self.posted[purse] - self.held(purse) >= amount

    def settle(self, id_: UUID, amount: int) -> None:
        if id_ in self.open:
            purse, room = self.open.pop(id_)
        else:
            purse, reserved = self.expired.pop(id_)
            room = max(0, min(reserved, self.posted[purse] - self.held(purse)))
        paid = min(amount, room)
        self.posted[purse] -= paid
        self.earned += amount
        self.lost += amount - paid


class Machine(RuleBasedStateMachine):
    """Requests as a gateway makes them: from the allowance where all of it fits, else from the wallet."""

    books: Books
    begun = 0

    @initialize()
    def begin(self) -> None:
        type(self).begun += 1
        books = self.books
        first = books.tenant()
        books.rows("update feature set free_quota_e8 = %s where id = %s", QUOTA, first.feature)
        books.rows("update developer set free_quota_month_max_e8 = %s where id = %s", MOST, first.developer)
        self.tenants: list[Tenant] = [first, *(books.end_user(first) for _ in range(END_USERS - 1))]
        self.accounts: dict[Purse, int] = {(user, -1): t.wallet for user, t in enumerate(self.tenants)}
        self.model = Model()
        self.before = {a: books.posted(a) for a in (books.account("grants"), books.account("write_off"))}
        self.credited = 0

    def _paying(self, purse: Purse) -> Tenant:
        return replace(self.tenants[purse[0]], wallet=self.accounts[purse])

    def _picked(self, pick: int, ids: list[UUID]) -> UUID:
        return ids[pick % len(ids)]

    @rule(user=users, amount=st.integers(1, 300))
    def credit(self, user: int, amount: int) -> None:
        self.books.credit(self.tenants[user].wallet, amount)
        self.model.posted[(user, -1)] += amount
        self.credited += amount

    @rule(user=users, amount=amounts)
    def ask(self, user: int, amount: int) -> None:
        tenant = self.tenants[user]
        account = self.books.one(
            "select allowance_open_v1(%s, %s, %s, %s)",
            tenant.feature, tenant.end_user, uuid7(), uuid7(), role="faucet_gateway",
        )  # fmt: skip
        purse = self.model.allowance(user)
        assert (account is None) == (purse is None)
        tried: list[Purse] = [(user, -1)]
        if purse is not None:
            assert self.accounts.setdefault(purse, account) == account
            tried.insert(0, purse)
        id_ = uuid7()
        for where in tried:
            status = self.books.hold(Hold(self._paying(where), amount, id=id_), lease=LEASE_SECONDS)[0][0]
            assert status == (DONE if self.model.fits(where, amount) else INSUFFICIENT)
            if status == DONE:
                self.model.open[id_] = (where, amount)
                return

    @rule(pick=picks, cost=amounts, channel=st.integers(0, 50))
    def answer(self, pick: int, cost: int, channel: int) -> None:
        ids = [*self.model.open, *self.model.expired]
        if ids:
            id_ = self._picked(pick, ids)
            purse, _ = self.model.open.get(id_) or self.model.expired[id_]
            settled = self.books.settle(Settlement(self._paying(purse), id_, cost=cost, channel=channel))
            assert settled == [DONE]
            self.model.settle(id_, cost + channel)

    @rule(pick=picks)
    def release(self, pick: int) -> None:
        if self.model.open:
            id_ = self._picked(pick, [*self.model.open])
            assert self.books.release(id_) == [DONE]
            del self.model.open[id_]

    @rule(pick=picks)
    def expire(self, pick: int) -> None:
        if self.model.open:
            id_ = self._picked(pick, [*self.model.open])
            self.books.run_out(id_)
            assert self.books.expire() == [id_]
            self.model.expired[id_] = self.model.open.pop(id_)

    @rule()
    def end_month(self) -> None:
        """The month is over for all that there is: labels and counts move into the past."""
        model = self.model
        owners = [tenant.end_user for tenant in self.tenants]
        self.books.rows(
            "update account set label = left(label, -7) || (2000 + %s)::text || '-01' where owner_id = any (%s)"
            " and label like 'free:%%' and right(label, 7) > '2025'",
            model.month, owners,
        )  # fmt: skip
        self.books.rows("delete from free_quota_month where developer_id = %s", self.tenants[0].developer)
        model.month, model.granted = model.month + 1, 0

    @rule()
    def give_back(self) -> None:
        """What the sweep of the jobs does."""
        model, grants = self.model, self.books.account("grants")
        for purse, account in self.accounts.items():
            left = model.posted[purse]
            if purse[1] in (-1, model.month) or left == 0:
                continue
            status = self.books.transfer(13, account, grants, left)
            assert status == (DONE if model.held(purse) == 0 else INSUFFICIENT)
            if status == DONE:
                model.posted[purse] = 0
                model.given -= left

    @invariant()
    def both_hold_the_same(self) -> None:
        if not hasattr(self, "tenants"):
            return
        books, model, first = self.books, self.model, self.tenants[0]
        for purse, account in self.accounts.items():
            assert books.balance(account) == (model.posted[purse], model.held(purse))
            assert model.posted[purse] >= model.held(purse) >= 0
        assert books.posted(first.cost) + books.posted(first.earnings) + books.posted(first.revenue) == model.earned
        grants, write_off = books.account("grants"), books.account("write_off")
        assert self.before[grants] - books.posted(grants) == model.given + self.credited
        assert self.before[write_off] - books.posted(write_off) == model.lost
        assert sum(model.posted.values()) + model.earned - model.lost == model.given + self.credited
        books.assert_sound()


@pytest.fixture
def quick(dsn: str) -> Iterator[Books]:
    """The books over a connection that doesn't wait for the disk: thousands of commits, none worth keeping."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set synchronous_commit = off")
        yield Books(connection)


def test_a_free_quota_is_its_model(quick: Books) -> None:
    """Lost: some order of requests, ends and months in which a quota is given twice, overdrawn or lost."""

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
