"""Settings: read once, checked whole, and never shown."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import ValidationError

from faucet.kit.config import NAMES, SECRET_NAMES, Config, ConfigRefused, load_config
from faucet.providers.catalog import CATALOG

STRONG = {
    "SECRET_ENCRYPTION_KEY": "Vq0mYc5Jr9TzN1hXo7GuKw3BsL8fDePa2Qi4",
    "ADMIN_TOKEN": "aG7kPz2WmX9rLt4QyB6nVc1JsH8dFe3Uo5Ti",
    "DEVELOPER_ADMIN_TOKEN": "hR3wNb8KvC5yMf1ZpS7gXj2LtQ9eDa6Uo4Ir",
}

WITH_PASSWORD = "postgresql://u:{}@h/db".format("hunter22")


def development(tmp_path: Path, **env: str) -> Config:
    return load_config({"FAUCET_DATA": str(tmp_path / "data")} | env)


def production(tmp_path: Path, **env: str) -> Config:
    given = {
        "FAUCET_DATA": str(tmp_path / "data"),
        "MODELFAUCET_ENV": "production",
        "API_CORS_ORIGINS": "https://app.example",
        "GATEWAY_CORS_ORIGINS": "https://app.example",
        **STRONG,
    }
    return load_config({name: value for name, value in (given | env).items() if value != "-"})


def problems(tmp_path: Path, **env: str) -> list[str]:
    """The names of the settings that production refuses."""
    with pytest.raises(ConfigRefused) as refused:
        production(tmp_path, **env)
    return [problem.partition(":")[0] for problem in refused.value.problems]


# ── development ──


def test_secrets_are_made_up_once_and_kept_to_ourselves(tmp_path: Path) -> None:
    """Lost: a restart logs everybody out; or a neighbour on the machine reads the operator's token."""
    first, second = development(tmp_path), development(tmp_path)
    names = ("secret_encryption_key", "admin_token", "developer_admin_token")
    values = [getattr(first, name).reveal() for name in names]
    assert values == [getattr(second, name).reveal() for name in names]
    assert len(set(values)) == 3 and min(map(len, values)) >= 43
    path = tmp_path / "data" / "secrets.json"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    other = load_config({"FAUCET_DATA": str(tmp_path / "other")})
    assert other.admin_token.reveal() not in values


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    """Lost: the API and the gateway of one machine have different keys."""
    with ThreadPoolExecutor(8) as pool:
        made = {config.admin_token.reveal() for config in pool.map(lambda _: development(tmp_path), range(16))}
    assert len(made) == 1


def test_given_secrets_win_and_are_not_written_down(tmp_path: Path) -> None:
    """Lost: a token from the environment ends in a file."""
    config = development(tmp_path, **STRONG, STATEMENT_SIGNING_KEY="mine")
    assert config.admin_token.reveal() == STRONG["ADMIN_TOKEN"]
    assert not (tmp_path / "data" / "secrets.json").exists()
    partly = development(tmp_path, ADMIN_TOKEN="mine")
    assert partly.admin_token.reveal() == "mine"
    assert "mine" not in (tmp_path / "data" / "secrets.json").read_text()


def test_a_damaged_secrets_file_is_not_replaced(tmp_path: Path) -> None:
    """Lost: a key that sealed replies and hashed users is silently replaced by another."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "secrets.json"
    path.write_text("{")
    with pytest.raises(ConfigRefused, match="FAUCET_DATA"):
        development(tmp_path)
    assert path.read_text() == "{"


def test_a_made_up_file_is_completed(tmp_path: Path) -> None:
    """Lost: an upgrade that needs one more secret makes all others anew."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "secrets.json"
    path.write_text(json.dumps({"ADMIN_TOKEN": "kept"}))
    assert development(tmp_path).admin_token.reveal() == "kept"
    assert set(json.loads(path.read_text())) == {
        "SECRET_ENCRYPTION_KEY", "ADMIN_TOKEN", "DEVELOPER_ADMIN_TOKEN", "STATEMENT_SIGNING_KEY",
    }  # fmt: skip


def test_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    """Lost: clients and scripts that rely on the ports and times of the 1.2 line."""
    config = development(tmp_path)
    assert (config.port_api, config.port_gateway, config.session_token_ttl_seconds) == (3001, 3002, 3600)
    assert (config.provider_timeout_ms, config.provider_max_retries, config.provider_retry_delay_ms) == (30_000, 1, 250)
    assert (config.gateway_rate_limit_max_requests, config.gateway_rate_limit_window_ms) == (0, 60_000)
    assert (config.api_max_body_bytes, config.gateway_max_body_bytes) == (1 << 20, 20 << 20)
    assert config.database_url is None and not config.is_production


# ── values ──


@pytest.mark.parametrize(("given", "e8"), [("12.3", 1_230_000_000), ("-12.30", -1_230_000_000), ("0", 0), ("", None)])
def test_what_is_at_stripe_and_not_from_here_may_be_less_than_nothing(
    tmp_path: Path, given: str, e8: int | None
) -> None:
    """Lost: who knows of a fee that Stripe billed by itself can't say so, and is told of it each night."""
    assert development(tmp_path, STRIPE_FOREIGN_USD=given).stripe_foreign_e8 == e8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODELFAUCET_ENV", "prod"),
        ("PORT_API", "0"),
        ("PORT_API", "http"),
        ("SESSION_TOKEN_TTL_SECONDS", "0"),
        ("GATEWAY_BASE_URL", "ftp://x"),
        ("GATEWAY_BASE_URL", "https://user:pw@x"),
        ("OPENAI_BASE_URL", "https://x/?key=1"),
        ("API_CORS_ORIGINS", "*"),
        ("API_CORS_ORIGINS", "https://app.example/"),
        ("API_CORS_ORIGINS", "https://*.example"),
        ("API_CORS_ORIGINS", "https://App.example"),
        ("API_CORS_ORIGINS", "https://app.example:443"),
        ("API_CORS_ORIGINS", "app.example"),
        ("GATEWAY_CORS_ORIGINS", "https://a.example,nonsense"),
        ("TRUSTED_PROXIES", "10.0.0.0/33"),
        ("TRUSTED_UPSTREAMS", "vllm"),
        ("TRUSTED_UPSTREAMS", "vllm:99999"),
        ("PAYOUT_THRESHOLD_USD", "1.000000001"),
        ("PAYOUT_THRESHOLD_USD", "-1.00"),
        ("STRIPE_FOREIGN_USD", "--1.00"),
        ("PROVIDER_MAX_RETRIES", "-1"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_values_that_are_wrong_are_named(tmp_path: Path, name: str, value: str) -> None:
    """Lost: a typo starts a process with another meaning."""
    with pytest.raises(ConfigRefused) as refused:
        development(tmp_path, **{name: value})
    assert [problem.partition(":")[0] for problem in refused.value.problems] == [name]


def test_values_are_read(tmp_path: Path) -> None:
    """Lost: lists and amounts as the documents describe them; an empty variable counts as unset."""
    config = development(
        tmp_path,
        OPENAI_MODELS=" gpt-4o-mini , gpt-4o,",
        TRUSTED_UPSTREAMS="VLLM:8000,10.0.0.1:80",
        PAYOUT_THRESHOLD_USD="12.5",
        API_CORS_ORIGINS="https://a.example, http://localhost:5173",
        GATEWAY_BASE_URL="https://gateway.example/v1/",
        PORT_API="",
        DATABASE_URL="  ",
    )
    assert config.openai_models == ("gpt-4o-mini", "gpt-4o")
    assert config.trusted_upstreams == ("vllm:8000", "10.0.0.1:80")
    assert config.payout_threshold_e8 == 1_250_000_000
    assert config.api_cors_origins == ("https://a.example", "http://localhost:5173")
    assert config.gateway_base_url == "https://gateway.example/v1"
    assert (config.port_api, config.database_url) == (3001, None)


def test_the_process_s_environment_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost: `load_config()` reads something else than what the process was given."""
    monkeypatch.setenv("FAUCET_DATA", str(tmp_path / "mine"))
    monkeypatch.setenv("PORT_API", "4001")
    monkeypatch.setenv("UNRELATED", "x")
    config = load_config()
    assert (config.faucet_data, config.port_api) == (tmp_path / "mine", 4001)


def test_settings_are_frozen(tmp_path: Path) -> None:
    """Lost: one request changes the settings of the next."""
    with pytest.raises(ValidationError):
        development(tmp_path).port_api = 1  # type: ignore[misc]


# ── secrets ──


@pytest.mark.parametrize("name", [name for name in SECRET_NAMES if name != "OPERATOR_TOKENS"])
def test_every_secret_may_come_from_a_file(tmp_path: Path, name: str) -> None:
    """Lost: secrets of an orchestrator have to be in the environment, where everybody looks."""
    path = tmp_path / "secret"
    path.write_text("  from-a-file\n")
    config = development(tmp_path, **{f"{name}_FILE": str(path)})
    assert getattr(config, NAMES[name]).reveal() == "from-a-file"
    for env in ({name: "x", f"{name}_FILE": str(path)}, {f"{name}_FILE": str(tmp_path / "missing")}):
        with pytest.raises(ConfigRefused, match=name):
            development(tmp_path, **env)
    path.write_text("\n")
    with pytest.raises(ConfigRefused, match="empty"):
        development(tmp_path, **{f"{name}_FILE": str(path)})


def test_secrets_are_listed() -> None:
    """Lost: a password that prints, because its setting was declared as text."""
    of_providers = {f"{name.upper()}_API_KEY" for name in CATALOG} & NAMES.keys() - {"OPENAI_API_KEY"}
    assert len(of_providers) == 20 and of_providers <= {*SECRET_NAMES}
    assert {*SECRET_NAMES} - of_providers == {
        "DATABASE_URL", "REDIS_URL", "SECRET_ENCRYPTION_KEY", "ADMIN_TOKEN", "DEVELOPER_ADMIN_TOKEN", "METRICS_TOKEN",
        "OPENAI_API_KEY", "LITELLM_MASTER_KEY", "MOCK_PROVIDER_API_KEY", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET",
        "KEK_LOCAL_KEY", "KEK_LOCAL_KEY_PREVIOUS", "KEK_TRANSIT_TOKEN", "OPERATOR_TOKENS", "STATEMENT_SIGNING_KEY",
        "STRIPE_CONNECT_WEBHOOK_SECRET",
    }  # fmt: skip


def test_operators_by_name(tmp_path: Path) -> None:
    """Lost: an operator whose token is another's, so that nobody knows who approved; a token in a message."""
    path = tmp_path / "operators"
    path.write_text("alice:token-of-alice , bob:token:of:bob\n")
    config = development(tmp_path, OPERATOR_TOKENS_FILE=str(path))
    assert [(name, token.reveal()) for name, token in config.operator_tokens] == [
        ("alice", "token-of-alice"),
        ("bob", "token:of:bob"),
    ]
    assert "token-of-alice" not in f"{config} {config!r} {config.model_dump()}"
    for wrong in ("alice", "alice:", ":hunter22", "Alice Smith:hunter22", "a:hunter22,a:b", "a:hunter22,b:hunter22"):
        with pytest.raises(ConfigRefused, match="OPERATOR_TOKENS") as refused:
            development(tmp_path, OPERATOR_TOKENS=wrong)
        assert "hunter22" not in str(refused.value)
    same = STRONG["ADMIN_TOKEN"]
    for wrong in (f"alice:{same}", "alice:short", f"alice:{'x' * 40}"):
        assert problems(tmp_path, OPERATOR_TOKENS=wrong) == ["OPERATOR_TOKENS of alice"]
    assert len(production(tmp_path, OPERATOR_TOKENS="alice:Zp4kQw8sXv2nLr7tYb1mHc6dGf3jKa9e").operator_tokens) == 1


def test_neither_settings_nor_refusals_print_a_secret(tmp_path: Path) -> None:
    """Lost: a crash at start writes the database's password into a log."""
    config = development(tmp_path, DATABASE_URL=WITH_PASSWORD, **STRONG)
    shown = f"{config} {config!r} {config.model_dump()} {config.database_url}"
    assert "hunter22" not in shown
    assert not any(value in shown for value in STRONG.values())
    with pytest.raises(ConfigRefused) as refused:
        production(tmp_path, ADMIN_TOKEN="hunter22", PORT_API="x", DATABASE_URL=WITH_PASSWORD)
    assert "hunter22" not in str(refused.value)
    assert refused.value.__cause__ is None and refused.value.__suppress_context__


def test_derived_keys_are_apart(tmp_path: Path) -> None:
    """Lost: who learns one derived key has the other; or a restart can't open what it sealed."""
    config, same = development(tmp_path, **STRONG), development(tmp_path, **STRONG)
    other = development(tmp_path, **(STRONG | {"SECRET_ENCRYPTION_KEY": "another"}))
    keys = {config.external_id_key, config.reply_key, other.external_id_key, other.reply_key}
    assert len(keys) == 4 and {len(key) for key in keys} == {32}
    assert (config.external_id_key, config.reply_key) == (same.external_id_key, same.reply_key)


# ── production ──


def test_production_accepts_what_is_right(tmp_path: Path) -> None:
    """Lost: production that can't be started; or that has no limits on rates."""
    config = production(tmp_path)
    assert config.is_production
    assert (config.api_rate_limit_max_requests, config.gateway_rate_limit_max_requests) == (600, 600)
    assert not (tmp_path / "data").exists()
    assert production(tmp_path, API_RATE_LIMIT_MAX_REQUESTS="0").api_rate_limit_max_requests == 0


@pytest.mark.parametrize("name", [*STRONG, "API_CORS_ORIGINS", "GATEWAY_CORS_ORIGINS"])
def test_production_needs_each(tmp_path: Path, name: str) -> None:
    """Lost: production with a token that it made up itself, or open to every page."""
    assert problems(tmp_path, **{name: "-"}) == [name]


@pytest.mark.parametrize(
    "value",
    [
        "short",
        "x" * 64,
        "change-me-change-me-change-me-0123456789",
        "this-is-the-default-token-of-the-demo-0123",
        "example-token-0123456789-abcdefghijklm",
        "my-super-secret-password-0123456789",
        "abcabcabcabcabcabcabcabcabcabcabcabcabc",
    ],
)
def test_production_refuses_guessable_tokens(tmp_path: Path, value: str) -> None:
    """Lost: the operator's token is the one from a tutorial."""
    assert problems(tmp_path, ADMIN_TOKEN=value) == ["ADMIN_TOKEN"]


def test_production_refuses_equal_tokens_the_mock_and_names_all_at_once(tmp_path: Path) -> None:
    """Lost: one token opens two doors; a free provider answers paying users; one problem shown at a time."""
    same = STRONG["ADMIN_TOKEN"]
    assert problems(tmp_path, DEVELOPER_ADMIN_TOKEN=same, METRICS_TOKEN=same) == [
        "DEVELOPER_ADMIN_TOKEN",
        "METRICS_TOKEN",
    ]
    found = problems(
        tmp_path, ADMIN_TOKEN="x", API_CORS_ORIGINS="*", MOCK_PROVIDER_URL="http://localhost:4010", PORT_API="0"
    )
    assert set(found) == {"ADMIN_TOKEN", "API_CORS_ORIGINS", "MOCK_PROVIDER_URL", "PORT_API"}
