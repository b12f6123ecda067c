"""Connections that work on the same rows at once: nothing deadlocks, nothing is spent twice."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg
from books import Books, Hold, Settlement, Tenant

from faucet.kit.ids import uuid7

SECONDS = 2.0
DONE, INSUFFICIENT = 0, 1


def at_once(dsn: str, *work: Callable[[Books], int]) -> list[int]:
    """Run each on a connection of its own, all beginning together. Any error of one is raised."""
    gate = threading.Barrier(len(work))

    def run(task: Callable[[Books], int]) -> int:
        with psycopg.connect(dsn, autocommit=True) as connection:
            # A deadlock shows as an error at once, and a lost wake-up as a time-out.
            connection.execute("set deadlock_timeout = '50ms'")
            connection.execute("set statement_timeout = '10s'")
            gate.wait(10)
            return task(Books(connection))

    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result(30) for future in [pool.submit(run, task) for task in work]]


def test_a_wallet_for_ten_pays_exactly_ten(books: Books, dsn: str) -> None:
    """Lost: two gateways at once overdraw a wallet, or refuse what it can pay."""
    tenant = books.tenant(1_000)

    def grab(own: Books) -> int:
        got = 0
        for _ in range(16):
            got += sum(s == DONE for s, _, _ in own.hold(Hold(tenant, 50), Hold(tenant, 50)))
        return got

    assert sum(at_once(dsn, *[grab] * 4)) == 20
    assert books.balance(tenant.wallet) == (1_000, 1_000)


def test_a_hold_ends_once_however_many_end_it(books: Books, dsn: str) -> None:
    """Lost: settle, release and expiry of one hold at once give its money back twice or charge it twice."""
    tenant = books.tenant(100_000)
    for _ in range(15):
        hold = books.held(tenant, 100)
        books.run_out(hold)
        before = books.posted(tenant.wallet)
        settlement = Settlement(tenant, hold, cost=40, channel=2, platform=3)
        statuses = at_once(
            dsn,
            lambda own, s=settlement: own.settle(s)[0],
            lambda own, s=settlement: own.settle(s)[0],
            lambda own, h=hold: own.release(h)[0],
            lambda own: len(own.expire()),
        )
        paid = before - books.posted(tenant.wallet)
        settled = books.one("select count(*) from usage_event where id = %s", hold)
        assert paid == 45 * settled
        assert (statuses[0] == DONE) + (statuses[1] == DONE) == settled
        assert books.balance(tenant.wallet)[1] == 0
    books.assert_sound()


def test_groups_in_any_order_never_deadlock(books: Books, dsn: str) -> None:
    """Lost: groups that touch the same wallets in different orders wait for each other for ever."""
    tenants = [books.tenant(10**12) for _ in range(3)]
    users = [user for tenant in tenants for user in (tenant, books.end_user(tenant, 10**12))]
    books.limit("app", tenants[0].app, "month", 10**12)
    books.limit("end_user", users[0].end_user, "total", 10**12)
    stop = time.monotonic() + SECONDS

    def gateway(own: Books) -> int:
        mine = random.Random(threading.get_ident())
        groups, late = 0, []
        while time.monotonic() < stop:
            holds = [Hold(mine.choice(users), mine.randint(1, 1_000)) for _ in range(8)]
            assert {s for s, _, _ in own.hold(*holds)} == {DONE}
            mine.shuffle(holds)
            own.renew(*[h.id for h in holds])
            settle, release, leave = holds[:5], holds[5:7], holds[7:]
            # Some cost more than was held, and some come late, so that every account and counter is locked.
            assert set(own.settle(*[_answer(mine, h) for h in settle])) == {DONE}
            assert set(own.release(*[h.id for h in release])) == {DONE}
            for hold in leave:
                own.run_out(hold.id)
            late += leave if mine.random() < 0.5 else []
            if len(late) >= 3:
                assert set(own.settle(*[_answer(mine, h) for h in late])) == {DONE}
                late.clear()
            groups += 1
        return groups

    def mixing_gateway(own: Books) -> int:
        mine = random.Random(threading.get_ident())
        groups: int = 0
        open_holds: list[Hold] = []
        while time.monotonic() < stop or open_holds:
            mine.shuffle(open_holds)
            settle, release, renew = open_holds[:3], open_holds[3:5], open_holds[5:]
            for hold in settle[:1]:
                own.run_out(hold.id)  # so that it may be swept away under our hands
            new = [Hold(mine.choice(users), 50) for _ in range(6)] if time.monotonic() < stop else []
            answer = own.group(new, [_answer(mine, h) for h in settle], [h.id for h in release], [h.id for h in renew])
            assert set(answer[0]) | set(answer[1]) | set(answer[2]) <= {DONE}
            open_holds = renew + new
            groups += 1
        return groups

    def sweeper(own: Books) -> int:
        swept = 0
        while time.monotonic() < stop:
            swept += len(own.expire(50))
        return swept

    def operator(own: Books) -> int:
        grants, moves = own.account("grants"), 0
        while time.monotonic() < stop:
            group = [(uuid7(), 12, grants, user.wallet, 1, None) for user in random.sample(users, 3)]
            assert own.transfers(group) == [DONE] * 3
            own.limit("app", random.choice(tenants).app, "month", 10**12 + moves)
            moves += 1
        return moves

    done = at_once(dsn, gateway, gateway, mixing_gateway, mixing_gateway, sweeper, operator)
    assert min(done) > 0
    books.expire(10_000)
    books.assert_sound()
    assert books.one("select count(*) from hold") == 0
    assert books.rows("select 1 from spend_counter where held_e8 <> 0") == []
    for tenant in tenants:
        _assert_counters(books, tenant)


def test_a_limit_set_meanwhile_misses_no_request(books: Books, dsn: str) -> None:
    """Lost: a request that was on its way while a limit was set is counted nowhere, or twice."""
    tenants = [books.tenant(10**9) for _ in range(12)]
    stop = time.monotonic() + SECONDS / 2

    def gateway(own: Books) -> int:
        groups = 0
        while time.monotonic() < stop:
            holds = [Hold(tenant, 10) for tenant in tenants]
            own.hold(*holds)
            own.settle(*[Settlement(h.tenant, h.id, cost=7) for h in holds[:8]])
            groups += 1
        return groups

    def operator(own: Books) -> int:
        for tenant in tenants:
            own.limit("app", tenant.app, "month", 10**9)
            time.sleep(SECONDS / 40)
        return len(tenants)

    assert min(at_once(dsn, gateway, gateway, operator)) > 0
    for tenant in tenants:
        _assert_counters(books, tenant)


def test_one_key_at_once_moves_once(books: Books, dsn: str) -> None:
    """Lost: two processes that use one idempotency key at once both pay, or one fails with a fault."""
    tenant = books.tenant()
    friend = books.end_user(tenant)
    grants, adjustments = books.account("grants"), books.account("adjustments")
    for round_ in range(10):
        key = f"k{round_}"
        same = at_once(dsn, *[lambda own, k=key: own.transfer(12, grants, tenant.wallet, 5, key=k)] * 3)
        assert sorted(same) == [0, 4, 4]
        other = at_once(
            dsn,
            lambda own, k=key: own.transfer(12, grants, tenant.wallet, 3, key=f"x{k}"),
            lambda own, k=key: own.transfer(30, adjustments, friend.wallet, 3, key=f"x{k}"),
        )
        assert sorted(other) == [0, 5]
    books.assert_sound()
    assert books.posted(tenant.wallet) + books.posted(friend.wallet) == 10 * 8


def _answer(chance: random.Random, hold: Hold) -> Settlement:
    cost = hold.amount // 2 if chance.random() < 0.8 else hold.amount + 5
    return Settlement(hold.tenant, hold.id, cost=cost)


def _assert_counters(books: Books, tenant: Tenant) -> None:
    ids: list[UUID] = [tenant.app]
    spent = books.one("select coalesce(sum(retail_e8), 0) from usage_event where app_id = any (%s)", ids)
    held = books.one("select coalesce(sum(amount_e8), 0) from hold where app_id = any (%s)", ids)
    assert books.counter(tenant.app) == (spent, held)
