"""The doctor's looks at this machine: clock, folder, keys, ports. The database's are in the contract tests."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from faucet.cli.doctor import DISK_BYTES_MIN, ODD, WELL, WRONG, Findings, check_clock, check_folder, check_ports
from faucet.cli.main import app
from faucet.kit.config import Config, load_config

STRONG = {
    "SECRET_ENCRYPTION_KEY": "k3y-A9fj20fkq0fjQPWOEIruty5647382910",
    "ADMIN_TOKEN": "adm-Zm9v8s7d6f5g4h3j2k1lQWERTYuiop09",
    "DEVELOPER_ADMIN_TOKEN": "dev-Mn8b7v6c5x4z3a2s1dPLOKIJuhygtf12",
}


def status(findings: Findings) -> dict[str, str]:
    """What was found, by place; the worst where there is more than one."""
    order = (WELL, ODD, WRONG)
    found: dict[str, str] = {}
    for check in findings.checks:
        found[check.name] = max(found.get(check.name, WELL), check.status, key=order.index)
    return found


@pytest.mark.parametrize(("year", "wanted"), [(1970, WRONG), (2025, WRONG), (2026, WELL), (2030, WELL), (2200, ODD)])
def test_a_clock_that_can_t_be_right(year: int, wanted: str) -> None:
    """Lost: sessions that end at once, and nobody who thinks of the clock."""
    findings = Findings()
    check_clock(findings, datetime(year, 6, 1, tzinfo=UTC))
    assert status(findings) == {"clock": wanted}


def test_a_folder_that_can_t_be_used(tmp_path: Path) -> None:
    """Lost: a stack that fails at its first file, far away from the reason."""
    findings = Findings()
    check_folder(findings, tmp_path / "not" / "there" / "yet")
    assert status(findings)["data dir"] == WELL
    assert "is made when something starts" in findings.checks[0].found

    file = tmp_path / "file"
    file.write_text("x")
    findings = Findings()
    check_folder(findings, file / "below")
    assert status(findings) == {"data dir": WRONG}
    assert not findings.is_well

    (tmp_path / "secrets.json").write_text("{}")
    (tmp_path / "secrets.json").chmod(0o644)
    findings = Findings()
    check_folder(findings, tmp_path)
    assert status(findings)["secrets"] == WRONG
    (tmp_path / "secrets.json").chmod(0o600)
    findings = Findings()
    check_folder(findings, tmp_path)
    assert "secrets" not in status(findings)
    assert status(findings)["disk"] in (WELL, ODD)
    assert os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize > DISK_BYTES_MIN


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A program that is not ours and that listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def settings(tmp_path: Path, api_port: int) -> Config:
    """A development machine's settings with this port, and another that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gateway = free.getsockname()[1]
    env = {"FAUCET_DATA": str(tmp_path), "PORT_API": str(api_port), "PORT_GATEWAY": str(gateway)}
    return load_config(env)


def test_a_port_that_is_taken_is_told_with_its_owner(tmp_path: Path, listener: socket.socket) -> None:
    """Lost: an address in use, and nobody knows by whom or how to use another."""
    port = listener.getsockname()[1]
    listener.settimeout(0.1)
    findings = Findings()
    check_ports(findings, settings(tmp_path, port))
    (taken,) = [check for check in findings.checks if str(port) in check.found]
    assert taken.status == WRONG
    assert f"process {os.getpid()}" in taken.found
    assert "PORT_API" in str(taken.remedy)
    assert sum("is free for the gateway" in check.found for check in findings.checks) == 1


def test_a_stack_that_says_it_runs_and_does_not(tmp_path: Path) -> None:
    """Lost: a record of a stack that is gone is believed."""
    (tmp_path / "stack.json").write_text(json.dumps({"api": "http://127.0.0.1:1"}))
    findings = Findings()
    check_ports(findings, settings(tmp_path, 1))
    (check,) = [check for check in findings.checks if check.name == "api"]
    assert (check.status, check.found) == (WRONG, "http://127.0.0.1:1 should answer and does not")


def test_production_with_default_keys_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost: production that does not start, or starts with a key that everybody knows, without a word what to do."""
    env = {**STRONG, "ADMIN_TOKEN": "changeme", "MODELFAUCET_ENV": "production", "FAUCET_DATA": str(tmp_path)}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("API_CORS_ORIGINS", raising=False)
    shown = CliRunner().invoke(app, ["doctor", "--json"])
    assert shown.exit_code == 1
    wrong = {
        c["found"].partition(":")[0]: c["remedy"] for c in json.loads(shown.stdout)["checks"] if c["status"] == WRONG
    }
    assert set(wrong) == {"ADMIN_TOKEN", "API_CORS_ORIGINS", "GATEWAY_CORS_ORIGINS"}
    assert "openssl rand" in wrong["ADMIN_TOKEN"]
    assert all(value not in shown.output for value in (*STRONG.values(), "changeme"))
