"""What we booked as the cost of providers, against their invoices: per provider, day and model.

Only answers that the platform paid for are on its invoices, and only days that an invoice covers are compared.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import LiteralString

from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.reports.finding import Finding
from faucet.reports.spans import USAGE_SPAN

_COVERED: LiteralString = """
select min(first_day), max(last_day) from provider_invoice where withdrawn_at is null
   and last_day >= (%(since_at)s::timestamptz at time zone 'UTC')::date
"""
_DIFFERENCES: LiteralString = (
    "with"
    + USAGE_SPAN
    + """, covered as (
    select distinct i.provider, d::date as day
      from provider_invoice i cross join lateral generate_series(i.first_day, i.last_day, interval '1 day') d
     where i.withdrawn_at is null
), billed as (
    select i.provider, l.day, l.model, sum(l.amount_e8) as amount
      from provider_invoice i join provider_invoice_line l on l.invoice_id = i.id where i.withdrawn_at is null
     group by 1, 2, 3
), booked as (
    select s.provider, (s.hour at time zone 'UTC')::date as day, s.model, sum(s.cost_e8) as amount
      from span s where s.payer = 0 group by 1, 2, 3
)
select 'invoice' as check, c.provider || ' ' || x.model || ' on ' || c.day as subject,
       coalesce(x.booked, 0)::bigint as expected, coalesce(x.billed, 0)::bigint as actual
  from covered c
  join (select provider, day, model, b.amount as booked, i.amount as billed
          from booked b full join billed i using (provider, day, model)) x using (provider, day)
 where abs(coalesce(x.booked, 0) - coalesce(x.billed, 0)) * 10000
       > %(tolerance)s * greatest(coalesce(x.booked, 0), coalesce(x.billed, 0))
 order by c.day, c.provider, x.model
limit %(limit)s
"""
)


async def invoice_findings(tx: Tx, *, since: datetime, tolerance_bps: int, limit: int) -> list[Finding]:
    """Days and models of which an invoice differs from the books by more than the tolerance; of invoices that reach
    beyond `since`."""
    cursor = await tx.execute(_COVERED, {"since_at": since})
    row = await cursor.fetchone()
    first: date | None = None if row is None else row[0]
    if row is None or first is None:
        return []
    async with tx.cursor(row_factory=class_row(Finding)) as found:
        await found.execute(
            _DIFFERENCES,
            {
                "since": datetime(first.year, first.month, first.day, tzinfo=UTC),
                "until": datetime(row[1].year, row[1].month, row[1].day, tzinfo=UTC) + timedelta(days=1),
                "tolerance": tolerance_bps,
                "limit": limit,
            },
        )
        return await found.fetchall()
