"""The plan of a request: pure. What was asked x policy x what there is, by payer → attempts, best first.

Payers come in the policy's order. Within one: by the owner's priority, then as the policy chooses models, then as the
operator listed them; credentials for the very same thing take turns by weight. Another payer follows only where every
credential before it lets go of the request. Upstreams that are down go to the end, and stay: when all are down, a
try is no worse than a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby
from typing import TypeVar
from uuid import UUID

from faucet.routing.policy import MODE_OF, Choice, Need, RoutePolicy
from faucet.terms import Payer

ATTEMPTS_MAX = 8
"""More tries than this would outlast the patience of whoever waits."""

_T = TypeVar("_T")

Latency = Callable[["Offer"], int]
"""The observed median time to an offer's first byte, in ms; 0 where it isn't known, so that it gets known."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that somebody's account at a provider can answer with. Prices in e8 per million tokens."""

    provider: str
    model: str
    payer: Payer = Payer.PLATFORM
    credential: UUID | None = None
    """Whose account it is, where it is none of the operator's settings."""
    input_e8_per_m: int = 0
    output_e8_per_m: int = 0
    request_e8: int = 0
    context_tokens: int = 2**31 - 1
    quality_tier: int = 0
    """1 is the least; 0 where nobody has judged it."""
    capabilities: frozenset[str] | None = None
    """None where nobody knows."""
    embeds: bool = False
    """Whether it makes vectors, and can't answer."""
    priority: int = 100
    """Lower goes first, whatever it costs."""
    weight: int = 1
    lets_go: bool = True
    """Whether another payer may pay where this one's account can't serve."""

    def expected_e8(self, need: Need) -> int:
        """What such a request would cost, times a million."""
        return (
            need.input_tokens * self.input_e8_per_m
            + need.output_tokens * self.output_e8_per_m
            + self.request_e8 * 1_000_000
        )

    def suffices(self, need: Need, quality_tier: int) -> bool:
        """Whether the model can do what is needed, as far as anybody knows."""
        return (
            self.embeds is need.embeds
            and need.input_tokens + need.output_tokens <= self.context_tokens
            and (self.capabilities is None or need.capabilities <= self.capabilities)
            and quality_tier <= self.quality_tier
        )


@dataclass(frozen=True, slots=True)
class Shelf:
    """What one payer has: offers by model, in the owner's order, and those that `auto` may choose from."""

    by_model: Mapping[str, Sequence[Offer]] = field(default_factory=dict)
    auto: Sequence[Offer] = ()
    keeps: bool = False
    """Whether it has a key that can't be used now, and whose owner does not let others pay."""


_EMPTY = Shelf()


class Why(Enum):
    """Why a payer or a model isn't in a plan, or not in its place."""

    OWN_MACHINE = "answered on the end user's own machine, never from here"
    NOTHING_THERE = "has nothing that can answer with this model"
    NOT_ALLOWED = "the policy does not allow this model"
    INSUFFICIENT = "lacks a capability, the context length or the quality tier that is needed"
    KEPT = "the owner of a key before it does not let others pay"
    NO_FALLBACK = "the policy allows one try"
    SPENT = "its key's budget has no room for this request"
    TOO_DEAR = "could cost more than is there"


@dataclass(frozen=True, slots=True)
class PassedOver:
    """What was left out of a plan, and why."""

    payer: Payer
    why: Why
    provider: str | None = None
    model: str | None = None

    def to_wire(self) -> dict[str, str]:
        shown = {"route_mode": MODE_OF[self.payer], "why": self.why.value}
        if self.provider is not None:
            shown["provider"] = self.provider
        if self.model is not None:
            shown["model"] = self.model
        return shown


@dataclass(frozen=True, slots=True)
class Plan:
    """Ordered attempts. Those of one inner tuple are for the same thing with several credentials: they take turns."""

    pools: tuple[tuple[Offer, ...], ...] = ()
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def takes_turns(self) -> bool:
        """Whether some credentials take turns."""
        return any(len(pool) > 1 for pool in self.pools)

    def attempts(self, turn: int = 0) -> list[Offer]:
        """The attempts of one request, best first. Turns that are drawn evenly give each credential its weight."""
        found = []
        for pool in self.pools:
            left = list(pool)
            while len(left) > 1:
                turn, place = divmod(turn, sum(offer.weight for offer in left))
                for position, offer in enumerate(left):
                    if place < offer.weight:
                        found.append(left.pop(position))
                        break
                    place -= offer.weight
            found += left
        return found[:ATTEMPTS_MAX]


def plan(
    policy: RoutePolicy,
    model: str | None,
    shelves: Mapping[Payer, Shelf],
    need: Need = Need(),
    latency: Latency = lambda offer: 0,
) -> Plan:
    """The attempts for a request; none when no route is available.

    `model` is a name, or None for `auto`. A model that nobody here has under this policy gives no attempt: an unknown
    model is refused, never guessed.
    """
    pools: list[tuple[Offer, ...]] = []
    passed: list[PassedOver] = []
    kept = False
    for payer in policy.payers:
        if payer is Payer.LOCAL:
            passed.append(PassedOver(payer, Why.OWN_MACHINE))
            continue
        if pools and not policy.provider_fallback:
            passed.append(PassedOver(payer, Why.NO_FALLBACK))
            continue
        if kept:
            passed.append(PassedOver(payer, Why.KEPT))
            continue
        shelf = shelves.get(payer, _EMPTY)
        found = _candidates(policy, model, payer, shelf, need, passed)
        kept = shelf.keeps or not all(offer.lets_go for offer in found)
        for _, pool in groupby(_ordered(policy, model, found, need, latency), key=_same_thing):
            pools.append(tuple(pool))
    if not policy.provider_fallback and len(pools) > 1:
        passed += [PassedOver(p[0].payer, Why.NO_FALLBACK, p[0].provider, p[0].model) for p in pools[1:]]
        pools = pools[:1]
    return Plan(tuple(pools), tuple(passed))


def _candidates(
    policy: RoutePolicy, model: str | None, payer: Payer, shelf: Shelf, need: Need, passed: list[PassedOver]
) -> list[Offer]:
    """What a payer has for the request."""
    if model is not None:
        if policy.models and model not in policy.models:
            passed.append(PassedOver(payer, Why.NOT_ALLOWED, model=model))
            return []
        found = list(shelf.by_model.get(model, ()))
    else:
        names = policy.models
        some = [offer for name in names for offer in shelf.by_model.get(name, ())] if names else list(shelf.auto)
        found = [offer for offer in some if offer.suffices(need, policy.quality_tier)]
        if len(found) < len(some):
            passed += [
                PassedOver(payer, Why.INSUFFICIENT, offer.provider, offer.model) for offer in some if offer not in found
            ]
            if not found:
                return []
    if not found:
        passed.append(PassedOver(payer, Why.NOTHING_THERE, model=model))
    return found


def _ordered(policy: RoutePolicy, model: str | None, found: list[Offer], need: Need, latency: Latency) -> list[Offer]:
    """Offers of one payer, best first. What says nothing about two of them leaves them as they were listed."""

    def by_choice(offer: Offer) -> tuple[int, ...]:
        if policy.choice is Choice.LATENCY:
            return (offer.priority, latency(offer))
        if model is not None:
            return (offer.priority,)
        # The manifest's own order of models is its preference, unless it says how to choose among them.
        cost_e8 = 0 if policy.models and not policy.by_price else offer.expected_e8(need)
        if policy.choice is Choice.QUALITY:
            return (offer.priority, -offer.quality_tier, cost_e8)
        return (offer.priority, cost_e8)

    ranked = sorted(found, key=by_choice)
    # Credentials for the same thing come together, where the first of them is.
    first: dict[tuple[object, ...], int] = {}
    for position, offer in enumerate(ranked):
        first.setdefault(_same_thing(offer), position)
    return sorted(ranked, key=lambda offer: first[_same_thing(offer)])


def _same_thing(offer: Offer) -> tuple[object, ...]:
    return (offer.payer, offer.provider, offer.model, offer.priority)


def in_order(attempts: Sequence[_T], is_well: Callable[[_T], bool], is_down: Callable[[_T], bool]) -> list[_T]:
    """The attempts with those at the end that aren't well, but one that may be tried and would come first.

    `is_down` is asked of that one only, because who asks has the trial.
    """
    up: list[_T] = []
    down: list[_T] = []
    for attempt in attempts:
        if is_well(attempt) or (not up and not is_down(attempt)):
            up.append(attempt)
        else:
            down.append(attempt)
    return up + down
