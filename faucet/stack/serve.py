"""One process by itself: its settings, its database, its logs, and then the process's own `run`.

Without DATABASE_URL it uses the data dir's own database, so that a single process can be tried without a stack.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

from faucet.kit.config import Config, load_config
from faucet.kit.log import configure, logger
from faucet.stack.database import database
from faucet.stack.ports import keep_port

Ready = Callable[[], None]


def run_process(name: str, *, on_ready: Ready) -> None:
    """Run `gateway`, `api` or `jobs` until it is told to stop.

    Raises ConfigRefused, PortRefused, and what the database's side raises.
    """
    config = load_config()
    configure(name, config.log_level)
    if name == "api":
        keep_port(config.bind_address, config.port_api, what="the API", option="PORT_API").give_back()
    with database(config, lambda text: logger.info("database.starting", what=text)) as dsn:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_coroutine_of(name, config, dsn, on_ready))


def _coroutine_of(name: str, config: Config, dsn: str, on_ready: Ready) -> Coroutine[Any, Any, None]:
    if name == "gateway":
        from faucet.gateway.main import run as run_gateway

        return run_gateway(config, dsn, on_ready=on_ready)
    if name == "api":
        from faucet.api.app import run as run_api

        return run_api(config, dsn, on_ready=on_ready)
    from faucet.jobs.app import run as run_jobs

    return run_jobs(config, dsn, on_ready=on_ready)


def run_mock_provider(
    host: str, port: int, *, api_key: str | None, delay_ms: int, chunk_delay_ms: int, on_ready: Ready
) -> None:
    """Run the mock provider until it is told to stop. Raises PortRefused."""
    from faucet.providers.fake_server import MockProvider

    if port:
        keep_port(host, port, what="the mock provider", option="--port").give_back()

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        mock = MockProvider(host, port, api_key=api_key, delay_ms=delay_ms, chunk_delay_ms=chunk_delay_ms)
        async with mock:
            gc.collect()
            gc.freeze()
            print(f'{{"url": "{mock.url}"}}', flush=True)
            on_ready()
            await stop.wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def run_mock_stripe(
    host: str,
    port: int,
    *,
    webhook_url: str | None,
    webhook_secret: str | None,
    state: Path | None,
    on_ready: Ready,
) -> None:
    """Run the Stripe double until it is told to stop. Raises PortRefused."""
    from faucet.payments.double.server import StripeDouble
    from faucet.payments.double.webhooks import Endpoint

    if port:
        keep_port(host, port, what="the Stripe double", option="--port").give_back()
    webhook = Endpoint(webhook_url, webhook_secret) if webhook_url and webhook_secret else None

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with StripeDouble(host, port, webhook=webhook, kept_in=state) as double:
            print(f'{{"url": "{double.url}"}}', flush=True)
            on_ready()
            await stop.wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
