"""Draft prices: the flat ones of the packaged `genai_prices` catalogue, and those of our mock provider.

Here: translating catalogue entries to rows, exactly, and saying of each entry that is left out why. Not here:
any network (the catalogue is data of an installed package), and any decision: catalogues disagree with each
other, so a row counts only when a person has confirmed it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

from faucet.kit.money import E8_PER_USD
from faucet.rating.price import Price

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice

SEED_EFFECTIVE_FROM = datetime(2026, 1, 1, tzinfo=UTC)
"""The default for a first seed, the same on every run. A later import passes its own time."""

_PRICED = frozenset(
    (
        "input_mtok",
        "cache_read_mtok",
        "cache_write_mtok",
        "output_mtok",
        "output_reasoning_mtok",
        "requests_kcount",
    )
)
_EXTRAS = {
    "web_searches_kcount": "web searches",
    "storage_searches_kcount": "file searches",
    "cache_write_1h_mtok": "one-hour cache writes",
}
"""Priced apart by the provider, and only where a request asks for them. A draft's source names them."""
_OTHER_MODALITIES = frozenset(
    ("audio", "realtime", "live", "image", "tts", "transcribe", "whisper", "moderation", "search", "research")
)
"""A model with one of these words in its id bills more than text, whatever the catalogue says."""

_OUTPUT_TOKENS_DEFAULT = 4_096
"""Where an output limit is not known: small, because it is sent upstream when a caller gives none."""
_IMAGE_TOKENS_DEFAULT = 2_833 + 8 * 5_667
"""Where a rule for images is not known: the dearest documented one (gpt-4o-mini, eight tiles)."""


@dataclass(frozen=True, slots=True)
class _Limits:
    """What a provider documents of a model and the catalogue lacks."""

    max_output_tokens: int
    image_tokens_max: int = _IMAGE_TOKENS_DEFAULT
    context_window: int | None = None


def _tiles(base: int, tile: int) -> int:
    """An image scaled to 2048 by 768 is at most eight tiles of 512 by 512."""
    return base + 8 * tile


_GPT_4O = _Limits(16_384, _tiles(85, 170))
_O_SERIES = _Limits(100_000, _tiles(75, 150))
_GPT_5 = _Limits(128_000)
_OPENAI_LIMITS = {
    "gpt-3.5-turbo": _Limits(4_096),
    "gpt-4": _Limits(8_192),
    "gpt-4-turbo": _Limits(4_096),
    "chatgpt-4o-latest": _GPT_4O,
    "gpt-4o": _GPT_4O,
    "gpt-4o-2024-05-13": _Limits(4_096, _tiles(85, 170)),
    "gpt-4o-mini": _Limits(16_384, _IMAGE_TOKENS_DEFAULT),
    "gpt-4.1": _Limits(32_768, _tiles(85, 170), 1_047_576),
    "gpt-4.1-mini": _Limits(32_768, context_window=1_047_576),
    "gpt-4.1-nano": _Limits(32_768, context_window=1_047_576),
    "gpt-5": _Limits(128_000, _tiles(70, 140)),
    "gpt-5-mini": _GPT_5,
    "gpt-5-nano": _GPT_5,
    "gpt-5-pro": _GPT_5,
    "gpt-5.1": _GPT_5,
    "gpt-5.1-codex-mini": _GPT_5,
    "gpt-5.2": _GPT_5,
    "gpt-5.2-pro": _GPT_5,
    "gpt-5.3-codex": _GPT_5,
    "gpt-5.4-mini": _GPT_5,
    "gpt-5.4-nano": _GPT_5,
    "o1": _O_SERIES,
    "o1-mini": _Limits(65_536),
    "o1-preview": _Limits(32_768),
    "o1-pro": _O_SERIES,
    "o3": _O_SERIES,
    "o3-mini": _Limits(100_000),
    "o3-pro": _O_SERIES,
    "o4-mini": _Limits(100_000),
}

MOCK_PROVIDER = "mock"
_MOCK_PRICES = {
    "mock-small": (15_000_000, 60_000_000),
    "mock-large": (250_000_000, 1_000_000_000),
    "mock-reasoner": (110_000_000, 440_000_000),
}
"""Input and output, e8 per million tokens."""
_MOCK_FAILURES = (
    "fail-500",
    "stall",
    "cut-mid-stream",
    "no-usage",
    "lies-about-usage",
    "slow-first-byte",
    "429",
    "200-with-error-body",
    "flaky",
    "refuse-400",
    "usage-twice",
    "crlf-sse",
)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A catalogue entry that became no draft, and why."""

    provider: str
    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class SeedReport:
    """Drafts, in order of provider, model and time, and what was left out."""

    rows: tuple[Price, ...]
    skipped: tuple[Skipped, ...]


class _NotFlat(Exception):
    """An entry that a flat price cannot express; the text is the reason shown."""


def seed_rows(
    *, effective_from: datetime = SEED_EFFECTIVE_FROM, providers: Collection[str] | None = None
) -> SeedReport:
    """Draft rows for the mock provider and for every catalogue model with plain prices per token.

    `providers` narrows the catalogue, not the mock. Prices in force at `effective_from` start then; those
    that the catalogue announces for a later day start on that day, as rows of their own.
    """
    # Imported here: the catalogue takes a second to load, and a gateway never needs it.
    from importlib.metadata import version

    from genai_prices.data import providers as catalogue

    release = f"genai-prices {version('genai-prices')}"
    rows = list(_mock_rows(effective_from))
    skipped = []
    for provider in catalogue:
        if providers is not None and provider.id not in providers:
            continue
        for model in provider.models:
            try:
                rows.extend(_drafts(provider.id, model, release, effective_from))
            except _NotFlat as reason:
                skipped.append(Skipped(provider.id, model.id, str(reason)))
    rows.sort(key=lambda row: (row.provider, row.model, row.effective_from))
    return SeedReport(tuple(rows), tuple(skipped))


def _mock_rows(effective_from: datetime) -> Iterator[Price]:
    """The mock provider's models; those that fail on purpose cost what the small one does."""
    prices = _MOCK_PRICES | dict.fromkeys(_MOCK_FAILURES, _MOCK_PRICES["mock-small"])
    for model, (input_e8_per_m, output_e8_per_m) in prices.items():
        yield Price(
            id=0,
            provider=MOCK_PROVIDER,
            model=model,
            tokenizer="words",
            context_window=128_000,
            max_output_tokens=16_384,
            input_e8_per_m=input_e8_per_m,
            cached_read_e8_per_m=input_e8_per_m // 2,
            cached_write_e8_per_m=input_e8_per_m,
            output_e8_per_m=output_e8_per_m,
            image_tokens_max=1_000,
            effective_from=effective_from,
            source="mock provider",
            status="draft",
        )


def _drafts(provider_id: str, model: ModelInfo, release: str, effective_from: datetime) -> list[Price]:
    """One draft for the price in force and one for each that starts later. Raises _NotFlat.

    From a version that is not flat to the next flat one there is no price. The last has to be flat: otherwise
    the one before it would stay in force too long.
    """
    if _OTHER_MODALITIES.intersection(re.split(r"[^a-z0-9]+", model.id.lower())):
        raise _NotFlat("bills more than text tokens")
    if not model.is_match(model.id):
        raise _NotFlat("its id is not a name that the provider answers to")
    if not model.context_window:
        raise _NotFlat("no context window")
    drafts: list[Price] = []
    for starts_at, prices in reversed(_versions(model, effective_from)):
        try:
            drafts.append(_draft(provider_id, model, model.context_window, prices, release, starts_at))
        except _NotFlat:
            if not drafts:
                raise
            break
    return drafts[::-1]


def _versions(model: ModelInfo, effective_from: datetime) -> list[tuple[datetime, ModelPrice]]:
    """The model's prices by their start: the one in force at a time, and those that start later."""
    from genai_prices.types import ModelPrice, StartDateConstraint

    if isinstance(model.prices, ModelPrice):
        return [(effective_from, model.prices)]
    starts: dict[datetime, ModelPrice] = {}
    for conditional in model.prices:
        constraint = conditional.constraint
        if constraint is None:
            starts[effective_from] = conditional.prices
        elif isinstance(constraint, StartDateConstraint):
            day = datetime.combine(constraint.start_date, datetime.min.time(), tzinfo=UTC)
            # The catalogue lists older prices first, so the last that has started is the one in force.
            starts[max(day, effective_from)] = conditional.prices
        else:
            raise _NotFlat("priced by time of day")
    return sorted(starts.items(), key=lambda start: start[0])


def _draft(
    provider_id: str,
    model: ModelInfo,
    context_window: int,
    prices: ModelPrice,
    release: str,
    starts_at: datetime,
) -> Price:
    """The draft of one flat price. Raises _NotFlat."""
    flat, extras = _flat(prices)
    input_usd = flat.get("input_mtok")
    output_usd = flat.get("output_mtok")
    is_embedding = output_usd is None and "embed" in model.id.lower()
    if is_embedding:
        output_usd = Decimal(0)
    if input_usd is None or output_usd is None:
        raise _NotFlat("no price per token for input and output")
    if input_usd == 0 or (output_usd == 0 and not is_embedding):
        raise _NotFlat("a price of zero")
    limits = _OPENAI_LIMITS.get(model.id) if provider_id == "openai" else None
    window = limits.context_window if limits and limits.context_window else context_window
    reasoning_usd = flat.get("output_reasoning_mtok")
    if is_embedding:
        max_output_tokens = 0
    else:
        max_output_tokens = min(window, limits.max_output_tokens if limits else _OUTPUT_TOKENS_DEFAULT)
    try:
        return Price(
            id=0,
            provider=provider_id,
            model=model.id,
            tokenizer="o200k" if provider_id == "openai" else "bytes",
            context_window=window,
            max_output_tokens=max_output_tokens,
            input_e8_per_m=e8(input_usd),
            cached_read_e8_per_m=e8(flat.get("cache_read_mtok", input_usd)),
            cached_write_e8_per_m=e8(flat.get("cache_write_mtok", input_usd)),
            output_e8_per_m=e8(output_usd),
            reasoning_e8_per_m=None if reasoning_usd is None else e8(reasoning_usd),
            request_e8=e8(flat.get("requests_kcount", Decimal(0)), per=1_000),
            image_tokens_max=limits.image_tokens_max if limits else _IMAGE_TOKENS_DEFAULT,
            effective_from=starts_at,
            source=f"{release}; not priced here: {', '.join(extras)}" if extras else release,
            status="draft",
        )
    except ValueError as error:
        raise _NotFlat(str(error)) from None


def _flat(prices: ModelPrice) -> tuple[dict[str, Decimal], list[str]]:
    """The plain prices by kind, and the names of what is priced apart only on demand. Raises _NotFlat."""
    flat: dict[str, Decimal] = {}
    extras: list[str] = []
    for kind, usd in vars(prices).items():
        if usd is None:
            continue
        if kind in _EXTRAS:
            extras.append(_EXTRAS[kind])
        elif kind not in _PRICED:
            raise _NotFlat(f"also priced by {kind}")
        elif not isinstance(usd, Decimal):
            raise _NotFlat("priced in tiers")
        else:
            flat[kind] = usd
    return flat, extras


def e8(usd: Decimal, *, per: int = 1) -> int:
    """A dollar price, for one or for `per` units, as e8. Raises ValueError where that is no whole number."""
    exact = Fraction(usd) * E8_PER_USD / per
    if exact.denominator != 1:
        raise ValueError(f"{usd} USD is not a whole number of e8")
    return exact.numerator
