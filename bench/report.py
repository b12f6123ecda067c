"""What a run found, as tables for people (Markdown) and as figures for programs (JSON)."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.load import ROOT
from bench.measure import Cell
from bench.slow_provider import Slow, Stalled

RESULTS = ROOT / "bench" / "results"
OURS = "modelfaucet"
BOOKLESS = "without books"
MOCK = "mock alone"
EMPTY = "empty"
FILLED = "filled"
CROWDED = "filled, all users active"
FOREIGN_PERCENT_MAX = 15
"""Where other work used more of the cores than this, a ratio says more about that work."""
BAD_SHARE_MAX = 0.001
"""A cell with more wrong answers than this measured something else; it takes no part in ratios."""


@dataclass
class Report:
    """Everything that one run found."""

    ground: dict[str, Any]
    cells: list[Cell] = field(default_factory=list)
    slow: Slow | None = None
    stalled: list[Stalled] = field(default_factory=list)
    books: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows: int = 0
    users: int = 0
    start_seconds: float | None = None

    def best(self, subject: str, kind: str, connections: int) -> Cell | None:
        """The better of a cell's rounds: on a shared machine the worse one says more about the neighbours."""
        rounds = [
            cell
            for cell in self.cells
            if (cell.subject, cell.kind, cell.connections) == (subject, kind, connections) and _is_sound(cell)
        ]
        return max(rounds, key=lambda cell: cell.per_second, default=None)

    def ratios(self) -> list[tuple[str, str, str]]:
        """What was promised: name, figure, and the target that it has."""
        found = []
        for kind in ("json", "stream"):
            ours = self.best(OURS, kind, 64)
            peers = [cell for name in self._peers() if (cell := self.best(name, kind, 64))]
            if ours and peers:
                peer = max(peers, key=lambda cell: cell.per_second)
                found.append((f"{kind}, c=64: ours / {peer.subject}", _ratio(ours, peer), "≥ 1.5"))
            for other in (MOCK, BOOKLESS):
                beside = self.best(other, kind, 64)
                if ours and beside:
                    found.append((f"{kind}, c=64: ours / {other}", _ratio(ours, beside), ""))
            one, alone = self.best(OURS, kind, 1), self.best(MOCK, kind, 1)
            if one and alone:
                target = "≤ 2 ms" if kind == "json" else ""
                added = f"{one.load.p50_ms - alone.load.p50_ms:.2f} ms{_doubt(one, alone)}"
                found.append((f"{kind}, c=1: added p50", added, target))
            for clients in sorted({cell.connections for cell in self.cells}):
                empty, filled = self.best(EMPTY, kind, clients), self.best(FILLED, kind, clients)
                crowded = self.best(CROWDED, kind, clients)
                place = f"{kind}, c={clients}, {self.users:,} users: {self.rows:,} usage events"
                if empty and filled:
                    found.append((f"{place} / none", _ratio(filled, empty), "≥ 0.85"))
                if empty and crowded:
                    name = f"{place} and all users active / none and some"
                    found.append((name, _ratio(crowded, empty), ""))
        ours_rss = [cell.rss_mb for cell in self.cells if cell.subject in (OURS, FILLED)]
        if ours_rss:
            found.append(("memory of our gateway, at most", f"{max(ours_rss):.0f} MB", "≤ 150 MB"))
        if self.start_seconds is not None:
            found.append(("our gateway's start until ready", f"{self.start_seconds:.1f} s", "≤ 2 s"))
        return found

    def _peers(self) -> list[str]:
        ours = {OURS, BOOKLESS, MOCK, EMPTY, FILLED, CROWDED}
        return list(dict.fromkeys(cell.subject for cell in self.cells if cell.subject not in ours))

    def markdown(self) -> str:
        """The whole report."""
        parts = [f"# Benchmark of {self.ground['time']}", _table(("ground", ""), self.ground.items())]
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        if ratios := self.ratios():
            parts += ["## Ratios", _table(("ratio", "measured", "target"), ratios)]
        for kind in ("json", "stream"):
            if rows := self._cell_rows(kind):
                parts += [f"## {'JSON' if kind == 'json' else 'Streams of 20 chunks'}", _table(_HEAD, rows)]
        if self.slow is not None:
            parts += ["## A slow provider", _slow_text(self.slow)]
        if self.stalled:
            parts += ["## Silent providers", _stalled_table(self.stalled)]
        if self.books:
            parts += ["## Books afterwards", "\n".join(f"- {line}" for line in self.books)]
        return "\n\n".join(parts) + "\n"

    def _cell_rows(self, kind: str) -> list[tuple[object, ...]]:
        rows = []
        places = dict.fromkeys((cell.connections, cell.subject) for cell in self.cells if cell.kind == kind)
        for connections, subject in places:
            tries = [c for c in self.cells if (c.subject, c.kind, c.connections) == (subject, kind, connections)]
            cell = self.best(subject, kind, connections) or tries[-1]
            spread = " / ".join(f"{c.per_second:,.0f}" for c in tries)
            rows.append((connections, subject, *_figures(cell), spread))
        return rows

    def store(self) -> Path:
        """Write both forms; gives the path of the Markdown one."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        name = self.ground["time"].replace(":", "").replace(" ", "-")
        data = {
            "ground": self.ground,
            "notes": self.notes,
            "rows": self.rows,
            "users": self.users,
            "ratios": self.ratios(),
            "cells": [asdict(cell) | {"per_second": cell.per_second} for cell in self.cells],
            "slow": asdict(self.slow) if self.slow else None,
            "stalled": [asdict(stalled) for stalled in self.stalled],
            "books": self.books,
        }
        (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
        path = RESULTS / f"{name}.md"
        path.write_text(self.markdown())
        return path


_HEAD = (
    "c", "server", "req/s", "p50 ms", "p99 ms", "CPU µs", "PostgreSQL µs", "WAL B", "commits", "group", "RSS MB",
    "foreign %", "bad", "each round",
)  # fmt: skip


def line(cell: Cell) -> str:
    """One cell as a line for those who wait."""
    named = zip(_HEAD[2:13], _figures(cell), strict=True)
    shown = " · ".join(f"{name} {value}" for name, value in named if value != "–")
    return f"{cell.subject}, {cell.kind}, c={cell.connections}: {shown}"


def _figures(cell: Cell) -> tuple[str, ...]:
    load = cell.load
    return (
        f"{cell.per_second:,.0f}",
        f"{load.p50_ms:.2f}",
        f"{load.p99_ms:.2f}",
        f"{cell.cpu_us:.0f}",
        _or_dash(cell.postgres_us, "{:.0f}"),
        _or_dash(cell.wal_bytes, "{:,.0f}"),
        _or_dash(cell.commits, "{:.3f}"),
        _or_dash(cell.group, "{:.1f}"),
        f"{cell.rss_mb:.0f}",
        f"{cell.foreign_percent:.0f}",
        str(load.bad) + ("" if _is_sound(cell) else f" **unsound**: {load.first_bad[:80]}"),
    )


def _ratio(cell: Cell, beside: Cell) -> str:
    return f"{cell.per_second / beside.per_second:.2f}{_doubt(cell, beside)}"


def _doubt(*cells: Cell) -> str:
    """Says so where other work disturbed a comparison."""
    most = max(cell.foreign_percent for cell in cells)
    return f" (disturbed: other work used {most:.0f} % of the cores)" if most > FOREIGN_PERCENT_MAX else ""


def _is_sound(cell: Cell) -> bool:
    return cell.load.answers > 0 and cell.load.bad <= BAD_SHARE_MAX * cell.load.answers


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _slow_text(slow: Slow) -> str:
    load = slow.load
    return (
        f"{slow.connections:,} connections on a provider that answers after {slow.delay_ms} ms:"
        f" **{load.per_second:,.0f} req/s** of {slow.possible_per_second:,.0f} possible, p50 {load.p50_ms:.0f} ms,"
        f" p99 {load.p99_ms:.0f} ms, {load.bad} bad. The gateway had at most {slow.database_connections} database"
        f" connections; its longest transaction took {slow.oldest_tx_ms:.0f} ms, so none was held while the provider"
        " was waited for."
        if slow.oldest_tx_ms < slow.delay_ms
        else f"A transaction stayed open for {slow.oldest_tx_ms:.0f} ms, longer than the provider's {slow.delay_ms} ms."
    )


def _stalled_table(found: Sequence[Stalled]) -> str:
    rows = []
    for hanging in dict.fromkeys(one.hanging for one in found):
        loads = [one.load for one in found if one.hanging == hanging]
        load = min(loads, key=lambda load: load.p50_ms)
        each = " / ".join(f"{load.p50_ms:.2f}" for load in loads)
        rows.append((hanging, f"{load.per_second:,.0f}", f"{load.p50_ms:.2f}", f"{load.p99_ms:.2f}", load.bad, each))
    return _table(("requests that hang", "others' req/s (c=16)", "p50 ms", "p99 ms", "bad", "p50 each round"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(value) for value in row) + " |" for row in lines)


def describe(*, pinned: str, fsync_us: float, postgres: str, load: str, settings: str) -> dict[str, Any]:
    """The machine and the code that a run was made on."""
    return {
        "time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "commit": _commit(),
        "machine": f"{os.cpu_count()} × {_processor()}, {platform.system()} {platform.release()}",
        "Python": f"{platform.python_version()} of {sys.base_prefix}, uvloop {version('uvloop')}",
        "PostgreSQL": f"{postgres}, fsync on, 8 kB made durable in {fsync_us:.0f} µs, log segments used again",
        "cores": pinned,
        "load": load,
        "load average at the start": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "settings": settings,
    }


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=20)
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return f"{commit} with changes" if commit and git("status", "--porcelain") else commit or "unknown"
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def _processor() -> str:
    if sys.platform == "linux":
        for text in Path("/proc/cpuinfo").read_text().splitlines():
            if text.startswith("model name"):
                return text.partition(":")[2].strip()
    return platform.processor() or platform.machine()
