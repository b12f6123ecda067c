"""A database that has seen millions of requests: usage events with their transfers, and balances that add up.

Rows go in as the table owner, set by set, in the order of their ids, as they would have come from the ledger: the
indexes look as they would after months. `reconcile` finds nothing to say about the result.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from bench.ground import Database

BATCH = 500_000
BYTES_PER_EVENT = 600
SPARE_BYTES = 4_000_000_000
"""Write-ahead log, sorting, and what the run itself adds."""
DAYS = 90

# What one past request cost, by its number: 30 % of margin, of which 40 % to the developer, as in `ground`.
_EVENTS = """
insert into usage_event (id, created_at, developer_id, app_id, feature_id, end_user_id, session_id, wallet_id,
    held_e8, cost_e8, retail_e8, channel_e8, platform_e8, write_off_e8, price_id, input_tokens,
    cached_read_tokens, cached_write_tokens, output_tokens, reasoning_tokens, first_byte_ms, duration_ms, payer,
    usage_source, outcome, provider, model, cost_account, earnings_account, revenue_account)
select uuidv7(s.ago), now() + s.ago, u.developer_id, u.app_id, u.feature_id, u.user_id, u.session_id,
    u.wallet_id, 100000, s.cost, s.cost + s.margin, s.margin * 4000 / 10000,
    s.margin - s.margin * 4000 / 10000, 0, (select min(id) from price where model = 'mock-small'), 241, 0, 0,
    (s.i %% 400)::integer, 0, 210, 900, 0, 0, 0, 'mock', 'mock-small', d.cost, d.earnings, d.revenue
from (
    select i, cost, cost * 3000 / 10000 as margin, make_interval(secs => (i - %(rows)s) * %(step)s) as ago
    from (select i, 2000 + (i %% 97) * 40 as cost from generate_series(%(first)s::bigint, %(last)s::bigint) i) c
) s
join bench_wallet u on u.n = (s.i * 7919) %% (select count(*) from bench_wallet)
join bench_developer d using (developer_id)
order by s.i
"""
_PREPARE = (
    "create table bench_wallet as select u.n - 1 as n, u.user_id, u.session_id, u.developer_id, u.app_id,"
    " u.feature_id, w.id as wallet_id from bench_user u join account w on w.owner_id = u.user_id",
    "create unique index on bench_wallet (n)",
    "create table bench_developer as select d.id as developer_id,"
    " account_open_v1(gen_random_uuid(), 'provider_cost', d.id, null, 'mock') as cost,"
    " account_open_v1(gen_random_uuid(), 'earnings', d.id, null, '') as earnings,"
    " account_open_v1(gen_random_uuid(), 'platform_revenue', d.id, null, '') as revenue from developer d",
    "analyze bench_wallet, bench_developer",
)
# Each wallet was given what it spent, on top of what it has.
_BALANCES = (
    "create table bench_sum as select wallet_id, developer_id, sum(retail_e8)::bigint as retail,"
    " sum(cost_e8)::bigint as cost, sum(channel_e8)::bigint as channel, sum(platform_e8)::bigint as platform"
    " from usage_event group by grouping sets ((wallet_id), (developer_id))",
    "insert into transfer_row (event_id, code, debit_id, credit_id, amount_e8)"
    " select uuidv7(), 12, g.id, s.wallet_id, s.retail from bench_sum s cross join account g"
    " where g.kind = 'grants' and s.wallet_id is not null order by s.wallet_id",
    "update account a set posted_e8 = a.posted_e8 + s.amount from ("
    " select g.id, -sum(s.retail) as amount from bench_sum s cross join account g"
    " where g.kind = 'grants' and s.wallet_id is not null group by g.id"
    " union all select d.cost, s.cost from bench_sum s join bench_developer d using (developer_id)"
    " union all select d.earnings, s.channel from bench_sum s join bench_developer d using (developer_id)"
    " union all select d.revenue, s.platform from bench_sum s join bench_developer d using (developer_id)"
    ") s where a.id = s.id",
)


def require_space(folder: Path, rows: int) -> None:
    """Raises SystemExit where the disk has too little room."""
    free = shutil.disk_usage(folder).free
    needed = rows * BYTES_PER_EVENT + SPARE_BYTES
    if free < needed:
        raise SystemExit(
            f"{rows:,} usage events need about {needed / 1e9:.0f} GB in {folder}, and {free / 1e9:.0f} GB are free:"
            " name another disk with BENCH_DIR, or ask for fewer ROWS"
        )


def fill(database: Database, rows: int, say: Callable[[str], None]) -> None:
    """Give the database a past of so many usage events."""
    began = time.monotonic()
    step = DAYS * 86_400 / rows
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        for setting in ("synchronous_commit = off", "work_mem = '256MB'", "max_parallel_workers_per_gather = 0"):
            connection.execute(f"set {setting}".encode())
        for statement in _PREPARE:
            connection.execute(statement.encode())
        for first in range(1, rows + 1, BATCH):
            last = min(rows, first + BATCH - 1)
            connection.execute(
                _EVENTS.encode(), {"rows": rows + 3600 / step, "step": step, "first": first, "last": last}
            )
            say(f"{last:,} of {rows:,} usage events after {time.monotonic() - began:.0f} s")
        with connection.transaction():
            for statement in _BALANCES:
                connection.execute(statement.encode())
        # A database of this age has been vacuumed long ago; its first vacuum is not what is measured.
        connection.execute("vacuum (freeze, analyze)")
        connection.execute("checkpoint")
        size = connection.execute("select pg_database_size(current_database())").fetchone()
    assert size is not None
    say(f"filled in {time.monotonic() - began:.0f} s: {size[0] / 1e9:.1f} GB")
