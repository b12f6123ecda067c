"""A developer's way from nothing to revenue, told by the commands that they type, on a fresh stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 200


def faucet(data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command in a stranger's shell, without any setting of ours."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
    env = {name: os.environ[name] for name in kept if name in os.environ} | {"FAUCET_DATA": str(data)}
    command = [sys.executable, "-m", "faucet", *words]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=SECONDS)


@pytest.mark.timeout(240)
def test_from_nothing_to_revenue() -> None:
    """Lost: what a developer is told to type on the first day, or the agreement of the figures at its end."""
    with tempfile.TemporaryDirectory(prefix="faucet-story-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o711)
        data = Path(folder) / "data"
        told = faucet(data, "story", "--data", str(data))
        assert told.returncode == 0, told.stdout[-2000:] + told.stderr[-2000:]
        assert told.stdout.count("✓") == 4, told.stdout
        assert "✗" not in told.stdout
        assert "feature: reply_to_customer" in told.stdout
        assert "identity_mode: signed" in told.stdout
        secrets = json.loads((data / "secrets.json").read_text())
        assert not any(secret in told.stdout for secret in secrets.values())
        assert not (data / "stack.json").exists(), "the stack still runs"

        again = faucet(data, "story", "--data", str(data))
        assert again.returncode == 1
        assert "has something in it" in again.stderr

        well = faucet(data, "doctor", "--json")
        found = {check["name"]: check for check in json.loads(well.stdout)["checks"]}
        assert found["schema"]["status"] == "ok"
        assert found["prices"]["status"] == "ok"
