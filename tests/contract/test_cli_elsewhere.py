"""Commands that are told another machine: what they take for done, and whose token they show there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from faucet.cli.main import app, main

SEEN: list[str] = []


def _send_on(request: BaseHTTPRequestHandler) -> None:
    """Send whoever asks somewhere else."""
    SEEN.append(request.headers.get("authorization", ""))
    request.send_response(307)
    request.send_header("location", "http://127.0.0.1:9/")
    request.send_header("content-length", "0")
    request.end_headers()


_METHODS = {f"do_{method}": _send_on for method in ("GET", "POST", "PATCH", "DELETE")}
_Elsewhere = type("Elsewhere", (BaseHTTPRequestHandler,), {**_METHODS, "log_message": lambda *_: None})


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("ADMIN_TOKEN", "a-token-of-the-tests-and-of-nothing-else")
    monkeypatch.delenv("MODELFAUCET_TOKEN", raising=False)
    SEEN.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(10)
    server.server_close()


def ended(*words: str) -> int:
    """How a command ends."""
    try:
        main(partial(app, list(words), standalone_mode=True))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize(
    "words",
    [
        ("stripe", "events", "replay"),
        ("top-ups", "refund", "x", "--reason", "r"),
        ("payouts", "approve", "x"),
        ("webhooks", "delete", "x"),
        ("stripe", "events", "list"),
    ],
)
def test_a_redirect_is_not_taken_for_done(
    elsewhere: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Lost: behind a proxy that redirects nothing is done, and the command says that it was."""
    assert ended(*words, "--api", elsewhere) == 1
    assert "307" in capsys.readouterr().err
    assert len(SEEN) == 1, "nor is it followed"


@pytest.mark.parametrize(
    "api", ["http://127.0.0.1:80:3001", "http://[::1].evil.example", "http://local\thost:3001", "http://[::1", "x"]
)
def test_an_address_that_is_none_is_told(elsewhere: str, api: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Lost: a slip in an address is a traceback."""
    assert ended("stripe", "events", "list", "--api", api) == 1
    assert "nothing answers at" in capsys.readouterr().err


def test_a_token_that_was_made_up_here_stays_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lost: whoever is named by --api gets the token of the stack on this machine."""
    monkeypatch.delenv("ADMIN_TOKEN", raising=False)
    monkeypatch.delenv("MODELFAUCET_TOKEN", raising=False)
    (tmp_path / "secrets.json").write_text(json.dumps({"ADMIN_TOKEN": "made-up-here"}))
    words = ("top-ups", "list", "--data", str(tmp_path), "--api", "http://faucet.example.invalid")
    assert ended(*words) == 1
    assert "ADMIN_TOKEN" in capsys.readouterr().err
    monkeypatch.setenv("ADMIN_TOKEN", "meant-for-there")
    assert ended(*words) == 1
    assert "nothing answers" in capsys.readouterr().err
