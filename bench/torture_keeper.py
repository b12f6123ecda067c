"""Processes of one kind in one place, one after another: whenever one has ended, the next is there at once.

A keeper that has imported everything forks them, so that a kill costs milliseconds and not seconds of imports;
apart from that they are what `faucet serve gateway`, `faucet serve api` and `faucet jobs` run. The keeper tells what
happens on its standard output: `started PID`, `ready PID`, `ended PID CODE`. The database's address is in TORTURE_DSN,
the settings are in the environment; TORTURE_AHEAD_SECONDS puts the clock of jobs forward. Linux only. Run by
`torture_stage` as `python -m bench.torture_keeper gateway`.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import uvloop

from faucet.kit.clock import Clock
from faucet.kit.config import load_config
from faucet.kit.log import configure

RETRY_SECONDS = 0.3
"""Before the next start, where one ended by itself."""
KINDS = ("gateway", "api", "jobs")
_PR_SET_PDEATHSIG = 1


class AheadClock(Clock):
    """Real time, so much later."""

    def __init__(self, seconds: int) -> None:
        self._ahead = timedelta(seconds=seconds)

    def now(self) -> datetime:
        return super().now() + self._ahead


def die_with_parent() -> None:
    """Let the kernel end this process when its parent is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def tell(word: str, *numbers: int) -> None:
    """One line, in one write: the processes and their keeper share the pipe."""
    os.write(1, " ".join([word, *map(str, numbers)]).encode() + b"\n")


def program_of(kind: str) -> Callable[..., Coroutine[Any, Any, None]]:
    """What a process of this kind runs."""
    if kind == "gateway":
        from faucet.gateway.main import run as run_gateway

        return run_gateway
    if kind == "api":
        from faucet.api.app import run as run_api

        return run_api
    from faucet.jobs.app import run as run_jobs

    return partial(run_jobs, clock=AheadClock(int(os.environ.get("TORTURE_AHEAD_SECONDS", "0"))))


def serve(kind: str, run: Callable[..., Coroutine[Any, Any, None]]) -> None:
    """Be such a process until it ends."""
    config = load_config()
    if kind != "gateway":  # hundreds of clients that come and go would fill its log
        configure(kind, "warning")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(config, os.environ["TORTURE_DSN"], on_ready=lambda: tell("ready", os.getpid())))


def keep(kind: str) -> None:
    """Start one whenever there is none."""
    run = program_of(kind)
    gc.collect()
    gc.freeze()
    while True:
        pid = os.fork()
        if pid == 0:
            die_with_parent()
            try:
                serve(kind, run)
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
    keep(sys.argv[1])
