"""Usage times price: the ceiling before a call, the charge after it, and the output that a wallet can pay.

Everything here is pure and exact: one sum of integers, rounded once, half to even. Not here: what a hold or a
settlement does with the amounts (`ledger`), counting tokens, and reading a provider's report (`usage`).
"""

from __future__ import annotations

from datetime import datetime

from faucet.kit.errors import InvariantBroken
from faucet.kit.money import bps, div_half_even
from faucet.rating.price import TOKENS_MAX, Price, PricePlan
from faucet.rating.share import cost_within, split, split_fee, split_fixed
from faucet.terms import Charge, Payer, Usage

_MILLION = 1_000_000
_FEE_ONLY = (Payer.BYOK, Payer.LOCAL)
"""Who has paid the provider without us: nothing of ours to mark up."""
_TEMPLATE_TOKENS = 64
"""What a provider's chat template adds around a prompt, beyond the bytes of its JSON."""


def input_bound_tokens(body_bytes: int, images: int, opaque_parts: bool, price: Price) -> int:
    """The most input tokens that a request can be billed for, without counting any.

    A byte-level tokenizer makes at most one token per byte, and a prompt is never longer than the context
    window. Parts that we cannot see into (audio, files by id) may fill the window. Two things are not bound
    by it: images, which some models bill at many times the tokens that they take in the window, and a model
    without output (embeddings), whose window holds for each of many inputs.
    """
    text = body_bytes + _TEMPLATE_TOKENS
    if opaque_parts:
        text = price.context_window
    elif price.max_output_tokens > 0:
        text = min(price.context_window, text)
    return text + images * price.image_tokens_max


def ceiling(
    price: Price,
    plan: PricePlan,
    payer: Payer,
    *,
    input_tokens_max: int,
    output_tokens_max: int,
    n: int,
) -> Charge:
    """The most that a request within these bounds can be charged; its `retail_e8` is what a hold reserves.

    The output bound is for each of the `n` choices. Raises ValueError for bounds that no request can have.
    """
    _check_bounds(input_tokens_max, output_tokens_max, n)
    input_worst, output_worst = price.worst(input_tokens_max)
    return _charge(price, plan, payer, input_tokens_max * input_worst + n * output_tokens_max * output_worst)


def ceiling_e8(
    price: Price, plan: PricePlan, payer: Payer, *, input_tokens_max: int, output_tokens_max: int, n: int
) -> int:
    """The `retail_e8` of `ceiling`: what a hold reserves. Raises ValueError as it does."""
    if payer is Payer.PLATFORM or payer is Payer.DEVELOPER:
        _check_bounds(input_tokens_max, output_tokens_max, n)
        input_worst, output_worst = price.input_worst_e8_per_m, price.output_worst_e8_per_m
        if price.tiers:
            input_worst, output_worst = price.worst(input_tokens_max)
        numerator = input_tokens_max * input_worst + n * output_tokens_max * output_worst + price.request_e8 * _MILLION
        cost_e8 = div_half_even(numerator, _MILLION)
        if plan.fixed_price_e8 is not None:
            return max(plan.fixed_price_e8, cost_e8)
        return cost_e8 + bps(cost_e8, plan.markup_bps)
    return plan.gateway_fee_e8


def rate(
    price: Price, plan: PricePlan, payer: Payer, usage: Usage, at: datetime | None = None, *, whole: bool = True
) -> Charge:
    """The charge of an answer that was complete `at` this time, which only prices with hours need. One that its
    provider broke off is not `whole`: of a fixed price, only its cost is due.

    Who pays the provider decides only whether there is a cost at all: a developer's key costs the user the
    same as the platform's, and the ledger's moves say who earns it. Raises InvariantBroken on negative
    counts, which no reader of usage reports lets through.
    """
    output = usage.output_tokens
    if (
        usage.input_tokens < 0
        or usage.cached_read_tokens < 0
        or usage.cached_write_tokens < 0
        or output < 0
        or usage.reasoning_tokens < 0
    ):
        raise InvariantBroken("a negative token count reached rating")
    rates = price.of(usage.total_input_tokens, at) if price.tiers else price
    numerator = (
        usage.input_tokens * rates.input_e8_per_m
        + usage.cached_read_tokens * rates.cached_read_e8_per_m
        + usage.cached_write_tokens * rates.cached_write_e8_per_m
        + output * rates.output_e8_per_m
    )
    if rates.reasoning_e8_per_m is not None:
        # Thinking is a part of the output; a report that says otherwise is held to that.
        reasoning = min(usage.reasoning_tokens, output)
        numerator += reasoning * (rates.reasoning_e8_per_m - rates.output_e8_per_m)
    if plan.fixed_price_e8 is not None and not whole:
        plan = PricePlan(share_bps=plan.share_bps, gateway_fee_e8=plan.gateway_fee_e8)
    return _charge(price, plan, payer, numerator)


def afford_output_tokens(
    price: Price,
    plan: PricePlan,
    payer: Payer,
    *,
    input_tokens: int,
    n: int,
    budget_e8: int,
) -> int:
    """The largest output limit per choice, up to the model's own, whose ceiling is within the budget.

    It is 0 when not even the input is. Raises ValueError as `ceiling` does.
    """
    _check_bounds(input_tokens, 0, n)
    limit = price.max_output_tokens
    if payer in _FEE_ONLY:
        return limit if plan.gateway_fee_e8 <= budget_e8 else 0
    if plan.fixed_price_e8 is None:
        cost_max_e8 = cost_within(budget_e8, plan.markup_bps)
    elif plan.fixed_price_e8 <= budget_e8:
        cost_max_e8 = budget_e8
    else:
        return 0
    # The largest sum that still rounds, half to even, to that cost: a tie goes up from an odd one.
    numerator_max = cost_max_e8 * _MILLION + _MILLION // 2 - (cost_max_e8 & 1)
    input_worst, output_worst = price.worst(input_tokens)
    room = numerator_max - price.request_e8 * _MILLION - input_tokens * input_worst
    per_token = n * output_worst
    if room < 0:
        return 0
    return min(limit, room // per_token) if per_token else limit


def _charge(price: Price, plan: PricePlan, payer: Payer, numerator: int) -> Charge:
    """The charge for a sum of tokens times e8 per million tokens."""
    if payer in _FEE_ONLY:
        return split_fee(plan.gateway_fee_e8, plan.share_bps)
    cost_e8 = div_half_even(numerator + price.request_e8 * _MILLION, _MILLION)
    if plan.fixed_price_e8 is not None:
        return split_fixed(cost_e8, plan.fixed_price_e8, plan.share_bps)
    return split(cost_e8, plan.markup_bps, plan.share_bps)


def _check_bounds(input_tokens: int, output_tokens: int, n: int) -> None:
    if not (n >= 1 and 0 <= input_tokens <= TOKENS_MAX and output_tokens >= 0 and n * output_tokens <= TOKENS_MAX):
        raise ValueError("token bounds are not negative, a request has at least one choice, and all fit 2**40")
