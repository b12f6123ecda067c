"""The whole product by one command, as a stranger meets it: it starts, money moves, it stops and leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

START_SECONDS = 60
STOP_SECONDS = 30
GONE_SECONDS = 10
KEYS = {"api", "gateway", "mock", "stripe", "admin_token", "developer_admin_token", "demo", "pids"}


def environment() -> dict[str, str]:
    """What a stranger's shell has, and no setting of ours."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in kept if name in os.environ}


def is_alive(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has buried yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] not in ("Z", "X")
    except OSError:
        return False


def wait_until(what: Any, seconds: float) -> bool:
    """Whether something became true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.05)
    return bool(what())


class Up:
    """A running `faucet up`."""

    def __init__(self, data: Path, *options: str) -> None:
        self.log = data.parent / f"{data.name}.up.log"
        ports = ("--api-port", "0", "--gateway-port", "0", "--mock-port", "0")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "faucet", "up", "--data", str(data), *ports, *options],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(),
                cwd=Path(__file__).resolve().parents[2],
                text=True,
            )
        self.card: dict[str, Any] = {}

    def wait_until_ready(self) -> None:
        """Read its one line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.told()
        self.card = json.loads(line)

    @property
    def pids(self) -> dict[str, int]:
        pids: dict[str, int] = self.card["pids"]
        return pids

    def wait(self) -> int:
        """Its exit code, and the end of its output."""
        code = self.process.wait(STOP_SECONDS)
        assert self.process.stdout is not None
        assert self.process.stdout.read() == "", "more than one line on standard output"
        return code

    def told(self) -> str:
        """What it wrote to standard error."""
        return self.log.read_text(encoding="utf-8")


@contextmanager
def running(data: Path, *options: str) -> Iterator[Up]:
    """`faucet up` on a data dir, gone when the block ends."""
    up = Up(data, *options)
    try:
        up.wait_until_ready()
        yield up
    finally:
        if up.process.poll() is None:
            up.process.kill()
            up.process.wait()
        if up.process.stdout is not None:
            up.process.stdout.close()


@pytest.fixture
def data() -> Iterator[Path]:
    """A data dir that is not there yet, where PostgreSQL can reach it: it never runs as root, pytest's folders are
    private."""
    with tempfile.TemporaryDirectory(prefix="faucet-journey-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o711)
        yield Path(folder) / "data"


def post(address: str, bearer: str | None, body: dict[str, Any]) -> dict[str, Any]:
    headers = {} if bearer is None else {"authorization": f"Bearer {bearer}"}
    reply = httpx2.post(address, headers=headers, json=body, trust_env=False, timeout=20)
    assert reply.status_code == 200, reply.text
    got: dict[str, Any] = reply.json()
    return got


def get(address: str, bearer: str) -> dict[str, Any]:
    reply = httpx2.get(address, headers={"authorization": f"Bearer {bearer}"}, trust_env=False, timeout=20)
    assert reply.status_code == 200, reply.text
    got: dict[str, Any] = reply.json()
    return got


def ask(card: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A session of the demo's user, and one answer."""
    who = {name: card["demo"][name] for name in ("public_app_id", "external_user_id", "feature_key")}
    token: str = post(f"{card['api']}/v1/sessions", None, who)["session_token"]
    body = {"model": "auto", "messages": [{"role": "user", "content": "Where is my parcel?"}]}
    return token, post(f"{card['gateway']}/v1/chat/completions", token, body)


def faucet(data: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """A command about a data dir, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "faucet", *arguments, "--data", str(data)],
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=START_SECONDS,
    )


def test_the_first_dollar(data: Path) -> None:
    """One command brings up everything, a cent moves and is accounted for, and SIGTERM leaves nothing running; the
    same data serves again."""
    with running(data, "--gateway-workers", "2") as up:
        card = up.card
        assert set(card) == KEYS
        assert set(card["demo"]) == {"public_app_id", "feature_key", "external_user_id"}
        assert not any(card[name].endswith(("/", "/v1")) for name in ("api", "gateway", "mock"))
        wanted = {
            "supervisor",
            "mock",
            "stripe",
            "api",
            "gateway-1",
            "gateway-2",
            "jobs",
            "postgres",
            "postgres-watcher",
        }
        assert set(up.pids) == wanted
        assert all(is_alive(pid) for pid in up.pids.values())

        token, reply = ask(card)
        told = reply["modelfaucet"]
        wallet = get(f"{card['api']}/v1/user/wallet", token)
        assert wallet["balance_usd"] == told["wallet_balance_usd"]
        usage = get(f"{card['api']}/v1/apps/app_pub_demo/usage", card["admin_token"])
        assert usage["total_calls"] == 1
        assert usage["usage"][0]["retail_price_usd"] == told["price_usd"]
        books = get(f"{card['api']}/v1/admin/reconciliation/ledger", card["admin_token"])
        assert books["summary"]["mismatch_count"] == 0
        assert books["findings"] == []
        check_commands(data)

        up.process.send_signal(signal.SIGTERM)
        assert up.wait() == 0, up.told()
        assert [name for name, pid in up.pids.items() if is_alive(pid)] == []

    show = faucet(data, "demo", "--once", "--api-port", "0", "--gateway-port", "0", "--mock-port", "0")
    assert show.returncode == 0, show.stderr
    assert show.stdout.count("✓") == 3, show.stdout
    assert "✗" not in show.stdout


def check_commands(data: Path) -> None:
    """What a stranger is told to run beside a running stack: each finds it, does what it says and ends with 0."""
    smoke = faucet(data, "smoke")
    assert smoke.returncode == 0, smoke.stdout + smoke.stderr
    assert "12 of 12 checks hold" in smoke.stdout
    chat = faucet(data, "chat", stdin="Where is my parcel?")
    assert chat.returncode == 0, chat.stderr
    assert len(chat.stdout.split()) > 10
    assert "$0.0000" in chat.stderr
    assert " left" in chat.stderr
    books = faucet(data, "reconcile", "--json")
    assert books.returncode == 0, books.stderr
    assert json.loads(books.stdout)["findings"] == []


def test_what_dies_comes_back_and_nothing_outlives_its_supervisor(data: Path) -> None:
    """A process that dies is started again; a supervisor that could not say goodbye leaves nothing behind that
    runs, nor anything that keeps the next one from starting."""
    with running(data) as up:
        killed = up.pids["gateway-1"]
        os.kill(killed, signal.SIGKILL)
        record = data / "stack.json"

        def is_back() -> bool:
            return bool(json.loads(record.read_text())["pids"].get("gateway-1", killed) != killed)

        assert wait_until(is_back, START_SECONDS), up.told()
        _, reply = ask(up.card)
        assert reply["choices"][0]["message"]["content"]
        assert "gateway-1 died (SIGKILL)" in up.told()

        pids = json.loads(record.read_text())["pids"]
        up.process.kill()
        up.process.wait()
        assert wait_until(lambda: not any(is_alive(pid) for pid in pids.values()), GONE_SECONDS), pids

    with running(data) as again:
        assert again.card["admin_token"] == up.card["admin_token"]
        _, second = ask(again.card)
        assert second["modelfaucet"]["wallet_balance_usd"] < reply["modelfaucet"]["wallet_balance_usd"]
        told = faucet(data, "up")
        assert (told.returncode, told.stdout) == (1, "")
        assert "a stack already runs" in told.stderr
        assert f"process {again.pids['supervisor']}" in told.stderr
        again.process.send_signal(signal.SIGINT)
        assert again.wait() == 0, again.told()
        assert [name for name, pid in again.pids.items() if is_alive(pid)] == []
