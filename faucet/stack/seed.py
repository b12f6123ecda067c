"""What a demo stack sells: prices for the mock provider's models, and for the operator's own ones if there are any.

In the demo alone, a model that nobody has priced gets a price that is made up, and everybody is told. Not here: the
demo's developer, app and wallet (`tenants.demo`), and what a draft price is (`rating.seed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import httpx2

from faucet.kit.clock import Clock
from faucet.kit.config import Config
from faucet.kit.db import Tx
from faucet.kit.errors import FaucetError
from faucet.providers.base import Provider
from faucet.providers.catalog import CATALOG
from faucet.providers.platform import platform_providers
from faucet.rating.price import Price, PriceBook
from faucet.rating.seed import MOCK_PROVIDER, seed_rows
from faucet.rating.store import decide_model, insert_drafts, load_confirmed
from faucet.stack.database import office
from faucet.stack.keys import ensure_vault_key
from faucet.tenants.demo import seed_demo
from faucet.tenants.store import announce_change

ACTOR = "demo"
LITELLM_MODELS_MAX = 50
NAMED = 4
"""So many models are named in a sentence."""
_NOT_CHAT = ("embed", "tts", "whisper", "audio", "image", "moderation", "rerank", "dall-e", "transcribe")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RealProvider:
    """The operator's own provider that answers in the demo, and the model to ask for."""

    name: str
    address: str
    model: str
    """`auto` where the gateway may choose."""


async def seed_stack(dsn: str, config: Config, note: Say) -> RealProvider | None:
    """Make the demo's rows and prices where they are missing. Raises what `office` raises."""
    await ensure_vault_key(dsn, config)
    async with office(dsn) as tx:
        await seed_demo(tx, config)
        await _price_mock(tx)
    real = None
    if config.litellm_base_url is not None:
        real = await _price_litellm(dsn, config, note)
    for provider in platform_providers(config):
        if provider.name in (MOCK_PROVIDER, "litellm"):
            continue
        await _price_from_catalogue(dsn, provider, note)
        if provider.auto_models and (real is None or real.name == "litellm"):
            address = getattr(config, f"{provider.name}_base_url") or CATALOG[provider.name].base_url or ""
            real = RealProvider(provider.name, address, "auto")
    return real


async def _price_mock(tx: Tx) -> None:
    if any(price.provider == MOCK_PROVIDER for price in await load_confirmed(tx)):
        return
    await _confirm(tx, [row for row in seed_rows(providers=()).rows if row.provider == MOCK_PROVIDER])
    if not await load_confirmed(tx):
        raise FaucetError(
            "nothing is for sale, because every price was rejected. Set one: "
            "faucet prices set mock mock-small --input 0.15 --output 0.60 --tokenizer words"
        )


async def _price_from_catalogue(dsn: str, provider: Provider, note: Say) -> None:
    """Confirm what the packaged catalogue says of a provider; what `auto` may choose beyond it has a made-up price."""
    named = CATALOG[provider.name].prices
    rows = seed_rows(providers=(provider.name,), names={named: provider.name} if named is not None else None).rows
    async with office(dsn) as tx:
        await _confirm(tx, [row for row in rows if row.provider == provider.name])
        await _price_unknown(tx, provider.name, provider.auto_models, note)


async def _price_litellm(dsn: str, config: Config, note: Say) -> RealProvider | None:
    """Price what the proxy lists. Without a list there is nothing to sell, which is said."""
    address = config.litellm_base_url
    assert address is not None
    key = config.litellm_master_key.reveal() if config.litellm_master_key else ""
    try:
        async with httpx2.AsyncClient(timeout=10, trust_env=False) as client:
            reply = await client.get(f"{address}/models", headers={"authorization": f"Bearer {key}"} if key else {})
            reply.raise_for_status()
            listed = [str(item["id"]) for item in reply.json()["data"]]
    except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
        note(f"The LiteLLM proxy at {address} does not list its models ({type(error).__name__}); it is not used.")
        return None
    models = [name for name in listed if not any(word in name.lower() for word in _NOT_CHAT)][:LITELLM_MODELS_MAX]
    if not models:
        note(f"The LiteLLM proxy at {address} lists no chat model; it is not used.")
        return None
    async with office(dsn) as tx:
        await _price_unknown(tx, "litellm", models, note)
    return RealProvider("litellm", address, models[0])


async def _price_unknown(tx: Tx, provider: str, models: Iterable[str], note: Say) -> None:
    """Give the demo's price to models that have none, and say so."""
    book = PriceBook(await load_confirmed(tx))
    now = Clock().now()
    unknown = [name for name in models if not book.find(name, provider, at=now)]
    if not unknown:
        return
    (small,) = [
        row for row in seed_rows(providers=()).rows if (row.provider, row.model) == (MOCK_PROVIDER, "mock-small")
    ]
    await _confirm(tx, [demo_price(small, provider, name) for name in unknown])
    named = ", ".join(unknown[:NAMED]) + (f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else "")
    note(
        f"Nobody has priced {named} ({provider}): in this demo it costs what mock-small does, $0.15 and"
        f" $0.60 per million tokens. Set the real price with `faucet prices set {provider} {unknown[0]} …`."
    )


def demo_price(small: Price, provider: str, model: str) -> Price:
    """The made-up price of a model that nobody has priced."""
    return Price(
        id=0,
        provider=provider,
        model=model,
        tokenizer="o200k",
        context_window=small.context_window,
        max_output_tokens=small.max_output_tokens,
        input_e8_per_m=small.input_e8_per_m,
        cached_read_e8_per_m=small.input_e8_per_m,
        cached_write_e8_per_m=small.input_e8_per_m,
        output_e8_per_m=small.output_e8_per_m,
        image_tokens_max=small.image_tokens_max,
        effective_from=Clock().now(),
        source="made up for the demo",
        status="draft",
    )


async def _confirm(tx: Tx, rows: list[Price]) -> None:
    await insert_drafts(tx, rows)
    for provider, model in sorted({(row.provider, row.model) for row in rows}):
        await decide_model(tx, provider, model, status="confirmed", actor=ACTOR)
    await announce_change(tx)
