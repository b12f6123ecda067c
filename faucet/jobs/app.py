"""The jobs' process: which sweep runs when, and that it goes on when the database has been away.

Procrastinate keeps the clock and the queue, in its own schema of our database: of several jobs' processes only one
puts a sweep in the queue at each tick, and one takes it out. Sweeps need no lock: each is harmless to run twice at
once, so a process that was killed in the middle blocks nobody.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import procrastinate
import psycopg
from procrastinate.exceptions import ProcrastinateException
from procrastinate.jobs import DeleteJobCondition, Status
from psycopg_pool import AsyncConnectionPool

from faucet.jobs.expire_holds import expire_holds
from faucet.jobs.probe import SERVICE, Probe
from faucet.jobs.purge import purge
from faucet.jobs.reconcile import reconcile_books
from faucet.jobs.return_allowances import return_allowances
from faucet.kit.clock import Clock
from faucet.kit.config import Config
from faucet.kit.db import Tx, open_pool
from faucet.kit.log import logger
from faucet.kit.metrics import Counter, Gauge, Histogram, Metrics

ROLE = "faucet_jobs"
CONCURRENCY = 3
PAUSE_SECONDS = 1.0
"""Between two tries to reach a database that is away."""
STALLED_SECONDS = 120
COMPARED_DAYS = 1

# Minute, hour, day, month, weekday, second.
EVERY_FIVE_SECONDS = "* * * * * */5"
EVERY_TEN_MINUTES = "*/10 * * * *"
HOURLY = "7 * * * *"
DAILY = "17 3 * * *"


class Sweeps:
    """The sweeps over one pool, with what they count."""

    def __init__(self, pool: AsyncConnectionPool[Tx], metrics: Metrics, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self.ran = metrics.also(Counter("modelfaucet_sweeps", "Sweeps by name and end.", ("sweep", "end")))
        self.seconds = metrics.also(Histogram("modelfaucet_sweep_seconds", "Time of a sweep.", ("sweep",)))
        self.expired = metrics.also(Counter("modelfaucet_holds_expired", "Holds that nobody settled."))
        self.purged = metrics.also(Counter("modelfaucet_purged", "Rows forgotten.", ("kind",)))
        self.returned = metrics.also(Counter("modelfaucet_allowances_returned", "Free quotas given back unused."))
        self.findings = metrics.also(
            Gauge("modelfaucet_reconciliation_findings", "Differences in the books, when last compared.")
        )
        self.compared_at = metrics.also(
            Gauge("modelfaucet_reconciliation_timestamp_seconds", "When the books were last compared.")
        )

    async def expire_holds(self, timestamp: int) -> None:
        """Every five seconds."""
        async with self._sweep("expire_holds") as connection:
            swept = await expire_holds(connection)
        self.expired.add(count=swept.count)

    async def purge(self, timestamp: int) -> None:
        """Every hour."""
        async with self._sweep("purge") as connection:
            gone = await purge(connection)
        self.purged.add(("session",), gone.sessions)
        self.purged.add(("idempotent_reply",), gone.replies)
        self.purged.add(("end_user_token",), gone.end_user_tokens)

    async def return_allowances(self, timestamp: int) -> None:
        """Every hour."""
        async with self._sweep("return_allowances") as connection:
            returned = await return_allowances(connection)
        self.returned.add(count=returned.count)

    async def reconcile(self, timestamp: int) -> None:
        """Every ten minutes: all balances, and the answers of the last day."""
        await self._reconcile(timedelta(days=COMPARED_DAYS))

    async def reconcile_all(self, timestamp: int) -> None:
        """Every night: all answers there ever were."""
        await self._reconcile(None)

    async def _reconcile(self, back: timedelta | None) -> None:
        now = self._clock.now()
        async with self._sweep("reconcile") as connection:
            findings = await reconcile_books(connection, since=None if back is None else now - back)
        self.findings.set(len(findings))
        self.compared_at.set(int(now.timestamp()))

    @asynccontextmanager
    async def _sweep(self, name: str) -> AsyncIterator[Tx]:
        """A connection for one sweep, whose time and end are counted."""
        began = time.perf_counter()
        end = "failed"
        try:
            async with self._pool.connection() as connection:
                yield connection
            end = "done"
        finally:
            self.ran.add((name, end))
            self.seconds.observe(time.perf_counter() - began, (name,))


def queue_of(dsn: str, sweeps: Sweeps) -> procrastinate.App:
    """The Procrastinate app with every sweep on its schedule."""
    connector = procrastinate.PsycopgConnector(
        conninfo=dsn,
        min_size=1,
        max_size=CONCURRENCY + 2,
        timeout=5,
        name="faucet_jobs_queue",
        kwargs={"options": f"-c role={ROLE} -c search_path=procrastinate", "application_name": "faucet_jobs-queue"},
    )
    app = procrastinate.App(connector=connector)
    for cron, sweep in (
        (EVERY_FIVE_SECONDS, sweeps.expire_holds),
        (EVERY_TEN_MINUTES, sweeps.reconcile),
        (HOURLY, sweeps.purge),
        (HOURLY, sweeps.return_allowances),
        (DAILY, sweeps.reconcile_all),
    ):
        # At most one of each waits, however long nobody took it.
        app.periodic(cron=cron)(app.task(name=sweep.__name__, queueing_lock=sweep.__name__)(sweep))
    return app


async def run(config: Config, dsn: str | None = None, *, on_ready: Callable[[], None] = lambda: None) -> None:
    """Run sweeps until SIGTERM or SIGINT, whatever the database does meanwhile.

    Raises ValueError where no database is named.
    """
    if dsn is None:
        if config.database_url is None:
            raise ValueError("name a database: DATABASE_URL is not set, and no dsn was given")
        dsn = config.database_url.reveal()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    metrics = Metrics(SERVICE)
    pool = await open_pool(dsn, ROLE, size=CONCURRENCY)
    sweeps = Sweeps(pool, metrics, Clock())
    working = asyncio.Event()
    probe = None if config.port_jobs is None else Probe(config, config.port_jobs, metrics, working.is_set)
    watched = None if probe is None else asyncio.create_task(probe.serve(), name="probe")
    try:
        await _keep_working(pool, lambda: queue_of(dsn, sweeps), stop, working, on_ready, config.drain_seconds)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        if probe is not None and watched is not None:
            probe.should_exit = True
            await asyncio.gather(watched, return_exceptions=True)
        await pool.close()


async def _keep_working(
    pool: AsyncConnectionPool[Tx],
    new_queue: Callable[[], procrastinate.App],
    stop: asyncio.Event,
    working: asyncio.Event,
    on_ready: Callable[[], None],
    drain_seconds: int,
) -> None:
    """Run a worker; when it ends because the database went away, begin anew once it is back."""
    is_first = True
    while not stop.is_set():
        queue = new_queue()
        try:
            async with pool.connection():
                pass  # so that the queue's own pool, which waits long for a database, finds one
            async with queue.open_async():
                await _clear_stalled(queue)
                working.set()
                logger.info("jobs.ready" if is_first else "jobs.back")
                if is_first:
                    on_ready()
                    is_first = False
                await _work(queue, stop, drain_seconds)
        except (psycopg.OperationalError, psycopg.InterfaceError, ProcrastinateException) as error:
            logger.warning("jobs.database_away", error=type(error).__name__)
        finally:
            working.clear()
        try:
            async with asyncio.timeout(PAUSE_SECONDS):
                await stop.wait()
        except TimeoutError:
            pass


async def _work(queue: procrastinate.App, stop: asyncio.Event, drain_seconds: int) -> None:
    """Run a worker until told to stop, or until it gives up."""
    worker = asyncio.create_task(
        queue.run_worker_async(
            concurrency=CONCURRENCY,
            install_signal_handlers=False,
            delete_jobs=DeleteJobCondition.ALWAYS,  # what went wrong is in the log; the next tick tries again
            shutdown_graceful_timeout=drain_seconds,
        ),
        name="worker",
    )
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait((worker, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        worker.cancel()  # asks it to let running sweeps end
        result = (await asyncio.gather(worker, return_exceptions=True))[0]
    if isinstance(result, Exception):
        raise result


async def _clear_stalled(queue: procrastinate.App) -> None:
    """Strike off what a killed process had begun; its sweep has been repeated since, or will be."""
    begun = queue.job_manager
    for job in await begun.get_stalled_jobs(seconds_since_heartbeat=STALLED_SECONDS):
        await begun.finish_job(job, status=Status.FAILED, delete_job=True)
