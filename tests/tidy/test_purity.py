"""Rating, routing, redaction and the arithmetic of limits decide without I/O: what comes in decides what comes out.

So they can be tested with values alone, and a charge can be worked out again from its usage event years later.
"""

from __future__ import annotations

import ast

PURE = (
    "faucet/rating/price.py",
    "faucet/rating/rate.py",
    "faucet/rating/share.py",
    "faucet/rating/usage.py",
    "faucet/routing/",
    "faucet/limits/bucket.py",
    "faucet/privacy/",
    "faucet/ledger/chart.py",
    "faucet/kit/money.py",
    "faucet/kit/words.py",
    "faucet/terms.py",
)
MAY_IMPORT = frozenset(
    "__future__ collections collections.abc dataclasses datetime difflib enum itertools json math msgspec"
    " phonenumbers re typing uuid"
    " faucet.terms faucet.kit.money faucet.kit.errors faucet.kit.words".split()
)
"""Besides each other: parts of the standard library that only compute, msgspec, tables of phone numbers, and the
ground's values."""
CLOCKS = frozenset({"now", "utcnow", "today", "monotonic", "perf_counter", "time_ns"})


def impurities(tree: ast.Module) -> list[str]:
    """What reaches outside of a pure module: waiting, importing a mechanism, reading a clock or a file."""
    found = []
    for node in ast.walk(tree):
        line = f"line {getattr(node, 'lineno', 0)}: "
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            found.append(line + "async")
        elif isinstance(node, ast.Import):
            found += [f"{line}import {a.name}" for a in node.names if not _may_import(a.name)]
        elif isinstance(node, ast.ImportFrom):
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            if not _may_import(node.module or "") and not all(_may_import(name) for name in full):
                found.append(f"{line}import {node.module}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCKS:
            found.append(f"{line}{node.func.attr}() reads a clock")
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("open", "print", "input")
        ):
            found.append(f"{line}{node.func.id}()")
        elif isinstance(node, ast.Global):
            found.append(line + "global")
    return found


def _may_import(module: str) -> bool:
    path = module.replace(".", "/") + ".py"
    return module in MAY_IMPORT or any(path.startswith(pure) for pure in PURE)


def test_deciding_needs_no_world(trees: dict[str, ast.Module]) -> None:
    """A price, a plan, a share and a verdict are functions of their arguments."""
    pure = {path: tree for path, tree in trees.items() if path.startswith(PURE)}
    assert {room for room in PURE if not any(path.startswith(room) for path in pure)} == set()
    assert {path: found for path, tree in pure.items() if (found := impurities(tree))} == {}


def test_impurities_are_found() -> None:
    """Each way to reach outside is reported when it is planted; computing isn't."""
    for planted in (
        "async def plan(): ...",
        "import asyncio",
        "import time",
        "import random",
        "from faucet.kit import db",
        "from faucet.kit.db import Tx",
        "from faucet.kit.upstream import Pool",
        "from faucet.rating.store import load_confirmed",
        "import httpx2",
        "import psycopg",
        "x = datetime.now(UTC)",
        "x = clock.now()",
        "open('prices.json')",
        "def f():\n    global seen",
    ):
        assert impurities(ast.parse(planted)), planted
    for honest in (
        "from faucet.kit.money import bps",
        "from faucet.kit import money",
        "from faucet.rating.price import Price",
        "from datetime import datetime",
        "def f(now: datetime): return now.timestamp()",
    ):
        assert impurities(ast.parse(honest)) == [], honest
