"""What must hold of money whoever pays the provider: no markup on what isn't ours, a hold for the dearest attempt."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from faucet.gateway.admit import Feature
from faucet.gateway.catalogue import Account, Catalogue, Product, unpriced
from faucet.gateway.circuits import Circuits
from faucet.gateway.payers import Chosen, fee_note
from faucet.gateway.reserve import _Bid
from faucet.gateway.settle import rated
from faucet.gateway.wire import parse_chat
from faucet.kit.money import to_wire
from faucet.kit.secret import Secret
from faucet.providers.catalog import CATALOG, provider_for
from faucet.rating.price import (
    GATEWAY_FEE_E8_MAX,
    MARKUP_BPS_MAX,
    PRICE_E8_PER_M_MAX,
    SHARE_BPS_MAX,
    Price,
    PriceBook,
    PricePlan,
)
from faucet.rating.rate import input_bound_tokens
from faucet.routing.policy import RoutePolicy
from faucet.terms import Charge, Payer, Usage

per_million = st.one_of(st.integers(0, 5_000_000), st.integers(0, PRICE_E8_PER_M_MAX))
prices = st.builds(
    Price,
    id=st.just(1),
    provider=st.just("openai"),
    model=st.just("m"),
    tokenizer=st.just("words"),
    context_window=st.integers(1, 2_000_000),
    max_output_tokens=st.integers(1, 200_000),
    input_e8_per_m=per_million,
    cached_read_e8_per_m=per_million,
    cached_write_e8_per_m=per_million,
    output_e8_per_m=per_million,
    reasoning_e8_per_m=st.none() | per_million,
    request_e8=st.integers(0, 1_000),
    image_tokens_max=st.just(1_000),
    effective_from=st.just(datetime(2026, 1, 1, tzinfo=UTC)),
    source=st.just("test"),
    status=st.just("confirmed"),
)
_by_markup = st.builds(
    PricePlan,
    markup_bps=st.integers(0, MARKUP_BPS_MAX),
    share_bps=st.integers(0, SHARE_BPS_MAX),
    gateway_fee_e8=st.integers(0, GATEWAY_FEE_E8_MAX),
)
_fixed = st.builds(
    PricePlan,
    mode=st.just("fixed_price"),
    fixed_price_e8=st.integers(1, 10**9),
    share_bps=st.integers(0, SHARE_BPS_MAX),
    gateway_fee_e8=st.integers(0, GATEWAY_FEE_E8_MAX),
)
plans = st.one_of(_by_markup, _fixed)
tokens = st.integers(0, 300_000)
usages = st.builds(
    Usage, input_tokens=tokens, cached_read_tokens=tokens, cached_write_tokens=tokens, output_tokens=tokens
)
OPENAI = provider_for(CATALOG["openai"], Secret("sk-0123456789"))
NOBODY = Catalogue((), PriceBook(()), datetime(2026, 1, 1, tzinfo=UTC), Circuits())
some_payers = st.sampled_from((Payer.PLATFORM, Payer.DEVELOPER, Payer.BYOK))


def product_of(price: Price, payer: Payer, number: int = 1) -> Product:
    credential = None if payer is Payer.PLATFORM else UUID(int=number)
    return NOBODY.put(Account(provider=OPENAI, payer=payer, credential=credential), price)[1]


def feature_of(plan: PricePlan) -> Feature:
    return Feature(UUID(int=1), "f", b'"f"', RoutePolicy(), plan, True, None, 1, "{}")


@given(prices, prices, plans, plans, usages, usages)
def test_a_byok_answer_never_bills_a_markup(
    price: Price, other_price: Price, plan: PricePlan, other: PricePlan, usage: Usage, more: Usage
) -> None:
    """Lost: by some price, markup, usage or hold an end user pays more than the fee that they were shown."""
    fee = plan.gateway_fee_e8
    answer = rated(product_of(price, Payer.BYOK), plan, usage, fee)
    assert (answer.charge.cost_e8, answer.charge.retail_e8, answer.paid_e8, answer.excess_e8) == (0, fee, fee, 0)
    assert answer.charge.channel_e8 == fee * plan.share_bps // 10_000
    assert answer.charge.channel_e8 + answer.charge.platform_e8 == fee
    # Nothing but fee and share has a say: not the price, not the markup, not how much was asked and given.
    same = msgspec.structs.replace(cast(Any, answer), usage=more)
    changed = PricePlan(
        mode=other.mode,
        markup_bps=other.markup_bps,
        share_bps=plan.share_bps,
        gateway_fee_e8=fee,
        fixed_price_e8=other.fixed_price_e8,
    )
    for product in (product_of(other_price, Payer.BYOK), product_of(unpriced("openai", "x"), Payer.BYOK)):
        assert rated(product, changed, more, fee) == same
    assert fee_note(product_of(price, Payer.BYOK), feature_of(plan)) == f',"fee_usd":"{to_wire(fee)}"'.encode()
    for payer in (Payer.PLATFORM, Payer.DEVELOPER):
        assert fee_note(product_of(price, payer), feature_of(plan)) == b""


@given(prices, plans, usages)
def test_a_developers_key_costs_the_end_user_what_the_platforms_does(
    price: Price, plan: PricePlan, usage: Usage
) -> None:
    """Lost: an end user pays more, or less, because of whose account the developer chose."""
    charges: list[Charge] = [
        rated(product_of(price, payer), plan, usage, 2**62).charge for payer in (Payer.PLATFORM, Payer.DEVELOPER)
    ]
    assert charges[0] == charges[1]


@given(
    st.lists(st.tuples(prices, some_payers), min_size=1, max_size=5),
    plans,
    st.integers(1, 5_000),
    st.integers(1, 4),
    st.data(),
)
def test_a_hold_covers_whichever_attempt_answers(
    offered: list[tuple[Price, Payer]], plan: PricePlan, max_tokens: int, n: int, data: st.DataObject
) -> None:
    """Lost: a fallback answers that costs more than was held, and the rest is the platform's loss."""
    products = [product_of(price, payer, number) for number, (price, payer) in enumerate(offered, 1)]
    first = products[0].price
    max_tokens = min(max_tokens, max(first.context_window, first.max_output_tokens))
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": max_tokens, "n": n}
    ask = parse_chat(msgspec.json.encode(body))
    bid = _Bid(
        cast(Any, None), cast(Any, SimpleNamespace(wallet_id=1)), feature_of(plan), Chosen(list(products), []), ask
    )
    if data.draw(st.booleans()):
        bid.drop_dearer()
    held = bid.held(frozenset())
    assert held.products and held.products[0] is products[0]
    for product in held.products:
        bound = input_bound_tokens(ask.body_bytes, 0, False, product.price)
        limit = held.limit_of(product)
        assert limit is not None and limit <= product.price.max_output_tokens
        output = data.draw(st.integers(0, limit * n))
        usage = Usage(
            input_tokens=data.draw(st.integers(0, bound)),
            output_tokens=output,
            reasoning_tokens=data.draw(st.integers(0, output)),
        )
        assert rated(product, plan, usage, held.amount_e8).excess_e8 == 0
