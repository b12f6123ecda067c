"""What must hold of rating for every price, plan and usage; the reference is arithmetic with fractions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from math import floor

from hypothesis import given
from hypothesis import strategies as st

from faucet.rating.price import (
    FIXED_PRICE_E8_MAX,
    GATEWAY_FEE_E8_MAX,
    MARKUP_BPS_MAX,
    MINUTES_A_DAY,
    PRICE_E8_PER_M_MAX,
    REQUEST_E8_MAX,
    SHARE_BPS_MAX,
    TOKENS_MAX,
    Price,
    PricePlan,
    Tier,
)
from faucet.rating.rate import afford_output_tokens, ceiling, ceiling_e8, input_bound_tokens, rate
from faucet.rating.seed import seed_rows
from faucet.rating.share import capped, cost_within, split
from faucet.rating.usage import usage_from_openai
from faucet.terms import Charge, Payer, Usage

BIGINT_MAX = 2**63 - 1
# Mostly small numbers, because that is where roundings meet.
per_million = st.one_of(st.integers(0, 5_000_000), st.integers(0, PRICE_E8_PER_M_MAX))
token_counts = st.one_of(st.integers(0, 50), st.integers(0, 300_000), st.integers(0, TOKENS_MAX // 4))
costing_payers = st.sampled_from((Payer.PLATFORM, Payer.DEVELOPER))
free_payers = st.sampled_from((Payer.BYOK, Payer.LOCAL))
payers = st.sampled_from(Payer)

minutes = st.none() | st.tuples(st.integers(0, MINUTES_A_DAY - 1), st.integers(0, MINUTES_A_DAY - 1))
tiers = st.builds(
    lambda hours, **rest: Tier(from_minute=hours and hours[0], until_minute=hours and hours[1], **rest),
    minutes,
    above_input_tokens=st.one_of(st.integers(0, 50), st.integers(0, 300_000)),
    input_e8_per_m=per_million,
    cached_read_e8_per_m=per_million,
    cached_write_e8_per_m=per_million,
    output_e8_per_m=per_million,
    reasoning_e8_per_m=st.none() | per_million,
)
times = st.datetimes(min_value=datetime(2026, 1, 1), timezones=st.just(UTC))

prices = st.builds(
    Price,
    id=st.just(1),
    provider=st.just("mock"),
    model=st.just("mock-small"),
    tokenizer=st.just("words"),
    context_window=st.integers(1, 2_000_000),
    max_output_tokens=st.integers(0, 200_000),
    input_e8_per_m=per_million,
    cached_read_e8_per_m=per_million,
    cached_write_e8_per_m=per_million,
    output_e8_per_m=per_million,
    reasoning_e8_per_m=st.none() | per_million,
    request_e8=st.one_of(st.just(0), st.integers(0, REQUEST_E8_MAX)),
    image_tokens_max=st.integers(0, 50_000),
    effective_from=st.just(datetime(2026, 1, 1, tzinfo=UTC)),
    source=st.just("test"),
    status=st.just("confirmed"),
)
tiered = st.builds(lambda price, more: replace(price, tiers=tuple(more)), prices, st.lists(tiers, max_size=4))
markup_plans = st.builds(
    PricePlan,
    markup_bps=st.integers(0, MARKUP_BPS_MAX),
    share_bps=st.integers(0, SHARE_BPS_MAX),
    gateway_fee_e8=st.integers(0, GATEWAY_FEE_E8_MAX),
)
fixed_plans = st.builds(
    PricePlan,
    mode=st.just("fixed_price"),
    share_bps=st.integers(0, SHARE_BPS_MAX),
    gateway_fee_e8=st.integers(0, GATEWAY_FEE_E8_MAX),
    fixed_price_e8=st.one_of(st.integers(1, 10_000), st.integers(1, FIXED_PRICE_E8_MAX)),
)
plans = markup_plans | fixed_plans


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    output = draw(token_counts)
    return Usage(
        input_tokens=draw(token_counts),
        cached_read_tokens=draw(token_counts),
        cached_write_tokens=draw(token_counts),
        output_tokens=output,
        reasoning_tokens=draw(st.integers(0, output)),
    )


def exact_cost(price: Price, usage: Usage) -> Fraction:
    reasoning_price = price.output_e8_per_m if price.reasoning_e8_per_m is None else price.reasoning_e8_per_m
    return price.request_e8 + sum(
        (
            Fraction(tokens * e8_per_m, 1_000_000)
            for tokens, e8_per_m in (
                (usage.input_tokens, price.input_e8_per_m),
                (usage.cached_read_tokens, price.cached_read_e8_per_m),
                (usage.cached_write_tokens, price.cached_write_e8_per_m),
                (usage.output_tokens - usage.reasoning_tokens, price.output_e8_per_m),
                (usage.reasoning_tokens, reasoning_price),
            )
        ),
        Fraction(0),
    )


def no_part_is_larger(charge: Charge, other: Charge) -> bool:
    return (
        charge.cost_e8 <= other.cost_e8
        and charge.retail_e8 <= other.retail_e8
        and charge.channel_e8 <= other.channel_e8
        and charge.platform_e8 <= other.platform_e8
    )


@given(prices, markup_plans, costing_payers, usages())
def test_a_charge_equals_exact_arithmetic(price: Price, plan: PricePlan, payer: Payer, usage: Usage) -> None:
    """One rounding of cost, half to even, and two floors: else our books and a provider's invoice drift."""
    cost = round(exact_cost(price, usage))
    margin = floor(Fraction(cost * plan.markup_bps, 10_000))
    channel = floor(Fraction(margin * plan.share_bps, 10_000))
    assert rate(price, plan, payer, usage) == Charge(cost, cost + margin, channel, margin - channel)


@given(prices, fixed_plans, costing_payers, usages())
def test_a_fixed_price_is_the_whole_charge_down_to_its_cost(
    price: Price, plan: PricePlan, payer: Payer, usage: Usage
) -> None:
    """A price that was shown would not be the price; or an answer be sold below cost by a negative part."""
    cost = round(exact_cost(price, usage))
    assert plan.fixed_price_e8 is not None
    margin = max(0, plan.fixed_price_e8 - cost)
    channel = floor(Fraction(margin * plan.share_bps, 10_000))
    assert rate(price, plan, payer, usage) == Charge(cost, cost + margin, channel, margin - channel)
    assert rate(price, plan, payer, usage, whole=False) == Charge(cost, cost, 0, 0)


@given(prices, plans, payers, usages())
def test_the_parts_of_a_charge_sum_to_it(price: Price, plan: PricePlan, payer: Payer, usage: Usage) -> None:
    """A charge whose parts do not sum could not be booked without inventing or losing money."""
    charge = rate(price, plan, payer, usage)
    assert charge.cost_e8 + charge.channel_e8 + charge.platform_e8 == charge.retail_e8
    assert min(charge.cost_e8, charge.channel_e8, charge.platform_e8) >= 0
    assert charge.retail_e8 <= BIGINT_MAX


@given(prices, markup_plans, payers, usages(), st.data())
def test_more_tokens_never_cost_less(
    price: Price, plan: PricePlan, payer: Payer, usage: Usage, data: st.DataObject
) -> None:
    """A charge that falls when usage grows would let somebody pay less by using more."""
    more = data.draw(token_counts)
    grown = (
        Usage(
            usage.input_tokens + more,
            usage.cached_read_tokens,
            usage.cached_write_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
        ),
        Usage(
            usage.input_tokens,
            usage.cached_read_tokens + more,
            usage.cached_write_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
        ),
        Usage(
            usage.input_tokens,
            usage.cached_read_tokens,
            usage.cached_write_tokens + more,
            usage.output_tokens,
            usage.reasoning_tokens,
        ),
        Usage(
            usage.input_tokens,
            usage.cached_read_tokens,
            usage.cached_write_tokens,
            usage.output_tokens + more,
            usage.reasoning_tokens,
        ),
        # More thinking is more output: the one is a part of the other.
        Usage(
            usage.input_tokens,
            usage.cached_read_tokens,
            usage.cached_write_tokens,
            usage.output_tokens + more,
            usage.reasoning_tokens + more,
        ),
    )
    charge = rate(price, plan, payer, usage)
    assert all(no_part_is_larger(charge, rate(price, plan, payer, each)) for each in grown)


@given(prices, plans, payers, usages(), st.integers(1, 8), st.integers(0, 5_000), st.integers(0, 5_000))
def test_usage_within_its_bounds_never_rates_above_the_ceiling(
    price: Price, plan: PricePlan, payer: Payer, usage: Usage, n: int, spare_input: int, spare_output: int
) -> None:
    """The hold reserves the ceiling: a charge above it would overdraw a wallet or be our loss."""
    most = ceiling(
        price,
        plan,
        payer,
        input_tokens_max=usage.total_input_tokens + spare_input,
        output_tokens_max=-(-usage.output_tokens // n) + spare_output,
        n=n,
    )
    charge = rate(price, plan, payer, usage)
    # Of a fixed price, less cost is more margin: only the whole is bounded.
    assert (charge.cost_e8 <= most.cost_e8 and charge.retail_e8 <= most.retail_e8) or plan.fixed_price_e8 is None
    assert no_part_is_larger(charge, most) or plan.fixed_price_e8 is not None
    assert capped(charge, most.retail_e8) == (charge, 0)


@given(tiered, plans, payers, usages(), times, st.integers(1, 8), st.integers(0, 5_000), st.integers(0, 5_000))
def test_no_tier_rates_above_the_ceiling(
    price: Price, plan: PricePlan, payer: Payer, usage: Usage, at: datetime, n: int, more_input: int, more_output: int
) -> None:
    """A price that rises with the size of a request, or at noon, is not covered by what was held."""
    bounds = {
        "input_tokens_max": usage.total_input_tokens + more_input,
        "output_tokens_max": -(-usage.output_tokens // n) + more_output,
        "n": n,
    }
    most = ceiling(price, plan, payer, **bounds)
    assert rate(price, plan, payer, usage, at).retail_e8 <= most.retail_e8
    assert ceiling_e8(price, plan, payer, **bounds) == most.retail_e8


@given(tiered, plans, costing_payers, usages(), times)
def test_a_tier_rates_as_a_price_of_its_own(
    price: Price, plan: PricePlan, payer: Payer, usage: Usage, at: datetime
) -> None:
    """Crossing a border changes the price of every token, exactly, and of nothing else."""
    minute = at.hour * 60 + at.minute
    holding = [tier for tier in price.tiers if tier.holds(usage.total_input_tokens, minute)]
    names = ("input", "cached_read", "cached_write", "output", "reasoning")
    same: Price | Tier = holding[-1] if holding else price
    flat = replace(price, tiers=(), **{f"{name}_e8_per_m": getattr(same, f"{name}_e8_per_m") for name in names})
    assert rate(price, plan, payer, usage, at) == rate(flat, plan, payer, usage)


@given(tiered, st.integers(0, 400_000))
def test_the_worst_is_reached_by_what_can_hold(price: Price, size: int) -> None:
    """A ceiling with tiers that a request can't reach refuses requests that the wallet could pay."""
    reachable = [price, *(tier for tier in price.tiers if any(tier.holds(size, m) for m in range(0, MINUTES_A_DAY)))]
    never = [tier for tier in price.tiers if tier.above_input_tokens >= max(size, 1)]
    assert not any(tier in reachable for tier in never if tier.above_input_tokens)
    assert price.worst(size)[0] >= max(each.input_e8_per_m for each in reachable)


@given(prices, plans, free_payers, usages())
def test_a_request_that_somebody_else_paid_for_is_never_marked_up(
    price: Price, plan: PricePlan, payer: Payer, usage: Usage
) -> None:
    """With the user's own key the shown fee is the whole charge, whatever was used or is marked up."""
    charge = rate(price, plan, payer, usage)
    channel = floor(Fraction(plan.gateway_fee_e8 * plan.share_bps, 10_000))
    assert charge == Charge(0, plan.gateway_fee_e8, channel, plan.gateway_fee_e8 - channel)
    assert charge == ceiling(price, plan, payer, input_tokens_max=9, output_tokens_max=9, n=1)


@given(prices, plans, usages())
def test_a_developers_key_costs_the_user_what_the_platforms_does(price: Price, plan: PricePlan, usage: Usage) -> None:
    """Who earns the cost is the ledger's business; a user must not pay for a developer's choice of key."""
    assert rate(price, plan, Payer.DEVELOPER, usage) == rate(price, plan, Payer.PLATFORM, usage)


@given(prices | tiered, plans, payers, st.integers(0, 1_000_000), st.integers(1, 8), st.data())
def test_the_affordable_output_is_the_largest_that_fits(
    price: Price, plan: PricePlan, payer: Payer, input_tokens: int, n: int, data: st.DataObject
) -> None:
    """One token too many is refused by the ledger; one too few cuts an answer that the wallet could pay."""

    def retail_of(output_tokens: int) -> int:
        return ceiling(
            price, plan, payer, input_tokens_max=input_tokens, output_tokens_max=output_tokens, n=n
        ).retail_e8

    least, most = retail_of(0), retail_of(price.max_output_tokens)
    aimed = retail_of(data.draw(st.integers(0, price.max_output_tokens)))
    budget = data.draw(
        st.one_of(
            st.integers(-2, 2).map(lambda off: aimed + off),
            st.integers(least - 2, most + 2),
            st.integers(-5, 5),
        )
    )
    limit = afford_output_tokens(price, plan, payer, input_tokens=input_tokens, n=n, budget_e8=budget)
    assert 0 <= limit <= price.max_output_tokens
    if limit > 0 or least <= budget:
        assert retail_of(limit) <= budget
    if limit < price.max_output_tokens:
        assert retail_of(limit + 1) > budget


@given(st.integers(0, 10**15), st.integers(0, MARKUP_BPS_MAX), st.integers(0, SHARE_BPS_MAX))
def test_the_cost_within_an_amount_is_the_largest(retail: int, markup_bps: int, share_bps: int) -> None:
    """The inverse of the markup decides how far an answer is shrunk; it must be exact on both sides."""
    cost = cost_within(retail, markup_bps)
    assert cost >= 0
    assert split(cost, markup_bps, share_bps).retail_e8 <= retail
    assert split(cost + 1, markup_bps, share_bps).retail_e8 > retail


@given(st.integers(0, 10**15), st.integers(0, MARKUP_BPS_MAX), st.integers(0, SHARE_BPS_MAX), st.data())
def test_what_a_hold_does_not_cover_is_written_off_and_nothing_else(
    cost: int, markup_bps: int, share_bps: int, data: st.DataObject
) -> None:
    """A wallet pays what was held at most, and the rest of the charge is accounted for to the unit."""
    charge = split(cost, markup_bps, share_bps)
    held = data.draw(st.integers(0, 2 * charge.retail_e8 + 1))
    same, write_off = capped(charge, held)
    assert same == charge
    assert charge.retail_e8 - write_off == min(held, charge.retail_e8)


@given(prices, st.text(max_size=200), st.integers(0, 4), st.booleans())
def test_the_input_bound_covers_one_token_per_byte(price: Price, prompt: str, images: int, opaque_parts: bool) -> None:
    """A bound below what a byte-level tokenizer can make would let a prompt cost more than its hold."""
    body_bytes = len(prompt.encode("utf-8", "replace"))
    bound = input_bound_tokens(body_bytes, images, opaque_parts, price)
    in_the_window = min(body_bytes, price.context_window)
    assert bound >= in_the_window + images * price.image_tokens_max
    if opaque_parts:
        assert bound >= price.context_window
    if price.max_output_tokens > 0:
        assert bound <= price.context_window + images * price.image_tokens_max


json_garbage = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True)
    | st.text(max_size=5)
    | st.integers(0, 500),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
reports = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": json_garbage,
        "completion_tokens": json_garbage,
        "total_tokens": json_garbage,
        "prompt_tokens_details": json_garbage
        | st.fixed_dictionaries({}, optional={"cached_tokens": json_garbage, "cache_write_tokens": json_garbage}),
        "completion_tokens_details": json_garbage
        | st.fixed_dictionaries({}, optional={"reasoning_tokens": json_garbage}),
    },
)


@given(prices, plans, payers, json_garbage | reports)
def test_whatever_a_provider_reports_is_refused_or_can_be_charged(
    price: Price, plan: PricePlan, payer: Payer, report: object
) -> None:
    """A strange report must neither crash a settlement nor make a negative or overflowing charge."""
    usage = usage_from_openai(report)
    if usage is None:
        return
    assert isinstance(report, dict)
    assert usage.total_input_tokens == report["prompt_tokens"]
    said = report.get("completion_tokens") or 0
    assert usage.output_tokens == said or (
        usage.output_tokens == said + usage.reasoning_tokens
        and report["total_tokens"] == report["prompt_tokens"] + usage.output_tokens
    )
    assert usage.reasoning_tokens <= usage.output_tokens
    assert 0 <= rate(price, plan, payer, usage).retail_e8 <= BIGINT_MAX


MOCK_REASONER = next(row for row in seed_rows(providers={"openai"}).rows if row.model == "mock-reasoner")


@given(
    st.integers(0, 200_000), st.integers(0, 200_000), st.integers(1, 128), st.sampled_from([Payer.PLATFORM, Payer.BYOK])
)
def test_the_hold_is_the_ceilings_retail(asked: int, given_tokens: int, n: int, payer: Payer) -> None:
    """A hold that is less than the ceiling would let an answer cost more than was reserved."""
    book = MOCK_REASONER
    plan = PricePlan(markup_bps=3_333, share_bps=4_000, gateway_fee_e8=12_345)
    bounds = {"input_tokens_max": asked, "output_tokens_max": given_tokens, "n": n}
    assert ceiling_e8(book, plan, payer, **bounds) == ceiling(book, plan, payer, **bounds).retail_e8
