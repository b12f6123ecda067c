"""What an import of prices would change: models that are new, figures that differ, models that are gone. Pure.

Not here: where either side comes from, and what a person decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum

from faucet.rating.price import Price

_BESIDES = frozenset({"id", "effective_from", "source", "status", "input_worst_e8_per_m", "output_worst_e8_per_m"})
_FIGURES = tuple(field.name for field in fields(Price) if field.name not in _BESIDES)


class Kind(StrEnum):
    """What becomes of a model."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Difference:
    """One model's price as it is known, and as it would be."""

    kind: Kind
    before: Price | None
    after: Price | None

    @property
    def price(self) -> Price:
        """The one that there is, the newer where there are two."""
        price = self.after or self.before
        assert price is not None
        return price

    @property
    def figures(self) -> tuple[str, ...]:
        """The names of the figures that differ."""
        if self.before is None or self.after is None:
            return ()
        return tuple(name for name in _FIGURES if getattr(self.before, name) != getattr(self.after, name))


def differences(known: Iterable[Price], offered: Iterable[Price], *, at: datetime) -> list[Difference]:
    """How the newest versions that are known differ from those offered at a time, by provider and model.

    Whatever was decided about a known version, the same figures are no difference: a person is not asked twice. A
    rejected one that is no longer offered is no loss. Only providers that are offered at all are compared.
    """
    old, new = _newest(known, at), _newest(offered, at)
    providers = {provider for provider, _ in new}
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if key[0] not in providers:
            continue
        if before is None:
            found.append(Difference(Kind.ADDED, None, after))
        elif after is None:
            if before.status != "rejected":
                found.append(Difference(Kind.REMOVED, before, None))
        elif any(getattr(before, name) != getattr(after, name) for name in _FIGURES):
            found.append(Difference(Kind.CHANGED, before, after))
    return found


def _newest(prices: Iterable[Price], at: datetime) -> dict[tuple[str, str], Price]:
    found: dict[tuple[str, str], Price] = {}
    for price in sorted(prices, key=lambda price: (price.effective_from, price.id)):
        if price.effective_from <= at:
            found[(price.provider, price.model)] = price
    return found
