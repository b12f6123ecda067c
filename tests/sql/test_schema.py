"""Migrations: the file that people read is what they make, and they can be run again and at once."""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg
from books import Books

from faucet.kit.db import ROLES
from faucet.kit.embedded_postgres import EmbeddedPostgres
from faucet.kit.migrate import MIGRATIONS, migrate, newest_revision
from faucet.kit.schema import MAJOR, SCHEMA_FILE, dump_schema


def test_schema_file_is_what_the_migrations_make(books: Books, dsn: str, tmp_path: Path) -> None:
    """Lost: reviewers read a schema that is not the one that runs."""
    if books.one("show server_version_num").startswith(str(MAJOR)):
        made = dump_schema(dsn)
    else:  # other versions word it differently: make it with the one that wrote the file
        tmp_path.chmod(0o711)
        with EmbeddedPostgres(tmp_path / "data", settings={"fsync": "off"}) as running:
            migrate(running.dsn)
            made = dump_schema(running.dsn)
    assert SCHEMA_FILE.read_text(encoding="utf-8") == made, "run `python -m faucet.kit.schema`"


def test_migrating_again_changes_nothing(books: Books, dsn: str) -> None:
    """Lost: a restart of the migration job breaks a running system."""
    before = books.rows("select oid, relname from pg_class where relnamespace = 'public'::regnamespace order by 1")
    migrate(dsn)
    after = books.rows("select oid, relname from pg_class where relnamespace = 'public'::regnamespace order by 1")
    assert after == before
    assert books.one("select version_num from alembic_version") == newest_revision()


def test_processes_that_migrate_at_once_wait_for_each_other(server_dsn: str, books: Books, dsn: str) -> None:
    """Lost: two processes that start together on an empty database destroy each other's work."""
    name = f"{psycopg.conninfo.conninfo_to_dict(dsn)['dbname']}_empty"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f'create database "{name}"'.encode())
        try:
            empty = dsn.replace(str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]), name)
            failures: list[BaseException] = []

            def run() -> None:
                try:
                    migrate(empty)
                except BaseException as failure:
                    failures.append(failure)

            threads = [threading.Thread(target=run) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert failures == []
            with psycopg.connect(empty) as check:
                row = check.execute("select version_num from alembic_version").fetchone()
            assert row == (newest_revision(),)
        finally:
            connection.execute(f'drop database if exists "{name}" with (force)'.encode())


def test_every_file_has_its_revision() -> None:
    """Lost: a migration file that nothing runs."""
    files = {path.stem for path in MIGRATIONS.glob("[0-9]*.sql")}
    revisions = {path.stem for path in (MIGRATIONS / "versions").glob("[0-9]*.py")}
    assert files == revisions
    assert newest_revision() == max(files)


def test_every_door_reads_the_version(books: Books) -> None:
    """Lost: a process can't tell whether the schema is the one that it needs."""
    for role in ROLES:
        assert books.one("select version_num from alembic_version", role=role) == newest_revision()
