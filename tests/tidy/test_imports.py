"""The import contracts of `pyproject.toml`: kept by the tree, and each broken by a planted import.

The linter runs on a copy of the package, so that nothing is ever written into the tree.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

SECONDS = 60
FLOORS = "The four floors"
MOVES = "Money moves only through moves"
VAULT = "Only gateways and the operator's key commands open the vault"
STRIPE = "Only the processor's adapter speaks to Stripe"
HTTP = "Only kit.http and kit.upstream speak HTTP"

PLANTED = [
    # On the floors: upwards by one and by many, and sideways.
    (FLOORS, "faucet.kit.planted", "faucet.terms"),
    (FLOORS, "faucet.kit.planted", "faucet.gateway.chat"),
    (FLOORS, "faucet.ledger.planted", "faucet.rating.rate"),
    (FLOORS, "faucet.limits.planted", "faucet.tenants.store"),
    (FLOORS, "faucet.tenants.planted", "faucet.reports.usage"),
    (FLOORS, "faucet.reports.planted", "faucet.api.wire"),
    (FLOORS, "faucet.api.planted", "faucet.gateway.wire"),
    # Around the one door to the ledger's functions, from far and from next to it.
    (MOVES, "faucet.gateway.planted", "faucet.ledger.book"),
    (MOVES, "faucet.ledger.planted", "faucet.ledger.book"),
    # To the private keys, from the door that only seals, from the jobs, and from the room's own write side.
    (VAULT, "faucet.api.planted", "faucet.vault.reveal.ring"),
    (VAULT, "faucet.jobs.planted", "faucet.vault.reveal"),
    (VAULT, "faucet.vault.planted", "faucet.vault.reveal.kek"),
    # To the processor past its port, and to the double from a door.
    (STRIPE, "faucet.api.planted", "stripe"),
    (STRIPE, "faucet.jobs.planted", "faucet.payments.double.state"),
    # Past the guarded HTTP client.
    (HTTP, "faucet.gateway.planted", "httpx2"),
    (HTTP, "faucet.providers.planted", "aiohttp"),
]
"""The contract, the file that is planted, and what it imports."""


@pytest.fixture(scope="module")
def linter(root: Path) -> dict[str, Any]:
    """The linter's settings."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, Any] = settings["tool"]["importlinter"]
    return found


@pytest.fixture(scope="module")
def copy(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package and its settings."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copy(root / "pyproject.toml", folder)
    shutil.copytree(root / "faucet", folder / "faucet", ignore=shutil.ignore_patterns("__pycache__", "*.gz"))
    return folder


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the linter on the package in a folder."""
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "COLUMNS": "250"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def broken(report: str) -> list[str]:
    """The contracts that a report calls broken. It wraps long names, so a name may have been cut."""
    summary = " ".join(report[report.index("Contracts\n---") : report.index("Contracts:")].split())
    return [
        name
        for name in (FLOORS, MOVES, VAULT, STRIPE, HTTP)
        if re.search(re.escape(name) + r"(?:(?!KEPT|BROKEN).)*BROKEN", summary) is not None
    ]


def test_the_tree_keeps_every_contract(copy: Path) -> None:
    """No room reaches up, sideways, around the moves or past the guarded HTTP client."""
    run = lint(copy)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(("contract", "importer", "imported"), PLANTED)
def test_a_planted_import_breaks_its_contract(copy: Path, contract: str, importer: str, imported: str) -> None:
    """The contract would notice if somebody did this; the others stay as they are."""
    path = copy / (importer.replace(".", "/") + ".py")
    path.write_text(f"import {imported}\n", encoding="utf-8")
    try:
        run = lint(copy)
    finally:
        path.unlink()
    assert run.returncode == 1, run.stdout + run.stderr
    assert f"{importer} -> {imported}" in run.stdout
    assert broken(run.stdout) == [contract]


def test_every_contract_is_tried(linter: dict[str, Any]) -> None:
    """A new contract comes with an import that breaks it."""
    names = [contract["name"] for contract in linter["contracts"]]
    tried = {contract for contract, _, _ in PLANTED}
    assert [name for name in names if not any(name.startswith(start) for start in tried)] == []
    assert len(names) == len(tried)


def test_every_room_has_a_floor(linter: dict[str, Any], root: Path) -> None:
    """A room that no layer names would be free to import anything, and to speak HTTP."""
    by_name = {contract["name"]: contract for contract in linter["contracts"]}
    (floors,) = (contract for name, contract in by_name.items() if name.startswith(FLOORS))
    (http,) = (contract for name, contract in by_name.items() if name.startswith(HTTP))
    named = {module.strip() for layer in floors["layers"] for module in layer.split("|")}
    there = {
        f"faucet.{path.stem}"
        for path in (root / "faucet").iterdir()
        if (path / "__init__.py").exists() or (path.suffix == ".py" and path.stem != "__init__")
    }
    assert there - named == set()
    without_http = there - {"faucet.kit", "faucet.cli", "faucet.stack"}
    assert without_http - set(http["source_modules"]) == set()
