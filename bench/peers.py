"""Other gateways, measured in the same run on the same core: ferrogw (Go) and smg (Rust), from their wheels.

Each is installed once into a virtual environment of its own under the user's cache folder, from the pinned and
hashed `requirements/peers.txt`. Both run as they come, without access logs and pointed at the mock provider as an
OpenAI-compatible upstream. Neither keeps books. Not here: measuring.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.ground import Ground, free_port
from bench.load import ROOT
from bench.measure import Subject

REQUIREMENTS = ROOT / "requirements" / "peers.txt"
INSTALL_SECONDS = 300
_FERRO_KEY = "fgw_0123456789abcdef0123456789abcdef"
_FERRO_CONFIG = """strategy:
  mode: single
targets:
  - virtual_key: openai
    models: [mock-small]
"""


class PeerMissing(Exception):
    """A peer can't be measured here; the text says why."""


def start_peers(ground: Ground, mock_url: str, say: Callable[[str], None]) -> list[Subject]:
    """The peers that can be had, ready to serve; `say` is told of those that can't."""
    found = []
    for name, start in (("ferrogw", _start_ferrogw), ("smg", _start_smg)):
        try:
            found.append(start(ground, _installed(name), mock_url))
        except (PeerMissing, OSError, RuntimeError) as error:
            say(f"{name} is left out: {error}")
    return found


@dataclass(frozen=True)
class _Installed:
    name: str
    version: str
    program: Path

    @property
    def label(self) -> str:
        return f"{self.name} {self.version}"


def _installed(name: str) -> _Installed:
    """The peer's program, installed if it isn't yet. Raises PeerMissing."""
    pins = REQUIREMENTS.read_text()
    pin = next(line.split()[0] for line in pins.splitlines() if line.startswith(f"{name}=="))
    shared = os.environ.get("XDG_CACHE_HOME", "")
    cache = Path(shared) if os.path.isabs(shared) else Path.home() / ".cache"
    folder = cache / "modelfaucet-bench" / f"{name}-{hashlib.sha256(pins.encode()).hexdigest()[:12]}"
    program = folder / "bin" / name
    if not program.exists():
        uv = [sys.executable, "-m", "uv"]
        _run(name, [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        into = ["--python", str(folder / "bin" / "python"), "--require-hashes", "--constraint", str(REQUIREMENTS)]
        _run(name, [*uv, "pip", "install", "--quiet", *into, pin])
        if not program.exists():
            raise PeerMissing(f"its wheel has no program {name}")
    return _Installed(name, pin.partition("==")[2], program)


def _run(name: str, command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise PeerMissing(f"installing it took more than {INSTALL_SECONDS} seconds") from None
    if done.returncode:
        raise PeerMissing(f"it can't be installed: {done.stderr.strip()[-300:]}")


def _start_ferrogw(ground: Ground, peer: _Installed, mock_url: str) -> Subject:
    port = free_port()
    config = ground.folder / "ferrogw.yaml"
    config.write_text(_FERRO_CONFIG)
    env = {
        "GATEWAY_CONFIG": str(config),
        "MASTER_KEY": _FERRO_KEY,
        "OPENAI_API_KEY": "sk-bench",
        "OPENAI_BASE_URL": mock_url.removesuffix("/v1"),
        "PORT": str(port),
        "LOG_LEVEL": "error",
        "RATE_LIMIT_RPS": "0",  # by default it refuses what one address asks too fast
        # Its list of models and prices would be fetched from the internet; there is nothing at this address.
        "FERRO_MODEL_CATALOG_URL": mock_url.removesuffix("/v1") + "/catalog.json",
    }
    process = ground.start([str(peer.program), "serve"], env=env, as_gateway=True, log=peer.name)
    ground.wait_until_ready(port, "/readyz", process, peer.name)
    return Subject(peer.label, f"http://127.0.0.1:{port}", (process.pid,), [_FERRO_KEY])


def _start_smg(ground: Ground, peer: _Installed, mock_url: str) -> Subject:
    port = free_port()
    command = [str(peer.program), "launch", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--worker-urls", mock_url.removesuffix("/v1"), "--backend", "openai"]
    command += ["--log-level", "error", "--history-backend", "none"]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
    process = ground.start(command, as_gateway=True, log=peer.name)
    ground.wait_until_ready(port, "/readiness", process, peer.name)
    return Subject(peer.label, f"http://127.0.0.1:{port}", (process.pid,), ["none"])
