"""The commands that speak to the control API, against a real one: what they do, print, refuse, and how they end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import RunningApi

from faucet.cli.main import app, main

EMAIL = "dev@acme.example"
MANIFEST = """\
app: app_acme
feature: reply
display_name: Reply
policy:
  models: [mock-small]
pricing:
  markup_percent: 30
"""


@dataclass
class Told:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


@dataclass
class Faucet:
    """The command line as an operator has it beside a running API."""

    capsys: pytest.CaptureFixture[str]

    def __call__(self, *words: str) -> Told:
        try:
            main(partial(app, list(words), standalone_mode=True))
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        shown = self.capsys.readouterr()
        return Told(code, shown.out, shown.err)

    def ok(self, *words: str) -> Any:
        """What a command that must work gives as JSON."""
        told = self(*words, "--json")
        assert told.code == 0, told.err
        return told.json


@pytest.fixture
def faucet(api: RunningApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Faucet]:
    """Commands whose data dir belongs to the API's stack, which wrote down where it is."""
    data = api.config.faucet_data
    (data / "stack.json").write_text(json.dumps({"api": api.base_url}))
    monkeypatch.setenv("FAUCET_DATA", str(data))
    for name in ("ADMIN_TOKEN", "MODELFAUCET_TOKEN", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    yield Faucet(capsys)


@pytest.fixture
def acme(faucet: Faucet) -> str:
    """A developer with an app; the id."""
    made = faucet.ok("developers", "create", "--name", "Acme", "--email", EMAIL)
    faucet.ok("apps", "create", "app_acme", "--name", "Acme desk", "--developer", EMAIL)
    return str(made["id"])


def test_developers_by_id_and_address(faucet: Faucet, acme: str) -> None:
    """Lost: an operator who keeps developers by hand-written requests."""
    assert faucet.ok("developers", "show", EMAIL)["id"] == acme
    assert faucet.ok("developers", "show", acme)["email"] == EMAIL
    assert faucet.ok("developers", "rename", EMAIL, "Acme Ltd")["name"] == "Acme Ltd"
    assert [row["id"] for row in faucet.ok("developers", "list")["items"]] == [acme]
    table = faucet("developers", "list")
    assert table.code == 0
    assert EMAIL in table.out and "Acme Ltd" in table.out and table.err == ""
    assert faucet.ok("developers", "disable", EMAIL)["status"] == "disabled"
    assert faucet.ok("developers", "enable", EMAIL)["status"] == "active"
    assert faucet.ok("developers", "revenue", EMAIL)["lifetime_revenue_usd"] == "0.00000000"


def test_a_key_makes_one_of_it(faucet: Faucet) -> None:
    """Lost: a script that is run twice makes two."""
    words = ("developers", "create", "--name", "A", "--email", "a@b.example", "--key", "onboarding-1")
    assert faucet.ok(*words) == faucet.ok(*words)
    other = faucet(*words[:2], "--name", "B", "--email", "b@b.example", "--key", "onboarding-1")
    assert other.code == 1
    assert "idempotency_conflict" in other.err


def test_apps_from_making_to_archiving(faucet: Faucet, acme: str) -> None:
    """Lost: a setting of an app that can't be set, or lifted, from here."""
    made = faucet.ok(
        "apps", "create", "app_2", "--name", "Two", "--developer", acme, "--share-bps", "2500",
        "--origin", "https://two.example", "--monthly-limit", "50", "--session-limit", "1.5",
        "--wallet-low", "3",
    )  # fmt: skip
    assert (made["default_revenue_share_bps"], made["allowed_origins"]) == (2500, ["https://two.example"])
    assert (made["monthly_spend_limit_usd"], made["session_spend_limit_usd"]) == ("50.00000000", "1.50000000")
    assert made["wallet_low_usd"] == "3.00000000"
    changed = faucet.ok("apps", "change", "app_2", "--monthly-limit", "none", "--origin", "none", "--name", "Second")
    assert "monthly_spend_limit_usd" not in changed
    assert (changed["allowed_origins"], changed["name"]) == ([], "Second")
    assert faucet.ok("apps", "disable", "app_2")["status"] == "disabled"
    assert faucet.ok("apps", "enable", "app_2")["status"] == "active"
    assert faucet.ok("apps", "archive", "app_2")["status"] == "archived"
    assert {row["public_app_id"] for row in faucet.ok("apps", "list")["items"]} == {"app_acme", "app_2"}
    assert faucet.ok("apps", "usage", "app_acme")["total_calls"] == 0
    assert faucet("apps", "change", "app_2").code == 2


def test_tokens_and_what_they_may(faucet: Faucet, acme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost: a developer's token does more than it says, or the operator's token is used where one was given."""
    made = faucet.ok("tokens", "create", "--name", "r", "--developer", EMAIL, "--scope", "developer:apps:read")
    assert made["token"].startswith("mf_dev_")
    assert made["item"]["scopes"] == ["developer:apps:read"]
    monkeypatch.setenv("MODELFAUCET_TOKEN", made["token"])
    assert [row["public_app_id"] for row in faucet.ok("apps", "list")["items"]] == ["app_acme"]
    refused = faucet("apps", "archive", "app_acme")
    assert refused.code == 1
    assert "lacks the scope developer:apps:write" in refused.err
    assert made["token"] not in refused.err
    monkeypatch.delenv("MODELFAUCET_TOKEN")
    listed = faucet("tokens", "list")
    assert made["item"]["token_prefix"] in listed.out.replace("\n", "")
    assert made["token"] not in listed.out
    assert faucet.ok("tokens", "revoke", made["item"]["id"])["status"] == "revoked"
    assert faucet("apps", "list", "--token", made["token"]).code == 1
    wrong = faucet("tokens", "create", "--name", "x", "--developer", EMAIL, "--scope", "everything")
    assert wrong.code == 2
    assert "developer:apps:read" in wrong.err


def test_sessions_and_wallets(faucet: Faucet, acme: str) -> None:
    """Lost: money that is corrected without a trace, or a session that can't be ended."""
    token = faucet.ok("sessions", "create", "app_acme", "somebody")["session_token"]
    wallet = faucet.ok("wallets", "show", "--session", token)["id"]
    assert faucet.ok("wallets", "credit", wallet, "5.00")["balance_usd"] == "5.00000000"
    words = ("wallets", "adjust", wallet, "--debit", "1.25", "--reason", "a test", "--key", "ticket-4711")
    assert faucet.ok(*words)["wallet_balance_usd"] == "3.75000000"
    assert faucet.ok(*words)["wallet_balance_usd"] == "3.75000000"
    too_much = faucet("wallets", "adjust", wallet, "--debit", "9")
    assert too_much.code == 1
    assert "insufficient_balance" in too_much.err
    assert faucet("wallets", "adjust", wallet).code == 2
    balances = {row["id"]: row["balance_usd"] for row in faucet.ok("wallets", "list")["items"]}
    assert balances[wallet] == "3.75000000"
    assert faucet("sessions", "revoke", token).out == "Revoked.\n"
    assert "invalid_session" in faucet("wallets", "show", "--session", token).err


def test_a_manifest_from_file_to_force_and_back(faucet: Faucet, acme: str, tmp_path: Path) -> None:
    """Lost: a file in a repository and what is in force drift apart, and nothing says so."""
    file = tmp_path / "reply.yaml"
    file.write_text(MANIFEST)
    assert faucet.ok("manifest", "validate", str(file)) == {"ok": True, "features": ["reply"]}
    new = faucet("manifest", "diff", str(file))
    assert new.code == 1
    assert '+ policy.models: ["mock-small"]' in new.out

    (made,) = faucet.ok("manifest", "apply", str(file))["items"]
    assert (made["outcome"], made["version"]) == ("made", 1)
    (again,) = faucet.ok("manifest", "apply", str(file))["items"]
    assert (again["outcome"], again["version"]) == ("as it was", 1)
    assert faucet("manifest", "diff", str(file)).code == 0

    file.write_text(MANIFEST.replace("30", "45"))
    (changes,) = faucet_diff(faucet, file)
    assert changes == ["~ pricing.markup_percent: 30 → 45"]
    (changed,) = faucet.ok("manifest", "apply", str(file))["items"]
    assert (changed["outcome"], changed["version"]) == ("changed", 2)
    assert [row["version"] for row in faucet.ok("features", "versions", "app_acme", "reply")["items"]] == [2, 1]
    assert faucet.ok("features", "activate", "app_acme", "reply", "1")["pricing"] == {"markup_percent": 30}

    exported = faucet("manifest", "export", "app_acme", "reply")
    file.write_text(exported.out)
    assert faucet("manifest", "diff", str(file)).code == 0
    assert json.loads(faucet("manifest", "export", "app_acme", "--json").out)["feature"] == "reply"

    faucet.ok("features", "archive", "app_acme", "reply")
    assert faucet("features", "show", "app_acme", "reply").code == 1
    (back,) = faucet.ok("manifest", "apply", str(file))["items"]
    assert back["outcome"] == "brought back"
    assert faucet.ok("features", "show", "app_acme", "reply")["status"] == "active"


def faucet_diff(faucet: Faucet, file: Path) -> list[list[str]]:
    """What applying a file would change, by feature."""
    return [each["changes"] for each in faucet("manifest", "diff", str(file), "--json").json["items"]]


def test_nothing_of_a_faulty_manifest_is_applied(faucet: Faucet, acme: str, tmp_path: Path) -> None:
    """Lost: half of a file is in force and the other half isn't."""
    file = tmp_path / "two.yaml"
    file.write_text(
        f"{MANIFEST}---\n{MANIFEST.replace('feature: reply', 'feature: other').replace('models', 'modles')}"
    )
    told = faucet("manifest", "apply", str(file))
    assert told.code == 1
    assert "[1].policy.modles: unknown word; did you mean `models`?" in told.err
    assert faucet.ok("features", "list", "app_acme")["items"] == []
    validated = faucet("manifest", "validate", str(file), "--json")
    assert (validated.code, validated.json["ok"], len(validated.json["problems"])) == (1, False, 1)

    file.write_text(MANIFEST.replace("app: app_acme\n", ""))
    assert "--app" in faucet("manifest", "apply", str(file)).err
    assert "invalid_app" in faucet("manifest", "apply", str(file), "--app", "nobody").err
    file.write_bytes(b"\xff\xfe")
    assert "UTF-8" in faucet("manifest", "validate", str(file)).err
    assert "No such file" in faucet("manifest", "validate", str(tmp_path / "none.yaml")).err


def test_features_without_a_file(faucet: Faucet, acme: str) -> None:
    """Lost: a feature that needs a file where two words would do."""
    made = faucet.ok("features", "create", "app_acme", "f", "--name", "F", "--pricing", '{"markup_percent": 5}')
    assert made["pricing"] == {"markup_percent": 5}
    assert faucet.ok("features", "restore", "app_acme", "f")["status"] == "active"
    assert "JSON object" in faucet("features", "create", "app_acme", "g", "--name", "G", "--policy", "[]").err
    wrong = faucet("features", "create", "app_acme", "g", "--name", "G", "--policy", '{"modles": []}')
    assert (wrong.code, "policy.modles" in wrong.err) == (1, True)


def test_faults_are_one_line(faucet: Faucet, tmp_path: Path) -> None:
    """Lost: a traceback where a sentence would do, or a caller who is nobody."""
    nobody = faucet("apps", "list", "--data", str(tmp_path / "none"), "--api", "http://127.0.0.1:1")
    assert nobody.code == 1
    assert "who calls?" in nobody.err
    away = faucet("apps", "list", "--api", "http://127.0.0.1:1")
    assert away.err.startswith("Error: nothing answers at http://127.0.0.1:1/v1/developer/apps")
    assert "there is no developer" in faucet("developers", "show", "nobody@x.example").err
    assert "neither a developer's id nor" in faucet("developers", "show", "nobody").err
    assert "invalid_app" in faucet("apps", "show", "nobody").err
    # What would be another path or a query is still one word of the path.
    assert "not_found" in faucet("apps", "show", "no/such?app").err
