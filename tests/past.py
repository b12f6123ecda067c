"""Time that has passed, for tests of months: rows that were booked just now, dated back.

Only the owner of the database can do this, with its triggers off; no door can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from books import Books

from faucet.closing.document import Signer
from faucet.closing.month import Month, month_of
from faucet.jobs.close_periods import ask_for_last_month, close_periods
from faucet.kit.db import Tx, open_pool

GRACE = timedelta(hours=1)
SIGNER = Signer(b"\x07" * 32)

Got = TypeVar("Got")


def months_ago(count: int) -> Month:
    """The month so many months before this one."""
    month = month_of(datetime.now(UTC))
    for _ in range(count):
        month = Month(month.year - (month.number == 1), (month.number - 2) % 12 + 1)
    return month


def date_back(books: Books, to: datetime, *, step: timedelta = timedelta()) -> None:
    """Let all that was booked today have been booked then, each answer a step after the one before it."""
    books.rows("set session_replication_role = replica")
    books.rows(
        "with placed as (select id, row_number() over (order by id) - 1 as n from usage_event"
        " where created_at > now() - interval '1 hour')"
        " update usage_event u set created_at = %s + p.n * %s from placed p where p.id = u.id",
        to,
        step,
    )
    books.rows(
        "update transfer_row t set created_at = coalesce("
        "(select u.created_at from usage_event u where u.id = t.event_id), %s)"
        " where t.created_at > now() - interval '1 hour'",
        to,
    )
    books.rows("update developer set created_at = %s where created_at > now() - interval '1 hour'", to)
    books.rows("reset session_replication_role")


def as_jobs(dsn: str, work: Callable[[Tx], Awaitable[Got]], *, role: str = "faucet_jobs") -> Got:
    """What a sweep gives on a connection of the jobs', or something else on one of another door's."""

    async def run() -> Got:
        pool = await open_pool(dsn, role, size=1)
        try:
            async with pool.connection() as connection:
                return await work(connection)
        finally:
            await pool.close()

    return asyncio.run(run())


def close_all(dsn: str, *, signer: Signer = SIGNER) -> list[Month]:
    """Close every month that is over, as the clock would."""

    async def work(connection: Tx) -> list[Month]:
        closed: list[Month] = []
        while await ask_for_last_month(connection, now=datetime.now(UTC), grace=GRACE):
            closed += await close_periods(connection, signer, now=datetime.now(UTC))
        return closed

    return as_jobs(dsn, work)
