"""Webhooks for tests: an API whose endpoints may be on loopback, a developer, receivers, and the jobs' own courier."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from api_world import ApiWorld, Developer, Json, ok
from books import Books
from conftest import RunningApi
from fakes.receiver import Receiver

from faucet.jobs.webhooks import Courier, Delivered, new_pool
from faucet.kit.clock import Clock
from faucet.kit.config import Config, load_config
from faucet.kit.db import Tx, open_pool
from faucet.kit.upstream import Pool

WEBHOOKS = "/v1/developer/webhooks"
EVENTS = "/v1/developer/webhook-events"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Settings of a development machine that receives webhooks itself."""
    return load_config({"FAUCET_DATA": str(tmp_path / "data"), "WEBHOOK_LOOPBACK": "true"})


@dataclass
class Hooks:
    """A developer with an API, and the jobs' part of it on demand."""

    world: ApiWorld
    books: Books
    developer: Developer
    config: Config
    clock: Clock = field(default_factory=Clock)

    def endpoint(self, url: str, **fields: Any) -> tuple[Json, str]:
        """A new endpoint of the developer's, with its secret."""
        made = ok(self.developer.http.post(WEBHOOKS, json={"url": url} | fields), 201)
        return made["item"], made["secret"]

    def ping(self, endpoint: Json) -> Json:
        """A test event on its way to an endpoint."""
        event: Json = ok(self.developer.http.post(f"{WEBHOOKS}/{endpoint['id']}/ping"), 202)
        return event

    def event(self, event_id: str) -> Json:
        event: Json = ok(self.developer.http.get(f"{EVENTS}/{event_id}"))
        return event

    def events(self, **query: Any) -> list[Json]:
        events: list[Json] = ok(self.developer.http.get(EVENTS, params=query))["items"]
        return events

    def attempts(self, event_id: str) -> list[Json]:
        attempts: list[Json] = ok(self.developer.http.get(f"{EVENTS}/{event_id}/attempts"))["items"]
        return attempts

    def read(self, endpoint: Json) -> Json:
        found: Json = ok(self.developer.http.get(f"{WEBHOOKS}/{endpoint['id']}"))
        return found

    def deliver(self, upstream: Callable[[], Pool] = new_pool, *, config: Config | None = None) -> Delivered:
        """One sweep of the jobs' courier."""

        async def work(courier: Courier) -> Delivered:
            return await courier.deliver_due()

        return self.with_courier(work, upstream, config=config)

    def with_courier(
        self,
        work: Callable[[Courier], Awaitable[Any]],
        upstream: Callable[[], Pool] = new_pool,
        *,
        config: Config | None = None,
    ) -> Any:
        """What `work` makes of a courier in the jobs' role."""

        async def run() -> Any:
            db, pool = await open_pool(self.world.api.dsn, "faucet_jobs", size=4), upstream()
            try:
                return await work(Courier(config or self.config, db, self.clock, pool))
            finally:
                await pool.close()
                await db.close()

        return asyncio.run(run())

    def in_jobs_role(self, work: Callable[[Tx], Awaitable[Any]]) -> Any:
        """What `work` makes of a connection as the jobs' process has it."""

        async def run() -> Any:
            pool = await open_pool(self.world.api.dsn, "faucet_jobs", size=1)
            try:
                async with pool.connection() as connection:
                    return await work(connection)
            finally:
                await pool.close()

        return asyncio.run(run())

    def let_time_pass(self) -> None:
        """Everything that waits for its next try is due."""
        self.books.rows("update webhook_delivery set due_at = now() - interval '1 second' where state = 'pending'")

    def audited(self, action: str) -> list[Any]:
        """What the audit log has of an action."""
        return self.books.rows("select actor_scope, after from audit_log where action = %s", action)


@pytest.fixture
def hooks(api: RunningApi, books: Books, config: Config) -> Iterator[Hooks]:
    """A developer who wants to be told."""
    world = ApiWorld(api)
    yield Hooks(world, books, world.developer(), config)
    world.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """The developer's server."""
    with Receiver() as running:
        yield running
