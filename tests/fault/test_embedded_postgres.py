"""The embedded PostgreSQL against all that ends, kills, crowds or misplaces it. Real processes throughout.

Run as root these tests show both sides: root starts a server that runs as an unprivileged account, and an
ordinary account starts its own. Run as an ordinary account both are that account.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy

import faucet
from faucet.kit.embedded_host import is_alive
from faucet.kit.embedded_postgres import DatabaseUnavailable, EmbeddedPostgres
from faucet.kit.embedded_watch import orphans, postmaster_file

ROOT = os.geteuid() == 0
ORDINARY: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []} if ROOT else {}
PYTHON = sys.executable
if ROOT and subprocess.run(["test", "-x", sys.executable], **ORDINARY).returncode:
    PYTHON = "/usr/bin/python3"  # ours is in root's private home; any Python 3.11 will do
SITE = Path(asyncpg.__file__).parent.parent
CODE = f"{os.path.dirname(next(iter(faucet.__path__)))}{os.pathsep}{SITE}"
USER = """
import json, os, sys
from pathlib import Path
from faucet.kit.embedded_postgres import DatabaseUnavailable, EmbeddedPostgres
said = []
try:
    running = EmbeddedPostgres.start(Path(sys.argv[1]), progress=said.append)
except DatabaseUnavailable as problem:
    print(json.dumps({"problem": str(problem)}), flush=True)
    raise SystemExit(3)
if "fork" in sys.argv and os.fork() == 0:
    os.close(1)
    sys.stdin.readline()
    os._exit(0)
print(json.dumps({"pid": running.pid, "watcher": running.watcher_pid, "dsn": running.dsn,
    "cluster": str(running.cluster), "said": said}), flush=True)
sys.stdin.readline()
running.close()
"""


class User:
    """Another process that uses the database until it is told to end, or killed."""

    def __init__(self, data_dir: Path, *more: str, env: dict[str, str] | None = None, **who: Any) -> None:
        self.process = subprocess.Popen(
            [PYTHON, "-c", USER, str(data_dir), *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env={**os.environ, "PYTHONPATH": CODE, **(env or {})},
            **who,
        )

    def told(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline() or "{}")
        return answer

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> int:
        self.process.communicate()
        return self.process.returncode


def wait_for(what: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def kill(pid: int) -> None:
    """Kill a process and wait until it is dead: until then it still looks alive to everybody."""
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(pid))


def server_processes(data_dir: Path) -> list[int]:
    """Every process of a server, a watcher or an initdb of this data dir."""
    found = orphans(data_dir / "pg")
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            command = Path("/proc", name, "cmdline").read_bytes()
        except OSError:
            continue
        ours = str(data_dir).encode() in command and USER.encode() not in command
        if ours and is_alive(int(name)):
            found.append(int(name))
    return found


def query(dsn: str, sql: str) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []


def answers(dsn: str) -> bool:
    try:
        return query(dsn, "select 1") == [(1,)]
    except psycopg.OperationalError:
        return False


def refused(data_dir: Path) -> str:
    with pytest.raises(DatabaseUnavailable) as caught:
        EmbeddedPostgres.start(data_dir)
    return str(caught.value)


def stop_all(path: Path) -> None:
    """Whatever a failed test left running."""
    for record in path.glob("**/server.json"):
        watcher = json.loads(record.read_text())["watcher"]
        if is_alive(watcher):
            os.kill(watcher, signal.SIGINT)
            wait_for(lambda watcher=watcher: not is_alive(watcher))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path that every account may enter; emptied of processes and files afterwards."""
    path = Path(tempfile.mkdtemp(prefix="fpg-"))
    path.chmod(0o755)
    yield path
    stop_all(path)
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """A data dir with three rows in it, shut down. One for all tests, as each new one takes a second."""
    path = Path(tempfile.mkdtemp(prefix="fpg-"))
    path.chmod(0o755)
    with EmbeddedPostgres(path / "data") as running:
        query(running.dsn, "create table kept as select generate_series(1, 3) as n")
    yield path / "data"
    stop_all(path)
    shutil.rmtree(path)


KEPT = "select array_agg(n order by n) from kept"
ALL_ROWS = [([1, 2, 3],)]


def test_a_new_database_serves_every_driver_and_leaves_nothing_running(folder: Path) -> None:
    """A first start with nothing set up gives every driver a durable database; its end leaves no process."""
    data_dir = folder / "a" / "data"
    with EmbeddedPostgres(data_dir) as running:
        pids = [running.pid, running.watcher_pid]
        assert os.getsid(running.watcher_pid) != os.getsid(0)  # a Ctrl-C here is not for the server
        query(running.dsn, "create table t as select 1 as n")
        settings = ("fsync", "full_page_writes", "synchronous_commit", "data_checksums", "jit", "timezone")
        shown = [query(running.dsn, f"show {name}")[0][0] for name in settings]
        assert shown == ["on", "on", "on", "on", "off", "UTC"]
        assert query(running.dsn, "show listen_addresses") == [("",)]
        assert query(running.dsn, "select current_user = pg_get_userbyid(datdba) from pg_database "
                     "where datname = current_database() and datname = 'faucet'") == [(True,)]  # fmt: skip

        async def by_asyncpg() -> int:
            connection = await asyncpg.connect(running.dsn)
            try:
                return int(await connection.fetchval("select n from t"))
            finally:
                await connection.close()

        assert asyncio.run(by_asyncpg()) == 1
        engine = sqlalchemy.create_engine(running.dsn.replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect() as connection:
            assert connection.scalar(sqlalchemy.text("select n from t")) == 1
        engine.dispose()
        assert query(running.dsn_for("postgres"), "select current_database()") == [("postgres",)]
    assert not any(map(is_alive, pids)) and server_processes(data_dir) == []
    assert not (data_dir / "server.json").exists()
    running.close()
    with pytest.raises(DatabaseUnavailable):
        running.ensure()
    os.truncate(data_dir / "postgres.log", 11_000_000)
    with EmbeddedPostgres.start(data_dir) as again:
        assert query(again.dsn, "select n from t") == [(1,)]
        assert (data_dir / "postgres.log").stat().st_size < 100_000
        assert (data_dir / "postgres.log.1").stat().st_size == 11_000_000


def test_processes_share_one_server_and_the_survivor_keeps_it(data_dir: Path) -> None:
    """A second process joins the first one's server, and the first one's death takes nothing from it."""
    first = User(data_dir)
    at_first = first.told()
    with EmbeddedPostgres(data_dir) as running:
        assert (running.pid, running.dsn) == (at_first["pid"], at_first["dsn"])
        with psycopg.connect(running.dsn, autocommit=True) as connection:
            first.kill()
            time.sleep(0.5)
            assert connection.execute(KEPT.encode()).fetchall() == ALL_ROWS
            assert running.pid == at_first["pid"]
    assert server_processes(data_dir) == []


def test_the_server_goes_when_its_last_user_is_killed(data_dir: Path) -> None:
    """A user that is killed leaves no server behind, even if a fork of it lives on."""
    user = User(data_dir, "fork")
    assert user.told()["pid"] in server_processes(data_dir)
    user.process.kill()
    user.process.wait()
    wait_for(lambda: server_processes(data_dir) == [])
    assert user.process.stdin is not None
    user.process.stdin.write(b"\n")
    user.process.stdin.flush()  # would raise if the fork, which this ends, were not there any more
    user.end()


def test_a_killed_postmaster_comes_back_with_all_committed_rows(data_dir: Path) -> None:
    """A crash of PostgreSQL costs seconds and no committed row, under the same address, even if a long query
    goes on without its postmaster."""
    with EmbeddedPostgres(data_dir) as running:
        killed = running.pid
        busy = psycopg.connect(running.dsn, autocommit=True)
        busy.pgconn.send_query(b"select count(*) from generate_series(1, 10000000000)")
        with psycopg.connect(running.dsn) as unfinished:
            unfinished.execute("insert into kept values (4)")
            query(running.dsn, "insert into kept values (5)")
            kill(killed)
            wait_for(lambda: answers(running.dsn))
            with pytest.raises(psycopg.OperationalError):
                unfinished.commit()
        busy.close()
        assert query(running.dsn, KEPT) == [([1, 2, 3, 5],)]
        query(running.dsn, "delete from kept where n = 5")
        assert running.pid != killed
    assert server_processes(data_dir) == []


def test_after_a_killed_watcher_the_next_start_works(data_dir: Path) -> None:
    """A killed watcher takes its server along in good order; the next start, or ensure(), makes both anew."""
    with EmbeddedPostgres(data_dir) as running:
        crashes = (data_dir / "postgres.log").read_text().count("not properly shut down")
        server, dsn = running.pid, running.dsn
        kill(running.watcher_pid)
        with EmbeddedPostgres(data_dir) as newcomer:
            assert not is_alive(server)
            assert query(newcomer.dsn, KEPT) == ALL_ROWS
            assert newcomer.dsn == dsn and running.pid == newcomer.pid
        kill(running.watcher_pid)
        running.ensure()
        assert query(dsn, KEPT) == ALL_ROWS
    assert server_processes(data_dir) == []
    assert (data_dir / "postgres.log").read_text().count("not properly shut down") == crashes


def test_a_dead_postmaster_that_nobody_buries_blocks_nothing(data_dir: Path) -> None:
    """In a container whose first process buries nobody, a killed server's number is still no server."""
    subreaper = partial(ctypes.CDLL(None).prctl, 36)
    assert subreaper(1, 0, 0, 0) == 0  # orphans come to this process, which lets them lie
    try:
        with EmbeddedPostgres(data_dir) as running:
            killed = running.pid
            kill(running.watcher_pid)
            kill(killed)
            assert Path(f"/proc/{killed}").exists()
            running.ensure()
            assert query(running.dsn, KEPT) == ALL_ROWS
    finally:
        subreaper(0, 0, 0, 0)
    with contextlib.suppress(ChildProcessError):  # bury what fell to this process; other tests' servers live on
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    assert not Path(f"/proc/{killed}").exists()


def test_nobody_is_given_a_dying_server(data_dir: Path) -> None:
    """Users that come and go at random always get a server that serves, however its end and start meet."""
    failures: list[BaseException] = []
    served = []
    before = (data_dir / "postgres.log").read_text().count("ready to accept connections")

    def come_and_go(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for _ in range(6):
                with EmbeddedPostgres(data_dir) as running:
                    served.append(query(running.dsn, KEPT) == ALL_ROWS)
                    time.sleep(chance.uniform(0, 0.05))
                time.sleep(chance.choice([0.0, 0.05, 0.1, 0.15]))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=come_and_go, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and served == [True] * 18
    wait_for(lambda: server_processes(data_dir) == [])
    starts = (data_dir / "postgres.log").read_text().count("ready to accept connections") - before
    assert starts >= 4  # so that ends and starts did meet


def test_an_interrupted_first_start_is_made_good(folder: Path) -> None:
    """Killing everything in the middle of initdb leaves a data dir that the next start completes."""
    data_dir = folder / "data"
    user = User(data_dir)
    wait_for(lambda: list(data_dir.glob("pg.new-*/base/1/*")))
    for pid in [user.process.pid, *server_processes(data_dir)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            assert not is_alive(pid)  # a child that went with its parent
    assert user.told() == {} and not (data_dir / "pg").exists()
    user.end()
    with EmbeddedPostgres(data_dir) as running:
        assert answers(running.dsn)
    assert list(data_dir.glob("pg.new-*")) == []


def test_an_ordinary_account_needs_no_rights(folder: Path) -> None:
    """Without any rights but to its own folder an account gets its database, and no other account does."""
    home = folder / "home"
    home.mkdir(mode=0o700)
    if ROOT:
        os.chown(home, 65534, 65534)
    user = User(home / "data", **ORDINARY)
    told = user.told()
    assert os.stat(f"/proc/{told['pid']}").st_uid == (65534 if ROOT else os.getuid())
    assert told["cluster"] == str(home / "data" / "pg")
    assert query(told["dsn"], "select 1") == [(1,)]  # root, or the same account
    user.end()
    assert server_processes(home / "data") == []


def test_only_its_own_account_and_root_can_connect(data_dir: Path) -> None:
    """The socket needs no password because nobody else can reach it; no folder that was there is changed."""
    before = data_dir.parent.stat()
    with EmbeddedPostgres(data_dir) as running:
        server = Path(f"/proc/{running.pid}").stat()
        assert server.st_uid != 0 and running.cluster.stat().st_uid == server.st_uid
        for path in (running.socket_dir, running.cluster, next(running.socket_dir.glob(".s.*.5432"))):
            assert path.stat().st_uid == server.st_uid and stat.S_IMODE(path.stat().st_mode) == 0o700
        if ROOT:
            attempt = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
            command = [PYTHON, "-c", attempt, f"{running.socket_dir}/.s.PGSQL.5432"]
            stranger = subprocess.run(command, capture_output=True, text=True, user=2, extra_groups=[])
            assert "PermissionError" in stranger.stderr
    after = data_dir.parent.stat()
    assert (before.st_mode, before.st_uid, before.st_gid) == (after.st_mode, after.st_uid, after.st_gid)


def test_a_data_dir_in_a_private_folder_works_and_a_lost_cluster_is_noticed(folder: Path) -> None:
    """Root's private folders stay so: the cluster moves, not the mode. Lost data never looks like new."""
    private = folder / "private"
    private.mkdir(mode=0o700)
    user = User(private / "data")
    told = user.told()
    cluster = Path(told["cluster"])
    try:
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert cluster.is_relative_to(private) is not ROOT and cluster.stat().st_uid != 0
        assert any(str(cluster.parent) in text for text in told["said"]) is ROOT
        query(told["dsn"], "create table kept as select generate_series(1, 3) as n")
        user.end()
        with EmbeddedPostgres(private / "data") as again:
            assert query(again.dsn, KEPT) == ALL_ROWS and again.cluster == cluster
        shutil.rmtree(cluster)
        assert f"there was one in {cluster}" in refused(private / "data")
    finally:
        user.kill()
        if cluster.parent != private / "data":
            shutil.rmtree(cluster.parent)


def test_programs_that_the_account_cannot_reach_are_copied(data_dir: Path, folder: Path) -> None:
    """An environment under root's private home does: what PostgreSQL's account cannot run is copied, once."""
    private = folder / "private"
    private.mkdir(mode=0o700)
    for package in SITE.glob("embedded_postgres*"):
        (private / package.name).symlink_to(package)
    for _ in range(2):
        user = User(data_dir, env={"PYTHONPATH": f"{private}{os.pathsep}{CODE}"})
        told = user.told()
        assert query(told["dsn"], KEPT) == ALL_ROWS
        copies = list(data_dir.glob("programs*"))
        program = Path(os.readlink(f"/proc/{told['pid']}/exe"))
        assert [program.is_relative_to(copy) for copy in copies] == ([True] if ROOT else [])
        user.end()


@pytest.mark.parametrize("name", ["x" * 120, "a b,c%d'e"])
def test_any_path_will_do(data_dir: Path, folder: Path, name: str) -> None:
    """A path too long or too odd for a socket's address gets one elsewhere, which goes with the server."""
    odd = data_dir.rename(folder / name)
    with EmbeddedPostgres(odd) as running:
        first_dir = running.socket_dir
        assert len(str(first_dir)) < 90 and query(running.dsn, KEPT) == ALL_ROWS
        kill(running.watcher_pid)
        running.ensure()
        assert running.socket_dir == first_dir and answers(running.dsn)
    odd.rename(data_dir)
    assert not first_dir.exists()


def test_a_folder_that_may_not_be_written_is_named(folder: Path) -> None:
    """Missing permission is told in plain words with the path, not as a traceback from a lock."""
    closed = folder / "closed"
    closed.mkdir(mode=0o555)
    user = User(closed / "data", **ORDINARY)
    problem = user.told()["problem"]
    assert user.end() == 3
    assert "may not be used by this account" in problem and str(closed / "data") in problem
    (folder / "file").write_text("")
    assert str(folder / "file") in refused(folder / "file" / "data")


def test_what_is_foreign_or_damaged_is_refused_in_plain_words(data_dir: Path) -> None:
    """A foreign or damaged cluster or a taken path stops the start, says so, and nothing is changed."""
    version = data_dir / "pg" / "PG_VERSION"
    real = version.read_text()
    version.write_text("14\n")
    assert "made by PostgreSQL 14; this is PostgreSQL 18" in refused(data_dir)
    version.unlink()
    assert "is not a PostgreSQL database, and it is not empty" in refused(data_dir)
    version.write_text(real)
    shutil.chown(version, data_dir.joinpath("pg").stat().st_uid)
    control = data_dir / "pg" / "global" / "pg_control"
    good = control.read_bytes()
    control.write_bytes(good[:100] + b"\xff" * 8 + good[108:])
    assert "is damaged" in (text := refused(data_dir)) and "control file" in text
    control.write_bytes(good)
    run = data_dir / "run"
    shutil.rmtree(run)
    run.write_text("in the way")
    assert f"socket is taken: {run}" in refused(data_dir)
    run.unlink()
    with EmbeddedPostgres(data_dir) as running:
        assert query(running.dsn, KEPT) == ALL_ROWS


def test_a_server_that_is_not_ours_is_left_alone(data_dir: Path) -> None:
    """A PostgreSQL that somebody else runs on the same cluster is neither killed nor joined, but named."""
    with EmbeddedPostgres(data_dir) as running:
        program = os.readlink(f"/proc/{running.pid}/exe")
        owner = running.cluster.stat()
    who: dict[str, Any] = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if ROOT else {}
    command = [program, "-D", str(data_dir / "pg"), "-k", str(data_dir / "run"), "-h", ""]
    other = subprocess.Popen(command, cwd="/", stderr=subprocess.DEVNULL, **who)
    try:
        wait_for(lambda: "ready   " in postmaster_file(data_dir / "pg"))
        assert f"not started by ModelFaucet (process {other.pid})" in refused(data_dir)
        assert other.poll() is None
        other.kill()
        assert other.wait() == -signal.SIGKILL
        sleeper = subprocess.Popen(["sleep", "60"], cwd="/", **who)
        stale = [str(sleeper.pid), *postmaster_file(data_dir / "pg")[1:], ""]
        (data_dir / "pg" / "postmaster.pid").write_text("\n".join(stale))
        with EmbeddedPostgres(data_dir) as running:  # that number now is another program's: no server
            assert query(running.dsn, KEPT) == ALL_ROWS
        assert sleeper.poll() is None
        sleeper.kill()
        sleeper.wait()
    finally:
        other.kill()
        other.wait()


def test_a_server_that_cannot_come_back_says_so_and_is_tried_again(data_dir: Path) -> None:
    """While a died server cannot start, newcomers get the reason, not a wait; repaired, it serves again."""
    version = data_dir / "pg" / "PG_VERSION"
    with EmbeddedPostgres(data_dir) as running:
        aside = version.rename(data_dir / "PG_VERSION")
        kill(running.pid)
        wait_for(lambda: json.loads((data_dir / "server.json").read_text())["state"] == "failing")
        text = refused(data_dir)
        assert "PG_VERSION" in text or "is damaged" in text
        aside.rename(version)
        wait_for(lambda: answers(running.dsn))
        assert query(running.dsn, KEPT) == ALL_ROWS
