"""Payouts for tests: an API with two named operators, the Stripe double, the sweeps, and a clock that is put forward.

The double runs in a thread with a loop of its own, so that it outlives whatever dies in a test. Its events are taken
from its log and applied through the inbox, in whatever order a test wants.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx2
from api_world import bearer, ok
from books import Books, Settlement, Tenant
from conftest import serve
from psycopg_pool import AsyncConnectionPool

from faucet.jobs.send_payouts import run_payouts, send_payouts
from faucet.kit.clock import ManualClock
from faucet.kit.config import Config, load_config
from faucet.kit.db import Tx, open_pool, tx
from faucet.kit.secret import Secret
from faucet.payments import inbox
from faucet.payments.connect import PayoutProcessor, connect_of
from faucet.payments.double.server import StripeDouble
from faucet.payments.double.webhooks import body_of, signature
from faucet.payments.payout_events import appliers
from faucet.payments.payouts import terms_of

Json = dict[str, Any]
USD = 100_000_000
DAY = 86_400
WEBHOOK_SECRET = "whsec_test_of_payouts"
ALICE, BOB = "alice-0123456789abcdefghijklmnopqrstuv", "bob-9876543210zyxwvutsrqponmlkjihgfe"


_KEY = {"authorization": "Bearer sk_test_of_tests"}


class Stripe:
    """The double, and its knobs."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.double: StripeDouble | None = None
        self._http = httpx2.Client(timeout=30)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with StripeDouble() as self.double:
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> Stripe:
        self._thread.start()
        assert self._ready.wait(15), "the double did not start"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None and self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(15)
        self._http.close()

    @property
    def url(self) -> str:
        assert self.double is not None
        return self.double.url

    def control(self, name: str, **ask: Any) -> Json:
        """Turn a knob."""
        return cast(Json, ok(self._http.post(f"{self.url}/_control/{name}", json=ask)))

    def fails(self, method: str, path: str, how: str, **more: Any) -> None:
        """The next request to a path goes wrong."""
        self.control("failures", method=method, path=path, how=how, **more)

    def ask(self, path: str, account: str | None = None) -> Json:
        """What Stripe's API shows."""
        headers = _KEY | ({"stripe-account": account} if account else {})
        return cast(Json, ok(self._http.get(f"{self.url}/v1/{path}", headers=headers)))

    def of(self, kind: str) -> list[Json]:
        """The objects of a kind, of whatever account."""
        assert self.double is not None
        return [row for row in list(self.double.state.objects.values()) if row["object"] == kind]

    def available(self, account: str | None = None) -> int:
        """A balance, in cents."""
        return int(self.ask("balance", account)["available"][0]["amount"])

    def events(self) -> list[Json]:
        """The log of events, oldest first."""
        return cast(list[Json], ok(self._http.get(f"{self.url}/_control/events"))["events"])

    def log(self) -> list[Json]:
        """The same, from this process's own memory."""
        assert self.double is not None
        return list(self.double.state.events)

    def post(self, path: str, form: dict[str, str]) -> Json:
        """What Stripe's API makes of a form."""
        return cast(Json, ok(self._http.post(f"{self.url}/v1/{path}", data=form, headers=_KEY)))


@dataclass
class PayoutWorld:
    """Everything that a payout meets."""

    config: Config
    dsn: str
    books: Books
    clock: ManualClock
    stripe: Stripe
    base_url: str = ""
    applied: set[str] = field(default_factory=set)
    _clients: dict[str, httpx2.Client] = field(default_factory=dict)

    def client(self, token: str) -> httpx2.Client:
        """A client that shows this token."""
        if token not in self._clients:
            self._clients[token] = httpx2.Client(base_url=self.base_url, headers=bearer(token), timeout=30)
        return self._clients[token]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    @property
    def operator(self) -> httpx2.Client:
        return self.client(self.config.admin_token.reveal())

    @property
    def alice(self) -> httpx2.Client:
        return self.client(ALICE)

    @property
    def bob(self) -> httpx2.Client:
        return self.client(BOB)

    def token_of(self, tenant: Tenant) -> str:
        """A token of a developer's, for payouts."""
        scopes = ["developer:payouts:write", "developer:operations:read", "developer:usage:read"]
        ask = {"developer_id": str(tenant.developer), "name": "T", "scopes": scopes}
        return str(ok(self.operator.post("/v1/developer/tokens", json=ask), 201)["token"])

    def developer_of(self, tenant: Tenant) -> httpx2.Client:
        return self.client(self.token_of(tenant))

    # ── earnings ──

    def earn(self, tenant: Tenant, amount_e8: int) -> None:
        """An answer that brings the developer so much."""
        self.books.credit(tenant.wallet, amount_e8)
        hold = self.books.held(tenant, amount_e8)
        assert self.books.settle(Settlement(tenant, hold, channel=amount_e8)) == [0]

    def rich(self, usd: int, *, account: bool = True) -> Tenant:
        """A developer with so much that is old enough, and an account at Stripe."""
        tenant = self.books.tenant()
        self.books.open_account("payout_clearing", tenant.developer)
        if account:
            self.account_of(tenant)
        if usd:
            self.earn(tenant, usd * USD)
        return tenant

    def account_of(self, tenant: Tenant) -> str:
        """A developer's account at Stripe, ready to be paid."""
        form = {"type": "express", "capabilities[transfers][requested]": "true", "email": "d@x.example"}
        made = self.stripe.post("accounts", form)
        self.stripe.control("accounts", account=made["id"], ready=True)
        self.books.rows(
            "insert into payout_account (developer_id, provider_account_id, is_ready) values (%s, %s, true)",
            tenant.developer,
            made["id"],
        )
        return str(made["id"])

    def grow_old(self) -> None:
        """The hold-back passes."""
        self.clock.advance((self.config.payout_hold_back_days + 1) * DAY)

    def earnings(self, tenant: Tenant) -> int:
        return self.books.posted(tenant.earnings)

    def clearing(self, tenant: Tenant) -> int:
        return self.books.posted(self.books.open_account("payout_clearing", tenant.developer))

    # ── payouts ──

    def requested(self, tenant: Tenant, usd: str | None = None) -> str:
        """A payout that its developer has asked for; its id."""
        body = {} if usd is None else {"amount_usd": usd}
        return str(ok(self.developer_of(tenant).post("/v1/developer/payouts", json=body), 201)["id"])

    def approved(self, tenant: Tenant, usd: str | None = None) -> str:
        """A payout that an operator has let go; its id."""
        payout_id = self.requested(tenant, usd)
        ok(self.bob.post(f"/v1/admin/payouts/{payout_id}/approve"))
        return payout_id

    def payout(self, payout_id: str) -> Json:
        """A payout as operators see it."""
        return cast(Json, ok(self.operator.get(f"/v1/admin/payouts/{payout_id}")))

    def send(self) -> int:
        """The sweep that sends, once."""

        async def sweep() -> int:
            async with jobs_pool(self.dsn) as pool:
                return await send_payouts(pool, self.processor, self.clock)

        return asyncio.run(sweep())

    def run(self, day: int) -> list[UUID]:
        """The run of the calendar."""

        async def sweep() -> list[UUID]:
            async with jobs_pool(self.dsn) as pool:
                return [p.id for p in await run_payouts(pool, terms_of(self.config), self.clock, day=day)]

        return asyncio.run(sweep())

    @property
    def processor(self) -> PayoutProcessor:
        found = connect_of(self.config)
        assert found is not None
        return found

    def told(self, events: Iterable[Json] | None = None) -> list[str]:
        """Apply events, all new ones unless given, through the inbox; what became of each."""
        found = [e for e in self.stripe.events() if e["id"] not in self.applied] if events is None else list(events)
        self.applied |= {event["id"] for event in found}
        return asyncio.run(apply_events(self.dsn, self.clock, found))

    def later(self, seconds: int) -> None:
        """Time passes, here and at Stripe."""
        self.clock.advance(seconds)
        self.stripe.control("clock", advance_seconds=seconds)

    def check(self) -> None:
        """The books add up, and nobody was paid twice."""
        self.books.assert_sound()
        assert problems(self.books, self.stripe) == []


async def apply_events(dsn: str, clock: ManualClock, events: Iterable[Json]) -> list[str]:
    """Put events into the inbox, as the webhook does, and apply each, as the sweep does."""
    outcomes = []
    async with jobs_pool(dsn, "faucet_api") as api, jobs_pool(dsn) as pool:
        for told in events:
            body = body_of(told)
            header = signature(body, WEBHOOK_SECRET, at=int(time.time()))
            event = inbox.verified(body, header, Secret(WEBHOOK_SECRET))
            async with tx(api) as t:
                await inbox.store(t, event)
            async with tx(pool) as t:
                kept = await inbox.claim(t, event.id)
                assert kept is not None
                verdict = await inbox.apply(t, kept, appliers(clock), now=clock.now())
            outcomes.append(f"{event.type}: {verdict.outcome.value}")
    return outcomes


def problems(books: Books, stripe: Stripe, *, has_heard_all: bool = True) -> list[str]:
    """Whatever shows that money left twice, came back without leaving, or is not where the books say.

    Who hasn't heard all yet may take for paid what a bank has sent back since.
    """
    found = []
    sent: dict[str, list[Json]] = {}
    for transfer in stripe.of("transfer"):
        if transfer["transfer_group"] is not None:
            sent.setdefault(str(transfer["transfer_group"]), []).append(transfer)
    banked: dict[str, list[Json]] = {}
    for bank in stripe.of("payout"):
        if bank["status"] not in ("failed", "canceled") and "payout_id" in bank["metadata"]:  # else to our own bank
            banked.setdefault(str(bank["metadata"]["payout_id"]), []).append(bank)
    rows = books.rows("select id::text, status, amount_e8, provider, developer_id from payout")
    for payout_id, status, amount_e8, provider, _ in rows:
        transfers, banks = sent.get(payout_id, []), banked.get(payout_id, [])
        if len(transfers) > 1 or len(banks) > 1:
            found.append(f"{payout_id}: {len(transfers)} transfers, {len(banks)} payouts to the bank")
        kept = [t for t in transfers if not t["reversed"]]
        if any(t["amount"] * 1_000_000 != amount_e8 for t in transfers):
            found.append(f"{payout_id}: another amount was transferred")
        if status in ("requested", "approved", "cancelled") and transfers:
            found.append(f"{payout_id}: {status}, and yet it was transferred")
        if status == "failed" and (kept or banks):
            found.append(f"{payout_id}: failed, and yet it left")
        if has_heard_all and status == "paid" and provider == "stripe" and not (kept and banks):
            found.append(f"{payout_id}: paid, and yet it has not left")
    known = {row[0] for row in rows}
    found += [f"{group}: transferred for nobody" for group in sent if group not in known]
    wrong = books.rows(
        """
        select a.developer_id, a.posted_e8, coalesce(sum(p.amount_e8), 0)::bigint from account a
          left join payout p on p.developer_id = a.developer_id and p.status in ('requested', 'approved', 'sent')
         where a.kind = 'payout_clearing' group by a.id having a.posted_e8 <> coalesce(sum(p.amount_e8), 0)
        """
    )
    return found + [f"{developer}: {has} e8 are set apart for payouts of {needs}" for developer, has, needs in wrong]


@asynccontextmanager
async def jobs_pool(dsn: str, role: str = "faucet_jobs") -> AsyncIterator[AsyncConnectionPool[Tx]]:
    """Connections as the jobs have them, or another door."""
    pool = await open_pool(dsn, role, size=4)
    try:
        yield pool
    finally:
        await pool.close()


@contextmanager
def payout_world(dsn: str, books: Books, folder: Path, **settings: str) -> Iterator[PayoutWorld]:
    """A world of payouts while the block runs."""
    with Stripe() as stripe:
        env = {
            "FAUCET_DATA": str(folder / "data"),
            "STRIPE_SECRET_KEY": "sk_test_of_tests",
            "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "STRIPE_API_BASE": stripe.url,
            "OPERATOR_TOKENS": f"alice:{ALICE},bob:{BOB}",
            "PAYOUT_THRESHOLD_USD": "1.00",
        }
        config = load_config(env | settings)
        world = PayoutWorld(config, dsn, books, ManualClock(datetime.now(UTC)), stripe)
        with serve(config, dsn, clock=world.clock) as world.base_url:
            try:
                yield world
            finally:
                world.close()
