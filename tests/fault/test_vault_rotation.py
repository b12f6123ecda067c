"""The vault's keys change while everything runs, is cut off, or has been tampered with."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from books import Books, Tenant
from typer.testing import CliRunner, Result

from faucet.cli.main import app
from faucet.kit.clock import Clock
from faucet.kit.config import Config, load_config
from faucet.kit.db import Tx, open_pool, tx
from faucet.kit.ids import uuid7
from faucet.kit.secret import Secret
from faucet.stack.keys import ensure_vault_key, owner_tx, rotate_vault
from faucet.tenants.tenancy import see_all
from faucet.vault import store
from faucet.vault.reveal import rows
from faucet.vault.reveal.kek import KekFailed, keks_of
from faucet.vault.reveal.ring import Ring, Unopenable
from faucet.vault.seal import Place, mask, seal

pytestmark = pytest.mark.anyio

TERMS = store.Terms(models_allowed=(), priority=100, weight=1, budget_limit_e8=None, fallback_to_platform=False)


@pytest.fixture
def tenant(books: Books) -> Tenant:
    """A developer with an app and an end user."""
    return books.tenant(0)


def secret_of(row_id: UUID) -> str:
    """The secret that a test keeps in this row."""
    return f"sk-test-{row_id}"


async def add(t: Tx, tenant: Tenant) -> UUID:
    """Add a credential as the API does."""
    place = Place(
        row_id=uuid7(),
        owner="developer",
        developer_id=tenant.developer,
        app_id=tenant.app,
        end_user_id=None,
        provider="openai",
        base_url=None,
    )
    secret = Secret(secret_of(place.row_id))
    key = await store.newest_key(t)
    sealing = store.Sealing(key_id=key.id, sealed=seal(secret, key, place), mask=mask(secret))
    await store.insert(t, place, TERMS, sealing, now=Clock().now(), validated=False)
    return place.row_id


@asynccontextmanager
async def as_api(dsn: str) -> AsyncIterator[Tx]:
    """One tx as the API."""
    pool = await open_pool(dsn, "faucet_api", size=1)
    try:
        async with tx(pool) as t:
            await see_all(t)
            yield t
    finally:
        await pool.close()


async def filled(dsn: str, config: Config, tenant: Tenant, count: int) -> list[UUID]:
    """A vault with its first key and some credentials."""
    await ensure_vault_key(dsn, config)
    async with as_api(dsn) as t:
        return [await add(t, tenant) for _ in range(count)]


async def opened(dsn: str, config: Config, row_id: UUID) -> str:
    """What a new gateway finds in a row."""
    async with owner_tx(dsn) as t:
        row = await rows.find_sealed(t, row_id)
    assert row is not None
    return (await Ring(keks_of(config)).reveal(row)).reveal()


async def all_open(dsn: str, config: Config, known: list[UUID]) -> None:
    """Every row has its own secret, for a new gateway."""
    ring = Ring(keks_of(config))
    async with owner_tx(dsn) as t:
        for row_id in known:
            row = await rows.find_sealed(t, row_id)
            assert row is not None
            assert (await ring.reveal(row)).reveal() == secret_of(row_id)


def quiet(done: int, total: int) -> None:
    """Progress that nobody reads."""


async def test_requests_read_on_while_keys_change(dsn: str, config: Config, tenant: Tenant, books: Books) -> None:
    """Lost: a rotation makes requests fail, or loses what was written during it."""
    known = await filled(dsn, config, tenant, 60)
    gateway = await open_pool(dsn, "faucet_gateway", size=4)
    api = await open_pool(dsn, "faucet_api", size=2)
    ring = Ring(keks_of(config))
    ended = asyncio.Event()
    read = 0

    async def reader(seed: int) -> None:
        nonlocal read
        choose = random.Random(seed)
        while not ended.is_set():
            row_id = choose.choice(known)
            async with tx(gateway) as t:
                row = await rows.find_sealed(t, row_id)
            assert row is not None
            assert (await ring.reveal(row)).reveal() == secret_of(row_id)
            read += 1

    async def writer() -> None:
        while not ended.is_set() and len(known) < store.PER_OWNER_MAX:
            async with tx(api) as t:
                await see_all(t)
                row_id = await add(t, tenant)
            known.append(row_id)
            await asyncio.sleep(0.02)

    tasks = [asyncio.create_task(reader(seed)) for seed in range(3)] + [asyncio.create_task(writer())]
    try:
        reports = [await rotate_vault(dsn, config, new_key=True, batch=7, say=quiet) for _ in range(4)]
    finally:
        ended.set()
        failures = [each for each in await asyncio.gather(*tasks, return_exceptions=True) if each is not None]
        await gateway.close()
        await api.close()
    assert failures == [] and read > 60 and len(known) > 60
    assert all(report.unopenable == () and report.resealed >= 60 for report in reports)
    last = await rotate_vault(dsn, config, new_key=False, batch=7, say=quiet)
    assert books.rows("select id from vault_key") == [(last.key_id,)]
    await all_open(dsn, config, known)


async def test_a_rotation_that_was_cut_off_goes_on(dsn: str, config: Config, tenant: Tenant, books: Books) -> None:
    """Lost: a rotation that dies half-way leaves keys in two halves, or has to start over."""
    known = await filled(dsn, config, tenant, 25)

    class Killed(BaseException):
        """The process is gone."""

    told: list[tuple[int, int]] = []

    def dying(done: int, total: int) -> None:
        told.append((done, total))
        if len(told) == 2:
            raise Killed

    with pytest.raises(Killed):
        await rotate_vault(dsn, config, new_key=True, batch=10, say=dying)
    assert told == [(10, 25), (20, 25)]
    assert books.one("select count(*) from vault_key") == 2
    await all_open(dsn, config, known)
    report = await rotate_vault(dsn, config, new_key=False, batch=10, say=lambda *at: told.append(at))
    assert (report.resealed, report.forgotten) == (5, 1) and told[-1] == (25, 25)
    assert books.one("select count(*) from vault_key") == 1


async def test_two_rotations_at_once_end_at_one_key(dsn: str, config: Config, tenant: Tenant, books: Books) -> None:
    """Lost: two operators, or a job that runs twice, undo each other's work."""
    known = await filled(dsn, config, tenant, 40)
    await asyncio.gather(*(rotate_vault(dsn, config, new_key=True, batch=3, say=quiet) for _ in range(3)))
    await rotate_vault(dsn, config, new_key=False, batch=3, say=quiet)
    assert books.one("select count(*) from vault_key") == 1
    await all_open(dsn, config, known)


async def test_a_stale_key_is_refused(dsn: str, config: Config, tenant: Tenant, books: Books) -> None:
    """Lost: what was sealed to a key that is gone, put back from an old copy, opens all the same."""
    (row_id,) = await filled(dsn, config, tenant, 1)
    stale_key, stale = books.row("select key_id, sealed from credential")
    (wrapped,) = books.row("select wrapped from vault_key")
    await rotate_vault(dsn, config, new_key=True, batch=10, say=quiet)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        books.rows("update credential set sealed = %s, key_id = %s", stale, stale_key)
    fresh = books.one("select sealed from credential")
    books.rows("update credential set sealed = %s", stale)
    with pytest.raises(Unopenable):
        await opened(dsn, config, row_id)
    books.rows("update credential set sealed = %s", fresh)
    books.rows("update vault_key set wrapped = %s", wrapped)
    with pytest.raises(KekFailed):
        await opened(dsn, config, row_id)


async def test_a_key_that_somebody_seals_to_is_not_forgotten(
    dsn: str, config: Config, tenant: Tenant, books: Books
) -> None:
    """Lost: a key that a user adds at the moment of a rotation can never be opened."""
    await filled(dsn, config, tenant, 3)
    async with as_api(dsn) as t:
        late = await add(t, tenant)  # sealed to the old key, committed only after the rotation began
        rotation = asyncio.create_task(rotate_vault(dsn, config, new_key=True, batch=10, say=quiet))
        while not books.one("select count(*) from pg_stat_activity where wait_event_type = 'Lock'"):
            assert not rotation.done(), "the rotation did not wait for who was sealing"
            await asyncio.sleep(0.01)
    report = await rotation
    assert report.resealed == 4 and report.forgotten == 1
    assert await opened(dsn, config, late) == secret_of(late)


async def test_what_does_not_open_is_named_and_kept(dsn: str, config: Config, tenant: Tenant, books: Books) -> None:
    """Lost: one broken row stops a rotation for ever, or is lost with the key that could have opened it."""
    known = await filled(dsn, config, tenant, 5)
    books.rows("update credential set provider = 'groq' where id = %s", known[2])
    report = await rotate_vault(dsn, config, new_key=True, batch=2, say=quiet)
    assert report.unopenable == (known[2],) and report.resealed == 4 and report.forgotten == 0
    books.rows("update credential set provider = 'openai' where id = %s", known[2])
    assert await opened(dsn, config, known[2]) == secret_of(known[2])
    report = await rotate_vault(dsn, config, new_key=False, batch=2, say=quiet)
    assert report.unopenable == () and report.forgotten == 1


async def test_the_key_that_wraps_can_change(dsn: str, tmp_path: Path, tenant: Tenant, books: Books) -> None:
    """Lost: a wrapping key that leaked has to be used for ever."""
    env = {"FAUCET_DATA": str(tmp_path / "data")}
    derived, own = load_config(env), load_config(env | {"KEK_LOCAL_KEY": "m2-Qw" * 8})
    newer = load_config(env | {"KEK_LOCAL_KEY": "n3-Er" * 8, "KEK_LOCAL_KEY_PREVIOUS": "m2-Qw" * 8})
    alone = load_config(env | {"KEK_LOCAL_KEY": "n3-Er" * 8})
    (row_id,) = await filled(dsn, derived, tenant, 1)
    names = {books.one("select kek from vault_key")}
    for config in (own, newer):
        report = await rotate_vault(dsn, config, new_key=False, batch=10, say=quiet)
        assert (report.rewrapped, report.resealed, report.forgotten) == (1, 0, 0)
        names.add(books.one("select kek from vault_key"))
        assert await opened(dsn, config, row_id) == secret_of(row_id)
    assert len(names) == 3
    assert await opened(dsn, alone, row_id) == secret_of(row_id)
    with pytest.raises(KekFailed, match="don't have any more"):
        await opened(dsn, own, row_id)


@pytest.fixture
def faucet(dsn: str, config: Config) -> Callable[..., Result]:
    """The command line on this test's database."""

    def run(*arguments: str) -> Result:
        env = {"DATABASE_URL": dsn, "FAUCET_DATA": str(config.faucet_data)}
        return CliRunner().invoke(app, list(arguments), env=env)

    return run


def test_the_command_reseals(
    faucet: Callable[..., Result], dsn: str, config: Config, tenant: Tenant, books: Books
) -> None:
    """Lost: an operator has no way to change keys, or isn't told what came of it."""
    assert faucet("migrate").exit_code == 0
    first = books.one("select id from vault_key")
    assert faucet("migrate").exit_code == 0 and books.one("select id from vault_key") == first
    known = asyncio.run(filled(dsn, config, tenant, 3))
    shown = faucet("reseal", "--json", "--batch", "2")
    assert shown.exit_code == 0, shown.output
    report: dict[str, Any] = json.loads(shown.stdout)
    assert report == {
        "key_id": str(books.one("select id from vault_key")),
        "resealed": 3,
        "rewrapped": 0,
        "forgotten": 1,
        "unopenable": [],
    }
    assert report["key_id"] != str(first)
    books.rows("update credential set provider = 'groq' where id = %s", known[0])
    broken = faucet("reseal")
    assert broken.exit_code == 1 and str(known[0]) in broken.stderr
    assert "2 sealed anew" in broken.stdout
