"""The gateway's process: build the world, serve, drain, let go."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import uvloop

from faucet.gateway.app import Gateway
from faucet.gateway.server import listen, serve
from faucet.gateway.world import World
from faucet.kit.config import Config
from faucet.kit.log import logger
from faucet.providers.platform import platform_providers


async def run(config: Config, dsn: str, *, on_ready: Callable[[], None] = lambda: None) -> None:
    """Serve until told to stop. Raises LedgerUnavailable where the database can't be reached at start."""
    world = World(config, dsn, platform_providers(config))
    await world.open()
    try:
        listener = listen(config.bind_address, config.port_gateway)
        # What start-up made stays for good: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)

        def drain() -> None:
            world.draining = True
            logger.info("gateway.draining", open_holds=len(world.settler.open))

        logger.info("gateway.ready", port=config.port_gateway, models=len(world.catalogue.offers))
        on_ready()
        await serve(Gateway(world), listener, drain_seconds=config.drain_seconds, on_drain=drain)
    finally:
        await world.close()


def main(config: Config, dsn: str) -> None:
    """Run the gateway on uvloop until SIGTERM or SIGINT."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(config, dsn))
