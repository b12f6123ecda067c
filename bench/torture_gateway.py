"""Gateway processes in one place, one after another: whenever one has ended, the next is there at once.

A keeper that has imported everything forks them, so that a kill costs milliseconds and not seconds of imports;
apart from that they are what `faucet.gateway.main` runs. The keeper tells what happens on its standard output:
`started PID`, `ready PID`, `ended PID CODE`. The database's address is in TORTURE_DSN, the settings are in the
environment. Linux only. Run by `torture_stage` as `python -m bench.torture_gateway`.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import sys
import time

import uvloop

from faucet.gateway.main import run
from faucet.kit.config import load_config

RETRY_SECONDS = 0.3
"""Before the next start, where one ended by itself."""
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Let the kernel end this process when its parent is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def tell(word: str, *numbers: int) -> None:
    """One line, in one write: gateways and the keeper share the pipe."""
    os.write(1, " ".join([word, *map(str, numbers)]).encode() + b"\n")


def serve() -> None:
    """Be a gateway until it ends."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(load_config(), os.environ["TORTURE_DSN"], on_ready=lambda: tell("ready", os.getpid())))


def keep() -> None:
    """Start a gateway whenever there is none."""
    gc.collect()
    gc.freeze()
    while True:
        pid = os.fork()
        if pid == 0:
            die_with_parent()
            try:
                serve()
            except BaseException as error:
                print(f"ended by itself: {error!r}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        tell("started", pid)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        tell("ended", pid, code)
        if code != -signal.SIGKILL:
            time.sleep(RETRY_SECONDS)


if __name__ == "__main__":
    keep()
