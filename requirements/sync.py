"""Make `.venv` what the locked requirements say: `python3 requirements/sync.py`. The Makefile calls it before anything.

Does nothing when that is so already. The project itself is not built: a path file points to the checkout, and
`.venv/bin/faucet` runs it. Only the standard library is used, and no syntax newer than Python 3.7, so that an old
interpreter can be told what is missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".synced"
UV_LOCK = ROOT / "requirements" / "uv.txt"
LOCKS = [ROOT / "requirements" / "dev.txt", UV_LOCK]
NEEDED = (3, 11)


class Failed(Exception):
    """The environment can't be made; the text says what to do."""


def say(text: str) -> None:
    """One line of progress."""
    print("setup: " + text, file=sys.stderr, flush=True)


def wanted() -> str:
    """What the environment has to be made of, as one word."""
    digest = hashlib.sha256()
    for path in [*LOCKS, Path(__file__)]:
        digest.update(path.read_bytes())
    digest.update(repr((sys.version_info[:2], sys.base_prefix, str(ROOT))).encode())
    return digest.hexdigest()


def is_ready() -> bool:
    """Whether there is nothing to do."""
    try:
        return STAMP.read_text() == wanted() and PYTHON.exists()
    except OSError:
        return False


def environment() -> dict[str, str]:
    """Our variables, with a cache inside `.venv` where this account has no home to keep one in."""
    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONHOME")}
    home = env.get("HOME", "")
    if not home or not os.access(home, os.W_OK):
        cache = str(VENV / ".cache")
        if "XDG_CACHE_HOME" not in env:
            env.setdefault("UV_CACHE_DIR", cache + "/uv")
            env.setdefault("PIP_CACHE_DIR", cache + "/pip")
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    return env


def run(command: list[str], *, quiet: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a program in the project; its output is kept where `quiet`, else shown."""
    kept = subprocess.PIPE if quiet else None
    return subprocess.run(
        command, cwd=str(ROOT), env=environment(), stdout=kept, stderr=subprocess.STDOUT if quiet else None, text=True
    )


def watch(command: list[str]) -> int:
    """Run a program that may take long and says nothing, show that time passes, and give back its exit code."""
    on_terminal = sys.stderr.isatty()
    began = shown = time.monotonic()
    process = subprocess.Popen(command, cwd=str(ROOT), env=environment())
    while process.poll() is None:
        time.sleep(0.1)
        now = time.monotonic()
        if now - shown >= (1 if on_terminal else 15):
            shown = now
            text = f"setup: … {now - began:.0f} s"
            print(
                "\r\033[K" + text if on_terminal else text, end="" if on_terminal else "\n", file=sys.stderr, flush=True
            )
    if on_terminal:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return process.returncode


def make_venv() -> None:
    """Make the virtual environment, if there is none that works with this Python. Raises Failed."""
    same = (tuple(sys.version_info[:2]), sys.base_prefix)
    works = f"import sys, pip; print((sys.version_info[:2], sys.base_prefix) == {same})"
    if PYTHON.exists() and run([str(PYTHON), "-c", works], quiet=True).stdout == "True\n":
        return
    say("making .venv with Python " + sys.version.split()[0])
    made = run([sys.executable, "-m", "venv", "--clear", str(VENV)], quiet=True)
    if made.returncode == 0:
        return
    if "ensurepip" in made.stdout or "No module named venv" in made.stdout:
        raise Failed(
            "this Python can't make virtual environments. On Debian and Ubuntu: apt install python3-venv"
            f" (or python3.{sys.version_info[1]}-venv); elsewhere install Python from python.org."
        )
    raise Failed("making .venv failed:\n" + made.stdout.strip())


def install() -> None:
    """Install exactly what is locked, by hash. Raises Failed."""
    version = UV_LOCK.read_text().split("uv==")[1].split()[0]
    uv = VENV / "bin" / "uv"
    if not uv.exists() or version not in run([str(uv), "--version"], quiet=True).stdout:
        say("installing uv " + version)
        pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r", str(UV_LOCK)]
        got = run(pip, quiet=True)
        if got.returncode != 0:
            raise Failed("pip can't install uv. Is there a network, or a package index?\n" + got.stdout.strip())
    count = sum(line[:1].isalnum() for path in LOCKS for line in path.read_text().splitlines())
    say(f"installing {count} packages")
    files = [str(path) for path in LOCKS]
    sync = [str(uv), "pip", "sync", "--quiet", "--python", str(PYTHON), "--require-hashes", "--compile-bytecode"]
    if watch([*sync, *files]) == 0:
        return
    say("uv could not; trying pip, which takes longer")
    plain = [str(PYTHON), "-m", "pip", "install", "--require-hashes", "--no-deps"]
    if run([*plain, *(part for path in files for part in ("-r", path))]).returncode != 0:
        raise Failed("the packages can't be installed; the reason stands above")


def add_project() -> None:
    """Make the checkout importable, and `faucet` a command."""
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run([str(PYTHON), "-c", ask], quiet=True).stdout.strip())
    (packages / "modelfaucet.pth").write_text(str(ROOT) + "\n")
    command = VENV / "bin" / "faucet"
    command.write_text(f'#!/bin/sh\nexec "{PYTHON}" -P -m faucet "$@"\n')
    command.chmod(0o755)


def main() -> int:
    """Make the environment, and give back the exit code."""
    if sys.version_info[:2] < NEEDED:
        say("Python 3.11 or newer is needed, this is " + sys.version.split()[0])
        return 1
    if is_ready():
        return 0
    began = time.monotonic()
    try:
        with open(str(ROOT / "requirements" / "sync.py"), "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two at once would take each other's files away
            if is_ready():
                return 0
            make_venv()
            install()
            add_project()
            STAMP.write_text(wanted())
    except Failed as error:
        say(str(error))
        return 1
    except OSError as error:
        say(f"{error.strerror}: {error.filename}")
        return 1
    say(f"ready after {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
