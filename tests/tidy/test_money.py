"""Money is an integer: no float, no true division, no `numeric` where amounts are kept or worked out.

The rooms looked at are those that book, rate, reserve and report amounts. A float may appear there only as a time,
under a name that says so; nowhere in the server may an amount be divided by `/` or turned into a float.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

MONEY_ROOMS = (
    "faucet/ledger/",
    "faucet/rating/",
    "faucet/kit/money.py",
    "faucet/gateway/reserve.py",
    "faucet/reports/",
    "faucet/closing/",
)
EXACT_PARSING = frozenset({"faucet/rating/seed.py"})
"""Reads dollar prices out of a catalogue: exact decimals and fractions are allowed there, floats are not."""

DURATION = re.compile(r"(?:^|_)(?:seconds|deadline)$", re.IGNORECASE)
AMOUNT = re.compile(r"(?:^|_)e8(?:_|$)|(?:^|_)e8s$")
SQL_INEXACT = re.compile(r"\b(?:numeric|decimal|real|double\s+precision|float[48]?|money)\b")
SQL_STATEMENT = re.compile(r"\b(?:select|insert|update|delete)\b", re.IGNORECASE)
SQL_COLUMN = re.compile(r"^\s*(?:add\s+column\s+)?(\w*_e8\w*)\s+(\w+)", re.MULTILINE)
SQL_TABLE = re.compile(r"\b(?:create\s+table|alter\s+table)\b[^;]*;", re.IGNORECASE)
FOREIGN_SQL = frozenset({"migrations/0006_pre_jobs.sql"})


def _durations(tree: ast.Module) -> set[ast.AST]:
    """The nodes of a tree that speak of a duration: annotated or assigned as one, or slept."""
    allowed: set[ast.AST] = set()

    def allow(node: ast.AST | None) -> None:
        if node is not None:
            allowed.update(ast.walk(node))

    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and _name(node.target) and DURATION.search(_name(node.target)):
            allow(node)
        elif isinstance(node, ast.Assign) and all(DURATION.search(_name(target)) for target in node.targets):
            allow(node)
        elif isinstance(node, ast.keyword) and node.arg and DURATION.search(node.arg):
            allow(node)
        elif isinstance(node, ast.Call) and _name(node.func) in ("sleep", "timeout"):
            allow(node)
        elif isinstance(node, ast.arguments):
            positional = node.posonlyargs + node.args
            pairs = list(zip(positional[len(positional) - len(node.defaults) :], node.defaults, strict=True))
            pairs += [(a, d) for a, d in zip(node.kwonlyargs, node.kw_defaults, strict=True) if d is not None]
            for argument in positional + node.kwonlyargs:
                if DURATION.search(argument.arg):
                    allow(argument)
            for argument, default in pairs:
                if DURATION.search(argument.arg):
                    allow(default)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and DURATION.search(node.name):
            allow(node.returns)
    return allowed


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def inexact(tree: ast.Module, *, parses: bool = False) -> list[str]:
    """What is inexact in a money room, each with its line."""
    allowed = _durations(tree)
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        f"line {getattr(node, 'lineno', 0)}: {what}"
        for node in ast.walk(tree)
        if node not in allowed and node not in docstrings
        for what in _faults(node, parses)
    ]


def _faults(node: ast.AST, parses: bool) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
        yield f"the float {node.value}"
    elif isinstance(node, ast.Name) and node.id == "float":
        yield "float"
    elif isinstance(node, ast.Call) and _name(node.func) == "round":
        yield "round(): use a named rounding of kit.money"
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL_STATEMENT.search(node.value):
        yield from (f"SQL that is not exact: {word}" for word in SQL_INEXACT.findall(node.value))
    if parses:
        return
    if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
        yield "true division"
    elif isinstance(node, ast.Import | ast.ImportFrom):
        module = node.module if isinstance(node, ast.ImportFrom) else None
        names = {module} | {alias.name for alias in node.names}
        if names & {"decimal", "fractions", "Decimal", "Fraction", "statistics"}:
            yield "decimals or fractions"


def inexact_amounts(tree: ast.Module) -> list[str]:
    """Amounts, known by their names, that are divided by `/` or made a float, anywhere."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            sides = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.target, node.value]
        elif isinstance(node, ast.Call) and _name(node.func) in ("float", "Decimal"):
            sides = list(node.args)
        else:
            continue
        names = {_name(part) for side in sides for part in ast.walk(side)}
        found += [f"line {node.lineno}: {name}" for name in sorted(names) if AMOUNT.search(name)]
    return found


def inexact_columns(sql: str) -> list[str]:
    """Columns for amounts that are not `bigint`, and columns of any inexact type, in a migration's tables."""
    text = re.sub(r"--[^\n]*", "", sql)
    found = []
    for table in SQL_TABLE.findall(text):
        table = re.sub(r"\bleast\([^()]*\)", "", table, flags=re.IGNORECASE)  # names columns, and makes none
        split = re.sub(r",\s*(?=\w+_e8)|\(\s*(?=\w+_e8)|\badd\s+column\s+", "\n", table)
        found += [f"{column} {kind}" for column, kind in SQL_COLUMN.findall(split) if kind != "bigint"]
        found += SQL_INEXACT.findall(table)
    return found


def test_money_rooms_are_exact(trees: dict[str, ast.Module]) -> None:
    """Nothing that books or rates an amount can lose a unit to rounding."""
    rooms = {path: tree for path, tree in trees.items() if path.startswith(MONEY_ROOMS)}
    assert {room for room in MONEY_ROOMS if not any(path.startswith(room) for path in rooms)} == set()
    assert {p: found for p, t in rooms.items() if (found := inexact(t, parses=p in EXACT_PARSING))} == {}


def test_amounts_stay_integers_everywhere(trees: dict[str, ast.Module]) -> None:
    """An amount keeps its exactness outside of the money rooms too."""
    ours = {path: tree for path, tree in trees.items() if path.startswith("faucet/") and path not in EXACT_PARSING}
    assert {path: found for path, tree in ours.items() if (found := inexact_amounts(tree))} == {}


def test_amounts_are_bigint_in_the_database(texts: dict[str, str]) -> None:
    """The database keeps amounts as 64-bit integers, and has no column of an inexact type."""
    ours = {
        p: t for p, t in texts.items() if p.startswith("migrations/") and p.endswith(".sql") and p not in FOREIGN_SQL
    }
    columns = [
        name for text in ours.values() for table in SQL_TABLE.findall(text) for name, _ in SQL_COLUMN.findall(table)
    ]
    assert len(columns) >= 18, "the amounts of the ledger were not found"
    assert {path: found for path, text in ours.items() if (found := inexact_columns(text))} == {}


# ── each rule finds what it is for ──


def test_inexact_code_is_found() -> None:
    """Every way to leave the integers is reported in a money room; durations and whole division are not."""
    for planted in (
        "x = 0.1",
        "cost = tokens * price / 1_000_000",
        "cost /= 2",
        "x = float(cost)",
        "def f(x: float): ...",
        "x = round(cost)",
        "from decimal import Decimal",
        "import decimal",
        "SQL = 'select sum(posted_e8)::numeric from account'",
        "SQL = 'select amount_e8::double precision from transfer'",
        "x = 1j",
        "total_seconds_cost = 0.5",
    ):
        assert inexact(ast.parse(planted)), planted
    for honest in (
        "POLL_SECONDS = 0.05",
        "def f(*, patience_seconds: float = 10.0): ...",
        "self.wait_seconds: float = 0.5",
        "asyncio.sleep(0.01)",
        "f(lease_seconds=1.5)",
        "cost = tokens * price // 1_000_000",
        "def f():\n    'Never numeric, never float.'\n    return 1",
    ):
        assert inexact(ast.parse(honest)) == [], honest
    exact = ast.parse("from decimal import Decimal\nx = Fraction(usd) / per")
    assert inexact(exact) and not inexact(exact, parses=True)
    assert inexact(ast.parse("x = 0.5"), parses=True)


def test_inexact_amounts_are_found() -> None:
    """An amount that is divided or made a float is reported by its name, wherever it stands."""
    assert inexact_amounts(ast.parse("x = wallet.posted_e8 / E8_PER_USD")) == ["line 1: posted_e8"]
    assert inexact_amounts(ast.parse("x = float(charge.retail_e8)")) == ["line 1: retail_e8"]
    assert inexact_amounts(ast.parse("price_e8_per_m /= 2")) == ["line 1: price_e8_per_m"]
    assert inexact_amounts(ast.parse("x = posted_e8 // 2; y = milliseconds / 1000")) == []


def test_inexact_columns_are_found() -> None:
    """An amount's column that is not bigint is reported, in new and in changed tables, on a line of its own or not."""
    assert inexact_columns("create table a (id uuid, x_e8 integer not null);") == ["x_e8 integer"]
    assert inexact_columns("create table a (\n    x_e8 bigint,\n    y_e8_per_m numeric(20, 8)\n);") == [
        "y_e8_per_m numeric",
        "numeric",
    ]
    assert inexact_columns("alter table a add column x_e8 int;") == ["x_e8 int"]
    assert inexact_columns("create table a (score real);") == ["real"]
    assert inexact_columns("create table a (x_e8 bigint, y_e8 bigint); -- never numeric") == []
