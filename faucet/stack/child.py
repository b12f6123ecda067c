"""One process of a stack, from both sides: how the supervisor starts, watches and stops it, and what the process
itself does to be ready on time and never to outlive its supervisor.

Its standard error goes to `<data>/logs/<name>.log`, which is kept below a size. Not here: which processes there
are, and in which order they start and stop (`supervisor`).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import faucet
from faucet.kit.errors import FaucetError

LOG_BYTES_MAX = 8 << 20
"""Of one log file; the one before it is kept beside it."""
LOG_LINES_SHOWN = 8
LINE_SHOWN = 240
READY_SECONDS = 60.0
BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STEADY_SECONDS = 30.0
"""A process that lived this long before it died starts again at once."""

_READY_FD = "FAUCET_READY_FD"
_SUPERVISOR = "FAUCET_SUPERVISOR_PID"


class ChildFailed(FaucetError):
    """A process of the stack did not get ready: the text has its log's place and last lines."""


# ── the process's own side ──


def under_supervision() -> Callable[[], None]:
    """Tie this process to the supervisor that started it, if one did, and give back what tells it "ready".

    The first thing that a process of a stack does. On Linux the kernel ends it when the supervisor is gone, however
    that went; elsewhere a thread looks every second.
    """
    supervisor = os.environ.pop(_SUPERVISOR, "")
    if supervisor:
        if sys.platform.startswith("linux"):
            ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
        else:
            threading.Thread(target=_watch, args=(int(supervisor),), daemon=True).start()
        if os.getppid() != int(supervisor):
            os._exit(1)  # it was gone before we asked
    descriptor = os.environ.pop(_READY_FD, "")

    def ready() -> None:
        if descriptor:
            os.write(int(descriptor), b"ready")
            os.close(int(descriptor))

    return ready


def _watch(supervisor: int) -> None:
    while os.getppid() == supervisor:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


# ── the supervisor's side ──


@dataclass(slots=True)
class Child:
    """A process of the stack: `start` it, `keep` it running, `stop` it."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    note: Callable[[str], None]
    """Told what a person should know."""
    on_restart: Callable[[], None]
    grace_seconds: float
    """How long it may take to end after it was asked to."""
    restarts: int = 0
    _process: asyncio.subprocess.Process | None = None
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _started_at: float = 0.0

    @property
    def pid(self) -> int | None:
        """Its process, while it runs."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    async def start(self) -> None:
        """Start it and wait until it says that it is ready. Raises ChildFailed."""
        ready, tell = os.pipe()
        try:
            os.set_blocking(ready, False)
            await self._spawn(tell)
        except BaseException:
            os.close(ready)
            raise
        finally:
            os.close(tell)
        try:
            async with asyncio.timeout(READY_SECONDS):
                said = await _read(ready)
        except TimeoutError:
            await self._kill()
            raise ChildFailed(self._story(f"did not get ready within {READY_SECONDS:.0f} seconds")) from None
        finally:
            os.close(ready)
        if not said:
            assert self._process is not None
            raise ChildFailed(self._story(f"ended before it was ready ({_ending(await self._process.wait())})"))

    async def _spawn(self, tell: int) -> None:
        (package,) = faucet.__path__
        paths = [os.path.dirname(os.path.abspath(package)), self.environment.get("PYTHONPATH", "")]
        environment = {
            **self.environment,
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            _READY_FD: str(tell),
            _SUPERVISOR: str(os.getpid()),
        }
        self.shorten_log()
        with open(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "faucet",
                *self.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=(tell,),
                # A Ctrl-C in the terminal is for the supervisor, which stops the others in order.
                start_new_session=True,
            )
        self._started_at = time.monotonic()

    async def keep(self) -> None:
        """Start it again whenever it dies, later each time, until it is told to stop."""
        deaths = 0
        while True:
            assert self._process is not None
            code = await self._process.wait()
            if self._stopping.is_set():
                return
            deaths = 1 if time.monotonic() - self._started_at > STEADY_SECONDS else deaths + 1
            pause = BACKOFF_SECONDS[min(deaths, len(BACKOFF_SECONDS)) - 1]
            self.note(f"{self.name} died ({_ending(code)}); starting it again in {pause:g} s. Its log: {self.log}")
            try:
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
                return
            except TimeoutError:
                pass
            try:
                await self.start()
            except ChildFailed as error:
                if not self._stopping.is_set():
                    self.note(str(error))
                continue
            self.restarts += 1
            self.note(f"{self.name} runs again (process {self.pid}).")
            self.on_restart()

    async def stop(self) -> None:
        """Ask it to end, wait for what it still does, and kill it where that takes too long."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.grace_seconds):
                await process.wait()
        except TimeoutError:
            self.note(f"{self.name} did not end within {self.grace_seconds:.0f} s; killed.")
            await self._kill()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self._process is not None and self._process.returncode is None:
            try:
                self._process.send_signal(number)
            except ProcessLookupError:
                return

    def stopping(self) -> None:
        """It is about to be told to end by others; its death is no accident."""
        self._stopping.set()

    async def _kill(self) -> None:
        self.signal(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()

    def shorten_log(self) -> None:
        """Keep the log below its size: what it had becomes `<name>.log.1`. It is open elsewhere, for appending."""
        try:
            if self.log.stat().st_size > LOG_BYTES_MAX:
                shutil.copyfile(self.log, f"{self.log}.1")
                os.truncate(self.log, 0)
        except FileNotFoundError:
            return

    def _story(self, what: str) -> str:
        lines = [line[:LINE_SHOWN] for line in last_lines(self.log)]
        return "\n".join([f"{self.name} {what}. Its log, {self.log}, ends so:", *(f"  {line}" for line in lines)])


async def _read(descriptor: int) -> bytes:
    """What arrives first at a pipe's end; nothing when its writers are gone."""
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_reader(descriptor, arrived.set)
    try:
        await arrived.wait()
        return os.read(descriptor, 16)
    finally:
        loop.remove_reader(descriptor)


def last_lines(log: Path, count: int = LOG_LINES_SHOWN) -> list[str]:
    """The end of a log file."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 65_536))
            return file.read().decode("utf-8", "replace").splitlines()[-count:]
    except OSError:
        return []


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
