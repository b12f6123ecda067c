"""Whether the books add up: balances against transfers, holds and counters against wallets, usage against money, what
is final against what it was made of, and all of it against what the processor told and what providers billed.

Every difference is a Finding; an empty list is the proof. All figures come from one snapshot, so traffic that goes on
meanwhile can't look like a difference. Not here: what is done about a finding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import LiteralString
from uuid import UUID

from psycopg.rows import class_row, scalar_row

from faucet.kit.db import Tx
from faucet.reports import payout_checks, promo_checks
from faucet.reports import reconciliation_closed as closed
from faucet.reports import reconciliation_processor as processor
from faucet.reports.finding import Finding
from faucet.reports.reconciliation_invoices import invoice_findings

FINDINGS_MAX = 200
"""Per check; more differences than that are one disaster."""
LEASE_GRACE_SECONDS = 30
TOLERANCE_BPS = 100
"""By how much an invoice may differ where nobody says otherwise."""
ALLOWANCE_DAYS = 2
"""What is left of a free quota goes back within an hour after its month; later, a sweep is missing."""
EDGE_HOURS = 2
"""A request that was held in one month and settled in the next counts in the first. No request lasts longer."""


@dataclass(frozen=True, slots=True)
class WalletLine:
    """A wallet's or a developer's balance beside the sum of its transfers, in e8."""

    wallet_id: UUID
    kind: str
    owner_id: UUID
    wallet_e8: int
    ledger_e8: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class WalletSummary:
    """How many wallets there are, and how many agree with their transfers."""

    wallet_count: int
    balanced_count: int


_ACCOUNT_BALANCES: LiteralString = """
with moved as materialized (select account_id, total from account_moved_v1('-infinity'))
select 'account_balance' as check, a.kind || ' ' || a.public_id as subject,
       coalesce(p.total, 0)::bigint as expected, a.posted_e8 as actual
  from account a
  left join moved p on p.account_id = a.id
 where a.posted_e8 <> coalesce(p.total, 0)
union all
select 'account_missing', coalesce('account ' || p.account_id, 'no account'), 0, p.total::bigint
  from moved p where not exists (select from account a where a.id = p.account_id)
limit %(limit)s
"""
_TRIAL_BALANCE: LiteralString = """
select 'trial_balance' as check, currency::text as subject, 0::bigint as expected, sum(posted_e8)::bigint as actual
  from account group by currency having sum(posted_e8) <> 0
limit %(limit)s
"""
_OVERDRAWN: LiteralString = """
select 'overdrawn' as check, kind || ' ' || public_id as subject, held_e8 as expected, posted_e8 as actual
  from account
 where (kind = 'wallet' and (held_e8 < 0 or posted_e8 < held_e8))
    or (kind in ('earnings', 'payout_clearing') and posted_e8 < 0)
limit %(limit)s
"""
_HELD: LiteralString = """
select 'held_balance' as check, a.kind || ' ' || a.public_id as subject,
       coalesce(h.total, 0)::bigint as expected, a.held_e8 as actual
  from account a
  left join (select wallet_id, sum(amount_e8) as total from hold group by wallet_id) h on h.wallet_id = a.id
 where a.held_e8 <> coalesce(h.total, 0)
limit %(limit)s
"""
_STALE_HOLDS: LiteralString = """
select 'stale_hold' as check, id::text as subject, %(grace)s::bigint as expected,
       extract(epoch from clock_timestamp() - lease_expires_at)::bigint as actual
  from hold where lease_expires_at < clock_timestamp() - make_interval(secs => %(grace)s)
limit %(limit)s
"""
# Which part of a usage event each code pays; `paid` is what the wallet gave, the rest was written off. An event that
# names its accounts has moved its parts; one that names none has rows.
_USAGE_TRANSFERS: LiteralString = """
with booked as (
    select event_id,
           sum(amount_e8) filter (where code in (1, 4)) as cost,
           sum(amount_e8) filter (where code in (2, 5)) as channel,
           sum(amount_e8) filter (where code in (3, 6)) as platform,
           sum(amount_e8) filter (where code <= 3) as paid,
           sum(amount_e8) filter (where code > 3) as write_off
      from transfer_row where code < 10 and event_id >= %(since)s group by event_id
), event as (
    select u.id, due, u.channel_e8, u.platform_e8, u.retail_e8, u.write_off_e8,
           case when u.cost_account is not null then due else 0 end as cost,
           case when u.earnings_account is not null then u.channel_e8 else 0 end as channel,
           case when u.revenue_account is not null then u.platform_e8 else 0 end as platform
      from usage_event u cross join lateral (select case when u.payer in (0, 1) then u.cost_e8 else 0 end as due) d
     where u.id >= %(since)s
)
select 'usage_' || p.part as check, e.id::text as subject, p.expected, p.actual::bigint as actual
  from event e
  left join booked b on b.event_id = e.id
  cross join lateral (values
      ('cost', e.due, e.cost + coalesce(b.cost, 0)),
      ('channel', e.channel_e8, e.channel + coalesce(b.channel, 0)),
      ('platform', e.platform_e8, e.platform + coalesce(b.platform, 0)),
      ('paid', e.retail_e8, e.cost + e.channel + e.platform + coalesce(b.paid, 0)),
      ('write_off', e.write_off_e8, coalesce(b.write_off, 0))
  ) p (part, expected, actual)
 where p.expected <> p.actual
   -- Most of them are whole: told by one look at each.
   and (b.event_id is not null or e.write_off_e8 <> 0 or e.retail_e8 <> e.cost + e.channel + e.platform
        or e.due <> e.cost or e.channel_e8 <> e.channel or e.platform_e8 <> e.platform)
union all
select 'usage_missing', b.event_id::text, 0, (coalesce(b.paid, 0) + coalesce(b.write_off, 0))::bigint
  from booked b where not exists (select from usage_event u where u.id = b.event_id)
union all
select 'usage_wallet', u.id::text, u.wallet_id, t.debit_id
  from usage_event u join transfer_row t on t.event_id = u.id and t.code <= 3
 where u.id >= %(since)s and t.debit_id <> u.wallet_id
limit %(limit)s
"""
# Who got it: accounts of the same developer, and of the provider that answered. Events of the same accounts are
# looked at once.
_USAGE_ACCOUNTS: LiteralString = """
with route as (
    select wallet_id, end_user_id, developer_id, provider, payer, cost_account, earnings_account, revenue_account
      from usage_event where cost_account is not null and id >= %(since)s group by 1, 2, 3, 4, 5, 6, 7, 8
), fault as materialized (
    select r.*, p.code, f.found
      from route r
      cross join lateral (values (1, case when r.payer in (0, 1) then r.cost_account end), (2, r.earnings_account),
          (3, r.revenue_account)) p (code, account_id)
      join account a on a.id = p.account_id
      join account w on w.id = r.wallet_id
      left join move m on m.code = p.code and m.debit_kind = w.kind and m.credit_kind = a.kind
      cross join lateral (values
          ('usage_account', a.developer_id is distinct from r.developer_id
              or (a.kind = 'provider_cost' and a.label <> r.provider)),
          ('unknown_move', m.code is null),
          ('usage_wallet', p.code = 2 and (w.developer_id is distinct from r.developer_id
              or w.owner_id is distinct from r.end_user_id))
      ) f (found, is_so)
     where f.is_so
)
select f.found as check, u.id || ' code ' || f.code as subject, u.retail_e8 as expected, 0::bigint as actual
  from fault f
  join usage_event u on u.wallet_id = f.wallet_id and u.provider = f.provider and u.payer = f.payer
   and u.cost_account = f.cost_account and u.earnings_account = f.earnings_account
   and u.revenue_account = f.revenue_account and u.developer_id = f.developer_id and u.end_user_id = f.end_user_id
 where u.id >= %(since)s
union all
select 'usage_account' as check, u.id || ' code ' || t.code as subject, t.amount_e8 as expected, 0::bigint as actual
  from transfer_row t
  join usage_event u on u.id = t.event_id
  join account a on a.id = t.credit_id
 where t.code < 10 and t.event_id >= %(since)s
   and (a.developer_id is distinct from u.developer_id or (a.kind = 'provider_cost' and a.label <> u.provider))
union all
select 'unknown_move', t.event_id || ' code ' || t.code, 0, t.amount_e8
  from transfer_row t join account d on d.id = t.debit_id join account c on c.id = t.credit_id
 where t.event_id >= %(since)s
   and not exists (select from move m where m.code = t.code and m.debit_kind = d.kind and m.credit_kind = c.kind)
limit %(limit)s
"""
# A request is in one state: held, settled, released or expired; expired and settled only when it was late.
_RESOLUTIONS: LiteralString = """
select 'settled_and_held' as check, u.id::text as subject, 0::bigint as expected, h.amount_e8 as actual
  from usage_event u join hold h on h.id = u.id
union all
select 'resolved_and_held', r.id::text, 0, h.amount_e8 from hold_resolution r join hold h on h.id = r.id
union all
select 'settled_and_' || r.state, r.id::text, 0, u.retail_e8
  from hold_resolution r join usage_event u on u.id = r.id
 where r.settled_late_at is null
union all
select 'late_without_usage', r.id::text, r.amount_e8, 0 from hold_resolution r
 where r.settled_late_at is not null and not exists (select from usage_event u where u.id = r.id)
limit %(limit)s
"""
_COUNTERS: LiteralString = """
with counter as (
    select c.id, c.spent_e8, c.held_e8, c.end_user_id, l.scope, l.scope_id, l.period,
           c.period_start::timestamp at time zone 'UTC' as starts,
           case l.period when 'month' then (c.period_start + interval '1 month') at time zone 'UTC'
               else 'infinity'::timestamptz end as ends,
           case l.period when 'month' then make_interval(hours => %(edge)s) else interval '0' end as edge
      from spend_counter c join spend_limit l on l.id = c.limit_id
), spent as (
    select c.id, coalesce(sum(u.retail_e8) filter (where u.created_at >= c.starts + c.edge and u.created_at < c.ends),
               0)::bigint as least,
           coalesce(sum(u.retail_e8), 0)::bigint as most
      from counter c
      left join usage_event u on u.created_at >= c.starts and u.created_at < c.ends + c.edge
       and c.scope_id = case c.scope when 'app' then u.app_id when 'end_user' then u.end_user_id
               when 'session' then u.session_id else u.feature_id end
       and (c.end_user_id is null or u.end_user_id = c.end_user_id)
     group by c.id
), held as (
    select k.counter, sum(h.amount_e8)::bigint as total
      from hold h cross join lateral unnest(h.counters) as k (counter) group by k.counter
)
select 'counter_spent' as check, c.scope || ' ' || c.scope_id as subject,
       case when c.spent_e8 < s.least then s.least else s.most end as expected, c.spent_e8 as actual
  from counter c join spent s on s.id = c.id where c.spent_e8 not between s.least and s.most
union all
select 'counter_held', c.scope || ' ' || c.scope_id, coalesce(h.total, 0), c.held_e8
  from counter c left join held h on h.counter = c.id where c.held_e8 <> coalesce(h.total, 0)
limit %(limit)s
"""
# What was set aside for a developer's free quotas in a month is what their allowances got; what a month left goes back.
_ALLOWANCES: LiteralString = """
with opened as (
    select a.id, a.public_id, a.developer_id, right(a.label, 7) as month, a.posted_e8, a.held_e8,
           coalesce((select sum(t.amount_e8) from transfer t where t.credit_id = a.id and t.code = 12), 0) as granted_e8
      from account a where a.label like 'free:%%'
), given as (
    select developer_id, month, sum(granted_e8)::bigint as total from opened group by 1, 2
)
select 'free_quota' as check, 'developer ' || coalesce(q.developer_id, g.developer_id) as subject,
       coalesce(g.total, 0) as expected, coalesce(q.granted_e8, 0) as actual
  from free_quota_month q
  full join given g on g.developer_id = q.developer_id and g.month = to_char(q.month, 'YYYY-MM')
 where coalesce(g.total, 0) <> coalesce(q.granted_e8, 0)
union all
select 'allowance_left', 'wallet ' || public_id, 0, posted_e8
  from opened
 where month < to_char((now() - make_interval(days => %(left_days)s)) at time zone 'UTC', 'YYYY-MM')
   and posted_e8 > 0 and held_e8 = 0
limit %(limit)s
"""
# Budgets of keys: a counter is the sum of what answers took and of what open holds reserve.
_BUDGETS: LiteralString = """
with taken as (
    select credential_id, sum(cost_e8)::bigint as spent from budget_charge group by credential_id
), reserved as (
    select credential_id, sum(held_e8)::bigint as held from budget_hold group by credential_id
)
select 'budget_spent' as check, 'credential ' || b.credential_id as subject, coalesce(t.spent, 0) as expected,
       b.spent_e8 as actual
  from credential_budget b left join taken t using (credential_id) where b.spent_e8 <> coalesce(t.spent, 0)
union all
select 'budget_held', 'credential ' || b.credential_id, coalesce(r.held, 0), b.held_e8
  from credential_budget b left join reserved r using (credential_id) where b.held_e8 <> coalesce(r.held, 0)
union all
select 'budget_without_hold', r.hold_id::text, 0, r.held_e8
  from budget_hold r where not exists (select from hold h where h.id = r.hold_id)
limit %(limit)s
"""
_CHECKS = (
    _ALLOWANCES,
    _ACCOUNT_BALANCES,
    _TRIAL_BALANCE,
    _OVERDRAWN,
    _HELD,
    _STALE_HOLDS,
    _USAGE_TRANSFERS,
    _USAGE_ACCOUNTS,
    _RESOLUTIONS,
    _COUNTERS,
    payout_checks.SET_APART,
    payout_checks.MOVED,
    promo_checks.COUNTED,
    promo_checks.GIVEN,
    *closed.CHECKS,
    *processor.CHECKS,
    _BUDGETS,
)
_BEGINNING = UUID(int=0)
_FIRST_DAY = datetime(2000, 1, 1, tzinfo=UTC)


async def begin_snapshot(tx: Tx) -> None:
    """Make all that this tx reads come from one moment. It must be the tx's first statement."""
    await tx.execute("set transaction isolation level repeatable read, read only")


async def reconcile(tx: Tx, *, since: datetime | None = None, tolerance_bps: int = TOLERANCE_BPS) -> list[Finding]:
    """Every difference in the books, in a tx that `begin_snapshot` began.

    With `since`, usage, transfers, statements and invoices older than that are taken as compared before; balances,
    holds and counters are always compared whole.
    """
    await _require_snapshot(tx)
    values: Mapping[str, object] = {
        "limit": FINDINGS_MAX,
        "grace": LEASE_GRACE_SECONDS,
        "edge": EDGE_HOURS,
        "left_days": ALLOWANCE_DAYS,
        "since": _BEGINNING if since is None else _first_id_of(since),
        "since_at": since or _FIRST_DAY,
        "hours": processor.EVENT_HOURS,
    }
    findings: list[Finding] = []
    async with tx.cursor(row_factory=class_row(Finding)) as cursor:
        for check in _CHECKS:
            await cursor.execute(check, values)
            findings += await cursor.fetchall()
    return findings + await invoice_findings(
        tx, since=since or _FIRST_DAY, tolerance_bps=tolerance_bps, limit=FINDINGS_MAX
    )


_WALLETS: LiteralString = """
select a.public_id as wallet_id, a.kind::text as kind, coalesce(a.owner_id, a.developer_id) as owner_id,
       a.posted_e8 as wallet_e8, coalesce(p.total, 0)::bigint as ledger_e8, a.updated_at
  from account a
  left join account_moved_v1('-infinity') p on p.account_id = a.id
 where a.kind in ('wallet', 'earnings')
"""


async def wallet_summary(tx: Tx) -> WalletSummary:
    """How many wallets and earnings agree with their transfers."""
    async with tx.cursor(row_factory=class_row(WalletSummary)) as cursor:
        await cursor.execute(
            "select count(*) as wallet_count, count(*) filter (where wallet_e8 = ledger_e8) as balanced_count from ("
            + _WALLETS
            + ") w"
        )
        summary = await cursor.fetchone()
    assert summary is not None  # an aggregate always has its one row
    return summary


async def wallet_lines(tx: Tx, *, limit: int) -> list[WalletLine]:
    """Wallets and earnings beside their transfers: those that differ first, then the newest."""
    async with tx.cursor(row_factory=class_row(WalletLine)) as cursor:
        await cursor.execute(
            "select wallet_id, kind, owner_id, wallet_e8, ledger_e8, updated_at from ("
            + _WALLETS
            + ") w order by wallet_e8 = ledger_e8, updated_at desc, wallet_id limit %s",
            (limit,),
        )
        return await cursor.fetchall()


async def _require_snapshot(tx: Tx) -> None:
    async with tx.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute("select current_setting('transaction_isolation')")
        level = await cursor.fetchone()
    if level not in ("repeatable read", "serializable"):
        raise ValueError("reconcile in a tx that begin_snapshot began")


def _first_id_of(moment: datetime) -> UUID:
    """The smallest UUIDv7 of a moment; ids of usage events and of their transfers sort by time."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)
