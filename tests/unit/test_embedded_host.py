"""What the embedded PostgreSQL tells people, and where its data is: what needs no server."""

from __future__ import annotations

from pathlib import Path

import pytest

from faucet.kit.embedded_cluster import require_free_space
from faucet.kit.embedded_host import explain
from faucet.kit.embedded_postgres import DatabaseUnavailable, default_data_dir


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            'FATAL:  could not write to file "pg_wal/xlogtemp.29": No space left on device',
            "The disk is full.",
        ),
        ('FATAL:  could not open file "global/pg_control": Permission denied', "may not use its files"),
        (
            "FATAL:  pre-existing shared memory block (key 1, ID 2) is still in use",
            "Another PostgreSQL still uses",
        ),
        ("PANIC:  could not locate a valid checkpoint record at 0/17", "is damaged"),
        ("FATAL:  could not map anonymous shared memory: Cannot allocate memory", "the memory that it needs"),
        ("FATAL:  could not create any Unix-domain sockets", "socket cannot be made"),
        ("something new", "PostgreSQL could not start."),
    ],
)
def test_what_postgresql_says_is_told_plainly_and_kept(said: str, told: str) -> None:
    """An operator reads what is wrong before PostgreSQL's own words, and those as well."""
    text = str(explain(said, Path("/srv/data")))
    assert told in text.splitlines()[0] and text.endswith(said)


def test_a_disk_too_small_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """A first start on a nearly full disk stops with numbers instead of a half-made database."""
    require_free_space(tmp_path)
    with pytest.raises(DatabaseUnavailable, match=r"MB are free at .*, 1000000000 MB are needed"):
        require_free_space(tmp_path, 10**15)
    assert list(tmp_path.iterdir()) == []


def test_the_data_dir_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data is found again where the operator said, else where the desktop's rules say."""
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("FAUCET_DATA", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    assert default_data_dir() == Path("/home/somebody/.local/share/modelfaucet")
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    assert default_data_dir() == Path("/xdg/modelfaucet")
    monkeypatch.setenv("FAUCET_DATA", "~/own")
    assert default_data_dir() == Path("/home/somebody/own")
