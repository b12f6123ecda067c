"""The operator's own providers, made of the catalogue and the settings: a key, or an address, turns one on.

Not here: what a provider is (`base`), what is known of each (`catalog`), and tenants' keys.
"""

from __future__ import annotations

from collections.abc import Iterator

from faucet.kit.config import Config
from faucet.kit.secret import Secret
from faucet.kit.upstream import Endpoint
from faucet.providers.base import Provider
from faucet.providers.catalog import CATALOG, Entry, provider_for
from faucet.providers.keyed import MOCK


def platform_providers(config: Config) -> list[Provider]:
    """The operator's own providers, in the order in which `auto` prefers them.

    They come from the operator's settings alone, so they may be private addresses: everywhere in development,
    and in production where TRUSTED_UPSTREAMS names them. Raises ValueError on a bad address or key.
    """
    found = [_provider(config, entry, *given) for entry in CATALOG.values() for given in _given(config, entry)]
    if config.mock_provider_url is not None:
        found.append(_provider(config, MOCK, config.mock_provider_url, config.mock_provider_api_key, ()))
    return found


def _given(config: Config, entry: Entry) -> Iterator[tuple[str | None, Secret | None, tuple[str, ...]]]:
    """Address, key and models that the settings have for an entry, where they turn it on."""
    if entry.name == "litellm":
        base_url, key, models = config.litellm_base_url, config.litellm_master_key, ()
    else:
        base_url = getattr(config, f"{entry.name}_base_url", None)
        key = getattr(config, f"{entry.name}_api_key", None)
        models = getattr(config, f"{entry.name}_models", ())
    if (base_url if entry.keyless else key) is not None:
        yield base_url, key, models


def _provider(
    config: Config, entry: Entry, base_url: str | None, key: Secret | None, models: tuple[str, ...]
) -> Provider:
    address = base_url or entry.base_url
    if address is None:
        raise ValueError(f"{entry.name.upper()}_BASE_URL: is required for this provider")
    probe = Endpoint.parse(address, trusted=True)
    trusted = not config.is_production or f"{probe.host}:{probe.port}" in config.trusted_upstreams
    return provider_for(entry, key, base_url=base_url, trusted=trusted, auto_models=models or entry.auto_models)


def stored_provider(config: Config, name: str, base_url: str | None, key: Secret) -> Provider:
    """A provider whose key the operator stored in the vault; its address is judged as those of the settings are, and
    where it has none, the settings' own is meant.

    Raises ValueError on a bad address or key, KeyError for an unknown name.
    """
    if name == MOCK.name:
        return _provider(config, MOCK, base_url or config.mock_provider_url, key, ())
    return _provider(config, CATALOG[name], base_url or getattr(config, f"{name}_base_url", None), key, ())
