"""Kill whoever sends payouts, again and again, at any moment: `python -m tests.payout_kills --kills 1000`.

A *life* is a worker that asks for payouts, approves, cancels and stops them, sends what was approved and applies what
Stripe told. It dies at one of its calls, before that has any effect or after it has happened but before the worker has
learned of it; every twentieth is a process of its own that gets SIGKILL. Then time passes, sometimes more than the day
for which Stripe remembers a key, and the next life begins with what the database and Stripe have. After each death and
at the end nobody may have been paid twice, and the books must add up. It works on an embedded PostgreSQL of its own,
in a temporary folder, and against the Stripe double.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

sys.path.insert(0, str(Path(__file__).resolve().parent))  # as in pytest: tests share modules

import psycopg  # noqa: E402
from books import Books, Tenant  # noqa: E402
from payout_world import DAY, USD, WEBHOOK_SECRET, PayoutWorld, Stripe, problems  # noqa: E402
from psycopg_pool import AsyncConnectionPool  # noqa: E402

from faucet.jobs.send_payouts import send_payouts  # noqa: E402
from faucet.kit.clock import Clock, ManualClock  # noqa: E402
from faucet.kit.config import Config, load_config  # noqa: E402
from faucet.kit.db import Tx, open_pool, tx  # noqa: E402
from faucet.kit.embedded_postgres import EmbeddedPostgres  # noqa: E402
from faucet.kit.errors import Refusal  # noqa: E402
from faucet.kit.migrate import migrate  # noqa: E402
from faucet.kit.secret import Secret  # noqa: E402
from faucet.payments import inbox, payouts  # noqa: E402
from faucet.payments.connect import PayoutProcessor, connect_of  # noqa: E402
from faucet.payments.double.webhooks import body_of, signature  # noqa: E402
from faucet.payments.payout_events import appliers  # noqa: E402
from faucet.payments.payouts import Terms, terms_of  # noqa: E402
from faucet.reports.reconciliation import Finding, begin_snapshot, reconcile  # noqa: E402
from faucet.tenants import audit  # noqa: E402
from faucet.tenants.tenancy import see_all  # noqa: E402

DEVELOPERS = 12
ACTIONS = 8
POINTS_MAX, STRIPE_POINTS_MAX = 140, 12
PROCESS_EVERY = 20
"""One life of so many is a process that the kernel kills."""
EVENTS_BACK = 120
ROUNDS_MAX = 400
LIFE_SECONDS = 60


class Died(BaseException):
    """The end of a life, which nothing that it runs through may catch."""


class Fate:
    """Counts the points of a life and ends it at one of them."""

    def __init__(self, dies_at: int, *, of: str = "") -> None:
        self.dies_at = dies_at
        self.of = of
        """Only points whose names begin like this count."""
        self.points = 0
        self.died_at = ""

    def point(self, name: str) -> None:
        """One point, perhaps the last one."""
        if self.died_at:
            raise Died  # the dead do nothing more
        self.points += name.startswith(self.of)
        if self.points == self.dies_at:
            self.died_at = name
            raise Died

    async def call(self, name: str, promise: Awaitable[Any]) -> Any:
        """Await a call to the world outside, between its two points."""
        try:
            self.point(f"{name} begins")
        except Died:
            if asyncio.iscoroutine(promise):
                promise.close()
            raise
        result = await promise
        self.point(f"{name} has happened")
        return result


class FatedPool:
    """A pool whose txs are under a fate."""

    def __init__(self, pool: AsyncConnectionPool[Tx], fate: Fate) -> None:
        self._pool, self._fate = pool, fate

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        self._fate.point("database: a tx")
        async with self._pool.connection() as connection:
            yield _Connection(connection, self._fate)


class _Connection:
    def __init__(self, real: Any, fate: Fate) -> None:
        self._real, self._fate = real, fate

    def __getattr__(self, name: str) -> Any:
        return self._one_tx if name == "transaction" else getattr(self._real, name)

    async def execute(self, *values: Any) -> Any:
        return await self._fate.call("database: a statement", self._real.execute(*values))

    @asynccontextmanager
    async def _one_tx(self) -> AsyncIterator[None]:
        async with self._real.transaction():
            yield
            self._fate.point("database: a commit begins")
        self._fate.point("database: a commit has happened")


class FatedProcessor:
    """The processor, whose calls are under a fate."""

    def __init__(self, real: PayoutProcessor, fate: Fate) -> None:
        self._real, self._fate = real, fate

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._real, name)

        async def fated(*values: Any, **named: Any) -> Any:
            return await self._fate.call(f"stripe: {name}", call(*values, **named))

        return fated


@dataclass
class Life:
    """One worker, from its start to its death, over ports that may be fated."""

    api: Any
    jobs: Any
    processor: Any
    clock: Clock
    terms: Terms
    told: Sequence[dict[str, Any]]
    """What Stripe told lately."""
    developers: Sequence[UUID]
    rng: random.Random
    done: Counter[str] = field(default_factory=Counter)

    async def live(self, actions: int) -> None:
        """Do what comes to mind."""
        for _ in range(actions):
            act = self.rng.choices(
                (self.request, self.approve, self.send, self.hear, self.call_off), weights=(5, 5, 6, 4, 1)
            )[0]
            try:
                await act()
                self.done[act.__name__] += 1
            except Refusal as refusal:
                self.done[f"refused: {refusal.code}"] += 1

    async def request(self) -> None:
        """A developer asks for some of what they have earned."""
        async with self._desk() as t:
            amount_e8 = self.rng.randrange(100, 3_000) * payouts.CENT_E8
            payout, _ = await payouts.request(
                t, self.terms, developer_id=self.rng.choice(self.developers), amount_e8=amount_e8, by="developer",
                key=None, now=self.clock.now(),
            )  # fmt: skip
            await self._note(t, "payout.requested", payout.id, payout.developer_id)

    async def approve(self) -> None:
        """An operator lets one go."""
        async with self._desk() as t:
            if (payout_id := await self._any(t, "requested")) is not None:
                change = await payouts.approve(t, payout_id, by="operator", note=None, now=self.clock.now())
                await self._note(t, "payout.approved", payout_id, change.after.developer_id)

    async def call_off(self) -> None:
        """An operator thinks better of one."""
        async with self._desk() as t:
            if self.rng.random() < 0.5:
                if (payout_id := await self._any(t, "requested", "approved")) is not None:
                    await payouts.cancel(t, payout_id, by="operator", reason=None, now=self.clock.now())
            elif (payout_id := await self._any(t, "approved", "sent")) is not None:
                await payouts.fail(t, payout_id, reason="an operator said so", now=self.clock.now())

    async def send(self) -> None:
        """The sweep."""
        await send_payouts(self.jobs, self.processor, self.clock)

    async def hear(self, most: int = 6) -> None:
        """Some of what Stripe told lately, in any order, heard before or not."""
        for event in self.rng.sample(self.told, min(most, len(self.told))):
            await self.apply(event)

    async def apply(self, told: dict[str, Any]) -> None:
        """One event, through the inbox."""
        body = body_of(told)
        event = inbox.verified(body, signature(body, WEBHOOK_SECRET, at=int(time.time())), Secret(WEBHOOK_SECRET))
        async with tx(self.api) as t:
            await inbox.store(t, event)
        async with tx(self.jobs) as t:
            kept = await inbox.claim(t, event.id)
            assert kept is not None
            await inbox.apply(t, kept, appliers(self.clock), now=self.clock.now())

    @asynccontextmanager
    async def _desk(self) -> AsyncIterator[Tx]:
        async with tx(self.api) as t:
            await see_all(t)
            yield t

    async def _any(self, t: Tx, *statuses: str) -> UUID | None:
        cursor = await t.execute(
            "select id from payout where status = any (%s) order by md5(id::text || %s) limit 1",
            (list(statuses), str(self.rng.random())),
        )
        row = await cursor.fetchone()
        return None if row is None else row[0]

    async def _note(self, t: Tx, action: str, payout_id: UUID, developer_id: UUID) -> None:
        await audit.record(
            t, actor_scope="test", actor_id=None, action=action, resource_type="payout", resource_id=str(payout_id),
            request_id=None, developer_id=developer_id,
        )  # fmt: skip


@dataclass
class Figures:
    """What was seen."""

    kills: int = 0
    by_sigkill: int = 0
    died_at: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    payouts: Counter[str] = field(default_factory=Counter)
    transfers: int = 0
    most_transfers: int = 0
    most_bank_payouts: int = 0
    findings: list[str] = field(default_factory=list)
    paid_e8: int = 0
    left_e8: int = 0

    def report(self) -> str:
        """The figures, for people."""
        ended = ", ".join(f"{status} {count}" for status, count in sorted(self.payouts.items()))
        where = ", ".join(f"{name} {count}" for name, count in self.died_at.most_common(8))
        return "\n".join(
            (
                f"kills                                  {self.kills}, {self.by_sigkill} of them by SIGKILL",
                f"where                                  {where}",
                f"payouts                                {sum(self.payouts.values())}: {ended}",
                f"transfers at Stripe                    {self.transfers}",
                f"most transfers of one payout           {self.most_transfers}",
                f"most payouts to the bank of one        {self.most_bank_payouts} (of those that did not fail there)",
                f"paid, by our books · left Stripe       {self.paid_e8 // USD}.{self.paid_e8 % USD // 10**6:02d}"
                f" · {self.left_e8 // USD}.{self.left_e8 % USD // 10**6:02d} USD",
                f"paid twice · books that don't add up   {sum('transfers' in f for f in self.findings)}"
                f" · {len(self.findings)}",
                *self.findings[:20],
            )
        )


class Kills:
    """The world in which lives end."""

    def __init__(self, dsn: str, books: Books, stripe: Stripe, folder: Path, seed: int) -> None:
        env = {
            "FAUCET_DATA": str(folder / "data"), "STRIPE_SECRET_KEY": "sk_test_of_tests", "STRIPE_API_BASE": stripe.url,
            "PAYOUT_THRESHOLD_USD": "1.00", "PAYOUT_DAILY_MAX_USD": "0",
        }  # fmt: skip
        self.config: Config = load_config(env)
        self.dsn, self.books, self.stripe, self.folder = dsn, books, stripe, folder
        self.rng = random.Random(seed)
        self.clock = ManualClock(datetime.now(UTC) + timedelta(days=self.config.payout_hold_back_days, hours=1))
        self.world = PayoutWorld(self.config, dsn, books, self.clock, stripe)
        self.tenants: list[Tenant] = [self.world.rich(0) for _ in range(DEVELOPERS)]
        self.figures = Figures()
        self.earned_e8 = 0
        processor = connect_of(self.config)
        assert processor is not None
        self.processor = processor

    def run(self, kills: int) -> Figures:
        """End so many lives, then let one live to the end, and look."""
        lives = 0
        while self.figures.kills < kills:
            lives += 1
            self._earn()
            if lives % PROCESS_EVERY == 0:
                self._by_kernel()
            else:
                asyncio.run(self._lives())
            self._look()
            self._time_passes()
        asyncio.run(self._rest())
        self._look(has_heard_all=True)
        self._count()
        return self.figures

    async def _lives(self) -> None:
        """A life that dies; sometimes beside another one, as where two processes run."""
        fates = [self._fate() for _ in range(self.rng.choice((1, 1, 2)))]
        async with _pools(self.dsn) as (api, jobs):
            results = await asyncio.gather(
                *(self._life(FatedPool(api, f), FatedPool(jobs, f), FatedProcessor(self.processor, f)) for f in fates),
                return_exceptions=True,
            )
        for fate, result in zip(fates, results, strict=True):
            if fate.died_at:
                self.figures.kills += 1
                self.figures.died_at[fate.died_at] += 1
            elif isinstance(result, BaseException):
                raise result

    def _fate(self) -> Fate:
        """Half of them die around a call to Stripe, where it matters most."""
        if self.rng.random() < 0.5:
            return Fate(self.rng.randint(1, STRIPE_POINTS_MAX), of="stripe")
        return Fate(self.rng.randint(1, POINTS_MAX))

    async def _life(self, api: Any, jobs: Any, processor: Any) -> None:
        life = self._new_life(api, jobs, processor)
        try:
            await life.live(ACTIONS)
        finally:
            self.figures.done += life.done

    def _new_life(self, api: Any, jobs: Any, processor: Any) -> Life:
        developers = [tenant.developer for tenant in self.tenants]
        rng = random.Random(self.rng.random())
        told = self.stripe.log()[-EVENTS_BACK:]
        return Life(api, jobs, processor, self.clock, terms_of(self.config), told, developers, rng)

    def _by_kernel(self) -> None:
        """A life in a process of its own, which the kernel ends."""
        ask = {
            "dsn": self.dsn, "stripe": self.stripe.url, "now": self.clock.now().isoformat(),
            "developers": [str(tenant.developer) for tenant in self.tenants], "seed": self.rng.random(),
            "data": str(self.config.faucet_data), "told": str(self.folder / "told.json"),
        }  # fmt: skip
        Path(ask["told"]).write_text(json.dumps(self.stripe.log()[-EVENTS_BACK:]))
        command = [sys.executable, "-m", "tests.payout_kills", "--life", json.dumps(ask)]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        root = Path(__file__).resolve().parents[1]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env, cwd=root) as process:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], LIFE_SECONDS)
            assert ready and process.stdout.readline() == b"alive\n", "the process did not start"
            # The moment is the point of it; nothing waits for this to be over.
            select.select([], [], [], self.rng.random() * 0.4)
            process.send_signal(signal.SIGKILL)
        self.figures.kills += 1
        self.figures.by_sigkill += 1
        self.figures.died_at["SIGKILL"] += 1

    def _earn(self) -> None:
        """Everybody has something to ask for."""
        for tenant in self.tenants:
            if self.books.posted(tenant.earnings) < 30 * USD:
                self.world.earn(tenant, 100 * USD)
                self.earned_e8 += 100 * USD

    def _time_passes(self) -> None:
        """Mostly minutes, sometimes days; and what the banks do meanwhile."""
        self.world.later(self.rng.choice((20, 90, 700, 700, 4_000, 4_000, 30_000, DAY + 3_600)))
        for bank in self.stripe.of("payout"):
            chance = self.rng.random()
            if bank["status"] in ("pending", "in_transit") and chance < 0.5:
                status = "failed" if chance < 0.08 else "in_transit" if chance < 0.2 else "paid"
                if status != bank["status"]:
                    self.stripe.control("payouts", payout=bank["id"], status=status)
            elif bank["status"] == "paid" and chance < 0.002:
                self.stripe.control("payouts", payout=bank["id"], status="failed")

    def _look(self, *, has_heard_all: bool = False) -> None:
        self.figures.findings += problems(self.books, self.stripe, has_heard_all=has_heard_all)
        assert not self.figures.findings, self.figures.report()

    async def _rest(self) -> None:
        """One life without an end: everything that was begun comes to its own."""
        async with _pools(self.dsn) as (api, jobs):
            life = self._new_life(api, jobs, self.processor)
            for _ in range(ROUNDS_MAX):
                while self.books.one("select count(*) from payout where status = 'requested'"):
                    await life.approve()
                await life.send()
                if not self.books.one("select count(*) from payout where next_attempt_at is not null"):
                    break
                await asyncio.to_thread(self.world.later, 7_300)
            for event in self.stripe.log():  # what was sent back after it was paid may want more to be done
                await life.apply(event)
            await life.send()
            for event in self.stripe.log():
                await life.apply(event)

    def _count(self) -> None:
        figures = self.figures
        figures.payouts = Counter(dict(self.books.rows("select status, count(*) from payout group by 1")))
        transfers = Counter(t["transfer_group"] for t in self.stripe.of("transfer"))
        figures.transfers, figures.most_transfers = transfers.total(), max(transfers.values(), default=0)
        good = [b for b in self.stripe.of("payout") if b["status"] not in ("failed", "canceled")]
        banks = Counter(b["metadata"]["payout_id"] for b in good)
        figures.most_bank_payouts = max(banks.values(), default=0)
        figures.paid_e8 = self.books.one("select coalesce(sum(amount_e8), 0)::bigint from payout where status = 'paid'")
        figures.left_e8 = sum(bank["amount"] for bank in good) * payouts.CENT_E8
        findings = [f"{f.check} {f.subject}: {f.expected} ≠ {f.actual}" for f in asyncio.run(_findings(self.dsn))]
        open_still = self.books.rows(
            "select id::text || ' is ' || status || ': ' || coalesce(last_error, '') from payout"
            " where status in ('requested', 'approved', 'sent')"
        )
        findings += [row[0] for row in open_still]
        left = self.books.one("select sum(posted_e8)::bigint from account where kind = 'earnings'")
        if left + figures.paid_e8 != self.earned_e8:
            findings.append(f"earned {self.earned_e8}, but {left} are left and {figures.paid_e8} were paid")
        if figures.left_e8 != figures.paid_e8:
            findings.append(f"{figures.left_e8} left Stripe, but {figures.paid_e8} were paid by the books")
        figures.findings += findings


async def _findings(dsn: str) -> list[Finding]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await begin_snapshot(connection)
        return await reconcile(connection)


@asynccontextmanager
async def _pools(dsn: str) -> AsyncIterator[tuple[AsyncConnectionPool[Tx], AsyncConnectionPool[Tx]]]:
    api, jobs = await open_pool(dsn, "faucet_api", size=3), await open_pool(dsn, "faucet_jobs", size=3)
    try:
        yield api, jobs
    finally:
        await api.close()
        await jobs.close()


async def _live_until_killed(ask: dict[str, Any]) -> None:
    """A life in this process, which says that it begins and is not expected to end by itself."""
    env = {
        "FAUCET_DATA": ask["data"], "STRIPE_SECRET_KEY": "sk_test_of_tests", "STRIPE_API_BASE": ask["stripe"],
        "PAYOUT_THRESHOLD_USD": "1.00", "PAYOUT_DAILY_MAX_USD": "0",
    }  # fmt: skip
    config = load_config(env)
    clock = ManualClock(datetime.fromisoformat(ask["now"]))
    developers = [UUID(each) for each in ask["developers"]]
    async with _pools(ask["dsn"]) as (api, jobs):
        told = json.loads(Path(ask["told"]).read_text())
        rng = random.Random(ask["seed"])
        life = Life(api, jobs, connect_of(config), clock, terms_of(config), told, developers, rng)
        print("alive", flush=True)
        await life.live(10_000)


def kill(dsn: str, folder: Path, *, kills: int, seed: int) -> Figures:
    """End so many lives over the migrated database at `dsn`. Raises AssertionError with the figures if one mattered."""
    with psycopg.connect(dsn, autocommit=True) as connection, Stripe() as stripe:
        figures = Kills(dsn, Books(connection), stripe, folder, seed).run(kills)
    assert not figures.findings, figures.report()
    return figures


def main(arguments: list[str] | None = None) -> int:
    """The command line. 0: nobody was paid twice, and the books add up."""
    parser = argparse.ArgumentParser(prog="tests.payout_kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--life", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.life is not None:
        asyncio.run(_live_until_killed(json.loads(options.life)))
        return 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faucet-payout-kills-") as folder:
        Path(folder).chmod(0o711)  # as root, PostgreSQL runs as another account, which has to pass through
        settings = {"fsync": "off", "full_page_writes": "off"}
        with EmbeddedPostgres(Path(folder) / "postgres", settings=settings) as running:
            migrate(running.dsn)
            try:
                figures = kill(running.dsn, Path(folder), kills=options.kills, seed=options.seed)
            except AssertionError as broken:
                print(f"BROKEN by seed {options.seed}:\n{broken}")
                return 1
    print(figures.report())
    print(f"seed {options.seed}, {time.monotonic() - began:.0f} s: nobody was paid twice, and the books add up")
    return 0


if __name__ == "__main__":
    sys.exit(main())
