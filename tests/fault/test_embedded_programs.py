"""Which PostgreSQL the embedded database runs, and with which settings."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import asyncpg
import psycopg
import pytest

from faucet.kit.embedded_postgres import DatabaseUnavailable, EmbeddedPostgres


def test_another_postgresql_can_be_used() -> None:
    """`bin_dir` decides whose programs run, and `settings` go over ours; a wrong one is named."""
    folder = Path(tempfile.mkdtemp(prefix="fpg-"))
    folder.chmod(0o755)  # for the account that PostgreSQL runs as if this is root
    programs = Path(asyncpg.__file__).parents[1] / "embedded_postgres" / "pginstall" / "bin"
    own = {"fsync": "off", "work_mem": "9MB"}
    with EmbeddedPostgres(folder / "data", bin_dir=programs, settings=own) as running:
        with psycopg.connect(running.dsn) as connection:
            shown = connection.execute("select name, setting from pg_settings where name = any(%s)", [list(own)])
            assert dict(shown.fetchall()) == {"fsync": "off", "work_mem": "9216"}
    with pytest.raises(DatabaseUnavailable, match="does not run here"):
        EmbeddedPostgres.start(folder / "data", bin_dir=folder)
    with pytest.raises(DatabaseUnavailable, match=r"(?s)refuses one of its settings.*no_such_thing"):
        EmbeddedPostgres.start(folder / "data", settings={"no_such_thing": "1"})
    with pytest.raises(DatabaseUnavailable, match="not the name"):
        EmbeddedPostgres.start(folder / "data", settings={"a'b": "1"})
    shutil.rmtree(folder)
