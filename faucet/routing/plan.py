"""The plan of a request: pure. Asked model x policy x what is for sale → ordered attempts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from faucet.terms import Payer


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that a provider sells now. `weight_e8` orders offers by cost: e8 for a million tokens each way."""

    provider: str
    model: str
    weight_e8: int
    is_auto: bool


class Planned(msgspec.Struct, frozen=True):
    """One attempt: who answers, with what, on whose bill."""

    provider: str
    model: str
    payer: Payer


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """The words of a feature's policy that bear on the platform's own providers."""

    models: tuple[str, ...] = ()
    """The only models that may answer; empty means all that are for sale."""
    allows_platform: bool = True
    provider_fallback: bool = True


def plan(
    policy: RoutePolicy, model: str | None, offers: Mapping[str, Sequence[Offer]], auto: Sequence[Offer]
) -> list[Planned]:
    """The attempts for a request, best first; empty when no route is available.

    `offers` are by model, in the operator's order of providers; `auto` is what `auto` may choose from. A model
    that isn't for sale under this policy gives no attempt: an unknown model is refused, never guessed.
    """
    if not policy.allows_platform:
        return []
    if model is not None:
        if policy.models and model not in policy.models:
            return []
        found = offers.get(model, ())
    elif policy.models:
        # The manifest's own order of models is its preference.
        found = [offer for name in policy.models for offer in offers.get(name, ())]
    else:
        found = sorted(auto, key=lambda offer: offer.weight_e8)
    attempts = [Planned(o.provider, o.model, Payer.PLATFORM) for o in found]
    return attempts if policy.provider_fallback else attempts[:1]
