"""The database that needs no setting up: PostgreSQL 18 from a Python package, started here, shared by all
processes that use one data dir, gone when the last of them is gone (however it ended).

    with EmbeddedPostgres(data_dir) as database:
        connect(database.dsn)

The first user starts a watcher, which runs the server (`embedded_watch`: there is written how the two agree).
A user is whoever holds a `Running`; forked children are none and start their own. Everything here blocks: in
async code call `await asyncio.to_thread(EmbeddedPostgres.start, …)`. Access is by a Unix socket in a folder
that only the account PostgreSQL runs as (and root) can enter; there is no TCP and hence no password. Not
here: connections, migrations.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import faucet
from faucet.kit.embedded_host import DATABASE, SUPERUSER, DatabaseUnavailable, explain_os_error, is_alive

__all__ = ["DatabaseUnavailable", "EmbeddedPostgres", "Running", "default_data_dir"]

Progress = Callable[[str], None]
_QUIET_SECONDS = 1.0
_LOOK_AGAIN_SECONDS = 0.02
_held_locks: set[int] = set()


def default_data_dir() -> Path:
    """`FAUCET_DATA`, or `modelfaucet` in the account's folder for data (XDG)."""
    if own := os.environ.get("FAUCET_DATA"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_DATA_HOME", "")
    return (Path(shared) if os.path.isabs(shared) else Path.home() / ".local" / "share") / "modelfaucet"


class EmbeddedPostgres:
    """A data dir's database as a context manager: entered, it runs."""

    def __init__(
        self,
        data_dir: Path,
        *,
        progress: Progress | None = None,
        bin_dir: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._data_dir = data_dir
        self._progress = progress
        self._bin_dir = bin_dir
        self._settings = settings
        self._running: Running | None = None

    def __enter__(self) -> Running:
        self._running = self.start(
            self._data_dir, progress=self._progress, bin_dir=self._bin_dir, settings=self._settings
        )
        return self._running

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None:
            self._running.close()

    @classmethod
    def start(
        cls,
        data_dir: Path,
        *,
        progress: Progress | None = None,
        bin_dir: Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> Running:
        """The running database of `data_dir`, made and started if need be; ready to be connected to.

        Waits as long as PostgreSQL lives and works on it (recovery can take long); `progress` is told what
        goes on once that takes more than a second. `bin_dir` names another PostgreSQL's programs, `settings`
        go over our own ones: both count only if this call starts the server. `settings` are for tests of
        other rooms (`{"fsync": "off"}` is faster and loses data at a power cut: never in the product).
        Raises DatabaseUnavailable.
        """
        data_dir = Path(os.path.abspath(data_dir.expanduser()))
        voice = _Voice(progress)
        plan = {
            "data_dir": str(data_dir),
            "bin_dir": str(bin_dir.absolute()) if bin_dir else None,
            "settings": dict(settings or {}),
        }
        try:
            _make_folder(data_dir)
            users_lock, record = _join(data_dir, plan, voice)
        except OSError as error:
            raise explain_os_error(error, data_dir) from error
        return Running(data_dir, plan, users_lock, record)


class Running:
    """One use of a running database. It keeps the server up until `close()` or the end of this process."""

    def __init__(self, data_dir: Path, plan: dict[str, Any], users_lock: int, record: dict[str, Any]) -> None:
        self.data_dir = data_dir
        self._plan = plan
        self._users_lock = users_lock
        self._record = record
        self._process = os.getpid()
        self._closed = False

    @property
    def socket_dir(self) -> Path:
        """The folder of the server's socket."""
        return Path(self._record["socket_dir"])

    @property
    def cluster(self) -> Path:
        """PostgreSQL's own data folder: `pg` in the data dir, or elsewhere if root had to put it there."""
        return Path(self._record["cluster"])

    @property
    def dsn(self) -> str:
        """The URL of the database `faucet`, as its owner; see `dsn_for`."""
        return self.dsn_for(DATABASE)

    def dsn_for(self, dbname: str) -> str:
        """The URL of one database of this server; it stays the same when the server is started again.

        psycopg and asyncpg take it as it is; for SQLAlchemy and Alembic the scheme names the driver too
        (`postgresql+psycopg://…`).
        """
        # The port is in it because PGPORT would count otherwise.
        where = f"host={quote(str(self.socket_dir), safe='/')}&port={self._record['port']}"
        return f"postgresql://{SUPERUSER}@/{quote(dbname, safe='')}?{where}"

    @property
    def pid(self) -> int:
        """The process of the postmaster now, or of the last one while it is being started again."""
        self._record = _read_record(self.data_dir) or self._record
        return int(self._record["pid"])

    @property
    def watcher_pid(self) -> int:
        """The process of the watcher, the parent of the postmaster."""
        self._record = _read_record(self.data_dir) or self._record
        return int(self._record["watcher"])

    def ensure(self, progress: Progress | None = None) -> None:
        """Start the server again if its watcher was killed; otherwise only wait until it serves.

        Raises DatabaseUnavailable.
        """
        if self._closed or self._process != os.getpid():
            raise DatabaseUnavailable("This use of the database has ended.", "Start it anew.")
        try:
            # Our own lock stays held meanwhile, so that the server is never without a user.
            users_lock, self._record = _join(self.data_dir, self._plan, _Voice(progress))
        except OSError as error:
            raise explain_os_error(error, self.data_dir) from error
        _release(users_lock)

    def close(self) -> None:
        """End this use. If it was the last one, the server is down when this returns. May be called twice."""
        if self._closed or self._process != os.getpid():
            return
        self._closed = True
        _release(self._users_lock)
        _wait_if_last(self.data_dir, self._record["watcher"])

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Voice:
    """Says what goes on, but only to those who have waited a second already."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._speak_from = time.monotonic() + _QUIET_SECONDS
        self._text = ""
        self._said = ""

    def say(self, text: str, *, now: bool = False) -> None:
        self._text = text
        if now and self._progress is not None:
            self._said = text
            self._progress(text)
        self.tick()

    def tick(self) -> None:
        """Time has passed."""
        if self._progress is not None and self._text != self._said and time.monotonic() >= self._speak_from:
            self._said = self._text
            self._progress(self._text)


# -- files and locks of the data dir


def _make_folder(data_dir: Path) -> None:
    if data_dir.is_dir():
        return
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        data_dir.mkdir(mode=0o700, exist_ok=True)
        return
    # The account that PostgreSQL runs as must pass through, as soon as anybody sees the folder.
    ready = Path(tempfile.mkdtemp(prefix=".modelfaucet-", dir=data_dir.parent))
    ready.chmod(0o711)
    try:
        ready.rename(data_dir)
    except OSError:
        ready.rmdir()
        if not data_dir.is_dir():
            raise  # otherwise another process was faster


def _open_lock(data_dir: Path, name: str) -> int:
    """A new handle on a lock file. It is closed in programs that this process starts, and in its forks."""
    lock = os.open(data_dir / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    _held_locks.add(lock)
    return lock


def _release(lock: int) -> None:
    _held_locks.discard(lock)
    os.close(lock)


def _drop_locks_in_fork() -> None:
    # A fork shares its parent's locks: left open there, they would outlive the parent.
    for lock in _held_locks:
        os.close(lock)
    _held_locks.clear()


os.register_at_fork(after_in_child=_drop_locks_in_fork)


def _try_lock(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _wait_for_lock(lock: int, how: int, voice: _Voice, text: str) -> None:
    while not _try_lock(lock, how):
        voice.say(text)
        time.sleep(_LOOK_AGAIN_SECONDS)


def _read_record(data_dir: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads((data_dir / "server.json").read_text())
    except (OSError, ValueError):
        return None
    return record


# -- joining and leaving


def _join(data_dir: Path, plan: dict[str, Any], voice: _Voice) -> tuple[int, dict[str, Any]]:
    """Become a user of a server that is ready and will not go: the shared lock and what server.json says.

    Raises DatabaseUnavailable, OSError.
    """
    start_lock = _open_lock(data_dir, "start.lock")
    users_lock = None
    try:
        _wait_for_lock(start_lock, fcntl.LOCK_EX, voice, "Another process is starting the database.")
        users_lock = _open_lock(data_dir, "users.lock")
        # From here on no watcher can find that nobody is left; one that already has is waited for.
        _wait_for_lock(users_lock, fcntl.LOCK_SH, voice, "Waiting for the database to finish shutting down.")
        while (record := _look(data_dir, voice) or _start_watcher(data_dir, plan, voice)) is None:
            time.sleep(_LOOK_AGAIN_SECONDS)
        return users_lock, record
    except BaseException:
        if users_lock is not None:
            _release(users_lock)
        raise
    finally:
        _release(start_lock)


def _look(data_dir: Path, voice: _Voice) -> dict[str, Any] | None:
    """What runs, if a watcher lives and its server answers.

    Raises DatabaseUnavailable if that server died and cannot be started again.
    """
    if _watcher_is_gone(data_dir):
        return None
    record = _read_record(data_dir)
    if record is None:
        return None
    if record["state"] == "failing":
        problem = record["problem"]
        raise DatabaseUnavailable(problem["what"], problem["do"], problem["log"])
    if record["state"] == "ready" and _answers(record):
        return record
    voice.say("Waiting for the database to get ready.")
    return None


def _answers(record: dict[str, Any]) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            probe.connect(f"{record['socket_dir']}/.s.PGSQL.{record['port']}")
        return True
    except OSError:
        return False


def _watcher_is_gone(data_dir: Path) -> bool:
    lock = _open_lock(data_dir, "watch.lock")
    try:
        return _try_lock(lock, fcntl.LOCK_SH)
    finally:
        _release(lock)


def _start_watcher(data_dir: Path, plan: dict[str, Any], voice: _Voice) -> dict[str, Any] | None:
    """Start a watcher and wait until its server is ready. None: there is a watcher already.

    Raises DatabaseUnavailable with what the watcher reports.
    """
    watch_lock = _open_lock(data_dir, "watch.lock")
    try:
        if not _try_lock(watch_lock, fcntl.LOCK_EX):
            return None
        try:
            # Nobody may take what a killed watcher left for news; the new one learns from it what to clear.
            os.replace(data_dir / "server.json", data_dir / "server.old.json")
        except FileNotFoundError:
            pass
        voice.say("Starting the database.")
        told = json.dumps(plan | {"watch_lock": watch_lock})
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "faucet.kit.embedded_watch", told],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd="/",
            env=_watcher_environment(),
            pass_fds=(watch_lock,),
            start_new_session=True,
        )
    finally:
        _release(watch_lock)  # the watcher has its own handle on the same lock by now
    assert process.stdout is not None
    with process.stdout as pipe:
        try:
            return _follow(pipe.fileno(), data_dir, voice)
        finally:
            process.wait()  # only the half that detaches itself; it ends at once


def _watcher_environment() -> dict[str, str]:
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "TMPDIR")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    (package,) = faucet.__path__
    paths = [os.path.dirname(os.path.abspath(package)), environment.get("PYTHONPATH", "")]
    return environment | {"PYTHONPATH": os.pathsep.join(path for path in paths if path), "LC_ALL": "C"}


def _follow(pipe: int, data_dir: Path, voice: _Voice) -> dict[str, Any]:
    """Read what the watcher reports until its server is ready. Raises DatabaseUnavailable with its report."""
    unread = b""
    problem: DatabaseUnavailable | None = None
    while True:
        voice.tick()
        if not select.select([pipe], [], [], 0.2)[0]:
            continue
        got = os.read(pipe, 65_536)
        if not got:  # the watcher has ended, and nothing of it runs any more
            raise problem or DatabaseUnavailable(
                "The process that watches over the database ended unexpectedly.",
                f"Look into {data_dir / 'postgres.log'}, and start again.",
                _last_lines(data_dir / "postgres.log"),
            )
        *lines, unread = (unread + got).split(b"\n")
        for message in map(json.loads, lines):
            if "ready" in message:
                return dict(message["ready"])
            if "error" in message:
                problem = DatabaseUnavailable(**message["error"])
            else:
                voice.say(message["say"], now=message.get("now", False))


def _last_lines(log: Path) -> list[str]:
    try:
        return log.read_text(errors="replace").splitlines()[-15:]
    except OSError:
        return []


def _wait_if_last(data_dir: Path, watcher: int) -> None:
    """If nobody uses the database any more, wait until it is down and its last process is gone."""
    try:
        users_lock = _open_lock(data_dir, "users.lock")
    except OSError:
        return  # the folder was deleted; there is nothing to wait for
    try:
        seen_others = 0
        while seen_others < 3 and not _watcher_is_gone(data_dir):
            if _try_lock(users_lock, fcntl.LOCK_EX):
                seen_others = 0  # nobody is left, and the watcher has not noticed yet
            elif _try_lock(users_lock, fcntl.LOCK_SH):
                seen_others += 1  # others are there; or only one that looks, like us
            fcntl.flock(users_lock, fcntl.LOCK_UN)
            time.sleep(_LOOK_AGAIN_SECONDS)
    finally:
        _release(users_lock)
    end = time.monotonic() + 1  # it ends right after letting its locks go
    while seen_others < 3 and is_alive(watcher) and time.monotonic() < end:
        time.sleep(0.001)
