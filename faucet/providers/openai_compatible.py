"""Providers that speak OpenAI's wire, built from the operator's settings.

A provider here is data: an address, a header block, and the models that `auto` may choose. Later providers of
the same wire are further entries, not further code.
"""

from __future__ import annotations

from collections.abc import Sequence

from faucet.kit.config import Config
from faucet.kit.upstream import Endpoint
from faucet.providers.base import Provider


def openai_compatible(
    name: str,
    base_url: str,
    api_key: str,
    *,
    trusted: bool,
    auto_models: Sequence[str] = (),
    limit_field: str = "max_tokens",
) -> Provider:
    """A provider at `base_url` (which ends where `/chat/completions` begins). Raises ValueError on a bad address."""
    key = api_key.strip()
    if any(ord(c) < 33 or ord(c) > 126 for c in key):
        raise ValueError(f"the credential of {name} has characters that no header can carry")
    return Provider(
        name=name,
        endpoint=Endpoint.parse(base_url, trusted=trusted),
        chat_path=b"/chat/completions",
        headers=(
            b"content-type: application/json\r\nuser-agent: modelfaucet-gateway\r\n"
            + (b"authorization: Bearer " + key.encode() + b"\r\n" if key else b"")
        ),
        auto_models=tuple(auto_models),
        limit_field=limit_field,
        name_json=b'"' + name.encode() + b'"',
    )


OPENAI_DEFAULTS = ("gpt-4.1-mini", "gpt-4o-mini", "gpt-5-mini")
"""What `auto` may choose of OpenAI's own models unless OPENAI_MODELS says otherwise."""
MOCK_DEFAULTS = ("mock-small", "mock-large")


def platform_providers(config: Config) -> list[Provider]:
    """The operator's own providers, in the order in which `auto` prefers them.

    They come from the operator's settings alone, so they may be private addresses: everywhere in development,
    and in production where TRUSTED_UPSTREAMS names them.
    """
    found = []
    if config.openai_api_key is not None:
        key = config.openai_api_key.reveal()
        models = config.openai_models or OPENAI_DEFAULTS
        found.append(_trusted(config, "openai", config.openai_base_url, key, models, "max_completion_tokens"))
    if config.litellm_base_url is not None:
        key = config.litellm_master_key.reveal() if config.litellm_master_key else ""
        found.append(_trusted(config, "litellm", config.litellm_base_url, key, (), "max_tokens"))
    if config.mock_provider_url is not None:
        key = config.mock_provider_api_key.reveal() if config.mock_provider_api_key else ""
        found.append(_trusted(config, "mock", config.mock_provider_url, key, MOCK_DEFAULTS, "max_tokens"))
    return found


def _trusted(
    config: Config, name: str, base_url: str, api_key: str, models: Sequence[str], limit_field: str
) -> Provider:
    probe = Endpoint.parse(base_url, trusted=True)
    trusted = not config.is_production or f"{probe.host}:{probe.port}" in config.trusted_upstreams
    return openai_compatible(name, base_url, api_key, trusted=trusted, auto_models=models, limit_field=limit_field)
