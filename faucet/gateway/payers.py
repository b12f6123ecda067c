"""Stop three: which route a request takes, and on whose bill.

What is decided purely is in `routing.plan`; here the request's own words, the feature's policy and the caller's keys
are put before it, and what it answers becomes products or a refusal. Not here: finding keys (`keys`), reserving.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from uuid import UUID

import msgspec

from faucet.gateway.admit import Feature
from faucet.gateway.catalogue import Catalogue, Product, Route, Stock, unpriced
from faucet.gateway.keys import NO_KEYS, Keys
from faucet.gateway.wire import ChatAsk
from faucet.kit.errors import Refusal
from faucet.kit.money import to_wire_bytes
from faucet.routing.plan import PassedOver, Shelf, Why
from faucet.routing.policy import MODE_OF, Need, RoutePolicy
from faucet.terms import Payer

LIKELY_BYTES_PER_TOKEN = 4
LIKELY_OUTPUT_TOKENS = 500
"""What an answer is expected to have, where a bound doesn't say less."""
NARROWED_MAX = 10_000
_NO_NEED = Need()
_VECTORS = Need(embeds=True)
"""Its size says nothing: a window is for each of many inputs."""


class Chosen(msgspec.Struct):
    """The products that may answer a request, best first, and what was passed over."""

    products: list[Product]
    passed_over: Sequence[PassedOver]
    explain: bool = False
    """Whether who asks may know why."""


def need_of(ask: ChatAsk, feature: Feature) -> Need:
    """What a request that leaves the model to us needs, in steps of two, so that alike requests share a route."""
    if ask.embeds:
        return _VECTORS
    bound = ask.max_tokens or feature.max_output_tokens or LIKELY_OUTPUT_TOKENS
    return Need(
        _step(ask.body_bytes // LIKELY_BYTES_PER_TOKEN),
        _step(min(bound, LIKELY_OUTPUT_TOKENS)),
        ask.capabilities,
    )


def _step(tokens: int) -> int:
    return 1 << tokens.bit_length() if tokens else 1


class Payers:
    """Chooses the routes of one process's requests."""

    def __init__(self) -> None:
        self._narrowed: dict[tuple[int, tuple[Payer, ...]], tuple[RoutePolicy, RoutePolicy]] = {}

    def choose(
        self,
        catalogue: Catalogue,
        switched_off: Catalogue,
        feature: Feature,
        ask: ChatAsk,
        keys: Keys,
        *,
        explain: bool,
    ) -> Chosen:
        """The products that may answer, best first; a refusal says what was passed over where it shall `explain`.

        Raises Refusal `not_found`, `no_available_route`, `forbidden`, and `disabled` where the operator has switched
        off what would have answered.
        """
        policy = feature.policy if ask.payers is None else self._hinted(feature.policy, ask.payers)
        stock = catalogue if keys is NO_KEYS else keys.stock_with(catalogue)
        need = _NO_NEED if ask.model is not None else need_of(ask, feature)
        route = stock.route(policy, ask.model, need)
        if not route.products:
            route = _unpriced_route(catalogue, stock, policy, ask.model, keys) or route
        if not route.products:
            refusal = _no_route(switched_off, stock, policy, ask.model, need, route)
            if explain:
                refusal.details = {"passed_over": [passed.to_wire() for passed in route.plan.passed_over]}
            raise refusal
        products = route.products if not route.takes_turns else route.dealt(random.getrandbits(128))
        return Chosen(products, route.plan.passed_over, explain)

    def _hinted(self, policy: RoutePolicy, payers: tuple[Payer, ...]) -> RoutePolicy:
        """The policy as the caller would like it. Raises Refusal `forbidden` for what it doesn't allow."""
        known = self._narrowed.get((id(policy), payers))
        if known is not None and known[0] is policy:
            return known[1]
        try:
            narrowed = policy.narrowed(payers)
        except ValueError as problem:
            raise Refusal(
                "forbidden", f"this feature's policy does not allow that route: {problem}", param="metadata"
            ) from None
        if len(self._narrowed) >= NARROWED_MAX:
            self._narrowed.clear()
        self._narrowed[(id(policy), payers)] = (policy, narrowed)
        return narrowed


def _unpriced_route(
    catalogue: Catalogue, stock: Stock, policy: RoutePolicy, model: str | None, keys: Keys
) -> Route | None:
    """A model that nobody here knows may still be one that the end user's own keys reach, on their own bill."""
    if model is None or Payer.BYOK not in policy.payers or stock.has(model):
        return None
    made = [
        catalogue.put(account, unpriced(account.provider.name, model))
        for account in keys.accounts
        if account.payer is Payer.BYOK and not account.models_allowed and account.budget_left_e8 is None
    ]
    if not made:
        return None
    shelf = Shelf({model: [offer for offer, _ in made]})
    return Stock({Payer.BYOK: shelf}, dict(made)).route(policy, model, _NO_NEED)


def _no_route(
    switched_off: Catalogue, stock: Stock, policy: RoutePolicy, model: str | None, need: Need, route: Route
) -> Refusal:
    if switched_off.route(policy, model, need).products:
        return Refusal("disabled", "what could answer is switched off", param="model")
    why = {passed.why for passed in route.plan.passed_over}
    if why == {Why.OWN_MACHINE}:
        return Refusal("no_available_route", "this feature is answered on the end user's own machine: ask its bridge")
    if model is not None and not stock.has(model):
        return Refusal(
            "not_found",
            f"the model {model[:100]!r} is not known here; GET /v1/models lists those that are",
            param="model",
        )
    if Why.NOT_ALLOWED in why:
        named = "" if model is None else f"{model[:100]!r}"
        return Refusal("forbidden", f"this feature's policy does not allow the model {named}", param="model")
    if Why.KEPT in why:
        return Refusal("no_available_route", "a provider key can't be used now, and its owner lets nobody else pay")
    if Why.INSUFFICIENT in why:
        return Refusal("no_available_route", "no model that this feature's policy allows can do what was asked")
    payers = ", ".join(MODE_OF[payer] for payer in policy.payers)
    return Refusal("no_available_route", f"no route that is allowed here is available: {payers}")


def over_budget(products: list[Product], spent: frozenset[UUID]) -> tuple[list[Product], list[PassedOver]]:
    """The products whose credentials have room, and the others."""
    left = [product for product in products if product.account.credential not in spent]
    passed = [
        PassedOver(product.payer, Why.SPENT, product.provider.name, product.price.model)
        for product in products
        if product.account.credential in spent
    ]
    return left, passed


def fee_note(product: Product, feature: Feature) -> bytes:
    """What a reply says of the fee, where somebody else paid the provider: all that the answer costs here."""
    if product.payer is not Payer.BYOK:
        return b""
    return b',"fee_usd":"%b"' % to_wire_bytes(feature.plan.gateway_fee_e8)
