"""What developers are told of without anybody having done it: wallets that ran low, spend limits that were reached."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from api_world import Json, ok, tenant_of
from books import E8, Books, Settlement, Tenant
from fakes.receiver import Receiver
from gateway_world import EndUser, Gateway, World, ask, chat, wait_for
from webhook_world import WEBHOOKS, Hooks, config, hooks, receiver

from faucet.jobs.purge import purge
from faucet.jobs.tell import tell_developers
from faucet.kit.db import Tx, open_pool
from faucet.webhooks.outbox import emit

__all__ = ["config", "hooks", "receiver"]


def tell(hooks: Hooks, *, low_e8: int = E8, batch: int = 500) -> int:
    """One look of the jobs."""

    async def work(connection: Tx) -> int:
        return await tell_developers(connection, wallet_low_e8=low_e8, batch=batch)

    told: int = hooks.in_jobs_role(work)
    return told


def pay(books: Books, tenant: Tenant, amount: int) -> None:
    """An answer that costs the wallet so much."""
    hold = books.held(tenant, amount)
    assert books.settle(Settlement(tenant, hold, cost=amount)) == [0]


@pytest.fixture
def app(hooks: Hooks) -> Json:
    """An app of the developer's, who wants to be told."""
    hooks.endpoint("https://hooks.example.com/")
    return hooks.developer.app()


@pytest.fixture
def tenant(hooks: Hooks, books: Books, app: Json) -> Tenant:
    """An end user with ten dollars."""
    tenant = tenant_of(books, app, hooks.developer.feature(app))
    return books.end_user(tenant, 10 * E8)


def test_a_wallet_that_falls_below_the_line_is_told_once(hooks: Hooks, books: Books, app: Json, tenant: Tenant) -> None:
    """Lost: nobody is told before an end user is refused; or everybody is told with every answer."""
    pay(books, tenant, 9 * E8)
    assert tell(hooks) == 0 and hooks.events() == []  # a dollar is not below a dollar
    pay(books, tenant, 1)
    assert tell(hooks) == 1
    (event,) = hooks.events()
    public_id = books.one("select public_id::text from account where id = %s", tenant.wallet)
    assert event["type"] == "wallet.low"
    assert event["data"] == {
        "wallet_id": public_id,
        "end_user_id": str(tenant.end_user),
        "public_app_id": app["public_app_id"],
        "balance_usd": "0.99999999",
        "threshold_usd": "1.00000000",
    }
    for _ in range(3):
        pay(books, tenant, 1000)
        assert tell(hooks) == 0
    books.credit(tenant.wallet, 10 * E8)
    assert tell(hooks) == 0
    pay(books, tenant, 10 * E8)
    assert tell(hooks) == 1
    assert len(hooks.events()) == 2


def test_an_app_has_a_line_of_its_own(hooks: Hooks, books: Books, app: Json, tenant: Tenant) -> None:
    """Lost: an app whose answers cost dollars is told when it is too late."""
    path = f"/v1/developer/apps/{app['public_app_id']}"
    assert ok(hooks.developer.http.patch(path, json={"wallet_low_usd": "5"}))["wallet_low_usd"] == "5.00000000"
    pay(books, tenant, 6 * E8)
    assert tell(hooks) == 1
    assert hooks.events()[0]["data"]["threshold_usd"] == "5.00000000"
    # With the line taken back the wallet isn't low any more, and can become so again.
    assert "wallet_low_usd" not in ok(hooks.developer.http.patch(path, json={"wallet_low_usd": None}))
    assert tell(hooks) == 0
    pay(books, tenant, 4 * E8)
    assert tell(hooks) == 1
    assert hooks.events()[0]["data"]["balance_usd"] == "0.00000000"


def test_only_who_wants_to_know_is_looked_at(hooks: Hooks, books: Books) -> None:
    """Lost: every wallet of every developer costs a look, and an event that nobody reads."""
    app = hooks.developer.app()
    tenant = books.end_user(tenant_of(books, app, hooks.developer.feature(app)), 2 * E8)
    pay(books, tenant, 2 * E8)
    assert tell(hooks) == 0
    item, _ = hooks.endpoint("https://hooks.example.com/", event_types=["app.disabled"])
    assert tell(hooks) == 0
    ok(hooks.developer.http.patch(f"{WEBHOOKS}/{item['id']}", json={"event_types": ["wallet.low"]}))
    assert tell(hooks) == 1


def test_a_line_of_nothing_is_never_crossed(hooks: Hooks, books: Books, tenant: Tenant) -> None:
    """Lost: an operator can't switch it off."""
    pay(books, tenant, 10 * E8)
    assert tell(hooks, low_e8=0) == 0


def test_a_look_goes_on_where_the_last_one_was(hooks: Hooks, books: Books, tenant: Tenant) -> None:
    """Lost: what happened while the jobs were away; or each look reads all answers there ever were."""
    assert tell(hooks) == 0
    books.rows("update sweep_mark set seen_until = now() - interval '3 hours'")
    pay(books, tenant, 10 * E8)
    assert tell(hooks) == 1
    age = books.one("select extract(epoch from now() - seen_until)::int from sweep_mark where sweep = 'wallet_low'")
    assert age < 60


def test_a_free_quota_that_runs_out_is_no_low_wallet(hooks: Hooks, books: Books, tenant: Tenant) -> None:
    """Lost: a developer is told of a wallet that no list shows, for every end user who uses what is free."""
    books.rows("update feature set free_quota_e8 = 1000 where id = %s", tenant.feature)
    books.rows("update developer set free_quota_month_max_e8 = 5000 where id = %s", tenant.developer)
    account = books.one(
        "select allowance_open_v1(%s, %s, gen_random_uuid(), gen_random_uuid())",
        tenant.feature, tenant.end_user, role="faucet_gateway",
    )  # fmt: skip
    pay(books, replace(tenant, wallet=account), 1000)
    assert tell(hooks) == 0 and hooks.events() == []


def test_a_limit_of_each_end_user_is_told_for_each(hooks: Hooks, books: Books, tenant: Tenant) -> None:
    """Lost: only the first of many who reached it is told of; or one whose own counter has room."""
    other, third = books.end_user(tenant, 10 * E8), books.end_user(tenant, 10 * E8)
    books.limit("feature_end_user", tenant.feature, "month", 5_000)
    for who, spent in ((tenant, 4_000), (other, 4_500), (third, 100)):
        pay(books, who, spent)
    for _ in range(2):
        for who in (tenant, other, third):
            books.rows(
                "insert into limit_refusal (id, developer_id, app_id, feature_id, end_user_id, required_e8)"
                " values (gen_random_uuid(), %s, %s, %s, %s, 2000)",
                who.developer, who.app, who.feature, who.end_user, role="faucet_gateway",
            )  # fmt: skip
        tell(hooks)
    told = [event["data"] for event in hooks.events()]
    assert {(data["end_user_id"], data["spent_usd"]) for data in told} == {
        (str(tenant.end_user), "0.00004000"), (str(other.end_user), "0.00004500"),
    }  # fmt: skip
    assert len(told) == 2 and {data["scope"] for data in told} == {"feature_end_user"}
    assert all("feature_key" in data for data in told)


def test_many_wallets_in_small_bites_by_two_processes_are_told_once_each(
    hooks: Hooks, books: Books, tenant: Tenant
) -> None:
    """Lost: a burst is left for later for ever, or told twice."""
    others = [books.end_user(tenant, 2 * E8) for _ in range(23)]
    for other in others:
        pay(books, other, 2 * E8)

    async def both() -> list[int]:
        pool = await open_pool(hooks.world.api.dsn, "faucet_jobs", size=2)

        async def one() -> int:
            async with pool.connection() as connection:
                return await tell_developers(connection, wallet_low_e8=E8, batch=5)

        try:
            return list(await asyncio.gather(one(), one()))
        finally:
            await pool.close()

    assert sum(asyncio.run(both())) == 23
    told = [event["data"]["end_user_id"] for event in hooks.events(limit=100)]
    assert sorted(told) == sorted(str(other.end_user) for other in others)


def test_a_reached_limit_is_told_once_by_a_real_refusal(
    world: World, gateway: Gateway, rich: EndUser, receiver: Receiver
) -> None:
    """Lost: an app stands still at its limit and its developer learns of it from their users."""
    books = world.books
    other = world.end_user(app_of=books.tenant())
    limit = 1000
    books.rows("select spend_limit_set_v1('end_user', %s, 'total', %s)", rich.tenant.end_user, limit, role="faucet_api")
    for bearer in (rich.bearer, rich.bearer, rich.bearer):
        reply = ask(gateway, bearer, chat("x " * 400))
        assert (reply.status, reply.code) == (402, "budget_exceeded")
    wait_for(lambda: books.one("select count(*) from limit_refusal where end_user_id = %s", rich.tenant.end_user))

    async def look() -> None:
        pool = await open_pool(world.dsn, "faucet_jobs", size=1)
        try:
            async with pool.connection() as connection:
                await tell_developers(connection, wallet_low_e8=E8)
        finally:
            await pool.close()

    def told() -> list[Any]:
        rows = books.rows(
            "select data from webhook_event where type = 'usage.limit_reached' and developer_id = %s",
            rich.tenant.developer,
        )
        return [data for (text,) in rows if (data := json.loads(text)).get("end_user_id") == str(rich.tenant.end_user)]

    asyncio.run(look())
    app = books.one("select public_app_id from app where id = %s", rich.tenant.app)
    assert told() == [
        {
            "scope": "end_user", "public_app_id": app, "end_user_id": str(rich.tenant.end_user), "period": "total",
            "limit_usd": "0.00001000", "spent_usd": "0.00000000",
        }
    ]  # fmt: skip
    assert books.one("select count(*) from limit_refusal where end_user_id = %s", rich.tenant.end_user) == 0
    # The same limit again is nothing new; another amount of it is.
    for amount, count in ((limit, 1), (limit + 1, 2)):
        books.rows("update spend_limit set limit_e8 = %s where scope_id = %s", amount, rich.tenant.end_user)
        books.rows(
            "insert into limit_refusal (id, developer_id, app_id, feature_id, end_user_id, required_e8)"
            " values (gen_random_uuid(), %s, %s, %s, %s, 5000)",
            rich.tenant.developer, rich.tenant.app, rich.tenant.feature, rich.tenant.end_user,
            role="faucet_gateway",
        )  # fmt: skip
        asyncio.run(look())
        assert len(told()) == count
    assert other.tenant.developer != rich.tenant.developer


def test_a_refusal_that_no_limit_explains_is_forgotten(hooks: Hooks, books: Books, tenant: Tenant) -> None:
    """Lost: a limit that was lifted meanwhile is told of; or its refusals stay for ever."""
    books.rows("select spend_limit_set_v1('app', %s, 'month', %s)", tenant.app, 10 * E8, role="faucet_api")
    for _ in range(7):
        books.rows(
            "insert into limit_refusal (id, developer_id, app_id, feature_id, end_user_id, required_e8)"
            " values (gen_random_uuid(), %s, %s, %s, %s, 5000)",
            tenant.developer, tenant.app, tenant.feature, tenant.end_user,
            role="faucet_gateway",
        )  # fmt: skip
    tell(hooks, batch=3)
    assert books.one("select count(*) from limit_refusal") == 0
    assert hooks.events() == []


def test_an_event_is_there_exactly_if_its_tx_was_committed(hooks: Hooks, tenant: Tenant) -> None:
    """Lost: a developer is told of a top-up that was undone; or the same one twice."""

    async def work(connection: Tx) -> None:
        with pytest.raises(RuntimeError):
            async with connection.transaction():
                await emit(connection, tenant.developer, "topup.credited", {"amount_usd": "1.00000000"}, key="t-1")
                raise RuntimeError
        for expected in (True, False):
            async with connection.transaction():
                told = await emit(
                    connection, tenant.developer, "topup.credited", {"amount_usd": "1.00000000"}, key="t-1"
                )
            assert (told is not None) is expected

    hooks.in_jobs_role(work)
    (event,) = hooks.events()
    assert event["data"] == {"amount_usd": "1.00000000"} and len(event["deliveries"]) == 1


def test_events_of_a_month_ago_are_forgotten(hooks: Hooks, books: Books, receiver: Receiver) -> None:
    """Lost: a table that grows for ever; or events that could still be replayed."""
    endpoint, _ = hooks.endpoint(receiver.url)
    old, fresh = hooks.ping(endpoint), hooks.ping(endpoint)
    hooks.deliver()
    ok(hooks.developer.http.post(f"{WEBHOOKS}/{endpoint['id']}/rotate", json={"overlap_seconds": 0}), 201)
    books.rows("update webhook_event set created_at = now() - interval '31 days' where id = %s", old["id"])
    assert hooks.in_jobs_role(purge).webhook_events == 1
    assert [event["id"] for event in hooks.events()] == [fresh["id"]]
    assert books.one("select count(*) from webhook_attempt") == 1
    assert books.one("select count(*) from webhook_secret") == 1


def test_an_endpoint_that_is_deleted_at_that_moment_breaks_nothing(hooks: Hooks, tenant: Tenant, books: Books) -> None:
    """Lost: a top-up that isn't credited, because a developer deleted an endpoint while it was told of."""
    endpoint = books.one("select id from webhook_endpoint where developer_id = %s", tenant.developer)

    async def race() -> None:
        pool = await open_pool(hooks.world.api.dsn, "faucet_jobs", size=1)
        deleting = await psycopg.AsyncConnection.connect(hooks.world.api.dsn)
        try:
            await deleting.execute("delete from webhook_endpoint where id = %s", (endpoint,))
            async with pool.connection() as connection:

                async def tell_it() -> None:
                    async with connection.transaction():
                        assert await emit(connection, tenant.developer, "topup.credited", {"amount_usd": "1.00000000"})

                telling = asyncio.create_task(tell_it())
                pid = connection.info.backend_pid
                while not telling.done() and not await waits(deleting, pid):
                    await asyncio.sleep(0.01)
                await deleting.commit()
                await telling
        finally:
            await deleting.close()
            await pool.close()

    asyncio.run(race())
    (event,) = hooks.events()
    assert event["deliveries"] == []


async def waits(connection: psycopg.AsyncConnection[Any], pid: int) -> bool:
    """Whether a backend waits for a lock."""
    cursor = await connection.execute("select cardinality(pg_blocking_pids(%s)) > 0", (pid,))
    row = await cursor.fetchone()
    return row is not None and bool(row[0])
