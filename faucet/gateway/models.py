"""GET /v1/models: what this session may ask for, with prices."""

from __future__ import annotations

import json
from typing import Any

from faucet.gateway.exchange import Exchange, bearer_of
from faucet.gateway.world import World
from faucet.kit.errors import Refusal
from faucet.kit.money import to_wire
from faucet.terms import Payer


async def list_models(world: World, exchange: Exchange, wanted: str | None = None) -> None:
    """The models for sale to this session in OpenAI's list shape, or one of them. Raises Refusal."""
    bearer = bearer_of(exchange.authorization)
    caller = world.admission.recall(bearer) or await world.admission.find(bearer)
    world.limit(exchange, caller)
    try:
        feature = await world.admission.feature(caller, None)
        allowed = feature.policy.models if Payer.PLATFORM in feature.policy.payers else None
        markup_bps = feature.plan.markup_bps
    except Refusal as refusal:
        if refusal.code != "invalid_request":
            raise
        allowed, markup_bps = (), 0  # several features: all models, at cost
    shown: dict[str, dict[str, Any]] = {}
    for product in world.catalogue.products():
        price = product.price
        if allowed is None or (allowed and price.model not in allowed) or price.model in shown:
            continue

        def per_token(e8_per_m: int, markup: int = markup_bps) -> str:
            # e8 per million tokens to USD per token: 14 places are exact, and the markup adds four.
            scaled = e8_per_m * (10_000 + markup)
            return f"{scaled // 10**18}.{scaled % 10**18:018d}".rstrip("0").rstrip(".") or "0"

        shown[price.model] = {
            "id": price.model,
            "object": "model",
            "created": int(price.effective_from.timestamp()),
            "owned_by": price.provider,
            "context_length": price.context_window,
            "max_output_tokens": price.max_output_tokens,
            "pricing": {
                "currency": "USD",
                "prompt": per_token(price.input_e8_per_m),
                "input_cache_read": per_token(price.cached_read_e8_per_m),
                "input_cache_write": per_token(price.cached_write_e8_per_m),
                "completion": per_token(price.output_e8_per_m),
                "request": to_wire(price.request_e8 * (10_000 + markup_bps) // 10_000),
            },
        }
    if wanted is not None:
        if wanted not in shown:
            raise Refusal("not_found", f"the model {wanted[:100]!r} is not known here", param="model")
        await exchange.reply(200, json.dumps(shown[wanted]).encode())
        return
    await exchange.reply(200, json.dumps({"object": "list", "data": list(shown.values())}).encode())
