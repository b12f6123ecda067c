"""A gateway process that dies at a chosen call to the world outside: killed by the kernel, with nothing cleaned up.

Each life is a forked process with a World of its own, whose ports (the ledger's connection, the database's pool,
the provider, the client) are wrapped from outside. Every call is two points: before it has any effect, and after
it has happened but before the process has learned of it. At the chosen point the process gets SIGKILL. Not here:
what must hold afterwards.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
import traceback
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from faucet.gateway.admit import Admission
from faucet.gateway.app import Gateway
from faucet.gateway.exchange import Exchange
from faucet.gateway.replay import Replays
from faucet.gateway.world import World
from faucet.kit.config import Config
from faucet.providers.platform import platform_providers

LIFE_SECONDS = 30
_DELIVERED, _POINTS, _WHOLE = b"D", b"P", b"W"


class Fate:
    """Counts the points of a process's life, and ends it at one of them."""

    def __init__(
        self, dies_at: int | None = None, *, ledger_goes_at: int | None = None, ledger_stalls_seconds: float = 0
    ) -> None:
        self.points: list[str] = []
        self._dies_at = dies_at
        self._ledger_goes_at = ledger_goes_at
        self._ledger_stalls_seconds = ledger_stalls_seconds
        self._ledger_calls = 0
        self._counts = False

    def begin(self) -> None:
        """The process is up and its request begins: from here on points count."""
        self._counts = True

    def point(self, name: str) -> None:
        """One point; the last one, where that was so decided."""
        if self._counts:
            self.points.append(name)
            if len(self.points) == self._dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

    async def call(self, name: str, promise: Awaitable[Any]) -> Any:
        """Await a call to a port, between its two points."""
        self.point(f"{name} begins")
        result = await promise
        self.point(f"{name} has happened")
        return result

    async def reach_ledger(self) -> None:
        """Stall at the first call of the ledger, where that is to be.

        Raises ConnectionResetError from that call on at which the database is to be away.
        """
        self._ledger_calls += self._counts
        if self._ledger_calls == 1:
            await asyncio.sleep(self._ledger_stalls_seconds)
        if self._ledger_goes_at is not None and self._ledger_calls >= self._ledger_goes_at:
            raise ConnectionResetError("the database is away")


class FatedWorld(World):
    """A World whose ports are all under a fate."""

    def __init__(self, config: Config, dsn: str, fate: Fate) -> None:
        super().__init__(config, dsn, platform_providers(config))
        self.fate = fate
        self.pool: Any = _Provider(self.pool, fate)

    async def open(self) -> None:
        await super().open()
        self.db: Any = _Database(self.db, self.fate)
        self.admission = Admission(self.db, None)
        self.replays = Replays(self.db, self.config.reply_key, lease_seconds=self.config.hold_lease_seconds)

    async def _connect(self) -> Any:
        self.fate.point("ledger: connecting")
        await self.fate.reach_ledger()
        return _Ledger(await super()._connect(), self.fate)


class _Port:
    """Something of the World's that goes on working as it is, but for the calls that are counted."""

    def __init__(self, real: Any, fate: Fate) -> None:
        self._real = real
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _Ledger(_Port):
    async def fetchrow(self, *values: Any, **options: Any) -> Any:
        await self._fate.reach_ledger()
        return await self._fate.call("ledger: a group", self._real.fetchrow(*values, **options))


class _Database(_Port):
    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        self._fate.point("database: a tx begins")
        async with self._real.connection() as connection:
            yield _Tx(connection, self._fate)
            self._fate.point("database: its commit begins")
        self._fate.point("database: its commit has happened")


class _Tx(_Port):
    async def execute(self, *values: Any) -> Any:
        return await self._fate.call("database: a statement", self._real.execute(*values))


class _Provider(_Port):
    async def request(self, *values: Any) -> Any:
        return _Answer(await self._fate.call("provider: a request", self._real.request(*values)), self._fate)


class _Answer(_Port):
    async def read(self) -> bytes:
        return bytes(await self._fate.call("provider: its body", self._real.read()))

    async def chunk(self) -> bytes | None:
        chunk: bytes | None = await self._fate.call("provider: a chunk", self._real.chunk())
        return chunk

    def cancel(self) -> None:
        self._fate.point("provider: leaving it")
        self._real.cancel()


class _Client:
    """The connection to the client: what is written is delivered, until the client leaves."""

    def __init__(self, fate: Fate, writer: int, leaves_after: int | None) -> None:
        self.exchange: Exchange | None = None
        self.drained: asyncio.Future[None] | None = None
        self._fate = fate
        self._writer = writer
        self._writes_left = leaves_after

    async def room(self) -> None:
        raise AssertionError("this client reads at once")

    def send(self, data: bytes) -> None:
        self._fate.point("client: a write begins")
        if self._writes_left == 0:
            assert self.exchange is not None
            self.exchange.left()
            return
        if self._writes_left is not None:
            self._writes_left -= 1
        _tell(self._writer, _DELIVERED, data)
        self._fate.point("client: it has happened")

    def completed(self, exchange: Exchange) -> None:
        if not exchange.gone:
            _tell(self._writer, _WHOLE, b"")

    def close(self) -> None:
        self._fate.point("client: the connection is broken off")


# ── a life ──


@dataclass(frozen=True)
class Ask:
    """One chat request, and when its client leaves."""

    body: bytes
    headers: tuple[tuple[str, str], ...]
    leaves_after: int | None = None
    """So many writes are delivered; then the connection is lost."""


@dataclass(frozen=True)
class Life:
    """What the outside saw of a process's life."""

    died: bool
    delivered: bytes
    """The response, as far as the client got it."""
    is_whole: bool
    """The response was complete."""
    points: tuple[str, ...]
    """All of them, where the process lived to tell."""

    @property
    def body(self) -> bytes:
        """The body so far, without its chunks' framing."""
        head, _, rest = self.delivered.partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" not in head:
            return rest
        body = b""
        while b"\r\n" in rest:
            size, _, rest = rest.partition(b"\r\n")
            body += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
        return body

    @property
    def is_answer(self) -> bool:
        """The client has all of the answer that it asked for."""
        is_broken = b'"finish_reason":"error"' in self.delivered
        return self.is_whole and self.delivered.startswith(b"HTTP/1.1 200 ") and not is_broken


def live(dsn: str, config: Config, ask: Ask, fate: Fate) -> Life:
    """Serve one request in a process of its own, until it is answered or fate strikes."""
    return Living(dsn, config, ask, fate).end()


class Living:
    """A life that goes on while the test does something else."""

    def __init__(self, dsn: str, config: Config, ask: Ask, fate: Fate) -> None:
        self._reader, writer = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            code = 1
            try:
                os.close(self._reader)
                asyncio.run(_serve(dsn, config, ask, fate, writer))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writer)

    def end(self) -> Life:
        """Wait for its end. Raises AssertionError where that was not fate's doing."""
        told = _read_all(self._reader, self._child)
        _, status = os.waitpid(self._child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, -signal.SIGKILL):
            raise AssertionError(f"the process ended by itself with {code}; its words are on standard error")
        parts = [(part[:1], part[1:]) for part in told]
        return Life(
            died=code != 0,
            delivered=b"".join(content for kind, content in parts if kind == _DELIVERED),
            is_whole=any(kind == _WHOLE for kind, _ in parts),
            points=tuple(content.decode() for kind, content in parts if kind == _POINTS),
        )


async def _serve(dsn: str, config: Config, ask: Ask, fate: Fate, writer: int) -> None:
    """Open a World, answer one request, tell, and be gone without closing anything."""
    world = FatedWorld(config, dsn, fate)
    await world.open()
    await _adopted(config)
    client = _Client(fate, writer, ask.leaves_after)
    headers = [(name.encode(), value.encode()) for name, value in ask.headers]
    exchange = Exchange(client, "POST", b"/v1/chat/completions", headers, keep_alive=True)
    exchange.body = ask.body
    client.exchange = exchange
    fate.begin()
    await Gateway(world).answer(exchange)
    await world.lane.close(patience_seconds=1)  # what was queued for after the answer has its points too
    for name in fate.points:
        _tell(writer, _POINTS, name.encode())


async def _adopted(config: Config) -> None:
    """Wait until the spools of the dead are settled."""
    async with asyncio.timeout(10):
        while any(path.stat().st_size for path in (config.faucet_data / "spool").glob("*.spool")):
            await asyncio.sleep(0.005)


def _tell(writer: int, kind: bytes, content: bytes) -> None:
    os.write(writer, len(content).to_bytes(4, "big") + kind + content)


def _read_all(reader: int, child: int) -> list[bytes]:
    """Everything that was told until the process was gone. A process that hangs is killed."""
    deadline = time.monotonic() + LIFE_SECONDS
    told = b""
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.kill(child, signal.SIGKILL)
            raise AssertionError("the process hung")
        piece = os.read(reader, 65_536)
        if not piece:
            os.close(reader)
            return _cut(told)
        told += piece


def _cut(told: bytes) -> list[bytes]:
    parts = []
    while told:
        size = int.from_bytes(told[:4], "big")
        parts.append(told[4 : 5 + size])
        told = told[5 + size :]
    return parts
