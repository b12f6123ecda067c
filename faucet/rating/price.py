"""Price versions, the price plan of a feature, and the lookup of prices in force.

Here: what a price is and what bounds it has, so that no charge can leave a `bigint` column. Not here:
arithmetic with tokens (`rate`), the price table (`store`), where drafts come from (`seed`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, Self

from faucet.kit.money import E8_PER_USD, from_wire
from faucet.kit.words import unknown_word

Tokenizer = Literal["o200k", "words", "bytes"]
PriceStatus = Literal["draft", "confirmed", "rejected"]

TOKENS_MAX = 2**40
"""More tokens than this in one request are not a count but an accident."""
MODEL_TOKENS_MAX = 2**31 - 1
"""Per-model limits live in `int` columns."""
PRICE_E8_PER_M_MAX = 3_000 * E8_PER_USD
REQUEST_E8_MAX = 1_000 * E8_PER_USD
"""With these two, `TOKENS_MAX` in and out at the highest markup still charge less than 2**63."""
MARKUP_BPS_MAX = 100_000
SHARE_BPS_MAX = 10_000
GATEWAY_FEE_E8_MAX = 1_000 * E8_PER_USD

_MODES = ("usage_markup", "fixed_price")
_TOKENIZERS = frozenset(("o200k", "words", "bytes"))
_STATUSES = frozenset(("draft", "confirmed", "rejected"))
_PERCENT = re.compile(r"(0|[1-9][0-9]{0,3})(?:\.([0-9]{1,2}))?")
FIXED_PRICE_E8_MAX = 1_000 * E8_PER_USD
FREE_QUOTA_E8_MAX = 10_000 * E8_PER_USD
FREE_REQUESTS_MAX = 1_000_000
PRICING_WORDS = (
    "mode",
    "markup_percent",
    "fixed_price_usd",
    "free_quota",
    "channel_share_bps",
    "explicit_gateway_fee_usd",
)
"""Every word of a feature's `pricing`."""


MINUTES_A_DAY = 24 * 60
TIERS_MAX = 32


def _check_per_million(prices: Price | Tier) -> None:
    per_million = [prices.input_e8_per_m, prices.cached_read_e8_per_m, prices.cached_write_e8_per_m]
    per_million += [prices.output_e8_per_m, prices.output_e8_per_m if prices.reasoning_e8_per_m is None else 0]
    per_million.append(prices.reasoning_e8_per_m or 0)
    if min(per_million) < 0 or max(per_million) > PRICE_E8_PER_M_MAX:
        raise ValueError(f"a price per million tokens is 0 to {PRICE_E8_PER_M_MAX} e8")


def _worst(prices: Price | Tier) -> tuple[int, int]:
    """The dearest kind of input, and the dearer kind of output."""
    reasoning = prices.output_e8_per_m if prices.reasoning_e8_per_m is None else prices.reasoning_e8_per_m
    return (
        max(prices.input_e8_per_m, prices.cached_read_e8_per_m, prices.cached_write_e8_per_m),
        max(prices.output_e8_per_m, reasoning),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """Prices that take the place of a version's own, all of them, where its conditions hold.

    Raises ValueError out of bounds.
    """

    above_input_tokens: int = 0
    """Holds for requests with more input tokens, cached ones included: then for every token of them."""
    from_minute: int | None = None
    until_minute: int | None = None
    """Holds in these minutes of the day in UTC, the last one not included; over midnight where it is the smaller."""
    input_e8_per_m: int
    cached_read_e8_per_m: int
    cached_write_e8_per_m: int
    output_e8_per_m: int
    reasoning_e8_per_m: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.above_input_tokens <= MODEL_TOKENS_MAX:
            raise ValueError("a tier begins at a number of tokens")
        minutes = (self.from_minute, self.until_minute)
        if minutes != (None, None) and not all(m is not None and 0 <= m < MINUTES_A_DAY for m in minutes):
            raise ValueError(f"a tier's hours are two minutes of the day, 0 to {MINUTES_A_DAY - 1}")
        _check_per_million(self)

    def holds(self, input_tokens: int, minute: int) -> bool:
        """Whether a request of this size, rated in this minute of the day, has these prices."""
        if self.above_input_tokens and input_tokens <= self.above_input_tokens:
            return False
        if self.from_minute is None or self.until_minute is None:
            return True
        if self.from_minute <= self.until_minute:
            return self.from_minute <= minute < self.until_minute
        return minute >= self.from_minute or minute < self.until_minute


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One version of what a provider asks for a model, in e8 per million tokens.

    Raises ValueError out of bounds. The `id` is 0 until the row is stored. A usage event keeps the id of the
    version that it was rated with.
    """

    id: int
    provider: str
    model: str
    tokenizer: Tokenizer
    context_window: int
    max_output_tokens: int
    input_e8_per_m: int
    cached_read_e8_per_m: int
    cached_write_e8_per_m: int
    output_e8_per_m: int
    reasoning_e8_per_m: int | None = None
    """None: thinking is priced like any other output."""
    request_e8: int = 0
    """A fixed part of every request."""
    image_tokens_max: int
    """The most input tokens that the provider bills for one image."""
    tiers: tuple[Tier, ...] = ()
    """Other prices under conditions; the last whose conditions hold counts."""
    effective_from: datetime
    source: str
    status: PriceStatus
    input_worst_e8_per_m: int = field(init=False, repr=False, compare=False)
    """The dearest kind of input, tiers left out; with them: `worst`."""
    output_worst_e8_per_m: int = field(init=False, repr=False, compare=False)
    """The dearer kind of output, as above."""

    def __post_init__(self) -> None:
        if not self.provider or not self.model:
            raise ValueError("a price names a provider and a model")
        if self.tokenizer not in _TOKENIZERS or self.status not in _STATUSES:
            raise ValueError("a price has a known tokenizer and status")
        if self.effective_from.tzinfo is None:
            raise ValueError("effective_from has a time zone")
        _check_per_million(self)
        if not 0 <= self.request_e8 <= REQUEST_E8_MAX:
            raise ValueError(f"a price per request is 0 to {REQUEST_E8_MAX} e8")
        if not 1 <= self.context_window <= MODEL_TOKENS_MAX:
            raise ValueError("a context window is at least one token")
        if not 0 <= self.max_output_tokens <= MODEL_TOKENS_MAX:
            raise ValueError("an output limit is not negative")
        if not 0 <= self.image_tokens_max <= MODEL_TOKENS_MAX:
            raise ValueError("a bound of tokens per image is not negative")
        if len(self.tiers) > TIERS_MAX:
            raise ValueError(f"a price has at most {TIERS_MAX} tiers")
        set_once = object.__setattr__  # worked out once: every request asks
        input_worst, output_worst = _worst(self)
        set_once(self, "input_worst_e8_per_m", input_worst)
        set_once(self, "output_worst_e8_per_m", output_worst)

    @property
    def has_hours(self) -> bool:
        """Whether the time of the day bears on it."""
        return any(tier.from_minute is not None for tier in self.tiers)

    def of(self, input_tokens: int, at: datetime | None) -> Price | Tier:
        """The prices of a request of this size, rated at this time. Raises ValueError where the time is needed."""
        if at is None and self.has_hours:
            raise ValueError("this price depends on the time of the day")
        utc = None if at is None else at.astimezone(UTC)
        minute = 0 if utc is None else utc.hour * 60 + utc.minute
        for tier in reversed(self.tiers):
            if tier.holds(input_tokens, minute):
                return tier
        return self

    def worst(self, input_tokens_max: int) -> tuple[int, int]:
        """The dearest input and the dearest output that a request up to this size can have, at any time."""
        worst = [(self.input_worst_e8_per_m, self.output_worst_e8_per_m)]
        worst += [_worst(tier) for tier in self.tiers if tier.above_input_tokens < max(input_tokens_max, 1)]
        return max(each[0] for each in worst), max(each[1] for each in worst)


@dataclass(frozen=True, slots=True, kw_only=True)
class PricePlan:
    """What a feature adds to cost, who gets how much of it, and the fee shown for byok and local requests."""

    mode: Literal["usage_markup", "fixed_price"] = "usage_markup"
    markup_bps: int = 0
    share_bps: int = 0
    gateway_fee_e8: int = 0
    fixed_price_e8: int | None = None
    """What every answer costs, whatever it cost us; the mode is fixed_price then, and there is no markup."""
    free_quota_e8: int = 0
    """What each end user may use for nothing in a month."""

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise ValueError(f"mode: must be one of {', '.join(_MODES)}")
        if not 0 <= self.markup_bps <= MARKUP_BPS_MAX:
            raise ValueError(f"markup_bps: must be 0 to {MARKUP_BPS_MAX}")
        if not 0 <= self.share_bps <= SHARE_BPS_MAX:
            raise ValueError(f"share_bps: must be 0 to {SHARE_BPS_MAX}")
        if not 0 <= self.gateway_fee_e8 <= GATEWAY_FEE_E8_MAX:
            raise ValueError(f"gateway_fee_e8: must be 0 to {GATEWAY_FEE_E8_MAX}")
        if (self.mode == "fixed_price") != (self.fixed_price_e8 is not None) or (
            self.fixed_price_e8 is not None and (self.markup_bps or not 0 < self.fixed_price_e8 <= FIXED_PRICE_E8_MAX)
        ):
            raise ValueError(f"fixed_price_e8: must be 1 to {FIXED_PRICE_E8_MAX}, without a markup")
        if not 0 <= self.free_quota_e8 <= FREE_QUOTA_E8_MAX:
            raise ValueError(f"free_quota_e8: must be 0 to {FREE_QUOTA_E8_MAX}")

    @classmethod
    def parse_pricing(cls, pricing: object, *, default_share_bps: int = 0) -> Self:
        """The plan that a feature's `pricing` object states, exactly.

        Words left out mean: no markup, the app's own share, no fee, nothing for free. Raises ValueError, whose text
        starts with the path of the wrong word; a word that we do not know is wrong, because a price is never half
        understood.
        """
        if not isinstance(pricing, Mapping):
            raise ValueError("pricing: must be an object")
        for word in pricing:
            if word not in PRICING_WORDS:
                raise unknown_word("pricing", word, PRICING_WORDS)
        fixed = pricing.get("fixed_price_usd")
        mode = pricing.get("mode", "usage_markup" if fixed is None else "fixed_price")
        if mode not in _MODES:
            raise ValueError(f"pricing.mode: must be one of {', '.join(_MODES)}")
        if mode == "usage_markup" and "fixed_price_usd" in pricing:
            raise ValueError("pricing.fixed_price_usd: the mode usage_markup has no fixed price")
        fixed_price_e8 = None
        if mode == "fixed_price":
            if "markup_percent" in pricing:
                raise ValueError("pricing.markup_percent: a fixed price has no markup")
            fixed_price_e8 = _amount_e8(fixed, "pricing.fixed_price_usd", FIXED_PRICE_E8_MAX)
            if fixed_price_e8 == 0:
                raise ValueError("pricing.fixed_price_usd: must be more than 0")
        return cls(
            mode="usage_markup" if fixed_price_e8 is None else "fixed_price",
            markup_bps=_percent_as_bps(pricing.get("markup_percent", 0)),
            share_bps=_share_bps(pricing.get("channel_share_bps", default_share_bps)),
            gateway_fee_e8=_amount_e8(
                pricing.get("explicit_gateway_fee_usd", "0"), "pricing.explicit_gateway_fee_usd", GATEWAY_FEE_E8_MAX
            ),
            fixed_price_e8=fixed_price_e8,
            free_quota_e8=_free_quota_e8(pricing.get("free_quota", {}), fixed_price_e8),
        )


def _percent_as_bps(percent: object) -> int:
    """Basis points of a percentage. The shortest decimal text of a JSON number is what its writer wrote."""
    match = _PERCENT.fullmatch(str(percent))
    markup_bps = MARKUP_BPS_MAX + 1 if match is None else int(match[1]) * 100 + int((match[2] or "").ljust(2, "0"))
    if markup_bps > MARKUP_BPS_MAX:
        raise ValueError("pricing.markup_percent: must be 0 to 1000 with at most 2 places")
    return markup_bps


def _share_bps(share_bps: object) -> int:
    # A bool is an int to Python, but not to the writer of a price.
    if type(share_bps) is not int or not 0 <= share_bps <= SHARE_BPS_MAX:
        raise ValueError(f"pricing.channel_share_bps: must be a whole number from 0 to {SHARE_BPS_MAX}")
    return share_bps


def _amount_e8(amount_usd: object, path: str, most_e8: int) -> int:
    try:
        amount_e8 = from_wire(str(amount_usd))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if amount_e8 > most_e8:
        raise ValueError(f"{path}: must be at most {most_e8 // E8_PER_USD}")
    return amount_e8


def _free_quota_e8(quota: object, fixed_price_e8: int | None) -> int:
    """What a quota in USD, or in requests of a fixed price, comes to: a request of no fixed price has no such sum."""
    path = "pricing.free_quota"
    if not isinstance(quota, Mapping):
        raise ValueError(f"{path}: must be an object with `usd`, or with `requests` beside a fixed price")
    for word in quota:
        if word not in ("usd", "requests"):
            raise unknown_word(path, word, ("usd", "requests"))
    if not quota:
        return 0
    sums = []
    if "usd" in quota:
        sums.append(_amount_e8(quota["usd"], f"{path}.usd", FREE_QUOTA_E8_MAX))
    if "requests" in quota:
        requests = quota["requests"]
        if fixed_price_e8 is None:
            raise ValueError(f"{path}.requests: needs `fixed_price_usd`; without one, say `usd`")
        if type(requests) is not int or not 1 <= requests <= FREE_REQUESTS_MAX:
            raise ValueError(f"{path}.requests: must be a whole number from 1 to {FREE_REQUESTS_MAX}")
        sums.append(requests * fixed_price_e8)
    if min(sums) > FREE_QUOTA_E8_MAX:
        raise ValueError(f"{path}: must come to at most {FREE_QUOTA_E8_MAX // E8_PER_USD} USD")
    return min(sums)


class PriceBook:
    """The confirmed prices of one moment's table; never changed after it is built.

    A new table makes a new book. Versions that are not yet in force are kept, so a price changes on time
    without a reload.
    """

    __slots__ = ("_by_model",)

    def __init__(self, rows: Iterable[Price]) -> None:
        versions: dict[str, dict[str, list[Price]]] = {}
        for row in rows:
            if row.status == "confirmed":
                versions.setdefault(row.model, {}).setdefault(row.provider, []).append(row)
        for by_provider in versions.values():
            for prices in by_provider.values():
                prices.sort(key=lambda price: (price.effective_from, price.id), reverse=True)
        self._by_model = {model: dict(sorted(versions[model].items())) for model in sorted(versions)}

    def find(self, model: str, provider: str | None = None, *, at: datetime) -> list[Price]:
        """The version in force at a time for each provider that sells the model, in order of provider names.

        Empty for an unknown model: it is refused, never free.
        """
        by_provider = self._by_model.get(model)
        if by_provider is None:
            return []
        if provider is not None:
            candidates: Iterable[list[Price]] = (by_provider.get(provider, []),)
        else:
            candidates = by_provider.values()
        found = []
        for prices in candidates:
            for price in prices:
                if price.effective_from <= at:
                    found.append(price)
                    break
        return found

    def models(self, *, at: datetime) -> list[str]:
        """The names of all models that have a price in force at a time, sorted."""
        return [model for model in self._by_model if self.find(model, at=at)]
