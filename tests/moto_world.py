"""AWS's KMS for tests: moto's server on loopback, and boto3, from an environment of their own beside ours.

Moto brings packages that the project has no use for, and older ones of some that it has. So `requirements/moto.txt`
is installed, once, into a folder of `.venv`; the server runs there, and what boto3 needs is found there last, after
everything that is ours.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements" / "moto.txt"
INSTALL_SECONDS = 300
_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%d" % server.get_host_and_port(), flush=True)
sys.stdin.read()
server.stop()
"""


def moto_environment() -> Path:
    """The environment's folder, installed if it isn't yet; several tests' processes may ask at once."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = Path(sys.prefix) / f"moto-{digest}"
    ready = folder / "ready"
    with (Path(sys.prefix) / "moto.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            uv = [sys.executable, "-m", "uv"]
            _run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
            into = ["--python", str(folder / "bin" / "python"), "--require-hashes", "-r", str(REQUIREMENTS)]
            _run([*uv, "pip", "install", "--quiet", "--compile-bytecode", *into])
            ready.touch()
    return folder


def packages_of(folder: Path) -> str:
    """Where an environment's packages are."""
    return sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})


@contextmanager
def moto_server(folder: Path) -> Iterator[str]:
    """The address of a running server, which forgets everything when it ends."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    process = subprocess.Popen(
        [str(folder / "bin" / "python"), "-I", "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), "moto's server did not start"
        yield address
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        process.stdout.close()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    assert done.returncode == 0, f"moto can't be installed: {done.stderr[-1_000:]}"
