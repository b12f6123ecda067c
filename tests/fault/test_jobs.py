"""The jobs' process does its sweeps, and goes on after the database, or another jobs' process, was killed."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from books import Books, Settlement, Tenant
from conftest import serve

from faucet.jobs.expire_holds import expire_holds
from faucet.jobs.purge import purge
from faucet.jobs.reconcile import reconcile_books
from faucet.kit.config import load_config
from faucet.kit.db import Tx, open_pool
from faucet.kit.embedded_postgres import EmbeddedPostgres, Running
from faucet.kit.migrate import migrate

PATIENCE_SECONDS = 40.0
_JOBS = """
import asyncio, os
from faucet.jobs.app import run
from faucet.kit.config import load_config
from faucet.kit.log import configure
configure("jobs")
asyncio.run(run(load_config(), os.environ["TEST_DSN"], on_ready=lambda: print("ready", flush=True)))
"""


@dataclass
class Jobs:
    """A jobs' process."""

    process: subprocess.Popen[str]
    port: int

    def page(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@contextmanager
def running_jobs(dsn: str, folder: Path) -> Iterator[Jobs]:
    """A jobs' process while the block runs; it must end by itself when told to."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    env = os.environ | {
        "TEST_DSN": dsn,
        "FAUCET_DATA": str(folder / "data"),
        "PORT_JOBS": str(port),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with open(folder / f"jobs-{port}.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _JOBS], env=env, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 30)[0], "the jobs' process did not start"
        assert process.stdout.readline() == "ready\n"
        yield Jobs(process, port)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def wait_until_gone(books: Books, hold: UUID) -> None:
    """Fails when the hold is still there after a while."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while books.one("select count(*) from hold where id = %s", hold):
        assert time.monotonic() < deadline, "no sweep gave the hold back"
        time.sleep(0.1)


def overdue(books: Books, tenant: Tenant) -> UUID:
    hold = books.held(tenant, 100)
    books.run_out(hold)
    return hold


def test_sweeps_run_and_survive_a_killed_process(books: Books, dsn: str, tmp_path: Path) -> None:
    """Lost: holds of a dead gateway keep users' money until somebody notices; one kill stops all sweeps."""
    tenant = books.tenant(1_000)
    hold = overdue(books, tenant)
    with running_jobs(dsn, tmp_path) as first:
        wait_until_gone(books, hold)
        assert json.loads(first.page("/health")[1]) == {"ok": True, "service": "@modelfaucet/jobs"}
        assert first.page("/ready")[0] == 200
        assert first.page("/nothing")[0] == 404
        text = first.page("/metrics")[1]
        assert "modelfaucet_holds_expired_total 1.0" in text
        assert 'modelfaucet_sweeps_total{end="done",sweep="expire_holds"}' in text
        first.process.kill()
        first.process.wait()
    hold = overdue(books, tenant)
    with running_jobs(dsn, tmp_path), running_jobs(dsn, tmp_path):
        wait_until_gone(books, hold)
    assert books.balance(tenant.wallet) == (1_000, 0)
    assert books.one("select count(*) from procrastinate.procrastinate_jobs where status = 'todo'") <= 3


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Running]:
    """A PostgreSQL that this test may kill."""
    tmp_path.chmod(0o711)
    with EmbeddedPostgres(tmp_path / "pg") as running:
        migrate(running.dsn)
        yield running


def kill_database(running: Running) -> None:
    """SIGKILL, and wait until it is back."""
    os.kill(running.pid, signal.SIGKILL)
    time.sleep(0.2)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        running.ensure()
        try:
            psycopg.connect(running.dsn, connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_jobs_go_on_after_the_database_was_killed(own_server: Running, tmp_path: Path) -> None:
    """Lost: after a restart of the database, sweeps stay away until somebody restarts the jobs."""
    with running_jobs(own_server.dsn, tmp_path) as jobs:
        for _ in range(2):
            kill_database(own_server)
            with psycopg.connect(own_server.dsn, autocommit=True) as connection:
                books = Books(connection)
                hold = overdue(books, books.tenant(1_000))
                wait_until_gone(books, hold)
        assert jobs.process.poll() is None
        assert jobs.page("/ready")[0] == 200


def test_the_api_answers_again_after_the_database_was_killed(own_server: Running, tmp_path: Path) -> None:
    """Lost: the API shows faults (500) while the database restarts, or stays broken afterwards."""
    with psycopg.connect(own_server.dsn, autocommit=True) as connection:
        tenant = Books(connection).tenant(5)
        name = Books(connection).one("select public_app_id from app where id = %s", tenant.app)
    config = load_config({"FAUCET_DATA": str(tmp_path / "data")})
    body = json.dumps({"public_app_id": name, "external_user_id": "u"}).encode()
    seen: set[int] = set()
    with serve(config, own_server.dsn) as base_url:

        def mint() -> int:
            request = urllib.request.Request(
                f"{base_url}/v1/sessions", data=body, headers={"content-type": "application/json"}
            )
            try:
                with urllib.request.urlopen(request, timeout=20) as response:
                    return int(response.status)
            except urllib.error.HTTPError as error:
                with error:
                    assert json.loads(error.read())["error"]["code"] == "unavailable"
                return error.code

        assert mint() == 200
        os.kill(own_server.pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            own_server.ensure()
            seen.add(mint())
            if 200 in seen:
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert mint() == 200
    assert seen <= {200, 503}


# ── the sweeps as functions ──


def in_jobs_role(dsn: str, work: object) -> None:
    """Run an async function over a connection as the jobs' process has it."""

    async def run() -> None:
        pool = await open_pool(dsn, "faucet_jobs", size=1)
        try:
            async with pool.connection() as connection:
                await work(connection)  # type: ignore[operator]
        finally:
            await pool.close()

    asyncio.run(run())


def test_expiry_sweeps_until_nothing_is_overdue(books: Books, dsn: str) -> None:
    """Lost: a crash of many requests is given back one batch at a time, minutes apart."""
    tenant = books.tenant(10_000)
    for _ in range(7):
        overdue(books, tenant)
    kept = books.held(tenant, 50)

    async def work(connection: Tx) -> None:
        swept = await expire_holds(connection, batch=3)
        assert (swept.count, swept.amount_e8) == (7, 700)
        assert (await expire_holds(connection)).count == 0

    in_jobs_role(dsn, work)
    assert books.balance(tenant.wallet) == (10_000, 50)
    assert books.release(kept) == [0]


def test_purge_forgets_only_what_is_long_over(books: Books, dsn: str) -> None:
    """Lost: tables that grow for ever; or a session, or a reply, that is still needed."""
    tenant = books.tenant()
    ages = {"8 days": False, "9 days": False, "6 days": True, "-1 hour": True}
    for number, age in enumerate(ages):
        books.rows(
            "insert into session (id, developer_id, app_id, end_user_id, bearer_hash, metadata, expires_at)"
            " values (gen_random_uuid(), %s, %s, %s, %s, jsonb_build_object('age', %s::text),"
            f" now() - interval '{age}')",
            tenant.developer,
            tenant.app,
            tenant.end_user,
            bytes([number]) * 32,
            age,
        )
        for old in ("1 second", "-1 hour"):
            books.rows(
                "insert into idempotent_reply (end_user_id, key_hash, fingerprint, hold_id, claimed_until, expires_at)"
                f" values (%s, sha256(gen_random_uuid()::text::bytea), sha256('x'), gen_random_uuid(), now(),"
                f" now() - interval '{old}')",
                tenant.end_user,
            )
            books.rows(
                "insert into api_idempotency (principal, key_hash, fingerprint, expires_at) values"
                f" ('operator', sha256(gen_random_uuid()::text::bytea), sha256('x'), now() - interval '{old}')"
            )

    for name, settled in (
        ("old", "now() - interval '91 days'"),
        ("new", "now() - interval '89 days'"),
        ("open", "null"),
    ):
        books.rows(
            "insert into stripe_event (id, type, created_at, is_live, body, outcome, settled_at)"
            f" values (%s, 'refund.created', '2020-01-01', false, '', %s, {settled})",
            name,
            "waiting" if name == "open" else "applied",
        )

    async def work(connection: Tx) -> None:
        purged = await purge(connection, batch=1)
        assert (purged.sessions, purged.replies, purged.events) == (2, 8, 1)

    in_jobs_role(dsn, work)
    left = {row[0] for row in books.rows("select metadata ->> 'age' from session")}
    assert left == {age for age, stays in ages.items() if stays}
    assert {row[0] for row in books.rows("select id from stripe_event")} == {"new", "open"}
    for table in ("idempotent_reply", "api_idempotency"):
        assert books.one(f"select count(*) from {table}") == 4
        assert books.one(f"select count(*) from {table} where expires_at > now()") == 4


def test_differences_are_alarms(books: Books, dsn: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Lost: books that don't add up and a process that knows it and says nothing."""
    tenant = books.tenant(1_000)
    assert books.settle(Settlement(tenant, books.held(tenant, 10), cost=5)) == [0]

    async def work(connection: Tx) -> None:
        assert await reconcile_books(connection) == []
        books.rows("update account set posted_e8 = posted_e8 + 3 where id = %s", tenant.revenue)
        found = await reconcile_books(connection)
        assert {finding.check for finding in found} == {"account_balance", "trial_balance"}

    in_jobs_role(dsn, work)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    alarms = [line for line in lines if line["event"] == "books.differ"]
    assert {(a["level"], a["check"], a["actual"] - a["expected"]) for a in alarms} == {
        ("error", "account_balance", 3),
        ("error", "trial_balance", 3),
    }
