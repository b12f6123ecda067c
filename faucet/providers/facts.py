"""What is known of models beyond their prices: a tier of quality, and what may be asked of them.

Here: reading and checking `models.toml`. Not here: prices and context lengths (`rating`), choosing (`routing`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

CAPABILITIES = frozenset({"tools", "images", "json_schema", "reasoning"})
TIER_MAX = 5


@dataclass(frozen=True, slots=True)
class Facts:
    """A model's tier, 0 where nobody has judged it, and its capabilities, None where nobody knows them."""

    tier: int = 0
    can: frozenset[str] | None = None


def read_models(text: str) -> dict[str, Facts]:
    """The facts by name. Raises ValueError, naming the model."""
    found = {}
    for name, table in tomllib.loads(text).items():
        tier, can = table.get("tier"), table.get("can")
        if table.keys() != {"tier", "can"} or type(tier) is not int or not 1 <= tier <= TIER_MAX:
            raise ValueError(f"{name}: has a tier from 1 to {TIER_MAX} and a list of what it can")
        if not isinstance(can, list) or not CAPABILITIES.issuperset(can):
            raise ValueError(f"{name}: can: each is one of {', '.join(sorted(CAPABILITIES))}")
        found[name] = Facts(tier, frozenset(can))
    return found


MODELS: Mapping[str, Facts] = read_models((files("faucet.providers") / "models.toml").read_text(encoding="utf-8"))
_UNKNOWN = Facts()


@lru_cache(maxsize=10_000)
def facts_of(model: str) -> Facts:
    """What is known of a model, by the longest name that its own begins with."""
    name = model.rpartition("/")[2].lower()
    return max(
        ((known, facts) for known, facts in MODELS.items() if name.startswith(known)),
        key=lambda each: len(each[0]),
        default=("", _UNKNOWN),
    )[1]
