"""What developers are told without anybody having done it: wallets that ran low, spend limits that were reached.

Each is a look at rows by the jobs, in one tx that also writes the events. Requests take no part in it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import LiteralString

from faucet.kit.db import Tx
from faucet.kit.money import to_wire
from faucet.webhooks.outbox import emit

BATCH = 500
FIRST_LOOK = timedelta(minutes=10)
OVERLAP = timedelta(seconds=30)
"""Looked at again each time: what was committed later than it began."""
WALLET_LOW = "wallet_low"

_REFILLED: LiteralString = """
delete from wallet_low l using account a join end_user u on u.id = a.owner_id join app p on p.id = u.app_id
 where a.id = l.wallet_id and a.posted_e8 >= coalesce(p.wallet_low_e8, %(default)s)
"""
# Only wallets that paid for something since the last look can have crossed the line; usage events know them by app.
# What there is of a free quota has a label, and is to run out.
_LOW: LiteralString = """
with wanted as (
    select distinct e.developer_id from webhook_endpoint e
     where e.status = 'active' and (e.event_types = '{}' or 'wallet.low' = any(e.event_types))
), spent as (
    select distinct u.wallet_id, p.public_app_id, coalesce(p.wallet_low_e8, %(default)s) as low_e8
      from wanted w join app p on p.developer_id = w.developer_id
      join usage_event u on u.app_id = p.id and u.created_at >= %(since)s and u.retail_e8 > 0
), low as (
    insert into wallet_low (wallet_id, developer_id)
    select a.id, a.developer_id from spent s join account a on a.id = s.wallet_id
     where a.label = '' and a.posted_e8 < s.low_e8
       and not exists (select from wallet_low l where l.wallet_id = a.id) limit %(batch)s
    on conflict (wallet_id) do nothing returning wallet_id
)
select a.developer_id, a.public_id, a.owner_id, a.posted_e8, s.public_app_id, s.low_e8
  from low join spent s on s.wallet_id = low.wallet_id join account a on a.id = low.wallet_id
"""


async def tell_low_wallets(tx: Tx, *, default_e8: int, batch: int = BATCH) -> int:
    """Tell of wallets that have fallen below their app's line, else `default_e8`, once for each time; gives how many.

    As many as `batch` means that there may be more. A wallet that was filled up and emptied again between two looks
    counts as one that stayed low.
    """
    # The lock makes looks of two processes follow each other; the mark of one is then the start of the next.
    await tx.execute("select pg_advisory_xact_lock(hashtextextended('sweep:' || %s, 0))", (WALLET_LOW,))
    await tx.execute(_REFILLED, {"default": default_e8})
    cursor = await tx.execute(
        "select coalesce((select seen_until from sweep_mark where sweep = %s) - %s, now() - %s), clock_timestamp()",
        (WALLET_LOW, OVERLAP, FIRST_LOOK),
    )
    row = await cursor.fetchone()
    assert row is not None
    since, until = row
    cursor = await tx.execute(_LOW, {"default": default_e8, "since": since, "batch": batch})
    rows = await cursor.fetchall()
    for developer_id, wallet_id, end_user_id, posted_e8, public_app_id, low_e8 in rows:
        await emit(
            tx,
            developer_id,
            "wallet.low",
            {
                "wallet_id": wallet_id,
                "end_user_id": end_user_id,
                "public_app_id": public_app_id,
                "balance_usd": to_wire(posted_e8),
                "threshold_usd": to_wire(low_e8),
            },
        )
    if len(rows) < batch:
        await tx.execute(
            "insert into sweep_mark (sweep, seen_until) values (%s, %s)"
            " on conflict (sweep) do update set seen_until = excluded.seen_until",
            (WALLET_LOW, until),
        )
    return len(rows)


_REACHED: LiteralString = """
with refused as (
    delete from limit_refusal where id in (
        select id from limit_refusal order by id limit %(batch)s)
    returning developer_id, app_id, feature_id, end_user_id, required_e8
), reached as (
    select distinct on (l.id, c.end_user_id) r.developer_id, r.end_user_id, p.public_app_id,
           f.feature_key, l.id, l.scope, l.period, l.limit_e8, c.spent_e8, c.period_start
      from refused r
      join spend_limit l on (l.scope, l.scope_id) in
           (('app', r.app_id), ('feature', r.feature_id), ('feature_end_user', r.feature_id),
            ('end_user', r.end_user_id))
      join spend_counter c on c.limit_id = l.id and c.period_start =
           case l.period when 'month' then date_trunc('month', now() at time zone 'UTC')::date else 'epoch'::date end
       and c.end_user_id is not distinct from case when l.scope = 'feature_end_user' then r.end_user_id end
      join app p on p.id = r.app_id left join feature f on f.id = r.feature_id
     where l.limit_e8 - c.spent_e8 < r.required_e8 order by l.id, c.end_user_id
)
select (select count(*) from refused), reached.* from (select) one left join reached on true
"""


async def tell_reached_limits(tx: Tx, *, batch: int = BATCH) -> int:
    """Tell of spend limits that have turned a request away, once per limit, period and amount of it; of one that holds
    for each end user of a feature by themselves, once for each of them.

    Gives how many refusals were looked at; as many as `batch` means that there may be more. The limits of single
    sessions are not told of: they are many, and end with their sessions.
    """
    cursor = await tx.execute(_REACHED, {"batch": batch})
    count = 0
    for (
        looked_at,
        developer_id,
        end_user_id,
        app,
        feature,
        limit_id,
        scope,
        period,
        limit_e8,
        spent_e8,
        start,
    ) in await cursor.fetchall():
        count = looked_at
        if developer_id is None:
            break  # refusals, but no limit that is really used up
        said = {
            "scope": scope,
            "public_app_id": app,
            "feature_key": feature if scope in ("feature", "feature_end_user") else None,
            "end_user_id": end_user_id if scope in ("end_user", "feature_end_user") else None,
            "period": period,
            "limit_usd": to_wire(limit_e8),
            "spent_usd": to_wire(spent_e8),
        }
        await emit(
            tx,
            developer_id,
            "usage.limit_reached",
            {name: value for name, value in said.items() if value is not None},
            key=f"limit:{limit_id}:{start}:{limit_e8}" + (f":{end_user_id}" if scope == "feature_end_user" else ""),
        )
    return count
