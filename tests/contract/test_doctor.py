"""The doctor at a database: away, empty, old, without prices, without jobs, and well."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from conftest import RunningApi
from typer.testing import CliRunner

from faucet.cli.main import app
from faucet.kit.db import with_database

Examine = Callable[[str], tuple[int, dict[str, dict[str, Any]]]]


@pytest.fixture
def examine(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> Examine:
    """The doctor's exit code and findings about a database, beside an API that runs."""
    data = api.config.faucet_data
    (data / "stack.json").write_text(json.dumps({"api": api.base_url}))
    monkeypatch.setenv("FAUCET_DATA", str(data))
    monkeypatch.setenv("PORT_GATEWAY", "1")

    def run(dsn: str) -> tuple[int, dict[str, dict[str, Any]]]:
        shown = CliRunner().invoke(app, ["doctor", "--json", "--database-url", dsn])
        assert shown.exception is None or isinstance(shown.exception, SystemExit), shown.exception
        report = json.loads(shown.stdout)
        # Other stacks may run on this machine: what their ports say is not ours to judge here.
        return shown.exit_code, {
            c["name"]: c for c in report["checks"] if c["name"] not in ("ports", "mock", "gateway")
        }

    return run


def test_a_database_that_is_away_or_refuses(examine: Examine, dsn: str) -> None:
    """Lost: an operator reads a driver's error, or a password."""
    code, found = examine("postgresql://me:hidden-word@127.0.0.1:1/x")
    assert code == 1
    assert found["database"]["status"] == "error"
    assert "me@127.0.0.1:1/x can't be reached" in found["database"]["found"]
    assert "start PostgreSQL" in found["database"]["remedy"]
    assert "hidden-word" not in json.dumps(found)
    code, found = examine(with_database(dsn, "no_such_database"))
    assert (code, found["database"]["remedy"]) == (1, "make that database or role, or correct DATABASE_URL")
    code, found = examine("mysql://there")
    assert (code, found["database"]["remedy"]) == (1, "correct DATABASE_URL")


def test_migrations_that_are_missing(examine: Examine, db: psycopg.Connection[Any], dsn: str) -> None:
    """Lost: new servers on an old schema, and a fault in the middle of a request as the first sign of it."""
    db.execute("update alembic_version set version_num = '0003_pre_ledger'")
    code, found = examine(dsn)
    assert code == 1
    assert "it is at 0003_pre_ledger" in found["schema"]["found"]
    assert found["schema"]["remedy"] == "run `faucet migrate`"
    db.execute("drop table alembic_version")
    code, found = examine(dsn)
    assert (code, found["schema"]["found"]) == (1, "nothing was migrated yet")


def test_a_database_that_is_well_and_one_that_nobody_works_for(
    examine: Examine, db: psycopg.Connection[Any], dsn: str
) -> None:
    """Lost: holds that nobody lets go of bind money, unseen; or a set-up that works is called broken."""
    db.execute("delete from vault_key")
    code, found = examine(dsn)
    assert code == 0, found
    assert {name: check["status"] for name, check in found.items() if check["status"] != "ok"} == {
        "prices": "warning",
        "vault": "warning",
    } | ({"disk": "warning"} if found["disk"]["status"] == "warning" else {})
    assert found["api"]["found"].endswith("is ready")

    db.execute(
        "insert into hold (id, wallet_id, developer_id, app_id, end_user_id, session_id, amount_e8, lease_expires_at)"
        " values (%s, 1, %s, %s, %s, %s, 5, now() - interval '10 minutes')",
        [uuid4() for _ in range(5)],
    )
    code, found = examine(dsn)
    assert code == 1
    assert found["jobs"]["found"] == "1 hold ran out and still bind money"
    assert "faucet jobs" in found["jobs"]["remedy"]
