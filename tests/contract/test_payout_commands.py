"""`faucet payouts …` over a running API, by two operators."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from books import Books
from payout_world import ALICE, BOB, USD, PayoutWorld, payout_world

from faucet.cli.main import app, main


@pytest.fixture
def world(dsn: str, books: Books, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PayoutWorld]:
    with payout_world(dsn, books, tmp_path) as world:
        data = world.config.faucet_data
        (data / "stack.json").write_text(json.dumps({"api": world.base_url}))
        monkeypatch.setenv("FAUCET_DATA", str(data))
        for name in ("ADMIN_TOKEN", "MODELFAUCET_TOKEN", "DATABASE_URL"):
            monkeypatch.delenv(name, raising=False)
        yield world
        world.check()


def _faucet(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        main(partial(app, list(words), standalone_mode=True))
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_a_payout_from_the_command_line(world: PayoutWorld, capsys: pytest.CaptureFixture[str]) -> None:
    """Lost: an operator who moves money out by hand-written requests."""

    def told(*words: str) -> Any:
        code, out, err = _faucet(capsys, "payouts", *words, "--json")
        assert code == 0, err
        return json.loads(out)

    tenant = world.rich(40, account=False)
    world.grow_old()
    assert "There are none" in _faucet(capsys, "payouts", "list")[1]
    owner = str(tenant.developer)
    asked = told("request", "--amount", "5.00", "--developer", owner, "--token", ALICE, "--key", "payout-by-hand")
    assert asked == told(
        "request", "--amount", "5.00", "--developer", owner, "--token", ALICE, "--key", "payout-by-hand"
    )
    code, _, err = _faucet(capsys, "payouts", "approve", asked["id"], "--token", ALICE)
    assert code == 1 and "somebody else" in err
    assert told("approve", asked["id"], "--note", "fine", "--token", BOB)["status"] == "approved"
    assert told("mark-paid", asked["id"], "--reference", "SEPA 4", "--token", BOB)["provider_payout_id"] == "SEPA 4"
    assert told("show", asked["id"])["operator_note"] == "fine"
    (run,) = told("run", "--threshold", "2", "--token", ALICE)["items"]
    assert run["amount_usd"] == "35.00000000"
    assert told("cancel", run["id"], "--reason", "wrong month")["reason"] == "wrong month"
    own = told("request", "--token", world.token_of(tenant))
    told("approve", own["id"], "--token", BOB)
    assert told("fail", own["id"], "--reason", "no such bank")["status"] == "failed"
    rows = told("list", "--status", "failed", "--developer", owner)["items"]
    assert [row["id"] for row in rows] == [own["id"]]
    table = _faucet(capsys, "payouts", "list")[1]
    assert "paid" in table and "cancelled" in table and "no such bank" in table
    assert world.earnings(tenant) == 35 * USD
