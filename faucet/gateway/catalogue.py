"""What is for sale now: confirmed prices of models that a configured provider can answer with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from faucet.gateway.wire import quoted
from faucet.providers.base import Provider
from faucet.rating.price import Price, PriceBook
from faucet.routing.plan import Offer, RoutePolicy, plan

ROUTES_MAX = 10_000


class Product(msgspec.Struct, frozen=True):
    """A provider's model with its price in force."""

    provider: Provider
    price: Price
    model_json: bytes


class Catalogue:
    """A snapshot of offers; replaced, never changed."""

    def __init__(self, providers: Sequence[Provider], book: PriceBook, now: datetime) -> None:
        self.offers: dict[str, list[Offer]] = {}
        self.auto: list[Offer] = []
        self._products: dict[tuple[str, str], Product] = {}
        self._routes: dict[tuple[int, str | None], tuple[RoutePolicy, list[Product]]] = {}
        for provider in providers:
            sold_auto = []
            for model in book.models(at=now):
                for price in book.find(model, provider.name, at=now):
                    offer = Offer(
                        provider.name,
                        model,
                        price.input_worst_e8_per_m + price.output_worst_e8_per_m,
                        model in provider.auto_models,
                    )
                    self.offers.setdefault(model, []).append(offer)
                    self._products[(provider.name, model)] = Product(provider, price, quoted(model))
                    if offer.is_auto:
                        sold_auto.append(offer)
            # The operator's first provider that can answer `auto` does; others are there when named.
            self.auto = self.auto or sold_auto
        self.known_unpriced = frozenset(m for p in providers for m in p.auto_models if m not in self.offers)

    def route(self, policy: RoutePolicy, model: str | None) -> list[Product]:
        """The products that a plan gives for this policy and model, best first; worked out once a snapshot."""
        key = (id(policy), model)
        known = self._routes.get(key)
        if known is not None and known[0] is policy:
            return known[1]
        planned = plan(policy, model, self.offers, self.auto)
        products = [self.product(attempt.provider, attempt.model) for attempt in planned]
        if products and len(self._routes) < ROUTES_MAX:
            self._routes[key] = (policy, products)
        return products

    def product(self, provider: str, model: str) -> Product:
        """The product of a planned attempt, which always came from this snapshot."""
        return self._products[(provider, model)]

    def products(self) -> list[Product]:
        """Everything for sale, sorted by model."""
        return [self._products[key] for key in sorted(self._products, key=lambda k: (k[1], k[0]))]
