"""Spend limits are reserved with the hold and can't be passed, whoever asks at once and however a request ends."""

from __future__ import annotations

import pytest
from books import Books, Hold, Settlement, Tenant

DONE, BUDGET = 0, 2
LIFTED = 9_000_000_000_000_000_000


@pytest.fixture
def tenant(books: Books) -> Tenant:
    """One end user with plenty."""
    return books.tenant(1_000_000)


def scope_of(tenant: Tenant, scope: str) -> object:
    return {"app": tenant.app, "feature": tenant.feature, "end_user": tenant.end_user, "session": tenant.session}[scope]


@pytest.mark.parametrize("period", ["month", "total"])
@pytest.mark.parametrize("scope", ["app", "feature", "end_user", "session"])
def test_a_limit_binds_at_every_scope(books: Books, tenant: Tenant, scope: str, period: str) -> None:
    """Lost: a limit that an operator set is not kept."""
    scope_id = scope_of(tenant, scope)
    books.limit(scope, scope_id, period, 1_000)  # type: ignore[arg-type]
    first = Hold(tenant, 700)
    assert books.hold(first) == [(DONE, 0, 0)]
    assert books.hold(Hold(tenant, 301)) == [(BUDGET, 1_000, 700)]
    assert books.counter(scope_id) == (0, 700)  # type: ignore[arg-type]
    assert books.settle(Settlement(tenant, first.id, cost=400)) == [DONE]
    assert books.counter(scope_id) == (400, 0)  # type: ignore[arg-type]
    assert books.hold(Hold(tenant, 601)) == [(BUDGET, 600, 0)]
    assert books.hold(Hold(tenant, 600)) == [(DONE, 0, 0)]
    books.assert_sound()


@pytest.mark.parametrize("late", [False, True])
def test_a_limit_for_each_end_user_of_a_feature_binds_each_by_themselves(
    books: Books, tenant: Tenant, late: bool
) -> None:
    """Lost: one person uses up what others may spend, or passes a limit that was set in mid-month."""
    other = books.end_user(tenant, 5_000)
    if not late:
        books.limit("feature_end_user", tenant.feature, "month", 1_000)
    first = books.held(tenant, 700)
    assert books.settle(Settlement(tenant, first, cost=400)) == [DONE]
    second = books.held(tenant, 500)
    if late:
        books.limit("feature_end_user", tenant.feature, "month", 1_000)
    assert books.hold(Hold(tenant, 101)) == [(BUDGET, 600, 500)]
    group = [Hold(tenant, 60), Hold(other, 900), Hold(tenant, 60), Hold(other, 101)]
    assert [status for status, _, _ in books.hold(*group)] == [DONE, DONE, BUDGET, BUDGET]
    assert books.release(second) == [DONE]
    assert books.hold(Hold(tenant, 540)) == [(DONE, 0, 0)]
    rows = books.rows("select end_user_id, spent_e8, held_e8 from spend_counter")
    assert sorted(rows) == sorted([(tenant.end_user, 400, 600), (other.end_user, 0, 900)])
    assert BUDGET in [status for status, _, _ in books.hold(Hold(tenant, 1))]
    books.assert_sound()
    books.limit("feature_end_user", tenant.feature, "month", None)
    assert books.hold(Hold(tenant, 1_000)) == [(DONE, 0, 0)]


def test_the_tightest_limit_refuses_and_no_other_counts(books: Books, tenant: Tenant) -> None:
    """Lost: a hold that one limit refuses stays counted on another."""
    books.limit("app", tenant.app, "month", 1_000)
    books.limit("session", tenant.session, "total", 100)
    assert books.hold(Hold(tenant, 101)) == [(BUDGET, 100, 0)]
    assert books.counter(tenant.app) == (0, 0)
    assert books.counter(tenant.session) == (0, 0)
    hold = books.held(tenant, 90)
    assert (books.counter(tenant.app), books.counter(tenant.session)) == ((0, 90), (0, 90))
    assert books.release(hold) == [DONE]
    assert (books.counter(tenant.app), books.counter(tenant.session)) == ((0, 0), (0, 0))


def test_a_group_is_counted_in_order_over_shared_limits(books: Books, tenant: Tenant) -> None:
    """Lost: users of one app pass its limit together, each alone within it."""
    users = [books.end_user(tenant, 1_000) for _ in range(4)]
    free = books.tenant(1_000)
    books.limit("app", tenant.app, "month", 250)
    group = [Hold(user, 100) for user in users] + [Hold(free, 100)]
    assert [s for s, _, _ in books.hold(*group)] == [DONE, DONE, BUDGET, BUDGET, DONE]
    assert books.counter(tenant.app) == (0, 200)
    assert [books.balance(user.wallet)[1] for user in users] == [100, 100, 0, 0]
    books.assert_sound()


def test_a_roomy_limit_counts_a_whole_group(books: Books, tenant: Tenant) -> None:
    """Lost: the set-based way forgets the counters."""
    other = books.end_user(tenant, 5_000)
    books.limit("app", tenant.app, "month", 100_000)
    books.limit("end_user", tenant.end_user, "total", 50_000)
    holds = [Hold(tenant, 100), Hold(other, 50), Hold(tenant, 200)]
    assert [s for s, _, _ in books.hold(*holds)] == [DONE] * 3
    assert books.counter(tenant.app) == (0, 350)
    assert books.counter(tenant.end_user) == (0, 300)
    assert books.settle(*[Settlement(h.tenant, h.id, cost=10) for h in holds]) == [DONE] * 3
    assert books.counter(tenant.app) == (30, 0)
    assert books.counter(tenant.end_user) == (20, 0)


def test_a_write_off_spends_only_what_was_paid(books: Books, tenant: Tenant) -> None:
    """Lost: a limit is used up by money that nobody paid."""
    books.limit("app", tenant.app, "month", 1_000)
    hold = books.held(tenant, 100)
    assert books.settle(Settlement(tenant, hold, cost=150)) == [DONE]
    assert books.counter(tenant.app) == (100, 0)


def test_an_expired_hold_frees_its_limit_and_a_late_answer_counts(books: Books, tenant: Tenant) -> None:
    """Lost: dead requests use a limit up; or answers that were late don't count at all."""
    books.limit("app", tenant.app, "month", 1_000)
    books.limit("session", tenant.session, "total", 500)
    hold = books.held(tenant, 400)
    books.run_out(hold)
    assert books.expire() == [hold]
    assert (books.counter(tenant.app), books.counter(tenant.session)) == ((0, 0), (0, 0))
    assert books.settle(Settlement(tenant, hold, cost=300)) == [DONE]
    assert (books.counter(tenant.app), books.counter(tenant.session)) == ((300, 0), (300, 0))
    assert books.hold(Hold(tenant, 201)) == [(BUDGET, 200, 0)]


def test_a_limit_set_in_mid_period_starts_with_what_was_spent(books: Books, tenant: Tenant) -> None:
    """Lost: setting a limit forgives what the month has spent, or misses requests in flight."""
    settled, running = books.held(tenant, 500), books.held(tenant, 200)
    assert books.settle(Settlement(tenant, settled, cost=450)) == [DONE]
    books.limit("app", tenant.app, "month", 1_000)
    assert books.counter(tenant.app) == (450, 200)
    assert books.hold(Hold(tenant, 351)) == [(BUDGET, 550, 200)]
    assert books.settle(Settlement(tenant, running, cost=150)) == [DONE]
    assert books.counter(tenant.app) == (600, 0)


def test_a_limit_below_what_was_spent_refuses_all(books: Books, tenant: Tenant) -> None:
    """Lost: a limit that was lowered too far goes negative and lets everything through."""
    assert books.settle(Settlement(tenant, books.held(tenant, 500), cost=450)) == [DONE]
    books.limit("app", tenant.app, "month", 100)
    assert books.hold(Hold(tenant, 1)) == [(BUDGET, -350, 0)]
    books.limit("app", tenant.app, "month", 451)
    assert books.hold(Hold(tenant, 1)) == [(DONE, 0, 0)]


def test_a_lifted_limit_binds_no_more_and_can_return(books: Books, tenant: Tenant) -> None:
    """Lost: lifting a limit strands the counters of open holds, or forgets what was spent."""
    books.limit("app", tenant.app, "month", 100)
    hold = books.held(tenant, 100)
    books.limit("app", tenant.app, "month", None)
    assert books.one("select limit_e8 from spend_limit where scope_id = %s", tenant.app) == LIFTED
    assert books.settle(Settlement(tenant, hold, cost=60)) == [DONE]
    big = books.held(tenant, 900_000)
    assert books.release(big) == [DONE]
    books.limit("app", tenant.app, "month", 100)
    assert books.counter(tenant.app) == (60, 0)
    assert books.hold(Hold(tenant, 41)) == [(BUDGET, 40, 0)]


def test_a_new_month_counts_anew(books: Books, tenant: Tenant) -> None:
    """Lost: last month's spending uses this month's limit."""
    books.limit("app", tenant.app, "month", 100)
    last = books.held(tenant, 100)
    books.rows("update spend_counter set period_start = period_start - interval '1 month'")
    assert books.hold(Hold(tenant, 100)) == [(DONE, 0, 0)]
    assert books.settle(Settlement(tenant, last, cost=70)) == [DONE]
    rows = books.rows("select spent_e8, held_e8 from spend_counter order by period_start")
    assert rows == [(70, 0), (0, 100)]
