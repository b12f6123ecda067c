"""Give back what is left of free quotas whose month is over, to where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

from faucet.kit.db import Tx
from faucet.kit.errors import Refusal
from faucet.kit.log import logger
from faucet.ledger import moves
from faucet.terms import AccountId

BATCH = 500
BATCHES_MAX = 200
"""A sweep ends after so many and leaves the rest to the next one."""

# One that is held still pays for a request that began in its month; it is looked at again.
_OVER: LiteralString = """
select id, posted_e8 from account
 where label like 'free:%%' and right(label, 7) < to_char(now() at time zone 'UTC', 'YYYY-MM')
   and kind = 'wallet' and posted_e8 > 0 and held_e8 = 0 and id > %s
 order by id limit %s
"""


@dataclass(frozen=True, slots=True)
class Returned:
    """How many allowances were given back, and how much was left of them, in e8."""

    count: int = 0
    amount_e8: int = 0


async def return_allowances(connection: Tx, *, batch: int = BATCH) -> Returned:
    """Give back what is left of every allowance whose month is over, on a connection without an open tx."""
    count = amount_e8 = after = 0
    for _ in range(BATCHES_MAX):
        async with connection.transaction():
            cursor = await connection.execute(_OVER, (after, batch))
            rows = await cursor.fetchall()
        for account, left_e8 in rows:
            after = account
            try:
                async with connection.transaction():
                    await moves.return_allowance(connection, AccountId(account), left_e8)
            except Refusal:
                continue  # another sweep was faster, or a late settlement
            count += 1
            amount_e8 += left_e8
        if len(rows) < batch:
            break
    if count:
        logger.info("allowances.returned", count=count, amount_e8=amount_e8)
    return Returned(count, amount_e8)
