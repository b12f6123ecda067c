"""Exports of any size: a month of answers, exported, added up and proved, and how much memory the API took for it.

    python -m tests.big_export [--events 1000000]

Fills a database of its own with answers of the month before last, starts the API as a process, and reads every
export from it. The sums of the columns must be the ledger's to the last digit, the signed statement must agree with
the export line by line, and the process must not grow by more than 100 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import httpx2
import psycopg
from books import Books, Tenant
from past import close_all, months_ago

from faucet.closing.document import Signed
from faucet.closing.verify import amount, prove_usage
from faucet.jobs.roll_up import roll_up
from faucet.kit.config import load_config
from faucet.kit.embedded_postgres import EmbeddedPostgres
from faucet.kit.migrate import migrate

GROWTH_MB_MAX = 100
BATCH = 250_000

# What an answer was, by its number: each payer in turn, half of them of a developer's second app; a thirtieth wrote
# something off: those have their transfers as rows.
_FILL = """
with item as materialized (
    select i, (i %% 4)::smallint as payer, 1000 + (i %% 977) * 13 as cost, 200 + (i %% 89) * 7 as channel,
           300 + (i %% 71) * 11 as platform, case i %% 30 when 0 then 100 else 0 end as write_off,
           %(from)s::timestamptz + i * %(step)s::interval as at, gen_random_uuid() as id
      from generate_series(%(first)s::bigint, %(last)s::bigint) i
), event as (
    insert into usage_event (id, created_at, developer_id, app_id, feature_id, end_user_id, session_id, wallet_id,
        held_e8, cost_e8, retail_e8, channel_e8, platform_e8, write_off_e8, price_id, input_tokens, cached_read_tokens,
        cached_write_tokens, output_tokens, reasoning_tokens, duration_ms, payer, usage_source, outcome, provider,
        model, request_id, cost_account, earnings_account, revenue_account)
    select id, at, %(developer)s, %(app)s, %(feature)s, %(end_user)s, %(session)s, %(wallet)s, 1000000, cost,
        channel + platform + case when payer < 2 then cost else 0 end - write_off, channel, platform, write_off, 1,
        (i %% 900)::integer, 0, 0, (i %% 300)::integer, 0, 10, payer, 0, 0,
        case i %% 50 when 0 then '=cmd|calc' else 'mock' end, 'mock-' || i %% 7,
        case i %% 40 when 0 then '-req-' || i end,
        case when write_off = 0 then case payer when 1 then %(earnings)s else %(cost)s end::bigint end,
        case when write_off = 0 then %(earnings)s end::bigint,
        case when write_off = 0 then %(revenue)s end::bigint
      from item
    returning id, created_at, payer, cost_e8, channel_e8, platform_e8, write_off_e8
)
insert into transfer_row (event_id, code, debit_id, credit_id, amount_e8, created_at)
select e.id, p.code, case when p.code < 4 then %(wallet)s else %(write_off)s end, p.credit, p.amount, e.created_at
  from event e cross join lateral (values
      (1, case e.payer when 1 then %(earnings)s else %(cost)s end::bigint,
          case when e.payer < 2 then e.cost_e8 else 0 end),
      (2, %(earnings)s::bigint, e.channel_e8),
      (3, %(revenue)s::bigint, e.platform_e8 - e.write_off_e8),
      (6, %(revenue)s::bigint, e.write_off_e8)
  ) p (code, credit, amount) where p.amount > 0 and e.write_off_e8 > 0
"""
_BALANCES = """
update account a set posted_e8 = coalesce((select sum(amount_e8) from posting p where p.account_id = a.id), 0)
"""
_LEDGER = """
select coalesce(sum(t.amount_e8) filter (where c.kind = 'provider_cost' or t.code in (1, 4)), 0)::bigint,
       coalesce(sum(t.amount_e8) filter (where d.kind = 'wallet'), 0)::bigint,
       coalesce(sum(t.amount_e8) filter (where c.kind = 'earnings' and t.code in (2, 5)), 0)::bigint,
       coalesce(sum(t.amount_e8) filter (where c.kind = 'platform_revenue'), 0)::bigint
  from transfer t join account d on d.id = t.debit_id join account c on c.id = t.credit_id where t.code < 10
"""
_MONEY = ("upstream_cost_usd", "retail_price_usd", "channel_revenue_usd", "platform_revenue_usd")


@dataclass(frozen=True)
class Totals:
    """What four columns of money, or the ledger, add up to, in e8."""

    rows: int
    cost_e8: int
    retail_e8: int
    channel_e8: int
    platform_e8: int


def fill(books: Books, events: int) -> list[Tenant]:
    """Give two developers a month of answers between them, oldest first."""
    tenants = [books.tenant(10**15) for _ in range(2)]
    tenants.append(books.end_user(tenants[0], 10**15))
    month = months_ago(2)
    step = (month.ends_at - month.starts_at) / (events + 1)
    books.rows("set session_replication_role = replica")
    for number, tenant in enumerate(tenants):
        for first in range(number * events // 3 + 1, (number + 1) * events // 3 + 1, BATCH):
            last = min(first + BATCH - 1, (number + 1) * events // 3)
            books.connection.execute(
                _FILL.encode(),
                {
                    "first": first, "last": last, "from": month.starts_at, "step": step,
                    "developer": tenant.developer, "app": tenant.app, "feature": tenant.feature,
                    "end_user": tenant.end_user, "session": tenant.session, "wallet": tenant.wallet,
                    "earnings": tenant.earnings, "revenue": tenant.revenue, "cost": tenant.cost,
                    "write_off": books.account("write_off"),
                },
            )  # fmt: skip
    books.rows("update transfer_row set created_at = %s where code = 12", month.starts_at)
    books.rows("update developer set created_at = %s", month.starts_at)
    books.rows(_BALANCES)
    books.rows("reset session_replication_role")
    books.rows("analyze usage_event, transfer_row")
    return tenants


def ledger(books: Books) -> Totals:
    """What the transfers of all answers add up to."""
    row = books.row(_LEDGER)
    assert row is not None
    return Totals(books.one("select count(*) from usage_event"), *row)


def added_up(lines: Iterable[str]) -> Totals:
    """What an export's columns add up to, as whoever gets it adds them."""
    rows, sums, places = 0, [0, 0, 0, 0], [0, 0, 0, 0]
    for number, line in enumerate(lines):
        cells = line.rstrip("\n").split(",")
        if number == 0:
            places = [cells.index(name) for name in _MONEY]
            continue
        rows += 1
        for at, place in enumerate(places):
            sums[at] += amount(cells[place])
    return Totals(rows, *sums)


def statement_of(books: Books, developer: Any) -> Signed:
    """A developer's statement of the month that was filled."""
    row = books.row(
        "select s.body, s.hash, s.signature, k.public_key from statement s join statement_key k using (key_id)"
        " where s.developer_id = %s and s.end_user_id is null and s.month = %s",
        developer,
        months_ago(2).first_day,
    )
    assert row is not None
    return Signed(row[0], bytes(row[1]), bytes(row[2]), bytes(row[3]))


# ── the command ──


def _memory_mb(pid: int, field: str) -> int:
    """A figure of the process's memory: VmRSS is now, VmHWM the most there was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) // 1024
    return 0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _download(base: str, path: str, bearer: str, to: Path) -> float:
    began = time.monotonic()
    headers = {"authorization": f"Bearer {bearer}"}
    with (
        httpx2.Client(timeout=httpx2.Timeout(600), headers=headers) as http,
        http.stream("GET", f"{base}{path}") as reply,
        to.open("wb") as file,
    ):
        assert reply.status_code == 200, reply.read()
        for part in reply.iter_bytes():
            file.write(part)
    return time.monotonic() - began


def _start(dsn: str, data: Path, port: int) -> subprocess.Popen[bytes]:
    env = {**os.environ, "DATABASE_URL": dsn, "FAUCET_DATA": str(data), "PORT_API": str(port)}
    process = subprocess.Popen([sys.executable, "-m", "faucet", "serve", "api"], env=env, stdin=subprocess.DEVNULL)
    with httpx2.Client() as http:
        while process.poll() is None:
            try:
                if http.get(f"http://127.0.0.1:{port}/ready").status_code == 200:
                    break
            except httpx2.HTTPError:
                time.sleep(0.05)
    return process


def run(events: int, folder: Path) -> bool:
    """Fill, export, compare; whether all was as it must be."""
    say = lambda text: print(text, flush=True)  # noqa: E731
    data = folder / "data"
    config = load_config({"FAUCET_DATA": str(data)})
    port = _free_port()
    base = f"http://127.0.0.1:{port}"
    with EmbeddedPostgres(folder / "database") as running, psycopg.connect(running.dsn, autocommit=True) as connection:
        migrate(running.dsn)
        books = Books(connection)
        began = time.monotonic()
        tenants = fill(books, events)
        say(f"{events:,} answers filled in {time.monotonic() - began:.0f} s")
        process = _start(running.dsn, data, port)
        try:
            operator = config.admin_token.reveal()
            before = _memory_mb(process.pid, "VmRSS")
            expected = ledger(books)
            good = True
            for name in ("usage", "revenue"):
                path = folder / f"{name}.csv"
                seconds = _download(base, f"/v1/admin/reports/{name}.csv", operator, path)
                with path.open() as lines:
                    found = added_up(lines)
                same = found == expected if name == "usage" else _sums(found) == _sums(expected)
                good &= same
                say(f"{name}.csv: {found.rows:,} lines, {path.stat().st_size / 1e6:.0f} MB, {seconds:.1f} s")
                say(f"  columns {_sums(found)} e8; ledger {_sums(expected)} e8: {'equal' if same else 'DIFFERENT'}")
            after = _memory_mb(process.pid, "VmHWM")
            good &= after - before <= GROWTH_MB_MAX
            say(f"memory of the API: {before} MB before, {after} MB at most: {after - before} MB more")
            seconds = _download(base, "/v1/admin/reports/usage.csv?format=parquet", operator, folder / "usage.parquet")
            parquet = _memory_mb(process.pid, "VmHWM")
            say(
                f"usage.parquet: {(folder / 'usage.parquet').stat().st_size / 1e6:.0f} MB, {seconds:.1f} s;"
                f" {parquet} MB at most"
            )
            good &= _proved(books, running.dsn, tenants[0], base, operator, folder, say)
        finally:
            process.terminate()
            process.wait(30)
    return good


def _sums(totals: Totals) -> tuple[int, ...]:
    return totals.cost_e8, totals.retail_e8, totals.channel_e8, totals.platform_e8


def _proved(books: Books, dsn: str, tenant: Tenant, base: str, operator: str, folder: Path, say: Any) -> bool:
    """Whether the month, closed, says what the developer's own export says."""
    began = time.monotonic()
    close_all(dsn)
    say(f"months closed in {time.monotonic() - began:.1f} s")
    headers = {"authorization": f"Bearer {operator}"}
    ask = {"developer_id": str(tenant.developer), "name": "T", "scopes": ["developer:usage:read"]}
    with httpx2.Client(base_url=base, headers=headers) as http:
        token = http.post("/v1/developer/tokens", json=ask).json()["token"]
    month = months_ago(2)
    path = folder / "own.csv"
    bounds = f"from={month.first_day}&to={month.next.first_day}"
    _download(base, f"/v1/developer/exports/usage.csv?{bounds}", token, path)
    signed = statement_of(books, tenant.developer)
    with path.open(newline="") as lines:
        say(f"statement of {signed.says['period']}: {prove_usage(signed.file, lines):,} lines of usage proved")
    asyncio.run(_roll_up(dsn))
    return True


async def _roll_up(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, options="-c role=faucet_jobs") as connection:
        await roll_up(connection)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faucet-export-") as name:
        os.chmod(name, 0o711)
        good = run(options.events, Path(name))
    print(json.dumps({"ok": good}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
