"""Ports that are kept or refused, logs that stay small, and children that say how they ended."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from faucet.stack.child import LOG_BYTES_MAX, Child, ChildFailed, last_lines
from faucet.stack.ports import KeptPort, PortRefused, keep_port, listener_on
from faucet.stack.settings import operator_token
from faucet.stack.supervisor import read_record

HOST = "127.0.0.1"


def bound(port: int, *, reuse_port: bool = False) -> socket.socket:
    """A listener as our processes make them."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((HOST, port))
    listener.listen()
    return listener


def test_a_kept_port_is_free_for_our_processes_and_answers_only_through_them() -> None:
    """Lost: the port of a stack is given away, or swallows connections, while its process is started again."""
    kept = keep_port(HOST, 0, what="the API", option="--api-port")
    try:
        for reuse_port in (False, True, True):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((HOST, kept.number), timeout=2)
            with bound(kept.number, reuse_port=reuse_port) as listener:
                for _ in range(4):
                    with socket.create_connection((HOST, kept.number), timeout=2):
                        listener.settimeout(2)
                        listener.accept()[0].close()
    finally:
        kept.give_back()
        kept.give_back()
    assert kept == KeptPort(kept.number, None)


@pytest.mark.parametrize("shared", [False, True])
def test_a_taken_port_is_refused_with_its_owner_and_the_way_out(shared: bool) -> None:
    """Lost: somebody looks for a fault of ours where another program has the port; or shares one unknowingly."""
    with bound(0, reuse_port=shared) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortRefused) as refused:
            keep_port(HOST, port, what="the gateway", option="--gateway-port")
        told = str(refused.value)
        assert f"port {port}, wanted for the gateway, is taken by" in told
        assert f"(process {os.getpid()})" in told
        assert "--gateway-port" in told
    assert listener_on(port) is None


def test_an_address_that_is_not_ours_is_refused() -> None:
    """Lost: a traceback for a typing error in BIND_ADDRESS."""
    with pytest.raises(PortRefused, match=r"no address 192\.0\.2\.1"):
        keep_port("192.0.2.1", 0, what="the API", option="--api-port")


def child(folder: Path, *arguments: str, notes: list[str] | None = None) -> Child:
    """A child that runs one of our commands."""
    notes = [] if notes is None else notes
    environment = {"PATH": os.environ["PATH"], "FAUCET_DATA": str(folder)}
    log = folder / "one.log"
    return Child("one", arguments, environment, log, notes.append, lambda: None, grace_seconds=5)


async def test_a_child_that_can_not_start_says_why(tmp_path: Path) -> None:
    """Lost: `up` fails, and the reason is in a file that nobody names."""
    one = child(tmp_path, "version")
    with pytest.raises(ChildFailed) as failed:
        await one.start()
    told = str(failed.value)
    assert "one ended before it was ready (exit code 0)" in told
    assert str(tmp_path / "one.log") in told
    assert "modelfaucet" in told
    await one.stop()


async def test_a_child_is_kept_and_stopped(tmp_path: Path) -> None:
    """Lost: a process that dies stays dead, or one that is told to stop is started again."""
    notes: list[str] = []
    one = child(tmp_path, "mock-provider", "--port", "0", notes=notes)
    await one.start()
    keeper = asyncio.create_task(one.keep())
    first = one.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(20):
        while one.restarts == 0:
            await asyncio.sleep(0.05)
    assert one.pid not in (None, first)
    assert "one died (SIGKILL)" in notes[0]
    await one.stop()
    async with asyncio.timeout(5):
        await keeper
    assert one.pid is None
    assert len(notes) == 2


async def test_a_log_is_kept_below_its_size(tmp_path: Path) -> None:
    """Lost: a process that complains for days fills the disk."""
    one = child(tmp_path, "version")
    with one.log.open("ab") as open_elsewhere:
        open_elsewhere.write(b"x" * LOG_BYTES_MAX + b"\nlast\n")
        open_elsewhere.flush()
        one.shorten_log()
        assert one.log.stat().st_size == 0
        open_elsewhere.write(b"new\n")
    assert one.log.read_bytes() == b"new\n"
    assert last_lines(Path(f"{one.log}.1"), 1) == ["last"]


def test_what_a_data_dir_tells(tmp_path: Path) -> None:
    """Lost: a broken or missing file in the data dir becomes a traceback in commands that only look."""
    assert read_record(tmp_path) is None
    (tmp_path / "stack.json").write_text("{")
    assert read_record(tmp_path) is None
    assert operator_token(tmp_path) == os.environ.get("ADMIN_TOKEN")
    (tmp_path / "secrets.json").write_text('{"ADMIN_TOKEN": "kept"}')
    assert operator_token(tmp_path) == os.environ.get("ADMIN_TOKEN", "kept")
    assert last_lines(tmp_path / "none.log") == []
