"""The lane when its connection, its driver or its disk misbehaves: nobody else's request suffers, nothing is lost."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from books import Books, Tenant

from faucet.kit.db import connect_hot
from faucet.kit.errors import InvariantBroken
from faucet.kit.ids import uuid7
from faucet.ledger.lane import DONE, HoldItem, Lane, SettleItem

ROOT = Path(__file__).resolve().parents[2]
TOO_MUCH_E8 = 1 << 63
"""More than a bigint can hold: the driver itself refuses to send it."""


class FlawedConnection:
    """A real connection, of which some groups fail before they are sent."""

    def __init__(self, real: asyncpg.Connection, failures: list[Exception | None]) -> None:
        self._real = real
        self._failures = failures

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def fetchrow(self, *values: Any, **options: Any) -> Any:
        failure = self._failures.pop(0) if self._failures else None
        if failure is not None:
            self._real.terminate()
            raise failure
        return await self._real.fetchrow(*values, **options)


@asynccontextmanager
async def open_lane(
    dsn: str,
    *failures: Exception | None,
    on_at_risk: Callable[[Sequence[SettleItem]], None] = lambda items: None,
) -> AsyncIterator[Lane]:
    """A lane whose groups fail in this order; None is one that works, as do all that come after."""
    left = list(failures)

    async def connect() -> Any:
        return FlawedConnection(await connect_hot(dsn, "faucet_gateway"), left)

    lane = Lane(connect, lease_seconds=60, on_at_risk=on_at_risk)
    await lane.start()
    try:
        yield lane
    finally:
        await lane.close()


def hold_of(tenant: Tenant, amount_e8: int) -> HoldItem:
    ids = (tenant.developer, tenant.app, tenant.feature, tenant.end_user, tenant.session)
    return HoldItem(uuid7(), tenant.wallet, amount_e8, *ids, None)


def settlement_of(tenant: Tenant, hold: UUID) -> SettleItem:
    accounts = (tenant.cost, tenant.earnings, tenant.revenue)
    tokens, names = (5, 0, 0, 7, 0), ("mock", "mock-small", None)
    return SettleItem(hold, tenant.wallet, 40, 40, 0, 0, *accounts, 1, *tokens, 10, 20, 0, 0, 0, *names)


@pytest.mark.parametrize("failure", [asyncpg.InternalClientError("cannot switch to state 12"), ConnectionResetError()])
def test_a_connection_that_dies_takes_no_settlement_with_it(books: Books, dsn: str, failure: Exception) -> None:
    """Lost: the driver stumbles over a connection that is being killed, and a given answer is not billed."""
    tenant = books.tenant(1_000)
    written: list[UUID] = []

    async def story() -> int:
        async with open_lane(
            dsn, None, failure, on_at_risk=lambda items: written.extend(item.id for item in items)
        ) as lane:
            hold = hold_of(tenant, 100)
            assert (await lane.hold(hold)).status == DONE
            balance_e8 = await lane.settle(settlement_of(tenant, hold.id))
            assert written == [hold.id]
            return balance_e8

    assert asyncio.run(story()) == 960
    assert books.balance(tenant.wallet) == (960, 0)


def test_an_item_that_cannot_be_sent_fails_alone(books: Books, dsn: str) -> None:
    """Lost: one impossible amount looks like a lost connection, and the lane reconnects over it for ever."""
    tenant = books.tenant(1_000)

    async def story() -> None:
        async with open_lane(dsn) as lane:
            good, bad, last = (lane.hold(hold_of(tenant, amount)) for amount in (100, TOO_MUCH_E8, 200))
            assert (await good).status == (await last).status == DONE
            with pytest.raises(InvariantBroken):
                await bad
            assert lane.connected

    asyncio.run(asyncio.wait_for(story(), 20))
    assert books.balance(tenant.wallet) == (1_000, 300)


def test_a_full_disk_stops_no_settlement(books: Books, dsn: str) -> None:
    """Lost: the spool can't be written while the database is away, and the lane dies of it."""
    tenant = books.tenant(1_000)

    def full(items: Sequence[SettleItem]) -> None:
        raise OSError(28, "No space left on device")

    async def story() -> int:
        async with open_lane(dsn, None, ConnectionResetError(), on_at_risk=full) as lane:
            hold = hold_of(tenant, 100)
            assert (await lane.hold(hold)).status == DONE
            return await lane.settle(settlement_of(tenant, hold.id))

    assert asyncio.run(asyncio.wait_for(story(), 20)) == 960


def test_a_gateway_that_finds_no_database_ends(tmp_path: Path) -> None:
    """Lost: started while the database is away, it neither serves nor ends, and nobody starts it again."""
    program = (
        "from faucet.gateway.main import main; from faucet.kit.config import load_config;"
        f" main(load_config({{'FAUCET_DATA': {str(tmp_path)!r}}}), 'postgresql://faucet@/faucet?host={tmp_path}')"
    )
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert told.returncode == 1 and "LedgerUnavailable" in told.stderr


def test_a_settlement_that_the_horizon_refuses_is_repeated(books: Books, dsn: str) -> None:
    """Lost: an answer whose group began just before a month was made final is not billed."""
    tenant = books.tenant(1_000)

    async def run() -> None:
        async with open_lane(dsn) as lane:
            holds = [hold_of(tenant, 50) for _ in range(2)]
            for item in holds:
                assert (await lane.hold(item)).status == DONE
            books.rows("update ledger_horizon set final_until = clock_timestamp() + interval '300 milliseconds'")
            balances = await asyncio.gather(*(lane.settle(settlement_of(tenant, item.id)) for item in holds))
        assert min(balances) == 1_000 - 2 * 40

    asyncio.run(run())
    assert books.one(
        "select min(u.created_at) >= h.final_until from usage_event u, ledger_horizon h group by h.final_until"
    )
    books.assert_sound()
