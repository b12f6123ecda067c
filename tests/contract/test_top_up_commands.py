"""The operator's commands about money that came in, as they are typed."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from payments_world import PaymentsWorld, double, payments

from faucet.cli.main import app, main

__all__ = ["double", "payments"]


class Shell:
    """The command line of an operator beside a running API."""

    def __init__(self, world: PaymentsWorld, capsys: pytest.CaptureFixture[str]) -> None:
        self._api, self._capsys = world.api.base_url, capsys

    def __call__(self, *words: str, api: str | None = None) -> tuple[int, str, str]:
        try:
            main(partial(app, [*words, "--api", api or self._api], standalone_mode=True))
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        shown = self._capsys.readouterr()
        return code, shown.out, shown.err

    def ok(self, *words: str) -> Any:
        code, out, err = self(*words, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def shell(payments: PaymentsWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.setenv("ADMIN_TOKEN", payments.api.config.admin_token.reveal())
    monkeypatch.delenv("MODELFAUCET_TOKEN", raising=False)
    return Shell(payments, capsys)


def test_a_top_up_from_the_command_line(payments: PaymentsWorld, shell: Shell) -> None:
    """Lost: how somebody tries it out on a laptop."""
    app = payments.developer().app()
    made = shell.ok("top-ups", "open", "3.00", "--app", app["public_app_id"], "--user", "me", "--save-card")
    assert payments.double.pay(made["checkout_url"]).headers["location"] == f"{payments.api.base_url}/docs"
    payments.double.settled()
    assert payments.end_user(app, "me").balance() == "3.00000000"


def test_a_refund_from_the_list_to_the_wallet(payments: PaymentsWorld, shell: Shell) -> None:
    """Lost: the way in which an operator gives money back."""
    who = payments.end_user()
    payments.paid(who, "10.00")
    (row,) = shell.ok("top-ups", "list")["items"]
    assert row["refundable_usd"] == "10.00000000"
    code, out, _ = shell("top-ups", "list")
    assert code == 0 and "credited" in out
    done = shell.ok(
        "top-ups", "refund", row["id"], "--amount", "2.50", "--reason", "paid twice", "--key", "ticket-4711"
    )
    again = shell.ok(
        "top-ups", "refund", row["id"], "--amount", "2.50", "--reason", "paid twice", "--key", "ticket-4711"
    )
    assert done["id"] == again["id"] and who.balance() == "7.50000000"
    code, _, err = shell("top-ups", "refund", row["id"], "--amount", "7.51", "--reason", "too much")
    assert code == 1 and "only 7.50000000 is left" in err
    assert shell.ok("top-ups", "show", row["id"])["refunded_usd"] == "2.50000000"
    assert shell.ok("wallets", "freeze", who.wallet_id, "--reason", "suspicious")["frozen"] is True
    assert shell.ok("wallets", "unfreeze", who.wallet_id, "--reason", "cleared up")["frozen"] is False


def test_events_are_listed_and_replayed_here_only(payments: PaymentsWorld, shell: Shell) -> None:
    """Lost: a replay on the wrong machine, or the way to what came while we were away."""
    who = payments.end_user()
    made = who.checkout()
    payments.double.control("delivery", hold=True)
    payments.double.pay(made["checkout_url"])
    assert shell.ok("stripe", "events", "list")["items"] == []
    code, _, err = shell("stripe", "events", "replay", api="https://api.example.com")
    assert code == 1 and "--remote" in err
    assert shell.ok("stripe", "events", "replay", "--hours", "1")["applied"] == 1
    assert who.balance() == "10.00000000"
    rows = shell.ok("stripe", "events", "list", "--outcome", "applied")["items"]
    assert [row["type"] for row in rows] == ["checkout.session.completed"]
    assert shell.ok("stripe", "events", "replay", rows[0]["id"])["stored"] == 0
    code, out, _ = shell("stripe", "events", "list", "--type", "checkout.session.completed")
    assert code == 0 and "applied" in out
