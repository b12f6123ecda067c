"""Every setting of every process: read once at start, checked as a whole, then one frozen value.

Settings are environment variables; each that is a secret may also be given as `<NAME>_FILE`, a file with it
inside. An empty variable counts as unset. In development, tokens that are unset are made up once and kept in
`<data>/secrets.json`, so that a restart doesn't log everybody out; production refuses to start without them.

Keys are derived from SECRET_ENCRYPTION_KEY with HKDF-SHA256 (RFC 5869, no salt), each for one purpose, so that
none can stand in for another: `external_id_key` (HMAC-SHA256 over end users' external ids), `reply_key` and
`api_reply_key` (AES-256-GCM over the gateway's and the API's replies kept for repeated Idempotency-Keys). Not here:
what a setting does.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from faucet.kit.config_kinds import NamedSecrets as _NamedSecrets
from faucet.kit.config_kinds import ProviderSettings
from faucet.kit.config_kinds import SecretText as _Secret
from faucet.kit.config_kinds import Url as _Url
from faucet.kit.config_kinds import Words as _List
from faucet.kit.config_kinds import split_words as _split
from faucet.kit.embedded_postgres import default_data_dir
from faucet.kit.errors import FaucetError
from faucet.kit.money import E8_PER_USD, from_wire
from faucet.kit.origin import exact_origin
from faucet.kit.proxies import parse_networks
from faucet.kit.secret import Secret

SECRET_CHARACTERS_MIN = 32
SECRETS_FILE = "secrets.json"
_REQUIRED = ("SECRET_ENCRYPTION_KEY", "ADMIN_TOKEN", "DEVELOPER_ADMIN_TOKEN")
_MADE_UP = (*_REQUIRED, "STATEMENT_SIGNING_KEY")
_PLACEHOLDER = re.compile(r"change|replace|example|default|placeholder|insert|your[-_]|secret|password", re.I)
_PRODUCTION_REQUESTS_MAX = 600
_PRODUCTION_OPEN_SESSION_USD = "1.00"

Environment = Literal["development", "production"]


class ConfigRefused(FaucetError):
    """The settings can't be used. Names each one and what is wrong with it, never its value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("settings refused:\n" + "\n".join(f"- {problem}" for problem in problems))
        self.problems = problems


def _host_port(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"{text!r} is not host:port")
    return text.lower()


def _signed(text: str) -> int:
    """An amount that may be below zero."""
    return -from_wire(text[1:]) if text.startswith("-") else from_wire(text)


def _network(text: str) -> str:
    parse_networks([text])
    return text


_Origins = Annotated[tuple[Annotated[str, AfterValidator(exact_origin)], ...], BeforeValidator(_split)]
_HostPorts = Annotated[tuple[Annotated[str, AfterValidator(_host_port)], ...], BeforeValidator(_split)]
_Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], BeforeValidator(_split)]
_Usd = Annotated[int, BeforeValidator(lambda value: from_wire(value) if isinstance(value, str) else value)]
_SignedUsd = Annotated[int, BeforeValidator(lambda value: _signed(value) if isinstance(value, str) else value)]
_Port = Annotated[int, Field(ge=1, le=65_535)]
_Ports = Annotated[tuple[_Port, ...], BeforeValidator(_split)]
_PathWord = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
_Seconds = Annotated[int, Field(ge=1, le=86_400)]
_Milliseconds = Annotated[int, Field(ge=1, le=86_400_000)]
_Bytes = Annotated[int, Field(ge=1_024, le=1 << 30)]


class Config(ProviderSettings):
    """The settings by name, lower-cased. Made by `load_config` only."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, validate_default=False)

    modelfaucet_env: Environment = "development"
    faucet_data: Path
    """Where what this machine keeps lives: the embedded database, made-up secrets, the gateway's spool."""
    bind_address: str = "127.0.0.1"
    port_api: _Port = 3001
    port_gateway: _Port = 3002
    port_jobs: _Port | None = None
    """Where the jobs' process serves /health, /ready and /metrics; unset: nowhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    drain_seconds: _Seconds = 30
    """How long a process that was told to stop lets requests in flight end."""

    database_url: _Secret | None = None
    """Absent: an embedded PostgreSQL starts in `faucet_data`."""
    redis_url: _Secret | None = None

    secret_encryption_key: _Secret
    admin_token: _Secret
    operator_tokens: _NamedSecrets = ()
    """Further operators, each by a name and a token of their own, so that it is known who did what."""
    developer_admin_token: _Secret
    kek_provider: Literal["local", "aws_kms", "transit"] = "local"
    """What wraps the vault's private keys: a key from here, or a service that keeps one."""
    kek_local_key: _Secret | None = None
    """Absent: the key is derived from SECRET_ENCRYPTION_KEY."""
    kek_local_key_previous: _Secret | None = None
    """Only unwraps, until `faucet reseal` has run."""
    kek_aws_key_id: str | None = None
    kek_aws_endpoint_url: _Url | None = None
    kek_transit_url: _Url | None = None
    kek_transit_token: _Secret | None = None
    kek_transit_mount: _PathWord = "transit"
    kek_transit_key: _PathWord = "modelfaucet"
    metrics_token: _Secret | None = None
    """The bearer for /metrics; absent, /metrics is open to who can reach it."""

    gateway_base_url: _Url = "http://localhost:3002/v1"
    """What a session tells its client to call."""
    session_token_ttl_seconds: Annotated[int, Field(ge=60, le=2_592_000)] = 3600
    session_rate_limit_max_requests: Annotated[int, Field(ge=0)] = 0
    """New sessions per app and window, in each process; 0 is no limit."""
    session_rate_limit_window_ms: _Milliseconds = 60_000
    open_session_spend_limit_e8: _Usd = Field(default=0, validation_alias="open_session_spend_limit_usd")
    """What a session of an app that signs nothing may spend at most; 0 is no limit but the app's own."""
    open_sessions_spend_paid_money: bool = False
    """Whether an app that signs nothing may mint sessions for wallets that money was paid into."""
    api_cors_origins: _Origins = ()
    gateway_cors_origins: _Origins = ()
    trusted_proxies: _Networks = ()
    """Addresses or networks whose X-Forwarded-For is believed."""
    api_rate_limit_max_requests: Annotated[int, Field(ge=0)] = 0
    """Per client address and window; 0 is no limit."""
    api_rate_limit_window_ms: _Milliseconds = 60_000
    gateway_rate_limit_max_requests: Annotated[int, Field(ge=0)] = 0
    """Per session and window; 0 is no limit."""
    gateway_rate_limit_window_ms: _Milliseconds = 60_000
    api_max_body_bytes: _Bytes = 1 << 20
    gateway_max_body_bytes: _Bytes = 20 << 20

    hold_lease_seconds: Annotated[int, Field(ge=5, le=3_600)] = 60
    hold_wait_seconds: Annotated[int, Field(ge=0, le=30)] = 2
    """How long a hold that only others' holds keep from fitting may wait for them."""
    settle_deadline_seconds: _Seconds = 10
    """How long a reply's last byte waits for the database before the reply ends as an error."""

    openai_api_key: _Secret | None = None
    openai_base_url: _Url = "https://api.openai.com/v1"
    openai_models: _List = ()
    """What `auto` may choose of OpenAI's; empty: everything with a confirmed price."""
    litellm_base_url: _Url | None = None
    litellm_master_key: _Secret | None = None
    mock_provider_url: _Url | None = None
    mock_provider_api_key: _Secret | None = None
    trusted_upstreams: _HostPorts = ()
    """Private addresses that the operator's own providers may have in production, as host:port."""
    tenant_upstream_ports: _Ports = ()
    """Ports besides 443 that addresses of tenants may have."""
    tenant_upstream_http: bool = False
    """Whether addresses of tenants may be plain http; for development."""
    webhook_loopback: bool = False
    """Whether webhooks may go to plain http on this very machine; for development."""
    wallet_low_e8: _Usd = Field(default=E8_PER_USD, validation_alias="wallet_low_usd")
    """Below this a wallet is reported low, where its app says nothing else; 0 is never."""
    provider_timeout_ms: _Milliseconds = 30_000
    """To the first byte."""
    provider_idle_timeout_ms: _Milliseconds = 30_000
    provider_total_timeout_ms: _Milliseconds = 600_000
    provider_max_retries: Annotated[int, Field(ge=0, le=10)] = 1
    provider_retry_delay_ms: Annotated[int, Field(ge=0, le=60_000)] = 250

    stripe_secret_key: _Secret | None = None
    stripe_webhook_secret: _Secret | None = None
    stripe_connect_webhook_secret: _Secret | None = None
    """What Stripe signs events of connected accounts with, which it sends by an endpoint of their own."""
    stripe_api_base: _Url | None = None
    """Where Stripe's API is; for development, with `faucet mock-stripe`."""
    stripe_foreign_e8: _SignedUsd | None = Field(default=None, validation_alias="stripe_foreign_usd")
    """What of the platform's balance at Stripe isn't from here; below zero: what left and isn't known here. Unset:
    that balance is not compared with the ledger."""
    top_up_min_e8: _Usd = Field(default=E8_PER_USD // 2, validation_alias="top_up_min_usd")
    """The least that a person may pay in at once; Stripe takes nothing below 0.50."""
    top_up_max_e8: _Usd = Field(default=1_000 * E8_PER_USD, validation_alias="top_up_max_usd")
    payout_threshold_e8: _Usd = Field(default=10 * E8_PER_USD, validation_alias="payout_threshold_usd")
    """The least that a payout may be."""
    payout_max_e8: _Usd = Field(default=10_000 * E8_PER_USD, validation_alias="payout_max_usd")
    """The most that a payout may be; 0 is no limit."""
    payout_daily_max_e8: _Usd = Field(default=20_000 * E8_PER_USD, validation_alias="payout_daily_max_usd")
    """What one developer's payouts of a day, in UTC, may come to; 0 is no limit."""
    payout_hold_back_days: Annotated[int, Field(ge=0, le=365)] = 14
    """Earnings younger than this are not paid out."""
    payout_run_day: Annotated[int, Field(ge=0, le=28)] = 0
    """The day of the month on which payouts are opened for everybody who has earned enough; 0 is never."""

    statement_signing_key: _Secret | None = None
    """What the jobs sign statements with; without it, in production, no month is closed."""
    statement_font: Path | None = None
    """A font file for letters other than Latin ones in printed statements."""
    period_close_grace_hours: Annotated[int, Field(ge=1, le=2_000)] = 72
    """How long after its end a month can be closed: a settlement that comes later is of the next month."""
    period_close_automatic: bool = False
    """Whether the jobs close a month by themselves once it can be."""
    invoice_tolerance_bps: Annotated[int, Field(ge=0, le=10_000)] = 100
    """By how much a provider's invoice may differ from our books, per day and model, in basis points."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # `load_config` hands everything over, so that nothing is read behind its back.
        return (init_settings,)

    @property
    def is_production(self) -> bool:
        return self.modelfaucet_env == "production"

    @property
    def stripe_is_live(self) -> bool | None:
        """Whether Stripe's key moves real money; None where there is none, or it doesn't say."""
        if self.stripe_secret_key is None:
            return None
        mode = self.stripe_secret_key.reveal()[2:8]
        return {"_live_": True, "_test_": False}.get(mode)

    @property
    def external_id_key(self) -> bytes:
        """The HMAC key under which end users' external ids are hashed."""
        return self._derive(b"modelfaucet external id v1")

    @property
    def reply_key(self) -> bytes:
        """The AES-256-GCM key that seals replies kept for repeated Idempotency-Keys."""
        return self._derive(b"modelfaucet idempotent reply v1")

    @property
    def api_reply_key(self) -> bytes:
        """The AES-256-GCM key that seals the control API's replies kept for repeated Idempotency-Keys."""
        return self._derive(b"modelfaucet api reply v1")

    @property
    def signing_key(self) -> bytes:
        """The AES-256-GCM key that seals the secrets with which apps sign their users' ids."""
        return self._derive(b"modelfaucet app signing key v1")

    @property
    def statement_seed(self) -> bytes | None:
        """The seed of the Ed25519 key that signs statements, where there is one."""
        key = self.statement_signing_key
        return None if key is None else _hkdf(key, b"modelfaucet statement v1")

    @property
    def webhook_key(self) -> bytes:
        """The AES-256-GCM key that seals the secrets with which webhooks are signed."""
        return self._derive(b"modelfaucet webhook secret v1")

    def _derive(self, purpose: bytes) -> bytes:
        return _hkdf(self.secret_encryption_key, purpose)


def _hkdf(master: Secret, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(master.reveal().encode())


NAMES = {str(field.validation_alias or name).upper(): name for name, field in Config.model_fields.items()}
"""Every setting: its variable, and its name in `Config`."""
SECRET_NAMES = tuple(name for name, field in NAMES.items() if "Secret" in str(Config.model_fields[field].annotation))
"""The settings that may be given as a file."""


def load_config(env: Mapping[str, str] | None = None) -> Config:
    """The settings that these variables (the process's own, unless given) describe.

    Raises ConfigRefused with every problem at once.
    """
    env = os.environ if env is None else env
    problems: list[str] = []
    given = _collect(env, problems)
    data_dir = Path(given.pop("FAUCET_DATA", "") or default_data_dir()).expanduser().absolute()
    environment = given.get("MODELFAUCET_ENV", "development")
    if environment == "production":
        problems += _production_problems(given)
        given.setdefault("API_RATE_LIMIT_MAX_REQUESTS", str(_PRODUCTION_REQUESTS_MAX))
        given.setdefault("GATEWAY_RATE_LIMIT_MAX_REQUESTS", str(_PRODUCTION_REQUESTS_MAX))
        given.setdefault("SESSION_RATE_LIMIT_MAX_REQUESTS", str(_PRODUCTION_REQUESTS_MAX))
        given.setdefault("OPEN_SESSION_SPEND_LIMIT_USD", _PRODUCTION_OPEN_SESSION_USD)
    elif environment == "development":
        given.setdefault("OPEN_SESSIONS_SPEND_PAID_MONEY", "true")  # there is no real money to lose
        unset = [name for name in _MADE_UP if name not in given]
        if unset:
            made_up = _made_up_secrets(data_dir, problems)
            given |= {name: made_up[name] for name in unset}
    values: dict[str, Any] = {name.lower(): value for name, value in given.items()}
    try:
        config = Config(**values, faucet_data=data_dir)
    except ValidationError as error:
        # Only places and texts: the error's own text would show the values.
        problems += [
            f"{str(item['loc'][0]).upper()}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False, include_url=False, include_context=False)
            if item["type"] != "missing"  # of those another line speaks
        ]
        raise ConfigRefused(problems) from None
    if problems:
        raise ConfigRefused(problems)
    return config


def _collect(env: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    """The variables that are settings and not empty, those in files included."""
    given: dict[str, str] = {}
    for name in NAMES:
        if value := env.get(name, "").strip():
            given[name] = value
        path = env.get(f"{name}_FILE", "").strip()
        if not path or name not in SECRET_NAMES:
            continue
        if value:
            problems.append(f"{name}: set either it or {name}_FILE, not both")
            continue
        try:
            given[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{name}_FILE: can't be read ({type(error).__name__})")
            continue
        if not given[name]:
            problems.append(f"{name}_FILE: the file is empty")
    return given


def _production_problems(given: Mapping[str, str]) -> Iterator[str]:
    """What production refuses: tokens that are missing, guessable or shared, and open CORS."""
    for name in _REQUIRED:
        if name not in given:
            yield f"{name}: must be set in production"
    owner: dict[str, str] = {}
    named = [(name, given[name]) for name in (*_MADE_UP, "METRICS_TOKEN", "KEK_LOCAL_KEY") if name in given]
    for part in _split(given.get("OPERATOR_TOKENS", "")):
        operator, colon, token = part.partition(":")
        if colon:  # else another line complains, and the part may be a token
            named.append((f"OPERATOR_TOKENS of {operator[:64]}", token))
    for name, value in named:
        if len(value) < SECRET_CHARACTERS_MIN:
            yield f"{name}: must have at least {SECRET_CHARACTERS_MIN} characters"
        elif _PLACEHOLDER.search(value) or len(set(value)) < 10:
            yield f"{name}: looks like a placeholder; use random text, such as `openssl rand -base64 48`"
        if value in owner:
            yield f"{name}: must differ from {owner[value]}"
        owner[value] = name
    for name in ("API_CORS_ORIGINS", "GATEWAY_CORS_ORIGINS"):
        if name not in given:
            yield f"{name}: must list the exact origins that may call, in production"
    if given.get("TENANT_UPSTREAM_HTTP", "").lower() not in ("", "0", "false", "no", "off"):
        yield "TENANT_UPSTREAM_HTTP: plain http to addresses of tenants is for development"
    if given.get("WEBHOOK_LOOPBACK", "").lower() not in ("", "0", "false", "no", "off"):
        yield "WEBHOOK_LOOPBACK: webhooks to this very machine are for development"
    if "MOCK_PROVIDER_URL" in given:
        yield "MOCK_PROVIDER_URL: the mock provider is for development"
    if "STRIPE_SECRET_KEY" in given and "STRIPE_WEBHOOK_SECRET" not in given:
        yield "STRIPE_WEBHOOK_SECRET: must be set where STRIPE_SECRET_KEY is, or nothing that is paid is credited"
    if "STRIPE_API_BASE" in given:
        yield "STRIPE_API_BASE: another address than Stripe's own is for development"


def make_data_dir(data_dir: Path) -> None:
    """Make the folder of what this machine keeps, for its owner only."""
    if not data_dir.is_dir():
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        data_dir.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            data_dir.chmod(0o711)  # PostgreSQL never runs as root; the account that it runs as passes through


def _made_up_secrets(data_dir: Path, problems: list[str]) -> dict[str, str]:
    """The secrets of this data dir, made up at the first call. Several processes may start at once."""
    path = data_dir / SECRETS_FILE
    try:
        make_data_dir(data_dir)
        with _locked(data_dir / f"{SECRETS_FILE}.lock"):
            kept: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
            missing = [name for name in _MADE_UP if not isinstance(kept.get(name), str)]
            if missing:
                kept |= {name: secrets.token_urlsafe(48) for name in missing}
                draft = path.with_suffix(".new")
                descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with os.fdopen(descriptor, "w") as file:
                    os.fchmod(descriptor, 0o600)
                    json.dump(kept, file, indent=1)
                    file.flush()
                    os.fsync(descriptor)
                os.replace(draft, path)
    except (OSError, ValueError) as error:
        problems.append(f"FAUCET_DATA: {path} can't be used ({type(error).__name__}: {error})")
        return dict.fromkeys(_MADE_UP, "")
    return kept


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
