"""What a developer has earned, what of it is on its way to the bank, and what is left. Amounts in e8."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from psycopg.rows import class_row

from faucet.kit.db import Tx


@dataclass(frozen=True, slots=True)
class Revenue:
    """A developer's earnings at one moment."""

    earnings_e8: int
    pending_payout_e8: int
    lifetime_e8: int
    """All that answers ever brought: shares of margins, and the cost of answers through the developer's own keys."""


async def developer_revenue(tx: Tx, developer_id: UUID) -> Revenue:
    """The figures of one developer, from the ledger; zeros for one without accounts."""
    async with tx.cursor(row_factory=class_row(Revenue)) as cursor:
        await cursor.execute(
            """
            with own as (
                select id, kind, posted_e8 from account
                 where developer_id = %s and kind in ('earnings', 'payout_clearing')
            )
            select coalesce((select sum(posted_e8) from own where kind = 'earnings'), 0)::bigint as earnings_e8,
                   coalesce((select sum(posted_e8) from own where kind = 'payout_clearing'), 0)::bigint
                       as pending_payout_e8,
                   coalesce((select sum(own.posted_e8
                                  + coalesce((select sum(t.amount_e8) from transfer t
                                               where t.debit_id = own.id and t.code >= 10), 0)
                                  - coalesce((select sum(t.amount_e8) from transfer t
                                               where t.credit_id = own.id and t.code >= 10), 0))
                               from own where kind = 'earnings'), 0)::bigint as lifetime_e8
            """,
            (developer_id,),
        )
        revenue = await cursor.fetchone()
    assert revenue is not None  # a row of aggregates is always there
    return revenue
