"""Whether payouts and the ledger agree: what is set apart, and what each payout has moved. For `reconciliation`."""

from __future__ import annotations

from typing import LiteralString

SET_APART: LiteralString = """
select 'payout_clearing' as check, 'developer ' || a.developer_id as subject,
       coalesce(p.total, 0)::bigint as expected, a.posted_e8 as actual
  from account a
  left join (select developer_id, sum(amount_e8) as total from payout
              where status in ('requested', 'approved', 'sent') group by developer_id) p
    on p.developer_id = a.developer_id
 where a.kind = 'payout_clearing' and a.posted_e8 <> coalesce(p.total, 0)
limit %(limit)s
"""
# One that failed was never paid, or was paid and returned.
MOVED: LiteralString = """
with moved as (
    select p.id, p.status, p.amount_e8, m.code,
           case when m.code = 40 or m.code = 41 and p.status = 'paid' or m.code = 42 and p.status = 'cancelled'
                  or p.status = 'failed' and (m.code = 42 and p.paid_at is null
                     or m.code in (41, 43) and p.paid_at is not null)
                then p.amount_e8 else 0 end as expected,
           coalesce((select sum(t.amount_e8) from transfer t where t.event_id = p.id and t.code = m.code), 0)::bigint
               as actual
      from payout p cross join (values (40), (41), (42), (43)) as m (code)
)
select 'payout_moved_' || code as check, id || ' ' || status as subject, expected, actual
  from moved where expected <> actual
limit %(limit)s
"""
