"""Our top-ups and payouts against what the processor told us, and against the ledger.

Every credited top-up has one event of Stripe's that says it was paid, and one transfer; every payout that was sent has
one transfer at Stripe. And the other way round: nothing was paid or transferred at Stripe in our name, and nothing was
booked, that no top-up or payout is about. What Stripe itself lists is compared by `transfer_findings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString, NamedTuple
from uuid import UUID

from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.reports.finding import Finding

CENT_E8 = 1_000_000
EVENT_HOURS = 24
"""An event may come so much later than what it tells of."""

# Payments that Stripe told us of. `json`, which unlike `jsonb` takes whatever is JSON.
_PAID: LiteralString = """
    told as (
        select e.id, e.type, e.outcome, e.received_at, convert_from(e.body, 'UTF8')::json #> '{data,object}' as about
          from stripe_event e
         where e.type in ('checkout.session.completed', 'checkout.session.async_payment_succeeded',
                          'payment_intent.succeeded')
           and e.account is null
           and e.received_at >= %(since_at)s::timestamptz - make_interval(hours => %(hours)s)
    ), paid as (
        select id, outcome, received_at, about ->> 'id' as object_id,
               about #>> '{metadata,top_up}' as mark,
               coalesce(about ->> 'payment_intent', about ->> 'id') as intent,
               coalesce(about ->> 'amount_total', about ->> 'amount_received', '0')::bigint * 1000000 as amount
          from told
         where type = 'payment_intent.succeeded' or about ->> 'payment_status' = 'paid'
    )
"""
_TOP_UP_EVENTS: LiteralString = (
    "with"
    + _PAID
    + """
select 'top_up_event' as check, 'top-up ' || t.id as subject, t.amount_e8 as expected,
       coalesce(sum(p.amount), 0)::bigint as actual
  from top_up t
  left join paid p on p.outcome = 'applied'
   and p.object_id = case t.kind when 'checkout' then t.checkout_session_id else t.payment_intent_id end
 where t.status = 'credited' and t.credited_at >= %(since_at)s
 group by t.id
having t.amount_e8 <> coalesce(sum(p.amount), 0)
   and (count(p.id) > 0 or t.credited_at < now() - make_interval(hours => %(hours)s))
limit %(limit)s
"""
)
# Money that is at Stripe for a top-up that was not credited, and did not go back.
_EVENT_TOP_UPS: LiteralString = (
    "with"
    + _PAID
    + """
select 'event_top_up' as check, 'event ' || p.id as subject, p.amount as expected, 0::bigint as actual
  from paid p
 where p.received_at >= %(since_at)s and p.outcome in ('applied', 'refused')
   and (p.outcome = 'applied' or p.mark is not null)
   and not exists (select from top_up t where t.status = 'credited' and t.checkout_session_id = p.object_id)
   and not exists (select from top_up t where t.status = 'credited' and t.payment_intent_id = p.object_id)
   and not exists (select from stripe_event r
                    where r.type in ('charge.refunded', 'refund.created') and r.received_at >= p.received_at
                      and convert_from(r.body, 'UTF8')::json #>> '{data,object,payment_intent}' = p.intent)
   and (p.object_id not like 'pi\\_%%' or p.mark is not null
        or exists (select from top_up t where t.payment_intent_id = p.object_id))
limit %(limit)s
"""
)
_TOP_UP_TRANSFERS: LiteralString = """
select 'top_up_transfer' as check, 'top-up ' || t.id as subject, t.amount_e8 as expected,
       coalesce(x.amount_e8, 0) as actual
  from top_up t left join transfer x on x.key = 'top-up:' || t.id and x.code = 10 and x.credit_id = t.wallet_id
 where t.status = 'credited' and t.credited_at >= %(since_at)s and coalesce(x.amount_e8, 0) <> t.amount_e8
union all
select 'transfer_top_up', 'transfer ' || x.event_id, 0, x.amount_e8
  from transfer x
 where x.code >= 10 and x.code = 10 and x.created_at >= %(since_at)s
   and not exists (select from top_up t where x.key = 'top-up:' || t.id and t.status = 'credited')
limit %(limit)s
"""
# What each payout has moved is compared by `payout_checks`; this is what no payout is about.
_PAYOUT_TRANSFERS: LiteralString = """
select 'transfer_payout' as check, 'transfer ' || x.event_id || ' code ' || x.code as subject, 0::bigint as expected,
       x.amount_e8 as actual
  from transfer x
 where x.code >= 10 and x.code between 40 and 43 and x.created_at >= %(since_at)s
   and not exists (select from payout o where o.id = x.event_id)
limit %(limit)s
"""
# Of several transfers at Stripe for one payout, the sum is another amount.
_PAYOUT_EVENTS: LiteralString = """
with told as (
    select distinct on (about ->> 'id') about ->> 'id' as name, about #>> '{metadata,payout_id}' as mark,
           (about ->> 'amount')::bigint * 1000000 as amount
      from (select convert_from(e.body, 'UTF8')::json #> '{data,object}' as about from stripe_event e
             where e.type = 'transfer.created' and e.account is null
               and e.received_at >= %(since_at)s::timestamptz - make_interval(hours => %(hours)s)) e
     order by about ->> 'id'
)
select 'payout_event' as check, 'payout ' || o.id as subject, o.amount_e8 as expected,
       coalesce(sum(t.amount), 0)::bigint as actual
  from payout o left join told t on t.mark = o.id::text
 where o.provider = 'stripe' and o.sent_at >= %(since_at)s
 group by o.id
having (o.status in ('sent', 'paid') or count(t.name) > 1) and o.amount_e8 <> coalesce(sum(t.amount), 0)
   and (count(t.name) > 0 or o.sent_at < now() - make_interval(hours => %(hours)s))
union all
select 'event_payout', 'transfer ' || t.name || ' at Stripe', t.amount, 0
  from told t
 where t.mark is not null and not exists (select from payout o where o.id::text = t.mark and o.sent_at is not null)
limit %(limit)s
"""
CHECKS = (_TOP_UP_EVENTS, _EVENT_TOP_UPS, _TOP_UP_TRANSFERS, _PAYOUT_TRANSFERS, _PAYOUT_EVENTS)


class Listed(NamedTuple):
    """A transfer that Stripe lists, with the payout of ours that it names."""

    name: str
    payout: str | None
    amount_cents: int
    is_reversed: bool


async def transfer_findings(tx: Tx, listed: Sequence[Listed], *, since: datetime, until: datetime) -> list[Finding]:
    """Payouts sent between two moments that are not one transfer of what Stripe lists, and the other way round.

    `listed` is what Stripe made from somewhat before to somewhat after that.
    """
    async with tx.cursor(row_factory=class_row(_Sent)) as cursor:
        await cursor.execute(
            """
            select id, status, amount_e8, sent_at >= %(since)s and sent_at < %(until)s as is_in,
                   provider_transfer_id is not null as is_made
              from payout where provider = 'stripe' and sent_at is not null
               and (sent_at >= %(since)s or id::text = any (%(named)s))
            """,
            {"since": since, "until": until, "named": [each.payout for each in listed if each.payout is not None]},
        )
        sent = {str(row.id): row for row in await cursor.fetchall()}
    sums: dict[str, int] = {}
    findings = []
    for each in listed:
        if each.payout is None:
            continue
        if each.payout not in sent:
            subject = f"transfer {each.name} at Stripe"
            findings.append(Finding("stripe_transfer", subject, each.amount_cents * CENT_E8, 0))
        if not each.is_reversed:
            sums[each.payout] = sums.get(each.payout, 0) + each.amount_cents * CENT_E8
    for name, payout in sent.items():
        # One that was sent and has no transfer yet may be in the middle of it.
        expected = payout.amount_e8 if payout.status in ("sent", "paid") and payout.is_made else 0
        actual = sums.get(name, 0)
        if actual != expected and (payout.is_in or actual > expected) and not (expected == 0 and payout.is_open):
            findings.append(Finding("stripe_payout", f"payout {name}", expected, actual))
    return findings


async def clearing_e8(tx: Tx) -> int:
    """What the ledger says is at Stripe, in e8: what came in and did not leave, a transfer of a payout under way
    counting as left."""
    cursor = await tx.execute(
        """
        select -coalesce(sum(posted_e8), 0)::bigint - (
                   select coalesce(sum(p.amount_e8), 0)::bigint from payout p
                    where p.provider = 'stripe' and p.status = 'sent' and p.provider_transfer_id is not null)
          from account where kind = 'stripe_clearing'
        """
    )
    row = await cursor.fetchone()
    return 0 if row is None else int(row[0])


class _Sent(NamedTuple):
    id: UUID
    status: str
    amount_e8: int
    is_in: bool
    is_made: bool

    @property
    def is_open(self) -> bool:
        """Whether the next step may be about to be noted."""
        return self.status == "sent"
