"""A gateway for tests: real processes, a database of its own, end users with money, and plain ways to ask.

Here: starting the mock provider and gateways as processes, tenants and end users to ask as, one HTTP request at a
time, and what the database says about a request afterwards. The folders whose tests need the fixtures import them
in their `conftest.py`. Not here: cutting and losing connections (`cable`).
"""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from books import E8, Books, Tenant
from psycopg.rows import dict_row

import faucet
from faucet.kit.config import NAMES
from faucet.kit.db import with_database
from faucet.providers.fake_ask import FAILURES

CHAT = "/v1/chat/completions"
FEATURE = "customer_reply"
INPUT_E8, OUTPUT_E8 = 15, 60
"""What a token of `mock-small`, and of every model that fails on purpose, costs."""
MARKUP_PERCENT, SHARE_BPS = 30, 4000
READY_SECONDS = 30.0
_GATEWAY = """
import asyncio, os
import uvloop
from faucet.gateway import exchange, server
from faucet.gateway.main import run
from faucet.kit.config import load_config
{before}
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(run(load_config(), os.environ["TEST_DSN"], on_ready=lambda: print("ready", flush=True)))
"""
_copies = itertools.count()


def wait_for(what: Callable[[], Any], seconds: float = 15) -> Any:
    """What `what` gives once that is true."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return found


# ── processes ──


class Program:
    """A process of ours that says one line when it is ready. Its standard error goes to a file."""

    def __init__(self, arguments: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
        (package,) = faucet.__path__
        inherited = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in NAMES}
        environment = {**inherited, "PYTHONPATH": os.path.dirname(os.path.abspath(package)), **(environment or {})}
        self.log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-P", *arguments], stdout=subprocess.PIPE, stderr=errors, env=environment
            )
        assert self.process.stdout is not None
        told, _, _ = select.select([self.process.stdout], [], [], READY_SECONDS)
        self.said = self.process.stdout.readline().decode().strip() if told else ""
        if not self.said:
            self.kill()
            raise AssertionError(f"it did not get ready:\n{log.read_text()[-4000:]}")

    @property
    def pid(self) -> int:
        return self.process.pid

    def terminate(self) -> None:
        """Ask it to end, without waiting."""
        self.process.send_signal(signal.SIGTERM)

    def ended(self, seconds: float = 30) -> int:
        """Its exit code, once it has ended."""
        code = self.process.wait(seconds)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def stop(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            self.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.ended()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.process.kill()
        self.ended()


class Mock(Program):
    """The mock provider."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        program = ["-m", "faucet.providers.fake_server", "--port", "0", *arguments]
        super().__init__(program, folder / f"mock-{next(_copies)}.log")
        self.url: str = json.loads(self.said)["url"]

    def _page(self, path: str) -> Any:
        with urllib.request.urlopen(self.url.removesuffix("/v1") + path, timeout=10) as page:
            return json.load(page)

    def calls(self) -> int:
        """How many chat requests it has seen."""
        return int(self._page("/requests/count")["chat"])

    def hung_up(self) -> int:
        """How many of its answers lost their reader half-way."""
        return int(self._page("/requests/count")["hung_up"])

    def last(self) -> dict[str, Any]:
        """Headers and body of the last chat request that it has seen."""
        seen: dict[str, Any] = self._page("/requests/last")["items"][-1]
        return seen


class Gateway(Program):
    """One gateway process on a port of its own."""

    def __init__(
        self,
        dsn: str,
        mock_url: str,
        folder: Path,
        *,
        data_dir: Path | None = None,
        before: str = "",
        **settings: object,
    ) -> None:
        # Bound and never listening, so that nobody else gets the port before the gateway does.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._port.bind(("127.0.0.1", 0))
        self.port: int = self._port.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}"
        number = next(_copies)
        self.data_dir = data_dir or folder / f"data-{number}"
        environment = {
            "TEST_DSN": dsn,
            "PORT_GATEWAY": str(self.port),
            "MOCK_PROVIDER_URL": mock_url,
            "FAUCET_DATA": str(self.data_dir),
            "PROVIDER_RETRY_DELAY_MS": "10",
            **{name: str(value) for name, value in settings.items()},
        }
        super().__init__(["-c", _GATEWAY.format(before=before)], folder / f"gateway-{number}.log", environment)

    @property
    def openai_url(self) -> str:
        """The base address for OpenAI's clients."""
        return f"{self.base_url}/v1"

    def spooled(self) -> int:
        """How many settlements wait in the spool of its data dir."""
        files = (self.data_dir / "spool").glob("*.spool")
        return sum(path.read_bytes().count(b"\n") for path in files)

    def ended(self, seconds: float = 30) -> int:
        code = super().ended(seconds)
        self._port.close()
        return code


# ── asking ──


@dataclass(frozen=True)
class Reply:
    """A whole HTTP response; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def request_id(self) -> str:
        return self.headers["x-request-id"]

    @property
    def code(self) -> str:
        """The code of the error that it is."""
        return str(self.json["error"]["code"])

    @property
    def events(self) -> list[Any]:
        """The events of a stream, decoded; the last is the text [DONE] where it came."""
        return events_of(self.body)

    @property
    def text(self) -> str:
        """The content of the first choice, of a JSON reply or a stream."""
        if not self.headers["content-type"].startswith("text/event-stream"):
            return str(self.json["choices"][0]["message"]["content"])
        return text_of(self.events)


def events_of(body: bytes) -> list[Any]:
    """Decoded events of the bytes of a stream, complete ones only."""
    found: list[Any] = []
    for event in body.replace(b"\r\n", b"\n").split(b"\n\n")[:-1]:
        lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
        if lines:
            payload = b"\n".join(lines)
            found.append("[DONE]" if payload == b"[DONE]" else json.loads(payload))
    return found


def text_of(events: list[Any]) -> str:
    """The content of the first choice of a stream."""
    choices = [choice for event in events if isinstance(event, dict) for choice in event.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices if choice["index"] == 0)


def chat(text: str = "Where is my order?", *, model: str = "mock-small", **fields: Any) -> dict[str, Any]:
    """The body of a chat request. `mock` in it tells the mock provider how to answer."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def request(
    gateway: Gateway,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    *,
    seconds: float = 30,
) -> Reply:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=seconds)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def ask(
    gateway: Gateway, bearer: str, body: dict[str, Any], headers: dict[str, str] | None = None, *, seconds: float = 30
) -> Reply:
    """Ask for one answer and read it whole."""
    return request(gateway, "POST", CHAT, *posted(bearer, body, headers), seconds=seconds)


def posted(bearer: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a chat request."""
    named = {"authorization": f"Bearer {bearer}", "content-type": "application/json", **(headers or {})}
    return json.dumps(body).encode(), named


class Hanging:
    """A chat request whose response is read, or not, when the test wants to."""

    def __init__(
        self, gateway: Gateway, bearer: str, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        content, headers = posted(bearer, body, headers)
        self.connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
        self.connection.request("POST", CHAT, content, headers)

    def first_events(self, count: int) -> list[Any]:
        """Read the head and events until there are `count`."""
        self.response = self.connection.getresponse()
        got = b""
        while len(events_of(got)) < count:
            piece = self.response.read1(65_536)
            assert piece, "the stream ended too early"
            got += piece
        return events_of(got)

    def hang_up(self) -> None:
        """Close without reading what is left."""
        self.connection.close()
        if hasattr(self, "response"):
            self.response.close()


# ── the books ──


@dataclass(frozen=True)
class EndUser:
    """One end user with a session and a wallet."""

    bearer: str
    tenant: Tenant

    @property
    def wallet(self) -> int:
        return self.tenant.wallet


@dataclass(frozen=True)
class Charged:
    """What an answer of so many tokens of a cheap mock model must cost, worked out by hand."""

    input: int
    output: int

    @property
    def cost(self) -> int:
        return self.input * INPUT_E8 + self.output * OUTPUT_E8

    @property
    def margin(self) -> int:
        return self.cost * MARKUP_PERCENT // 100

    @property
    def channel(self) -> int:
        return self.margin * SHARE_BPS // 10_000

    @property
    def retail(self) -> int:
        return self.cost + self.margin

    @property
    def transfers(self) -> dict[int, int]:
        """The amounts by code: cost, the developer's share, the platform's rest."""
        parts = {1: self.cost, 2: self.channel, 3: self.margin - self.channel}
        return {code: amount for code, amount in parts.items() if amount}


class World:
    """A migrated database with prices, one app, and end users as they are wanted."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.connect()
        self.tenant = self.books.tenant()
        self.books.rows(
            "update feature set feature_key = %s, pricing = %s where id = %s",
            FEATURE,
            json.dumps({"mode": "usage_markup", "markup_percent": MARKUP_PERCENT, "channel_share_bps": SHARE_BPS}),
            self.tenant.feature,
        )

    def connect(self) -> None:
        """Connect, for the first time or after the server was killed."""
        self.connection = psycopg.connect(self.dsn, autocommit=True)
        self.books = Books(self.connection)

    def close(self) -> None:
        self.connection.close()

    def end_user(self, credit_e8: int = 10 * E8, *, expires: str = "1 day", app_of: Tenant | None = None) -> EndUser:
        """Another end user with credit and a session."""
        tenant = self.books.end_user(app_of or self.tenant, credit_e8)
        # The kept documents hold no bearer: this one's shape is put together here.
        bearer = "mf_" + "sess_" + secrets.token_urlsafe(32)
        self.books.rows(
            "insert into session (id, developer_id, app_id, feature_id, end_user_id, bearer_hash, expires_at)"
            " values (%s, %s, %s, %s, %s, %s, now() + %s::interval)",
            tenant.session,
            tenant.developer,
            tenant.app,
            tenant.feature,
            tenant.end_user,
            hashlib.sha256(bearer.encode()).digest(),
            expires,
        )
        return EndUser(bearer, tenant)

    def row(self, query: str, *values: Any) -> dict[str, Any] | None:
        """The first row, by names."""
        with self.connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query.encode(), values).fetchone()

    def event(self, hold: UUID) -> dict[str, Any] | None:
        """The usage event of a request."""
        return self.row("select * from usage_event where id = %s", hold)

    def resolution(self, hold: UUID) -> dict[str, Any] | None:
        """How a hold ended without being settled."""
        return self.row("select * from hold_resolution where id = %s", hold)

    def transfers(self, hold: UUID) -> dict[int, int]:
        """The amounts that a request moved, by the transfers' codes."""
        return dict(self.books.rows("select code, amount_e8 from transfer where event_id = %s", hold))

    def open_holds(self, end_user: EndUser) -> list[UUID]:
        """The holds on a wallet."""
        return [row[0] for row in self.books.rows("select id from hold where wallet_id = %s", end_user.wallet)]

    def events_of(self, end_user: EndUser) -> list[dict[str, Any]]:
        """All usage events of a wallet, in order."""
        with self.connection.cursor(row_factory=dict_row) as cursor:
            query = "select * from usage_event where wallet_id = %s order by created_at, id"
            return cursor.execute(query, (end_user.wallet,)).fetchall()

    def balance(self, end_user: EndUser) -> tuple[int, int]:
        """What a wallet has, and what of it is held."""
        return self.books.balance(end_user.wallet)

    def booked(self) -> tuple[int, ...]:
        """How many holds, resolutions, usage events and transfers there are."""
        tables = ("hold", "hold_resolution", "usage_event", "transfer")
        return tuple(self.books.one(f"select count(*) from {table}") for table in tables)

    def announce(self) -> None:
        """Tell the gateways that something changed, as the API does."""
        self.connection.execute("notify faucet_changed")


def hold_of(reply: Reply) -> UUID:
    """The hold of a request that was sent without an `x-request-id`."""
    return UUID(reply.request_id.removeprefix("req_"))


def add_prices(dsn: str) -> None:
    """Confirmed prices for the mock provider's models, in e8 per million tokens."""
    cheap = {name: (INPUT_E8 * 1_000_000, OUTPUT_E8 * 1_000_000) for name in ("mock-small", *FAILURES)}
    prices = cheap | {"mock-large": (250_000_000, 1_000_000_000), "mock-reasoner": (110_000_000, 440_000_000)}
    with psycopg.connect(dsn) as connection:
        for model, (input_e8, output_e8) in prices.items():
            connection.execute(
                "insert into price (provider, model, tokenizer, context_window, max_output_tokens, input_e8_per_m,"
                " cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m, image_tokens_max, effective_from,"
                " source, status) values ('mock', %s, 'words', 128000, 16384, %s, %s, %s, %s, 1000, '2026-01-01',"
                " 'test', 'confirmed')",
                (model, input_e8, input_e8 // 2, input_e8, output_e8),
            )


@contextmanager
def copied_database(server_dsn: str, template: str) -> Iterator[str]:
    """The address of a copy of the template, dropped afterwards."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    name = f"t_{os.environ['FAUCET_TEST_RUN']}_{worker}_gateway_{next(_copies)}"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f'create database "{name}" template "{template}"'.encode())
    yield with_database(server_dsn, name)
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f'drop database if exists "{name}" with (force)'.encode())


# ── fixtures ──


@pytest.fixture(scope="session")
def world(server_dsn: str, template: str) -> Iterator[World]:
    """One database for the tests of a worker; each brings its own end users."""
    with copied_database(server_dsn, template) as dsn:
        add_prices(dsn)
        made = World(dsn)
        yield made
        made.books.assert_sound()
        made.close()


@pytest.fixture(scope="session")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mock]:
    """One mock provider for the tests of a worker."""
    running = Mock(tmp_path_factory.mktemp("mock"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def gateway(world: World, mock: Mock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway for the tests of a worker that don't break it."""
    folder = tmp_path_factory.mktemp("gateway")
    patience = {"PROVIDER_TIMEOUT_MS": 2000, "PROVIDER_IDLE_TIMEOUT_MS": 2000}
    running = Gateway(world.dsn, mock.url, folder, **patience)
    yield running
    running.stop()


@pytest.fixture
def rich(world: World) -> EndUser:
    """An end user with ten dollars."""
    return world.end_user()


StartGateway = Callable[..., Gateway]


@pytest.fixture
def start_gateway(world: World, mock: Mock, tmp_path: Path) -> Iterator[StartGateway]:
    """Start a gateway with settings of the test's own; it is ended with the test."""
    running: list[Gateway] = []

    def start(*, dsn: str = world.dsn, mock_url: str = mock.url, **settings: Any) -> Gateway:
        running.append(Gateway(dsn, mock_url, tmp_path, **settings))
        return running[-1]

    yield start
    for one in running:
        if one.process.returncode is None or one.process.stdout is not None and not one.process.stdout.closed:
            one.stop()
