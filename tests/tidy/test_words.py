"""One meaning per word: names that say nothing or mean something else here, and marks of unfinished work.

Only names that a file defines are looked at: a library's own words (`connection.transaction()`) are its own.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

VAGUE = frozenset(
    "manager managers helper helpers util utils utility utilities misc stuff transaction transactions".split()
)
"""Words that may be part of no name. SQL's unit of work is a `tx`; money moves by a `transfer`."""
EMPTY_VERBS = frozenset("do handle manage perform process".split())
"""A function that begins with one of these hides what it does."""
EMPTY_NAMES = frozenset("data handle info process".split())
EMPTY_CLASS_ENDINGS = frozenset("factory handler impl service wrapper".split())
USER_COMES_AFTER = frozenset({"end", "external"})
USER_WIRE_WORDS = frozenset({"user_token"})
"""Fields of the wire contract, whose words we don't choose."""

UNFINISHED = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b|\braise NotImplemented" r"Error\b")
PATCHED = re.compile(r"\bmock\." r"patch\b|\bunittest\." r"mock\b|\bmonkeypatch\." r"(?:setattr|setitem|delattr)\b")
UNRUN = re.compile(
    r"\bpytest\.(?:mark\.(?:skip|skipif|xfail|flaky)|skip|xfail|importor" r"skip)\b|@(?:unittest\.)?skip"
)

SQL_NAMED = re.compile(
    r"\bcreate\s+(?:or\s+replace\s+)?(?:unique\s+)?"
    r"(?:table|view|function|type|index|trigger)\s+(?:if\s+not\s+exists\s+)?(\w+)"
)
FOREIGN_SQL = frozenset({"migrations/0006_pre_jobs.sql"})
"""A package's own tables, copied as they are."""


def words_of(name: str) -> list[str]:
    """The words of a snake_case or CamelCase name, in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+", name)]


def defined_names(tree: ast.Module) -> set[str]:
    """Every name that a file itself gives to something."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias) and node.asname:
            names.add(node.asname)
    return names


def vague_names(tree: ast.Module) -> list[str]:
    """Names with a word that says nothing, functions and classes that are called what everything is."""
    found = {name for name in defined_names(tree) if VAGUE.intersection(words_of(name))}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            words = words_of(node.name)
            if words and words[0] in EMPTY_VERBS:
                found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            words = words_of(node.name)
            if words and (words[-1] in EMPTY_CLASS_ENDINGS or words[-1] in EMPTY_NAMES):
                found.add(node.name)
    return sorted(found)


def loose_users(tree: ast.Module) -> list[str]:
    """Names that say `user` where an end user, a developer or an operator is meant."""
    found = []
    for name in sorted(defined_names(tree) - USER_WIRE_WORDS):
        words = words_of(name)
        for position, word in enumerate(words):
            if word in ("user", "users") and (position == 0 or words[position - 1] not in USER_COMES_AFTER):
                found.append(name)
    return found


def blocking_sleeps(tree: ast.Module) -> list[int]:
    """The lines where an async function puts its whole event loop to sleep."""
    return [
        call.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncFunctionDef)
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "time.sleep"
    ]


def empty_bodies(tree: ast.Module) -> list[str]:
    """Functions without a body, except the members of a Protocol, which have none by nature."""
    shapes = {
        member
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases)
        for member in node.body
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node not in shapes:
            if all(isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) for line in node.body):
                found.append(node.name)
    return found


def asserting(trees: Iterable[ast.Module]) -> frozenset[str]:
    """The names of functions that assert, so that a test may call one instead of asserting by itself."""
    functions = (n for t in trees for n in ast.walk(t) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(n.name for n in functions if any(isinstance(part, ast.Assert) for part in ast.walk(n)))


def lacking_tests(tree: ast.Module, checking: frozenset[str] = frozenset()) -> list[str]:
    """Tests that assert nothing, not even by calling one that does, or that don't say what they are for."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not node.name.startswith("test_"):
            continue
        if ast.get_docstring(node) is None:
            found.append(f"{node.name}: no docstring")
        checks = (
            isinstance(part, ast.Assert)
            or (isinstance(part, ast.Attribute) and part.attr in ("raises", "warns"))
            or (isinstance(part, ast.Call) and ast.unparse(part.func).split(".")[-1] in checking)
            for part in ast.walk(node)
        )
        if not any(checks):
            found.append(f"{node.name}: asserts nothing")
    return found


def test_names_say_something(trees: dict[str, ast.Module]) -> None:
    """A name tells a reader what a thing is for; words with another meaning here are not used."""
    assert {path: found for path, tree in trees.items() if (found := vague_names(tree))} == {}
    banned_files = VAGUE | EMPTY_NAMES | {"common"}
    assert [path for path in trees if banned_files.intersection(words_of(path.rpartition("/")[2][:-3]))] == []


def test_a_user_is_always_said_to_be_whose(trees: dict[str, ast.Module]) -> None:
    """`user` alone is ambiguous: end user, developer, operator, a database's or a system's account.

    The ground floor has no domain nouns and is free to speak of a system's users; a command's options are for people.
    """
    free = ("faucet/kit/", "faucet/cli/")
    rooms = {p: t for p, t in trees.items() if p.startswith("faucet/") and not p.startswith(free)}
    assert {path: found for path, tree in rooms.items() if (found := loose_users(tree))} == {}


def test_sql_names_say_something(texts: dict[str, str]) -> None:
    """The database speaks the same words as the code."""
    ours = {p: t for p, t in texts.items() if p.endswith(".sql") and p not in FOREIGN_SQL}
    assert ours, "the migrations were not found"
    names = {path: SQL_NAMED.findall(text.lower()) for path, text in ours.items()}
    assert any(names.values()), "no name was found in any migration"
    vague = VAGUE | {"user", "users"}
    bad = {
        path: [n for n in found if vague.intersection(words_of(n)) and "end_user" not in n]
        for path, found in names.items()
    }
    assert {path: found for path, found in bad.items() if found} == {}


def test_nothing_is_left_for_later(texts: dict[str, str]) -> None:
    """What is in the tree is finished: no reminders, no stubs."""
    marked = {path: UNFINISHED.findall(text) for path, text in texts.items()}
    assert {path: found for path, found in marked.items() if found} == {}


def test_functions_have_bodies(trees: dict[str, ast.Module]) -> None:
    """No function of the server only pretends to exist."""
    ours = {path: tree for path, tree in trees.items() if path.startswith("faucet/")}
    assert {path: found for path, tree in ours.items() if (found := empty_bodies(tree))} == {}


def test_tests_run_against_the_real_thing(texts: dict[str, str]) -> None:
    """No test replaces part of the program under test, and none is skipped or expected to fail."""
    tests = {path: text for path, text in texts.items() if path.startswith(("tests/", "bench/"))}
    patched = {path: found for path, text in tests.items() if (found := PATCHED.findall(text) + UNRUN.findall(text))}
    assert patched == {}


def test_tests_state_and_check_a_guarantee(trees: dict[str, ast.Module]) -> None:
    """Every test says what would be lost if it failed, and can fail."""
    tests = {path: tree for path, tree in trees.items() if path.startswith("tests/")}
    checking = asserting(tests.values())
    assert {path: found for path, tree in tests.items() if (found := lacking_tests(tree, checking))} == {}


def test_event_loops_never_sleep(trees: dict[str, ast.Module]) -> None:
    """No coroutine stops every other one; in the server, blocking waits are the embedded database's alone."""
    assert {path: found for path, tree in trees.items() if (found := blocking_sleeps(tree))} == {}
    waiting = [
        path
        for path, tree in trees.items()
        if path.startswith("faucet/") and not path.startswith(("faucet/kit/embedded_", "faucet/stack"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep"
    ]
    assert waiting == []


def test_modules_say_what_they_hold(trees: dict[str, ast.Module]) -> None:
    """Every module opens with what lives in it, and types are never evaluated at import."""
    ours = {p: t for p, t in trees.items() if p.startswith(("faucet/", "tests/", "bench/"))}
    silent = [path for path, tree in ours.items() if ast.get_docstring(tree) is None]
    assert silent == []
    late = "annotations"
    eager = [
        path
        for path, tree in ours.items()
        if len(tree.body) > 1
        and not any(isinstance(n, ast.ImportFrom) and any(a.name == late for a in n.names) for n in tree.body)
    ]
    assert eager == []


# ── each rule finds what it is for ──


def test_vague_names_are_found() -> None:
    """A planted vague name is reported wherever a name can be given, and an honest one isn't."""
    for planted in (
        "class WalletManager: ...",
        "def string_utils(): ...",
        "def handle_request(): ...",
        "def _process(x): ...",
        "def f(transaction): ...",
        "transaction_id = 1",
        "self.helper = 1",
        "class ChatHandler: ...",
        "class UserData: ...",
        "import x as helpers",
        "for util in []: ...",
    ):
        assert vague_names(ast.parse(planted)), planted
    for honest in (
        "class Wallet: ...",
        "def hold(tx, data): ...",
        "async with connection.transaction(): ...",
        "import processor_fees",
        "def processed(): ...",
    ):
        text = f"async def f():\n    {honest}" if honest.startswith("async with") else honest
        assert vague_names(ast.parse(text)) == [], honest


def test_loose_users_are_found() -> None:
    """`user` without saying whose is reported; the two whole words and the wire's own field are not."""
    assert loose_users(ast.parse("def f(user_id, end_user_id, external_user_id, user_token): user = 1")) == [
        "user",
        "user_id",
    ]


def test_unfinished_work_is_found() -> None:
    """Reminders, stubs and tests that don't run are reported; words that merely look like them are not."""
    assert UNFINISHED.search("# TO" + "DO: later") and UNFINISHED.search("raise NotImplemented" + "Error")
    assert not UNFINISHED.search("the hackathon's XXXL todos")
    assert PATCHED.search("with mock." + "patch('x'):") and PATCHED.search("monkeypatch." + "setattr(a, 'b', c)")
    assert not PATCHED.search("monkeypatch.setenv('A', 'b')")
    for planted in ("@pytest.mark." + "skipif(x)", "pytest." + "importorskip('x')", "@pytest.mark." + "xfail"):
        assert UNRUN.search(planted), planted
    assert not UNRUN.search("spool.skipped()")
    assert empty_bodies(ast.parse("def f():\n    'Promise.'\n    ...")) == ["f"]
    assert empty_bodies(ast.parse("class P(Protocol):\n    def f(self): ...\ndef g():\n    pass")) == []
    assert lacking_tests(ast.parse("def test_a():\n    'A guarantee.'\n    f()")) == ["test_a: asserts nothing"]
    assert lacking_tests(ast.parse("def test_a():\n    assert f()")) == ["test_a: no docstring"]
    assert lacking_tests(ast.parse("def test_a():\n    'It.'\n    with pytest.raises(E): f()")) == []
    shared = asserting([ast.parse("def refused(reply):\n    assert reply.status == 400\ndef sent(x):\n    return x")])
    assert lacking_tests(ast.parse("def test_a():\n    'It.'\n    refused(sent(1))"), shared) == []
    assert lacking_tests(ast.parse("def test_a():\n    'It.'\n    sent(1)"), shared) == ["test_a: asserts nothing"]


def test_blocking_sleeps_are_found() -> None:
    """A blocking sleep in a coroutine is reported, an asynchronous one isn't."""
    assert blocking_sleeps(ast.parse("async def f():\n    time.sleep(1)")) == [2]
    assert blocking_sleeps(ast.parse("async def f():\n    await asyncio.sleep(1)")) == []


def test_sql_names_are_found() -> None:
    """The pattern that reads names out of migrations sees all the kinds of things that are named there."""
    sql = (
        "create table a (x int); create unique index b on a (x); create view c as select 1;"
        " create or replace function d() returns int; create type e as enum ('x'); create trigger f before"
    )
    assert SQL_NAMED.findall(sql) == ["a", "b", "c", "d", "e", "f"]
