"""What a run of the benchmark may be told by environment variables, and their defaults.

- SECONDS=5: measured seconds of each cell; ROUNDS=2: times that every cell is run (3 with ROWS).
- CLIENTS=1,16,64,256: connections (16,64 with ROWS).
- USERS=1000: end users (100,000 with ROWS), each with a wallet and a session.
- PEERS=1: 0 leaves the other gateways out; WORKERS=1: gateway processes.
- ONLY=json,stream,slow,stall: the parts to run (and `rows`, the only part where ROWS is set).
- ROWS=0: usage events of a filled database that is compared with an empty one.
- DELAY_MS=500, CONNECTIONS=1000: the slow provider's delay and the connections that wait for it.
- HANG=200: requests that hang on a silent provider while others are measured.
- LOAD=wrk: `own` loads with this project's generator, which checks every answer whole.
- BENCH_DIR: where the database lives while the run lasts (a disk; the default is the system's /var/tmp).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

PARTS = ("json", "stream", "slow", "stall", "rows")
WARM_UP_SECONDS = 1.0


@dataclass(frozen=True)
class Settings:
    """One run's settings."""

    seconds: int
    rounds: int
    clients: tuple[int, ...]
    users: int
    peers: bool
    workers: int
    parts: tuple[str, ...]
    rows: int
    delay_ms: int
    connections: int
    hang: int
    load: str
    folder: Path

    @property
    def warm_up_seconds(self) -> float:
        return min(WARM_UP_SECONDS, self.seconds)


def read_settings() -> Settings:
    """The settings that the environment describes. Raises SystemExit for values that make no sense."""
    rows = _number("ROWS", 0)
    default = "rows" if rows else "json,stream,slow,stall"
    parts = tuple(part.strip() for part in os.environ.get("ONLY", default).split(",") if part.strip())
    if unknown := set(parts) - set(PARTS):
        raise SystemExit(f"ONLY: {', '.join(sorted(unknown))} is not one of {', '.join(PARTS)}")
    if "rows" in parts and not rows:
        raise SystemExit("ONLY=rows needs ROWS, the number of usage events")
    load = os.environ.get("LOAD") or ("wrk" if shutil.which("wrk") else "own")
    if load not in ("wrk", "own"):
        raise SystemExit("LOAD is wrk or own")
    if load == "wrk" and not shutil.which("wrk"):
        raise SystemExit("LOAD=wrk, but there is no wrk here (Debian: apt-get install wrk)")
    try:
        clients = tuple(
            int(part) for part in (os.environ.get("CLIENTS") or ("16,64" if rows else "1,16,64,256")).split(",")
        )
    except ValueError:
        raise SystemExit("CLIENTS are whole numbers with commas between them") from None
    if min(clients) < 1:
        raise SystemExit("CLIENTS are at least 1")
    disk = Path("/var/tmp")
    return Settings(
        seconds=_number("SECONDS", 5, least=1),
        rounds=_number("ROUNDS", 3 if rows else 2, least=1),
        clients=clients,
        users=_number("USERS", 100_000 if rows else 1_000, least=1),
        peers=os.environ.get("PEERS", "1") != "0",
        workers=_number("WORKERS", 1, least=1),
        parts=parts,
        rows=rows,
        delay_ms=_number("DELAY_MS", 500, least=1),
        connections=_number("CONNECTIONS", 1_000, least=1),
        hang=_number("HANG", 200, least=1),
        load=load,
        folder=Path(os.environ.get("BENCH_DIR") or (disk if disk.is_dir() else tempfile.gettempdir())),
    )


def _number(name: str, default: int, *, least: int = 0) -> int:
    text = os.environ.get(name, "")
    try:
        value = int(text.replace("_", "")) if text else default
    except ValueError:
        raise SystemExit(f"{name} must be a whole number") from None
    if value < least:
        raise SystemExit(f"{name} is at least {least}")
    return value
