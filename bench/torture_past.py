"""The months before a torture: answers and corrections that were booked in each, so that there is something to close.

Rows go in as the table owner, with balances that add up. Not here: who asks for a month to be closed
(`torture_money`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import psycopg

MONTHS = 24
PAST = "past-"
"""How the request ids of past answers begin: no client knows of them."""

_CORRECTIONS = """
insert into transfer_row (event_id, code, debit_id, credit_id, amount_e8, created_at)
select gen_random_uuid(), 30, (select id from account where kind = 'adjustments'), w, 30000, %(at)s
  from unnest(%(wallets)s::bigint[]) w
"""
_ANSWERS = """
with event as (
    insert into usage_event (id, created_at, developer_id, app_id, feature_id, end_user_id, session_id, wallet_id,
        held_e8, cost_e8, retail_e8, channel_e8, platform_e8, write_off_e8, price_id, input_tokens,
        cached_read_tokens, cached_write_tokens, output_tokens, reasoning_tokens, first_byte_ms, duration_ms, payer,
        usage_source, outcome, provider, model, request_id)
    select gen_random_uuid(), %(at)s::timestamptz + make_interval(secs => n), s.developer_id, s.app_id, s.feature_id,
        s.end_user_id, s.id, w.id, 5000, 1000 + n, 1300 + n, 120, 180, 0,
        (select min(id) from price where model = 'mock-small'), 241, 0, 0, 40, 0, 210, 900, 0, 0, 0, 'mock',
        'mock-small', %(past)s || extract(epoch from %(at)s::timestamptz)::bigint || '-' || w.id || '-' || n
      from unnest(%(wallets)s::bigint[]) i join account w on w.id = i
      join session s on s.end_user_id = w.owner_id cross join generate_series(1, 5) n
    returning id, created_at, developer_id, wallet_id, cost_e8, channel_e8, platform_e8
)
insert into transfer_row (event_id, code, debit_id, credit_id, amount_e8, created_at)
select e.id, p.code, e.wallet_id, account_open_v1(gen_random_uuid(), p.kind::account_kind, e.developer_id, null,
       p.label), p.amount, e.created_at
  from event e cross join lateral (values (1, 'provider_cost', 'mock', e.cost_e8), (2, 'earnings', '', e.channel_e8),
       (3, 'platform_revenue', '', e.platform_e8)) as p (code, kind, label, amount)
"""
_BALANCES = """
with side as (
    select debit_id as id, -amount_e8 as e8 from transfer union all select credit_id, amount_e8 from transfer
)
update account a set posted_e8 = s.e8 from (select id, sum(e8) as e8 from side group by id) s where a.id = s.id
"""


def live_through(dsn: str, wallets: Sequence[int]) -> None:
    """Let these wallets have been in use for some months, in a database in which nothing else was booked."""
    with psycopg.connect(dsn) as connection:
        first = datetime.now(UTC).replace(day=1)
        for _ in range(MONTHS):
            first = (first - timedelta(days=1)).replace(day=1)
            values = {"at": first + timedelta(days=9), "wallets": list(wallets), "past": PAST}
            connection.execute(_CORRECTIONS.encode(), values)
            connection.execute(_ANSWERS.encode(), values)
        connection.execute(_BALANCES.encode())
        connection.execute("update developer set created_at = %s", (first,))
