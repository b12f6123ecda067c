"""The tests that depend on the server, on another PostgreSQL than the embedded one.

    python -m tests.older_server [--bin DIR] [pytest arguments]

Looks for the oldest PostgreSQL ≥ 15 that is installed here (or in DIR), starts it in a temporary folder, and runs
the SQL tests, the ledger's property tests and the control API's tests against it by FAUCET_TEST_DATABASE_URL.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from faucet.kit.embedded_postgres import EmbeddedPostgres

OLDEST = 15
WHERE = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql@*/bin")
SUITE = ("tests/sql", "tests/property", "tests/contract/test_api.py")


def version_of(folder: Path) -> int | None:
    """The major version of the server programs in a folder; None where there are none."""
    try:
        told = subprocess.run(
            [folder / "postgres", "--version"], capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\) (\d+)", told.stdout)
    return int(match[1]) if match and (folder / "initdb").exists() else None


def find(given: str | None) -> tuple[int, Path] | None:
    """The oldest usable server that is installed, or the one that was named."""
    folders = [Path(given)] if given else [path for pattern in WHERE for path in Path("/").glob(pattern[1:])]
    found = [(version, folder) for folder in folders if (version := version_of(folder)) and version >= OLDEST]
    return min(found, default=None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", metavar="DIR", help="the folder of initdb and postgres")
    options, rest = parser.parse_known_args()
    found = find(options.bin)
    if found is None:
        print("no other PostgreSQL is installed here; on Debian `apt-get install postgresql` brings one")
        return 0
    version, folder = found
    print(f"PostgreSQL {version} of {folder}", flush=True)
    with tempfile.TemporaryDirectory(prefix="faucet-older-") as name:
        os.chmod(name, 0o755)
        settings = {"fsync": "off", "full_page_writes": "off", "max_connections": "300"}
        with EmbeddedPostgres(Path(name) / "data", bin_dir=folder, settings=settings) as running:
            suite = [path for path in SUITE if Path(path).exists()]
            return subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-n", "2", *suite, *rest],
                env={**os.environ, "FAUCET_TEST_DATABASE_URL": running.dsn},
            ).returncode


if __name__ == "__main__":
    sys.exit(main())
