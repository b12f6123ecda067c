"""The stage of a torture: PostgreSQL, a mock provider, a Stripe double; gateways, an API and jobs' processes that are
started again whenever they die.

All are real processes of their own and end with this one. The users are few and their wallets nearly empty; a few
others are paid into (`payers`). Not here: the clients (`torture_clients`), who moves money (`torture_money`), the
killer (`torture_killer`), the months before (`torture_past`).
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

from bench.torture_keeper import die_with_parent
from bench.torture_past import live_through
from faucet.kit.config import load_config
from faucet.kit.embedded_postgres import EmbeddedPostgres
from faucet.kit.ids import uuid7
from faucet.kit.migrate import migrate
from faucet.payments.double.balance import PLATFORM_CENTS
from faucet.rating.seed import seed_rows
from faucet.rating.store import insert_drafts

ROOT = Path(__file__).resolve().parent.parent
LEASE_SECONDS = 5
READY_SECONDS = 30
PAYERS = 6
"""End users whose wallets are paid into."""
JOBS = 2
OPERATORS = ("alice", "bob")
STRIPE_KEY = "sk_test_of_the_torture"
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
    public_id: UUID
    bearer: str


@dataclass(frozen=True)
class Developer:
    """Somebody who earns."""

    id: UUID
    earnings: UUID
    """The account's public id."""


class Stage:
    """Everything that is to be tortured. A context manager: left, it is all gone but the files."""

    def __init__(self, folder: Path, *, gateways: int, wallets: int, has_months: bool = True) -> None:
        self.folder = folder
        self.has_months = has_months
        """Whether months before this one can be closed, which jobs do once a minute."""
        self._gateways = gateways
        self._wallets = wallets
        self._servers: list[subprocess.Popen[bytes]] = []
        self.gateways: list[Kept] = []
        self.api: Kept | None = None
        self.jobs: list[Kept] = []
        self.operators = {name: secrets.token_urlsafe(32) for name in OPERATORS}
        self.webhook_secret = f"whsec_{secrets.token_urlsafe(24)}"

    def __enter__(self) -> Stage:
        self.postgres = EmbeddedPostgres.start(self.folder / "database")
        try:
            self.dsn = self.postgres.dsn
            migrate(self.dsn)
            asyncio.run(_confirm_prices(self.dsn))
            self.developers, crowd = _populate(self.dsn, self._wallets + PAYERS)
            self.payers, self.end_users = crowd[:PAYERS], crowd[PAYERS:]
            live_through(self.dsn, [payer.wallet for payer in self.payers])
            mock_url = self._serve("mock", ["-m", "faucet.providers.fake_server", "--port", "0"])
            self.stripe = self._serve("stripe", ["-m", "faucet", "mock-stripe", "--port", "0"])
            self.port, self.api_port = _free_port(), _free_port()
            load_config(self.office_settings)  # makes the secrets up that are not given, for all of them
            settings = self._settings(mock_url)
            self.gateways = [Kept(self, "gateway", number, settings) for number in range(self._gateways)]
            self.api = Kept(self, "api", 0, self.office_settings)
            self.start_jobs()
            for kept in self.kept:
                kept.wait_until_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for kept in self.kept:
            kept.close()
        for server in self._servers:
            server.terminate()
            server.wait(10)
        self.postgres.close()

    @property
    def kept(self) -> list[Kept]:
        """Everything that is killed, and started again."""
        return [*self.gateways, *([] if self.api is None else [self.api]), *self.jobs]

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def office_settings(self) -> dict[str, str]:
        """The settings of the API, the jobs and the commands."""
        return {
            "TORTURE_DSN": self.dsn,
            "DATABASE_URL": self.dsn,
            "PORT_API": str(self.api_port),
            "FAUCET_DATA": str(self.folder / "office"),
            "OPERATOR_TOKENS": ",".join(f"{name}:{token}" for name, token in self.operators.items()),
            "STRIPE_SECRET_KEY": STRIPE_KEY,
            "STRIPE_FOREIGN_USD": str(PLATFORM_CENTS // 100),  # what the double has from the start
            "STRIPE_WEBHOOK_SECRET": self.webhook_secret,
            "STRIPE_API_BASE": self.stripe,
            "API_RATE_LIMIT_MAX_REQUESTS": "1000000",
            "PAYOUT_THRESHOLD_USD": "0.01",
            "PAYOUT_DAILY_MAX_USD": "0",
            "PAYOUT_HOLD_BACK_DAYS": "0",
            "PERIOD_CLOSE_GRACE_HOURS": "1",
        }

    def start_jobs(self, *, ahead_seconds: int = 0) -> None:
        """Start the jobs' processes, for whom it is so much later; those that there are end first."""
        for kept in self.jobs:
            kept.close()
        settings = self.office_settings | {"TORTURE_AHEAD_SECONDS": str(ahead_seconds)}
        self.jobs = [Kept(self, "jobs", number, settings) for number in range(JOBS)]

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

    def _serve(self, name: str, arguments: Sequence[str]) -> str:
        """Start a server that nobody kills and that prints where it listens; its address."""
        server = self.start([sys.executable, *arguments], name, piped=True)
        self._servers.append(server)
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            raise RuntimeError(f"{name} did not start: see {self.folder}/{name}.log")
        return str(json.loads(line)["url"])

    def _settings(self, mock_url: str) -> dict[str, str]:
        """The settings of gateways."""
        return {
            "TORTURE_DSN": self.dsn,
            "PORT_GATEWAY": str(self.port),
            "FAUCET_DATA": str(self.gateway_data),
            "MOCK_PROVIDER_URL": mock_url,
            "HOLD_LEASE_SECONDS": str(LEASE_SECONDS),
            "HOLD_WAIT_SECONDS": "1",
            "SETTLE_DEADLINE_SECONDS": "4",
            "PROVIDER_TIMEOUT_MS": "2500",
            "PROVIDER_IDLE_TIMEOUT_MS": "2500",
            "PROVIDER_RETRY_DELAY_MS": "50",
        }


class Kept:
    """One process after another in the same place (`torture_keeper`), and what became of each."""

    def __init__(self, stage: Stage, kind: str, number: int, settings: Mapping[str, str]) -> None:
        self.kind = kind
        self.name = f"{kind}-{number}"
        self._log = stage.folder / f"{self.name}.log"
        self.starts = 0
        self.gave_up_starting = 0
        """Ended by itself before it ever served: it needs the database for that."""
        self.crashes = 0
        """Ended by itself after that."""
        self._pid: int | None = None
        self._is_ready = threading.Event()
        command = [sys.executable, "-m", "bench.torture_keeper", kind]
        self._keeper = stage.start(command, self.name, env=settings, piped=True)
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
    """Whether a gateway or the API says that it is ready."""
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


def _populate(dsn: str, wallets: int) -> tuple[list[Developer], list[EndUser]]:
    """Two developers with three apps, one who has none, and the end users that are spread over the apps."""
    with psycopg.connect(dsn) as connection:
        apps = []
        known = [Developer(uuid7(), uuid7()) for _ in range(3)]
        developers = [developer.id for developer in known]
        for number, developer_id in enumerate(developers):
            connection.execute(
                "insert into developer (id, name, email) values (%s, 'Developer', %s)",
                (developer_id, f"developer{number}@example.com"),
            )
            for kind in ("earnings", "platform_revenue", "payout_clearing"):
                name = known[number].earnings if kind == "earnings" else uuid7()
                connection.execute("select account_open_v1(%s, %s, %s, null, '')", (name, kind, developer_id))
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
        return known, [_open_wallet(connection, *apps[number % len(apps)]) for number in range(wallets)]


def _open_wallet(connection: psycopg.Connection, developer_id: UUID, app_id: UUID, feature_id: UUID) -> EndUser:
    end_user_id, session_id, public_id = uuid7(), uuid7(), uuid7()
    bearer = f"mf_sess_{secrets.token_urlsafe(32)}"
    connection.execute(
        "insert into end_user (id, developer_id, app_id, external_id_hash) values (%s, %s, %s, %s)",
        (end_user_id, developer_id, app_id, secrets.token_bytes(32)),
    )
    row = connection.execute(
        "select account_open_v1(%s, 'wallet', %s, %s, '')", (public_id, developer_id, end_user_id)
    ).fetchone()
    assert row is not None
    connection.execute(
        "insert into session (id, developer_id, app_id, feature_id, end_user_id, bearer_hash, expires_at,"
        " may_spend_paid) values (%s, %s, %s, %s, %s, %s, now() + interval '30 days', true)",
        (session_id, developer_id, app_id, feature_id, end_user_id, hashlib.sha256(bearer.encode()).digest()),
    )
    return EndUser(end_user_id, session_id, app_id, row[0], public_id, bearer)
