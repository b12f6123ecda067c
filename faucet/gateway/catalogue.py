"""What there is to answer with: accounts at providers, the models that each can answer with, and routes over them.

A snapshot is replaced, never changed; routes are worked out once in each. Not here: where accounts come from (`keys`),
and which route a request takes (`payers`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from faucet.gateway.circuits import AccountName, Circuits
from faucet.gateway.wire import quoted
from faucet.providers.base import Provider
from faucet.providers.facts import facts_of
from faucet.rating.price import MODEL_TOKENS_MAX, Price, PriceBook
from faucet.rating.seed import MOCK_PROVIDER
from faucet.routing.health import Circuit
from faucet.routing.plan import Offer, Plan, Shelf, plan
from faucet.routing.policy import Choice, Need, RoutePolicy
from faucet.terms import Payer

ROUTES_MAX = 10_000


class Account(msgspec.Struct, frozen=True):
    """An account at a provider that requests can be sent with, and on whose bill."""

    provider: Provider
    payer: Payer = Payer.PLATFORM
    credential: UUID | None = None
    """The stored key; None where the operator's settings have it."""
    models_allowed: tuple[str, ...] = ()
    priority: int = 100
    weight: int = 1
    budget_left_e8: int | None = None
    """When it was read; the ledger knows what is left now. None where there is no budget."""
    lets_go: bool = True

    @property
    def name(self) -> AccountName:
        return self.credential or self.provider.name


class Product(msgspec.Struct, frozen=True):
    """A model that an account can answer with, at its price in force."""

    account: Account
    provider: Provider
    price: Price
    model_json: bytes
    payer: Payer
    circuit: Circuit

    @property
    def is_priced(self) -> bool:
        """Whether we know what it costs; who pays the provider without us may ask for what we don't."""
        return self.price.id != 0


class Route(msgspec.Struct):
    """The attempts that a plan gives, as products, best first."""

    plan: Plan
    products: list[Product]
    takes_turns: bool
    """Whether some credentials take turns, so that each request is `dealt` its own order."""
    _by_offer: Mapping[Offer, Product]

    def dealt(self, turn: int) -> list[Product]:
        """The attempts of one request, where credentials take turns."""
        return [self._by_offer[offer] for offer in self.plan.attempts(turn)]


class Stock:
    """What a caller can be answered with: the offers of each payer, and routes over them."""

    def __init__(self, shelves: Mapping[Payer, Shelf], products: Mapping[Offer, Product]) -> None:
        self.shelves = shelves
        self.by_offer = products
        self._routes: dict[tuple[int, str | Need], tuple[RoutePolicy, Route]] = {}

    def route(self, policy: RoutePolicy, model: str | None, need: Need) -> Route:
        """The route for this policy, model and need; worked out once, but where it goes by what is observed."""
        key = (id(policy), need if model is None else model)  # whoever names a model gets it, whatever it needs
        known = self._routes.get(key)
        if known is not None and known[0] is policy:
            return known[1]
        planned = plan(policy, model, self.shelves, need, self._latency)
        products = [self.by_offer[offer] for offer in planned.attempts()]
        route = Route(planned, products, planned.takes_turns, self.by_offer)
        if policy.choice is not Choice.LATENCY and len(self._routes) < ROUTES_MAX:
            if route.products or model is None or self.has(model):
                self._routes[key] = (policy, route)
        return route

    def has(self, model: str) -> bool:
        """Whether anybody here has the model, whatever a policy allows."""
        return any(model in shelf.by_model for shelf in self.shelves.values())

    def _latency(self, offer: Offer) -> int:
        return self.by_offer[offer].circuit.likely_ms(time.monotonic())


class Catalogue(Stock):
    """What the platform's own accounts have, and the prices that everybody's are rated with."""

    def __init__(self, accounts: Sequence[Account], book: PriceBook, now: datetime, circuits: Circuits) -> None:
        self.prices: dict[str, dict[str, Price]] = {}
        """Those in force, by provider and model."""
        for model in book.models(at=now):
            for price in book.find(model, at=now):
                self.prices.setdefault(price.provider, {})[model] = price
        self.circuits = circuits
        self.accounts = accounts
        shelves, products = self.shelve(accounts)
        super().__init__(shelves, products)

    @property
    def offers(self) -> Mapping[str, Sequence[Offer]]:
        """The platform's offers, by model."""
        shelf = self.shelves.get(Payer.PLATFORM)
        return {} if shelf is None else shelf.by_model

    def is_like(self, other: Catalogue) -> bool:
        """Whether the other says the same, so that what was worked out with this one stays good."""
        return self.accounts == other.accounts and self.prices == other.prices

    def shelve(self, accounts: Iterable[Account]) -> tuple[dict[Payer, Shelf], dict[Offer, Product]]:
        """What these accounts have, by payer, at the prices in force."""
        by_model: dict[Payer, dict[str, list[Offer]]] = {}
        auto: dict[Payer, list[Offer]] = {}
        stand_in: list[Offer] = []
        products: dict[Offer, Product] = {}
        for account in accounts:
            choosable = account.models_allowed or account.provider.auto_models
            for price in self._sold(account):
                offer, product = self.put(account, price)
                products[offer] = product
                by_model.setdefault(account.payer, {}).setdefault(price.model, []).append(offer)
                if price.model in choosable or (
                    not choosable and account.credential is not None and price.max_output_tokens > 0
                ):
                    mocked = account.credential is None and account.provider.name == MOCK_PROVIDER
                    (stand_in if mocked else auto.setdefault(account.payer, [])).append(offer)
        # The mock provider answers `auto` only where nobody real does.
        auto.setdefault(Payer.PLATFORM, stand_in)
        return {payer: Shelf(models, auto.get(payer, ())) for payer, models in by_model.items()}, products

    def _sold(self, account: Account) -> Iterable[Price]:
        """The models that an account can answer with. One without a price only where its owner pays for it, named it,
        and wants no budget kept."""
        priced = self.prices.get(account.provider.name, {})
        is_unrated = account.payer is Payer.BYOK and account.budget_left_e8 is None
        names = account.models_allowed
        if not names and account.provider.answers_as is not None and not is_unrated:
            # What is asked for under another name would be answered by this one, at the other's price.
            names = (account.provider.answers_as,)
        if not names:
            return priced.values()
        found = []
        for model in names:
            price = priced.get(model)
            if price is None and is_unrated:
                price = unpriced(account.provider.name, model)
            if price is not None:
                found.append(price)
        return found

    def put(self, account: Account, price: Price) -> tuple[Offer, Product]:
        """One model of one account."""
        facts = facts_of(price.model)
        offer = Offer(
            provider=account.provider.name,
            model=price.model,
            payer=account.payer,
            credential=account.credential,
            input_e8_per_m=price.input_e8_per_m,
            output_e8_per_m=price.output_e8_per_m,
            request_e8=price.request_e8,
            context_tokens=price.context_window,
            quality_tier=facts.tier,
            capabilities=facts.can,
            embeds=price.max_output_tokens == 0,
            priority=account.priority,
            weight=account.weight,
            lets_go=account.lets_go,
        )
        circuit = self.circuits.of(account.name, price.model)
        return offer, Product(account, account.provider, price, quoted(price.model), account.payer, circuit)

    def products(self) -> list[Product]:
        """Everything that the platform sells, sorted by model."""
        return sorted(self.by_offer.values(), key=lambda product: (product.price.model, product.provider.name))


def unpriced(provider: str, model: str) -> Price:
    """What stands for the price of a model that we don't know: nothing, and no bound. Only for who pays the provider
    without us, because whatever it costs is no cost of ours."""
    return Price(
        id=0,
        provider=provider,
        model=model,
        tokenizer="bytes",
        context_window=MODEL_TOKENS_MAX,
        max_output_tokens=MODEL_TOKENS_MAX,
        input_e8_per_m=0,
        cached_read_e8_per_m=0,
        cached_write_e8_per_m=0,
        output_e8_per_m=0,
        image_tokens_max=0,
        effective_from=datetime.min.replace(tzinfo=UTC),
        source="not ours to price",
        status="confirmed",
    )
