"""A gateway dies at every single call to the world outside; time passes, another one comes, and the books are right.

For each kind of request: the process is killed at its first point, the request is sent again to a new process that
is killed at its second, and so on, until one lives. A point is before or after a call of the ledger, the database,
the provider or the client has had its effect.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fakes.faults import Ask, Fate, Life, Living, live
from gateway_world import EndUser, Mock, World, wait_for

from faucet.kit.config import Config, load_config
from faucet.reports.reconciliation import begin_snapshot, reconcile
from faucet.terms import Outcome

_VARYING = re.compile(rb',"wallet_balance_usd":"[^"]*"|"created":\d+')
_serial = itertools.count(1)


@dataclass(frozen=True)
class Kind:
    """A kind of request."""

    name: str
    stream: bool = False
    has_key: bool = False
    model: str = "mock-small"
    leaves_after: int | None = None
    mock: dict[str, Any] = field(default_factory=dict)

    @property
    def is_answered(self) -> bool:
        """Whether its client gets an answer if nobody dies."""
        return self.leaves_after is None and self.model == "mock-small"


KINDS = (
    Kind("json"),
    Kind("stream", stream=True),
    Kind("json with a key", has_key=True),
    Kind("stream with a key", stream=True, has_key=True),
    Kind("stream whose client leaves", stream=True, leaves_after=3, mock={"chunks": 3, "chunk_delay_ms": 20}),
    Kind("refused by the provider", model="fail-500"),
)


class Case:
    """One kind of request by one end user, sent to processes that die."""

    def __init__(self, world: World, mock: Mock, folder: Path, kind: Kind, **settings: str) -> None:
        self.world = world
        self.kind = kind
        self.end_user: EndUser = world.end_user()
        self.config: Config = load_config(
            {
                "FAUCET_DATA": str(folder),
                "MOCK_PROVIDER_URL": mock.url,
                "HOLD_LEASE_SECONDS": "60",
                "PROVIDER_MAX_RETRIES": "0",
                **settings,
            }
        )

    def ask(self, key: str | None) -> tuple[str, Ask]:
        """A request under an id of its own."""
        kind = self.kind
        request_id = f"crash-{next(_serial)}"
        body: dict[str, Any] = {
            "model": kind.model,
            "messages": [{"role": "user", "content": f"Where is my order {key}?"}],
            "max_tokens": 20,
            "mock": {"tokens": 12, "chunks": 2, **kind.mock},
        }
        if kind.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        headers = {"authorization": f"Bearer {self.end_user.bearer}", "x-request-id": request_id}
        if key is not None:
            headers["idempotency-key"] = key
        return request_id, Ask(json.dumps(body).encode(), tuple(headers.items()), kind.leaves_after)

    def live(self, ask: Ask, fate: Fate) -> Life:
        return live(self.world.dsn, self.config, ask, fate)

    def let_time_pass(self) -> None:
        """All leases run out, and the sweep gives back what they held."""
        books = self.world.books
        books.rows("update hold set lease_expires_at = now() - interval '1 second'")
        books.rows("update idempotent_reply set claimed_until = now() - interval '1 second'")
        books.expire(1_000)

    def billed(self, *request_ids: str) -> list[dict[str, Any]]:
        """The usage events of requests."""
        found = self.world.books.rows("select id from usage_event where request_id = any (%s)", list(request_ids))
        events = [self.world.event(row[0]) for row in found]
        return [event for event in events if event is not None]

    def check_books(self) -> None:
        """Everything of MONEY's reconciliation holds, and nothing is held any more."""
        books = self.world.books
        books.assert_sound()
        assert books.one("select count(*) from hold") == 0
        assert books.rows("select id from account where held_e8 <> 0 or (kind = 'wallet' and posted_e8 < 0)") == []
        assert asyncio.run(_findings(self.world.dsn)) == []

    def check_first(self, request_id: str, life: Life) -> None:
        """Whoever got the whole answer pays for it, once; nobody pays for more than one."""
        events = self.billed(request_id)
        assert len(events) <= 1
        if life.is_answer:
            assert [event["outcome"] for event in events] == [Outcome.COMPLETE]
            assert f'"price_usd":"{_usd(events[0]["retail_e8"])}"'.encode() in life.delivered
        if self.kind.model != "mock-small":
            assert events == []


async def _findings(dsn: str) -> list[Any]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await begin_snapshot(connection)
        return list(await reconcile(connection))


def _usd(amount_e8: int) -> str:
    return f"{amount_e8 // 10**8}.{amount_e8 % 10**8:08d}"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_dying_at_any_call_loses_nothing(world: World, mock: Mock, tmp_path: Path, kind: Kind) -> None:
    """Lost: there is a moment in which a crash charges an answer twice, or never, or strands money."""
    case = Case(world, mock, tmp_path, kind)
    deaths = 0
    while True:
        key = f"key-{deaths}" if kind.has_key else None
        request_id, ask = case.ask(key)
        life = case.live(ask, Fate(deaths + 1))
        if not life.died:
            break
        deaths += 1
        # The next process may come before the leases are over, or after.
        if deaths % 4 == 0:
            case.live(case.ask(None)[1], Fate())
        case.let_time_pass()
        case.check_first(request_id, life)
        if kind.has_key:
            _check_repeat(case, request_id, ask, life)
        case.check_books()
    assert deaths >= 16 and deaths == len(life.points), life.points
    assert life.is_answer == kind.is_answered
    case.let_time_pass()
    case.check_books()


def _check_repeat(case: Case, first_id: str, ask: Ask, first: Life) -> None:
    """The same key again: an answer, the same one if it was seen whole, and one charge for both."""
    second_id, other = case.ask(None)
    key = ("idempotency-key", dict(ask.headers)["idempotency-key"])
    again = case.live(replace(other, body=ask.body, headers=(*other.headers, key)), Fate())
    assert again.is_answer, again.delivered
    assert len(case.billed(first_id, second_id)) == 1
    if first.is_answer:
        assert _VARYING.sub(b"", again.body) == _VARYING.sub(b"", first.body)


# ── the database goes away before the settlement ──

HOLD_THEN_AWAY = 2
"""The ledger is away from its second group on: the hold is durable, the settlement isn't."""


def spooled_answer(case: Case, key: str | None) -> tuple[str, Ask]:
    """A request whose settlement is in the spool of a process that is dead, and whose client has no answer."""
    request_id, ask = case.ask(key)
    whole = case.live(ask, Fate(ledger_goes_at=HOLD_THEN_AWAY))
    assert not whole.is_answer and whole.points.count("ledger: connecting") > 1
    assert case.billed(request_id) == []
    return request_id, ask


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("expired", [False, True], ids=["in time", "late"])
def test_a_spooled_answer_is_billed_once(world: World, mock: Mock, tmp_path: Path, stream: bool, expired: bool) -> None:
    """Lost: an answer is given while the database is away, and never paid for, or by everyone who finds it."""
    case = Case(world, mock, tmp_path, Kind("", stream=stream), SETTLE_DEADLINE_SECONDS="1")
    request_id, _ = spooled_answer(case, None)
    if expired:
        case.let_time_pass()
    for _ in range(2):
        case.live(case.ask(None)[1], Fate())
        (event,) = case.billed(request_id)
    assert event["outcome"] == Outcome.COMPLETE and event["retail_e8"] > 0 == event["write_off_e8"]
    resolution = world.resolution(event["id"])
    assert (resolution is not None and resolution["settled_late_at"] is not None) == expired
    case.let_time_pass()
    case.check_books()


def test_dying_while_the_database_is_away_loses_nothing(world: World, mock: Mock, tmp_path: Path) -> None:
    """Lost: a spool that was written just before the process died is not found, or is settled twice."""
    case = Case(world, mock, tmp_path, Kind(""), SETTLE_DEADLINE_SECONDS="1")
    _, ask = case.ask(None)
    points = case.live(ask, Fate(ledger_goes_at=HOLD_THEN_AWAY)).points
    away = points.index("ledger: connecting") + 1
    for dies_at in (away, away + 1):
        request_id, ask = case.ask(None)
        assert case.live(ask, Fate(dies_at, ledger_goes_at=HOLD_THEN_AWAY)).died
        case.live(case.ask(None)[1], Fate())
        assert len(case.billed(request_id)) == 1
    case.let_time_pass()
    case.check_books()


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same machine", "another machine"])
def test_one_key_is_charged_once_even_when_its_hold_ran_out(
    world: World, mock: Mock, tmp_path: Path, elsewhere: bool
) -> None:
    """Lost: the answer is in a spool, its hold expires, the client asks again with its key and pays twice."""
    case = Case(world, mock, tmp_path / "one", Kind("", has_key=True), SETTLE_DEADLINE_SECONDS="1")
    first_id, ask = spooled_answer(case, "key-of-an-outage")
    case.let_time_pass()
    other = Case(world, mock, tmp_path / "two", case.kind) if elsewhere else case
    second_id, again = case.ask(None)
    key = ("idempotency-key", dict(ask.headers)["idempotency-key"])
    other.live(replace(again, body=ask.body, headers=(*again.headers, key)), Fate())
    case.live(case.ask(None)[1], Fate())  # the spool is adopted now, if it was not before
    assert len(case.billed(first_id, second_id)) == 1
    case.let_time_pass()
    case.check_books()


def test_one_key_is_charged_once_even_when_its_hold_comes_late(world: World, mock: Mock, tmp_path: Path) -> None:
    """Lost: the ledger stalls between claim and hold for longer than the lease, the key is taken over, both pay."""
    case = Case(world, mock, tmp_path, Kind("", has_key=True), HOLD_LEASE_SECONDS="5")
    first_id, ask = case.ask("key-of-a-stall")
    stalled = Living(world.dsn, case.config, ask, Fate(ledger_stalls_seconds=5.8))
    overdue = "select count(*) from idempotent_reply where end_user_id = %s and claimed_until < now()"
    wait_for(lambda: world.books.one(overdue, case.end_user.tenant.end_user))
    second_id, again = case.ask(None)
    key = ("idempotency-key", "key-of-a-stall")
    second = case.live(replace(again, body=ask.body, headers=(*again.headers, key)), Fate())
    first = stalled.end()
    assert second.is_answer and not first.is_answer
    assert len(case.billed(first_id, second_id)) == 1
    case.let_time_pass()
    case.check_books()
