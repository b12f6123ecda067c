"""The operator's commands and the demo's prices, against a real database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner, Result

from faucet.cli.main import app
from faucet.kit.config import Config, load_config
from faucet.kit.errors import FaucetError
from faucet.providers.fake_server import MockProvider
from faucet.stack.database import DatabaseOutOfReach, office
from faucet.stack.receipt import receipt_of
from faucet.stack.seed import RealProvider, seed_stack

Faucet = Callable[..., Result]


@pytest.fixture
def faucet(dsn: str, tmp_path: Path) -> Faucet:
    """The command line on this test's database."""

    def run(*arguments: str) -> Result:
        env = {"DATABASE_URL": dsn, "FAUCET_DATA": str(tmp_path / "data")}
        return CliRunner().invoke(app, list(arguments), env=env)

    return run


def seed(dsn: str, config: Config) -> tuple[RealProvider | None, list[str]]:
    """Seed a stack's data, and what was announced."""
    notes: list[str] = []
    return asyncio.run(seed_stack(dsn, config, notes.append)), notes


def settings(folder: Path, **env: str) -> Config:
    return load_config({"FAUCET_DATA": str(folder / "data"), **env})


def prices(db: psycopg.Connection[Any], provider: str) -> dict[str, tuple[str, int, str]]:
    """Status, input price and source of every version of a provider's models."""
    rows = db.execute("select model, status, input_e8_per_m, source from price where provider = %s", (provider,))
    return {model: (status, e8, source) for model, status, e8, source in rows}


def test_reconcile_ends_with_1_where_the_books_differ(
    faucet: Faucet, dsn: str, db: psycopg.Connection[Any], tmp_path: Path
) -> None:
    """Lost: a job that runs the command never learns that money is missing."""
    seed(dsn, settings(tmp_path))
    clean = faucet("reconcile", "--json")
    assert (clean.exit_code, json.loads(clean.stdout)["ok"]) == (0, True)
    assert "The books add up" in faucet("reconcile").stdout

    db.execute("update account set posted_e8 = posted_e8 + 1 where kind = 'wallet'")
    broken = faucet("reconcile", "--json")
    assert broken.exit_code == 1
    assert {one["check"] for one in json.loads(broken.stdout)["findings"]} == {"account_balance", "trial_balance"}
    told = faucet("reconcile")
    assert told.exit_code == 1
    assert "account_balance" in told.stdout


def test_seeding_twice_changes_nothing(dsn: str, db: psycopg.Connection[Any], tmp_path: Path) -> None:
    """Lost: every start of the demo gives away ten dollars more, or new prices."""
    config = settings(tmp_path)
    assert seed(dsn, config) == (None, [])
    tables = ("account", "transfer", "price", "app", "feature", "end_user", "developer")

    def rows() -> list[list[Any]]:
        return [db.execute(f"select * from {table} order by 1, 2".encode()).fetchall() for table in tables]

    before = rows()
    assert {status for status, _, _ in prices(db, "mock").values()} == {"confirmed"}
    assert seed(dsn, config) == (None, [])
    assert rows() == before


def test_a_model_that_nobody_priced_gets_an_announced_price(
    dsn: str, db: psycopg.Connection[Any], tmp_path: Path
) -> None:
    """Lost: the operator's own model is refused in the demo, or a made-up price passes for a real one."""
    env = {"OPENAI_API_KEY": "sk-test-0000", "OPENAI_MODELS": "gpt-4.1-mini,my-own-model"}
    real, notes = seed(dsn, settings(tmp_path, **env))
    assert real is not None
    assert (real.name, real.model) == ("openai", "auto")
    found = prices(db, "openai")
    assert found["my-own-model"] == ("confirmed", 15_000_000, "made up for the demo")
    assert found["gpt-4.1-mini"][:2] == ("confirmed", 40_000_000)
    assert len(notes) == 1
    assert "my-own-model (openai)" in notes[0]
    assert "gpt-4.1-mini" not in notes[0]
    assert seed(dsn, settings(tmp_path, **env))[1] == []
    assert prices(db, "openai") == found


def test_a_provider_of_the_catalogue_is_priced_under_our_name(
    dsn: str, db: psycopg.Connection[Any], tmp_path: Path
) -> None:
    """Lost: a key of another provider is set, and nothing of it is for sale."""
    env = {"GEMINI_API_KEY": "key-0123456789", "GEMINI_MODELS": "gemini-2.5-pro"}
    real, notes = seed(dsn, settings(tmp_path, **env))
    assert real is not None and (real.name, real.model, notes) == ("gemini", "auto", [])
    assert real.address == "https://generativelanguage.googleapis.com/v1beta"
    assert prices(db, "gemini")["gemini-2.5-pro"][:2] == ("confirmed", 125_000_000)
    assert prices(db, "google") == {}


async def test_what_a_litellm_proxy_lists_is_priced(dsn: str, tmp_path: Path) -> None:
    """Lost: whoever has a LiteLLM proxy can't see the demo with it."""
    notes: list[str] = []
    async with MockProvider(api_key="key-of-proxy") as proxy:
        env = {"LITELLM_BASE_URL": proxy.url, "LITELLM_MASTER_KEY": "key-of-proxy"}
        real = await seed_stack(dsn, settings(tmp_path, **env), notes.append)
        assert real == RealProvider("litellm", proxy.url, "mock-small")
        assert "and 11 more (litellm)" in notes[0]
        wrong = settings(tmp_path, LITELLM_BASE_URL=proxy.url, LITELLM_MASTER_KEY="another-key")
        assert await seed_stack(dsn, wrong, notes.append) is None
    assert "does not list its models" in notes[1]
    assert "another-key" not in "".join(notes)


async def test_an_office_says_what_is_wrong(server_dsn: str, dsn: str) -> None:
    """Lost: a database that is away, or without a schema, is a traceback."""
    with pytest.raises(DatabaseOutOfReach, match="me@127.0.0.1:1/x can't be reached"):
        async with office("postgresql://me:hidden@127.0.0.1:1/x"):
            raise AssertionError
    async with office(dsn, "faucet_api") as tx:
        cursor = await tx.execute("select current_user::text")
        assert await cursor.fetchone() == ("faucet_api",)
        with pytest.raises(FaucetError, match="nothing was booked"):
            await receipt_of(tx, "req_0199b1de7a4070008000000000000000")
        with pytest.raises(FaucetError, match="nothing was booked"):
            await receipt_of(tx, "the-callers-own-id")
    with pytest.raises(ValueError, match="unknown role"):
        async with office(server_dsn, "postgres"):
            raise AssertionError
