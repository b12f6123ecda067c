"""What every test may ask for: a PostgreSQL, a migrated database of its own, settings, a running API.

One server and one migrated template serve all workers of a run; each test's database is a copy of the template
and dropped afterwards. The server is the one at FAUCET_TEST_DATABASE_URL (any database of it), else an embedded
one in a temporary folder.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import uvicorn

from faucet.api.app import build_app, server_config
from faucet.kit.clock import Clock
from faucet.kit.config import Config, load_config
from faucet.kit.db import with_database
from faucet.kit.embedded_postgres import EmbeddedPostgres
from faucet.kit.migrate import migrate
from faucet.kit.upstream import Pool
from faucet.stack.keys import ensure_vault_key

sys.path.insert(0, str(Path(__file__).parent))  # pytest puts no test folder on the path; tests share modules

from books import Books  # noqa: E402

GIVEN_SERVER = "FAUCET_TEST_DATABASE_URL"
_RUN = "FAUCET_TEST_RUN"
_RUN_DIR = "FAUCET_TEST_RUN_DIR"
_copies = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the controller names the run; its workers inherit the name
        os.environ[_RUN] = secrets.token_hex(4)
        os.environ[_RUN_DIR] = tempfile.mkdtemp(prefix="faucet-test-")
        os.chmod(os.environ[_RUN_DIR], 0o711)  # as root, PostgreSQL's account has to pass through


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or _RUN not in os.environ:
        return
    given = os.environ.get(GIVEN_SERVER)
    if given is not None:
        with psycopg.connect(given, autocommit=True) as connection:
            pattern = f"t\\_{os.environ[_RUN]}\\_%"
            rows = connection.execute("select datname from pg_database where datname like %s", (pattern,))
            for (name,) in rows.fetchall():
                connection.execute(f'drop database if exists "{name}" with (force)'.encode())
    shutil.rmtree(os.environ[_RUN_DIR], ignore_errors=True)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """The address of a database of the server, as its superuser."""
    given = os.environ.get(GIVEN_SERVER)
    if given is not None:
        yield given
        return
    # Nothing that a test writes has to outlive a power cut.
    settings = {"fsync": "off", "full_page_writes": "off", "max_connections": "300", "autovacuum": "off"}
    with EmbeddedPostgres(Path(os.environ[_RUN_DIR]) / "data", settings=settings) as running:
        yield running.dsn


@pytest.fixture(scope="session")
def template(server_dsn: str) -> str:
    """The name of a database of this run that is migrated and that nobody is connected to."""
    name = f"t_{os.environ[_RUN]}_template"
    lock = os.open(Path(os.environ[_RUN_DIR]) / "template.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with psycopg.connect(server_dsn, autocommit=True) as connection:
            found = connection.execute("select 1 from pg_database where datname = %s", (name,)).fetchone()
            if found is None:
                connection.execute(f'create database "{name}"'.encode())
                migrate(with_database(server_dsn, name))
    finally:
        os.close(lock)
    return name


@contextmanager
def database(server_dsn: str, template: str) -> Iterator[str]:
    """A migrated database while the block runs; its address as the superuser."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    name = f"t_{os.environ[_RUN]}_{worker}_{next(_copies)}"
    # Copying files needs checkpoints, which are dear where they really reach the disk.
    strategy = "wal_log" if GIVEN_SERVER in os.environ else "file_copy"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f'create database "{name}" template "{template}" strategy {strategy}'.encode())
    yield with_database(server_dsn, name)
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f'drop database if exists "{name}" with (force)'.encode())


@pytest.fixture
def dsn(server_dsn: str, template: str) -> Iterator[str]:
    """The address of this test's own migrated database, as the superuser."""
    with database(server_dsn, template) as address:
        yield address


@pytest.fixture(scope="module")
def module_dsn(server_dsn: str, template: str) -> Iterator[str]:
    """A database for tests of one file that only read, or that don't mind each other's rows."""
    with database(server_dsn, template) as address:
        yield address


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to this test's database as the superuser; every statement commits by itself."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def books(db: psycopg.Connection[Any]) -> Books:
    """The ledger of this test's database, as SQL functions."""
    return Books(db)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Settings of a fresh development machine."""
    return load_config({"FAUCET_DATA": str(tmp_path / "data")})


@dataclass(frozen=True)
class RunningApi:
    """An API that serves HTTP on a port of its own."""

    base_url: str
    config: Config
    dsn: str


@pytest.fixture
def api(config: Config, dsn: str) -> Iterator[RunningApi]:
    """The API behind a real socket, in a thread, as its process serves it, on a database that can keep secrets."""
    asyncio.run(ensure_vault_key(dsn, config))
    with serve(config, dsn) as base_url:
        yield RunningApi(base_url, config, dsn)


async def _nowhere(host: str, port: int) -> list[str]:
    raise OSError("tests ask no real provider")


class serve:  # noqa: N801 - reads as a verb where it is used
    """Serve the API on a free port while the block runs; gives its address."""

    def __init__(self, config: Config, dsn: str, *, upstream: Pool | None = None, clock: Clock | None = None) -> None:
        app = build_app(config, dsn, clock=clock, upstream=upstream or Pool(resolve=_nowhere))
        self._server = uvicorn.Server(server_config(config, app))
        self._listener = socket.create_server(("127.0.0.1", 0))
        # asyncio does this only for sockets that name their protocol; without it a reply waits for a delayed ACK.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure: BaseException | None = None
        self._started = threading.Event()

    def _run(self) -> None:
        async def main() -> None:
            task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
            while not (self._server.started or task.done()):
                await asyncio.sleep(0.002)
            self._started.set()
            await task

        try:
            asyncio.run(main())
        except BaseException as failure:
            self._failure = failure
            self._started.set()

    def __enter__(self) -> str:
        self._thread.start()
        assert self._started.wait(15), "the app did not start"
        if self._failure is not None:
            raise self._failure
        assert self._server.started, "the app's lifespan failed"
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(15)
        self._listener.close()
        assert not self._thread.is_alive(), "the app did not stop"
