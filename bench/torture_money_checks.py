"""What must be true of money across the border after a torture: the ledger against the Stripe double's own record.

The double is asked over its API for all it has: payments, refunds, disputes, transfers, payouts to banks, and every
change of the platform's balance. Here too: when all that is at rest. Not here: the books against themselves and against
the clients (`torture_checks`).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from bench.torture_checks import Verdict
from bench.torture_money import Cashier, Double, Json, call
from bench.torture_stage import ROOT, Stage
from faucet.jobs.reconcile import reconcile_stripe
from faucet.kit.config import load_config
from faucet.payments.processor import line_of

CENT = 1_000_000
AHEAD_SECONDS = 7 * 3_600
"""So much later it is for the jobs when everything comes to rest: claims of the dead and pauses have run out."""
POST_CHUNK = 40

_UNDER_WAY = """
select 'event ' || id || ' ' || type || ': ' || reason from stripe_event where settled_at is null
union all select 'automatic top-up ' || id from top_up where kind = 'auto' and status = 'pending'
union all select 'refund ' || id from top_up_refund where status = 'requested'
union all select 'payout ' || id || ' ' || status || coalesce(': ' || last_error, '') from payout
 where status = 'sent' or (status = 'approved' and provider = 'stripe')
    or (status = 'paid' and stop_asked_at is not null and next_attempt_at is not null)  -- the bank gave it back
union all select 'fee of ' || id from top_up where status = 'credited' and fee_e8 is null
"""
_FACTS = {
    "top-ups credited": "select count(*) from top_up where status = 'credited'",
    "  automatic ones": "select count(*) from top_up where status = 'credited' and kind = 'auto'",
    "top-ups that failed": "select count(*) from top_up where status = 'failed'",
    "top-ups that expired": "select count(*) from top_up where status = 'expired'",
    "refunds booked": "select count(*) from top_up_reversal where kind = 'refund'",
    "disputes booked": "select count(*) from top_up_reversal where kind = 'dispute'",
    "  won": "select count(*) from top_up_reversal where kind = 'dispute' and state = 'returned'",
    "  lost": "select count(*) from top_up_reversal where kind = 'dispute' and state = 'lost'",
    "reversals with a write-off": "select count(*) from top_up_reversal where written_off_e8 > 0",
    "payouts": "select count(*) from payout",
    "  paid": "select count(*) from payout where status = 'paid'",
    "  failed": "select count(*) from payout where status = 'failed'",
    "  cancelled": "select count(*) from payout where status = 'cancelled'",
    "webhooks taken": "select count(*) from stripe_event",
    "months closed": "select count(*) from period where closed_at is not null",
    "statements": "select count(*) from statement",
}
FIGURES = (*_FACTS, "events of Stripe's", "Stripe's balance, cents")
"""In the order in which they are shown."""


@dataclass
class Record:
    """All that the double has."""

    sessions: list[Json] = field(default_factory=list)
    intents: list[Json] = field(default_factory=list)
    refunds: list[Json] = field(default_factory=list)
    disputes: list[Json] = field(default_factory=list)
    transfers: list[Json] = field(default_factory=list)
    banks: list[Json] = field(default_factory=list)
    movements: list[Json] = field(default_factory=list)


def record_of(double: Double, accounts: Iterable[str]) -> Record:
    """Ask for everything."""
    return Record(
        sessions=double.listed("checkout/sessions"),
        intents=double.listed("payment_intents"),
        refunds=double.listed("refunds"),
        disputes=double.listed("disputes"),
        transfers=double.listed("transfers"),
        banks=[row for account in accounts for row in double.listed("payouts", account=account)],
        movements=double.listed("balance_transactions"),
    )


# ── coming to rest ──


def bring_all_post(double: Double, seed: int) -> bool:
    """Bring every event there is once more, shuffled; whether all were taken."""
    status, page = _get(double, "events")
    names = [event["id"] for event in page.get("events", ())]
    random.Random(seed).shuffle(names)
    statuses: list[int] = []
    for first in range(0, len(names), POST_CHUNK):
        _, told = double.control("deliveries", events=names[first : first + POST_CHUNK])
        statuses += told.get("statuses", [0])
    return status == 200 and all(200 <= each < 300 for each in statuses)


def let_banks_decide(double: Double, accounts: Iterable[str]) -> int:
    """Payouts that are on their way arrive; how many there were."""
    found = [row for account in accounts for row in double.listed("payouts", account=account)]
    waiting = [row["id"] for row in found if row["status"] in ("pending", "in_transit")]
    for name in waiting:
        double.control("payouts", payout=name, status="paid")
    return len(waiting)


def under_way(connection: psycopg.Connection[Any]) -> list[str]:
    """What the jobs still have to do."""
    months = "select 'closing of ' || month from period where closed_at is null"
    return [row[0] for query in (_UNDER_WAY, months) for row in connection.execute(query.encode()).fetchall()]


def _get(double: Double, knob: str) -> tuple[int, Json]:
    return call(double.url, "GET", f"/_control/{knob}")


# ── the checks ──


def check_money(connection: psycopg.Connection[Any], stage: Stage, cashier: Cashier, verdict: Verdict) -> None:
    """Compare everything."""
    for what, query in _FACTS.items():
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
        verdict.figures[what] = row[0]
    for text in under_way(connection):
        verdict.wrong("left under way", text)
    for answer in cashier.wrong.answers:
        verdict.wrong("answers of the API that were wrong", answer)
    record = record_of(cashier.double, cashier.accounts)
    check_record_of_double(connection, record, verdict)
    verdict.figures["events of Stripe's"] = len(_get(cashier.double, "events")[1].get("events", ()))


def check_record_of_double(connection: psycopg.Connection[Any], record: Record, verdict: Verdict) -> None:
    """Compare the books with what the double has."""
    _check_top_ups(connection, record, verdict)
    _check_reversals(connection, record, verdict)
    _check_wallets(connection, record, verdict)
    _check_payouts(connection, record, verdict)
    _check_balance(connection, record, verdict)


def _check_top_ups(connection: psycopg.Connection[Any], record: Record, verdict: Verdict) -> None:
    """Every payment at Stripe was credited once, and nothing else was."""
    what = "top-ups lost or doubled"
    paid = {row["id"]: row["amount_received"] * CENT for row in record.intents if row["status"] == "succeeded"}
    of_session = {row["id"]: row["payment_intent"] for row in record.sessions if row["payment_status"] == "paid"}
    rows = connection.execute(
        "select t.id, t.checkout_session_id, t.payment_intent_id, t.amount_e8,"
        " (select coalesce(sum(x.amount_e8), 0)::bigint from transfer x where x.code = 10"
        "   and x.credit_id = t.wallet_id and x.key = 'top-up:' || t.id)"
        " from top_up t where t.status = 'credited'"
    ).fetchall()
    credited: Counter[str] = Counter()
    for name, session, intent, amount_e8, booked_e8 in rows:
        credited[intent] += 1
        if booked_e8 != amount_e8 or paid.get(intent) != amount_e8:
            verdict.wrong(what, f"{name}: {amount_e8} credited, {booked_e8} booked, {paid.get(intent)} paid")
        if session is not None and of_session.get(session) != intent:
            verdict.wrong(what, f"{name}: {session} was paid by {of_session.get(session)}, not {intent}")
    for intent in paid:
        if credited[intent] != 1:
            verdict.wrong(what, f"{intent} was paid and is credited {credited[intent]} times")
    total = connection.execute("select count(*) from transfer where code = 10").fetchone()
    if total != (len(rows),):
        verdict.wrong(what, f"{total} transfers for {len(rows)} top-ups")


def _check_reversals(connection: psycopg.Connection[Any], record: Record, verdict: Verdict) -> None:
    """Every refund and dispute at Stripe was booked once, with its amount and its end, and nothing else was."""
    ends = {"won": "returned", "lost": "lost"}
    there = {row["id"]: (row["amount"] * CENT, ends.get(row["status"], "gone")) for row in record.disputes}
    for row in record.refunds:
        there[row["id"]] = (row["amount"] * CENT, "returned" if row["status"] in ("failed", "canceled") else "gone")
    here = {
        name: (amount_e8, state)
        for name, amount_e8, state in connection.execute("select id, amount_e8, state from top_up_reversal").fetchall()
    }
    for name in there.keys() | here.keys():
        if there.get(name) != here.get(name):
            verdict.wrong(
                "refunds and disputes lost or doubled", f"{name}: {there.get(name)} there, {here.get(name)} here"
            )
    for (name,) in connection.execute(
        "select f.id from top_up_refund f join top_up_reversal r on r.id = f.reversal_id"
        " where r.amount_e8 <> f.amount_e8 or r.top_up_id <> f.top_up_id"
    ).fetchall():
        verdict.wrong("refunds and disputes lost or doubled", f"{name} was sent as something else")


def _check_wallets(connection: psycopg.Connection[Any], record: Record, verdict: Verdict) -> None:
    """Each wallet has what was paid in less what went back by Stripe's record, and what it lacks is written off."""
    wallet_of: dict[str, int] = dict(
        connection.execute(
            "select payment_intent_id, wallet_id from top_up where payment_intent_id is not null"
        ).fetchall()
    )
    gone: Counter[int] = Counter()
    paid: Counter[int] = Counter()
    for row in record.intents:
        if row["status"] == "succeeded" and row["id"] in wallet_of:
            paid[wallet_of[row["id"]]] += row["amount_received"] * CENT
    for row in [*record.refunds, *record.disputes]:
        if row["status"] not in ("failed", "canceled", "won") and row["payment_intent"] in wallet_of:
            gone[wallet_of[row["payment_intent"]]] += row["amount"] * CENT
    rows = connection.execute(
        """
        select a.id, a.posted_e8,
               coalesce((select sum(case when t.credit_id = a.id then t.amount_e8 else -t.amount_e8 end) from transfer t
                  where a.id in (t.debit_id, t.credit_id) and t.code not between 10 and 11
                    and t.code not between 20 and 25), 0)::bigint,
               coalesce((select sum(r.written_off_e8 - r.healed_e8) from top_up_reversal r
                  where r.wallet_id = a.id), 0)::bigint
          from account a where a.kind = 'wallet'
        """
    ).fetchall()
    for wallet, posted_e8, otherwise_e8, owed_e8 in rows:
        if posted_e8 != paid[wallet] - gone[wallet] + otherwise_e8 + owed_e8 or not 0 <= owed_e8 <= gone[wallet]:
            verdict.wrong(
                "wallets that lack what was paid in",
                f"{wallet}: {posted_e8} is not {paid[wallet]} - {gone[wallet]} + {otherwise_e8} + {owed_e8}",
            )


def _check_payouts(connection: psycopg.Connection[Any], record: Record, verdict: Verdict) -> None:
    """Every payout that is paid left once, with its amount; none that is not has left."""
    what = "payouts paid twice or lost"
    sent: defaultdict[str, list[Json]] = defaultdict(list)
    for row in record.transfers:
        sent[str(row["transfer_group"])].append(row)
    banked: defaultdict[str, list[Json]] = defaultdict(list)
    for row in record.banks:
        if row["status"] not in ("failed", "canceled"):
            banked[str(row["metadata"].get("payout_id"))].append(row)
    rows = connection.execute("select id::text, status, amount_e8, provider from payout").fetchall()
    for name, status, amount_e8, provider in rows:
        kept = [row for row in sent[name] if not row["reversed"]]
        if len(sent[name]) > 1 or len(banked[name]) > 1:
            verdict.wrong(what, f"{name}: {len(sent[name])} transfers, {len(banked[name])} to the bank")
        if any(row["amount"] * CENT != amount_e8 for row in sent[name] + banked[name]):
            verdict.wrong(what, f"{name}: another amount left")
        has_left = bool(kept) or bool(banked[name])
        if provider == "stripe" and status == "paid" and not (kept and banked[name]):
            verdict.wrong(what, f"{name}: paid, and it has not left")
        if (provider != "stripe" or status in ("requested", "approved", "failed", "cancelled")) and has_left:
            verdict.wrong(what, f"{name}: {status} by {provider}, and it has left")
    for name in (sent.keys() | banked.keys()) - {row[0] for row in rows}:
        verdict.wrong(what, f"{name}: it left for nobody")


def _check_balance(connection: psycopg.Connection[Any], record: Record, verdict: Verdict) -> None:
    """What Stripe has of ours is what the ledger says that it has, to the cent."""
    row = connection.execute("select -posted_e8 from account where kind = 'stripe_clearing'").fetchone()
    there, here = sum(each["net"] for each in record.movements) * CENT, row[0] if row else 0
    verdict.figures["Stripe's balance, cents"] = there // CENT
    if there != here:
        what = "cents that Stripe and the ledger differ by"
        verdict.wrong(what, f"Stripe has {there} e8 for us, the ledger says {here}")
        verdict.figures[what] = abs(there - here) // CENT or 1


def check_reconcile_command(stage: Stage, verdict: Verdict) -> None:
    """`faucet reconcile`, as an operator runs it, Stripe asked too; and as of later, when nothing is young."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **stage.office_settings}
    command = [sys.executable, "-m", "faucet", "reconcile", "--stripe-days", "2", "--json"]
    told = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    if told.returncode:
        for finding in _findings(told.stdout) or [told.stdout + told.stderr]:
            verdict.wrong("differences found by reconcile", str(finding))

    async def ask() -> list[Any]:
        line, now = line_of(load_config(stage.office_settings)), datetime.now(UTC)
        assert line is not None
        async with await psycopg.AsyncConnection.connect(stage.dsn, autocommit=True) as connection:
            later = now + timedelta(seconds=2 * AHEAD_SECONDS)
            return list(await reconcile_stripe(connection, line, since=now - timedelta(days=1), now=later))

    for finding in asyncio.run(ask()):
        verdict.wrong("differences found by reconcile", str(finding))


def _findings(said: str) -> list[Any]:
    try:
        found: list[Any] = json.loads(said)["findings"]
    except (ValueError, KeyError):
        return []
    return found


def check_months(connection: psycopg.Connection[Any], verdict: Verdict) -> None:
    """Months that were asked for are closed, in order, each with the statements of who had something booked in it."""
    rows = connection.execute(
        """
        select p.month from period p
         where p.closed_at is null or p.summed_at is null or p.statements = 0
            or p.statements <> (select count(*) from statement s where s.month = p.month)
        """
    ).fetchall()
    for (month,) in rows:
        verdict.wrong("months that were not closed", str(month))


def wait_idle(double: Double) -> bool:
    """Whether the double has nothing to bring any more."""
    return bool(double.control("idle", seconds=3)[1].get("idle"))
