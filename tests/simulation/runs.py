"""One economy per seed, each in a database of its own; and the seeds that are kept for ever."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from books import Books

from faucet.kit.db import with_database
from faucet.kit.migrate import migrate
from faucet.reports.reconciliation import begin_snapshot, reconcile
from simulation.border import Border
from simulation.economy import Broken, Economy

TEMPLATE = "simulation_template"
SEEDS = Path(__file__).with_name("seeds.txt")
_copies = itertools.count()


def seeds_kept() -> list[int]:
    """Seeds that once found something, and a few that reach every event."""
    lines = [line.partition("#")[0].strip() for line in SEEDS.read_text(encoding="utf-8").splitlines()]
    return [int(line) for line in lines if line]


def template_of(dsn: str) -> str:
    """Make a migrated database to copy; its name."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f'create database "{TEMPLATE}"'.encode())
    migrate(with_database(dsn, TEMPLATE))
    return TEMPLATE


@contextmanager
def economy_of(dsn: str, template: str, seed: int) -> Iterator[tuple[Economy, Border]]:
    """An economy in a database of its own, and its border. Raises Broken where its end is not as it must be."""
    name = f"{template}_{os.getpid()}_{next(_copies)}"
    with psycopg.connect(dsn, autocommit=True) as server:
        server.execute(f'create database "{name}" template "{template}"'.encode())
        try:
            with psycopg.connect(with_database(dsn, name), autocommit=True) as connection:
                economy = Economy(Books(connection), seed)
                border = Border(economy, with_database(dsn, name))
                try:
                    yield economy, border
                    border.settle_down()
                finally:
                    border.close()
            findings = asyncio.run(_findings(with_database(dsn, name)))
            if findings:
                raise Broken(f"reconcile found {findings}")
        finally:
            server.execute(f'drop database "{name}" with (force)'.encode())


def run_seed(dsn: str, template: str, seed: int, steps: int) -> Counter[str]:
    """Let an economy live for so many events; what happened in it. Raises Broken, which names the event."""
    with economy_of(dsn, template, seed) as (economy, _):
        for step in range(steps):
            try:
                economy.step()
            except (Broken, psycopg.Error) as broken:
                raise Broken(f"at event {step}: {broken}") from broken
    return economy.happened


NO_NEWS = ("stale_hold",)
"""Holds that were told to be overdue."""


async def _findings(dsn: str) -> list[str]:
    """What the product's own report says."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await begin_snapshot(connection)
        return [str(finding) for finding in await reconcile(connection) if finding.check not in NO_NEWS]
