"""The command line: help for every command, exit codes, and faults that are told in a line."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from faucet.cli.client import Refused, refusal, signed_e8, usd
from faucet.cli.main import SECTIONS, app, expected, main
from faucet.cli.terminal import Writer
from faucet.kit.config import ConfigRefused
from faucet.kit.embedded_postgres import DatabaseUnavailable
from faucet.kit.errors import InvariantBroken
from faucet.kit.money import to_wire
from faucet.stack.ports import PortRefused

SECONDS = 30


def commands(group: typer.Typer, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command below a group, by the words that call it."""
    for one in group.registered_commands:
        assert one.callback is not None
        yield (*path, one.name or one.callback.__name__.replace("_", "-"))
    for below in group.registered_groups:
        assert below.typer_instance is not None
        name = below.typer_instance.info.name
        assert isinstance(name, str)
        yield from commands(below.typer_instance, (*path, name))


EVERY = sorted(commands(app))


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_command_has_help_with_an_example(words: tuple[str, ...]) -> None:
    """Lost: somebody who finds a command has to read its code to use it."""
    shown = CliRunner().invoke(app, [*words, "--help"], prog_name="faucet")
    assert shown.exit_code == 0, shown.output
    assert f"Usage: faucet {' '.join(words)}" in shown.output
    assert "Example" in shown.output
    assert f"faucet {' '.join(words)}" in shown.output.partition("Example")[2]


def test_the_first_help_lists_every_command() -> None:
    """Lost: a command that exists and that nobody is told of."""
    shown = CliRunner().invoke(app, ["--help"])
    listed = {name for names in SECTIONS.values() for name in names}
    assert listed == {words[0] for words in EVERY}
    assert all(f"  {name} " in shown.output for name in listed)
    assert "..." not in shown.output.partition("\n")[2]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("upp",), "No such command 'upp'"),
        (("up", "--api-port", "70000"), "less than or equal to 65535"),
        (("limits", "set", "planet", "x", "--usd", "5"), "planet"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(arguments: tuple[str, ...], told: str) -> None:
    """Lost: a script can't tell its own mistake from a fault of the system."""
    shown = CliRunner().invoke(app, list(arguments))
    assert shown.exit_code == 2
    assert told in shown.output


@pytest.mark.parametrize(
    ("arguments", "env", "told"),
    [
        (("up",), {"PORT_API": "many"}, "settings refused: PORT_API: must be a port's number"),
        (("up",), {"MODELFAUCET_ENV": "production"}, "for development"),
        (("migrate",), {"DATABASE_URL": "mysql://there"}, "must begin with postgresql://"),
        (("migrate",), {"DATABASE_URL": "postgresql://me:hidden@127.0.0.1:1/x"}, "me@127.0.0.1:1/x can't be reached"),
        (("reconcile",), {"DATABASE_URL": "postgresql://me:hidden@127.0.0.1:1/x"}, "can't be reached"),
        (("chat", "hello", "--api", "http://127.0.0.1:1"), {}, "is the stack up?"),
        (("serve", "api"), {"HOLD_LEASE_SECONDS": "x"}, "settings refused: HOLD_LEASE_SECONDS"),
        (("openapi", "--check", "no-such-file.json"), {}, "make openapi"),
    ],
)
def test_an_expected_fault_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    env: dict[str, str],
    told: str,
) -> None:
    """Lost: an operator reads a traceback, or a password, where a sentence would do."""
    for name, value in {"FAUCET_DATA": str(tmp_path), **env}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main(partial(app, list(arguments)))
    assert ended.value.code == 1
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:], shown.err
    assert told in lines[-1]
    assert "hidden" not in shown.err
    assert shown.out == ""


def test_which_faults_are_expected(capsys: pytest.CaptureFixture[str]) -> None:
    """Lost: a bug of ours looks like a wrong setting, or the other way round."""
    assert expected(DatabaseUnavailable("It is full.", "Make room.")) == "It is full.\nMake room."
    assert expected(ConfigRefused(["A: is wrong"])) == "settings refused: A: is wrong"
    assert expected(ConfigRefused(["A: x", "B: y"])) == "settings refused:\n- A: x\n- B: y"
    assert expected(PortRefused("port 1 is taken")) == "port 1 is taken"
    assert "faucet migrate" in (expected(psycopg.errors.UndefinedTable()) or "")
    assert expected(InvariantBroken("impossible")) is None
    assert expected(KeyError("x")) is None

    def fault(**_: object) -> None:
        raise PortRefused("port 1 is taken")

    def bug(**_: object) -> None:
        raise KeyError("x")

    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        main(fault)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "Error: port 1 is taken\n"
    with pytest.raises(KeyError):
        main(bug)
    with pytest.raises(SystemExit) as ended:
        main(interrupted)
    assert ended.value.code == 130


def test_version_is_the_projects() -> None:
    """Lost: a report of a fault that names no version."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "faucet", "version"]
    shown = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=SECONDS)
    assert shown.returncode == 0, shown.stderr
    assert f'version = "{shown.stdout.split()[1]}"' in (root / "pyproject.toml").read_text()


@pytest.mark.parametrize("e8", [0, 1, 10, 99, 100, 123_456_789, 1_000_000_000, 999_993_097, -1, -250_000_000])
def test_amounts_for_people_are_exact(e8: int) -> None:
    """Lost: the terminal shows a rounded amount as if it were the amount."""
    text = usd(e8)
    assert signed_e8(text.replace("$", "")) == e8
    assert signed_e8(to_wire(e8)) == e8
    assert len(text.partition(".")[2]) >= 2


def test_a_refusal_says_what_providers_answered() -> None:
    """Lost: a wrong key of the operator looks like a fault of ours."""
    attempts = [{"attempt": 1, "provider": "openai", "statusCode": 401, "retryable": False}]
    error = {"code": "provider_error", "message": "no", "request_id": "req_1", "details": {"attempts": attempts}}
    told = refusal(502, {"error": error})
    assert isinstance(told, Refused)
    assert str(told) == "no (provider_error, 502, openai answered 401, req_1)"
    assert refusal(500, {}).code == "no_envelope"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    "text", ["One two three, and a wordthatislongerthanaline of text.\n\nEnd.", "您好，感谢您的来信，我们已经了解。"]
)
def test_an_answer_is_wrapped_the_same_however_it_arrives(text: str, size: int) -> None:
    """Lost: words broken in the middle, or lines that are longer than the terminal."""

    def written(step: int) -> str:
        out = io.StringIO()
        writer = Writer(Console(file=out, width=30), "  ")
        for start in range(0, len(text), step):
            writer.write(text[start : start + step])
        writer.end()
        return out.getvalue()

    got = written(size)
    assert got == written(len(text))
    assert "".join(got.split()) == "".join(text.split())
    assert all(line.startswith("  ") for line in got.splitlines() if line)
    assert [line for line in got.splitlines() if len(line) > 30] == []
