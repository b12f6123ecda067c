"""Deliver what is due of the webhooks' outbox: over the guarded client, several at a time, each try written down.

No tx is open while the network is waited for. Not here: what is due and when again (`webhooks`).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from uuid import UUID

from psycopg_pool import AsyncConnectionPool

from faucet.kit.clock import Clock
from faucet.kit.config import Config
from faucet.kit.db import Tx, tx
from faucet.kit.log import logger
from faucet.kit.upstream import Deadlines, Pool, UpstreamError
from faucet.tenants import audit
from faucet.webhooks import deliveries, outbox
from faucet.webhooks.deliveries import Due, Outcome
from faucet.webhooks.signing import signed_headers
from faucet.webhooks.target import Rules, target_of

FLYING_MAX = 200
"""Tries at the same time."""
SWEEP_SECONDS = 60.0
"""A sweep begins no try after that and leaves the rest to the next one."""
LOOK_SECONDS = 0.2
"""How often it is looked for more, while some try is still going on."""
DEADLINES = Deadlines(connect=5.0, first_byte=10.0, idle=5.0, total=15.0)
"""Well below `deliveries.CLAIM_SECONDS`."""
_HEADERS = "content-type: application/json\r\nuser-agent: ModelFaucet-Webhooks/1\r\n"


@dataclass(frozen=True, slots=True)
class Delivered:
    """How many tries a sweep made, and how many of them were accepted."""

    tries: int = 0
    accepted: int = 0


def new_pool() -> Pool:
    """Connections to developers' servers, which are given back soon."""
    return Pool(max_connections_per_endpoint=deliveries.PER_ENDPOINT, keepalive_seconds=5, max_header_bytes=16_384)


class Courier:
    """Delivers for one process. `upstream` is what endpoints are reached through."""

    def __init__(self, config: Config, db: AsyncConnectionPool[Tx], clock: Clock, upstream: Pool) -> None:
        self._db = db
        self._clock = clock
        self._upstream = upstream
        self._key = config.webhook_key
        self._rules = Rules.of(config)
        self._is_out = False

    async def deliver_due(self) -> Delivered:
        """Make the tries that are due; nothing where this process is at it already."""
        if self._is_out:
            return Delivered()  # or a few slow endpoints would take up every place of the queue
        self._is_out = True
        flying: dict[asyncio.Task[bool], UUID] = {}
        try:
            return await self._sweep(flying)
        finally:
            # All to their ends, also where the database went away in the middle.
            await asyncio.gather(*flying, return_exceptions=True)
            self._is_out = False

    async def _sweep(self, flying: dict[asyncio.Task[bool], UUID]) -> Delivered:
        """Keep up to FLYING_MAX tries going; what is done makes room, whatever the slowest takes."""
        done = Delivered()
        ends_at = time.monotonic() + SWEEP_SECONDS
        while True:
            found: list[Due] = []
            if len(flying) < FLYING_MAX and time.monotonic() < ends_at:
                async with tx(self._db) as t:
                    found = await deliveries.claim(
                        t,
                        batch=FLYING_MAX - len(flying),
                        now=self._clock.now(),
                        sealing_key=self._key,
                        busy=set(flying.values()),
                    )
            flying |= {asyncio.create_task(self._deliver(due)): due.endpoint_id for due in found}
            if not flying:
                return done
            ended, _ = await asyncio.wait(flying, timeout=LOOK_SECONDS)
            for task in ended:
                del flying[task]
                done = Delivered(done.tries + 1, done.accepted + task.result())

    async def _deliver(self, due: Due) -> bool:
        outcome = await self._send(due)
        async with tx(self._db) as t:
            reason = await deliveries.mark(t, due, outcome)
            if reason is not None:
                await audit.record(
                    t,
                    actor_scope="jobs",
                    actor_id=None,
                    action="webhook_endpoint.disabled",
                    resource_type="webhook_endpoint",
                    resource_id=str(due.endpoint_id),
                    request_id=None,
                    after={"reason": reason, "status_code": outcome.status_code, "failure": outcome.failure},
                    developer_id=due.event.developer_id,
                )
                logger.warning("webhook_endpoint.disabled", endpoint=str(due.endpoint_id), reason=reason)
        return outcome.is_accepted

    async def _send(self, due: Due) -> Outcome:
        """Post an event to its endpoint once. Of the answer only the status counts; its body isn't kept."""
        if not due.secrets:
            return Outcome(None, "secret_not_opened", 0)
        try:
            # Judged anew at each try: the settings may have become stricter, and names resolve to other addresses.
            target = target_of(due.url, self._rules)
        except ValueError:
            return Outcome(None, "refused_address", 0)
        body = outbox.body_of(due.event)
        signed = signed_headers(due.secrets, str(due.event.id), int(self._clock.now().timestamp()), body)
        headers = _HEADERS + "".join(f"{name}: {value}\r\n" for name, value in signed.items())
        began = time.monotonic()
        try:
            response = await self._upstream.request(
                target.endpoint, b"POST", target.path, headers.encode("ascii"), body, DEADLINES
            )
            status = response.status
            response.cancel()
        except UpstreamError as error:
            return Outcome(None, error.kind, _ms_since(began))
        return Outcome(status, None, _ms_since(began))


def _ms_since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
