"""Where the gateway's time goes: py-spy looks at it under load, for JSON and for streams.

Two files each in `bench/results`: a flame graph (SVG), and the samples as text, from which the table of the
functions and files that took the most is made.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bench.ground import Database, Ground
from bench.load import Expected, Job, job_for, run, running
from bench.report import RESULTS

CONNECTIONS = 64
RATE = 200
TOP = 25


def profile(
    ground: Ground, database: Database, mock_url: str, expected: dict[str, Expected], say: Callable[[str], None]
) -> None:
    """Make flame graphs of the gateway under load. Raises SystemExit where py-spy is missing or may not look."""
    spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if spy is None:
        raise SystemExit("py-spy is not installed; it comes with requirements/dev.txt")
    RESULTS.mkdir(parents=True, exist_ok=True)
    subject = ground.gateway("modelfaucet", database, mock_url, "--may-be-traced")
    seconds = max(5, round(ground.settings.seconds))
    for kind in ("json", "stream"):
        job = job_for(subject.url, kind, subject.bearers, expected[kind], connections=CONNECTIONS, seconds=seconds)
        run(job, ground.settings.load)  # caches are warm from here on
        graph, samples = RESULTS / f"profile-{kind}.svg", RESULTS / f"profile-{kind}.txt"
        for path, form in ((graph, "flamegraph"), (samples, "raw")):
            _record(spy, subject.pids[0], path, form, seconds, job)
        say(f"{kind}: {graph.relative_to(RESULTS.parent.parent)}\n{summary(samples.read_text())}")


def _record(spy: str, pid: int, path: Path, form: str, seconds: int, job: Job) -> None:
    command = [spy, "record", "--pid", str(pid), "--duration", str(seconds - 1), "--rate", str(RATE)]
    command += ["--format", form, "--output", str(path)]
    with running(job):
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    if done.returncode:
        raise SystemExit(f"py-spy can't look at the gateway: {(done.stderr or done.stdout).strip()[-400:]}")


def summary(samples: str) -> str:
    """The share of time in each file's own code, and in the functions that took the most of it."""
    files: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    under: Counter[str] = Counter()
    total = 0
    for text in samples.splitlines():
        stack, _, count = text.rpartition(" ")
        frames = stack.split(";")
        total += int(count)
        name, _, place = frames[-1].partition(" (")
        file = place.rsplit(":", 1)[0]
        files[file] += int(count)
        functions[f"{name} ({file})"] += int(count)
        seen = {frame.partition(" (")[0] + " (" + frame.partition(" (")[2].rsplit(":", 1)[0] + ")" for frame in frames}
        for frame in seen:
            under[frame] += int(count)

    def rows(counter: Counter[str]) -> str:
        return "\n".join(f"  {count / total:6.1%}  {name}" for name, count in counter.most_common(TOP))

    return (
        f"own time by file:\n{rows(files)}\nown time by function:\n{rows(functions)}\n"
        f"time in a function and what it calls:\n{rows(under)}"
    )
