"""What must be true after a torture: the books against themselves, and against what the clients wrote down.

`reconcile` is asked, and everything that matters is worked out here a second time by other queries, so that one
wrong query can't hide a wrong ledger. Figures that must be zero have names that say what went wrong.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from bench.torture_clients import Try
from bench.torture_past import PAST
from faucet.reports.reconciliation import begin_snapshot, reconcile
from faucet.terms import Outcome

EXAMPLES_MAX = 5
MUST_BE_ZERO = (
    "overdrafts",
    "unbalanced",
    "full answers unbilled",
    "billed twice",
    "holds left after their lease",
    "refused but billed",
    "billed without a request",
    "price told is not what was booked",
    "kept replies that differ",
    "grants lost or doubled",
    "counters that disagree",
    "differences found by reconcile",
    "top-ups lost or doubled",
    "refunds and disputes lost or doubled",
    "wallets that lack what was paid in",
    "payouts paid twice or lost",
    "cents that Stripe and the ledger differ by",
    "answers of the API that were wrong",
    "left under way",
    "months that were not closed",
)


@dataclass
class Verdict:
    """The figures, and for those that must be zero a few examples."""

    figures: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def wrong(self, what: str, example: str) -> None:
        """Count one thing that must not be."""
        assert what in MUST_BE_ZERO, what
        self.figures[what] += 1
        if len(self.examples[what]) < EXAMPLES_MAX:
            self.examples[what].append(example)

    @property
    def faults(self) -> dict[str, int]:
        return {what: self.figures[what] for what in MUST_BE_ZERO if self.figures[what]}


@dataclass(frozen=True, slots=True)
class Event:
    """A usage event, as far as a client can know of it."""

    id: UUID
    request_id: str | None
    retail_e8: int
    write_off_e8: int
    outcome: int
    paid_e8: int
    """What its transfers took from the wallet."""


def read_record(path: Path) -> list[Try]:
    """All tries that clients wrote down."""
    decode = msgspec.json.Decoder(Try).decode
    with path.open("rb") as lines:
        return [decode(line) for line in lines]


# ── the books against themselves ──

_OVERDRAWN = """
select kind || ' ' || id from account
 where kind = 'wallet' and (posted_e8 < held_e8 or held_e8 < 0)
    or kind in ('earnings', 'payout_clearing') and posted_e8 < 0
"""
_UNBALANCED = """
with side as (
    select debit_id as id, -amount_e8 as e8 from transfer union all select credit_id, amount_e8 from transfer
), total as (select id, sum(e8) as e8 from side group by id)
select 'account ' || coalesce(a.id, t.id) || ': ' || coalesce(a.posted_e8, 0) || ' is not ' || coalesce(t.e8, 0)
  from account a full join total t on t.id = a.id where coalesce(a.posted_e8, 0) <> coalesce(t.e8, 0)
union all
select 'trial balance ' || sum(posted_e8) from account having sum(posted_e8) <> 0
union all
select 'answer ' || u.id || ' has parts that do not make the whole' from usage_event u
 where u.retail_e8 + u.write_off_e8 <> (select coalesce(sum(amount_e8), 0) from transfer t where t.event_id = u.id)
    or u.retail_e8 <> (select coalesce(sum(amount_e8), 0) from transfer t where t.event_id = u.id
        and t.debit_id = u.wallet_id)
union all
select 'transfer of nothing ' || t.event_id from transfer t
 where t.code < 10 and not exists (select from usage_event u where u.id = t.event_id)
"""
_HELD = """
select 'hold ' || id from hold
union all select 'account ' || id || ' holds ' || held_e8 from account where held_e8 <> 0
union all select 'counter ' || id || ' holds ' || held_e8 from spend_counter where held_e8 <> 0
"""
_TWO_ENDS = """
select 'answer ' || u.id || ' was ' || r.state || ' too' from usage_event u join hold_resolution r on r.id = u.id
 where r.settled_late_at is null
"""
_COUNTERS = """
select l.scope || ' ' || l.period || ': ' || c.spent_e8 || ' is not ' || coalesce(s.e8, 0)
  from spend_counter c join spend_limit l on l.id = c.limit_id
  cross join lateral (select sum(u.retail_e8) as e8 from usage_event u
     where l.scope_id in (u.app_id, u.end_user_id, u.session_id)
       and (l.period = 'total' or date_trunc('month', u.created_at at time zone 'UTC') = c.period_start)) s
 where c.spent_e8 <> coalesce(s.e8, 0)
"""
_EVENTS = """
select u.id, u.request_id, u.retail_e8, u.write_off_e8, u.outcome,
       (select coalesce(sum(t.amount_e8), 0)::bigint from transfer t
         where t.event_id = u.id and t.debit_id = u.wallet_id)
  from usage_event u where u.request_id is null or u.request_id not like %s
"""
_FACTS = {
    "settled": "select count(*) from usage_event",
    "settled late": "select count(*) from hold_resolution where settled_late_at is not null",
    "released": "select count(*) from hold_resolution where state = 'released'",
    "expired": "select count(*) from hold_resolution where state = 'expired'",
    "written off": "select count(*) from usage_event where write_off_e8 > 0",
    "cut short and billed": "select count(*) from usage_event where outcome <> 0",
    "wallets at the end, e8": "select coalesce(sum(posted_e8), 0)::bigint from account where kind = 'wallet'",
}


def check_books(connection: psycopg.Connection, verdict: Verdict) -> None:
    """Compare the books with themselves."""
    for what, query in (
        ("overdrafts", _OVERDRAWN),
        ("unbalanced", _UNBALANCED),
        ("holds left after their lease", _HELD),
        ("billed twice", _TWO_ENDS),
        ("counters that disagree", _COUNTERS),
    ):
        for (example,) in connection.execute(query.encode()).fetchall():
            verdict.wrong(what, example)
    for what, query in _FACTS.items():
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
        verdict.figures[what] = row[0]


def check_grants(
    connection: psycopg.Connection, granted_e8: Mapping[int, int], first_e8: int, verdict: Verdict
) -> None:
    """Each wallet got what the office was told it got: its first credit and all grants, once."""
    rows = connection.execute("select credit_id, sum(amount_e8)::bigint from transfer where code = 12 group by 1")
    booked: dict[int, int] = dict(rows.fetchall())
    for wallet, amount_e8 in granted_e8.items():
        if booked.get(wallet, 0) != amount_e8 + first_e8:
            verdict.wrong("grants lost or doubled", f"wallet {wallet}: {booked.get(wallet)} is not {amount_e8}")


async def check_reconcile(dsn: str, verdict: Verdict) -> None:
    """Ask the product's own report."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await begin_snapshot(connection)
        for finding in await reconcile(connection):
            verdict.wrong("differences found by reconcile", str(finding))


def check_log(log: Path, verdict: Verdict) -> None:
    """The database never even had to refuse an overdraft: the functions know before the constraint does."""
    for line in log.read_text(errors="replace").splitlines():
        if "no_overdraft" in line or "no_debt" in line:
            verdict.wrong("overdrafts", line)
        verdict.figures["deadlocks"] += "deadlock detected" in line


# ── the books against what the clients wrote down ──


class Bills:
    """Usage events by the ids that clients know."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.by_id: dict[str, Event] = {}
        self.by_own_id: dict[str, list[Event]] = defaultdict(list)
        for row in connection.execute(_EVENTS.encode(), (f"{PAST}%",)).fetchall():
            event = Event(*row)
            self.by_id[f"req_{event.id.hex}"] = event
            if event.request_id is not None:
                self.by_own_id[event.request_id].append(event)

    def of(self, request_id: str | None) -> list[Event]:
        """What was booked for a request."""
        if request_id is None:
            return []
        if request_id in self.by_id:
            return [self.by_id[request_id]]
        return self.by_own_id.get(request_id, [])


def check_record(connection: psycopg.Connection, tries: Iterable[Try], verdict: Verdict) -> None:
    """Compare the books with what clients were told."""
    bills = Bills(connection)
    known: set[str] = set()
    anonymous = 0
    keys: dict[str, list[Try]] = defaultdict(list)
    for one in tries:
        verdict.figures["requests"] += 1
        known.update(name for name in (one.own_id, one.answered_id) if name is not None)
        anonymous += one.own_id is None and one.answered_id is None
        if one.key is not None:
            keys[one.key].append(one)
        _check_try(one, bills, verdict)
    for key, same in keys.items():
        _check_key(key, same, bills, verdict)
    for own_id, events in bills.by_own_id.items():
        if len(events) > 1:
            verdict.wrong("billed twice", f"{own_id}: {len(events)} times")
        if own_id not in known:
            verdict.wrong("billed without a request", own_id)
    # Whoever sent no id and heard none can't tell which bill is theirs; but there are no more bills than such.
    strangers = [name for name, event in bills.by_id.items() if event.request_id is None and name not in known]
    for name in strangers[anonymous:]:
        verdict.wrong("billed without a request", name)


def _check_try(one: Try, bills: Bills, verdict: Verdict) -> None:
    figures = verdict.figures
    if one.whole:
        figures["served"] += 1
        figures["served again from a key"] += one.replayed
        _check_whole(one, bills, verdict)
        return
    if one.ending == "whole":
        figures[f"answered {one.status} {one.code}"] += 1
        figures["refused 402"] += one.status == 402
        figures["503s"] += one.status == 503
        # `unavailable` may come after the answer: then it is billed once when the ledger is back.
        is_refused = one.status >= 400 and one.code not in ("unavailable", "internal")
        if is_refused and bills.of(one.own_id or one.answered_id):
            verdict.wrong("refused but billed", str(one))
    else:
        figures[one.ending] += 1


def _check_whole(one: Try, bills: Bills, verdict: Verdict) -> None:
    billed = bills.of(one.body_id)
    if len(billed) > 1:
        verdict.wrong("billed twice", str(one))
    if not billed or billed[0].outcome != Outcome.COMPLETE or billed[0].paid_e8 != billed[0].retail_e8:
        verdict.wrong("full answers unbilled", f"{one} {billed}")
        return
    if not one.replayed and one.body_id != (one.own_id or one.answered_id):
        verdict.wrong("full answers unbilled", f"another's id: {one}")
    event = billed[0]
    # A hold that ran out before its answer was settled may find less in the wallet than was told.
    if one.price_e8 is not None and not event.retail_e8 <= one.price_e8 <= event.retail_e8 + event.write_off_e8:
        verdict.wrong("price told is not what was booked", f"{one} {event}")


def _check_key(key: str, same: list[Try], bills: Bills, verdict: Verdict) -> None:
    """One key, one charge; and whoever got the answer, got the same one."""
    verdict.figures["keys"] += 1
    charged = {event.id for one in same for event in bills.of(one.own_id)}
    if len(charged) > 1:
        verdict.wrong("billed twice", f"{key}: {[(one.own_id, one.ending, one.status, one.code) for one in same]}")
    whole = [one for one in same if one.whole]
    if len({(one.digest, one.body_id) for one in whole}) > 1:
        verdict.wrong("kept replies that differ", f"{key}: {whole}")
    if charged and not whole:
        verdict.figures["keys charged whose answer nobody got"] += 1
        verdict.figures["of these, last told 409"] += same[-1].status == 409


def facts(verdict: Verdict) -> list[tuple[str, Any]]:
    """Everything but what must be zero, in a readable order."""
    return [(what, count) for what, count in verdict.figures.items() if what not in MUST_BE_ZERO]
