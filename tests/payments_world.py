"""Payments for tests: the Stripe double as a server, an API that is set up for it, jobs by hand, and events to send."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import jwt
import psycopg
import pytest
from api_world import ApiWorld, Developer, ok
from books import Books, Settlement, Tenant
from conftest import RunningApi, serve

from faucet.jobs import top_ups as top_up_jobs
from faucet.jobs.drain_inbox import drain_inbox
from faucet.kit.clock import Clock
from faucet.kit.config import Config, load_config
from faucet.kit.ids import uuid7
from faucet.payments.appliers import TOP_UPS
from faucet.payments.double.server import StripeDouble
from faucet.payments.stripe_top_ups import top_ups_of
from faucet.stack.keys import ensure_vault_key

Json = dict[str, Any]
SECRET = "whsec_of_the_tests_and_of_nothing_else"
GOOD_CARD, DECLINED_CARD, LATER_DECLINED_CARD = "4242 4242 4242 4242", "4000 0000 0000 0002", "4000 0000 0000 0341"
URLS = {"success_url": "http://localhost:5174/paid", "cancel_url": "http://localhost:5174/left"}


class Double:
    """The double in a thread of its own, with its knobs."""

    def __init__(self) -> None:
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._run()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        self.http = httpx2.Client(base_url=self.double.url, timeout=30)

    async def _run(self) -> None:
        async with StripeDouble() as self.double:
            self._ready.set()
            await self._stop.wait()

    def close(self) -> None:
        self.http.close()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    @property
    def url(self) -> str:
        return self.double.url

    def control(self, knob: str, **ask: Any) -> Any:
        """Turn a knob."""
        return ok(self.http.post(f"/_control/{knob}", json=ask))

    def events(self) -> list[Json]:
        """The event log, oldest first."""
        found: list[Json] = ok(self.http.get("/_control/events"))["events"]
        return found

    def settled(self) -> None:
        """Wait until every event that was sent was answered."""
        assert self.control("idle", seconds=20)["idle"]

    def pay(self, url: str, card: str = GOOD_CARD) -> httpx2.Response:
        """Send the form of a checkout page."""
        form = {"email": "payer@x.example", "number": card, "expiry": "12 / 34", "cvc": "123"}
        return self.http.post(url, data=form)

    def object(self, name: str) -> Json:
        """Any object, as the double has it."""
        found: Json = self.double.state.objects[name]
        return found


def signed(body: bytes, secret: str = SECRET, *, at: int | None = None) -> dict[str, str]:
    """The headers of a webhook."""
    at = int(time.time()) if at is None else at
    mac = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return {"content-type": "application/json", "stripe-signature": f"t={at},v1={mac}"}


def event_of(kind: str, about: Json, *, name: str | None = None) -> Json:
    """An event as Stripe sends it."""
    _events.append(kind)
    return {
        "id": name or f"evt_{len(_events):06d}_{time.time_ns()}",
        "object": "event",
        "type": kind,
        "created": int(time.time()),
        "livemode": False,
        "data": {"object": about},
    }


_events: list[str] = []


@dataclass(frozen=True)
class EndUser:
    """Somebody with a session."""

    http: httpx2.Client
    wallet_id: str

    def balance(self) -> str:
        balance: str = ok(self.http.get("/v1/user/wallet"))["balance_usd"]
        return balance

    def checkout(self, amount: str = "10.00", *, key: str | None = None, **more: Any) -> Json:
        """Begin a top-up."""
        headers = {} if key is None else {"idempotency-key": key}
        ask = {"amount_usd": amount, **URLS} | more
        made: Json = ok(self.http.post("/v1/user/stripe/checkout-sessions", json=ask, headers=headers), 201)
        return made

    def top_ups(self) -> list[Json]:
        """Their top-ups, newest first."""
        items: list[Json] = ok(self.http.get("/v1/user/top-ups"))["items"]
        return items


class PaymentsWorld(ApiWorld):
    """An API with a double, and the jobs that would run beside it."""

    def __init__(self, api: RunningApi, double: Double) -> None:
        super().__init__(api)
        self.double = double
        self.books_connection = psycopg.connect(api.dsn, autocommit=True)
        self.books = Books(self.books_connection)
        double.control("webhook", url=f"{api.base_url}/v1/stripe/webhook", secret=SECRET)

    def close(self) -> None:
        super().close()
        self.books_connection.close()

    def end_user(self, app: Json | None = None, name: str = "u") -> EndUser:
        """An end user of an app, else of a new one."""
        app = self.developer().app() if app is None else app
        ask = {"public_app_id": app["public_app_id"], "external_user_id": name}
        http = self.client(ok(self.nobody.post("/v1/sessions", json=ask))["session_token"])
        return EndUser(http, ok(http.get("/v1/user/wallet"))["id"])

    def vouched_session(self, developer: Developer, app: Json, name: str) -> EndUser:
        """A session of an app in signed mode, whose backend vouches for its user."""
        path = f"/v1/developer/apps/{app['public_app_id']}/signing-keys"
        key = ok(developer.http.post(path, json={"name": "K", "kind": "HS256"}), 201)
        now = int(time.time())
        claims = {"sub": name, "aud": app["public_app_id"], "iat": now, "exp": now + 60, "jti": str(uuid7())}
        token = jwt.encode(claims, key["secret"], algorithm="HS256", headers={"kid": key["item"]["key_id"]})
        ask = {"public_app_id": app["public_app_id"], "external_user_id": name, "user_token": token}
        http = self.client(ok(self.nobody.post("/v1/sessions", json=ask))["session_token"])
        return EndUser(http, ok(http.get("/v1/user/wallet"))["id"])

    def send(self, event: Json, *, secret: str = SECRET, at: int | None = None) -> httpx2.Response:
        """Send an event as Stripe would."""
        body = json.dumps(event).encode()
        return self.nobody.post("/v1/stripe/webhook", content=body, headers=signed(body, secret, at=at))

    def paid(self, who: EndUser, amount: str = "10.00", **more: Any) -> Json:
        """A top-up that was paid and credited."""
        made = who.checkout(amount, **more)
        assert self.double.pay(made["checkout_url"]).status_code == 303
        self.double.settled()
        top_up = who.top_ups()[0]
        assert top_up["status"] == "credited", top_up
        return top_up

    def intent_of(self, top_up: Json) -> str:
        """The payment of a top-up, as Stripe calls it."""
        intent: str = ok(self.operator.get(f"/v1/admin/top-ups/{top_up['id']}"))["payment_intent_id"]
        return intent

    def jobs(self, *sweeps: str, clock: Clock | None = None) -> None:
        """Let the jobs' process do these, once; else all that it does about payments."""
        asyncio.run(_run_jobs(self.api.dsn, self.api.config, sweeps, clock or Clock()))

    def spend(self, who: EndUser, amount_e8: int) -> None:
        """As if an answer had cost this."""
        wallet, developer, owner = self.books.row(
            "select id, developer_id, owner_id from account where public_id = %s", who.wallet_id
        ) or (0, None, None)
        app = self.books.one("select app_id from end_user where id = %s", owner)
        accounts = [
            self.books.open_account(kind, developer, label=label)
            for kind, label in (("earnings", ""), ("platform_revenue", ""), ("provider_cost", "mock"))
        ]
        tenant = Tenant(developer, app, uuid7(), owner, uuid7(), wallet, *accounts)
        hold = self.books.held(tenant, amount_e8)
        assert self.books.settle(Settlement(tenant, hold, cost=amount_e8)) == [0]

    def account(self, kind: str) -> int:
        """The balance of one of the platform's accounts, in e8."""
        found: int = self.books.one("select posted_e8 from account where kind = %s::account_kind", kind)
        return found

    def trail(self, action: str) -> list[Json]:
        """The audit log's rows of an action, newest first."""
        items: list[Json] = ok(self.operator.get("/v1/admin/audit", params={"action": action}))["items"]
        return items


async def _run_jobs(dsn: str, config: Config, sweeps: Sequence[str], clock: Clock) -> None:
    processor = top_ups_of(config)
    assert processor is not None
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("set role faucet_jobs")
        for name in sweeps or ("drain_inbox", "charge_automatically", "learn_payments", "send_refunds"):
            if name == "drain_inbox":
                await drain_inbox(connection, TOP_UPS, clock)
            else:
                await getattr(top_up_jobs, name)(connection, processor, clock)


def payments_config(data: Path, stripe: str, **settings: str) -> Config:
    """Settings of a machine that is set up for the double."""
    return load_config(
        {
            "FAUCET_DATA": str(data),
            "STRIPE_SECRET_KEY": "sk_test_of_the_tests",
            "STRIPE_WEBHOOK_SECRET": SECRET,
            "STRIPE_API_BASE": stripe,
        }
        | settings
    )


@contextmanager
def open_payments(data: Path, dsn: str, double: Double, **settings: str) -> Iterator[PaymentsWorld]:
    """A world over this database with these further settings."""
    config = payments_config(data, double.url, **settings)
    asyncio.run(ensure_vault_key(dsn, config))
    with serve(config, dsn) as base_url:
        world = PaymentsWorld(RunningApi(base_url, config, dsn), double)
        try:
            yield world
        finally:
            world.close()


@pytest.fixture
def double() -> Iterator[Double]:
    double = Double()
    yield double
    double.close()


@pytest.fixture
def payments(tmp_path: Path, dsn: str, double: Double) -> Iterator[PaymentsWorld]:
    with open_payments(tmp_path / "data", dsn, double) as world:
        yield world
