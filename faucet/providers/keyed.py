"""The providers that a developer or an end user may bring a key for, by the name that the wire has.

Where the operator runs the mock provider it takes keys too, so that every route can be tried without a real one; its
address is the operator's word, and nobody else's. Not here: what is known of a provider (`catalog`), asking it
(`probe`), and who may use a key.
"""

from __future__ import annotations

from dataclasses import replace

from faucet.kit.config import Config
from faucet.kit.secret import Secret
from faucet.kit.upstream import Endpoint
from faucet.providers.base import Provider
from faucet.providers.catalog import CATALOG, Entry, provider_for

KEYED = {name: entry for entry in CATALOG.values() if not entry.operator_only for name in (entry.name, *entry.aliases)}
"""With other names of a provider, such as `google` of `gemini`."""
MOCK_DEFAULTS = ("mock-small", "mock-large")
MOCK = replace(CATALOG["openai_compatible"], name="mock", auto_models=MOCK_DEFAULTS)
NAMES = (*KEYED, MOCK.name)


def entry_of(name: str) -> Entry:
    """What is known of a provider that keys are brought for. Raises KeyError."""
    return MOCK if name == MOCK.name else KEYED[name]


def endpoint_of(config: Config, name: str, base_url: str | None) -> Endpoint:
    """Where a tenant's key is sent. Raises ValueError, in words for whoever gave the address."""
    if name == MOCK.name:
        return Endpoint.parse(_mock_url(config, base_url), trusted=True)
    return KEYED[name].endpoint(
        base_url, extra_ports=config.tenant_upstream_ports, allow_http=config.tenant_upstream_http
    )


def keyed_provider(config: Config, name: str, base_url: str | None, secret: Secret) -> Provider:
    """The provider that a tenant's key opens. Raises ValueError on an address or a key that can't be."""
    entry = entry_of(name)
    if entry is MOCK:
        address = _mock_url(config, base_url)
        return provider_for(entry, secret, base_url=address, trusted=True, auto_models=entry.auto_models)
    return provider_for(
        entry,
        secret,
        base_url=base_url,
        trusted=False,
        extra_ports=config.tenant_upstream_ports,
        allow_http=config.tenant_upstream_http,
        auto_models=entry.auto_models,
    )


def _mock_url(config: Config, base_url: str | None) -> str:
    if config.mock_provider_url is None:
        raise ValueError("there is no mock provider here")
    if base_url is not None:
        raise ValueError("is for the operator to say for the mock provider")
    return config.mock_provider_url
