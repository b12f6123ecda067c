"""The commands over the API, as an operator and a developer run them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from conftest import RunningApi
from typer.testing import CliRunner

from faucet.cli.main import app as command
from faucet.kit.errors import FaucetError

Run = Callable[..., Result]
FILE = """
app: shop
features:
  - feature_key: reply
    display_name: Reply
    policy: {route_preference: [platform_pool], fit_to_wallet: true}
    pricing: {mode: usage_markup, markup_percent: 12.5, channel_share_bps: 4000}
"""


@pytest.fixture
def run(api: RunningApi) -> Run:
    def run(*words: str, token: str | None = None, text: str | None = None) -> Result:
        who = token or api.config.admin_token.reveal()
        options = [] if words[:2] == ("manifest", "validate") else ["--api", api.base_url, "--token", who]
        return CliRunner().invoke(command, [*words, *options], input=text)

    return run


def done(result: Result, code: int = 0) -> str:
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def test_from_a_developer_to_a_feature(run: Run, tmp_path: Path) -> None:
    """Lost: an installation that can only be run with curl."""
    made = json.loads(done(run("developers", "create", "Ada Ltd", "ada@example.com", "--json")))
    scopes = [f"--scope=developer:{what}" for what in ("apps:read", "apps:write", "features:read", "features:write")]
    token = done(run("tokens", "create", "laptop", f"--developer={made['id']}", *scopes)).strip()
    assert token.startswith("mf_dev_")
    assert "laptop" in done(run("tokens", "list")) and token not in done(run("tokens", "list", "--json"))
    shop = json.loads(done(run("apps", "create", "shop", "Shop", "--signed", "--json", token=token)))
    assert (shop["identity_mode"], shop["developer_id"]) == ("signed", made["id"])

    file = tmp_path / "features.yaml"
    file.write_text(FILE)
    assert "1 feature of shop" in done(run("manifest", "validate", str(file)))
    assert "policy.fit_to_wallet: (not there) → true" in done(run("manifest", "diff", str(file), token=token), 1)
    assert "1 of 1 changed" in done(run("manifest", "apply", str(file), token=token))
    assert "Nothing differs" in done(run("manifest", "diff", str(file), token=token))
    assert "0 of 1 changed" in done(run("manifest", "apply", "-", token=token, text=FILE))
    exported = done(run("manifest", "export", "shop", token=token))
    assert "markup_percent: 12.5" in exported
    assert "Nothing differs" in done(run("manifest", "diff", "-", token=token, text=exported))
    changed = FILE.replace("12.5", "20")
    assert "pricing.markup_percent: 12.5 → 20" in done(run("manifest", "apply", "-", token=token, text=changed))
    listed = json.loads(done(run("features", "list", "shop", "--json")))["items"]
    assert [(feature["feature_key"], feature["version"]) for feature in listed] == [("reply", 2)]

    assert "archived" in done(run("features", "archive", "shop", "reply"))
    assert "disabled" in done(run("apps", "disable", "shop"))
    assert "shop" in done(run("apps", "list")) and "signed" in done(run("apps", "show", "shop"))
    assert "There are none" in done(run("wallets", "list")) or "Ada" in done(run("wallets", "list"))
    assert "disabled" in done(run("developers", "disable", made["id"]))
    assert "ada@example.com" in done(run("developers", "list", "--json"))


def test_what_the_api_refuses_is_told(run: Run, tmp_path: Path) -> None:
    """Lost: a traceback, or an exit code 0, for a word of the API."""
    refused = run("apps", "show", "nobody")
    assert isinstance(refused.exception, FaucetError) and "invalid_app" in str(refused.exception)
    stranger = run("apps", "list", token="mf_dev_" + "x" * 43)
    assert isinstance(stranger.exception, FaucetError) and "invalid_session" in str(stranger.exception)
    bad = tmp_path / "bad.yaml"
    bad.write_text(FILE.replace("policy:", "polcy:"))
    result = run("manifest", "validate", str(bad))
    assert result.exit_code == 1 and "did you mean `policy`?" in result.stderr.replace("\n", " ")
