"""Give back what nobody settled: holds whose lease ran out, because their gateway died."""

from __future__ import annotations

from dataclasses import dataclass

from faucet.kit.db import Tx
from faucet.kit.log import logger

BATCH = 500
BATCHES_MAX = 200
"""A sweep ends after so many and leaves the rest to the next one."""


@dataclass(frozen=True, slots=True)
class Expired:
    """How many holds a sweep gave back, and how much they held, in e8."""

    count: int = 0
    amount_e8: int = 0


async def expire_holds(connection: Tx, *, batch: int = BATCH) -> Expired:
    """Give back every hold that is overdue now, on a connection without an open tx."""
    swept = Expired()
    for _ in range(BATCHES_MAX):
        async with connection.transaction():
            cursor = await connection.execute("select id, amount_e8 from expire_holds_v1(%s)", (batch,))
            rows = await cursor.fetchall()
        swept = Expired(swept.count + len(rows), swept.amount_e8 + sum(row[1] for row in rows))
        if len(rows) < batch:
            break
    if swept.count:
        logger.warning("holds.expired", count=swept.count, amount_e8=swept.amount_e8)
    return swept
