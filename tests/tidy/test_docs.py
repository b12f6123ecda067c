"""The documents say what is: settings, commands, errors, the ways of money, and the files that they name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

from faucet.cli.main import app
from faucet.kit.config import NAMES, SECRET_NAMES, Config
from faucet.kit.errors import STATUS_BY_CODE
from faucet.kit.money import to_wire
from faucet.ledger.chart import CHART, MOVES

PARTS = ("What it is:", "Owns:", "Does not own:", "Invariants:")
ADR_PARTS = ("**Context.**", "**Decision.**", "**Consequences.**", "**Alternatives.**")
MADE_BY_HAND = frozenset({"FAUCET_DATA", "SECRET_ENCRYPTION_KEY", "ADMIN_TOKEN", "DEVELOPER_ADMIN_TOKEN"})
"""Settings without a default of their own; the page says in words what they are when unset."""

SETTING_ROW = re.compile(r"^\| `([A-Z_]+)` \| (\S.*?) \| (.*?) ?\|$", re.MULTILINE)
ERROR_ROW = re.compile(r"^\| `([a-z_]+)` \| (\d{3}) \|", re.MULTILINE)
MOVE_ROW = re.compile(r"^\| (\d+) \| `([a-z_]+)` \| (.+?) \|$", re.MULTILINE)
QUOTED = re.compile(r"`([^`\n]+)`")
SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)
COMMAND_ROW = re.compile(r"^\| `faucet ([a-z -]+)` \| (.+) \|$", re.MULTILINE)
VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
OTHER_VARIABLES = frozenset(
    {"XDG_DATA_HOME", "FAUCET_TEST_DATABASE_URL", "MODELFAUCET_TOKEN", "STRIPE_TEST_SECRET_KEY", "CHROMIUM"}
)
"""What the system, the tests and commands read; not settings of a process."""
OUR_PATH = re.compile(r"(?:faucet|gateway|rating|routing|ledger|migrations|tests|docs|bench|requirements)/[\w./-]+")
ROOT_FILE = re.compile(r"\b([A-Z]{4,}\.md|LICENSE|Makefile)\b")


def documents(texts: dict[str, str]) -> dict[str, str]:
    """The prose of the project."""
    return {path: text for path, text in texts.items() if path.endswith(".md") and not path.startswith("faucet/")}


def room_faults(tree: ast.Module) -> list[str]:
    """What a room's `__init__` lacks of the four parts, or has beyond them."""
    text = ast.get_docstring(tree) or ""
    places = [text.find(part) for part in PARTS]
    faults = [f"no {part!r}" for part, place in zip(PARTS, places, strict=True) if place < 0]
    if not faults and places != sorted(places):
        faults.append("the parts are in another order")
    if places[0] > 0:
        faults.append("something comes before what it is")
    if len(tree.body) > 1:
        faults.append("more than a docstring")
    return faults


def shown_default(name: str) -> str:
    """A setting's default as the page shows it."""
    value: Any = Config.model_fields[NAMES[name]].default
    if value is None:
        return "unset"
    if name.endswith("_USD"):
        return f"`{to_wire(value)}`"
    return "empty" if value == () else f"`{value}`"


def setting_faults(page: str) -> list[str]:
    """Settings that the page lacks, invents, or says something else about than the code."""
    rows = {name: (default, text) for name, default, text in SETTING_ROW.findall(page)}
    faults = [f"{name} is not documented" for name in NAMES if name not in rows]
    faults += [f"{name} does not exist" for name in rows if name not in NAMES]
    for name, (default, text) in rows.items():
        if name not in NAMES:
            continue
        if name not in MADE_BY_HAND and default != shown_default(name):
            faults.append(f"{name}: the default is {shown_default(name)}, not {default}")
        if text.startswith("**secret**") != (name in SECRET_NAMES):
            faults.append(f"{name}: may be given as a file, or may not, unlike the page says")
    return faults


def commands() -> set[str]:
    """Every command of the command line, with those that it is under."""

    def walk(command: Any, name: str) -> Iterator[str]:
        below = getattr(command, "commands", {})
        if not below:
            yield name
        for word, each in below.items():
            yield from walk(each, f"{name} {word}")

    return set(walk(typer.main.get_command(app), "faucet"))


def option_faults(page: str) -> list[str]:
    """Options that the page of commands shows and that their command doesn't have."""
    faults = []
    for name, text in COMMAND_ROW.findall(page):
        command: Any = typer.main.get_command(app)
        for word in name.split():
            command = getattr(command, "commands", {}).get(word)
        known = {option for parameter in getattr(command, "params", ()) for option in parameter.opts}
        faults += [f"faucet {name} {option}" for option in re.findall(r"--[a-z-]+", text) if option not in known]
    return faults


def unknown_variables(text: str) -> list[str]:
    """Environment variables that a document names and that nothing reads."""
    named = {each for quoted in QUOTED.findall(text) for each in [quoted.partition("=")[0]] if VARIABLE.fullmatch(each)}
    return sorted(each for each in named - NAMES.keys() - OTHER_VARIABLES if each.removesuffix("_FILE") not in NAMES)


def named_commands(text: str) -> Iterator[list[str]]:
    """The words of every command line that a document shows, from `faucet` on."""
    lines = [*QUOTED.findall(text), *(line for block in SHELL.findall(text) for line in block.splitlines())]
    for line in lines:
        match = re.search(r"(?:^|[\s/])faucet((?: [a-z][a-z-]*)+)", line.partition("#")[0])
        if match is not None:
            yield match[1].split()


def unknown_commands(text: str, known: Iterable[str]) -> list[str]:
    """Command lines of a document that no command, and no group of commands, answers to."""
    paths = [command.split()[1:] for command in known]
    return [
        " ".join(words)
        for words in named_commands(text)
        if not any(words[: len(path)] == path or path[: len(words)] == words for path in paths)
    ]


def missing_paths(text: str, root: Path) -> list[str]:
    """Files that a document names and that are not there; patterns and examples are not looked for."""
    found = []
    for quoted in QUOTED.findall(text):
        path, _, name = (part.strip() for part in quoted.partition(" · "))
        if not OUR_PATH.fullmatch(path) or "NNNN" in path:
            continue
        places = [root / path, root / "faucet" / path]
        place = next((place for place in places if place.exists()), None)
        if place is None:
            found.append(path)
        elif name and name not in _names_in(place):
            found.append(f"{name} in {path}")
    found += [name for name in set(ROOT_FILE.findall(text)) if not (root / name).exists()]
    return found


def _names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    return names | {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}


def move_faults(page: str) -> list[str]:
    """Moves that the page lacks, invents, or shows between other kinds of account than the chart."""
    wanted: dict[tuple[int, str], set[tuple[str, str]]] = {}
    for move in MOVES:
        wanted.setdefault((int(move.code), move.name), set()).add((move.debit.value, move.credit.value))
    shown = {(int(code), name): _directions(words) for code, name, words in MOVE_ROW.findall(page)}
    faults = [f"{name} is not there" for name in wanted if name not in shown]
    faults += [f"{name} does not exist" for name in shown if name not in wanted]
    return faults + [f"{name}: {wanted[name]}" for name in wanted if name in shown and shown[name] != wanted[name]]


def _directions(words: str) -> set[tuple[str, str]]:
    """`a → b, or → c, or d → e` as pairs; a side that is left out is the one before it."""
    pairs, debit = set(), ""
    for part in words.split(","):
        left, _, right = part.partition("→")
        debit = next(iter(re.findall(r"[a-z_]{3,}", left)), debit)
        pairs.add((debit, re.findall(r"[a-z_]+", right)[0]))
    return pairs


# ── what is ──


def test_rooms_say_what_they_own(trees: dict[str, ast.Module]) -> None:
    """Who enters a room knows what belongs there, and its imports are what the file says they are."""
    rooms = {path: tree for path, tree in trees.items() if re.fullmatch(r"faucet/\w+/__init__\.py", path)}
    assert len(rooms) >= 10, "the rooms were not found"
    assert {path: faults for path, tree in rooms.items() if (faults := room_faults(tree))} == {}


def test_settings_are_documented(texts: dict[str, str]) -> None:
    """An operator finds every setting, its true default, and whether it may come from a file."""
    assert setting_faults(texts["docs/settings.md"]) == []
    unknown = {path: unknown_variables(text) for path, text in documents(texts).items()}
    assert {path: found for path, found in unknown.items() if found} == {}


def test_commands_are_documented(texts: dict[str, str]) -> None:
    """Every command is on its page, and every command line in a document is one that exists."""
    known = commands()
    shown = {" ".join(["faucet", *words]) for words in named_commands(texts["docs/cli.md"])}
    assert {command for command in known if not any(f"{line} ".startswith(f"{command} ") for line in shown)} == set()
    assert option_faults(texts["docs/cli.md"]) == []
    unknown = {path: unknown_commands(text, known) for path, text in documents(texts).items()}
    assert {path: found for path, found in unknown.items() if found} == {}


def test_make_verbs_exist(texts: dict[str, str]) -> None:
    """What a document says to type works."""
    targets = set(re.findall(r"^([a-z][\w-]*):", texts["Makefile"], re.MULTILINE))
    prose = "\n".join(documents(texts).values())
    shown = [*QUOTED.findall(prose), *(line for block in SHELL.findall(prose) for line in block.splitlines())]
    verbs = {verb for line in shown if (at := re.search(r"\bmake((?: [a-z][a-z-]*)+)", line)) for verb in at[1].split()}
    assert verbs, "no document says how to begin"
    assert verbs - targets == set()


def test_errors_are_documented(texts: dict[str, str]) -> None:
    """Whoever gets a code can look up what it means, with the status that it has."""
    shown = {code: int(status) for code, status in ERROR_ROW.findall(texts["docs/failure-modes.md"])}
    assert shown == STATUS_BY_CODE


def test_the_ways_of_money_are_documented(texts: dict[str, str]) -> None:
    """The architecture shows every kind of account and every move, and no other."""
    page = texts["ARCHITECTURE.md"]
    assert move_faults(page) == []
    section = page[page.index("### Chart of accounts") : page.index("### Every way money can move")]
    rows = [row.split("|") for row in section.splitlines() if row.startswith("| `")]
    signs = {kind: row[3].strip().startswith("yes") for row in rows for kind in re.findall(r"`(\w+)`", row[1])}
    assert signs == {line.kind.value: line.may_be_negative for line in CHART}


def test_named_files_are_there(texts: dict[str, str], root: Path) -> None:
    """A document never sends its reader to a file or function that is gone."""
    missing = {path: missing_paths(text, root) for path, text in documents(texts).items()}
    assert {path: found for path, found in missing.items() if found} == {}


def test_decisions_are_whole(texts: dict[str, str]) -> None:
    """Every decision has its four parts and a number of its own, and is listed."""
    pages = {Path(path).name: text for path, text in texts.items() if re.match(r"docs/decisions/\d{4}-", path)}
    assert sorted(name[:4] for name in pages) == [f"{number:04d}" for number in range(1, len(pages) + 1)]
    for name, text in pages.items():
        assert text.startswith(f"# {name[:4]} "), name
        places = [text.find(part) for part in ADR_PARTS]
        assert min(places) > 0 and places == sorted(places), name
        assert f"| {name[:4]} |" in texts["docs/decisions/README.md"], name


# ── each rule finds what it is for ──


def test_faulty_rooms_are_found() -> None:
    """A missing part, a wrong order and a re-export are reported."""
    good = '"""What it is: a.\n\nOwns: b.\nDoes not own: c.\nInvariants: d.\n"""'
    assert room_faults(ast.parse(good)) == []
    assert room_faults(ast.parse(good.replace("Owns: b.", ""))) == ["no 'Owns:'"]
    assert room_faults(ast.parse(good.replace("Owns", "X").replace("Invariants", "Owns").replace("X", "Invariants")))
    assert room_faults(ast.parse(good.replace("What", "A room. What")))
    assert room_faults(ast.parse(good + "\nfrom faucet.a import b")) == ["more than a docstring"]


def test_faulty_settings_are_found(texts: dict[str, str]) -> None:
    """A setting that is missing, invented, or described otherwise than the code has it is reported."""
    page = texts["docs/settings.md"]
    assert "PORT_API is not documented" in setting_faults(page.replace("| `PORT_API` |", "| PORT_API |"))
    assert "PORT_X does not exist" in setting_faults(page.replace("`PORT_API`", "`PORT_X`"))
    assert any("PORT_API: the default" in fault for fault in setting_faults(page.replace("`3001`", "`3003`")))
    assert any("REDIS_URL: may be" in f for f in setting_faults(page.replace("| **secret** Accepted", "| Accepted")))


def test_unknown_commands_are_found() -> None:
    """A command line that no command answers to is reported, in a sentence and in a block; the true ones are not."""
    known = commands()
    assert {"faucet up", "faucet serve gateway", "faucet prices set"} <= known
    text = "`faucet up` `faucet serve gateway` `faucet prices set a b` `faucet wash` `faucet prices wash`\n"
    assert unknown_commands(text + "```sh\n.venv/bin/faucet dry # faucet x\n```\n", known) == [
        "wash",
        "prices wash",
        "dry",
    ]


def test_unknown_options_and_variables_are_found() -> None:
    """An option that its command doesn't have, and a variable that nothing reads, are reported."""
    assert option_faults("| `faucet up` | `--data`, `--wash` |\n| `faucet prices set` | `--input 1` |") == [
        "faucet up --wash"
    ]
    assert option_faults("| `faucet wash` | `--data` |") == ["faucet wash --data"]
    assert unknown_variables("`PORT_API` `DATABASE_URL=postgresql://…` `ADMIN_TOKEN_FILE` `PORT_X`") == ["PORT_X"]


def test_missing_paths_are_found(root: Path) -> None:
    """A file, a function or a root document that isn't there is reported, and one that is isn't."""
    text = "`faucet/terms.py` `gateway/chat.py · chat_completions` `migrations/NNNN_pre_x.sql` `tests/sql` README.md"
    assert missing_paths(text, root) == []
    gone = "`faucet/words.py` `gateway/chat.py · chat_completes` `docs/x.md` NOWHERE.md"
    assert missing_paths(gone, root) == [
        "faucet/words.py",
        "chat_completes in gateway/chat.py",
        "docs/x.md",
        "NOWHERE.md",
    ]


def test_faulty_moves_are_found(texts: dict[str, str]) -> None:
    """A move that is missing, invented, or goes another way is reported."""
    page = texts["ARCHITECTURE.md"]
    assert move_faults(page.replace("| 12 | `grant` | grants → wallet |\n", "")) == ["(12, 'grant') is not there"]
    assert move_faults(page.replace("| 12 | `grant` |", "| 13 | `gift` |")) != []
    assert move_faults(page.replace("grants → wallet |", "bank → wallet |")) == [
        "(12, 'grant'): {('grants', 'wallet')}"
    ]
    assert _directions("wallet → provider_cost, or → earnings where it paid") == {
        ("wallet", "provider_cost"),
        ("wallet", "earnings"),
    }
    assert _directions("wallet → adjustments, or earnings → adjustments") == {
        ("wallet", "adjustments"),
        ("earnings", "adjustments"),
    }
