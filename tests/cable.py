"""A cable between two processes that a test can cut, freeze, or make lose one answer.

Forwards bytes between a listening socket of its own and another process's socket, TCP or Unix, in a thread. So a
test decides at which byte a database or a gateway goes away, without stopping what others share.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, quote, urlencode, urlsplit, urlunsplit

HOT = b"-hot\0"
"""In the first bytes of a gateway's ledger connection: the end of its application's name."""


class _Link:
    """One connection through the cable."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near = near
        self.far = far
        self.is_hot = False

    def abort(self) -> None:
        self.near.transport.abort()
        self.far.transport.abort()


class Cable:
    """Forwards connections to `far`, a port of loopback or the path of a Unix socket. A context manager."""

    def __init__(self, far: int | Path, *, at: Path | None = None) -> None:
        self._far = far
        self._at = at
        self._links: set[_Link] = set()
        self._is_cut = False
        self._flows = asyncio.Event()
        self._loses = False
        self._loses_hot_only = False
        self.lost = threading.Event()
        """Set once the answer that was to be lost is lost."""
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._listens = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Cable:
        self._thread.start()
        assert self._listens.wait(10), "the cable was not laid"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    # ── what a test does to it ──

    def cut(self) -> None:
        """Break every connection, and refuse new ones until `mend`."""
        self._told(self._cut)

    def mend(self) -> None:
        """Carry everything again."""
        self._told(self._mend)

    def freeze(self) -> None:
        """Carry nothing, and let everybody wait."""
        self._told(self._flows.clear)

    def lose_next_answer(self, *, hot_only: bool = False) -> None:
        """Break the next connection on which an answer comes back, once, and swallow the answer."""

        def arm() -> None:
            self._loses, self._loses_hot_only = True, hot_only
            self.lost.clear()

        self._told(arm)

    def _told(self, what: object) -> None:
        done = threading.Event()

        def run() -> None:
            what()  # type: ignore[operator]
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10)

    def _cut(self) -> None:
        self._is_cut = True
        for link in list(self._links):
            link.abort()

    def _mend(self) -> None:
        self._is_cut = False
        self._loses = False
        self._flows.set()

    # ── the thread ──

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._flows.set()
        if self._at is not None:
            server = await asyncio.start_unix_server(self._carry, str(self._at))
        else:
            server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
        self._listens.set()
        await self._stop.wait()
        self._flows.set()
        server.close()
        self._is_cut = True
        # Who is just being accepted isn't a link yet: all that still happens here has to end.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for link in list(self._links):
                link.abort()
            await asyncio.wait(others, timeout=0.005)
        await asyncio.sleep(0.005)  # for the transports that were aborted last

    async def _carry(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        if self._is_cut:
            near.transport.abort()
            return
        try:
            if isinstance(self._far, int):
                far_reader, far = await asyncio.open_connection("127.0.0.1", self._far)
            else:
                far_reader, far = await asyncio.open_unix_connection(str(self._far))
        except OSError:
            near.transport.abort()
            return
        link = _Link(near, far)
        self._links.add(link)
        try:
            await asyncio.gather(self._asks(link, reader), self._answers(link, far_reader))
        except OSError:
            link.abort()
        finally:
            link.abort()
            self._links.discard(link)

    async def _asks(self, link: _Link, reader: asyncio.StreamReader) -> None:
        first = True
        while asked := await reader.read(65_536):
            if first:
                link.is_hot, first = HOT in asked, False
            await self._flows.wait()
            link.far.write(asked)
            await link.far.drain()
        link.abort()

    async def _answers(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while answered := await reader.read(65_536):
            await self._flows.wait()
            if self._loses and (link.is_hot or not self._loses_hot_only):
                self._loses = False
                link.abort()
                self.lost.set()
                return
            link.near.write(answered)
            await link.near.drain()
        link.abort()


@contextmanager
def database_cable(dsn: str) -> Iterator[tuple[Cable, str]]:
    """A cable to the server of a database, and the address of that database through it."""
    parts = urlsplit(dsn)
    where = parse_qs(parts.query)
    host = where["host"][0] if "host" in where else parts.hostname or "127.0.0.1"
    port = int(where["port"][0] if "port" in where else parts.port or 5432)
    with tempfile.TemporaryDirectory(prefix="cable-") as folder:
        far: int | Path = Path(host, f".s.PGSQL.{port}") if host.startswith("/") else port
        with Cable(far, at=Path(folder, ".s.PGSQL.5432")) as cable:
            where |= {"host": [folder], "port": ["5432"]}
            user = parts.netloc.rpartition("@")[0]
            query = urlencode({name: values[0] for name, values in where.items()}, safe="/", quote_via=quote)
            yield cable, urlunsplit((parts.scheme, f"{user}@" if user else "", parts.path, query, ""))
    assert not os.path.exists(folder)
