"""Whether what is final still is what it was made of: hours that were added up, and months that were closed."""

from __future__ import annotations

from typing import LiteralString

# Hours against their events. Whole days, since that is how they are added up.
_HOURS: LiteralString = """
with bound as (
    select greatest(date_trunc('day', %(since_at)s::timestamptz, 'UTC'), '2000-01-01 00:00:00+00') as lower,
           rolled_until as upper
      from usage_rolled
), kept as (
    select app_id, date_trunc('day', hour, 'UTC') as day, sum(calls) as calls, sum(retail_e8) as retail,
           sum(cost_e8) as cost, sum(channel_e8) as channel, sum(platform_e8) as platform
      from usage_hour where hour >= (select lower from bound) and hour < (select upper from bound) group by 1, 2
), found as (
    select app_id, date_trunc('day', created_at, 'UTC') as day, count(*) as calls, sum(retail_e8) as retail,
           sum(cost_e8) as cost, sum(channel_e8) as channel, sum(platform_e8) as platform
      from usage_event where created_at >= (select lower from bound) and created_at < (select upper from bound)
     group by 1, 2
)
select 'hours_' || p.part as check, 'app ' || app_id || ' on ' || (day at time zone 'UTC')::date as subject,
       coalesce(p.found, 0)::bigint as expected, coalesce(p.kept, 0)::bigint as actual
  from kept full join found using (app_id, day)
  cross join lateral (values
      ('calls', kept.calls, found.calls), ('retail', kept.retail, found.retail), ('cost', kept.cost, found.cost),
      ('channel', kept.channel, found.channel), ('platform', kept.platform, found.platform)
  ) p (part, kept, found)
 where coalesce(p.kept, 0) <> coalesce(p.found, 0)
limit %(limit)s
"""
# The sums of closed months and what came after them are the balance, so nothing was added to a month or taken away.
_MONTHS: LiteralString = """
with last as (
    select max(month) as month from period where summed_at is not null
), later as (
    select p.account_id, p.total
      from last cross join lateral account_moved_v1((last.month + interval '1 month') at time zone 'UTC') p
     where last.month is not null
), closed as (
    select account_id, sum(amount_e8) as total from period_sum group by 1
)
select 'closed_month' as check, a.kind || ' ' || a.public_id || ' up to ' || to_char(last.month, 'YYYY-MM') as subject,
       (coalesce(c.total, 0) + coalesce(l.total, 0))::bigint as expected, a.posted_e8 as actual
  from last
  join account a on a.kind in ('wallet', 'earnings', 'payout_clearing')
  left join closed c on c.account_id = a.id
  left join later l on l.account_id = a.id
 where last.month is not null and a.posted_e8 <> coalesce(c.total, 0) + coalesce(l.total, 0)
limit %(limit)s
"""
# What a statement's text says, against the sums that it was made of.
_STATEMENTS: LiteralString = """
with said as (
    select s.month, s.developer_id, s.end_user_id, (s.body::jsonb ->> 'closing_usd') as closing from statement s
     where s.created_at >= %(since_at)s::timestamptz
), summed as (
    select t.month, t.developer_id, t.end_user_id, t.closing,
           (select coalesce(sum(p.amount_e8), 0) from account a join period_sum p on p.account_id = a.id
             where a.developer_id = t.developer_id and p.month <= t.month
               and (a.owner_id = t.end_user_id and a.kind = 'wallet' and a.label = ''
                    or t.end_user_id is null and a.kind in ('earnings', 'payout_clearing')))::bigint as total
      from said t
)
select 'statement' as check,
       coalesce('end user ' || end_user_id, 'developer ' || developer_id) || ' of ' || to_char(month, 'YYYY-MM')
           as subject,
       total as expected, replace(closing, '.', '')::bigint as actual
  from summed where replace(closing, '.', '')::bigint <> total
limit %(limit)s
"""
CHECKS = (_HOURS, _MONTHS, _STATEMENTS)
