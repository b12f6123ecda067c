"""Draft prices: what the packaged catalogue and the mock provider become, and what is left out."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal

import pytest
from genai_prices.data import providers as catalogue
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)
from genai_prices.types import Tier as PriceTier

from faucet.rating.known_limits import limits_of
from faucet.rating.price import Price, PriceBook
from faucet.rating.seed import MOCK_PROVIDER, SEED_EFFECTIVE_FROM, _drafts, _NotFlat, e8, seed_rows

REPORT = seed_rows()
FLAT = ModelPrice(input_mtok=Decimal("2"), output_mtok=Decimal("8"))


def row(provider: str, model: str) -> Price:
    (found,) = (each for each in REPORT.rows if (each.provider, each.model) == (provider, model))
    return found


def drafts(
    prices: ModelPrice | list[ConditionalPrice], *, model_id: str = "m", context_window: int | None = 8_000
) -> list[Price]:
    model = ModelInfo(id=model_id, match=ClauseEquals(equals=model_id), context_window=context_window, prices=prices)
    return _drafts("someone", model, "a catalogue", SEED_EFFECTIVE_FROM)


def test_every_catalogue_entry_is_a_draft_or_skipped_with_a_reason() -> None:
    """An entry that vanished silently would be a model that nobody knows to price."""
    known = {(provider.id, model.id) for provider in catalogue for model in provider.models}
    drafted = {(each.provider, each.model) for each in REPORT.rows if each.provider != MOCK_PROVIDER}
    skipped = {(each.provider, each.model) for each in REPORT.skipped}
    assert drafted | skipped == known
    assert drafted & skipped == set()
    assert all(each.reason for each in REPORT.skipped)


def test_a_seed_is_only_ever_drafts() -> None:
    """Catalogues disagree: no price may charge anybody before a person has confirmed it."""
    assert {each.status for each in REPORT.rows} == {"draft"}
    assert {each.id for each in REPORT.rows} == {0}
    assert PriceBook(REPORT.rows).models(at=datetime(2030, 1, 1, tzinfo=UTC)) == []


def test_rows_can_be_stored() -> None:
    """The price table holds one version per provider, model and moment."""
    keys = [(each.provider, each.model, each.effective_from) for each in REPORT.rows]
    assert len(set(keys)) == len(keys)
    assert keys == sorted(keys)


def test_nothing_but_an_embedding_is_seeded_with_output_for_nothing() -> None:
    """A price of zero would give answers away."""
    assert all(each.input_e8_per_m > 0 for each in REPORT.rows)
    free_output = {each.model for each in REPORT.rows if each.output_e8_per_m == 0}
    assert {"text-embedding-3-small", "text-embedding-3-large"} <= free_output
    assert all("embed" in model.lower() for model in free_output)
    assert all((each.max_output_tokens == 0) == (each.output_e8_per_m == 0) for each in REPORT.rows)


@pytest.mark.parametrize(
    ("model", "input_e8", "cached_e8", "output_e8", "window", "output_max"),
    [
        ("gpt-4o-mini", 15_000_000, 7_500_000, 60_000_000, 128_000, 16_384),
        ("gpt-4o", 250_000_000, 125_000_000, 1_000_000_000, 128_000, 16_384),
        ("gpt-4.1", 200_000_000, 50_000_000, 800_000_000, 1_047_576, 32_768),
        ("gpt-5", 125_000_000, 12_500_000, 1_000_000_000, 400_000, 128_000),
        ("o3", 200_000_000, 50_000_000, 800_000_000, 200_000, 100_000),
        ("gpt-4", 3_000_000_000, 3_000_000_000, 6_000_000_000, 8_192, 8_192),
    ],
)
def test_openai_prices_are_those_of_its_price_list(
    model: str, input_e8: int, cached_e8: int, output_e8: int, window: int, output_max: int
) -> None:
    """A slip of a power of ten between dollars and e8 would be wrong for every request."""
    price = row("openai", model)
    assert (price.input_e8_per_m, price.cached_read_e8_per_m, price.output_e8_per_m) == (
        input_e8,
        cached_e8,
        output_e8,
    )
    assert (price.context_window, price.max_output_tokens, price.tokenizer) == (window, output_max, "o200k")
    assert price.source.startswith("genai-prices ")


def test_the_mock_provider_has_its_prices() -> None:
    """Every test and demo of money rates with these figures."""
    small, large, reasoner = (row("mock", f"mock-{name}") for name in ("small", "large", "reasoner"))
    assert (small.input_e8_per_m, small.cached_read_e8_per_m, small.output_e8_per_m) == (
        15_000_000,
        7_500_000,
        60_000_000,
    )
    assert (large.input_e8_per_m, large.output_e8_per_m) == (250_000_000, 1_000_000_000)
    assert (reasoner.input_e8_per_m, reasoner.output_e8_per_m) == (110_000_000, 440_000_000)
    failing = {each.model for each in REPORT.rows if each.provider == "mock"} - {
        small.model,
        large.model,
        reasoner.model,
        "mock-embed",
    }
    assert failing == set(
        "fail-500 stall cut-mid-stream no-usage lies-about-usage slow-first-byte 429 200-with-error-body "
        "flaky refuse-400 usage-twice crlf-sse".split()
    )
    for model in failing | {"mock-small"}:
        price = row("mock", model)
        assert (price.input_e8_per_m, price.output_e8_per_m) == (15_000_000, 60_000_000)
        assert (price.tokenizer, price.context_window, price.max_output_tokens) == ("words", 128_000, 16_384)


def test_a_seed_can_be_narrowed_and_dated() -> None:
    """An operator of one provider is not asked about all others; an import dates its own versions."""
    moment = datetime(2026, 11, 5, tzinfo=UTC)
    report = seed_rows(effective_from=moment, providers={"openai"})
    assert {each.provider for each in report.rows} == {"openai", "mock"}
    assert {each.provider for each in report.skipped} == {"openai"}
    assert min(each.effective_from for each in report.rows) == moment


def test_prices_left_out_of_the_catalogue_are_those_of_plain_input() -> None:
    """A missing discount is no discount; it is never a price of zero."""
    (draft,) = drafts(FLAT)
    assert draft.input_e8_per_m == draft.cached_read_e8_per_m == draft.cached_write_e8_per_m == 200_000_000
    assert (draft.reasoning_e8_per_m, draft.request_e8, draft.tokenizer) == (None, 0, "bytes")


def test_every_plain_price_of_an_entry_is_taken() -> None:
    """A price that was dropped on the way would be sold for nothing."""
    (draft,) = drafts(
        ModelPrice(
            input_mtok=Decimal("2"),
            cache_read_mtok=Decimal("0.2"),
            cache_write_mtok=Decimal("2.5"),
            output_mtok=Decimal("8"),
            output_reasoning_mtok=Decimal("9"),
            requests_kcount=Decimal("12"),
            web_searches_kcount=Decimal("10"),
            input_audio_mtok=None,
        )
    )
    assert draft.cached_read_e8_per_m == 20_000_000
    assert draft.cached_write_e8_per_m == 250_000_000
    assert draft.reasoning_e8_per_m == 900_000_000
    assert draft.request_e8 == 1_200_000
    assert draft.source == "a catalogue; not priced here: web searches"


def test_announced_prices_are_rows_of_their_own() -> None:
    """The price in force starts with the seed; one for a later day must wait for that day."""
    later = datetime(2026, 10, 19, tzinfo=UTC)
    dear = ModelPrice(input_mtok=Decimal("10"), output_mtok=Decimal("40"))
    dearest = ModelPrice(input_mtok=Decimal("20"), output_mtok=Decimal("80"))
    versions = drafts(
        [
            ConditionalPrice(prices=dear),
            ConditionalPrice(StartDateConstraint(date(2025, 6, 10)), prices=FLAT),
            ConditionalPrice(StartDateConstraint(date(2026, 10, 19)), prices=dearest),
        ]
    )
    assert [(each.effective_from, each.input_e8_per_m) for each in versions] == [
        (SEED_EFFECTIVE_FROM, 200_000_000),
        (later, 2_000_000_000),
    ]


def test_a_price_that_no_draft_can_have_gives_way_to_one_that_can() -> None:
    """Before that day there is no price; and none that would stay in force too long."""
    audio = ModelPrice(input_mtok=Decimal("1"), output_mtok=Decimal("8"), input_audio_mtok=Decimal("9"))
    since = StartDateConstraint(date(2026, 3, 13))
    (draft,) = drafts([ConditionalPrice(prices=audio), ConditionalPrice(since, prices=FLAT)])
    assert (draft.effective_from, draft.input_e8_per_m) == (datetime(2026, 3, 13, tzinfo=UTC), 200_000_000)
    with pytest.raises(_NotFlat, match="also priced by"):
        drafts([ConditionalPrice(prices=FLAT), ConditionalPrice(since, prices=audio)])


def test_tiers_of_size() -> None:
    """A long prompt, for which every token costs more, would be sold at the price of a short one."""
    tiered = TieredPrices(Decimal("1"), [PriceTier(200_000, Decimal("2")), PriceTier(400_000, Decimal("5"))])
    output = TieredPrices(Decimal("8"), [PriceTier(200_000, Decimal("12"))])
    (draft,) = drafts(ModelPrice(input_mtok=tiered, cache_read_mtok=Decimal("0.1"), output_mtok=output))
    figures = [(t.above_input_tokens, t.input_e8_per_m, t.cached_read_e8_per_m, t.output_e8_per_m) for t in draft.tiers]
    assert (draft.input_e8_per_m, draft.output_e8_per_m) == (100_000_000, 800_000_000)
    assert figures == [
        (200_000, 200_000_000, 10_000_000, 1_200_000_000),
        (400_000, 500_000_000, 10_000_000, 1_200_000_000),
    ]
    at = [draft.of(tokens, None).input_e8_per_m for tokens in (0, 200_000, 200_001, 400_000, 400_001)]
    assert at == [100_000_000, 100_000_000, 200_000_000, 200_000_000, 500_000_000]


def test_hours_of_the_day() -> None:
    """What is cheap by night would be sold at that price by day."""
    east = timezone(timedelta(hours=8))
    dear = ModelPrice(input_mtok=Decimal("4"), output_mtok=Decimal("16"))
    hours = TimeOfDateConstraint(time(8, 30, tzinfo=east), time(0, 30, tzinfo=east))
    (draft,) = drafts([ConditionalPrice(prices=FLAT), ConditionalPrice(hours, prices=dear)])
    (tier,) = draft.tiers
    assert (tier.from_minute, tier.until_minute, draft.has_hours) == (30, 16 * 60 + 30, True)
    moments = [(0, 29), (0, 30), (16, 29), (16, 30), (23, 59)]
    at = [draft.of(9, datetime(2026, 5, 1, *moment, tzinfo=UTC)).input_e8_per_m for moment in moments]
    assert at == [200_000_000, 400_000_000, 400_000_000, 200_000_000, 200_000_000]
    with pytest.raises(ValueError, match="time of the day"):
        draft.of(9, None)


def test_our_names_for_providers_and_what_is_known_of_their_models() -> None:
    """Prices under a name that no provider of ours has are for nobody; a bound that is a guess refuses too much."""
    rows = {each.model: each for each in seed_rows(names={"google": "gemini"}, providers={"gemini"}).rows}
    pro = rows["gemini-2.5-pro"]
    assert (pro.provider, pro.context_window, pro.max_output_tokens, pro.image_tokens_max) == (
        "gemini", 2**20, 65_535, 16 * 258
    )  # fmt: skip
    assert [tier.above_input_tokens for tier in pro.tiers] == [200_000]
    outputs = {"claude-opus-4-1": 32_000, "claude-sonnet-4-5": 64_000, "claude-3-5-haiku-latest": 8_192}
    assert {model: limits_of("anthropic", model).max_output_tokens for model in outputs} == outputs


@pytest.mark.parametrize(
    ("prices", "model_id", "context_window", "reason"),
    [
        (FLAT, "gpt-9-audio", 8_000, "bills more than text tokens"),
        (FLAT, "m", None, "no context window"),
        (ModelPrice(), "m", 8_000, "no price per token"),
        (ModelPrice(input_mtok=Decimal("1")), "m", 8_000, "no price per token"),
        (ModelPrice(input_mtok=Decimal("0"), output_mtok=Decimal("1")), "m", 8_000, "a price of zero"),
        (ModelPrice(input_mtok=Decimal("1"), output_mtok=Decimal("0")), "m", 8_000, "a price of zero"),
        (
            ModelPrice(input_mtok=Decimal("1"), output_mtok=Decimal("1"), input_audio_mtok=Decimal("9")),
            "m",
            8_000,
            "also priced by input_audio_mtok",
        ),
        (
            [ConditionalPrice(TimeOfDateConstraint(time(1, tzinfo=UTC), time(9, tzinfo=UTC)), prices=FLAT)],
            "m",
            8_000,
            "priced in some hours only",
        ),
        (
            [
                ConditionalPrice(prices=FLAT),
                ConditionalPrice(TimeOfDateConstraint(time(1, 0, 30, tzinfo=UTC), time(9, tzinfo=UTC)), prices=FLAT),
            ],
            "m",
            8_000,
            "seconds of the day",
        ),
        (
            ModelPrice(input_mtok=Decimal("0.000000001"), output_mtok=Decimal("1")),
            "m",
            8_000,
            "not a whole number of e8",
        ),
        (ModelPrice(input_mtok=Decimal("3001"), output_mtok=Decimal("1")), "m", 8_000, "a price per million"),
    ],
)
def test_what_a_flat_price_cannot_express_is_left_out(
    prices: ModelPrice | list[ConditionalPrice], model_id: str, context_window: int | None, reason: str
) -> None:
    """A price that is only sometimes right would charge wrongly without anybody noticing."""
    with pytest.raises(_NotFlat, match=reason):
        drafts(prices, model_id=model_id, context_window=context_window)


def test_a_pattern_is_not_a_model() -> None:
    """Some entries stand for a family; their id is no name that a caller could send."""
    family = ModelInfo(id="ft:m", match=ClauseEquals(equals="ft:m-1"), context_window=8_000, prices=FLAT)
    with pytest.raises(_NotFlat, match="not a name"):
        _drafts("someone", family, "a catalogue", SEED_EFFECTIVE_FROM)


@pytest.mark.parametrize(
    ("usd", "per", "expected"),
    [("0.15", 1, 15_000_000), ("0.00000001", 1, 1), ("12", 1_000, 1_200_000), ("1.25", 1, 125_000_000)],
)
def test_dollars_become_exact_integers(usd: str, per: int, expected: int) -> None:
    """The seed is the only place where a decimal meets money; it must lose nothing."""
    assert e8(Decimal(usd), per=per) == expected


@pytest.mark.parametrize(("usd", "per"), [("0.000000001", 1), ("0.000001", 1_000)])
def test_dollars_that_are_no_integer_are_refused(usd: str, per: int) -> None:
    """A silently rounded price would be wrong on every request."""
    with pytest.raises(ValueError, match="whole number"):
        e8(Decimal(usd), per=per)
