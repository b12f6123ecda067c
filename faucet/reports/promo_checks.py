"""Whether promo codes and the ledger agree: how often each was redeemed, and what it gave. For `reconciliation`."""

from __future__ import annotations

from typing import LiteralString

COUNTED: LiteralString = """
select 'promo_count' as check, 'promo code ' || p.id as subject, count(r.promo_code_id) as expected,
       p.redemptions::bigint as actual
  from promo_code p left join promo_redemption r on r.promo_code_id = p.id
 group by p.id having p.redemptions <> count(r.promo_code_id)
limit %(limit)s
"""
GIVEN: LiteralString = """
select 'promo_grant' as check, 'promo code ' || r.promo_code_id || ' end user ' || r.end_user_id as subject,
       r.amount_e8 as expected, coalesce(x.amount_e8, 0) as actual
  from promo_redemption r
  left join transfer x on x.key = 'promo:' || r.promo_code_id || ':' || r.end_user_id and x.code = 12
   and x.credit_id = r.wallet_id
 where r.created_at >= %(since_at)s and coalesce(x.amount_e8, 0) <> r.amount_e8
union all
select 'grant_promo', 'transfer ' || x.event_id, 0, x.amount_e8
  from transfer x
 where x.code = 12 and x.key like 'promo:%%' and x.created_at >= %(since_at)s
   and not exists (select from promo_redemption r
                    where x.key = 'promo:' || r.promo_code_id || ':' || r.end_user_id)
limit %(limit)s
"""
