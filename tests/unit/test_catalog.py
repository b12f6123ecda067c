"""The catalogue of providers: read strictly, turned on by settings, and each spoken to in its own way."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from faucet.gateway.catalogue import Account, Catalogue, unpriced
from faucet.gateway.circuits import Circuits
from faucet.kit.config import NAMES, load_config
from faucet.kit.secret import Secret
from faucet.providers.base import path_of
from faucet.providers.catalog import CATALOG, provider_for, read_catalog
from faucet.providers.keyed import KEYED
from faucet.providers.platform import platform_providers
from faucet.rating.price import PriceBook
from faucet.terms import Payer

KEY = "sk-key-0123456789"
FOREIGN_SETTINGS = {"openai_compatible"}
"""Entries that only tenants bring: the operator names such a provider by another entry."""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('a = "b"', "a: is not a table"),
        ("[a]\ntitle = 'A'\nbase = 'x'", "a: unknown words base"),
        ("[a]\ntitle = 'A'\nwire = 'soap'", "a: wire: must be one of openai, azure, anthropic, gemini, bedrock"),
    ],
)
def test_a_word_that_nothing_acts_on_is_refused(text: str, said: str) -> None:
    """Lost: a slip in the catalogue is noticed by customers."""
    with pytest.raises(ValueError, match=said):
        read_catalog(text)


def test_every_provider_can_be_turned_on(tmp_path: Path) -> None:
    """Lost: a provider is in the catalogue, and no operator can use it."""
    for entry in CATALOG.values():
        if entry.name in FOREIGN_SETTINGS or entry.name == "litellm":
            continue
        word = entry.name.upper()
        assert {f"{word}_API_KEY", f"{word}_BASE_URL", f"{word}_MODELS"} <= NAMES.keys(), entry.name
        env = {"FAUCET_DATA": str(tmp_path), f"{word}_MODELS": "one,two"}
        if entry.base_url is None:
            env[f"{word}_BASE_URL"] = "https://llm.example.com/v1"
        if not entry.keyless:
            env[f"{word}_API_KEY"] = KEY
        (provider,) = platform_providers(load_config(env))
        assert (provider.name, provider.auto_models) == (entry.name, ("one", "two"))
        assert (KEY.encode() in provider.headers) is not entry.keyless
        assert KEY not in repr(provider)
        assert (provider.adapter is None) is (entry.wire in ("openai", "azure"))


def test_what_is_not_turned_on_is_not_there(tmp_path: Path) -> None:
    """Lost: a default address is called without a key."""
    assert platform_providers(load_config({"FAUCET_DATA": str(tmp_path)})) == []
    with pytest.raises(ValueError, match="AZURE_OPENAI_BASE_URL"):
        platform_providers(load_config({"FAUCET_DATA": str(tmp_path), "AZURE_OPENAI_API_KEY": KEY}))


def test_auto_prefers_the_order_of_the_catalogue(tmp_path: Path) -> None:
    """Lost: turning a second provider on moves everybody to it."""
    env = {"ANTHROPIC_API_KEY": KEY, "OPENAI_API_KEY": KEY, "MOCK_PROVIDER_URL": "http://127.0.0.1:1/v1"}
    found = platform_providers(load_config({"FAUCET_DATA": str(tmp_path), **env}))
    assert [provider.name for provider in found] == ["openai", "anthropic", "mock"]


def test_a_tenants_key_makes_a_provider() -> None:
    """Lost: a stored key is shown in the wrong header, or sent to another address than the one that was judged."""
    for name, entry in KEYED.items():
        base_url = "https://llm.example.com/v1" if entry.base_url is None else None
        provider = provider_for(entry, Secret(KEY), base_url=base_url)
        endpoint = entry.endpoint(base_url, extra_ports=(), allow_http=False)
        assert (provider.endpoint, provider.name) == (endpoint, entry.name), name
        assert not provider.endpoint.trusted and provider.headers.endswith(KEY.encode() + b"\r\n")


def test_a_key_that_no_header_can_carry_is_refused() -> None:
    """Lost: a line end in a key adds headers of its own; or the key is told in the error."""
    for bad in ("sk-a\r\nx-evil: 1", "sk a", "sk-gööd"):
        with pytest.raises(ValueError, match="no header can carry") as refused:
            provider_for(CATALOG["openai"], Secret(bad))
        assert bad not in str(refused.value)


@pytest.mark.parametrize(
    ("base_url", "chat"),
    [
        ("https://res.openai.azure.com", "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"),
        ("https://res.openai.azure.com/", "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"),
        (
            "https://res.openai.azure.com/openai/deployments/mine",
            "/openai/deployments/mine/chat/completions?api-version=2024-10-21",
        ),
        ("https://res.openai.azure.com/openai/v1", "/openai/v1/chat/completions"),
        (
            "https://apim.example.com/ai/openai/deployments/mine",
            "/ai/openai/deployments/mine/chat/completions?api-version=2024-10-21",
        ),
    ],
)
def test_azure_addresses(base_url: str, chat: str) -> None:
    """Lost: of the ways in which Azure's pages show an address, some lead nowhere."""
    provider = provider_for(CATALOG["azure_openai"], Secret(KEY), base_url=base_url)
    assert provider.endpoint.path_prefix + path_of(provider.chat_path, "gpt-4o").decode() == chat
    assert b"api-key: " + KEY.encode() in provider.headers and b"authorization" not in provider.headers


def test_a_models_name_stays_in_its_place() -> None:
    """Lost: a model's name chooses another path of the provider."""
    assert path_of(b"/models/{model}:x", "../files?a=b#c%") == b"/models/..%2Ffiles%3Fa%3Db%23c%25:x"
    assert path_of(b"/chat/completions", "{model}") == b"/chat/completions"


def test_an_azure_deployment_is_one_model() -> None:
    """Lost: whoever names a cheaper model is answered by the deployment, and pays the cheaper model's price."""

    def sold(base_url: str, payer: Payer, *allowed: str) -> set[str]:
        provider = provider_for(CATALOG["azure_openai"], Secret(KEY), base_url=base_url)
        prices = [
            replace(unpriced("azure_openai", model), id=number, max_output_tokens=100)
            for number, model in enumerate(("gpt-4o", "gpt-4o-mini"), 1)
        ]
        catalogue = Catalogue([], PriceBook(prices), datetime(2026, 1, 1, tzinfo=UTC), Circuits())
        shelves, _ = catalogue.shelve([Account(provider, payer, UUID(int=1), models_allowed=allowed)])
        return set(shelves[payer].by_model) if payer in shelves else set()

    root = "https://res.openai.azure.com"
    one = f"{root}/openai/deployments/gpt-4o"
    assert sold(root, Payer.DEVELOPER) == {"gpt-4o", "gpt-4o-mini"}
    assert sold(one, Payer.DEVELOPER) == {"gpt-4o"} == sold(one, Payer.PLATFORM)
    assert sold(f"{root}/openai/deployments/mine", Payer.DEVELOPER) == set()
    assert sold(f"{root}/openai/deployments/mine", Payer.DEVELOPER, "gpt-4o") == {"gpt-4o"}
    assert sold(one, Payer.BYOK) == {"gpt-4o", "gpt-4o-mini"}  # nothing of it is on anybody's bill here
