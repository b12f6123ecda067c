"""The jobs' process: which sweep runs when, and that it goes on when the database has been away.

Procrastinate keeps the clock and the queue, in its own schema of our database: of several jobs' processes only one
puts a sweep in the queue at each tick, and one takes it out. Sweeps need no lock: each is harmless to run twice at
once, so a process that was killed in the middle blocks nobody.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter as TallyOf
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import procrastinate
import psycopg
from procrastinate.exceptions import ProcrastinateException
from procrastinate.jobs import DeleteJobCondition, Status
from psycopg_pool import AsyncConnectionPool

from faucet.closing.document import Signer
from faucet.jobs import top_ups
from faucet.jobs.close_periods import ask_for_last_month, close_periods
from faucet.jobs.drain_inbox import drain_inbox
from faucet.jobs.expire_holds import expire_holds
from faucet.jobs.probe import SERVICE, Probe
from faucet.jobs.purge import purge
from faucet.jobs.reconcile import reconcile_balance, reconcile_books, reconcile_stripe
from faucet.jobs.return_allowances import return_allowances
from faucet.jobs.roll_up import roll_up
from faucet.jobs.send_payouts import run_payouts, send_payouts
from faucet.jobs.tell import tell_developers
from faucet.jobs.webhooks import Courier, new_pool
from faucet.kit.clock import Clock
from faucet.kit.config import Config
from faucet.kit.db import Tx, open_pool
from faucet.kit.log import logger
from faucet.kit.metrics import Counter, Gauge, Histogram, Metrics
from faucet.kit.upstream import Pool
from faucet.payments.appliers import TOP_UPS
from faucet.payments.connect import PayoutProcessor, connect_of
from faucet.payments.payout_events import appliers
from faucet.payments.payouts import Terms, terms_of
from faucet.payments.processor import TopUpProcessor, line_of
from faucet.payments.stripe_top_ups import top_ups_of
from faucet.reports.finding import Finding

ROLE = "faucet_jobs"
CONCURRENCY = 4
PAUSE_SECONDS = 1.0
"""Between two tries to reach a database that is away."""
STALLED_SECONDS = 120
COMPARED_DAYS = 1
LISTED = timedelta(days=7)
"""So far back Stripe is asked each night what it lists."""

# Minute, hour, day, month, weekday, second.
EVERY_FIVE_SECONDS = "* * * * * */5"
EVERY_TEN_SECONDS = "* * * * * */10"
EVERY_MINUTE = "* * * * * 0"
EVERY_TEN_MINUTES = "*/10 * * * *"
HOURLY = "7 * * * *"
HOURLY_LATER = "37 * * * *"
DAILY = "17 3 * * *"


class Sweeps:
    """The sweeps over one pool, with what they count."""

    def __init__(
        self,
        pool: AsyncConnectionPool[Tx],
        metrics: Metrics,
        clock: Clock,
        config: Config,
        upstream: Pool,
        *,
        top_up_processor: TopUpProcessor | None = None,
        payout_processor: PayoutProcessor | None = None,
        payout_terms: Terms | None = None,
        payout_day: int = 0,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._config = config
        self._line = line_of(config)
        seed = config.statement_seed
        self._signer = None if seed is None else Signer(seed)
        self._top_ups = top_up_processor
        self._payouts = payout_processor
        self._payout_terms = payout_terms
        self._payout_day = payout_day
        self._appliers = {**TOP_UPS, **appliers(clock)}
        self._wallet_low_e8 = config.wallet_low_e8
        self._courier = Courier(config, pool, clock, upstream)
        self.ran = metrics.also(Counter("modelfaucet_sweeps", "Sweeps by name and end.", ("sweep", "end")))
        self.seconds = metrics.also(Histogram("modelfaucet_sweep_seconds", "Time of a sweep.", ("sweep",)))
        self.expired = metrics.also(Counter("modelfaucet_holds_expired", "Holds that nobody settled."))
        self.purged = metrics.also(Counter("modelfaucet_purged", "Rows forgotten.", ("kind",)))
        self.closed = metrics.also(Counter("modelfaucet_periods_closed", "Months that were closed."))
        self.webhook_tries = metrics.also(Counter("modelfaucet_webhook_tries", "Tries to deliver, by end.", ("end",)))
        self.returned = metrics.also(Counter("modelfaucet_allowances_returned", "Free quotas given back unused."))
        self.findings = metrics.also(
            Gauge("modelfaucet_reconciliation_findings", "Differences in the books, when last compared.")
        )
        self.differences = metrics.also(
            Gauge("modelfaucet_reconciliation_differences", "Differences by the check that found them.", ("check",))
        )
        self.events = metrics.also(Counter("modelfaucet_stripe_events", "Events of the processor by end.", ("end",)))
        self.payout_steps = metrics.also(
            Counter("modelfaucet_payout_steps", "Calls to the processor for payouts that were begun.")
        )
        self.compared_at = metrics.also(
            Gauge("modelfaucet_reconciliation_timestamp_seconds", "When the books were last compared.")
        )

    async def expire_holds(self, timestamp: int) -> None:
        """Every five seconds."""
        async with self._sweep("expire_holds") as connection:
            swept = await expire_holds(connection)
        self.expired.add(count=swept.count)

    async def drain_inbox(self, timestamp: int) -> None:
        """Every five seconds: the processor's events that the webhook left."""
        async with self._sweep("drain_inbox") as connection:
            ended = await drain_inbox(connection, self._appliers, self._clock, is_live=self._config.stripe_is_live)
        for end, count in ended.items():
            self.events.add((end,), count)

    async def top_up_wallets(self, timestamp: int) -> None:
        """Every five seconds: automatic top-ups, and what the processor tells only when asked."""
        if self._top_ups is None:
            return
        async with self._sweep("top_up_wallets") as connection:
            await top_ups.charge_automatically(connection, self._top_ups, self._clock)
            await top_ups.learn_payments(connection, self._top_ups, self._clock)

    async def tidy_top_ups(self, timestamp: int) -> None:
        """Every minute: refunds that weren't answered, checkout pages that are over."""
        if self._top_ups is None:
            return
        async with self._sweep("tidy_top_ups") as connection:
            await top_ups.send_refunds(connection, self._top_ups, self._clock)
            await top_ups.expire_checkouts(connection, self._top_ups, self._clock)

    async def send_payouts(self, timestamp: int) -> None:
        """Every five seconds: the next step of each payout that is on its way through the processor."""
        if self._payouts is None:
            return
        async with self._timed("send_payouts"):
            self.payout_steps.add(count=await send_payouts(self._pool, self._payouts, self._clock))

    async def run_payouts(self, timestamp: int) -> None:
        """Every hour: open payouts for everybody, if this is the day of the month and it hasn't been done."""
        if self._payout_terms is None or not self._payout_day:
            return
        async with self._timed("run_payouts"):
            await run_payouts(self._pool, self._payout_terms, self._clock, day=self._payout_day)

    async def purge(self, timestamp: int) -> None:
        """Every hour."""
        async with self._sweep("purge") as connection:
            gone = await purge(connection)
        self.purged.add(("session",), gone.sessions)
        self.purged.add(("idempotent_reply",), gone.replies)
        self.purged.add(("end_user_token",), gone.end_user_tokens)
        self.purged.add(("stripe_event",), gone.events)
        self.purged.add(("webhook_event",), gone.webhook_events)

    async def roll_up(self, timestamp: int) -> None:
        """Every hour; there is something to do once a day."""
        async with self._sweep("roll_up") as connection:
            await roll_up(connection)

    async def ask_to_close(self, timestamp: int) -> None:
        """Every hour, where months may be closed without an operator."""
        if not self._config.period_close_automatic:
            return
        grace = timedelta(hours=self._config.period_close_grace_hours)
        async with self._sweep("ask_to_close") as connection:
            await ask_for_last_month(connection, now=self._clock.now(), grace=grace)

    async def close_periods(self, timestamp: int) -> None:
        """Every minute: months that were asked for."""
        now = self._clock.now()
        async with self._sweep("close_periods") as connection:
            closed = await close_periods(connection, self._signer, now=now)
        self.closed.add(count=len(closed))

    async def deliver_webhooks(self, timestamp: int) -> None:
        """Every five seconds."""
        async with self._timed("deliver_webhooks"):
            done = await self._courier.deliver_due()
        self.webhook_tries.add(("accepted",), done.accepted)
        self.webhook_tries.add(("failed",), done.tries - done.accepted)

    async def tell_developers(self, timestamp: int) -> None:
        """Every ten seconds: wallets that ran low, spend limits that were reached."""
        async with self._sweep("tell_developers") as connection:
            await tell_developers(connection, wallet_low_e8=self._wallet_low_e8)

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
            findings = await reconcile_books(
                connection,
                since=None if back is None else now - back,
                tolerance_bps=self._config.invoice_tolerance_bps,
            )
            if back is None and self._line is not None:
                findings += await reconcile_stripe(connection, self._line, since=now - LISTED, now=now)
                if (foreign_e8 := self._config.stripe_foreign_e8) is not None:
                    findings += await reconcile_balance(connection, self._line, foreign_e8=foreign_e8)
        self.findings.set(len(findings))
        self._tell(findings)
        self.compared_at.set(int(now.timestamp()))

    def _tell(self, findings: list[Finding]) -> None:
        """Show how many differences each check found, those that found some before included."""
        for labels in list(self.differences.values):
            self.differences.set(0, labels)
        for check, count in TallyOf(finding.check for finding in findings).items():
            self.differences.set(count, (check,))

    @asynccontextmanager
    async def _sweep(self, name: str) -> AsyncIterator[Tx]:
        """A connection for one sweep, whose time and end are counted."""
        async with self._timed(name), self._pool.connection() as connection:
            yield connection

    @asynccontextmanager
    async def _timed(self, name: str) -> AsyncIterator[None]:
        """Count the time and the end of one sweep."""
        began = time.perf_counter()
        end = "failed"
        try:
            yield
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
        (EVERY_MINUTE, sweeps.close_periods),
        (EVERY_FIVE_SECONDS, sweeps.drain_inbox),
        (EVERY_FIVE_SECONDS, sweeps.top_up_wallets),
        (EVERY_MINUTE, sweeps.tidy_top_ups),
        (EVERY_FIVE_SECONDS, sweeps.send_payouts),
        (HOURLY, sweeps.run_payouts),
        (EVERY_FIVE_SECONDS, sweeps.deliver_webhooks),
        (EVERY_TEN_SECONDS, sweeps.tell_developers),
        (EVERY_TEN_MINUTES, sweeps.reconcile),
        (HOURLY_LATER, sweeps.roll_up),
        (HOURLY_LATER, sweeps.ask_to_close),
        (HOURLY, sweeps.purge),
        (HOURLY, sweeps.return_allowances),
        (DAILY, sweeps.reconcile_all),
    ):
        # At most one of each waits, however long nobody took it.
        app.periodic(cron=cron)(app.task(name=sweep.__name__, queueing_lock=sweep.__name__)(sweep))
    return app


async def run(
    config: Config, dsn: str | None = None, *, on_ready: Callable[[], None] = lambda: None, clock: Clock | None = None
) -> None:
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
    upstream = new_pool()
    sweeps = Sweeps(
        pool,
        metrics,
        clock or Clock(),
        config,
        upstream,
        top_up_processor=top_ups_of(config),
        payout_processor=connect_of(config),
        payout_terms=terms_of(config),
        payout_day=config.payout_run_day,
    )
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
        await upstream.close()
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
