"""Clients that run on Node: their locked packages, installed once into the project's environment, and running a script
of `contract/node/`, which prints what it saw."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gateway_world import EndUser, Gateway

HERE = Path(__file__).parent / "contract" / "node"
LOCKED = ("package.json", "package-lock.json", ".npmrc")


@pytest.fixture(scope="session")
def packages() -> Path:
    """A folder with the locked packages, made by the first who needs it."""
    npm = shutil.which("npm")
    assert npm, "Node and npm are needed to try the clients that run on Node"
    mark = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in LOCKED)).hexdigest()[:16]
    folder = Path(sys.prefix) / f"node-clients-{mark}"
    Path(sys.prefix).mkdir(exist_ok=True)
    with (Path(sys.prefix) / "node-clients.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name in LOCKED:
                shutil.copy(HERE / name, folder)
            cache = {} if os.access(Path.home(), os.W_OK) else {"npm_config_cache": str(folder / "cache")}
            done = subprocess.run([npm, "ci"], cwd=folder, capture_output=True, text=True, env=os.environ | cache)
            assert done.returncode == 0, done.stderr[-2000:]
            (folder / "ready").touch()
    return folder


def run(packages: Path, script: str, gateway: Gateway, end_user: EndUser, **settings: str) -> Any:
    """What a script saw."""
    # Node looks for packages beside the script, so it has to stand beside them.
    at = packages / f"{os.getpid()}-{script}"
    shutil.copy(HERE / script, at)
    try:
        done = subprocess.run(
            ["node", at.name],
            cwd=packages,
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | {"GATEWAY_URL": gateway.base_url, "SESSION_TOKEN": end_user.bearer, **settings},
        )
    finally:
        at.unlink()
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
