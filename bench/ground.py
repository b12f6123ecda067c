"""The ground that a run stands on: cores, PostgreSQL, databases, the mock provider, gateways; all gone at its end.

The gateways (ours and others) run on core 0; PostgreSQL, the mock provider and the load share core 1. Processes
inherit their cores, so whatever they start stays there too. Not here: filling a database (`fill`).
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import hashlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from uuid import UUID

import psycopg

from bench.load import ROOT
from bench.measure import Subject
from bench.settings import Settings
from faucet.kit.embedded_postgres import EmbeddedPostgres
from faucet.kit.ids import uuid7
from faucet.kit.migrate import migrate
from faucet.kit.money import E8_PER_USD
from faucet.rating.seed import seed_rows
from faucet.rating.store import insert_drafts

DEVELOPERS = 10
CREDIT_E8 = 10_000 * E8_PER_USD
READY_SECONDS = 20
STOP_SECONDS = 3
LOG_SEGMENTS = 50
"""Of 16 MB each; what is recycled is kept up to `min_wal_size`."""
_FOLDER = "faucet-bench-"
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Database:
    """A migrated database with developers, apps, users, wallets and sessions."""

    name: str
    dsn: str
    bearers: Sequence[str]


class Ground:
    """Everything that runs. Use as a context manager: leaving it stops and removes all of it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.can_pin = hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1
        cores = sorted(os.sched_getaffinity(0)) if self.can_pin else [0]
        take = min(settings.workers, len(cores) - 1) if self.can_pin else 1
        self.gateway_cores = cores[:take]
        self.other_cores = cores[take : take + 1] if self.can_pin else cores
        self._all_cores = cores
        self._processes: list[subprocess.Popen[str]] = []
        self.start_seconds: dict[str, float] = {}
        """How long each of our gateways took until it was ready."""

    def __enter__(self) -> Ground:
        _remove_left_behind(self.settings.folder)
        self.folder = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=self.settings.folder))
        self.folder.chmod(0o711)  # PostgreSQL's account must pass through where we are root
        self._lock = (self.folder / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            if self.can_pin:
                # What is started from here on stays on these cores, unless it is told otherwise.
                os.sched_setaffinity(0, self.other_cores)
            self.postgres = EmbeddedPostgres.start(self.folder / "data")
            self._age()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            self.stop(process)
        if hasattr(self, "postgres"):
            self.postgres.close()
        if self.can_pin:
            os.sched_setaffinity(0, self._all_cores)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    # ── processes ──

    def start(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, as_gateway: bool = False, log: str
    ) -> subprocess.Popen[str]:
        """Start a process on its core. It ends with this one, however that ends; its words go to a file."""
        cores = self.gateway_cores if as_gateway and self.can_pin else None

        def begin() -> None:
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if cores is not None:
                os.sched_setaffinity(0, cores)

        with (self.folder / f"{log}.log").open("w") as words:
            process = subprocess.Popen(
                command,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder), "PYTHONPATH": str(ROOT), **(env or {})},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if log.startswith("mock") else words,
                stderr=words,
                text=True,
                preexec_fn=begin,
            )
        self._processes.append(process)
        return process

    def stop(self, process: subprocess.Popen[str]) -> None:
        """End one process that `start` started."""
        if process in self._processes:
            self._processes.remove(process)
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def last_words(self, log: str) -> str:
        """The end of what a process wrote."""
        return (self.folder / f"{log}.log").read_text()[-2000:]

    def mock(self, *, delay_ms: int = 0) -> tuple[str, int]:
        """A mock provider; its address (up to /v1) and its process."""
        log = f"mock-{delay_ms}"
        command = [sys.executable, "-m", "faucet.providers.fake_server", "--port", "0", "--delay-ms", str(delay_ms)]
        process = self.start(command, log=log)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the mock provider did not start: {self.last_words(log)}")
        return str(json.loads(line)["url"]), process.pid

    def gateway(self, name: str, database: Database, mock_url: str, *arguments: str) -> Subject:
        """One of our gateways, ready to serve."""
        port = free_port()
        env = {
            "BENCH_DSN": database.dsn,
            "PORT_GATEWAY": str(port),
            "BIND_ADDRESS": "127.0.0.1",
            "MOCK_PROVIDER_URL": mock_url,
            "FAUCET_DATA": str(self.folder / f"gateway-{name.replace(' ', '-')}"),
        }
        command = [sys.executable, "-m", "bench.gateway", *arguments]
        log = f"gateway-{name.replace(' ', '-')}"
        began = time.monotonic()
        processes = [
            self.start(command, env=env, as_gateway=True, log=f"{log}-{number}")
            for number in range(self.settings.workers)
        ]
        self.wait_until_ready(port, "/ready", processes[0], f"{log}-0")
        self.start_seconds[name] = time.monotonic() - began
        return Subject(
            name=name,
            url=f"http://127.0.0.1:{port}",
            pids=tuple(process.pid for process in processes),
            bearers=database.bearers,
            keeps_books="--without-books" not in arguments,
        )

    def wait_until_ready(self, port: int, path: str, process: subprocess.Popen[str], log: str) -> None:
        """Return when a server answers 200. Raises RuntimeError when it ends instead, or takes too long."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            try:
                connection.request("GET", path)
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            finally:
                connection.close()
            time.sleep(0.02)
        raise RuntimeError(f"{log} is not ready: {self.last_words(log)}")

    # ── databases ──

    def _age(self) -> None:
        """Give PostgreSQL the write-ahead log of one that has run for a while: segments that are used again.

        A young one makes each segment when it is needed: 16 MB of zeros, while every request waits.
        """
        with psycopg.connect(self.postgres.dsn, autocommit=True) as connection:
            connection.execute("alter system set min_wal_size = '1GB'")
            connection.execute("select pg_reload_conf()")
            for _ in range(LOG_SEGMENTS):
                connection.execute("select pg_logical_emit_message(false, 'bench', ''), pg_switch_wal()")
            connection.execute("checkpoint")

    def database(self, name: str, users: int) -> Database:
        """A fresh database with so many users, each with a wallet that is never empty and a session."""
        with psycopg.connect(self.postgres.dsn, autocommit=True) as connection:
            connection.execute(f'create database "{name}"'.encode())
        dsn = self.postgres.dsn_for(name)
        migrate(dsn)
        asyncio.run(_confirm_prices(dsn))
        with psycopg.connect(dsn) as connection:
            bearers = _populate(connection, users)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("vacuum (analyze)")
        return Database(name, dsn, bearers)

    def fsync_us(self) -> float:
        """What making 8 kB durable takes here, in the middle of fifty tries."""
        times = []
        with (self.folder / "fsync").open("wb", buffering=0) as file:
            for _ in range(50):
                file.write(bytes(8192))
                began = time.perf_counter()
                os.fdatasync(file.fileno())
                times.append(time.perf_counter() - began)
        return statistics.median(times) * 1e6


def _remove_left_behind(parent: Path) -> None:
    """Remove the folders of runs that were killed: they can be large. One whose lock is held still runs."""
    for folder in parent.glob(f"{_FOLDER}*"):
        try:
            with (folder / "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _confirm_prices(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        rows = seed_rows(effective_from=datetime(2026, 1, 1, tzinfo=UTC), providers=()).rows
        await insert_drafts(connection, rows)
        await connection.execute("update price set status = 'confirmed', decided_at = now(), decided_by = 'bench'")


_FEATURE_PRICING = {"mode": "usage_markup", "markup_percent": 30, "channel_share_bps": 4000}


def _populate(connection: psycopg.Connection, users: int) -> list[str]:
    """Developers, apps, features, and the users that are spread over them; gives the users' bearers."""
    connection.execute(
        "create table bench_app (n integer primary key, developer_id uuid not null, app_id uuid not null,"
        " feature_id uuid not null)"
    )
    for number in range(min(DEVELOPERS, users)):
        ids = (uuid7(), uuid7(), uuid7())
        connection.execute("insert into bench_app values (%s, %s, %s, %s)", (number, *ids))
        _open_developer(connection, number, *ids)
    bearers = [f"mf_sess_{secrets.token_urlsafe(32)}" for _ in range(users)]
    connection.execute(
        """
        create table bench_user as
        select u.n::integer, u.user_id, u.session_id, u.hash, a.developer_id, a.app_id, a.feature_id
          from unnest(%s::uuid[], %s::uuid[], %s::bytea[]) with ordinality as u (user_id, session_id, hash, n)
          join bench_app a on a.n = u.n %% (select count(*) from bench_app)
        """,
        (
            [uuid7() for _ in bearers],
            [uuid7() for _ in bearers],
            [hashlib.sha256(bearer.encode()).digest() for bearer in bearers],
        ),
    )
    for statement in (
        "insert into end_user (id, developer_id, app_id, external_id_hash)"
        " select user_id, developer_id, app_id, sha256(uuid_send(user_id)) from bench_user order by n",
        "insert into session (id, developer_id, app_id, feature_id, end_user_id, bearer_hash, expires_at)"
        " select session_id, developer_id, app_id, feature_id, user_id, hash, now() + interval '1 day'"
        " from bench_user order by n",
        "insert into account (public_id, kind, developer_id, owner_id)"
        " select gen_random_uuid(), 'wallet', developer_id, user_id from bench_user order by n",
    ):
        connection.execute(statement)
    connection.execute(
        """
        with given as (
            insert into transfer_row (event_id, code, debit_id, credit_id, amount_e8)
            select gen_random_uuid(), 12, g.id, w.id, %(credit)s
              from account w cross join account g where w.kind = 'wallet' and g.kind = 'grants' order by w.id
            returning debit_id, credit_id, amount_e8
        )
        update account a set posted_e8 = a.posted_e8 + d.amount
          from (select debit_id as id, -sum(amount_e8) as amount from given group by 1
                union all select credit_id, sum(amount_e8) from given group by 1) d
         where a.id = d.id
        """,
        {"credit": CREDIT_E8},
    )
    return bearers


def _open_developer(
    connection: psycopg.Connection, number: int, developer_id: UUID, app_id: UUID, feature_id: UUID
) -> None:
    connection.execute(
        "insert into developer (id, name, email) values (%s, %s, %s)",
        (developer_id, f"Developer {number}", f"developer{number}@example.com"),
    )
    connection.execute(
        "insert into app (id, developer_id, public_app_id, name) values (%s, %s, %s, 'App')",
        (app_id, developer_id, f"app_bench_{number}"),
    )
    connection.execute(
        "insert into feature (id, developer_id, app_id, feature_key, display_name, pricing)"
        " values (%s, %s, %s, 'customer_reply', 'Customer reply', %s)",
        (feature_id, developer_id, app_id, json.dumps(_FEATURE_PRICING)),
    )
    for kind in ("earnings", "platform_revenue"):
        connection.execute("select account_open_v1(%s, %s, %s, null, '')", (uuid7(), kind, developer_id))
