"""Rating by example: plans, the price book, charges, ceilings and usage reports."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import genai_prices
import pytest

from faucet.kit.errors import InvariantBroken
from faucet.rating.price import PRICE_E8_PER_M_MAX, TOKENS_MAX, Price, PriceBook, PricePlan
from faucet.rating.rate import afford_output_tokens, ceiling, input_bound_tokens, rate
from faucet.rating.share import capped, split, split_fee
from faucet.rating.usage import read_report, usage_from_openai
from faucet.terms import Charge, Payer, Usage

START = datetime(2026, 1, 1, tzinfo=UTC)
PRICE = Price(
    id=7,
    provider="openai",
    model="gpt-4o-mini",
    tokenizer="o200k",
    context_window=128_000,
    max_output_tokens=16_384,
    input_e8_per_m=15_000_000,
    cached_read_e8_per_m=7_500_000,
    cached_write_e8_per_m=15_000_000,
    output_e8_per_m=60_000_000,
    image_tokens_max=48_169,
    effective_from=START,
    source="test",
    status="confirmed",
)
DEMO_PRICING = {"mode": "usage_markup", "markup_percent": 30, "channel_share_bps": 4000}
DEMO_PLAN = PricePlan(markup_bps=3_000, share_bps=4_000)
FEE_PLAN = replace(DEMO_PLAN, gateway_fee_e8=100_001)


# --- plans


def test_the_demo_pricing_is_understood() -> None:
    """The pricing object of the contract's demo feature is the plan that a developer expects of it."""
    assert PricePlan.parse_pricing(DEMO_PRICING) == DEMO_PLAN
    with_fee = {**DEMO_PRICING, "explicit_gateway_fee_usd": "0.00100000"}
    assert PricePlan.parse_pricing(with_fee) == replace(DEMO_PLAN, gateway_fee_e8=100_000)


def test_words_left_out_add_nothing_and_take_the_apps_share() -> None:
    """An empty pricing sells at cost; the app's own share holds where the feature names none."""
    assert PricePlan.parse_pricing({}) == PricePlan()
    assert PricePlan.parse_pricing({}, default_share_bps=2_500) == PricePlan(share_bps=2_500)
    assert PricePlan.parse_pricing({"channel_share_bps": 0}, default_share_bps=2_500) == PricePlan()


@pytest.mark.parametrize(
    ("percent", "markup_bps"),
    [
        (0, 0),
        (30, 3_000),
        (12.5, 1_250),
        (0.07, 7),
        (29.99, 2_999),
        (30.0, 3_000),
        ("0.1", 10),
        ("17.35", 1_735),
        (Decimal("17.35"), 1_735),
        (1000, 100_000),
        ("1000.00", 100_000),
    ],
)
def test_a_markup_is_read_exactly(percent: object, markup_bps: int) -> None:
    """A markup of 0.07 % is 7 basis points, though no binary fraction is 0.07."""
    assert PricePlan.parse_pricing({"markup_percent": percent}).markup_bps == markup_bps


@pytest.mark.parametrize(
    ("pricing", "path"),
    [
        ({"markup_percent": percent}, "pricing.markup_percent")
        for percent in (-1, 1000.01, 1001, 12.345, 1e-7, 1e22, True, None, "", "30%", " 30", "1e2", "٣", [30])
    ]
    + [
        ({"channel_share_bps": share}, "pricing.channel_share_bps")
        for share in (-1, 10_001, 4000.0, "4000", True, None)
    ]
    + [
        ({"explicit_gateway_fee_usd": usd}, "pricing.explicit_gateway_fee_usd")
        for usd in ("-0.01", "0.000000001", "1000.00000001", "ten", 0.00001, True, None, "")
    ]
    + [
        ({"mode": "auction"}, "pricing.mode"),
        ({"mode": None}, "pricing.mode"),
        ({"byok_markup_percent": 5}, "pricing.byok_markup_percent"),
        ([], "pricing"),
        (None, "pricing"),
    ],
)
def test_a_pricing_that_is_not_understood_is_refused_by_path(pricing: object, path: str) -> None:
    """A misread price costs somebody money; the developer is told which word is wrong."""
    with pytest.raises(ValueError, match=rf"^{path}: "):
        PricePlan.parse_pricing(pricing)


@pytest.mark.parametrize(
    "words",
    [
        {"mode": "auction"},
        {"markup_bps": -1},
        {"markup_bps": 100_001},
        {"share_bps": -1},
        {"share_bps": 10_001},
        {"gateway_fee_e8": -1},
        {"gateway_fee_e8": 10**11 + 1},
    ],
)
def test_a_plan_out_of_bounds_cannot_exist(words: dict[str, Any]) -> None:
    """A plan below cost or with a share above the margin would book money that is not there."""
    with pytest.raises(ValueError, match=next(iter(words))):
        PricePlan(**words)


# --- prices


@pytest.mark.parametrize(
    "words",
    [
        {"provider": ""},
        {"model": ""},
        {"tokenizer": "cl100k"},
        {"status": "maybe"},
        {"effective_from": datetime(2026, 1, 1)},
        {"input_e8_per_m": -1},
        {"cached_read_e8_per_m": -1},
        {"cached_write_e8_per_m": PRICE_E8_PER_M_MAX + 1},
        {"output_e8_per_m": PRICE_E8_PER_M_MAX + 1},
        {"reasoning_e8_per_m": -1},
        {"request_e8": -1},
        {"context_window": 0},
        {"max_output_tokens": -1},
        {"image_tokens_max": 2**31},
    ],
)
def test_a_price_out_of_bounds_cannot_exist(words: dict[str, Any]) -> None:
    """A negative price pays users for calling; one too large leaves the range of the books."""
    with pytest.raises(ValueError):
        replace(PRICE, **words)


def test_the_book_finds_the_version_in_force() -> None:
    """A price changes at its time, not before, and never back."""
    old = replace(PRICE, id=1)
    new = replace(PRICE, id=2, effective_from=START + timedelta(days=30))
    azure = replace(PRICE, id=3, provider="azure")
    book = PriceBook([new, old, azure])
    assert book.find("gpt-4o-mini", at=START - timedelta(seconds=1)) == []
    assert book.find("gpt-4o-mini", at=START) == [azure, old]
    assert book.find("gpt-4o-mini", "openai", at=START + timedelta(days=29)) == [old]
    assert book.find("gpt-4o-mini", "openai", at=START + timedelta(days=30)) == [new]
    assert book.models(at=START) == ["gpt-4o-mini"]
    assert book.models(at=START - timedelta(seconds=1)) == []


def test_only_confirmed_prices_are_found() -> None:
    """A catalogue's guess or a refused price must never charge anybody; an unknown model is not free."""
    draft = replace(PRICE, id=1, status="draft", effective_from=START + timedelta(days=1))
    rejected = replace(PRICE, id=2, status="rejected", model="gpt-9")
    book = PriceBook([draft, rejected, PRICE])
    later = START + timedelta(days=2)
    assert book.find("gpt-4o-mini", at=later) == [PRICE]
    assert book.find("gpt-9", at=later) == []
    assert book.find("gpt-4o-mini", "nobody", at=later) == []
    assert book.models(at=later) == ["gpt-4o-mini"]


# --- charges


def test_the_demo_charge_adds_up() -> None:
    """1,000 in and 500 out of gpt-4o-mini cost 0.00045 USD; 30 % on top, 40 % of that to the developer."""
    charge = rate(PRICE, DEMO_PLAN, Payer.PLATFORM, Usage(input_tokens=1_000, output_tokens=500))
    assert charge == Charge(cost_e8=45_000, retail_e8=58_500, channel_e8=5_400, platform_e8=8_100)


def test_every_kind_of_token_has_its_price() -> None:
    """Cached input, cache writes, thinking and the fixed part of a request are each billed as priced."""
    price = replace(PRICE, cached_write_e8_per_m=18_750_000, reasoning_e8_per_m=80_000_000, request_e8=500)
    usage = Usage(
        input_tokens=1_000,
        cached_read_tokens=2_000,
        cached_write_tokens=4_000,
        output_tokens=300,
        reasoning_tokens=100,
    )
    cost = 15_000 + 15_000 + 75_000 + 200 * 60 + 100 * 80 + 500
    assert rate(price, PricePlan(), Payer.PLATFORM, usage) == Charge(cost, cost, 0, 0)


def test_thinking_without_its_own_price_is_output_and_not_added_again() -> None:
    """Reasoning tokens are a part of the output; adding them would bill them twice."""
    thinking = Usage(output_tokens=300, reasoning_tokens=100)
    assert rate(PRICE, DEMO_PLAN, Payer.PLATFORM, thinking) == rate(
        PRICE, DEMO_PLAN, Payer.PLATFORM, Usage(output_tokens=300)
    )


def test_more_thinking_than_output_is_held_to_the_output() -> None:
    """A report whose part exceeds its whole must not make a negative price for the rest."""
    price = replace(PRICE, reasoning_e8_per_m=80_000_000)
    charge = rate(price, PricePlan(), Payer.PLATFORM, Usage(output_tokens=100, reasoning_tokens=900))
    assert charge.cost_e8 == 100 * 80


@pytest.mark.parametrize(("tokens", "cost_e8"), [(1, 0), (2, 1), (3, 2), (5, 2), (7, 4)])
def test_cost_is_rounded_once_half_to_even(tokens: int, cost_e8: int) -> None:
    """Always rounding up or down would drift against the provider's invoice."""
    price = replace(PRICE, input_e8_per_m=500_000)
    assert rate(price, PricePlan(), Payer.PLATFORM, Usage(input_tokens=tokens)).cost_e8 == cost_e8


@pytest.mark.parametrize("payer", [Payer.BYOK, Payer.LOCAL])
def test_own_keys_and_own_machines_pay_the_shown_fee_only(payer: Payer) -> None:
    """A user who brings the key sees the whole price beforehand: the fee, or nothing."""
    usage = Usage(input_tokens=10_000, output_tokens=10_000)
    assert rate(PRICE, DEMO_PLAN, payer, usage) == Charge(0, 0, 0, 0)
    assert rate(PRICE, FEE_PLAN, payer, usage) == Charge(0, 100_001, 40_000, 60_001)
    assert split_fee(100_001, 4_000) == rate(PRICE, FEE_PLAN, payer, Usage())


@pytest.mark.parametrize("payer", [Payer.PLATFORM, Payer.DEVELOPER])
def test_the_fee_of_own_keys_is_not_added_to_a_marked_up_request(payer: Payer) -> None:
    """A user pays markup or fee, never both."""
    usage = Usage(input_tokens=1_000, output_tokens=500)
    assert rate(PRICE, FEE_PLAN, payer, usage) == split(45_000, 3_000, 4_000)


@pytest.mark.parametrize(
    "usage",
    [
        Usage(input_tokens=-1),
        Usage(cached_read_tokens=-1),
        Usage(cached_write_tokens=-1),
        Usage(output_tokens=-1),
        Usage(reasoning_tokens=-1),
    ],
)
def test_negative_counts_are_a_bug_and_never_a_charge(usage: Usage) -> None:
    """A negative count would pay money out of a request."""
    with pytest.raises(InvariantBroken):
        rate(PRICE, DEMO_PLAN, Payer.PLATFORM, usage)


def test_what_the_hold_lacks_is_written_off() -> None:
    """A provider that reports more than the ceiling costs us, not the wallet."""
    charge = Charge(45_000, 58_500, 5_400, 8_100)
    assert capped(charge, 58_500) == (charge, 0)
    assert capped(charge, 58_499) == (charge, 1)
    assert capped(charge, 10**9) == (charge, 0)


# --- ceilings


def test_the_input_bound_counts_bytes_and_stops_at_the_window() -> None:
    """A small prompt must not reserve a whole window, and no prompt can be longer than one."""
    assert input_bound_tokens(1_000, 0, False, PRICE) == 1_064
    assert input_bound_tokens(10_000_000, 0, False, PRICE) == 128_000
    assert input_bound_tokens(10, 0, True, PRICE) == 128_000


def test_images_are_bound_apart_from_the_window() -> None:
    """gpt-4o-mini bills three images at more tokens than its window has."""
    assert input_bound_tokens(1_000, 3, False, PRICE) == 1_064 + 3 * 48_169
    assert input_bound_tokens(1_000, 1, True, PRICE) == 128_000 + 48_169


def test_embeddings_may_fill_many_windows() -> None:
    """One request embeds many inputs, each with a window of its own."""
    price = replace(PRICE, context_window=8_192, max_output_tokens=0, output_e8_per_m=0)
    assert input_bound_tokens(100_000, 0, False, price) == 100_064


def test_the_ceiling_takes_the_dearest_kinds_for_every_choice() -> None:
    """Whatever kind the provider reports the tokens as, and for each of n choices, the hold covers it."""
    price = replace(PRICE, cached_write_e8_per_m=18_750_000, reasoning_e8_per_m=80_000_000, request_e8=500)
    most = ceiling(price, DEMO_PLAN, Payer.DEVELOPER, input_tokens_max=1_000, output_tokens_max=100, n=3)
    assert most == split(18_750 + 300 * 80 + 500, 3_000, 4_000)


@pytest.mark.parametrize(
    ("input_tokens", "output_tokens", "n"),
    [(-1, 0, 1), (0, -1, 1), (0, 0, 0), (TOKENS_MAX + 1, 0, 1), (0, TOKENS_MAX // 2, 3)],
)
def test_bounds_that_no_request_can_have_are_refused(input_tokens: int, output_tokens: int, n: int) -> None:
    """A negative or endless bound would make a hold that the books cannot carry."""
    with pytest.raises(ValueError, match="token bounds"):
        ceiling(
            PRICE,
            DEMO_PLAN,
            Payer.PLATFORM,
            input_tokens_max=input_tokens,
            output_tokens_max=output_tokens,
            n=n,
        )


def test_an_answer_shrinks_to_what_the_wallet_pays() -> None:
    """With 0.0001 USD left, 100 tokens of prompt leave room for 103 of answer, not 104."""
    limit = afford_output_tokens(PRICE, DEMO_PLAN, Payer.PLATFORM, input_tokens=100, n=1, budget_e8=10_000)
    assert limit == 103
    for output_tokens, fits in ((103, True), (104, False)):
        most = ceiling(PRICE, DEMO_PLAN, Payer.PLATFORM, input_tokens_max=100, output_tokens_max=output_tokens, n=1)
        assert (most.retail_e8 <= 10_000) is fits


@pytest.mark.parametrize(("budget_e8", "limit"), [(0, 1), (1, 2), (2, 5), (3, 6), (4, 9)])
def test_a_tie_of_rounding_goes_to_the_even_cost(budget_e8: int, limit: int) -> None:
    """At half an e8 a token, three tokens cost 2 and so do five: the inverse rounds as the charge does."""
    price = replace(PRICE, input_e8_per_m=0, output_e8_per_m=500_000)
    afforded = afford_output_tokens(price, PricePlan(), Payer.PLATFORM, input_tokens=0, n=1, budget_e8=budget_e8)
    assert afforded == limit


def test_a_wallet_that_cannot_pay_the_prompt_affords_nothing() -> None:
    """Below the price of the input nothing can be shrunk to; above every price the model's limit holds."""
    bounds = {"input_tokens": 100, "n": 1}
    assert afford_output_tokens(PRICE, DEMO_PLAN, Payer.PLATFORM, **bounds, budget_e8=1_949) == 0
    assert afford_output_tokens(PRICE, DEMO_PLAN, Payer.PLATFORM, **bounds, budget_e8=-1) == 0
    assert afford_output_tokens(PRICE, DEMO_PLAN, Payer.PLATFORM, **bounds, budget_e8=10**9) == 16_384
    free_output = replace(PRICE, output_e8_per_m=0)
    assert afford_output_tokens(free_output, DEMO_PLAN, Payer.PLATFORM, **bounds, budget_e8=1_950) == 16_384
    assert afford_output_tokens(PRICE, FEE_PLAN, Payer.BYOK, **bounds, budget_e8=100_001) == 16_384
    assert afford_output_tokens(PRICE, FEE_PLAN, Payer.BYOK, **bounds, budget_e8=100_000) == 0


# --- usage reports

DOCUMENTED = [
    {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29},
    {
        "prompt_tokens": 19,
        "completion_tokens": 10,
        "total_tokens": 29,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    },
    {
        "prompt_tokens": 2006,
        "completion_tokens": 300,
        "total_tokens": 2306,
        "prompt_tokens_details": {"cached_tokens": 1920},
        "completion_tokens_details": {"reasoning_tokens": 256},
    },
    {
        "prompt_tokens": 2006,
        "completion_tokens": 300,
        "total_tokens": 2306,
        "prompt_tokens_details": {"cached_tokens": 1024, "cache_write_tokens": 900},
    },
    {
        "prompt_tokens": 81,
        "completion_tokens": 1035,
        "total_tokens": 1116,
        "prompt_tokens_details": None,
        "completion_tokens_details": {"reasoning_tokens": 832},
    },
]


@pytest.mark.parametrize("report", DOCUMENTED)
def test_documented_reports_are_read_as_an_independent_reader_does(report: dict[str, Any]) -> None:
    """Reading a kind into the wrong place charges every request wrongly; a second library must agree."""
    usage = usage_from_openai(report)
    assert usage is not None
    theirs = genai_prices.extract_usage(
        {"model": "gpt-4o", "usage": report}, provider_id="openai", api_flavor="chat"
    ).usage
    assert usage.total_input_tokens == theirs.input_tokens
    assert usage.cached_read_tokens == theirs.cache_read_tokens
    assert usage.cached_write_tokens == theirs.cache_write_tokens
    assert usage.output_tokens == theirs.output_tokens
    assert usage.reasoning_tokens == theirs.output_reasoning_tokens


@pytest.mark.parametrize(
    ("report", "usage"),
    [
        (  # xAI: thinking is beside the completion, as the total shows
            {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 135,
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
            Usage(32, 0, 0, 103, 94),
        ),
        (  # OpenAI: it is inside
            {
                "prompt_tokens": 32,
                "completion_tokens": 103,
                "total_tokens": 135,
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
            Usage(32, 0, 0, 103, 94),
        ),
        (  # DeepSeek
            {
                "prompt_tokens": 100,
                "completion_tokens": 1,
                "prompt_cache_hit_tokens": 64,
                "prompt_cache_miss_tokens": 36,
            },
            Usage(36, 64, 0, 1, 0),
        ),
        ({"prompt_tokens": 100, "completion_tokens": 1, "cached_tokens": 64}, Usage(36, 64, 0, 1, 0)),  # Moonshot
    ],
)
def test_providers_that_count_in_their_own_way(report: dict[str, Any], usage: Usage) -> None:
    """What one provider says beside the details, or outside of a total, would be charged at another price, or not."""
    assert usage_from_openai(report) == usage
    assert read_report(json.dumps(report).encode()) == (usage, None)


def test_an_embeddings_report_has_no_completion() -> None:
    """Embeddings are billed by their input, as the second reader reads it too."""
    report = {"prompt_tokens": 8, "total_tokens": 8}
    theirs = genai_prices.extract_usage(
        {"model": "text-embedding-3-small", "usage": report}, provider_id="openai", api_flavor="embeddings"
    ).usage
    assert usage_from_openai(report) == Usage(input_tokens=8)
    assert theirs.input_tokens == 8


def test_parts_larger_than_their_whole_are_cut_to_it() -> None:
    """The total that the provider bills stays what it is, and no kind becomes negative."""
    report = {
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 90, "cache_write_tokens": 50},
        "completion_tokens_details": {"reasoning_tokens": 11},
    }
    assert usage_from_openai(report) == Usage(0, 90, 10, 10, 10)
    report["prompt_tokens_details"] = {"cached_tokens": 101}
    assert usage_from_openai(report) == Usage(0, 100, 0, 10, 10)


GOOD = {"prompt_tokens": 5, "completion_tokens": 5}


@pytest.mark.parametrize(
    "report",
    [
        None,
        "19",
        [],
        {},
        {"prompt_tokens": 5},
        {"completion_tokens": 5},
        {"prompt_tokens": 5, "completion_tokens": None, "total_tokens": 9},
        {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
        {**GOOD, "prompt_tokens": -1},
        {**GOOD, "prompt_tokens": True},
        {**GOOD, "prompt_tokens": 5.0},
        {**GOOD, "prompt_tokens": "5"},
        {**GOOD, "completion_tokens": 2**40 + 1},
        {"prompt_tokens": 5, "completion_tokens": "x", "total_tokens": 5},
        {**GOOD, "prompt_tokens_details": []},
        {**GOOD, "prompt_tokens_details": {"cached_tokens": -1}},
        {**GOOD, "prompt_tokens_details": {"cache_write_tokens": 0.5}},
        {**GOOD, "completion_tokens_details": "none"},
        {**GOOD, "completion_tokens_details": {"reasoning_tokens": 2**41}},
    ],
)
def test_a_report_that_makes_no_sense_is_no_report(report: object) -> None:
    """Nothing is billed on a guess: where a report cannot be understood, tokens are counted instead."""
    assert usage_from_openai(report) is None
