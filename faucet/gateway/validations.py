"""Trying stored secrets for who asked the control API to, which can't open them itself.

Woken by the database; nothing of a request passes here. What is asked while no gateway runs is not answered later:
who asked has long been told so.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from faucet.kit.clock import Clock
from faucet.kit.config import Config
from faucet.kit.db import Tx, tx
from faucet.kit.log import logger
from faucet.providers.keyed import endpoint_of, entry_of
from faucet.providers.probe import Prober, Verdict
from faucet.vault.reveal import rows
from faucet.vault.reveal.kek import KekFailed, keks_of
from faucet.vault.reveal.ring import Ring, Sealed, Unopenable
from faucet.vault.store import VALIDATION_ASKED as ASKED

__all__ = ["ASKED", "Validations"]

ASKED_WITHIN = timedelta(seconds=30)
ROUND_MAX = 100


class Validations:
    """The part of a gateway that answers what the control API asks."""

    def __init__(self, config: Config, clock: Clock, prober: Prober | None = None) -> None:
        self._config = config
        self._clock = clock
        self._prober = prober
        self._ring: Ring | None = None
        self._woken = asyncio.Event()

    def wake(self, *_: object) -> None:
        """There is something to try."""
        self._woken.set()

    async def run(self, db: AsyncConnectionPool[Tx]) -> None:
        """Try what is asked for, until cancelled."""
        self._prober = self._prober or Prober()
        try:
            while True:
                await self._woken.wait()
                self._woken.clear()
                try:
                    await self._round(db)
                except (psycopg.Error, PoolTimeout, OSError) as error:
                    logger.warning("validations.not_answered", error=type(error).__name__)
        finally:
            await self._prober.close()

    async def _round(self, db: AsyncConnectionPool[Tx]) -> None:
        for _ in range(ROUND_MAX):
            now = self._clock.now()
            async with tx(db) as t:
                row = await rows.claim_validation(t, since=now - ASKED_WITHIN)
                if row is None:
                    return
                verdict = await self._try(row)
                await rows.answer_validation(t, row.place.row_id, verdict.value, now=now)

    async def _try(self, row: Sealed) -> Verdict:
        assert self._prober is not None
        config = self._config
        try:
            provider = entry_of(row.place.provider)
            endpoint = endpoint_of(config, row.place.provider, row.place.base_url)
        except KeyError:
            return Verdict.UNKNOWN
        except ValueError:
            return Verdict.UNSAFE
        try:
            if self._ring is None:
                self._ring = Ring(keks_of(config))
            secret = await self._ring.reveal(row)
        except (Unopenable, KekFailed) as error:
            logger.error("validations.unopenable", credential=str(row.place.row_id), error=str(error))
            return Verdict.UNKNOWN
        return await self._prober.ask(provider, endpoint, secret)
