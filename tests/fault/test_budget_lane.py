"""Budgets in the lane: reserved and taken with the group, also when the connection dies under it."""

from __future__ import annotations

import asyncio
import os
from uuid import UUID

import msgspec
import pytest
from books import Books, Tenant

from faucet.kit.db import connect_hot
from faucet.kit.ids import uuid7
from faucet.ledger.lane import DONE, INSUFFICIENT, HoldItem, Lane, SettleItem


def credential(books: Books, tenant: Tenant, limit: int) -> UUID:
    key, row_id = uuid7(), uuid7()
    books.rows(
        "insert into vault_key (id, public_key, wrapped, kek) values (%s, %s, %s, 'local:x')",
        key, os.urandom(32), os.urandom(60),
    )  # fmt: skip
    books.rows(
        "insert into credential (id, owner, developer_id, provider, sealed, key_id, mask, budget_limit_e8)"
        " values (%s, 'developer', %s, 'openai', %s, %s, 'sk-...', %s)",
        row_id, tenant.developer, os.urandom(60), key, limit,
    )  # fmt: skip
    return row_id


def hold_of(tenant: Tenant, amount_e8: int, *budgets: tuple[UUID, int]) -> HoldItem:
    ids = (tenant.developer, tenant.app, tenant.feature, tenant.end_user, tenant.session)
    return HoldItem(uuid7(), tenant.wallet, amount_e8, *ids, None, budgets)


def settlement_of(tenant: Tenant, hold: UUID, budget: tuple[UUID | None, int] | None) -> SettleItem:
    accounts = (tenant.cost, tenant.earnings, tenant.revenue)
    tokens, names = (5, 0, 0, 7, 0), ("mock", "mock-small", None)
    return SettleItem(
        hold, tenant.wallet, 40, 40, 0, 0, *accounts, 1, *tokens, 10, 20, 0, 0, 0, *names, budget=budget
    )  # fmt: skip


def budget(books: Books, row_id: UUID) -> tuple[int, int]:
    row = books.row("select spent_e8, held_e8 from credential_budget where credential_id = %s", row_id)
    return (0, 0) if row is None else (row[0], row[1])


@pytest.mark.parametrize("dies", [False, True])
def test_budgets_go_with_their_group(books: Books, dsn: str, dies: bool) -> None:
    """Lost: a budget that is taken twice, or not at all, when the answer to a commit is lost."""
    tenant = books.tenant(1_000)
    roomy, full = credential(books, tenant, 100), credential(books, tenant, 10)
    connections = []

    async def connect() -> object:
        connections.append(await connect_hot(dsn, "faucet_gateway"))
        return connections[-1]

    async def story() -> None:
        lane = Lane(connect, lease_seconds=60)
        await lane.start()
        try:
            hold = hold_of(tenant, 100, (roomy, 60), (full, 60))
            poor = lane.hold(hold_of(tenant, 10_000, (roomy, 1)))
            answer = await lane.hold(hold)
            assert (answer.status, answer.spent) == (DONE, frozenset({full}))
            assert (await poor).status == INSUFFICIENT
            assert (budget(books, roomy), budget(books, full)) == ((0, 60), (0, 0))
            if dies:
                connections[-1].terminate()
            assert await lane.settle(settlement_of(tenant, hold.id, (roomy, 25))) == 960
            assert (budget(books, roomy), budget(books, full)) == ((25, 0), (0, 0))
            again = await lane.settle(settlement_of(tenant, hold.id, (roomy, 25)))
            assert again == 960 and budget(books, roomy) == (25, 0)
            other = hold_of(tenant, 50, (roomy, 75))
            assert (await lane.hold(other)).spent == frozenset()
            assert await lane.release(other.id, "nobody answered") == DONE
            plain = hold_of(tenant, 50, (roomy, 70))
            await lane.hold(plain)
            # The platform's account answered: the reserve is freed, and nothing is taken.
            await lane.settle(settlement_of(tenant, plain.id, (None, 0)))
            assert budget(books, roomy) == (25, 0)
        finally:
            await lane.close()

    asyncio.run(asyncio.wait_for(story(), 30))
    assert books.one("select count(*) from budget_hold") == 0
    books.assert_sound()


def test_a_spooled_settlement_keeps_its_budget(books: Books) -> None:
    """Lost: what a key's owner was billed, because a gateway died; or the spool of an older gateway can't be read."""
    tenant = books.tenant()
    for taken in (None, (uuid7(), 25), (None, 0)):
        item = settlement_of(tenant, uuid7(), taken)
        assert msgspec.json.decode(msgspec.json.encode(item), type=SettleItem) == item
    older = msgspec.json.encode(list(settlement_of(tenant, uuid7(), None))[:-1])
    assert msgspec.json.decode(older, type=SettleItem).budget is None
