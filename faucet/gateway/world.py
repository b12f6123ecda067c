"""Everything that one gateway process is made of, wired once; the story in `chat.py` only uses it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout

from faucet.gateway.admit import REFRESH_SECONDS, Admission, Caller, Feature
from faucet.gateway.allowances import Allowances
from faucet.gateway.attempt import CallRules
from faucet.gateway.catalogue import Account, Catalogue, Product, Stock
from faucet.gateway.circuits import Circuits
from faucet.gateway.exchange import Exchange
from faucet.gateway.explain import is_entitled
from faucet.gateway.keys import NO_KEYS, Keyring
from faucet.gateway.metrics import METRICS
from faucet.gateway.origins import load_origins
from faucet.gateway.payers import Chosen, Payers
from faucet.gateway.rates import FeatureRates
from faucet.gateway.replay import Replays
from faucet.gateway.reserve import Reserver
from faucet.gateway.settle import Settler
from faucet.gateway.spool import Spool
from faucet.gateway.switches import Switches, load_switches
from faucet.gateway.validations import ASKED, Validations
from faucet.gateway.wire import ChatAsk
from faucet.kit.clock import Clock
from faucet.kit.config import Config
from faucet.kit.db import connect_hot, in_time, open_pool
from faucet.kit.errors import Refusal
from faucet.kit.log import logger
from faucet.kit.upstream import Deadlines, Pool
from faucet.ledger.lane import Lane
from faucet.limits.bucket import Bucket
from faucet.providers.base import Provider
from faucet.rating.price import PriceBook
from faucet.rating.store import load_confirmed
from faucet.terms import Payer

ROLE = "faucet_gateway"
CATALOGUE_SECONDS = 5.0
READY_SECONDS = 2.0
CHANGED = "faucet_changed"


class World:
    """One gateway process. Build it, `open()` it, and `close()` it at the end."""

    def __init__(self, config: Config, dsn: str, providers: Sequence[Provider], clock: Clock | None = None) -> None:
        self.config = config
        self._dsn = dsn
        self.providers = providers
        self.clock = clock or Clock()
        self.max_body_bytes = config.gateway_max_body_bytes
        self.pool = Pool()
        self.call_rules = CallRules(
            deadlines=Deadlines(
                first_byte=config.provider_timeout_ms / 1000,
                idle=config.provider_idle_timeout_ms / 1000,
                total=config.provider_total_timeout_ms / 1000,
            ),
            max_retries=config.provider_max_retries,
            retry_delay_seconds=config.provider_retry_delay_ms / 1000,
        )
        self.validations = Validations(config, self.clock)
        self.draining = False
        self.circuits = Circuits()
        self.payers = Payers()
        self.catalogue = Catalogue((), PriceBook(()), self.clock.now(), self.circuits)
        self.accounts: Sequence[Account] = ()
        """The platform's own, those that are switched off among them."""
        self._switched_off = self.catalogue
        """What would be for sale, if the operator had not switched its providers off."""
        self._switches = Switches()
        self.app_origins: frozenset[str] = frozenset()
        """Pages that may call because an active app names their origin; known in production only."""
        self._cost_accounts: dict[tuple[UUID, str], int] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self._stale = asyncio.Event()

    async def open(self) -> None:
        """Connect, load what is for sale, settle what a dead process left, begin the background work."""
        config = self.config
        self.db = await open_pool(self._dsn, ROLE, size=4)
        self.spool = Spool(config.faucet_data / "spool")
        self.lane = Lane(
            self._connect,
            lease_seconds=config.hold_lease_seconds,
            patience_seconds=config.settle_deadline_seconds,
            on_at_risk=self.spool.keep,
            on_safe=self.spool.safe,
        )
        self.keyring = Keyring(self.db, config, self.clock, self.circuits.forget, lambda: self._switches.providers)
        try:
            await self.lane.start()
            await self._load_catalogue()
        except BaseException:
            await self.close()  # a pool that is left open never lets its process end
            raise
        limit = config.gateway_rate_limit_max_requests
        window_seconds = config.gateway_rate_limit_window_ms / 1000
        bucket = Bucket(limit, window_seconds) if limit else None
        self._rate_policy = b'"session";q=%d;w=%d' % (limit, math.ceil(window_seconds))
        self.admission = Admission(self.db, bucket, lambda: self._switches)
        self.feature_rates = FeatureRates()
        self.reserver = Reserver(self.lane, Allowances(self.db, self.clock), wait_seconds=config.hold_wait_seconds)
        self.settler = Settler(self.lane, self.spool, self.reserver.freed)
        self.replays = Replays(self.db, config.reply_key, lease_seconds=config.hold_lease_seconds)
        METRICS.spooled = lambda: len(self.spool)
        METRICS.open_holds = lambda: len(self.settler.open)
        METRICS.lane = lambda: (self.lane.groups, self.lane.items)
        self._tasks = [
            asyncio.create_task(self.settler.renew_leases(config.hold_lease_seconds), name="renew-leases"),
            asyncio.create_task(self._keep_catalogue(), name="keep-catalogue"),
            asyncio.create_task(self._keep_callers(), name="keep-callers"),
            asyncio.create_task(self._recover(), name="recover-spools"),
            asyncio.create_task(self.validations.run(self.db), name="validations"),
            asyncio.create_task(self.reserver.refusals.run(self.db), name="limit-refusals"),
        ]

    async def close(self) -> None:
        """Commit what is queued, then let go of everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.lane.close()
        await self.keyring.tell()
        self.spool.close()
        await self.pool.close()
        await self.db.close()

    def limit(self, exchange: Exchange, caller: Caller) -> None:
        """Count the request against its session's rate. Raises Refusal `rate_limited`."""
        verdict = self.admission.count(caller)
        if verdict is None:
            return
        reset = math.ceil(verdict.reset_seconds)
        left = verdict.remaining
        exchange.lines += (
            b"x-ratelimit-remaining: %d\r\nx-ratelimit-reset: %d\r\n"
            b'ratelimit: "session";r=%d;t=%d\r\nratelimit-policy: %b\r\n'
            % (left, reset, left, reset, self._rate_policy)
        )
        if not verdict.allowed:
            raise Refusal(
                "rate_limited",
                "too many requests in this session; slow down",
                retry_after_seconds=max(1, math.ceil(verdict.retry_after_seconds)),
            )

    async def choose(self, exchange: Exchange, caller: Caller, feature: Feature, ask: ChatAsk) -> Chosen:
        """The products that may answer, best first. Raises the refusals of `Payers.choose` and of `is_entitled`, and
        `unavailable`."""
        explain = exchange.debug is not None and await is_entitled(self.db, exchange, caller.developer_id)
        keys = NO_KEYS
        if feature.uses_keys:
            keys = self.keyring.recall(caller) or await self.keyring.find(caller)
        return self.payers.choose(self.catalogue, self._switched_off, feature, ask, keys, explain=explain)

    async def stock(self, caller: Caller, feature: Feature) -> Stock:
        """What a caller can be answered with. Raises Refusal `unavailable`."""
        if not feature.uses_keys:
            return self.catalogue
        return (self.keyring.recall(caller) or await self.keyring.find(caller)).stock_with(self.catalogue)

    def lacks_cost_account(self, caller: Caller, product: Product) -> bool:
        """Whether the account that the product's answers are booked to isn't known yet. What a developer's own account
        costs them, they earn."""
        key = (caller.developer_id, product.provider.name)
        return key not in self._cost_accounts and product.payer is not Payer.DEVELOPER

    async def open_cost_accounts(self, caller: Caller, products: Sequence[Product]) -> None:
        """Know the accounts that answers will be booked to before anything is held.

        Raises Refusal `unavailable`.
        """
        for product in products:
            if not self.lacks_cost_account(caller, product):
                continue
            key = (caller.developer_id, product.provider.name)
            try:
                row = await in_time(self._cost_account_row(*key))
            except (psycopg.OperationalError, PoolTimeout, TimeoutError) as error:
                raise Refusal(
                    "unavailable", "the ledger can't be reached; nothing was charged", retry_after_seconds=1
                ) from error
            assert row is not None
            self._cost_accounts[key] = row[0]

    async def _cost_account_row(self, developer_id: UUID, provider: str) -> tuple[Any, ...] | None:
        async with self.db.connection() as connection:
            cursor = await connection.execute("select provider_cost_account_v1(%s, %s)", (developer_id, provider))
            return await cursor.fetchone()

    def cost_account(self, caller: Caller, product: Product) -> int:
        """The account that an answer's cost is booked to: one that `open_cost_accounts` found, or the earnings of the
        developer whose own account at the provider paid."""
        if product.payer is Payer.DEVELOPER:
            return caller.earnings_account
        return self._cost_accounts[(caller.developer_id, product.provider.name)]

    async def is_ready(self) -> dict[str, bool]:
        """What a load balancer wants to know, really checked."""
        # A query to a database that hangs takes long to give up: it is left to that, and not waited for.
        asking = asyncio.create_task(self._reaches_database())
        await asyncio.wait((asking,), timeout=READY_SECONDS)
        database = asking.done() and asking.result()
        asking.cancel()
        return {
            "database": database,
            "ledger": self.lane.connected,
            "catalogue": bool(self.catalogue.offers or self._switches.providers),
            "accepting": not self.draining,
        }

    async def _reaches_database(self) -> bool:
        try:
            async with self.db.connection() as connection:
                await connection.execute("select 1")
        except (psycopg.Error, PoolTimeout, OSError):
            return False
        return True

    # ── background ──

    async def _connect(self) -> Any:
        connection = await connect_hot(self._dsn, ROLE)
        await connection.add_listener(CHANGED, self._on_change)
        await connection.add_listener(ASKED, self.validations.wake)
        return connection

    def _on_change(self, *_: object) -> None:
        self.admission.forget()
        self.keyring.forget()
        self._stale.set()

    async def _load_catalogue(self) -> None:
        async with self.db.connection() as connection:
            prices = await load_confirmed(connection)
            stored = await self.keyring.platform(connection)
            switches = await load_switches(connection)
            if self.config.is_production:  # development lets every origin call
                self.app_origins = await load_origins(connection)
        book, now = PriceBook(prices), self.clock.now()
        accounts = [*(Account(provider) for provider in self.providers), *stored]
        self.accounts = accounts
        off = [account for account in accounts if account.provider.name in switches.providers]
        fresh = Catalogue([account for account in accounts if account not in off], book, now, self.circuits)
        if not fresh.is_like(self.catalogue):
            self.catalogue = fresh
        self._switched_off = Catalogue(off, book, now, self.circuits)
        self._switches = switches

    async def _keep_catalogue(self) -> None:
        while True:
            try:
                async with asyncio.timeout(CATALOGUE_SECONDS):
                    await self._stale.wait()
            except TimeoutError:
                pass
            self._stale.clear()
            try:
                await self._load_catalogue()
            except (psycopg.Error, PoolTimeout, OSError) as error:
                logger.warning("catalogue.not_refreshed", error=type(error).__name__)

    async def _keep_callers(self) -> None:
        """Keep the sessions in use known, so that no request has to wait for the database to know its caller."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await self.admission.refresh()
                await self.keyring.refresh()
            except Refusal:
                pass  # the database is away; what is known runs out by itself
            await self.keyring.tell()

    async def _recover(self) -> None:
        """Adopt the spools of processes that died: at start, and now and then for neighbours."""
        while True:
            try:
                await self.settler.recover()
            except Exception as error:  # an adopted file must never stop the gateway
                logger.error("spool.not_recovered", error=repr(error))
            await asyncio.sleep(10)
