"""GET /v1/models: what this session may ask for, by which routes, and what each costs it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from faucet.gateway.admit import Caller, Feature
from faucet.gateway.catalogue import Product, Stock
from faucet.gateway.exchange import Exchange, bearer_of
from faucet.gateway.prompt import is_locked
from faucet.gateway.world import World
from faucet.kit.errors import Refusal
from faucet.kit.money import to_wire
from faucet.providers.facts import facts_of
from faucet.rating.price import Price, PricePlan, Tier
from faucet.routing.policy import MODE_OF, Need
from faucet.terms import Payer

_NO_NEED = Need()


class _Use(NamedTuple):
    """One feature that the session may name, and what answers there."""

    feature: Feature
    stock: Stock


async def list_models(world: World, exchange: Exchange, wanted: str | None = None) -> None:
    """The models for sale to this session in OpenAI's list shape, or one of them. Raises Refusal."""
    bearer = bearer_of(exchange.authorization)
    caller = world.admission.recall(bearer) or await world.admission.find(bearer)
    world.limit(exchange, caller)
    own = await _own_feature(world, caller)
    features = [own] if own is not None else await _chats(world, caller)
    uses = [_Use(feature, await world.stock(caller, feature)) for feature in features]
    names = sorted({model for use in uses for model in _names(use)})
    if wanted is None:
        shown = [told for model in names if (told := _told(uses, model, names_features=own is None)) is not None]
        await exchange.reply(200, json.dumps({"object": "list", "data": shown}).encode())
        return
    found = _told(uses, wanted, names_features=own is None) if wanted in names else None
    if found is None:
        raise Refusal("not_found", f"the model {wanted[:100]!r} is not known here", param="model")
    await exchange.reply(200, json.dumps(found).encode())


async def _own_feature(world: World, caller: Caller) -> Feature | None:
    """The feature of a request that names none; None where it has to name one of several."""
    try:
        return await world.admission.feature(caller, None)
    except Refusal as refusal:
        if refusal.code != "invalid_request":
            raise
        return None


async def _chats(world: World, caller: Caller) -> list[Feature]:
    """The features of the app that answer chats, by key. Those that only run their own prompt don't."""
    features = await world.admission.features(caller)
    return [features[key] for key in sorted(features) if not is_locked(features[key])]


def _names(use: _Use) -> Iterable[str]:
    """The models that anybody who may pay there has, as far as the policy names them."""
    policy = use.feature.policy
    shelves = [use.stock.shelves[payer] for payer in policy.payers if payer in use.stock.shelves]
    there = {model for shelf in shelves for model in shelf.by_model}
    return there.intersection(policy.models) if policy.models else there


def _told(uses: Sequence[_Use], model: str, *, names_features: bool) -> dict[str, Any] | None:
    """One model as the session sees it; None where no policy leaves a route to it.

    Where several features have it each price is that of the dearest: a model is never shown cheaper than it is.
    """
    firsts: list[_Sold] = []
    routes: dict[Payer, _Sold] = {}
    keys: list[str] = []
    for feature, stock in uses:
        products = stock.route(feature.policy, model, _NO_NEED).products
        if not products:
            continue
        keys.append(feature.key)
        firsts.append((products[0], feature.plan))
        of_feature: dict[Payer, Product] = {}
        for product in products:
            of_feature.setdefault(product.payer, product)
        for payer, product in of_feature.items():
            sold = (product, feature.plan)
            routes[payer] = max(routes.get(payer, sold), sold, key=_dearness)
    if not firsts:
        return None
    first, plan = max(firsts, key=_dearness)
    price, facts = first.price, facts_of(model)
    told: dict[str, Any] = {
        "id": model,
        "object": "model",
        "created": int(price.effective_from.timestamp()) if first.is_priced else 0,
        "owned_by": price.provider,
    }
    if first.is_priced:
        told |= {"context_length": price.context_window, "max_output_tokens": price.max_output_tokens}
    if facts.tier:
        told["quality_tier"] = facts.tier
    if facts.can is not None:
        told["capabilities"] = sorted(facts.can)
    if names_features:
        told["features"] = keys
    told["pricing"] = _pricing(first, plan)
    told["routes"] = [_route(product, plan) for product, plan in routes.values()]
    return told


_Sold = tuple[Product, PricePlan]


def _dearness(sold: _Sold) -> tuple[bool, bool, int]:
    """What orders prices of one model: a fee is the least, then come fixed prices, which are for a whole request."""
    product, plan = sold
    if product.payer is Payer.BYOK:
        return False, False, plan.gateway_fee_e8
    if plan.fixed_price_e8 is not None:
        return True, False, plan.fixed_price_e8
    worst = product.price.input_worst_e8_per_m + product.price.output_worst_e8_per_m
    return True, True, worst * (10_000 + plan.markup_bps)


def _route(product: Product, plan: PricePlan) -> dict[str, Any]:
    told: dict[str, Any] = {"route_mode": MODE_OF[product.payer], "provider": product.provider.name}
    if product.payer is Payer.BYOK:
        told["fee_usd"] = to_wire(plan.gateway_fee_e8)
    return told | {"pricing": _pricing(product, plan)}


def _pricing(product: Product, plan: PricePlan) -> dict[str, Any]:
    """What the session pays by this route: per token and per request, and what else under which conditions."""
    price, fixed_e8 = product.price, plan.fixed_price_e8
    if product.payer is Payer.BYOK:
        # The provider's own bill is between it and the end user; here there is the fee, and nothing else.
        nothing = dict.fromkeys(("prompt", "input_cache_read", "input_cache_write", "completion"), "0")
        return {"currency": "USD", **nothing, "request": to_wire(plan.gateway_fee_e8)}

    def per_token(e8_per_m: int) -> str:
        # e8 per million tokens to USD per token: 14 places are exact, and the markup adds four.
        scaled = e8_per_m * (10_000 + plan.markup_bps) if fixed_e8 is None else 0
        return f"{scaled // 10**18}.{scaled % 10**18:018d}".rstrip("0").rstrip(".") or "0"

    def figures(prices: Price | Tier) -> dict[str, str]:
        told = {
            "prompt": per_token(prices.input_e8_per_m),
            "input_cache_read": per_token(prices.cached_read_e8_per_m),
            "input_cache_write": per_token(prices.cached_write_e8_per_m),
            "completion": per_token(prices.output_e8_per_m),
        }
        if prices.reasoning_e8_per_m is not None:
            told["internal_reasoning"] = per_token(prices.reasoning_e8_per_m)
        return told

    request_e8 = price.request_e8 * (10_000 + plan.markup_bps) // 10_000 if fixed_e8 is None else fixed_e8
    told: dict[str, Any] = {"currency": "USD", **figures(price), "request": to_wire(request_e8)}
    if price.tiers and fixed_e8 is None:
        told["tiers"] = [_conditions(tier) | figures(tier) for tier in price.tiers]
    return told


def _conditions(tier: Tier) -> dict[str, Any]:
    """When a tier's prices take the place of the others; the last whose conditions hold counts."""
    told: dict[str, Any] = {}
    if tier.above_input_tokens:
        told["above_input_tokens"] = tier.above_input_tokens
    if tier.from_minute is not None:
        told |= {"from_minute": tier.from_minute, "until_minute": tier.until_minute}
    return told
