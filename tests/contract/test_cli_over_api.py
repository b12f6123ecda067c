"""The commands that speak to the control API, against a real one: what they do, print, refuse, and how they end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from books import Books
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


# ── the operator's levers ──


def _statuses(faucet: Faucet, provider: str) -> dict[str, str]:
    return {row["model"]: row["status"] for row in faucet.ok("prices", "list", provider)["items"]}


def test_a_person_decides_over_prices(faucet: Faucet) -> None:
    """Lost: a model is sold at a price that nobody confirmed, or a decision is taken twice."""
    first = faucet.ok("prices", "seed", "--provider", "openai")
    assert first["new_count"] == first["price_count"] > 10
    assert set(_statuses(faucet, "openai").values()) == {"draft"}
    assert faucet("prices", "seed", "--provider", "openai").out.startswith("0 new drafts")
    assert faucet("prices", "confirm", "openai", "gpt-4.1-mini").out == "1 price confirmed.\n"
    assert faucet("prices", "reject", "openai", "gpt-4.1-nano").code == 0
    decided = _statuses(faucet, "openai")
    assert (decided["gpt-4.1-mini"], decided["gpt-4.1-nano"]) == ("confirmed", "rejected")
    refused = faucet("prices", "confirm", "openai", "gpt-4.1-nano")
    assert refused.code == 1 and "has no draft of gpt-4.1-nano" in refused.err
    assert _statuses(faucet, "openai") == decided
    assert "gpt-4.1-mini" in faucet("prices", "list", "openai", "--status", "confirmed").out
    wrong = faucet("prices", "confirm", "openai")
    assert wrong.code == 2 and "name models, or say --all" in wrong.err


def test_a_sync_shows_what_differs_and_drafts_it_once(faucet: Faucet, books: Books) -> None:
    """Lost: a provider's new prices are noticed on its invoice; or a person is asked twice about the same figures."""
    dry = faucet.ok("prices", "sync", "gemini", "deepseek", "--dry-run")
    assert dry["drafts"] == 0 and faucet.ok("prices", "list", "gemini")["items"] == []
    assert {(item["change"], item["provider"]) for item in dry["items"]} == {("added", "gemini"), ("added", "deepseek")}

    first = faucet("prices", "sync", "gemini")
    assert "0 changed, 0 removed" in first.out and "faucet prices confirm <provider> <model>" in first.out
    assert set(_statuses(faucet, "gemini").values()) == {"draft"}
    assert faucet.ok("prices", "sync", "gemini") == {"drafts": 0, "items": []}
    faucet.ok("prices", "set", "gemini", "gemini-2.5-pro", "--input", "0.1", "--output", "1")
    shown = faucet("prices", "sync", "gemini", "--dry-run").out
    assert "$0.10 → $1.25" in shown and "1 changed" in shown and "Nothing was written" in shown
    assert faucet("prices", "sync").out == "0 added, 0 changed, 0 removed; 0 new drafts.\n"
    wrong = faucet("prices", "sync", "nobody")
    assert wrong.code == 2 and "not in the catalogue of providers" in wrong.err


def test_an_operator_sets_a_price(faucet: Faucet) -> None:
    """Lost: an operator's own model can't be sold, or its price is rounded on the way."""
    command = ("prices", "set", "litellm", "mine", "--input", "0.15", "--output", "0.00000001")
    first = faucet.ok(*command)
    assert (first["input_usd_per_m"], first["output_usd_per_m"]) == ("0.15000000", "0.00000001")
    assert (first["status"], first["cached_read_usd_per_m"]) == ("confirmed", "0.15000000")
    assert faucet.ok(*command)["id"] == first["id"]
    changed = faucet.ok("prices", "set", "litellm", "mine", "--input", "0.3", "--output", "1", "--cached-input", "0.1")
    assert changed["id"] > first["id"] and changed["cached_read_usd_per_m"] == "0.10000000"
    for price in ("-1", "0.123456789", "x"):
        wrong = faucet("prices", "set", "litellm", "mine", f"--input={price}", "--output", "1")
        assert wrong.code == 2 and "at most 8 places" in wrong.err
    assert faucet("prices", "set", "litellm", "mine", "--input", "9999999", "--output", "1").code == 1


def test_switches_are_thrown_and_released(faucet: Faucet, acme: str) -> None:
    """Lost: an operator in a hurry writes SQL."""
    assert "Nothing is switched off" in faucet("switches", "list").out
    thrown = faucet.ok("switches", "set", "app", "app_acme", "--reason", "stolen token")
    assert (thrown["target"], thrown["target_id"]) == ("app", "app_acme")
    faucet.ok("switches", "set", "everything", "--reason", "maintenance")
    faucet.ok("switches", "set", "provider", "openai", "--reason", "outage")
    assert {row["target"] for row in faucet.ok("switches", "list")["items"]} == {"app", "everything", "provider"}
    refused = faucet("sessions", "create", "app_acme", "u")
    assert refused.code == 1
    assert faucet("switches", "clear", "app", "app_acme").out == "app_acme is on again.\n"
    assert faucet("switches", "clear", "everything").code == 0 and faucet("switches", "clear", "everything").code == 1
    assert faucet("switches", "clear", "provider").code == 2
    assert faucet.ok("switches", "clear", "provider", "openai")["cleared"] is True


def test_sessions_are_listed_without_bearers_and_revoked(faucet: Faucet, acme: str, tmp_path: Path) -> None:
    """Lost: nobody sees who is in an app, or can end one session of many; or a list gives sessions away."""
    (tmp_path / "reply.yaml").write_text(MANIFEST)
    assert faucet("manifest", "apply", str(tmp_path / "reply.yaml")).code == 0
    bearers = [faucet.ok("sessions", "create", "app_acme", f"u{i}")["session_token"] for i in range(3)]
    listed = faucet("sessions", "list", "app_acme", "--json")
    assert not any(bearer in listed.out for bearer in bearers)
    rows = listed.json["items"]
    assert [row["status"] for row in rows] == ["active"] * 3
    assert faucet("sessions", "revoke", rows[0]["id"], "--app", "app_acme").code == 0
    assert [row["status"] for row in faucet.ok("sessions", "list", "app_acme")["items"]].count("revoked") == 1
    assert len(faucet.ok("sessions", "list", "app_acme", "--running")["items"]) == 2
    assert len(faucet.ok("sessions", "list", "app_acme", "--limit", "1")["items"]) == 1
    token = faucet.ok("tokens", "create", "--name", "t", "--developer", EMAIL, "--scope", "developer:apps:read")[
        "token"
    ]
    assert len(faucet.ok("sessions", "list", "app_acme", "--token", token)["items"]) == 3
    assert faucet("sessions", "revoke", rows[1]["id"], "--app", "app_acme", "--token", token).code == 1
    assert faucet("sessions", "revoke", "01890000-0000-7000-8000-000000000000", "--app", "app_acme").code == 1


WHOLE_MANIFEST = (
    MANIFEST
    + """\
  free_quota: {usd: "0.10"}
input_schema:
  type: object
  properties: {question: {type: string, maxLength: 2000}, tone: {type: string}}
  required: [question]
  additionalProperties: false
prompt:
  system: You are polite. {{ input.tone }}
  user: "{{ input.question }}"
  locked: true
output_schema:
  type: object
  properties: {zeta: {type: string}, alpha: {type: string}}
  required: [zeta, alpha]
  additionalProperties: false
limits:
  requests_per_minute: {end_user: 20, session: 10}
  monthly_spend_usd: {end_user: "5", feature: "100"}
"""
)


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_every_word_of_a_manifest_goes_round(faucet: Faucet, acme: str, tmp_path: Path, form: str) -> None:
    """Lost: what is exported is not what was applied, or applying it again changes something."""
    first, second = tmp_path / "first.yaml", tmp_path / f"second.{form}"
    first.write_text(WHOLE_MANIFEST)
    refused = faucet("manifest", "apply", str(first))
    assert refused.code == 1 and "pricing.free_quota" in refused.err
    assert faucet.ok("developers", "free-quota", EMAIL, "50")["free_quota_monthly_max_usd"] == "50.00000000"
    assert faucet("manifest", "validate", str(first)).code == 0
    assert faucet("manifest", "apply", str(first)).code == 0
    exported = faucet("manifest", "export", "app_acme", "reply", *(["--json"] if form == "json" else []))
    second.write_text(exported.out)
    assert faucet("manifest", "diff", str(second)).code == 0
    assert "as it was" in faucet("manifest", "apply", str(second)).out
    # The order in which a model fills an answer is the order of its schema.
    assert exported.out.index("zeta") < exported.out.index("alpha")
    row = faucet.ok("features", "show", "app_acme", "reply")
    assert row["version"] == 1 and row["prompt"]["locked"] is True
    assert row["limits"]["monthly_spend_usd"] == {"end_user": "5", "feature": "100"}
    without = WHOLE_MANIFEST.partition("limits:")[0].replace("  locked: true\n", "")
    first.write_text(without)
    shown = faucet("manifest", "diff", str(first))
    assert shown.code == 1 and "- limits.requests_per_minute.end_user: 20" in shown.out
    assert "- prompt.locked: true" in shown.out
    assert "changed, version 2" in faucet("manifest", "apply", str(first)).out
    assert "limits" not in faucet.ok("features", "show", "app_acme", "reply")
    assert faucet("manifest", "diff", str(first)).code == 0
    assert faucet.ok("features", "activate", "app_acme", "reply", "1")["limits"] == row["limits"]


def test_a_manifest_that_is_wrong_is_told_with_path_and_suggestion(faucet: Faucet, tmp_path: Path) -> None:
    """Lost: a slip of the pen is found by the first end user."""
    file = tmp_path / "wrong.yaml"
    file.write_text(WHOLE_MANIFEST.replace("{{ input.tone }}", "{{ input.tune }}").replace("maxLength", "maxLenght"))
    told = faucet("manifest", "validate", str(file))
    assert told.code == 1
    assert "input_schema.properties.question.maxLenght" in told.err and "did you mean `maxLength`?" in told.err
    file.write_text(WHOLE_MANIFEST.replace("{{ input.tone }}", "{{ input.tune }}"))
    told = faucet("manifest", "validate", str(file))
    assert "prompt.system: input_schema knows no `input.tune`; did you mean `tone`?" in told.err


def test_limits_are_set_by_the_names_that_people_know(faucet: Faucet, acme: str, books: Books) -> None:
    """Lost: an operator can't cap an app, a feature or a person without looking up row ids, or nobody knows who did."""
    faucet.ok("features", "create", "app_acme", "reply", "--name", "Reply")
    faucet.ok("sessions", "create", "app_acme", "ada")
    for scope, target, period, amount in (
        ("app", "app_acme", "month", "50"),
        ("feature", "app_acme/reply", "total", "0"),
        ("end_user", "app_acme/ada", "month", "0.00000001"),
    ):
        assert faucet("limits", "set", scope, target, "--period", period, "--usd", amount).code == 0
    rows = books.rows("select scope, period, limit_e8 from spend_limit where scope <> 'session' order by id")
    assert rows == [("app", "month", 5_000_000_000), ("feature", "total", 0), ("end_user", "month", 1)]
    assert faucet.ok("apps", "show", "app_acme")["monthly_spend_limit_usd"] == "50.00000000"
    lifted = faucet.ok("limits", "lift", "app", str(books.one("select id from app where public_app_id = 'app_acme'")))
    assert "limit_usd" not in lifted
    assert books.one("select limit_e8 from spend_limit where scope = 'app'") > 10**18
    for target in ("app_other/ada", "app_acme/nobody", "0199b1de-7a40-7000-8000-000000000000"):
        told = faucet("limits", "set", "end_user", target, "--usd", "1")
        assert told.code == 1 and "no such end user" in told.err
    noted = books.rows("select action, resource_type from audit_log where action like 'spend_limit%%' order by id")
    assert noted == [
        ("spend_limit.set", "app"), ("spend_limit.set", "feature"), ("spend_limit.set", "end_user"),
        ("spend_limit.lifted", "app"),
    ]  # fmt: skip


def test_nothing_is_given_away_any_more(faucet: Faucet, acme: str) -> None:
    """Lost: an operator who has begun to give away can't stop it."""
    faucet.ok("developers", "free-quota", EMAIL, "100")
    assert faucet.ok("developers", "free-quota", EMAIL, "0")["free_quota_monthly_max_usd"] == "0.00000000"
