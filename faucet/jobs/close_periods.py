"""Close the months that were asked for: make them final, take their sums, write and sign their statements."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime, timedelta
from uuid import UUID

from psycopg.errors import LockNotAvailable

from faucet.closing import periods, statements
from faucet.closing.document import Signer
from faucet.closing.month import Month
from faucet.closing.statements import UsageLine
from faucet.kit.db import Tx
from faucet.kit.errors import InvariantBroken
from faucet.kit.log import logger
from faucet.reports import exports
from faucet.tenants import audit

ASKED_BY_THE_CLOCK = "clock"
_CLOSING = 7_219_015
"""The advisory lock of who closes months."""


async def ask_for_last_month(connection: Tx, *, now: datetime, grace: timedelta) -> Month | None:
    """Ask for the next month to be closed if it is over for so long; gives the month, if there was one."""
    async with connection.transaction():
        month = await periods.next_month(connection)
        if month is None or now < month.ends_at + grace:
            return None
        _, is_new = await periods.ask(connection, month, by=ASKED_BY_THE_CLOCK, now=now, grace=grace)
        if is_new:
            await audit.record(
                connection,
                actor_scope=ASKED_BY_THE_CLOCK,
                actor_id=None,
                action="period.close_asked",
                resource_type="period",
                resource_id=str(month),
                request_id=None,
            )
    return month


async def close_periods(connection: Tx, signer: Signer | None, *, now: datetime) -> list[Month]:
    """Close what was asked for, the oldest first, on a connection without an open tx; gives the months.

    Interrupted, it goes on where it was; while another process does it there is nothing to do. Raises InvariantBroken
    where a month doesn't add up; it stays open.
    """
    async with connection.transaction():
        months = await periods.open_work(connection)
    if not months or not await _alone(connection):
        return []
    try:
        return await _close_all(connection, signer, months, now=now)
    finally:
        await connection.execute("select pg_advisory_unlock(%s)", (_CLOSING,))
        await connection.commit()


async def _alone(connection: Tx) -> bool:
    """Whether no other process is closing months; until the lock is given back, none begins to."""
    async with connection.transaction():
        cursor = await connection.execute("select pg_try_advisory_lock(%s)", (_CLOSING,))
        row = await cursor.fetchone()
    return row is not None and bool(row[0])


async def _close_all(connection: Tx, signer: Signer | None, months: list[Month], *, now: datetime) -> list[Month]:
    closed = []
    for month in months:
        if signer is None:
            logger.error("periods.no_signing_key", month=str(month), setting="STATEMENT_SIGNING_KEY")
            break
        if not await _close(connection, signer, month, now=now):
            logger.warning("periods.busy", month=str(month))
            break
        closed.append(month)
    return closed


async def make_final(connection: Tx, until: datetime) -> bool:
    """Let nothing be booked any more before a moment. False where the database is too busy just now."""
    try:
        async with connection.transaction():
            await periods.finalize(connection, until)
    except LockNotAvailable:
        return False
    return True


async def _close(connection: Tx, signer: Signer, month: Month, *, now: datetime) -> bool:
    if not await make_final(connection, month.ends_at):
        return False
    async with connection.transaction():
        await statements.keep_key(connection, signer)
        await periods.sum_up(connection, month)
    async with connection.transaction():
        differing = await periods.differences(connection, month)
    if differing:
        for each in differing:
            logger.error("periods.differ", subject=each.subject, expected=each.expected, actual=each.actual)
        raise InvariantBroken(f"{len(differing)} accounts are not what {month} and the time after it make them")
    async with connection.transaction():
        developers = await statements.unwritten_developers(connection, month)
    for developer in developers:
        async with connection.transaction(), aclosing(_usage(connection, developer.id, month)) as usage:
            await statements.write_developer(connection, signer, month, developer, usage, now=now)
    while True:
        async with connection.transaction():
            if not await statements.write_end_users(connection, signer, month, now=now):
                break
    async with connection.transaction():
        written = await periods.mark_closed(connection, month, now=now)
    logger.info("periods.closed", month=str(month), statements=written)
    return True


async def _usage(connection: Tx, developer_id: UUID, month: Month) -> AsyncGenerator[list[UsageLine]]:
    """The developer's usage export of the month, line by line."""
    names = [column.name for column in exports.USAGE.columns]
    at, app, mode, cost, channel = (
        names.index(name)
        for name in ("created_at", "public_app_id", "route_mode", "upstream_cost_usd", "channel_revenue_usd")
    )
    found = exports.batches(
        connection, exports.USAGE, developer_id=developer_id, since=month.starts_at, until=month.ends_at
    )
    async with aclosing(found):
        async for rows in found:
            texts = exports.csv_lines(exports.USAGE, rows)
            yield [
                UsageLine(text, row[at], row[app], row[mode], row[cost], row[channel])
                for text, row in zip(texts, rows, strict=True)
            ]
