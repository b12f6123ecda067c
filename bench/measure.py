"""What a cell costs: CPU of the gateway and of PostgreSQL, write-ahead log, commits, memory.

CPU comes from /proc, in ticks of 10 ms, so it means something from a few hundred milliseconds on. A cell also
says how busy other processes kept the two cores: the figures of a cell with much of that are not to be believed.
"""

from __future__ import annotations

import http.client
import os
import re
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.load import Expected, Job, Load, job_for, run

_TICK = os.sysconf("SC_CLK_TCK")
ACTIVE_PER_CONNECTION = 16
"""Users that take turns on one connection in a cell; more stay away, as most of an app's users do at a time."""
_LANE = re.compile(rb"^modelfaucet_ledger_(groups|items)_total ([0-9.e+]+)$", re.M)


@dataclass(frozen=True)
class Subject:
    """A server that is measured: its address, its processes, and who asks it."""

    name: str
    url: str
    pids: tuple[int, ...]
    bearers: Sequence[str]
    keeps_books: bool = False
    all_active: bool = False
    """Every user asks in every cell, instead of those that `ACTIVE_PER_CONNECTION` gives."""


@dataclass(frozen=True)
class Cell:
    """One subject under one load. What could not be measured is None."""

    subject: str
    kind: str
    connections: int
    round: int
    load: Load
    cpu_us: float
    postgres_us: float | None
    wal_bytes: float | None
    commits: float | None
    group: float | None
    rss_mb: float
    foreign_percent: float

    @property
    def per_second(self) -> float:
        return self.load.per_second


class Scales:
    """Measures cells. `pids` are the other processes that take part in every one: the mock provider, say."""

    def __init__(
        self, *, tool: str, seconds: float, warm_up_seconds: float, expected: dict[str, Expected],
        admin_dsn: str, postmaster: int, pids: Sequence[int], cores: Sequence[int],
    ) -> None:  # fmt: skip
        self._tool = tool
        self._seconds = seconds
        self._warm_up_seconds = warm_up_seconds
        self._expected = expected
        self._database = psycopg.connect(admin_dsn, autocommit=True)
        self._postmaster = postmaster
        self._pids = pids
        self._cores = cores

    def close(self) -> None:
        self._database.close()

    def job(self, subject: Subject, kind: str, connections: int, **more: Any) -> Job:
        """The job that a cell runs."""
        active = len(subject.bearers) if subject.all_active else ACTIVE_PER_CONNECTION * connections
        # Evenly taken from all: neighbours would share pages of the database.
        bearers = subject.bearers[:: max(1, len(subject.bearers) // active)][:active]
        return job_for(
            subject.url, kind, bearers, self._expected[kind], connections=connections,
            **{"seconds": self._seconds, "warm_up_seconds": self._warm_up_seconds} | more,
        )  # fmt: skip

    def check(self, subject: Subject, kind: str, answers: int = 200) -> None:
        """Compare some answers with the provider's, whole. Raises RuntimeError for one that differs."""
        load = run(self.job(subject, kind, 4, seconds=30, warm_up_seconds=0, answers=answers), "own")
        if load.bad or load.answers < answers:
            raise RuntimeError(
                f"{subject.name}, {kind}: {load.bad} of {load.answers} answers are wrong: {load.first_bad}"
            )

    def weigh(self, subject: Subject, kind: str, connections: int, round_: int) -> Cell:
        """Load the subject and say what that cost."""
        before: list[_Reading] = []
        lane = _lane_of(subject)
        load = run(
            self.job(subject, kind, connections), self._tool, on_begin=lambda: before.append(self._read(subject))
        )
        after = self._read(subject)
        (start,) = before
        answers = max(1, load.answers)
        books = subject.keeps_books
        groups, items = (b - a for a, b in zip(lane, _lane_of(subject), strict=True))
        ours = after.cpu - start.cpu + after.postgres - start.postgres + after.others - start.others
        seconds = (after.wall - start.wall) * len(self._cores)
        return Cell(
            subject=subject.name,
            kind=kind,
            connections=connections,
            round=round_,
            load=load,
            cpu_us=(after.cpu - start.cpu) / answers * 1e6,
            postgres_us=(after.postgres - start.postgres) / answers * 1e6 if books else None,
            wal_bytes=(after.wal - start.wal) / answers if books else None,
            commits=(after.xids - start.xids) / answers if books else None,
            group=items / groups if groups else None,
            rss_mb=sum(map(_rss_mb, subject.pids)),
            foreign_percent=max(0.0, (after.busy - start.busy - ours) / seconds * 100),
        )

    def _read(self, subject: Subject) -> _Reading:
        row = self._database.execute(
            "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint,"
            " pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        ).fetchone()
        assert row is not None
        children = resource.getrusage(resource.RUSAGE_CHILDREN)  # the load generators that have ended
        others = children.ru_utime + children.ru_stime
        others += sum(_cpu(pid) for pid in (os.getpid(), *self._pids) if pid not in subject.pids)
        busy, wall = _busy(self._cores)
        return _Reading(
            cpu=sum(map(_cpu, subject.pids)),
            postgres=_postgres_cpu(self._postmaster),
            others=others,
            busy=busy,
            wall=wall,
            wal=row[0],
            xids=row[1],
        )


@dataclass(frozen=True)
class _Reading:
    """Counters at one moment. CPU in seconds."""

    cpu: float
    postgres: float
    others: float
    busy: float
    wall: float
    wal: int
    xids: int


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu(pid: int) -> float:
    """User and system time of a process, its threads included."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICK


def _postgres_cpu(postmaster: int) -> float:
    """CPU of a whole PostgreSQL: the postmaster, its living children and those that ended."""
    fields = _stat(postmaster)
    total = sum(int(field) for field in fields[11:15]) / _TICK
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = _stat(int(entry))
            except OSError:
                continue
            if int(fields[1]) == postmaster:
                total += (int(fields[11]) + int(fields[12])) / _TICK
    return total


def _rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _busy(cores: Sequence[int]) -> tuple[float, float]:
    """Seconds that these cores have worked, and the seconds that one of them has counted in all."""
    names = {f"cpu{core}" for core in cores}
    busy = total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in names:
            ticks = [int(field) for field in fields[:8]]
            total += sum(ticks)
            busy += sum(ticks) - ticks[3] - ticks[4]
    return busy / _TICK, total / _TICK / len(names)


def _lane_of(subject: Subject) -> tuple[float, float]:
    """Group commits and the items in them so far, as the gateway's own metrics say."""
    if not (subject.keeps_books and len(subject.pids) == 1):
        return 0, 0
    host = subject.url.removeprefix("http://").split("/")[0]
    connection = http.client.HTTPConnection(host, timeout=5)
    try:
        connection.request("GET", "/metrics")
        found = {name: float(value) for name, value in _LANE.findall(connection.getresponse().read())}
    finally:
        connection.close()
    return found.get(b"groups", 0), found.get(b"items", 0)
