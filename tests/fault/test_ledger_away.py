"""The database goes away, or the gateway dies, at each step of a request: nothing is lost, nothing billed twice.

The database is cut off by a cable between it and the gateway, or is killed; the books are read past the cable.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from books import E8
from cable import Cable, database_cable
from gateway_world import (
    EndUser,
    Gateway,
    Hanging,
    Mock,
    Reply,
    StartGateway,
    World,
    add_prices,
    ask,
    chat,
    request,
    wait_for,
)

from faucet.kit.embedded_postgres import EmbeddedPostgres
from faucet.kit.migrate import migrate

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
TEN = 10 * E8
SLOW = {"delay_ms": 400}
HASTY = "from faucet.kit import db; from faucet.ledger import lane; db.HANGS_SECONDS = lane.STATEMENT_SECONDS = 2"


@dataclass(frozen=True)
class Wired:
    """A gateway that reaches its database through a cable."""

    cable: Cable
    dsn: str
    gateway: Gateway


@pytest.fixture(scope="module")
def laid(world: World, mock: Mock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    """A gateway behind a cable, with little patience for an absent database."""
    with database_cable(world.dsn) as (cable, dsn):
        gateway = Gateway(dsn, mock.url, tmp_path_factory.mktemp("wired"), before=HASTY, SETTLE_DEADLINE_SECONDS=2)
        yield Wired(cable, dsn, gateway)
        gateway.stop()


@pytest.fixture
def wired(laid: Wired) -> Iterator[Wired]:
    """The gateway behind the cable, which is whole before and after each test."""
    yield laid
    laid.cable.mend()
    wait_for(lambda: request(laid.gateway, "GET", "/ready").status == 200)


@pytest.fixture
def doomed(start_gateway: StartGateway, wired: Wired) -> Gateway:
    """A gateway of the test's own behind the same cable."""
    return start_gateway(dsn=wired.dsn, SETTLE_DEADLINE_SECONDS=2)


class Asking:
    """A request that runs in a thread, so that the test can break things meanwhile."""

    def __init__(self, what: Callable[[], Reply]) -> None:
        self._reply: Reply | BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(what,))
        self._thread.start()

    def _run(self, what: Callable[[], Reply]) -> None:
        try:
            self._reply = what()
        except BaseException as failure:
            self._reply = failure

    def reply(self) -> Reply:
        self._thread.join(40)
        assert isinstance(self._reply, Reply), self._reply
        return self._reply

    def is_done(self) -> bool:
        """Whether there is a reply, or will be none."""
        return not self._thread.is_alive()

    def is_broken(self) -> bool:
        """Whether the connection broke before there was a reply."""
        self._thread.join(40)
        return isinstance(self._reply, OSError | EOFError) or "IncompleteRead" in repr(self._reply)


def begun(world: World, mock: Mock, gateway: Gateway, end_user: EndUser, body: dict[str, Any]) -> tuple[Asking, UUID]:
    """A request of which the provider knows already, and its hold."""
    before = mock.calls()
    asking = Asking(lambda: ask(gateway, end_user.bearer, body))
    wait_for(lambda: mock.calls() > before or asking.is_done())
    holds = world.open_holds(end_user)
    assert len(holds) == 1, asking.reply()
    return asking, holds[0]


def check_billed_once(world: World, end_user: EndUser) -> dict[str, Any]:
    """One complete answer is booked, whole, and nothing is left of its hold."""
    [event] = wait_for(lambda: world.events_of(end_user))
    assert event["outcome"] == 0 and event["output_tokens"] == 48 and event["write_off_e8"] == 0
    assert sum(world.transfers(event["id"]).values()) == event["retail_e8"] > 0
    assert world.balance(end_user) == (TEN - event["retail_e8"], 0)
    return event


def check_no_end(reply: Reply, stream: bool) -> None:
    """The client was not given a whole answer, and was told."""
    if stream:
        assert reply.status == 200 and b"[DONE]" not in reply.body and b'"finish_reason":"stop"' not in reply.body
        assert reply.events[-2]["choices"][0]["finish_reason"] == "error"
        assert reply.events[-1]["error"]["code"] == "unavailable"
    else:
        assert (reply.status, reply.code) == (503, "unavailable") and b"choices" not in reply.body


# ── at the hold ──


def test_without_the_ledger_nobody_is_asked(wired: Wired, world: World, mock: Mock) -> None:
    """A provider would work for who may have no money."""
    known, unknown = world.end_user(), world.end_user()
    assert ask(wired.gateway, known.bearer, chat(), seconds=5).status == 200
    before = mock.calls()
    wired.cable.cut()
    for end_user in (known, known, unknown):
        reply = ask(wired.gateway, end_user.bearer, chat(), seconds=15)
        assert (reply.status, reply.code) == (503, "unavailable") and int(reply.headers["retry-after"]) >= 1
    assert mock.calls() == before and request(wired.gateway, "GET", "/health").status == 200
    wired.cable.mend()
    wait_for(lambda: request(wired.gateway, "GET", "/ready").status == 200)
    assert (
        ask(wired.gateway, known.bearer, chat()).status == 200
        and ask(wired.gateway, unknown.bearer, chat()).status == 200
    )
    assert len(world.events_of(known)) == 2 and world.balance(known)[1] == 0


def test_a_database_that_hangs_is_not_waited_for_without_end(wired: Wired, world: World, mock: Mock) -> None:
    """Every client would hang as long as the database does."""
    known, unknown = world.end_user(), world.end_user()
    assert ask(wired.gateway, known.bearer, chat()).status == 200
    before = mock.calls()
    wired.cable.freeze()
    first = Asking(lambda: ask(wired.gateway, known.bearer, chat(), seconds=30))
    second = Asking(lambda: ask(wired.gateway, unknown.bearer, chat(), seconds=30))
    for asking in (first, second):
        reply = asking.reply()
        assert (reply.status, reply.code) == (503, "unavailable")
    assert mock.calls() == before
    wired.cable.mend()
    wait_for(lambda: request(wired.gateway, "GET", "/ready").status == 200)
    assert wait_for(lambda: world.balance(known)[1] == 0), "what was held without an answer is given back"
    assert ask(wired.gateway, unknown.bearer, chat()).status == 200


def test_a_hold_whose_confirmation_is_lost_is_given_back(wired: Wired, world: World, mock: Mock, rich: EndUser) -> None:
    """Money would stay reserved for a request that was refused."""
    assert ask(wired.gateway, rich.bearer, chat()).status == 200
    before, credit = mock.calls(), world.balance(rich)[0]
    key = {"Idempotency-Key": "k"}
    wired.cable.lose_next_answer(hot_only=True)
    reply = ask(wired.gateway, rich.bearer, chat(), key)
    assert wired.cable.lost.is_set() and (reply.status, reply.code) == (503, "unavailable")
    assert mock.calls() == before
    row = wait_for(lambda: world.row("select * from hold_resolution where wallet_id = %s", rich.wallet))
    assert (row["state"], row["reason"]) == ("released", "hold was never confirmed")
    assert world.balance(rich) == (credit, 0) and len(world.events_of(rich)) == 1
    assert ask(wired.gateway, rich.bearer, chat(), key).status == 200, "the key is free again"


# ── at the settlement ──


@BOTH
def test_an_answer_waits_for_a_ledger_that_comes_back(
    wired: Wired, world: World, mock: Mock, rich: EndUser, stream: bool
) -> None:
    """A short outage would cost end users their answers, or us our money."""
    gateway = wired.gateway
    asking, hold = begun(world, mock, gateway, rich, chat(stream=stream, mock=SLOW))
    wired.cable.cut()
    wait_for(lambda: gateway.spooled() == 1)
    assert world.event(hold) is None
    wired.cable.mend()
    reply = asking.reply()
    assert reply.status == 200 and (b"[DONE]" in reply.body) == stream
    assert check_billed_once(world, rich)["id"] == hold
    assert gateway.spooled() == 0


@BOTH
def test_an_answer_without_a_ledger_is_withheld_and_billed_once_later(
    doomed: Gateway, wired: Wired, world: World, mock: Mock, rich: EndUser, stream: bool
) -> None:
    """A whole answer would be given away, or one that was withheld be lost or billed twice."""
    asking, hold = begun(world, mock, doomed, rich, chat(stream=stream, mock=SLOW))
    wired.cable.cut()
    check_no_end(asking.reply(), stream)
    assert doomed.spooled() == 1 and world.event(hold) is None and world.balance(rich)[1] > 0
    wired.cable.mend()
    assert check_billed_once(world, rich)["id"] == hold
    wait_for(lambda: doomed.spooled() == 0)
    doomed.stop()
    assert list((doomed.data_dir / "spool").iterdir()) == []
    assert len(world.events_of(rich)) == 1


@BOTH
def test_the_spool_of_a_gateway_that_died_is_adopted(
    doomed: Gateway, wired: Wired, start_gateway: StartGateway, world: World, mock: Mock, rich: EndUser, stream: bool
) -> None:
    """Answers that were made during an outage would be lost with the process that made them."""
    asking, _ = begun(world, mock, doomed, rich, chat(stream=stream, mock=SLOW))
    wired.cable.cut()
    wait_for(lambda: doomed.spooled() == 1)
    doomed.kill()
    assert asking.is_broken() or stream
    kept = next((doomed.data_dir / "spool").iterdir()).read_bytes()
    assert b"order" not in kept, "no word of the answer is in it"
    wired.cable.mend()
    assert world.events_of(rich) == []
    heirs = [start_gateway(data_dir=doomed.data_dir) for _ in range(1 + stream)]
    check_billed_once(world, rich)
    wait_for(lambda: sum(heir.spooled() for heir in heirs) == 0)
    time.sleep(0.3)
    assert len(world.events_of(rich)) == 1


@BOTH
def test_a_settlement_whose_confirmation_is_lost_is_not_repeated(
    wired: Wired, world: World, mock: Mock, rich: EndUser, stream: bool
) -> None:
    """An answer would be billed a second time because nobody heard of the first."""
    asking, hold = begun(world, mock, wired.gateway, rich, chat(stream=stream, mock=SLOW))
    wired.cable.lose_next_answer(hot_only=True)
    reply = asking.reply()
    assert wired.cable.lost.is_set() and reply.status == 200 and (b"[DONE]" in reply.body) == stream
    event = check_billed_once(world, rich)
    assert event["id"] == hold and wired.gateway.spooled() == 0


def test_a_release_waits_for_the_ledger_too(wired: Wired, world: World, mock: Mock, rich: EndUser) -> None:
    """Money would stay reserved when a provider and the database fail together."""
    asking, _ = begun(world, mock, wired.gateway, rich, chat(model="fail-500", mock=SLOW))
    wired.cable.cut()
    assert asking.reply().status == 502
    wired.cable.mend()
    assert wait_for(lambda: world.balance(rich) == (TEN, 0)) and world.events_of(rich) == []


@pytest.fixture
def passable() -> Iterator[Path]:
    """A folder that every account may pass through: as root, PostgreSQL runs as another one."""
    with tempfile.TemporaryDirectory(prefix="fpg-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_crash_of_the_database_costs_nobody_an_answer(mock: Mock, tmp_path: Path, passable: Path) -> None:
    """A PostgreSQL that is killed while answers are made would lose some of them, or bill some twice."""
    with EmbeddedPostgres(passable / "data") as running:
        migrate(running.dsn)
        add_prices(running.dsn)
        world = World(running.dsn)
        gateway = Gateway(running.dsn, mock.url, tmp_path, SETTLE_DEADLINE_SECONDS=30)
        try:
            end_users = [world.end_user() for _ in range(12)]
            ask(gateway, end_users[0].bearer, chat())
            bodies = [chat(stream=bool(place % 2), mock={"delay_ms": 100 * place}) for place in range(12)]
            asking = [
                Asking(lambda u=u, b=b: ask(gateway, u.bearer, b, seconds=40))  # type: ignore[misc]
                for u, b in zip(end_users, bodies, strict=True)
            ]
            wait_for(lambda: world.books.one("select count(*) from hold") >= 10)
            world.close()
            os.kill(running.pid, signal.SIGKILL)
            replies = [one.reply() for one in asking]
            running.ensure()
            world.connect()
            for end_user, reply, place in zip(end_users, replies, range(12), strict=True):
                count = len(world.events_of(end_user)) - (place == 0)
                assert (reply.status, count) in ((200, 1), (503, 0)), reply
            assert [reply.status for reply in replies].count(200) >= 10
            assert wait_for(lambda: world.books.one("select count(*) from hold") == 0)
            world.books.assert_sound()
            world.close()
        finally:
            gateway.stop()


# ── the gateway dies, or sleeps ──


def test_a_hold_without_its_gateway_ends_with_its_lease(
    start_gateway: StartGateway, world: World, mock: Mock, rich: EndUser
) -> None:
    """A crash would keep an end user's money for ever; or the sweep would take it from who still streams."""
    doomed, healthy = start_gateway(HOLD_LEASE_SECONDS=5), start_gateway(HOLD_LEASE_SECONDS=5)
    patient = world.end_user()
    before = mock.calls()
    left = Hanging(doomed, rich.bearer, chat(mock={"delay_ms": 60_000}))
    wait_for(lambda: mock.calls() > before)
    (orphan,) = world.open_holds(rich)
    slow = {"tokens": 48, "chunks": 24, "chunk_delay_ms": 300}
    stream, alive = begun(world, mock, healthy, patient, chat(stream=True, mock=slow))
    doomed.kill()
    left.hang_up()
    amount = world.balance(rich)[1]
    assert amount > 0 and world.books.expire() == []
    swept: list[Any] = []
    began = time.monotonic()
    while not swept:
        assert time.monotonic() - began < 8
        time.sleep(0.2)
        swept = world.books.expire()
    assert swept == [orphan] and time.monotonic() - began > 3
    assert world.balance(rich) == (TEN, 0) and world.events_of(rich) == []
    row = world.resolution(orphan)
    assert row is not None and (row["state"], row["reason"], row["amount_e8"]) == ("expired", "lease ran out", amount)
    reply = stream.reply()
    assert time.monotonic() - began > 5.5 and b"[DONE]" in reply.body, "it took longer than a lease"
    assert world.books.expire() == [] and check_billed_once(world, patient)["id"] == alive


@BOTH
def test_an_answer_that_ends_after_its_hold_ran_out_is_booked_once(
    gateway: Gateway, world: World, mock: Mock, rich: EndUser, stream: bool
) -> None:
    """A process that stood still longer than its lease would give its answers away, or crash on them."""
    asking, hold = begun(world, mock, gateway, rich, chat(stream=stream, mock=SLOW))
    os.kill(gateway.pid, signal.SIGSTOP)
    world.books.run_out(hold)
    assert world.books.expire() == [hold] and world.balance(rich) == (TEN, 0)
    os.kill(gateway.pid, signal.SIGCONT)
    assert asking.reply().status == 200
    assert check_billed_once(world, rich)["id"] == hold
    row = world.resolution(hold)
    assert row is not None and row["settled_late_at"] is not None
    assert world.books.one("select state from request where id = %s", hold) == "settled"
