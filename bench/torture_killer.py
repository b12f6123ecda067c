"""Who makes a torture one: the killer, and the office that goes on working meanwhile.

The killer ends or stops processes of the stage at random moments: gateways, the API, jobs, the postmaster, backends,
all at once. The office does what an operator does: it grants credit, sets and lifts spend limits, and sweeps
expired holds as the jobs do. Each is a thread of the torture's own process. Not here: money across the border
(`torture_money`), what must still be true afterwards.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from bench.torture_stage import LEASE_SECONDS, Stage
from faucet.kit.ids import uuid7

KINDS = {
    "gateway killed": 34,
    "all gateways killed": 9,
    "backend killed": 18,
    "postmaster killed": 6,
    "gateway and postmaster killed": 4,
    "backends stopped": 13,
    "gateway stopped": 11,
    "api killed": 22,
    "jobs killed": 26,
    "api and jobs killed": 6,
    "jobs stopped": 6,
    "api stopped": 4,
}
"""How often each blow falls. A stopped process goes on after a while, as if nothing had happened. A backend that is
killed takes the whole server down as the postmaster does, but it is back at once: whoever starts a postmaster
again waits longer after each time, and an hour without a database proves nothing."""
PAUSE_SECONDS = (0.5, 5.0)
"""Between two blows, at least and at most."""
SWEEP_SECONDS = 1.0
OFFICE_SECONDS = 0.25
POOR_E8 = 50_000
LIMITS_MAX = 6
GRANT_CHANCE = 0.4
"""A wallet with so little is given some more, but not at once: most of the time it pays for a few answers."""


class Killer:
    """Ends and stops processes until told to leave off."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self._stage = stage
        self._chance = random.Random(f"killer-{seed}")
        self._over = threading.Event()
        self._stopped: set[int] = set()
        self.blows: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="killer")

    @property
    def kills(self) -> int:
        """Blows that ended a process."""
        return sum(count for kind, count in self.blows.items() if kind.endswith("killed"))

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Leave off, and let everything that was stopped go on."""
        self._over.set()
        self._thread.join()
        for pid in list(self._stopped):
            self._go_on(pid)

    def _run(self) -> None:
        while True:
            pause, kind = (
                self._chance.uniform(*PAUSE_SECONDS),
                self._chance.choices(list(KINDS), list(KINDS.values()))[0],
            )
            minute = 60 - time.time() % 60
            if minute < pause:  # what jobs do once a minute, among it the closing of months, begins just then
                pause, kind = minute + self._chance.random() / 2, "jobs killed"
            if self._over.wait(pause):
                return
            if self._strike(kind):
                self.blows[kind] += 1

    def _strike(self, kind: str) -> bool:
        chance, gateways = self._chance, self._stage.gateways
        office = [kept for kept in self._stage.kept if kept.kind != "gateway"]
        if kind == "gateway killed":
            return chance.choice(gateways).kill()
        if kind == "all gateways killed":
            return any([gateway.kill() for gateway in gateways])
        if kind == "postmaster killed":
            return self._kill_postmaster()
        if kind == "gateway and postmaster killed":
            return all([chance.choice(gateways).kill(), self._kill_postmaster()])
        if kind == "api killed":
            return any([kept.kill() for kept in office if kept.kind == "api"])
        if kind == "jobs killed":
            return chance.choice([kept for kept in office if kept.kind == "jobs"]).kill()
        if kind == "api and jobs killed":
            return any([kept.kill() for kept in office])
        if kind in ("gateway stopped", "jobs stopped", "api stopped"):
            pid = chance.choice([kept for kept in self._stage.kept if kept.kind == kind.split()[0]]).pid
            return pid is not None and self._stop([pid])
        backends = _backends(self._stage.postgres.pid)
        if not backends:
            return False
        if kind == "backend killed":
            return _signal(chance.choice(backends), signal.SIGKILL)
        return self._stop(backends if chance.random() < 0.3 else [chance.choice(backends)])

    def _kill_postmaster(self) -> bool:
        postgres = self._stage.postgres
        pid = postgres.pid
        try:
            # While it is being started again, the number may be that of a dead one, or by now of anybody.
            is_ours = str(postgres.cluster).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
        return is_ours and _signal(pid, signal.SIGKILL)

    def _stop(self, pids: Iterable[int]) -> bool:
        """Stop processes for a moment, or for longer than a lease."""
        stopped = [pid for pid in pids if _signal(pid, signal.SIGSTOP)]
        self._stopped.update(stopped)
        seconds = self._chance.uniform(0.1, 1.5)
        if self._chance.random() < 0.3:
            seconds = LEASE_SECONDS + self._chance.uniform(0.5, 2.5)
        for pid in stopped:
            threading.Timer(seconds, self._go_on, (pid,)).start()
        return bool(stopped)

    def _go_on(self, pid: int) -> None:
        self._stopped.discard(pid)
        _signal(pid, signal.SIGCONT)


class Office:
    """Grants credit, sets spend limits and sweeps, however often the database goes away."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self._stage = stage
        self._chance = random.Random(f"office-{seed}")
        self._over = threading.Event()
        self._connection: psycopg.Connection | None = None
        self.granted_e8: Counter[int] = Counter()
        """By wallet, what the ledger has confirmed."""
        self._due: list[tuple[str, int, int]] = []
        self._limits: list[tuple[str, UUID, str]] = []
        self.counts: Counter[str] = Counter()
        self._swept = 0.0
        self._thread = threading.Thread(target=self._run, name="office")

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop when everything that was granted is confirmed."""
        self._over.set()
        self._thread.join()
        self.forget_connection()

    def grant(self, wallet: int, amount_e8: int) -> None:
        """Owe a wallet credit; it is paid out under a key of its own until the ledger confirms it, once."""
        self._due.append((f"torture:{uuid7()}", wallet, amount_e8))

    def pay_out(self) -> None:
        """Pay what is owed. Raises psycopg.Error."""
        while self._due:
            key, wallet, amount_e8 = self._due[0]
            rows = self._ask(
                "select transfer_v1(array[%s]::uuid[], array[12]::smallint[],"
                " array[(select id from account where kind = 'grants')], array[%s]::bigint[], array[%s]::bigint[],"
                " array[%s], array['torture'])",
                (uuid7(), wallet, amount_e8, key),
                role="faucet_jobs",
            )
            status = rows[0][0][0]
            if status not in (0, 4):
                raise AssertionError(f"a grant was refused with status {status}")
            self.counts["grants"] += 1
            self.counts["grants repeated"] += status == 4
            self.granted_e8[wallet] += amount_e8
            del self._due[0]

    def sweep(self) -> int:
        """Give back holds whose lease has run out; how many there were. Raises psycopg.Error."""
        swept = len(self._ask("select * from expire_holds_v1(1000)", (), role="faucet_jobs"))
        self.counts["swept"] += swept
        return swept

    def forget_connection(self) -> None:
        """The database was away: connect anew next time."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self) -> None:
        while not self._over.wait(OFFICE_SECONDS) or self._due:
            try:
                self._work()
            except psycopg.Error as error:
                self.counts[f"office met {type(error).__name__}"] += 1
                self.forget_connection()

    def _work(self) -> None:
        chance = self._chance
        if not self._over.is_set():
            poor = "select id from account where kind = 'wallet' and posted_e8 < %s"
            for (wallet,) in self._ask(poor, (POOR_E8,), role="faucet_jobs"):
                if chance.random() < GRANT_CHANCE:
                    self.grant(wallet, chance.choice((7_000, 20_000, 60_000, 150_000)))
        self.pay_out()
        if time.monotonic() - self._swept > SWEEP_SECONDS:
            self.sweep()
            self._swept = time.monotonic()
        if chance.random() < 0.1:
            self._move_limit()

    def _move_limit(self) -> None:
        """Put a limit on somebody, or lift one that is there; there are never many."""
        chance = self._chance
        if len(self._limits) >= chance.randint(1, LIMITS_MAX):
            scope, scope_id, period = self._limits[0]
            self._put_limit(scope, scope_id, period, None)
            del self._limits[0]
            return
        end_user, period = chance.choice(self._stage.end_users), chance.choice(("month", "total"))
        scopes = {"end_user": end_user.id, "session": end_user.session_id, "app": end_user.app_id}
        scope = chance.choices(list(scopes), (4, 4, 1))[0]
        # Little beyond what was spent, so that it bites; an app's is wider, or nobody would be served.
        column = {"end_user": "end_user_id", "session": "session_id", "app": "app_id"}[scope]
        query = f"select coalesce(sum(retail_e8), 0)::bigint from usage_event where {column} = %s"
        spent = self._ask(query, (scopes[scope],), role="faucet_jobs")[0][0]
        room = chance.choice((20_000, 100_000)) * (10 if scope == "app" else 1)
        self._put_limit(scope, scopes[scope], period, spent + room)
        self._limits.append((scope, scopes[scope], period))

    def _put_limit(self, scope: str, scope_id: UUID, period: str, amount_e8: int | None) -> None:
        self._ask("select spend_limit_set_v1(%s, %s, %s, %s)", (scope, scope_id, period, amount_e8), role="faucet_api")
        self.counts["limits set" if amount_e8 is not None else "limits lifted"] += 1

    def _ask(self, query: str, values: tuple[object, ...], *, role: str) -> list[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = psycopg.connect(self._stage.dsn, autocommit=True, connect_timeout=3)
            self._connection.execute("set statement_timeout = '15s'")
        self._connection.execute(f"set role {role}".encode())
        return self._connection.execute(query.encode(), values).fetchall()


def _signal(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _backends(postmaster: int) -> list[int]:
    """The processes of a server that serve connections."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "stat").read_text()
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue  # it has just ended
        if int(status.rpartition(")")[2].split()[1]) == postmaster and b"[local]" in words:
            found.append(int(entry.name))
    return found
