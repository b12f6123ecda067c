"""The gateway as clients on Node see it: OpenAI's and Anthropic's own, and Vercel's AI SDK.

Each is a script under `node/` that prints what it saw. Their packages are locked there and installed once into the
project's environment.
"""

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
from gateway_world import EndUser, Gateway, World

HERE = Path(__file__).parent / "node"
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


def run(packages: Path, script: str, gateway: Gateway, end_user: EndUser) -> Any:
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
            env=os.environ | {"GATEWAY_URL": gateway.base_url, "SESSION_TOKEN": end_user.bearer},
        )
    finally:
        at.unlink()
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_openais_client(packages: Path, gateway: Gateway, world: World, rich: EndUser) -> None:
    """Most apps on Node use this client."""
    seen = run(packages, "openai.mjs", gateway, rich)
    assert seen["plain"]["text"] and seen["plain"]["text"] == seen["stream"]["text"] == seen["response"]["text"]
    assert seen["plain"]["usage"]["completion_tokens"] == seen["stream"]["usage"]["completion_tokens"] == 48
    assert seen["response"]["usage"]["output_tokens"] == 48
    assert seen["tool"]["name"] == "find_order" and json.loads(seen["tool"]["arguments"])["id"]
    assert set(seen["structured"]) == {"id"}
    assert seen["events"][0] == "response.created" and seen["events"][-1] == "response.completed"
    assert "mock-small" in seen["models"]
    assert seen["error"]["name"] == "NotFoundError" and seen["error"]["code"] == "not_found"
    assert seen["error"]["id"].startswith("req_")
    assert len(world.events_of(rich)) == 6


def test_anthropics_client(packages: Path, gateway: Gateway, world: World, rich: EndUser) -> None:
    """Agents written for Anthropic's API use this client."""
    seen = run(packages, "anthropic.mjs", gateway, rich)
    assert seen["plain"]["text"] == seen["stream"]["text"] and seen["plain"]["stop"] == "end_turn"
    assert seen["plain"]["usage"]["output_tokens"] == seen["stream"]["usage"]["output_tokens"] == 48
    assert seen["stream"]["usage"]["input_tokens"] == seen["plain"]["usage"]["input_tokens"]
    assert seen["tool"]["name"] == "find_order" and seen["tool"]["input"]["id"]
    assert seen["error"]["name"] == "NotFoundError" and seen["error"]["id"].startswith("req_")
    assert len(world.events_of(rich)) == 3


def test_vercels_ai_sdk(packages: Path, gateway: Gateway, world: World, rich: EndUser) -> None:
    """Chat pages in React are built on this one."""
    seen = run(packages, "ai_sdk.mjs", gateway, rich)
    assert seen["stream"]["text"] == seen["plain"]["text"] != ""
    assert seen["stream"]["usage"]["outputTokens"] == seen["plain"]["usage"]["outputTokens"] == 48
    assert seen["stream"]["finish"] == "stop"
    [call] = seen["calls"]
    assert call["name"] == "find_order" and seen["executed"] == [call["input"]["id"]]
    assert seen["error"]["status"] == 404
    assert len(world.events_of(rich)) == 3
