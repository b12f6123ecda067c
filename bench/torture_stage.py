"""The stage of a torture: PostgreSQL, a mock provider, gateways that are started again whenever they die.

All are real processes of their own and end with this one. The users are few and their wallets nearly empty.
Not here: the clients (`torture_clients`), the killer (`torture_killer`).
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO
from uuid import UUID

import psycopg

from bench.torture_gateway import die_with_parent
from faucet.kit.embedded_postgres import EmbeddedPostgres
from faucet.kit.ids import uuid7
from faucet.kit.migrate import migrate
from faucet.rating.seed import seed_rows
from faucet.rating.store import insert_drafts

ROOT = Path(__file__).resolve().parent.parent
LEASE_SECONDS = 5
READY_SECONDS = 30
FIRST_CREDIT_E8 = 40_000
PRICINGS: Sequence[dict[str, object]] = (
    {"mode": "usage_markup", "markup_percent": 30, "channel_share_bps": 4000},
    {"mode": "usage_markup", "markup_percent": 0},
    {"mode": "usage_markup", "markup_percent": 12.5, "channel_share_bps": 10000},
)
"""One app each: with shares, at cost, and with everything for the developer."""


@dataclass(frozen=True)
class EndUser:
    """Somebody with a wallet and a session."""

    id: UUID
    session_id: UUID
    app_id: UUID
    wallet: int
    bearer: str


class Stage:
    """Everything that is to be tortured. A context manager: left, it is all gone but the files."""

    def __init__(self, folder: Path, *, gateways: int, wallets: int) -> None:
        self.folder = folder
        self._gateways = gateways
        self._wallets = wallets
        self._mock: subprocess.Popen[bytes] | None = None
        self.gateways: list[Gateway] = []

    def __enter__(self) -> Stage:
        self.postgres = EmbeddedPostgres.start(self.folder / "database")
        try:
            self.dsn = self.postgres.dsn
            migrate(self.dsn)
            asyncio.run(_confirm_prices(self.dsn))
            self.end_users = _populate(self.dsn, self._wallets)
            mock_url = self._start_mock()
            self.port = _free_port()
            self.gateways = [Gateway(self, number, mock_url) for number in range(self._gateways)]
            for gateway in self.gateways:
                gateway.wait_until_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for gateway in self.gateways:
            gateway.close()
        if self._mock is not None:
            self._mock.terminate()
            self._mock.wait(10)
        self.postgres.close()

    @property
    def gateway_data(self) -> Path:
        """FAUCET_DATA of the gateways; they share it, and so their spools."""
        return self.folder / "gateways"

    def spooled(self) -> int:
        """How many bytes of settlements wait on disk."""
        return sum(path.stat().st_size for path in (self.gateway_data / "spool").glob("*.spool"))

    def log_of(self, name: str) -> IO[bytes]:
        """A log file to append to."""
        return (self.folder / f"{name}.log").open("ab")

    def start(
        self, command: Sequence[str], log: str, *, env: Mapping[str, str] | None = None, piped: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start a process that ends with this one; its words go to a log."""
        with self.log_of(log) as words:
            return subprocess.Popen(
                command,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder), "PYTHONPATH": str(ROOT), **(env or {})},
                cwd=ROOT,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else words,
                stderr=words,
                preexec_fn=die_with_parent,
            )

    def _start_mock(self) -> str:
        command = [sys.executable, "-m", "faucet.providers.fake_server", "--port", "0"]
        self._mock = self.start(command, "mock", piped=True)
        assert self._mock.stdout is not None
        line = self._mock.stdout.readline()
        if not line:
            raise RuntimeError(f"the mock provider did not start: see {self.folder}/mock.log")
        return str(json.loads(line)["url"])


class Gateway:
    """One gateway process after another in the same place (`torture_gateway`), and what became of each."""

    def __init__(self, stage: Stage, number: int, mock_url: str) -> None:
        self.name = f"gateway-{number}"
        self._log = stage.folder / f"{self.name}.log"
        self.starts = 0
        self.gave_up_starting = 0
        """Ended by itself before it ever served: it needs the database for that."""
        self.crashes = 0
        """Ended by itself after that."""
        self._pid: int | None = None
        self._is_ready = threading.Event()
        env = {
            "TORTURE_DSN": stage.dsn,
            "PORT_GATEWAY": str(stage.port),
            "FAUCET_DATA": str(stage.gateway_data),
            "MOCK_PROVIDER_URL": mock_url,
            "HOLD_LEASE_SECONDS": str(LEASE_SECONDS),
            "HOLD_WAIT_SECONDS": "1",
            "SETTLE_DEADLINE_SECONDS": "4",
            "PROVIDER_TIMEOUT_MS": "2500",
            "PROVIDER_IDLE_TIMEOUT_MS": "2500",
            "PROVIDER_RETRY_DELAY_MS": "50",
        }
        self._keeper = stage.start([sys.executable, "-m", "bench.torture_gateway"], self.name, env=env, piped=True)
        self._listener = threading.Thread(target=self._listen, name=self.name)
        self._listener.start()

    @property
    def pid(self) -> int | None:
        """The process that runs now, if one does."""
        return self._pid

    def kill(self) -> bool:
        """SIGKILL. False where nothing ran."""
        pid, self._pid = self._pid, None
        if pid is None:
            return False
        self._is_ready.clear()
        os.kill(pid, signal.SIGKILL)
        return True

    def wait_until_ready(self) -> None:
        """Return when one serves. Raises RuntimeError when that takes too long."""
        if not self._is_ready.wait(READY_SECONDS):
            raise RuntimeError(f"{self.name} is not ready: see {self._log}")

    def close(self) -> None:
        """End it for good; what it forked ends with it."""
        self._keeper.kill()
        self._keeper.wait()
        self._listener.join()

    def _listen(self) -> None:
        assert self._keeper.stdout is not None
        served = False
        for line in self._keeper.stdout:
            word, pid, *rest = line.split()
            if word == b"started":
                self.starts += 1
                served = False
                self._pid = int(pid)
            elif word == b"ready":
                served = True
                self._is_ready.set()
            elif rest != [b"-9"]:
                self._pid = None
                self._is_ready.clear()
                self.crashes += served
                self.gave_up_starting += not served


def serves(port: int) -> bool:
    """Whether a gateway says that it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _confirm_prices(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        rows = seed_rows(effective_from=datetime(2026, 1, 1, tzinfo=UTC), providers=()).rows
        await insert_drafts(connection, rows)
        await connection.execute("update price set status = 'confirmed', decided_at = now(), decided_by = 'torture'")


def _populate(dsn: str, wallets: int) -> list[EndUser]:
    """Two developers with three apps, and the end users that are spread over them."""
    with psycopg.connect(dsn) as connection:
        apps = []
        developers = [uuid7(), uuid7()]
        for number, developer_id in enumerate(developers):
            connection.execute(
                "insert into developer (id, name, email) values (%s, 'Developer', %s)",
                (developer_id, f"developer{number}@example.com"),
            )
            for kind in ("earnings", "platform_revenue"):
                connection.execute("select account_open_v1(%s, %s, %s, null, '')", (uuid7(), kind, developer_id))
        for number, pricing in enumerate(PRICINGS):
            app_id, feature_id, developer_id = uuid7(), uuid7(), developers[number % 2]
            connection.execute(
                "insert into app (id, developer_id, public_app_id, name) values (%s, %s, %s, 'App')",
                (app_id, developer_id, f"app_torture_{number}"),
            )
            connection.execute(
                "insert into feature (id, developer_id, app_id, feature_key, display_name, policy, pricing)"
                " values (%s, %s, %s, 'customer_reply', 'Customer reply', %s, %s)",
                (feature_id, developer_id, app_id, json.dumps({"fit_to_wallet": number != 1}), json.dumps(pricing)),
            )
            apps.append((developer_id, app_id, feature_id))
        return [_open_wallet(connection, *apps[number % len(apps)]) for number in range(wallets)]


def _open_wallet(connection: psycopg.Connection, developer_id: UUID, app_id: UUID, feature_id: UUID) -> EndUser:
    end_user_id, session_id, bearer = uuid7(), uuid7(), f"mf_sess_{secrets.token_urlsafe(32)}"
    connection.execute(
        "insert into end_user (id, developer_id, app_id, external_id_hash) values (%s, %s, %s, %s)",
        (end_user_id, developer_id, app_id, secrets.token_bytes(32)),
    )
    row = connection.execute(
        "select account_open_v1(%s, 'wallet', %s, %s, '')", (uuid7(), developer_id, end_user_id)
    ).fetchone()
    assert row is not None
    connection.execute(
        "insert into session (id, developer_id, app_id, feature_id, end_user_id, bearer_hash, expires_at)"
        " values (%s, %s, %s, %s, %s, %s, now() + interval '30 days')",
        (session_id, developer_id, app_id, feature_id, end_user_id, hashlib.sha256(bearer.encode()).digest()),
    )
    return EndUser(end_user_id, session_id, app_id, row[0], bearer)
