"""The watcher: a small process between the embedded PostgreSQL and the processes that use it.

`python -m faucet.kit.embedded_watch PLAN` is started by the first user (`embedded_postgres`), is the direct
parent of `postgres` and outlives that user: it starts the server, starts it again when it dies, and shuts it
down when nobody uses it any more. What it shares with the users are files of the data dir:

    users.lock    every user holds a shared lock on it as long as it lives (the kernel frees it, even after
                  SIGKILL). The watcher tries for the exclusive one; having got it, nobody is left, and it
                  keeps it until the server is down, so that a newcomer waits and never gets a dying server
    start.lock    held by the user that looks for, or starts, a watcher
    watch.lock    held by the watcher from before its first instruction (the user that starts it passes the
                  locked file on): free means that there is none
    server.json   what runs: state, pid of the postmaster, socket folder, port, pid of the watcher
    postgres.log  what PostgreSQL says, and the watcher when something is odd

Orders: SIGINT shuts the server down at once; SIGTERM, which a service's stop sends to all its processes
together, gives the users a little time to go first. If the watcher itself is killed, the kernel shuts the
server down on Linux; elsewhere the next watcher does. One thread only: that order to the kernel is bound to
the thread that forks.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from faucet.kit.embedded_cluster import PORT, Programs, find_programs, make_cluster, write_settings
from faucet.kit.embedded_host import (
    ON_LINUX,
    Account,
    DatabaseUnavailable,
    Place,
    can_enter,
    choose_account,
    clean_environment,
    die_with_parent,
    explain,
    explain_os_error,
    is_alive,
    write_atomically,
)

POLL_SECONDS = 0.1
SIGTERM_PATIENCE_SECONDS = 10.0
FAST_SHUTDOWN_SECONDS = 120.0
LONGEST_PAUSE_SECONDS = 10.0
ORPHANS_MAY_FINISH_SECONDS = 2.0
LOG_BYTES_AT_START = 10_000_000
LOG_BYTES_EVER = 100_000_000
SOCKET_FOLDER_BYTES = 85
"""A socket's path has at most 103 bytes on macOS and 107 on Linux; the file's name takes 15 of them."""
_SOCKET_FILE = f".s.PGSQL.{PORT}"
_STILL_IN_USE = re.compile(r"pre-existing shared memory block|lock file .* already exists")


class StillInUse(DatabaseUnavailable):
    """PostgreSQL found what a killed one left behind; that goes away by itself."""


def works_in(pid: int, cluster: Path) -> bool:
    """Whether a live process is a PostgreSQL of this cluster; a number alone may be another's by now."""
    if not is_alive(pid):
        return False
    if ON_LINUX:
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            # Every process of a server works in its cluster; but so may somebody's shell.
            return name in ("postgres", "postmaster") and os.path.samefile(f"/proc/{pid}/cwd", cluster)
        except OSError:
            return False
    name = subprocess.run(["ps", "-o", "comm=", "-p", str(pid)], capture_output=True, text=True).stdout
    return os.path.basename(name.strip()).startswith("postgres")


def orphans(cluster: Path) -> list[int]:
    """The processes of a server in this cluster that are left; only seen on Linux."""
    if not ON_LINUX:
        return []
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and works_in(int(name), cluster)]


def postmaster_pid(cluster: Path) -> int:
    """The number in postmaster.pid, or 0; a single-user session, no postmaster, writes a negative one."""
    first = (postmaster_file(cluster) or [""])[0].strip()
    return int(first) if first.isdecimal() else 0


def postmaster_file(cluster: Path) -> list[str]:
    """The lines of postmaster.pid: pid, folder, start, port, socket folder, address, memory key, state."""
    try:
        return (cluster / "postmaster.pid").read_text().splitlines()
    except OSError:
        return []


class Watcher:
    """One server's life, from its start until nobody needs it."""

    def __init__(self, plan: dict[str, Any], watch_lock: int) -> None:
        self._data_dir = Path(plan["data_dir"])
        self._bin_dir = Path(plan["bin_dir"]) if plan["bin_dir"] else None
        self._settings: dict[str, str] = plan["settings"]
        self._watch_lock = watch_lock
        self._users_lock = os.open(self._data_dir / "users.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        self._log = self._open_log()
        self._log_from = 0
        self._last_said = ""
        self._rounds = 0
        self._stop_at: float | None = None
        self._has_served = False
        self._record_is_old = False
        self._child: subprocess.Popen[bytes] | None = None
        self._record: dict[str, Any] = {
            "state": "starting",
            "data_dir": os.path.realpath(self._data_dir),
            "pid": 0,
            "socket_dir": "",
            "port": PORT,
            "watcher": os.getpid(),
            "problem": None,
        }
        try:
            self._before: dict[str, Any] = json.loads((self._data_dir / "server.old.json").read_text())
        except (OSError, ValueError):
            self._before = {}
        if self._before.get("data_dir") != self._record["data_dir"]:
            self._before = {}  # of a data dir that this one was copied from: that server is not ours

    # -- what it tells

    def say(self, text: str) -> None:
        """Tell the user that waits for this start, if there still is one."""
        if text != self._last_said:
            self._last_said = text
            self._tell({"say": text})

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            os.write(1, json.dumps(message).encode() + b"\n")
        except OSError:
            pass  # that user has gone; server.json says it all to others

    def _note(self, text: str) -> None:
        try:
            os.write(self._log, f"modelfaucet: {text}\n".encode())
        except OSError:
            pass  # the disk is full; there is nobody else to tell

    def _write_record(self, state: str, problem: DatabaseUnavailable | None = None) -> None:
        told = None if problem is None else {"what": problem.what, "do": problem.do, "log": problem.log}
        self._record |= {"state": state, "problem": told}
        try:
            write_atomically(self._data_dir / "server.json", json.dumps(self._record))
            self._record_is_old = False
        except OSError as error:
            if not self._has_served:
                raise
            if not self._record_is_old:  # a full disk must not end a server in use
                self._note(f"server.json cannot be written: {error}")
            self._record_is_old = True

    # -- the log

    def _open_log(self) -> int:
        path = self._data_dir / "postgres.log"
        if path.exists() and path.stat().st_size > LOG_BYTES_AT_START:
            os.replace(path, path.with_name("postgres.log.1"))
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)

    def _trim_log(self) -> None:
        if os.fstat(self._log).st_size > LOG_BYTES_EVER:
            path = self._data_dir / "postgres.log"
            shutil.copyfile(path, path.with_name("postgres.log.1"))
            os.truncate(self._log, 0)  # the server goes on writing to this very file
            self._log_from = 0

    def _said(self) -> str:
        """What PostgreSQL wrote since it was last started."""
        size = os.fstat(self._log).st_size
        start = max(self._log_from, size - 65_536)
        return os.pread(self._log, size - start, start).decode(errors="replace")

    # -- who needs it

    def order(self, number: int, frame: FrameType | None) -> None:
        """A signal asks for the end."""
        patience = SIGTERM_PATIENCE_SECONDS if number == signal.SIGTERM else 0.0
        end = time.monotonic() + patience
        self._stop_at = end if self._stop_at is None else min(self._stop_at, end)

    def _unneeded(self) -> bool:
        """Whether to end; once true, newcomers wait until this process is gone."""
        try:
            fcntl.flock(self._users_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return self._stop_at is not None and time.monotonic() >= self._stop_at

    def _unneeded_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not self._unneeded():
            if time.monotonic() >= end:
                return False
            time.sleep(min(POLL_SECONDS, max(end - time.monotonic(), 0.001)))
        return True

    # -- the server

    def run(self) -> None:
        """Serve until nobody needs the database. Raises DatabaseUnavailable if it can't be had at all."""
        self._write_record("starting")
        place = Place(self._data_dir)
        account = choose_account(place.cluster)
        folder = place.settle(account, lambda text: self._tell({"say": text, "now": True}))
        programs = find_programs(self._bin_dir, folder, account, self.say)
        cluster = make_cluster(folder, programs, self.say)
        place.mark_made()
        write_settings(cluster, programs, self._settings)
        self._record |= {"cluster": str(cluster), "socket_dir": str(self._socket_folder(folder, account))}
        pause = POLL_SECONDS
        while not self._clear_leftovers(cluster):
            began = time.monotonic()
            try:
                if self._serve(cluster, programs):
                    return
                self._note(f"the server ended by itself ({self._ending()}); it is started again")
                self._write_record("restarting")
            except StillInUse:
                self.say("Waiting for the processes of an earlier server to end.")
            except (DatabaseUnavailable, OSError) as error:
                if not self._has_served:
                    raise
                problem = explain_os_error(error, cluster) if isinstance(error, OSError) else error
                self._write_record("failing", problem)
            pause = POLL_SECONDS if time.monotonic() - began > 30 else min(pause * 2, LONGEST_PAUSE_SECONDS)
            if self._unneeded_within(pause):
                return

    def _serve(self, cluster: Path, programs: Programs) -> bool:
        """Run one server until it ends (False) or is no longer needed and was shut down (True).

        Raises DatabaseUnavailable if it ends before it ever was ready.
        """
        child = self._launch(cluster, programs)
        told = time.monotonic()
        while (state := postmaster_file(cluster))[:1] != [str(child.pid)] or state[7:8] != ["ready   "]:
            if child.poll() is not None:
                said = self._said()
                problem = explain(said, cluster.parent, f"PostgreSQL could not start ({self._ending()}).")
                if _STILL_IN_USE.search(said):
                    raise StillInUse(problem.what, problem.do, problem.log)
                raise problem
            if self._unneeded():
                return self._shut_down()
            if time.monotonic() - told > 2:
                told = time.monotonic()
                last = (self._said().strip().splitlines() or [""])[-1]
                self.say(f"PostgreSQL is getting ready (recovering, if it was killed). {last}".strip())
            time.sleep(0.02)
        self._has_served = True
        self._write_record("ready")
        self._tell({"ready": self._record})
        while not self._unneeded():
            if child.poll() is not None:
                return False
            self._rounds += 1
            if self._record_is_old and self._rounds % 10 == 0:
                self._write_record("ready")
            if self._rounds % 600 == 0:
                self._trim_log()
            time.sleep(POLL_SECONDS)
        return self._shut_down()

    def _launch(self, cluster: Path, programs: Programs) -> subprocess.Popen[bytes]:
        folder = Path(self._record["socket_dir"])
        for name in (_SOCKET_FILE, f"{_SOCKET_FILE}.lock"):
            (folder / name).unlink(missing_ok=True)  # of a killed server; a reused pid in it would look alive
        self._log_from = os.fstat(self._log).st_size
        self.say("Starting PostgreSQL.")
        fixed = {
            "unix_socket_directories": str(folder),
            "unix_socket_permissions": "0700",
            "listen_addresses": "",
            "port": str(PORT),
        }
        self._child = subprocess.Popen(
            [str(programs.folder / "postgres"), "-D", str(cluster)]
            + [part for name, value in fixed.items() for part in ("-c", f"{name}={value}")],
            cwd="/",
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            umask=0o077,
            preexec_fn=die_with_parent(signal.SIGINT),
            **programs.account.popen,
        )
        self._record["pid"] = self._child.pid
        self._write_record("starting" if not self._has_served else "restarting")
        return self._child

    def _ending(self) -> str:
        code = self._child.returncode if self._child is not None else 0
        return f"signal {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"

    def _shut_down(self) -> bool:
        """Shut the server down: rolled back and written out, by SIGINT; after a long time harder. True."""
        child = self._child
        if child is None or child.poll() is not None:
            return True
        self._has_served = True  # from here on nothing may keep the server running
        self._write_record("stopping")
        steps = ((signal.SIGINT, FAST_SHUTDOWN_SECONDS), (signal.SIGQUIT, 20.0), (signal.SIGKILL, 20.0))
        for order, seconds in steps:
            child.send_signal(order)
            try:
                child.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                self._note(f"the server has not ended {seconds:.0f} s after {order.name}")
        return True

    def _clear_leftovers(self, cluster: Path) -> bool:
        """Wait until nothing of an earlier server in this cluster runs. True: not needed any more meanwhile.

        Raises DatabaseUnavailable if a live server is somebody else's.
        """
        pid = postmaster_pid(cluster) or int(self._before.get("pid", 0))
        began, asked = time.monotonic(), False
        while pid and works_in(pid, cluster):
            waited = time.monotonic() - began
            if pid == self._before.get("pid") and not asked:
                _send(pid, signal.SIGINT)
                asked = True
            if not asked and waited > 3:
                raise DatabaseUnavailable(
                    f"Another PostgreSQL, not started by ModelFaucet (process {pid}), uses {cluster}.",
                    f"Stop it, such as by: pg_ctl stop -D {cluster}",
                )
            if waited > FAST_SHUTDOWN_SECONDS:
                _send(pid, signal.SIGQUIT)
            self.say("Waiting for the earlier PostgreSQL to shut down.")
            time.sleep(POLL_SECONDS)
        began = time.monotonic()
        while left := orphans(cluster):
            if time.monotonic() - began > ORPHANS_MAY_FINISH_SECONDS:
                for orphan in left:  # a long query would keep the database away; a crash loses no commit
                    _send(orphan, signal.SIGKILL)
            self.say("Waiting for the processes of an earlier server to end.")
            if self._unneeded_within(POLL_SECONDS):
                return True
        if pid and (Path(f"/proc/{pid}").exists() if ON_LINUX else is_alive(pid)):
            # The number is that of another program by now, or of a dead postmaster that nobody has buried
            # (a container's first process may never do so); PostgreSQL would take it for a server and refuse.
            (cluster / "postmaster.pid").unlink(missing_ok=True)
        return False

    # -- the socket's folder

    def _socket_folder(self, place: Path, account: Account) -> Path:
        """A folder that only PostgreSQL's account (and root) can enter, with a path short enough.

        Raises DatabaseUnavailable if something else is in the way.
        """
        folder = place / "run"
        if not _fits(folder):
            earlier = Path(self._before.get("socket_dir") or "/")
            if _fits(earlier) and _is_private(earlier, account):
                return earlier  # so that those who still know it find the new server
            return _temporary_folder(account)
        if not os.path.lexists(folder):
            folder.mkdir(mode=0o700)
            account.give(folder)
        if not _is_private(folder, account):
            raise DatabaseUnavailable(
                f"The path of the database's socket is taken: {folder} is no folder of {account.name}'s own.",
                "Remove what is there; ModelFaucet makes that folder itself.",
            )
        return folder

    def clean_up(self) -> None:
        """The last act: nothing runs any more, and newcomers may start another watcher."""
        self._shut_down()
        folder = Path(self._record["socket_dir"] or "/")
        if folder.name.startswith("modelfaucet-"):
            shutil.rmtree(folder, ignore_errors=True)
        for name in ("server.json", "server.old.json"):
            (self._data_dir / name).unlink(missing_ok=True)
        os.close(self._watch_lock)  # before the other one: whoever gets in must find no watcher
        os.close(self._users_lock)


def _send(pid: int, order: signal.Signals) -> None:
    try:
        os.kill(pid, order)
    except ProcessLookupError:
        pass  # it has just ended by itself


def _fits(folder: Path) -> bool:
    # A comma would end the path in a list of hosts, which is what drivers read.
    plain = re.fullmatch(r"[A-Za-z0-9/._-]+", str(folder))
    return plain is not None and len(os.fsencode(folder)) <= SOCKET_FOLDER_BYTES


def _is_private(folder: Path, account: Account) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return found.st_uid == account.uid and found.st_mode & 0o170077 == 0o040000


def _temporary_folder(account: Account) -> Path:
    for parent in (Path(tempfile.gettempdir()), Path("/tmp")):
        if _fits(parent / "modelfaucet-12345678") and account.can(partial(can_enter, parent)):
            folder = Path(tempfile.mkdtemp(prefix="modelfaucet-", dir=parent))
            account.give(folder)
            return folder
    raise DatabaseUnavailable(
        "There is no temporary folder with a path short enough for the database's socket.",
        "Set TMPDIR to such a folder, or FAUCET_DATA to one with a shorter path.",
    )


def main() -> None:
    """Detach from the user that started this, and watch. Its standard output is the pipe to that user."""
    plan = json.loads(sys.argv[1])
    os.set_inheritable(plan["watch_lock"], False)  # PostgreSQL must not keep it
    os.set_blocking(1, False)  # a user that is stopped must not stop the watcher
    if os.fork():
        os._exit(0)  # so that nobody has a child to bury, and nobody's Ctrl-C or exit reaches the watcher
    try:
        watcher = Watcher(plan, plan["watch_lock"])
    except OSError as error:
        _report(explain_os_error(error, Path(plan["data_dir"])))
        return
    os.dup2(watcher._log, 2)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, watcher.order)
    signal.signal(signal.SIGHUP, lambda number, frame: None)
    try:
        watcher.run()
    except DatabaseUnavailable as problem:
        _report(problem)
    except OSError as error:
        traceback.print_exc()
        _report(explain_os_error(error, Path(plan["data_dir"])))
    except Exception:
        traceback.print_exc()  # a bug: the user that waits sees the pipe close, and shows the log
    try:
        watcher.clean_up()
    except OSError:
        traceback.print_exc()
    os._exit(0)  # at once: who sees the locks free finds no process either


def _report(problem: DatabaseUnavailable) -> None:
    message = {"error": {"what": problem.what, "do": problem.do, "log": problem.log}}
    try:
        os.write(1, json.dumps(message).encode() + b"\n")
    except OSError:
        pass


if __name__ == "__main__":
    main()
