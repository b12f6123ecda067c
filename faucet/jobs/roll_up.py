"""Add up the hours that are over, so that reports over long times don't read every answer.

Once a day, an hour into it, all before the day is made final; the hours before that are added up, a day of them in
each tx. Whoever reads takes the rest from the answers themselves.
"""

from __future__ import annotations

from faucet.jobs.close_periods import make_final
from faucet.kit.db import Tx
from faucet.kit.log import logger

DAYS_MAX = 400
"""A sweep ends after so many days and leaves the rest to the next one."""


async def roll_up(connection: Tx) -> int:
    """How many days of hours were added up, on a connection without an open tx."""
    async with connection.transaction():
        cursor = await connection.execute(
            "select h.final_until, date_trunc('day', now() - interval '1 hour', 'UTC') from ledger_horizon h"
        )
        row = await cursor.fetchone()
    assert row is not None  # the horizon is one row, always
    final_until, day = row
    if final_until < day:
        if await make_final(connection, day):
            final_until = day
        else:
            logger.info("roll_up.busy")
    for days in range(DAYS_MAX):
        async with connection.transaction():
            cursor = await connection.execute("select usage_roll_up_v1(%s)", (final_until,))
            row = await cursor.fetchone()
        if row is None or row[0] is None:
            return days
    return DAYS_MAX
