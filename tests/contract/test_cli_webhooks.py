"""The commands of webhooks and promo codes against a real API, and the receiver on a developer's machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from api_world import ok
from webhook_world import Hooks, config, hooks, receiver

from faucet.cli.main import app, main
from faucet.kit.secret import Secret
from faucet.webhooks.signing import signed_headers

__all__ = ["config", "hooks", "receiver"]


@dataclass
class Faucet:
    """The command line as a developer has it, with their token."""

    capsys: pytest.CaptureFixture[str]

    def __call__(self, *words: str) -> tuple[int, str, str]:
        try:
            main(partial(app, list(words), standalone_mode=True))
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        shown = self.capsys.readouterr()
        return code, shown.out, shown.err

    def ok(self, *words: str) -> Any:
        """What a command that must work gives as JSON."""
        code, out, err = self(*words, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def faucet(hooks: Hooks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Faucet:
    """Commands beside a running API; webhooks' as a developer, promo codes' as the operator."""
    data = hooks.config.faucet_data
    (data / "stack.json").write_text(json.dumps({"api": hooks.world.api.base_url}))
    monkeypatch.setenv("FAUCET_DATA", str(data))
    monkeypatch.setenv("MODELFAUCET_TOKEN", hooks.developer.token)
    for name in ("ADMIN_TOKEN", "DATABASE_URL", "WEBHOOK_SECRET"):
        monkeypatch.delenv(name, raising=False)
    return Faucet(capsys)


@dataclass
class Listening:
    """`faucet webhooks listen` as a process of its own."""

    process: subprocess.Popen[str]
    url: str


@pytest.fixture
def listening(tmp_path: Path, faucet: Faucet) -> Iterator[Any]:
    """Start a receiver with these options; it is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(secret: str, *options: str) -> Listening:
        command = [sys.executable, "-m", "faucet", "webhooks", "listen", "--port", "0", "--secret", secret, *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stderr is not None
        said = process.stderr.readline()
        assert "Listening at http://127.0.0.1:" in said, said + process.stderr.read()
        return Listening(process, said.split("at ", 1)[1].strip())

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_from_an_endpoint_to_a_replay(faucet: Faucet, hooks: Hooks, listening: Any) -> None:
    """Lost: a newcomer's first webhook needs a server of their own, and a program to check it."""
    made = faucet.ok("webhooks", "create", "http://127.0.0.1:4242/", "--event", "ping", "--description", "mine")
    webhook = made["item"]["id"]
    at = listening(made["secret"], "--count", "2", "--json")
    ok(hooks.developer.http.patch(f"/v1/developer/webhooks/{webhook}", json={"url": at.url}))
    event = faucet.ok("webhooks", "ping", webhook)
    assert hooks.deliver().accepted == 1
    assert faucet.ok("webhooks", "replay", event["id"], "--to", webhook)["deliveries"] == 1
    assert hooks.deliver().accepted == 1
    out, err = at.process.communicate(timeout=20)
    assert at.process.returncode == 0, err
    assert [json.loads(line)["id"] for line in out.splitlines()] == [event["id"]] * 2
    assert [row["id"] for row in faucet.ok("webhooks", "events", "--type", "ping")["items"]] == [event["id"]]
    code, out, _ = faucet("webhooks", "events")
    assert code == 0 and "delivered (1)" in out
    attempts = faucet.ok("webhooks", "attempts", event["id"])["items"]
    assert [row["status_code"] for row in attempts] == [204, 204]
    rotated = faucet.ok("webhooks", "rotate", webhook, "--overlap-hours", "0")
    assert rotated["secret"] != made["secret"]
    assert faucet.ok("webhooks", "disable", webhook)["status"] == "disabled"
    assert faucet("webhooks", "ping", webhook)[0] == 1
    assert faucet.ok("webhooks", "enable", webhook)["status"] == "active"
    assert [row["id"] for row in faucet.ok("webhooks", "list")["items"]] == [webhook]
    assert faucet("webhooks", "delete", webhook)[0] == 0
    assert "There are none" in faucet("webhooks", "list")[1]


def test_the_receiver_believes_only_what_is_signed_just_now(listening: Any) -> None:
    """Lost: a newcomer sees a forged event as a true one."""
    secret = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldY"
    at = listening(secret)
    body = b'{"id": "1", "type": "ping", "timestamp": "now", "data": {"a": 1}}'
    now = int(time.time())
    good = signed_headers([Secret(secret)], "1", now, body)
    with httpx2.Client() as http:
        for headers, content, status in (
            (good, body, 204),
            (good, body + b" ", 401),
            ({}, body, 401),
            (signed_headers([Secret(secret)], "1", now - 400, body), body, 401),
            (signed_headers([Secret("whsec_QUJD")], "1", now, body), body, 401),
            (signed_headers([Secret(secret)], "1", now, b"no json"), b"no json", 401),
            (good, body, 204),
        ):
            assert http.post(at.url, content=content, headers=headers).status_code == status
    at.process.terminate()
    out, err = at.process.communicate(timeout=20)
    assert out.count("ping") == 2 and out.count("(again)") == 1 and err.count("refused") == 5


def test_a_secret_is_needed_to_listen(faucet: Faucet) -> None:
    """Lost: a receiver that checks nothing."""
    for words in ((), ("--secret", "mf_dev_abc")):
        code, _, err = faucet("webhooks", "listen", *words)
        assert code == 2 and "--secret" in err


def test_promo_codes_and_grants(faucet: Faucet, hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost: an operator who gives credit by hand-written requests."""
    monkeypatch.delenv("MODELFAUCET_TOKEN")
    app_id = hooks.developer.app()["public_app_id"]
    made = faucet.ok(
        "promos", "create", "2.50", "--redemptions", "3", "--code", "welcome", "--app", app_id,
        "--expires", "2199-01-01T00:00:00Z", "--key", "promo-key",
    )  # fmt: skip
    assert (made["code"], made["public_app_id"], made["redemptions_max"]) == ("WELCOME", app_id, 3)
    session = faucet.ok("sessions", "create", app_id, "somebody")["session_token"]
    given = faucet.ok("promos", "redeem", "welcome", "--session", session)
    assert given == {"amount_usd": "2.50000000", "wallet_balance_usd": "2.50000000"}
    code, _, err = faucet("promos", "redeem", "welcome", "--session", session)
    assert code == 1 and "already" in err
    assert faucet.ok("promos", "show", made["id"])["redemptions"] == 1
    assert "WELCOME" in faucet("promos", "list")[1]
    wallet = faucet.ok("wallets", "show", "--session", session)["id"]
    granted = faucet.ok("wallets", "grant", wallet, "1.00", "--reason", "sorry", "--key", "ticket-4711")
    assert granted["wallet_balance_usd"] == "3.50000000"
    assert faucet.ok("promos", "disable", made["id"])["status"] == "disabled"
