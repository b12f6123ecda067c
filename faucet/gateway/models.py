"""GET /v1/models: what this session may ask for, by which routes, and what each costs it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from faucet.gateway.admit import Caller, Feature
from faucet.gateway.catalogue import Product, Stock
from faucet.gateway.exchange import Exchange, bearer_of
from faucet.gateway.world import World
from faucet.kit.errors import Refusal
from faucet.kit.money import to_wire
from faucet.providers.facts import facts_of
from faucet.rating.price import Price, PricePlan, Tier
from faucet.routing.policy import MODE_OF, Need, RoutePolicy
from faucet.terms import Payer

_NO_NEED = Need()
_ANY = RoutePolicy()


async def list_models(world: World, exchange: Exchange, wanted: str | None = None) -> None:
    """The models for sale to this session in OpenAI's list shape, or one of them. Raises Refusal."""
    bearer = bearer_of(exchange.authorization)
    caller = world.admission.recall(bearer) or await world.admission.find(bearer)
    world.limit(exchange, caller)
    feature = await _feature(world, caller)
    if feature is None:
        policy, plan = _ANY, _dearest(await world.admission.features(caller))
    else:
        policy, plan = feature.policy, feature.plan
    stock = world.catalogue if feature is None else await world.stock(caller, feature)
    shown = [told for model in _names(stock, policy) if (told := _told(stock, policy, plan, model)) is not None]
    if wanted is None:
        await exchange.reply(200, json.dumps({"object": "list", "data": shown}).encode())
        return
    found = next((told for told in shown if told["id"] == wanted), None)
    if found is None:
        raise Refusal("not_found", f"the model {wanted[:100]!r} is not known here", param="model")
    await exchange.reply(200, json.dumps(found).encode())


async def _feature(world: World, caller: Caller) -> Feature | None:
    """The session's feature; None where it has several: then all models are shown, at the price of the dearest."""
    try:
        return await world.admission.feature(caller, None)
    except Refusal as refusal:
        if refusal.code != "invalid_request":
            raise
        return None


def _dearest(features: Mapping[str, Feature]) -> PricePlan:
    """What the app's features ask for at most beyond cost, fixed prices left out, which only their own sessions see."""
    plans = [feature.plan for feature in features.values() if feature.plan.fixed_price_e8 is None]
    return max(plans, key=lambda plan: plan.markup_bps, default=PricePlan())


def _names(stock: Stock, policy: RoutePolicy) -> list[str]:
    """The models that anybody who may pay has, sorted."""
    shelves = [stock.shelves[payer] for payer in policy.payers if payer in stock.shelves]
    return sorted({model for shelf in shelves for model in shelf.by_model})


def _told(stock: Stock, policy: RoutePolicy, plan: PricePlan, model: str) -> dict[str, Any] | None:
    """One model as the session sees it; None where its policy leaves no route to it."""
    routes: dict[Payer, Product] = {}
    for product in stock.route(policy, model, _NO_NEED).products:
        routes.setdefault(product.payer, product)
    if not routes:
        return None
    first = next(iter(routes.values()))
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
    told["pricing"] = _pricing(first, plan)
    told["routes"] = [_route(product, plan) for product in routes.values()]
    return told


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
