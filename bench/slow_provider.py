"""Providers that are slow or silent: what waits for them must not hold a database connection or slow others.

`slow`: many connections on a provider that answers after DELAY_MS. Meanwhile the gateway's database connections
are looked at every 20 ms: how many there are, and how old the oldest open transaction is. `stall`: plain requests
are measured alone, beside ten requests that hang, and beside hundreds.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import psycopg

from bench.ground import Ground
from bench.load import Load, request_body, run, running
from bench.measure import Scales, Subject

LOOK_SECONDS = 0.02
STALL_CONNECTIONS = 16


@dataclass(frozen=True)
class Slow:
    """Many clients on a slow provider."""

    delay_ms: int
    connections: int
    load: Load
    database_connections: int
    oldest_tx_ms: float

    @property
    def possible_per_second(self) -> float:
        return self.connections * 1000 / self.delay_ms


@dataclass(frozen=True)
class Stalled:
    """Plain requests while so many others hang on a provider that never answers."""

    hanging: int
    load: Load


class _Watch:
    """Looks at the gateway's database connections until the block ends."""

    _QUERY = (
        "select count(*), coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0)"
        " from pg_stat_activity where datname = %s and application_name like 'faucet_gateway%%'"
    )

    def __init__(self, dsn: str, database: str) -> None:
        self._dsn = dsn
        self._database = database
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.connections = 0
        self.oldest_tx_seconds = 0.0

    def _look(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._over.wait(LOOK_SECONDS):
                row = connection.execute(self._QUERY, (self._database,)).fetchone()
                assert row is not None
                self.connections = max(self.connections, row[0])
                self.oldest_tx_seconds = max(self.oldest_tx_seconds, float(row[1]))

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def slow(ground: Ground, scales: Scales, *, delay_ms: int, connections: int) -> Slow:
    """Measure many clients on a slow provider. The gateway has a database of its own, to tell its connections."""
    mock_url, _ = ground.mock(delay_ms=delay_ms)
    database = ground.database("slow", ground.settings.users)
    subject = ground.gateway("slow", database, mock_url)
    # Our own generator, since its connections stay for the warm-up: two delays pass before answers come evenly.
    seconds, warm_up = max(3.0, ground.settings.seconds), max(1.0, 3 * delay_ms / 1000)
    job = scales.job(subject, "json", connections, seconds=seconds, warm_up_seconds=warm_up)
    with running(job) as output, _Watch(ground.postgres.dsn, database.name) as watch:
        load = Load(**json.loads(output.read()))
    return Slow(delay_ms, connections, load, watch.connections, watch.oldest_tx_seconds * 1000)


def stall(subject: Subject, scales: Scales, *, hang: int, tool: str, say: Callable[[str], None]) -> list[Stalled]:
    """Measure plain requests beside none, ten and many that hang; twice, since the machine drifts."""
    found = []
    for hanging in (0, 10, hang, 0, 10, hang):
        job = scales.job(subject, "json", STALL_CONNECTIONS)
        if hanging:
            body = request_body("json", "stall").decode()
            silent = replace(job, body=body, connections=hanging, seconds=600, warm_up_seconds=0.5)
            with running(silent):
                load = run(job, tool)
            time.sleep(0.5)  # their holds are given back before anybody else is measured
        else:
            load = run(job, tool)
        say(f"{hanging} hanging: p50 {load.p50_ms:.2f} ms")
        found.append(Stalled(hanging, load))
    return found
