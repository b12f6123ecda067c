"""What the control plane's process is made of, wired once at start and handed to routes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from psycopg_pool import AsyncConnectionPool

from faucet.kit.clock import Clock
from faucet.kit.config import Config
from faucet.kit.db import Tx
from faucet.kit.errors import Refusal
from faucet.kit.metrics import Metrics
from faucet.limits.bucket import Bucket
from faucet.payments.appliers import TOP_UPS
from faucet.payments.connect import PayoutProcessor
from faucet.payments.inbox import Applier
from faucet.payments.payout_events import LEFT_TO_JOBS
from faucet.payments.processor import TopUpProcessor
from faucet.providers.probe import Prober

ROLE = "faucet_api"
GUESSES_MAX, GUESSES_SECONDS = 10, 600
"""Promo codes that one end user may try, in this process."""
WRONG_GUESSES_MAX, WRONG_GUESSES_SECONDS = 200, 600
"""Wrong codes that all end users of an app may try: an app that signs nothing can have any number of end users."""


@dataclass(slots=True)
class World:
    """One API process."""

    config: Config
    db: AsyncConnectionPool[Tx]
    clock: Clock
    metrics: Metrics
    prober: Prober
    connect: PayoutProcessor | None = None
    """Where developers' accounts are, if Stripe is set up."""
    top_ups: TopUpProcessor | None = None
    """Where people pay, if Stripe is set up."""
    appliers: Mapping[str, Applier] = field(default_factory=lambda: {**TOP_UPS, **LEFT_TO_JOBS})
    """Who acts on which of Stripe's events."""
    bearers: Bucket | None = None
    """The rate of each developer's token and of each session, whatever addresses they come from."""
    session_bucket: Bucket | None = None
    """How fast each app may mint sessions, in this process."""
    exports: list[UUID | None] = field(default_factory=list)
    """Whose exports are running in this process; None is an operator's."""
    guesses: Bucket = field(default_factory=lambda: Bucket(GUESSES_MAX, GUESSES_SECONDS))
    wrong_guesses: Bucket = field(default_factory=lambda: Bucket(WRONG_GUESSES_MAX, WRONG_GUESSES_SECONDS))

    def count(self, bearer_id: UUID) -> None:
        """Count a request against its bearer's rate. Raises Refusal `rate_limited`."""
        if self.bearers is None:
            return
        verdict = self.bearers.take(bearer_id.bytes, time.monotonic())
        if not verdict.allowed:
            raise Refusal(
                "rate_limited",
                "too many requests with this bearer; slow down",
                retry_after_seconds=max(1, math.ceil(verdict.retry_after_seconds)),
            )


def world_of(request: Request) -> World:
    """The world of the process that serves this request."""
    world: World = request.app.state.world
    return world


def request_id_of(request: Request) -> str:
    """The id of this request, as every response, log line and event has it."""
    rid: str = request.state.request_id
    return rid


TheWorld = Annotated[World, Depends(world_of)]
TheRequestId = Annotated[str, Depends(request_id_of)]
