"""Draft prices: those by tokens of the packaged `genai_prices` catalogue, and those of our mock provider.

Here: translating catalogue entries to rows, exactly, and saying of each entry that is left out why. Not here:
any network (the catalogue is data of an installed package), and any decision: catalogues disagree with each
other, so a row counts only when a person has confirmed it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from faucet.kit.money import E8_PER_USD
from faucet.rating.known_limits import limits_of
from faucet.rating.price import MINUTES_A_DAY, Price, Tier

if TYPE_CHECKING:
    from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice

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

MOCK_PROVIDER = "mock"
_MOCK_PRICES = {
    "mock-small": (15_000_000, 60_000_000),
    "mock-large": (250_000_000, 1_000_000_000),
    "mock-reasoner": (110_000_000, 440_000_000),
    "mock-embed": (2_000_000, 0),
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
    *,
    effective_from: datetime = SEED_EFFECTIVE_FROM,
    providers: Collection[str] | None = None,
    names: Mapping[str, str] | None = None,
) -> SeedReport:
    """Draft rows for the mock provider and for every catalogue model that is priced by tokens.

    `names` are ours for providers that the catalogue calls otherwise. `providers` narrows the catalogue, by either
    name, not the mock. Prices in force at `effective_from` start then; those that the catalogue announces for a later
    day start on that day, as rows of their own.
    """
    # Imported here: the catalogue takes a second to load, and a gateway never needs it.
    from importlib.metadata import version

    from genai_prices.data import providers as catalogue

    release = f"genai-prices {version('genai-prices')}"
    rows = list(_mock_rows(effective_from))
    skipped = []
    for provider in catalogue:
        name = (names or {}).get(provider.id, provider.id)
        if providers is not None and not {name, provider.id} & set(providers):
            continue
        for model in provider.models:
            try:
                rows.extend(_drafts(name, model, release, effective_from))
            except _NotFlat as reason:
                skipped.append(Skipped(name, model.id, str(reason)))
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
            max_output_tokens=16_384 if output_e8_per_m else 0,
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

    From a version that can't be a draft to the next that can there is no price. The last has to be one: otherwise
    the one before it would stay in force too long.
    """
    if _OTHER_MODALITIES.intersection(re.split(r"[^a-z0-9]+", model.id.lower())):
        raise _NotFlat("bills more than text tokens")
    if not model.is_match(model.id):
        raise _NotFlat("its id is not a name that the provider answers to")
    window = limits_of(provider_id, model.id).context_window or model.context_window
    if not window:
        raise _NotFlat("no context window")
    drafts: list[Price] = []
    for starts_at, prices, by_hour in reversed(_versions(model, effective_from)):
        try:
            drafts.append(_draft(provider_id, model, window, prices, by_hour, release, starts_at))
        except _NotFlat:
            if not drafts:
                raise
            break
    return drafts[::-1]


_Version = tuple[datetime, "ModelPrice", "Sequence[ConditionalPrice]"]


def _versions(model: ModelInfo, effective_from: datetime) -> list[_Version]:
    """The model's prices by their start, each with those of certain hours that come after it and so take its place."""
    from genai_prices.types import ModelPrice, StartDateConstraint

    if isinstance(model.prices, ModelPrice):
        return [(effective_from, model.prices, ())]
    starts: dict[datetime, _Version] = {}
    for place, conditional in enumerate(model.prices):
        constraint = conditional.constraint
        after = [
            each
            for each in model.prices[place + 1 :]
            if each.constraint is not None and not isinstance(each.constraint, StartDateConstraint)
        ]
        if constraint is None:
            starts[effective_from] = (effective_from, conditional.prices, after)
        elif isinstance(constraint, StartDateConstraint):
            day = max(datetime.combine(constraint.start_date, datetime.min.time(), tzinfo=UTC), effective_from)
            # The catalogue lists older prices first, so the last that has started is the one in force.
            starts[day] = (day, conditional.prices, after)
    if not starts:
        raise _NotFlat("priced in some hours only")
    return [starts[start] for start in sorted(starts)]


def _draft(
    provider_id: str,
    model: ModelInfo,
    context_window: int,
    prices: ModelPrice,
    by_hour: Sequence[ConditionalPrice],
    release: str,
    starts_at: datetime,
) -> Price:
    """The draft of one version. Raises _NotFlat."""
    flat, extras = _flat(prices)
    input_usd = flat.get("input_mtok")
    output_usd = flat.get("output_mtok")
    is_embedding = output_usd is None and "embed" in model.id.lower()
    if is_embedding:
        output_usd = flat["output_mtok"] = Decimal(0)
    if input_usd is None or output_usd is None:
        raise _NotFlat("no price per token for input and output")
    if input_usd == 0 or (output_usd == 0 and not is_embedding):
        raise _NotFlat("a price of zero")
    limits = limits_of(provider_id, model.id)
    if is_embedding:
        max_output_tokens = 0
    else:
        max_output_tokens = min(context_window, limits.max_output_tokens)
    try:
        return Price(
            id=0,
            provider=provider_id,
            model=model.id,
            tokenizer="o200k" if provider_id == "openai" else "bytes",
            context_window=context_window,
            max_output_tokens=max_output_tokens,
            **_per_million(flat),
            request_e8=e8(flat.get("requests_kcount", Decimal(0)), per=1_000),
            image_tokens_max=limits.image_tokens_max,
            tiers=tuple(_tiers(prices, by_hour)),
            effective_from=starts_at,
            source=f"{release}; not priced here: {', '.join(extras)}" if extras else release,
            status="draft",
        )
    except ValueError as error:
        raise _NotFlat(str(error)) from None


def _per_million(flat: Mapping[str, Decimal]) -> dict[str, Any]:
    """The columns of a price's kinds. Raises ValueError where one is no whole number of e8."""
    input_usd, reasoning_usd = flat["input_mtok"], flat.get("output_reasoning_mtok")
    return {
        "input_e8_per_m": e8(input_usd),
        "cached_read_e8_per_m": e8(flat.get("cache_read_mtok", input_usd)),
        "cached_write_e8_per_m": e8(flat.get("cache_write_mtok", input_usd)),
        "output_e8_per_m": e8(flat["output_mtok"]),
        "reasoning_e8_per_m": None if reasoning_usd is None else e8(reasoning_usd),
    }


def _tiers(prices: ModelPrice, by_hour: Sequence[ConditionalPrice]) -> Iterator[Tier]:
    """The prices above each border of size, and in each stretch of hours, smaller borders first."""
    for border in _borders(prices):
        yield Tier(above_input_tokens=border, **_per_million(_flat(prices, above=border)[0]))
    for conditional in by_hour:
        constraint: Any = conditional.constraint
        hours = {"from_minute": _minute(constraint.start_time), "until_minute": _minute(constraint.end_time)}
        yield Tier(**hours, **_per_million(_flat(conditional.prices)[0]))
        for border in _borders(conditional.prices):
            flat = _flat(conditional.prices, above=border)[0]
            yield Tier(above_input_tokens=border, **hours, **_per_million(flat))


def _minute(moment: time) -> int:
    """The minute of the day in UTC. Raises _NotFlat for a border between minutes."""
    ahead = moment.utcoffset() or timedelta()
    minutes = (moment.hour * 60 + moment.minute - ahead // timedelta(minutes=1)) % MINUTES_A_DAY
    if moment.second or moment.microsecond:
        raise _NotFlat("priced by seconds of the day")
    return minutes


def _borders(prices: ModelPrice) -> list[int]:
    """The numbers of input tokens above which something costs otherwise."""
    found = {int(tier.start) for usd in vars(prices).values() for tier in getattr(usd, "tiers", ())}
    return sorted(found - {0})


def _flat(prices: ModelPrice, *, above: int = 0) -> tuple[dict[str, Decimal], list[str]]:
    """The prices by kind just above a number of input tokens, and the names of what is priced apart only on demand.

    Raises _NotFlat.
    """
    flat: dict[str, Decimal] = {}
    extras: list[str] = []
    for kind, usd in vars(prices).items():
        if usd is None:
            continue
        if kind in _EXTRAS:
            extras.append(_EXTRAS[kind])
        elif kind not in _PRICED:
            raise _NotFlat(f"also priced by {kind}")
        elif isinstance(usd, Decimal):
            flat[kind] = usd
        else:
            flat[kind] = next((tier.price for tier in reversed(usd.tiers) if tier.start <= above), usd.base)
    return flat, extras


def e8(usd: Decimal, *, per: int = 1) -> int:
    """A dollar price, for one or for `per` units, as e8. Raises ValueError where that is no whole number."""
    exact = Fraction(usd) * E8_PER_USD / per
    if exact.denominator != 1:
        raise ValueError(f"{usd} USD is not a whole number of e8")
    return exact.numerator
