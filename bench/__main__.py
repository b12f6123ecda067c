"""`python -m bench`: one run of the benchmark. `python -m bench profile`: where the gateway's time goes.

Subjects are measured in turn, cell by cell, and the whole round is repeated: this machine's speed drifts, so only
ratios within one run say something. The parts and settings are in `settings`, the result goes to `bench/results`.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import psycopg

from bench.fill import fill, require_space
from bench.flame import profile
from bench.ground import Database, Ground
from bench.load import PATH, Expected, read_answer, request_body
from bench.measure import ACTIVE_PER_CONNECTION, Scales, Subject
from bench.peers import start_peers
from bench.report import BOOKLESS, CROWDED, EMPTY, FILLED, MOCK, OURS, Report, describe, line
from bench.settings import Settings, read_settings
from bench.slow_provider import slow, stall
from faucet.reports.reconciliation import begin_snapshot, reconcile


def say(text: str) -> None:
    """Tell those who wait."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def main() -> int:
    """Run. Gives the exit status: 1 where books don't add up."""
    # SIGTERM unwinds like an error, so that everything that was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if sys.platform != "linux":
        raise SystemExit("the benchmark reads CPU times and memory from /proc: it needs Linux")
    settings = read_settings()
    if sys.argv[1:] == ["profile"]:
        with Ground(settings) as ground:
            database = ground.database("profile", settings.users)
            mock_url, _ = ground.mock()
            profile(ground, database, mock_url, expectations(mock_url), say)
        return 0
    if sys.argv[1:]:
        raise SystemExit("usage: python -m bench [profile]; settings are environment variables (see bench/settings.py)")
    if "rows" in settings.parts:
        require_space(settings.folder, settings.rows)
    with Ground(settings) as ground:
        report = Report(_describe(ground), rows=settings.rows, users=settings.users)
        try:
            _run(ground, report)
        finally:
            path = report.store()
    print("\n" + report.markdown())
    print(f"stored in {path} and {path.with_suffix('.json').name}")
    return 0 if all("clean" in text for text in report.books) else 1


def expectations(mock_url: str) -> dict[str, Expected]:
    """What right answers say, from the mock provider itself."""
    found = {}
    for kind in ("json", "stream"):
        connection = http.client.HTTPConnection(mock_url.removeprefix("http://").split("/")[0], timeout=10)
        connection.request("POST", PATH, request_body(kind), {"content-type": "application/json"})
        answer = connection.getresponse()
        found[kind] = read_answer(kind, answer.status, answer.read())
        connection.close()
    return found


def _describe(ground: Ground) -> dict[str, object]:
    settings = ground.settings
    pinned = (
        f"gateways on {_cores(ground.gateway_cores)};"
        f" PostgreSQL, mock provider and load on {_cores(ground.other_cores)}"
        if ground.can_pin
        else "not pinned (this system can't, or there is only one core): the load steals the gateway's time"
    )
    with psycopg.connect(ground.postgres.dsn) as connection:
        row = connection.execute("show server_version").fetchone()
    assert row is not None
    own = "the project's own generator, which costs more than wrk: figures are lower"
    return describe(
        pinned=pinned,
        fsync_us=ground.fsync_us(),
        postgres=row[0],
        load="wrk" if settings.load == "wrk" else own,
        settings=f"{settings.seconds:g} s a cell, {settings.rounds} rounds, {settings.users:,} users of whom "
        f"{ACTIVE_PER_CONNECTION} take turns on each connection, "
        f"{settings.workers} gateway process(es)",
    )


def _cores(cores: list[int]) -> str:
    return "core " + ", ".join(map(str, cores))


def _run(ground: Ground, report: Report) -> None:
    settings = ground.settings
    if max(os.getloadavg()[0] - 0.3, 0) > 0.2:
        report.notes.append(f"other work was going on: the load average was {os.getloadavg()[0]:.2f} at the start")
    mock_url, mock_pid = ground.mock()
    scales = Scales(
        tool=settings.load,
        seconds=settings.seconds,
        warm_up_seconds=settings.warm_up_seconds,
        expected=expectations(mock_url),
        admin_dsn=ground.postgres.dsn,
        postmaster=ground.postgres.pid,
        pids=[mock_pid],
        cores=[*ground.gateway_cores, *ground.other_cores],
    )
    databases: list[Database] = []
    try:
        if "rows" in settings.parts:
            databases += _measure_rows(ground, report, scales, mock_url)
        else:
            database = ground.database("bench", settings.users)
            databases.append(database)
            _measure_subjects(ground, report, scales, database, mock_url, mock_pid)
    finally:
        scales.close()
    for database in databases:
        say(f"comparing the books of {database.name}")
        report.books.append(asyncio.run(_compare_books(database)))


def _measure_subjects(
    ground: Ground, report: Report, scales: Scales, database: Database, mock_url: str, mock_pid: int
) -> None:
    settings = ground.settings

    def note(text: str) -> None:
        report.notes.append(text)
        say(text)

    ours = ground.gateway(OURS, database, mock_url)
    report.start_seconds = ground.start_seconds[OURS]
    kinds = [kind for kind in ("json", "stream") if kind in settings.parts]
    if kinds:
        subjects = [
            Subject(MOCK, mock_url.removesuffix("/v1"), (mock_pid,), ["none"]),
            ours,
            ground.gateway(BOOKLESS, database, mock_url, "--without-books"),
            *(start_peers(ground, mock_url, note) if settings.peers else ()),
        ]
        _cells(report, scales, subjects, kinds, settings)
    if "slow" in settings.parts:
        say(f"{settings.connections:,} connections on a provider that answers after {settings.delay_ms} ms")
        report.slow = slow(ground, scales, delay_ms=settings.delay_ms, connections=settings.connections)
    if "stall" in settings.parts:
        report.stalled = stall(ours, scales, hang=settings.hang, tool=settings.load, say=say)


def _measure_rows(ground: Ground, report: Report, scales: Scales, mock_url: str) -> list[Database]:
    settings = ground.settings
    empty = ground.database(EMPTY, settings.users)
    filled = ground.database(FILLED, settings.users)
    say(f"filling a database in {ground.folder}")
    fill(filled, settings.rows, say)
    subjects = [ground.gateway(database.name, database, mock_url) for database in (empty, filled)]
    subjects.append(replace(subjects[1], name=CROWDED, all_active=True))
    _cells(report, scales, subjects, ["json", "stream"], settings)
    return [empty, filled]


def _cells(report: Report, scales: Scales, subjects: list[Subject], kinds: Sequence[str], settings: Settings) -> None:
    for subject in subjects:
        for kind in kinds:
            scales.check(subject, kind)
    say(f"answers are right: {', '.join(subject.name for subject in subjects)}")
    for round_ in range(settings.rounds):
        for kind in kinds:
            for connections in settings.clients:
                for subject in subjects:
                    cell = scales.weigh(subject, kind, connections, round_)
                    report.cells.append(cell)
                    say(line(cell))


async def _compare_books(database: Database) -> str:
    """Whether all that was served is booked and adds up, once what clients left behind is given back."""
    async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as connection:
        for _ in range(100):
            row = await (await connection.execute("select count(*) from hold")).fetchone()
            if row == (0,):
                break
            await asyncio.sleep(0.1)
        row = await (await connection.execute("select count(*) from usage_event")).fetchone()
        assert row is not None
        async with connection.transaction():
            await begin_snapshot(connection)
            findings = await reconcile(connection)
    told = "clean" if not findings else f"{len(findings)} DIFFERENCES, first: {findings[0]}"
    return f"{database.name}: {told} ({row[0]:,} usage events)"


if __name__ == "__main__":
    sys.exit(main())
