"""Every answer that the ledger's functions can give, and that what they refuse leaves its neighbours alone."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import psycopg
import pytest
from books import MANY, Books, Hold, Settlement, Tenant

from faucet.kit.ids import uuid7

DONE, INSUFFICIENT, BUDGET, FROZEN, RESOLVED, CONFLICT, UNFIT, NO_HOLD, UNEVEN = range(9)


@pytest.fixture
def tenant(books: Books) -> Tenant:
    """One end user with 1000 e8."""
    return books.tenant(1_000)


@pytest.fixture(autouse=True)
def sound(books: Books) -> object:
    """Whatever a test does, the books add up afterwards."""
    yield
    books.assert_sound()


# ── hold ──


def test_a_hold_reserves(books: Books, tenant: Tenant) -> None:
    """Lost: what is held could be spent a second time."""
    assert books.hold(Hold(tenant, 400), Hold(tenant, 600)) == [(DONE, 0, 0)] * 2
    assert books.balance(tenant.wallet) == (1_000, 1_000)
    status, posted, held = books.hold(Hold(tenant, 1))[0]
    assert (status, posted, held) == (INSUFFICIENT, 1_000, 1_000)


def test_a_hold_of_nothing_is_a_hold(books: Books, tenant: Tenant) -> None:
    """Lost: free requests (the user's own key) would be refused for an empty wallet."""
    poor = books.end_user(tenant)
    hold = books.held(poor, 0)
    assert books.settle(Settlement(poor, hold, payer=2)) == [DONE]


def test_a_look_for_known_ids_walks_no_index(books: Books, tenant: Tenant) -> None:
    """Lost: planned while usage events were few, each hold reads all of them until somebody counts them."""
    for name in ("enable_seqscan", "enable_hashjoin", "enable_mergejoin"):
        books.rows("select set_config(%s, 'off', false)", name)
    books.rows("select set_config('plan_cache_mode', 'force_generic_plan', false)")
    books.rows("vacuum (analyze) usage_event")
    user = books.end_user(tenant, 100_000)
    for _ in range(3):  # the plans are made here
        books.settle(*[Settlement(user, books.held(user, 10)) for _ in range(100)])

    # A scan by an index that begins with something else reads all of it, and finds nothing.
    looks = """
        select coalesce(sum(idx_scan) filter (where indexrelname <> 'usage_event_pkey'), 0)::int, sum(idx_scan)::int
        from pg_stat_user_indexes where relname = 'usage_event'
    """
    books.rows("select pg_stat_force_next_flush()")
    walks, scans = books.rows(looks)[0]
    assert walks == 0 and scans >= 300


def test_holds_fit_first_come_first_served(books: Books, tenant: Tenant) -> None:
    """Lost: one hold that doesn't fit takes the ones before or after it down."""
    group = [Hold(tenant, amount) for amount in (600, 500, 300, 200, 100)]
    assert [s for s, _, _ in books.hold(*group)] == [DONE, INSUFFICIENT, DONE, INSUFFICIENT, DONE]
    assert books.balance(tenant.wallet) == (1_000, 1_000)
    kept = {row[0] for row in books.rows("select id from hold")}
    assert kept == {group[0].id, group[2].id, group[4].id}


def test_a_group_over_many_wallets(books: Books, tenant: Tenant) -> None:
    """Lost: wallets that can pay wait for, or fail with, one that can't."""
    users = [books.end_user(tenant, credit) for credit in (0, 100, 1_000)]
    group = [Hold(user, 100) for user in users for _ in range(2)]
    statuses = [s for s, _, _ in books.hold(*group)]
    assert statuses == [INSUFFICIENT, INSUFFICIENT, DONE, INSUFFICIENT, DONE, DONE]
    assert [books.balance(user.wallet)[1] for user in users] == [0, 100, 200]


def test_unfit_holds(books: Books, tenant: Tenant) -> None:
    """Lost: a hold on somebody else's wallet, on no wallet, or of less than nothing."""
    other = books.tenant(1_000)
    group = [
        Hold(replace(tenant, wallet=0), 1),
        Hold(replace(tenant, wallet=tenant.earnings), 1),
        Hold(replace(tenant, end_user=other.end_user), 1),
        Hold(replace(tenant, developer=other.developer), 1),
        Hold(replace(tenant, wallet=other.wallet), 1),
        Hold(tenant, -1),
        Hold(tenant, 1),
    ]
    assert [s for s, _, _ in books.hold(*group)] == [UNFIT] * 6 + [DONE]
    assert books.balance(tenant.wallet) == (1_000, 1)
    assert books.balance(other.wallet) == (1_000, 0)


def test_a_frozen_wallet_holds_nothing_new(books: Books, tenant: Tenant) -> None:
    """Lost: a wallet under review is spent meanwhile; and requests in flight could not end."""
    running = books.held(tenant, 100)
    books.rows("update account set frozen_at = now() where id = %s", tenant.wallet)
    friend = books.end_user(tenant, 50)
    assert [s for s, _, _ in books.hold(Hold(tenant, 1), Hold(friend, 50))] == [FROZEN, DONE]
    assert books.settle(Settlement(tenant, running, cost=60)) == [DONE]
    assert books.balance(tenant.wallet) == (940, 0)


def test_repeating_a_hold_is_harmless(books: Books, tenant: Tenant) -> None:
    """Lost: a retry after a lost connection reserves twice, or an id means two things."""
    hold = Hold(tenant, 100)
    assert books.hold(hold)[0][0] == DONE
    assert books.hold(hold)[0][0] == DONE
    assert books.balance(tenant.wallet) == (1_000, 100)
    assert books.hold(replace(hold, amount=101))[0][0] == CONFLICT
    assert books.hold(Hold(replace(tenant, session=uuid7()), 100, id=hold.id))[0][0] == CONFLICT
    fresh = Hold(tenant, 5)
    assert [s for s, _, _ in books.hold(hold, fresh)] == [DONE, DONE]
    assert books.release(hold.id) == [DONE]
    assert books.hold(hold)[0][0] == RESOLVED
    assert books.settle(Settlement(tenant, fresh.id, cost=1)) == [DONE]
    assert books.hold(fresh)[0][0] == RESOLVED
    assert books.balance(tenant.wallet) == (999, 0)


# ── settle ──


def test_a_settlement_books_every_part(books: Books, tenant: Tenant) -> None:
    """Lost: an answer's money is not where its usage event says it is."""
    hold = books.held(tenant, 500)
    assert books.settle(Settlement(tenant, hold, cost=200, channel=24, platform=36)) == [DONE]
    assert books.balance(tenant.wallet) == (740, 0)
    assert [books.posted(a) for a in (tenant.cost, tenant.earnings, tenant.revenue)] == [200, 24, 36]
    assert books.event(hold) == {
        "cost_e8": 200, "retail_e8": 260, "channel_e8": 24, "platform_e8": 36, "write_off_e8": 0, "held_e8": 500,
    }  # fmt: skip
    rows = books.rows("select code, amount_e8 from transfer where event_id = %s order by code", hold)
    assert rows == [(1, 200), (2, 24), (3, 36)]
    assert books.one("select state from request where id = %s", hold) == "settled"


@pytest.mark.parametrize(
    ("payer", "parts", "cost", "earnings", "revenue", "paid"),
    [
        (0, {"cost": 200, "channel": 24, "platform": 36}, 200, 24, 36, 260),
        (1, {"cost": 200, "channel": 24, "platform": 36}, 0, 224, 36, 260),
        (2, {"cost": 0, "channel": 4, "platform": 6}, 0, 4, 6, 10),
        (3, {"cost": 0, "channel": 0, "platform": 0}, 0, 0, 0, 0),
    ],
    ids=["platform", "developer", "byok", "local"],
)
def test_who_gets_what_by_payer(
    books: Books, tenant: Tenant, payer: int, parts: dict[str, int], cost: int, earnings: int, revenue: int, paid: int
) -> None:
    """Lost: a developer whose key paid the provider isn't paid back, or a user with their own key pays a cost."""
    hold = books.held(tenant, 300)
    assert books.settle(Settlement(tenant, hold, payer=payer, **parts)) == [DONE]
    assert [books.posted(a) for a in (tenant.cost, tenant.earnings, tenant.revenue)] == [cost, earnings, revenue]
    assert books.balance(tenant.wallet) == (1_000 - paid, 0)


def test_repeating_a_settlement_is_harmless(books: Books, tenant: Tenant) -> None:
    """Lost: an answer is billed twice when the first commit's reply is lost."""
    hold = books.held(tenant, 500)
    settlement = Settlement(tenant, hold, cost=200, channel=24, platform=36)
    assert books.settle(settlement) == [DONE]
    assert books.settle(settlement) == [RESOLVED]
    assert books.settle(replace(settlement, cost=201)) == [CONFLICT]
    assert books.balance(tenant.wallet) == (740, 0)
    assert books.one("select count(*) from transfer where event_id = %s", hold) == 3


def test_refused_settlements_leave_their_neighbours_alone(books: Books, tenant: Tenant) -> None:
    """Lost: one odd settlement loses the answers that were settled in the same group."""
    other = books.tenant()
    holds = [books.held(tenant, 100) for _ in range(7)]
    released = books.held(tenant, 100)
    assert books.release(released) == [DONE]
    group = [
        Settlement(tenant, holds[0], cost=50),
        Settlement(tenant, uuid7(), cost=50),
        Settlement(tenant, released, cost=50),
        Settlement(tenant, holds[1], cost=50, rated=51),
        Settlement(tenant, holds[2], cost=60, channel=-10),
        Settlement(replace(tenant, earnings=other.earnings), holds[3], cost=50),
        Settlement(replace(tenant, cost=tenant.revenue), holds[4], cost=50),
        Settlement(tenant, holds[0], cost=50),
        Settlement(tenant, holds[5], cost=20, channel=1, platform=2),
    ]
    assert books.settle(*group) == [DONE, NO_HOLD, NO_HOLD, UNEVEN, UNEVEN, UNFIT, UNFIT, CONFLICT, DONE]
    assert books.balance(tenant.wallet) == (1_000 - 50 - 23, 500)
    assert books.posted(other.earnings) == 0
    assert books.release(*holds) == [RESOLVED] + [DONE] * 4 + [RESOLVED, DONE]
    assert books.balance(tenant.wallet) == (927, 0)


def test_an_answer_above_its_hold_takes_the_hold_and_writes_off_the_rest(books: Books, tenant: Tenant) -> None:
    """Lost: a provider that reports too much overdraws the wallet, or isn't owed what it will bill."""
    hold, ordinary = books.held(tenant, 100), books.held(tenant, 100)
    statuses = books.settle(
        Settlement(tenant, hold, cost=120, channel=8, platform=12), Settlement(tenant, ordinary, cost=10)
    )
    assert statuses == [DONE, DONE]
    assert books.balance(tenant.wallet) == (890, 0)
    assert books.event(hold) == {
        "cost_e8": 120, "retail_e8": 100, "channel_e8": 8, "platform_e8": 12, "write_off_e8": 40, "held_e8": 100,
    }  # fmt: skip
    assert books.posted(books.account("write_off")) == -40
    assert [books.posted(a) for a in (tenant.cost, tenant.earnings, tenant.revenue)] == [130, 8, 12]
    rows = books.rows("select code, amount_e8 from transfer where event_id = %s order by code", hold)
    assert rows == [(1, 100), (4, 20), (5, 8), (6, 12)]


@pytest.mark.parametrize("held", [0, 119, 120, 121, 127, 128, 129, 139])
def test_a_write_off_is_split_exactly(books: Books, tenant: Tenant, held: int) -> None:
    """Lost: an e8 appears or disappears where a hold ends within a part of the charge."""
    hold = books.held(tenant, held)
    assert books.settle(Settlement(tenant, hold, cost=120, channel=8, platform=12)) == [DONE]
    paid = min(held, 140)
    assert books.balance(tenant.wallet) == (1_000 - paid, 0)
    assert books.posted(books.account("write_off")) == paid - 140
    assert [books.posted(a) for a in (tenant.cost, tenant.earnings, tenant.revenue)] == [120, 8, 12]
    assert books.event(hold)["retail_e8"] == paid


# ── late settlements ──


def test_an_expired_hold_is_still_settled_once(books: Books, tenant: Tenant) -> None:
    """Lost: an answer that was delivered while its lease ran out is free, or billed twice."""
    hold = books.held(tenant, 300)
    books.run_out(hold)
    assert books.expire() == [hold]
    assert books.balance(tenant.wallet) == (1_000, 0)
    settlement = Settlement(tenant, hold, cost=200, channel=24, platform=36)
    assert books.settle(settlement) == [DONE]
    assert books.balance(tenant.wallet) == (740, 0)
    assert books.settle(settlement) == [RESOLVED]
    assert books.settle(replace(settlement, platform=37)) == [CONFLICT]
    assert books.balance(tenant.wallet) == (740, 0)
    assert books.rows("select state from request where id = %s", hold) == [("settled",)]


def test_a_late_settlement_leaves_other_holds_their_money(books: Books, tenant: Tenant) -> None:
    """Lost: a late answer takes what another request has reserved."""
    late = books.held(tenant, 300)
    books.run_out(late)
    books.expire()
    other = books.held(tenant, 900)
    assert books.settle(Settlement(tenant, late, cost=250)) == [DONE]
    assert books.event(late) | {} == {
        "cost_e8": 250, "retail_e8": 100, "channel_e8": 0, "platform_e8": 0, "write_off_e8": 150, "held_e8": 100,
    }  # fmt: skip
    assert books.balance(tenant.wallet) == (900, 900)
    assert books.settle(Settlement(tenant, other, cost=900)) == [DONE]
    assert books.balance(tenant.wallet) == (0, 0)


def test_late_settlements_of_one_group_share_what_is_left(books: Books, tenant: Tenant) -> None:
    """Lost: two late answers in one commit both take the same last money."""
    late = [books.held(tenant, 300) for _ in range(3)]
    for hold in late:
        books.run_out(hold)
    assert sorted(books.expire()) == sorted(late)
    rest = books.held(tenant, 500)
    assert books.settle(*[Settlement(tenant, hold, cost=300) for hold in late]) == [DONE] * 3
    assert books.balance(tenant.wallet) == (500, 500)
    assert books.posted(tenant.cost) == 900
    assert books.posted(books.account("write_off")) == -400
    assert books.release(rest) == [DONE]


def test_late_and_open_settlements_in_one_group(books: Books, tenant: Tenant) -> None:
    """Lost: the careful way for one item changes what another pays."""
    late, on_time = books.held(tenant, 300), books.held(tenant, 300)
    books.run_out(late)
    books.expire()
    assert books.settle(Settlement(tenant, late, cost=10), Settlement(tenant, on_time, cost=20)) == [DONE, DONE]
    assert books.balance(tenant.wallet) == (970, 0)


# ── release, renew, expire ──


def test_a_release_gives_back_once(books: Books, tenant: Tenant) -> None:
    """Lost: a hold is given back twice, or after it was paid."""
    hold, settled = books.held(tenant, 100), books.held(tenant, 200)
    assert books.settle(Settlement(tenant, settled, cost=5)) == [DONE]
    assert books.release(hold, hold, uuid7(), settled) == [DONE, DONE, NO_HOLD, RESOLVED]
    assert books.balance(tenant.wallet) == (995, 0)
    assert books.release(hold) == [RESOLVED]
    row = books.row("select state, reason, amount_e8 from hold_resolution where id = %s", hold)
    assert row == ("released", "test", 100)


def test_only_leases_that_ran_out_expire(books: Books, tenant: Tenant) -> None:
    """Lost: a request that still runs loses its reserve; or a dead one keeps it for ever."""
    running, dead = books.held(tenant, 100), books.held(tenant, 200)
    books.run_out(dead)
    assert books.expire() == [dead]
    assert books.expire() == []
    assert books.balance(tenant.wallet) == (1_000, 100)
    assert books.one("select state from hold_resolution where id = %s", dead) == "expired"
    assert books.one("select count(*) from hold where id = %s", running) == 1


def test_a_renewed_lease_lives_on(books: Books, tenant: Tenant) -> None:
    """Lost: a long stream's hold expires while it is renewed."""
    hold = books.held(tenant, 100)
    books.run_out(hold)
    assert books.renew(hold, uuid7()) == 1
    assert books.expire() == []
    assert books.renew() == 0


def test_expiry_works_in_bounded_batches_around_busy_holds(books: Books, tenant: Tenant, dsn: str) -> None:
    """Lost: the sweep waits for a gateway that is settling, or takes all holds in one tx."""
    holds = [books.held(tenant, 10) for _ in range(5)]
    for hold in holds:
        books.run_out(hold)
    with psycopg.connect(dsn) as busy:
        busy.execute("select from hold where id = %s for update", (holds[0],))
        assert books.expire(2) == holds[1:3]
        assert books.expire(9) == holds[3:]
        assert books.expire(9) == []
    assert books.expire(9) == holds[:1]


# ── transfer ──


def test_a_transfer_moves_once_per_key(books: Books, tenant: Tenant) -> None:
    """Lost: a retried grant pays twice; a key means two things."""
    grants = books.account("grants")
    event = uuid7()
    assert books.transfer(12, grants, tenant.wallet, 50, event=event, key="k") == DONE
    assert books.transfer(12, grants, tenant.wallet, 50, key="k") == RESOLVED
    assert books.transfer(12, grants, tenant.wallet, 50, event=event) == RESOLVED
    assert books.transfer(12, grants, tenant.wallet, 51, key="k") == CONFLICT
    assert books.transfer(12, grants, books.end_user(tenant).wallet, 50, key="k") == CONFLICT
    assert books.balance(tenant.wallet) == (1_050, 0)
    assert books.transfer(12, grants, tenant.wallet, 50) == DONE
    assert books.balance(tenant.wallet) == (1_100, 0)


def test_a_debit_takes_only_what_is_free(books: Books, tenant: Tenant) -> None:
    """Lost: an adjustment or payout takes held money, or more than there is."""
    adjustments = books.account("adjustments")
    books.held(tenant, 900)
    assert books.transfer(31, tenant.wallet, adjustments, 101) == INSUFFICIENT
    assert books.transfer(31, tenant.wallet, adjustments, 100) == DONE
    assert books.balance(tenant.wallet) == (900, 900)
    assert books.transfer(31, tenant.earnings, adjustments, 1) == INSUFFICIENT
    clearing = books.open_account("payout_clearing", tenant.developer)
    assert books.transfer(40, tenant.earnings, clearing, 1) == INSUFFICIENT
    assert books.transfer(41, clearing, books.account("stripe_clearing"), 1) == INSUFFICIENT
    assert books.transfer(30, adjustments, tenant.earnings, 70) == DONE
    assert books.transfer(40, tenant.earnings, clearing, 70) == DONE
    assert books.balance(clearing) == (70, 0)


def test_moves_that_are_none_are_refused(books: Books, tenant: Tenant) -> None:
    """Lost: money goes where no move leads: between users, developers, or out of a settlement."""
    other = books.tenant(500)
    friend = books.end_user(tenant)
    grants, bank = books.account("grants"), books.account("bank")
    clearing = books.open_account("payout_clearing", other.developer)
    books.credit(tenant.wallet, 1)
    adjustments = books.account("adjustments")
    assert books.transfer(30, adjustments, tenant.earnings, 10) == DONE
    refused = [
        (uuid7(), 12, tenant.wallet, friend.wallet, 1, None),
        (uuid7(), 12, tenant.wallet, grants, 1, None),
        (uuid7(), 12, grants, tenant.earnings, 1, None),
        (uuid7(), 50, grants, bank, 1, None),
        (uuid7(), 1, tenant.wallet, tenant.cost, 1, None),
        (uuid7(), 6, books.account("write_off"), tenant.revenue, 1, None),
        (uuid7(), 40, tenant.earnings, clearing, 1, None),
        (uuid7(), 12, grants, tenant.wallet, 0, None),
        (uuid7(), 12, grants, tenant.wallet, -5, None),
        (uuid7(), 12, grants, 0, 5, None),
        (uuid7(), 99, grants, tenant.wallet, 5, None),
        (uuid7(), 12, grants, grants, 5, None),
    ]
    good = (uuid7(), 12, grants, friend.wallet, 9, None)
    assert books.transfers([*refused, good]) == [UNFIT] * len(refused) + [DONE]
    assert books.balance(friend.wallet) == (9, 0)
    assert books.balance(tenant.wallet) == (1_001, 0)


def test_items_of_one_group_see_each_other(books: Books, tenant: Tenant) -> None:
    """Lost: two debits in one group both take the last money."""
    adjustments = books.account("adjustments")
    group = [(uuid7(), 31, tenant.wallet, adjustments, 600, None) for _ in range(3)]
    assert books.transfers(group) == [DONE, INSUFFICIENT, INSUFFICIENT]
    same_key = [(uuid7(), 31, tenant.wallet, adjustments, 10, "twice") for _ in range(2)]
    assert books.transfers(same_key) == [DONE, RESOLVED]
    assert books.balance(tenant.wallet) == (390, 0)


# ── accounts ──


def test_an_account_is_opened_once(books: Books, tenant: Tenant) -> None:
    """Lost: an end user gets two wallets."""
    again = books.open_account("wallet", tenant.developer, owner=tenant.end_user)
    assert again == tenant.wallet
    assert books.open_account("provider_cost", tenant.developer, label="mock") == tenant.cost
    assert books.open_account("provider_cost", tenant.developer, label="other") != tenant.cost
    assert books.open_account("grants", None) == books.account("grants")


def test_the_gateway_opens_only_cost_accounts(books: Books, tenant: Tenant) -> None:
    """Lost: the door that faces the crowd could open accounts at will."""
    account = books.one("select provider_cost_account_v1(%s, 'mock')", tenant.developer, role="faucet_gateway")
    assert account == tenant.cost
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        books.rows(
            "select account_open_v1(%s, 'wallet', %s, %s, '')",
            uuid7(),
            tenant.developer,
            uuid7(),
            role="faucet_gateway",
        )


def test_a_session_is_found_with_all_that_serving_needs(books: Books, tenant: Tenant) -> None:
    """Lost: the gateway serves a session with another's wallet, or can't find it."""
    bearer_hash = b"\x07" * 32
    books.rows(
        "insert into session (id, developer_id, app_id, feature_id, end_user_id, bearer_hash, expires_at)"
        " values (%s, %s, %s, %s, %s, %s, now() + interval '1 hour')",
        tenant.session,
        tenant.developer,
        tenant.app,
        tenant.feature,
        tenant.end_user,
        bearer_hash,
    )
    query = (
        "select session_id, end_user_id, wallet_id, earnings_account_id, revenue_account_id, app_status"
        " from session_resolve_v1(%s)"
    )
    found = books.rows(query, bearer_hash, role="faucet_gateway")
    expected = (tenant.session, tenant.end_user, tenant.wallet, tenant.earnings, tenant.revenue, "active")
    assert found == [expected]
    assert books.rows(query, b"\x08" * 32, role="faucet_gateway") == []


# ── scale ──


def test_a_full_group_goes_through_at_once(books: Books, tenant: Tenant) -> None:
    """Lost: the set-based way and the item-by-item way book the same."""
    users = [books.end_user(tenant, MANY) for _ in range(4)]
    holds = [Hold(users[i % 4], 100 + i) for i in range(200)]
    assert {s for s, _, _ in books.hold(*holds)} == {DONE}
    settlements = [Settlement(h.tenant, h.id, cost=50, channel=3, platform=4) for h in holds]
    assert set(books.settle(*settlements)) == {DONE}
    assert [books.balance(user.wallet) for user in users] == [(MANY - 57 * 50, 0)] * 4
    assert books.one("select count(*) from hold") == 0
    ids: list[UUID] = [h.id for h in holds]
    assert books.one("select count(*) from usage_event where id = any (%s)", ids) == 200
