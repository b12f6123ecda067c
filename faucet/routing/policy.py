"""The words of a route policy: who may pay, in which order, and how a model is chosen. Pure values.

Not here: reading them from a manifest (`tenants.manifest`), and what follows from them (`plan`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from faucet.terms import Payer

QUALITY_TIER_MAX = 5


class Choice(StrEnum):
    """How `auto` chooses among the models that suffice."""

    CHEAPEST = "cheapest_sufficient"
    QUALITY = "quality_first"
    LATENCY = "latency_first"


MODES = {"local": Payer.LOCAL, "byok": Payer.BYOK, "developer_key": Payer.DEVELOPER, "platform": Payer.PLATFORM}
"""What the wire calls a route once it is taken: `route_mode`."""
MODE_OF = {payer: mode for mode, payer in MODES.items()}


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """What a feature's policy says about routes. Policies that say the same are equal."""

    payers: tuple[Payer, ...] = (Payer.PLATFORM,)
    """In order of preference; nobody else may pay."""
    models: tuple[str, ...] = ()
    """The only models that may answer, in order of preference; empty means all that there are."""
    choice: Choice = Choice.CHEAPEST
    by_price: bool = False
    """Whether the cheapest of `models` goes first, and not the one that is named first."""
    quality_tier: int = 0
    """The least tier of a model that `auto` may choose; 0 means any."""
    provider_fallback: bool = True

    def narrowed(self, payers: Sequence[Payer]) -> RoutePolicy:
        """The policy with those of its payers that are named, in that order. Raises ValueError where it has none."""
        allowed = tuple(payer for payer in payers if payer in self.payers)
        if not allowed:
            raise ValueError(f"allowed are {', '.join(MODE_OF[payer] for payer in self.payers)}")
        return replace(self, payers=allowed)


@dataclass(frozen=True, slots=True)
class Need:
    """What a request asks of a model: about how many tokens, and what the model must be able to do."""

    input_tokens: int = 0
    output_tokens: int = 0
    capabilities: frozenset[str] = frozenset()
    embeds: bool = False
    """Whether vectors are asked for, and no answer."""
