"""Months as rows: which is next, which are asked to be closed, and what closing makes final.

A month is asked for by an operator (or the clock) and closed by the jobs. From the moment that its horizon is set the
database lets nothing be booked into it; then its sums are taken, from which every statement of it is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import LiteralString

from psycopg.rows import class_row, scalar_row

from faucet.closing.month import Month, month_of
from faucet.kit.db import Tx
from faucet.kit.errors import Refusal, field_error


@dataclass(frozen=True, slots=True)
class Period:
    """A month that was asked to be closed."""

    month: date
    asked_by: str
    asked_at: datetime
    summed_at: datetime | None
    closed_at: datetime | None
    statements: int

    @property
    def status(self) -> str:
        """`closing`, then `closed`."""
        return "closing" if self.closed_at is None else "closed"


@dataclass(frozen=True, slots=True)
class SumDiffers:
    """An account whose closed months, with what came after, are not its balance. Amounts in e8."""

    subject: str
    expected: int
    actual: int


_PERIODS: LiteralString = "select month, asked_by, asked_at, summed_at, closed_at, statements from period"


async def find(tx: Tx, month: Month) -> Period | None:
    """The row of a month, if it was asked for."""
    async with tx.cursor(row_factory=class_row(Period)) as cursor:
        await cursor.execute(_PERIODS + " where month = %s", (month.first_day,))
        return await cursor.fetchone()


async def page(tx: Tx, *, limit: int, before: date | None) -> list[Period]:
    """Months that were asked for, the newest first."""
    async with tx.cursor(row_factory=class_row(Period)) as cursor:
        await cursor.execute(
            _PERIODS + " where %(before)s::date is null or month < %(before)s order by month desc limit %(limit)s",
            {"before": before, "limit": limit},
        )
        return await cursor.fetchall()


async def open_work(tx: Tx) -> list[Month]:
    """The months that are asked for and not closed, the oldest first."""
    cursor = await tx.execute("select month from period where closed_at is null order by month")
    return [month_of(row[0]) for row in await cursor.fetchall()]


async def next_month(tx: Tx) -> Month | None:
    """The month that can be asked for next: the one after the last, else that of the first transfer."""
    async with tx.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute("select max(month) from period")
        last: date | None = await cursor.fetchone()
        if last is not None:
            return month_of(last).next
        await cursor.execute("select ledger_begins_v1()")
        first: date | None = await cursor.fetchone()
    return None if first is None else month_of(first)


async def ask(tx: Tx, month: Month, *, by: str, now: datetime, grace: timedelta) -> tuple[Period, bool]:
    """Ask for a month to be closed; gives its row, and whether it was asked for only now.

    Raises Refusal `conflict` where the month is not over for so long, or another one comes before it.
    """
    found = await find(tx, month)
    if found is not None:
        return found, False
    if now < month.ends_at + grace:
        hours = int(grace.total_seconds()) // 3600
        raise Refusal("conflict", f"{month} can be closed {hours} hours after its end")
    following = await next_month(tx)
    if following is None:
        raise Refusal("conflict", "nothing was booked yet, so there is nothing to close")
    if month != following:
        raise Refusal("conflict", f"{following} is the next month to close")
    await tx.execute(
        "insert into period (month, asked_by, asked_at) values (%s, %s, %s) on conflict do nothing",
        (month.first_day, by, now),
    )
    made = await find(tx, month)
    if made is None:
        raise field_error("period", "could not be asked for")
    return made, True


async def finalize(tx: Tx, until: datetime) -> None:
    """Make everything before a moment final, in a tx that does nothing else.

    Raises psycopg's LockNotAvailable where the database is too busy for that just now.
    """
    await tx.execute("select ledger_finalize_v1(%s)", (until,))


async def sum_up(tx: Tx, month: Month) -> None:
    """Take the sums of a month that is final; once."""
    await tx.execute("select period_sum_v1(%s)", (month.first_day,))


async def differences(tx: Tx, month: Month) -> list[SumDiffers]:
    """Accounts that are not what the sums up to the end of a month and the transfers after it make them."""
    async with tx.cursor(row_factory=class_row(SumDiffers)) as cursor:
        await cursor.execute(
            """
            select a.kind || ' ' || a.public_id as subject,
                   (coalesce(s.total, 0) + coalesce(p.total, 0))::bigint as expected, a.posted_e8 as actual
              from account a
              left join (select account_id, sum(amount_e8) as total from period_sum where month <= %(month)s
                          group by account_id) s on s.account_id = a.id
              left join account_moved_v1(%(end)s) p on p.account_id = a.id
             where a.kind in ('wallet', 'earnings', 'payout_clearing')
               and a.posted_e8 <> coalesce(s.total, 0) + coalesce(p.total, 0)
             limit 100
            """,
            {"month": month.first_day, "end": month.ends_at},
        )
        return await cursor.fetchall()


async def mark_closed(tx: Tx, month: Month, *, now: datetime) -> int:
    """Say that all statements of a month are written; gives how many there are."""
    cursor = await tx.execute(
        """
        update period set closed_at = %(now)s, statements = (select count(*) from statement where month = %(month)s)
         where month = %(month)s and closed_at is null returning statements
        """,
        {"now": now, "month": month.first_day},
    )
    row = await cursor.fetchone()
    return 0 if row is None else int(row[0])
