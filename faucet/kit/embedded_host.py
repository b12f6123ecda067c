"""The machine under the embedded PostgreSQL: the account that it runs as, the folder that its cluster is
in, and plain words for what PostgreSQL or the kernel says when it refuses. Not here: programs and clusters
(`embedded_cluster`), the running server (`embedded_watch`), its users (`embedded_postgres`).

What forks here runs in the watcher, a process with one thread, because children that must die with their
parent need work between fork and exec. POSIX only.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faucet.kit.errors import Fault

SUPERUSER = "faucet"
DATABASE = "faucet"
ON_LINUX = sys.platform.startswith("linux")
SYSTEM_PLACE = Path("/var/lib/modelfaucet")
"""Where root keeps clusters whose data dir lies in a folder that PostgreSQL's account cannot enter."""
_LOG_LINES = 15
_ADVICE: tuple[tuple[str, str, str], ...] = (
    (
        r"No space left on device|Disk quota exceeded",
        "The disk is full.",
        "Free some space on the disk of {place} and start again; nothing that was committed is lost.",
    ),
    (
        r"Permission denied|Operation not permitted|has wrong ownership|has invalid permissions",
        "PostgreSQL may not use its files in {place}.",
        "Give that folder back to the account that PostgreSQL runs as, or choose another FAUCET_DATA.",
    ),
    (
        r"incompatible with server",
        "The database in {place} was made by another version of PostgreSQL.",
        "Use the version that made it to dump the data, or point FAUCET_DATA at another folder.",
    ),
    (
        r"pre-existing shared memory block|is another postmaster|Is another postmaster|Is another postgres",
        "Another PostgreSQL still uses the database in {place}.",
        "Stop that server, or point FAUCET_DATA at another folder.",
    ),
    (
        r"could not create any Unix-domain sockets|could not create Unix socket|could not bind|"
        r"Unix-domain socket path .* is too long",
        "The database's socket cannot be made: its path is taken or not usable.",
        "Look at what is in the way in the log below and remove it.",
    ),
    (
        r"could not locate a valid checkpoint|invalid checkpoint|"
        r"could not locate required checkpoint|invalid data in file|incorrect checksum in control file|"
        r"could not read file \"global|could not open file \"(?:global|pg_)|invalid primary checkpoint|"
        r"is not a database cluster directory",
        "The database in {place} is damaged.",
        "Keep a copy of that folder, then restore a backup; nothing here changes it.",
    ),
    (
        r"unrecognized configuration parameter|invalid value for parameter|contains errors|"
        r"is outside the valid range|requires a numeric value|requires a Boolean value",
        "PostgreSQL refuses one of its settings.",
        "Correct the setting named below (own settings live in postgresql.conf in {place}).",
    ),
    (
        r"Cannot allocate memory|could not map anonymous shared memory|"
        r"could not create shared memory segment|could not create semaphores",
        "This machine does not give PostgreSQL the memory that it needs.",
        "Give it at least 512 MB, or use another server through DATABASE_URL.",
    ),
    (
        r"Read-only file system",
        "The disk of {place} is read-only.",
        "Make it writable, or point FAUCET_DATA at another folder.",
    ),
)
_libc = ctypes.CDLL(None, use_errno=True) if ON_LINUX else None


class DatabaseUnavailable(Fault):
    """The embedded database cannot serve; the text says what is wrong, what to do, what PostgreSQL said."""

    def __init__(self, what: str, do: str = "", log: Sequence[str] = ()) -> None:
        tail = ["PostgreSQL's last words:", *(f"  {line}" for line in log)] if log else []
        super().__init__("\n".join([what, *([do] if do else []), *tail]))
        self.what = what
        self.do = do
        self.log = list(log)


def explain(said: str, place: Path, otherwise: str = "PostgreSQL could not start.") -> DatabaseUnavailable:
    """The plain error for what PostgreSQL wrote before it gave up."""
    lines = [line.rstrip()[:240] for line in said.splitlines() if line.strip()][-_LOG_LINES:]
    if _is_full(place):
        said += "\nNo space left on device"  # the log that would say so could not be written either
    for pattern, what, do in _ADVICE:
        if re.search(pattern, said):
            return DatabaseUnavailable(what.format(place=place), do.format(place=place), lines)
    return DatabaseUnavailable(otherwise, "Read the log below, or use another server by DATABASE_URL.", lines)


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < 1_000_000
    except OSError:
        return False


def explain_os_error(error: OSError, path: Path) -> DatabaseUnavailable:
    """The plain error for an operating system's refusal at `path`."""
    text = f"{error.strerror}: {error.filename or path}"
    if isinstance(error, PermissionError):
        return DatabaseUnavailable(
            f"The database's folder may not be used by this account ({account_name(os.geteuid())}): {text}.",
            f"Give {path} to this account, or point FAUCET_DATA at a folder of your own.",
        )
    return explain(str(error), path, otherwise=f"The database's folder {path} cannot be used: {text}.")


def account_name(uid: int) -> str:
    """The login name of a uid, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@dataclass(frozen=True)
class Account:
    """Whom PostgreSQL runs as. `switch` is true where that is somebody else than this process, root."""

    name: str
    uid: int
    gid: int
    switch: bool

    @property
    def popen(self) -> dict[str, Any]:
        """The arguments that make `subprocess` run a program as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.switch else {}

    def give(self, path: Path) -> None:
        """Make one file or folder that we just made this account's own."""
        if self.switch:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def can(self, check: Callable[[], bool]) -> bool:
        """Whether `check` holds for this account; asked of the kernel, so that access lists count too.

        Raises DatabaseUnavailable where root may not switch accounts (a container without that right).
        """
        if not self.switch:
            return check()
        child = os.fork()
        if child == 0:
            answer = 2
            try:
                os.setgroups([])
                os.setgid(self.gid)
                os.setuid(self.uid)
                answer = 1
                answer = 0 if check() else 1
            finally:
                os._exit(answer)
        answer = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if answer == 2:
            raise DatabaseUnavailable(
                f"PostgreSQL does not run as root, and root may not become {self.name!r} here.",
                "Run ModelFaucet as an ordinary user, or use another server through DATABASE_URL.",
            )
        return answer == 0


def choose_account(cluster: Path) -> Account:
    """Oneself; as root the owner of the existing cluster, else `postgres`, else `nobody`.

    Raises DatabaseUnavailable where there is no such account, or the cluster belongs to another one.
    """
    uid = os.geteuid()
    owner = cluster.lstat().st_uid if os.path.lexists(cluster) else None
    if uid != 0:
        if owner not in (None, uid):
            raise DatabaseUnavailable(
                f"The database in {cluster} belongs to the account {account_name(owner or 0)}.",
                "Start ModelFaucet as that account, or point FAUCET_DATA at a folder of your own.",
            )
        try:
            me = pwd.getpwuid(uid)
        except KeyError:
            raise DatabaseUnavailable(
                f"The account with number {uid} has no name here, and PostgreSQL insists on one.",
                "Add it to /etc/passwd, or use another server through DATABASE_URL.",
            ) from None
        return Account(me.pw_name, uid, os.getegid(), switch=False)
    if owner == 0:
        raise DatabaseUnavailable(
            f"The database in {cluster} belongs to root, as whom PostgreSQL does not run.",
            f"Give it to an ordinary account, such as by: chown -R postgres {cluster}",
        )
    for name in [account_name(owner)] if owner is not None else ["postgres", "nobody"]:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid, switch=True)
    raise DatabaseUnavailable(
        "PostgreSQL does not run as root, and there is no ordinary account for it here.",
        "Make an account called postgres, or use another server through DATABASE_URL.",
    )


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead but not yet buried does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] not in ("Z", "X")
    except OSError:
        if ON_LINUX:
            return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return state.strip()[:1] not in ("", "Z")


def can_enter(folder: Path) -> bool:
    """Whether this very process may enter a folder."""
    try:
        os.stat(os.path.join(folder, "."))
    except OSError:
        return False
    return True


class Place:
    """Where a data dir's cluster lives, as recorded in the data dir: almost always the data dir itself."""

    def __init__(self, data_dir: Path) -> None:
        self._file = data_dir / "place.json"
        self._data_dir = data_dir
        try:
            known = json.loads(self._file.read_text())
            self.path: Path | None = data_dir / known["place"]
            self.made: bool = bool(known["made"])
        except FileNotFoundError:
            self.path, self.made = None, False
        except (ValueError, KeyError, TypeError):
            raise DatabaseUnavailable(
                f"{self._file} is damaged: it names the folder of the database.",
                'It must read {"place": ".", "made": true}, or name another folder that has the data.',
            ) from None

    @property
    def cluster(self) -> Path:
        return (self.path or self._data_dir) / "pg"

    def settle(self, account: Account, say: Callable[[str], None]) -> Path:
        """The folder for the cluster, which `account` can reach; recorded for ever at the first call.

        Raises DatabaseUnavailable where there is none, and where a recorded cluster is gone: a folder that is
        not mounted must never look like a new, empty database.
        """
        if self.path is None:
            self.path = self._data_dir
            if not account.can(lambda: can_enter(self._data_dir)):
                name = hashlib.sha256(os.fsencode(os.path.realpath(self._data_dir))).hexdigest()[:16]
                self.path = SYSTEM_PLACE / name
                say(
                    f"The account {account.name}, which PostgreSQL runs as, cannot enter {self._data_dir}: "
                    f"the database lives in {self.path} instead."
                )
        for folder in (self.path.parent, self.path):
            if not folder.exists():
                folder.mkdir(parents=True)
                folder.chmod(0o755)  # PostgreSQL's account must pass; the cluster in it is private
        if not account.can(lambda: can_enter(self.cluster.parent)):
            raise DatabaseUnavailable(
                f"The account {account.name}, which PostgreSQL runs as, cannot enter {self.path}.",
                "Let it pass through every folder on that path (chmod o+x), or choose another FAUCET_DATA.",
            )
        if self.made and not self.cluster.is_dir():
            raise DatabaseUnavailable(
                f"The database is gone: there was one in {self.cluster}.",
                f"Bring that folder back (is a disk not mounted?). To begin with an empty one, delete {self._file}.",
            )
        self._write()
        return self.path

    def mark_made(self) -> None:
        """Remember that there is a cluster, so that its absence is noticed."""
        if not self.made:
            self.made = True
            self._write()

    def _write(self) -> None:
        # A copy of a data dir that holds its cluster must mean the copy, not the original.
        place = "." if self.path == self._data_dir else str(self.path)
        text = json.dumps({"place": place, "made": self.made})
        if not self._file.exists() or self._file.read_text() != text:
            write_atomically(self._file, text)


def write_atomically(path: Path, text: str, account: Account | None = None) -> None:
    """Replace a file as a whole and for good; readers see the old or the new text."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            if account is not None and account.switch:
                os.fchown(file.fileno(), account.uid, account.gid)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def die_with_parent(how: signal.Signals) -> Callable[[], None]:
    """Work between fork and exec: on Linux the child gets `how` when the thread that made it is gone."""
    parent = os.getpid()

    def between() -> None:
        if _libc is not None:
            _libc.prctl(1, int(how), 0, 0, 0)  # PR_SET_PDEATHSIG; after setuid, which would clear it
            if os.getppid() != parent:
                os._exit(1)

    return between


def clean_environment() -> dict[str, str]:
    """What a PostgreSQL program needs of our environment: never our secrets, nor somebody's PG… variables."""
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C", "TZ": "UTC"}
