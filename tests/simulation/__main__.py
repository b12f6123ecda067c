"""Run economies: `python -m tests.simulation --seeds 20`, or `--seed N` for one again. A failure names its seed.

It works on an embedded PostgreSQL of its own, in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as in pytest: tests share modules

from faucet.kit.embedded_postgres import EmbeddedPostgres  # noqa: E402
from faucet.kit.log import configure  # noqa: E402
from simulation.runs import run_seed, seeds_kept, template_of  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """The command line. 0: every economy held."""
    parser = argparse.ArgumentParser(prog="tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many new ones")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args(arguments)
    seeds = [options.seed] if options.seed is not None else [random.randrange(1 << 32) for _ in range(options.seeds)]
    if options.seed is None:
        seeds = [*seeds_kept(), *seeds]
    happened: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="faucet-simulation-") as folder:
        Path(folder).chmod(0o711)  # as root, PostgreSQL runs as another account, which has to pass through
        settings = {"fsync": "off", "full_page_writes": "off"}
        with EmbeddedPostgres(Path(folder) / "data", settings=settings) as running:
            template = template_of(running.dsn)
            with ProcessPoolExecutor(min(len(seeds), os.cpu_count() or 1), initializer=_quiet) as workers:
                runs = {seed: workers.submit(_timed, running.dsn, template, seed, options.steps) for seed in seeds}
                for seed, run in runs.items():
                    try:
                        had, seconds = run.result()
                    except AssertionError as broken:
                        workers.shutdown(cancel_futures=True)
                        print(f"BROKEN by seed {seed}: {broken}\nagain: python -m tests.simulation --seed {seed}")
                        return 1
                    happened += had
                    print(f"seed {seed}: {options.steps} events held, {seconds:.1f} s", flush=True)
    print(", ".join(f"{what} {count}" for what, count in happened.most_common()))
    return 0


def _quiet() -> None:
    """Only alarms are told on the way: those that the simulation brings about."""
    configure("simulation", "error")


def _timed(dsn: str, template: str, seed: int, steps: int) -> tuple[Counter[str], float]:
    began = time.monotonic()
    return run_seed(dsn, template, seed, steps), time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
