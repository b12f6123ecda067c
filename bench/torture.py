"""Torture: a whole system under a crowd of clients and a cashier, killed again and again; then the books.

    python -m bench.torture --seconds 120 [--seed N] [--gateways 2] [--clients 200] [--data DIR]

Real gateways, an API, jobs and a PostgreSQL; clients ask, and people pay in, are refunded, deny payments, are paid out
and close months, against the Stripe double whose webhooks come late, twice and in disorder. When it is over, everything
is started once more, leases pass, spools drain, all post comes; then nothing may be left: no overdraft, nothing
unbalanced, no full answer unbilled, nothing billed twice, no hold after its lease, no top-up, refund or payout that
Stripe knows otherwise, not a cent between Stripe's balance and the ledger's. It ends with a table
of these figures, and with 1 if one of them is not zero or if too little was done to mean anything; then the data dir
and the logs stay. The seed decides what clients ask and when blows fall, not how processes race.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psycopg

from bench import torture_checks as checks
from bench import torture_money_checks as money
from bench.torture_clients import Plan
from bench.torture_killer import Killer, Office
from bench.torture_money import Cashier
from bench.torture_stage import FIRST_CREDIT_E8, LEASE_SECONDS, Stage, serves

REQUESTS_PER_SECOND = 166
KILLS_PER_SECOND = 1 / 6
"""A run with less than this proves too little."""
MONEY_PER_SECOND = {
    "top-ups credited": 1 / 3,
    "refunds booked": 1 / 20,
    "disputes booked": 1 / 30,
    "reversals with a write-off": 1 / 60,
    "payouts": 1 / 10,
    "webhooks taken": 1.0,
}
OFFICE_KILLS_PER_SECOND = 1 / 30
"""Of the API, and of jobs."""
MONTHS_FROM_SECONDS = 60
"""A shorter run closes no months, for which it would wait at its end."""
REST_SECONDS = 180
"""How long the end may take until everything is settled or given back."""
PATIENCE_SECONDS = 25
"""After so long without rest, it becomes so much later for the jobs:"""
PASSING_SECONDS = 1_800


class TooLittle(Exception):
    """The run was not a torture."""


def run(options: argparse.Namespace, folder: Path) -> checks.Verdict:
    """Torture for so many seconds, let everything come to rest, and compare. Raises TooLittle."""
    wallets, has_months = max(8, options.clients // 10), options.seconds >= MONTHS_FROM_SECONDS
    with Stage(folder, gateways=options.gateways, wallets=wallets, has_months=has_months) as stage:
        seed = options.seed
        killer, office, cashier = Killer(stage, seed), Office(stage, seed), Cashier(stage, seed)
        for end_user in stage.end_users:
            office.grant(end_user.wallet, FIRST_CREDIT_E8)
        office.pay_out()
        crowd = _start_crowd(stage, options)
        office.start()
        cashier.start()
        killer.start()
        try:
            _wait(crowd, options.seconds)
        finally:
            killer.close()
            told, _ = crowd.communicate(timeout=60)
            cashier.close()
            office.close()
        began = time.monotonic()
        _come_to_rest(stage, office, cashier, options.seed)
        rest = round(time.monotonic() - began)
        verdict = checks.Verdict()
        checks.check_log(folder / "database" / "postgres.log", verdict)
        with psycopg.connect(stage.dsn, autocommit=True) as connection:
            checks.check_books(connection, verdict)
            checks.check_grants(connection, office.granted_e8, 0, verdict)
            checks.check_record(connection, checks.read_record(folder / "record.jsonl"), verdict)
            money.check_money(connection, stage, cashier, verdict)
            money.check_months(connection, verdict)
        asyncio.run(checks.check_reconcile(stage.dsn, verdict))
        money.check_reconcile_command(stage, verdict)
        verdict.figures["seconds until all was at rest"] = rest
        _tell(options, stage, killer, [office.counts, cashier.counts, Counter(msgspec.json.decode(told))], verdict)
        _check_size(options, killer, stage, verdict)
        return verdict


def _start_crowd(stage: Stage, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    plan = Plan(
        host="127.0.0.1",
        port=stage.port,
        bearers=[end_user.bearer for end_user in [*stage.end_users, *stage.payers]],
        clients=options.clients,
        seed=options.seed,
        record=str(stage.folder / "record.jsonl"),
    )
    crowd = stage.start([sys.executable, "-m", "bench.torture_clients"], "clients", piped=True)
    assert crowd.stdin is not None
    crowd.stdin.write(msgspec.json.encode(plan) + b"\n")
    crowd.stdin.flush()
    return crowd


def _wait(crowd: subprocess.Popen[bytes], seconds: int) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if crowd.poll() is not None:
            raise RuntimeError("the clients ended by themselves: see clients.log")
        time.sleep(min(left, 0.5))


def _come_to_rest(stage: Stage, office: Office, cashier: Cashier, seed: int) -> None:
    """Start everything once more and wait until nothing is under way. What is left then is for the checks to find."""
    stage.postgres.ensure()
    for kept in (*stage.gateways, stage.api):
        assert kept is not None
        kept.kill()
    ahead_seconds = money.AHEAD_SECONDS
    stage.start_jobs(ahead_seconds=ahead_seconds)
    began = time.monotonic()
    deadline, patience_ends = began + REST_SECONDS, began + PATIENCE_SECONDS
    leases_over = time.monotonic() + LEASE_SECONDS + 1
    has_post = True
    while time.monotonic() < deadline:
        time.sleep(0.5)
        if time.monotonic() > patience_ends:
            # Something failed once more and is left alone for some minutes: they pass.
            ahead_seconds += PASSING_SECONDS
            stage.start_jobs(ahead_seconds=ahead_seconds)
            patience_ends = time.monotonic() + PATIENCE_SECONDS
        try:
            office.sweep()
            if time.monotonic() < leases_over or not serves(stage.port) or not serves(stage.api_port):
                continue
            if has_post:
                has_post = not money.bring_all_post(cashier.double, seed)
            elif _is_at_rest(stage, office, cashier):
                return
        except psycopg.Error:
            office.forget_connection()
        except ConnectionError:
            continue


def _is_at_rest(stage: Stage, office: Office, cashier: Cashier) -> bool:
    if money.let_banks_decide(cashier.double, cashier.accounts) or not money.wait_idle(cashier.double):
        return False
    with psycopg.connect(stage.dsn, autocommit=True) as connection:
        return not money.under_way(connection) and not stage.spooled() and not office.sweep()


def _check_size(options: argparse.Namespace, killer: Killer, stage: Stage, verdict: checks.Verdict) -> None:
    """Raises TooLittle where the figures are too small for the time, or are not those of a whole system."""
    requests, served = verdict.figures["requests"], verdict.figures["served"]
    faults = []
    if requests < options.seconds * options.least_requests:
        faults.append(f"{requests} requests in {options.seconds} s")
    if killer.kills < int(options.seconds * KILLS_PER_SECOND):
        faults.append(f"{killer.kills} kills in {options.seconds} s")
    if served < requests / 10 or verdict.figures["refused 402"] < requests / 50:
        faults.append(f"only {served} served and {verdict.figures['refused 402']} refused of {requests}")
    for what, least in MONEY_PER_SECOND.items():
        if verdict.figures[what] < int(options.seconds * least * options.least_money):
            faults.append(f"only {verdict.figures[what]} {what}")
    for kind in ("api", "jobs"):
        blows = killer.blows[f"{kind} killed"] + killer.blows["api and jobs killed"]
        if blows < int(options.seconds * OFFICE_KILLS_PER_SECOND):
            faults.append(f"{kind} killed only {blows} times")
    if stage.has_months and not verdict.figures["months closed"]:
        faults.append("no month was closed")
    for kept in stage.kept:
        if kept.crashes:
            faults.append(f"{kept.crashes} times {kept.name} ended by itself while it served")
    if stage.spooled():
        faults.append(f"{stage.spooled()} bytes of settlements are still in a spool")
    if faults:
        raise TooLittle("; ".join(faults))


def _tell(
    options: argparse.Namespace,
    stage: Stage,
    killer: Killer,
    counts: Sequence[Counter[str]],
    verdict: checks.Verdict,
) -> None:
    office, cashier, crowd = counts
    rows: list[tuple[str, object]] = [("seed", options.seed), ("seconds", options.seconds), ("kills", killer.kills)]
    rows += sorted(killer.blows.items())
    rows += [
        ("gateway starts", sum(gateway.starts for gateway in stage.gateways)),
        ("  given up for want of a database", sum(gateway.gave_up_starting for gateway in stage.gateways)),
        ("no connection", crowd["no connection"]),
        *sorted(office.items()),
        *sorted(cashier.items()),
        *((what, count) for what, count in sorted(_of_answers(verdict).items())),
        *((what, verdict.figures[what]) for what in money.FIGURES),
    ]
    for what, figure in rows:
        print(f"{what:<44} {figure:>12}")
    print("must be 0:")
    for what in checks.MUST_BE_ZERO:
        print(f"  {what:<42} {verdict.figures[what]:>12}")
        for example in verdict.examples.get(what, ()):
            print(f"      {example}")


def _of_answers(verdict: checks.Verdict) -> dict[str, int]:
    elsewhere = {*checks.MUST_BE_ZERO, *money.FIGURES}
    return {what: count for what, count in verdict.figures.items() if what not in elsewhere}


def main(arguments: list[str] | None = None) -> int:
    """The command line. 0: everything held."""
    parser = argparse.ArgumentParser(prog="bench.torture", description="Kill everything, then look at the books.")
    parser.add_argument(
        "--seconds", type=int, default=60, help="how long everything is killed; the end takes up to three minutes more"
    )
    parser.add_argument(
        "--seed", type=int, default=None, help="that of an earlier run: the same asks and blows, not the same races"
    )
    parser.add_argument("--gateways", type=int, default=2, help="processes that share one port")
    parser.add_argument("--clients", type=int, default=200, help="who ask at the same time")
    parser.add_argument("--data", type=Path, help="an empty folder; it is kept")
    parser.add_argument("--least-requests", type=int, default=REQUESTS_PER_SECOND, help="per second, or it fails")
    parser.add_argument("--least-money", type=float, default=1.0, help="so much of the usual, or it fails")
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = random.randrange(1 << 32)
    print(f"seed {options.seed}", flush=True)
    folder = options.data or Path(tempfile.mkdtemp(prefix="faucet-torture-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # as root, PostgreSQL runs as another account, which has to pass through
    good = False
    try:
        verdict = run(options, folder)
        good = not verdict.faults
    except TooLittle as little:
        print(f"FAILED: {little}")
    finally:
        if good and options.data is None:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"data and logs: {folder}")
    print("everything held" if good else f"FAILED with seed {options.seed}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
