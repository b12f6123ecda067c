"""A feature's manifest: the words of its policy, and all of its sections checked as a whole.

A word that is not known here is refused with its path, because a policy half understood is a policy broken. What
the words lead to is decided in `routing` and `rating`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from faucet.kit.words import unknown_word
from faucet.rating.price import MODEL_TOKENS_MAX, PricePlan
from faucet.routing.policy import MODE_OF, QUALITY_TIER_MAX, Choice, RoutePolicy
from faucet.tenants.parts import Parts, parse_parts
from faucet.terms import Payer

MODELS_MAX = 100
MODEL_CHARACTERS_MAX = 256


class Route(StrEnum):
    """A way to a model, as `route_preference` names it."""

    LOCAL = "local"
    BYOK = "end_user_byok"
    DEVELOPER_KEY = "developer_key"
    PLATFORM = "platform_pool"


PAYER_OF = {
    Route.LOCAL: Payer.LOCAL,
    Route.BYOK: Payer.BYOK,
    Route.DEVELOPER_KEY: Payer.DEVELOPER,
    Route.PLATFORM: Payer.PLATFORM,
}
MODE_BY_ROUTE = {route: MODE_OF[payer] for route, payer in PAYER_OF.items()}
"""What the wire calls a route once it is taken: `route_mode`, and `available_modes` of a session."""

_PREFERENCES: Mapping[str, tuple[Route, ...]] = {
    "local_first": (Route.LOCAL, Route.BYOK, Route.DEVELOPER_KEY, Route.PLATFORM),
    "byok_first": (Route.BYOK, Route.DEVELOPER_KEY, Route.PLATFORM),
    "developer_key_first": (Route.DEVELOPER_KEY, Route.PLATFORM),
    "platform_pool": (Route.PLATFORM,),
    "privacy_first": (Route.LOCAL, Route.BYOK),
    "local_only": (Route.LOCAL,),
}
_PRIVACY = ("none", "redact_pii_before_cloud", "block", "local_only")
_MODEL_POLICIES = tuple(Choice)
_POLICY_BY_ORDER = {"cost": "cheapest_sufficient", "quality": "quality_first", "latency": "latency_first"}
"""`order` of the object form of `model_policy`, as the one word that means the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a feature's `policy` object asks for."""

    routes: tuple[Route, ...] = (Route.PLATFORM,)
    """In order of preference."""
    privacy: str = "none"
    model_policy: str = "cheapest_sufficient"
    models: tuple[str, ...] = ()
    """The only models that may answer, in order of preference; empty means all that are for sale."""
    by_price: bool = False
    """Whether `cheapest_sufficient` was said of `models`; unsaid, the first that suffices answers."""
    quality_tier: int = 0
    """The least tier of a model that `auto` may choose, 1 to 5; 0 means any."""
    provider_fallback: bool = True
    fit_to_wallet: bool = True
    """Whether the output may be shortened to what the wallet can pay."""
    max_output_tokens: int | None = None

    @property
    def routing(self) -> RoutePolicy:
        """The part that decides who answers, and who pays for it."""
        return RoutePolicy(
            payers=tuple(PAYER_OF[route] for route in self.routes),
            models=self.models,
            choice=Choice(self.model_policy),
            by_price=self.by_price,
            quality_tier=self.quality_tier,
            provider_fallback=self.provider_fallback,
        )

    def modes(self, *, has_byok: bool = False, has_developer_key: bool = False) -> list[str]:
        """What a session may really use, best first: a route through a key needs one."""
        has_key = {Route.BYOK: has_byok, Route.DEVELOPER_KEY: has_developer_key}
        return [MODE_BY_ROUTE[route] for route in self.routes if has_key.get(route, True)]


@dataclass(frozen=True, slots=True)
class FeatureManifest:
    """One feature's policy, price plan, and whatever else it states."""

    policy: Policy
    pricing: PricePlan
    parts: Parts


def parse_manifest(
    policy: object, pricing: object, parts: object | None = None, *, default_share_bps: int
) -> FeatureManifest:
    """A whole manifest. Raises ValueError, whose text starts with the path of the wrong word."""
    return FeatureManifest(
        parse_policy(policy),
        PricePlan.parse_pricing(pricing, default_share_bps=default_share_bps),
        parse_parts(parts or {}),
    )


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The object form of `model_policy`, as the two words that mean the same."""

    models: tuple[str, ...]
    model_policy: str


def parse_policy(policy: object) -> Policy:
    """The policy that a feature states. Raises ValueError, whose text starts with the path of the wrong word."""
    if not isinstance(policy, Mapping):
        raise ValueError("policy: must be an object")
    for word in policy:
        if word not in POLICY_WORDS:
            raise unknown_word("policy", word, POLICY_WORDS)
    values: dict[str, Any] = {
        word: read(policy[word], f"policy.{word}") for word, read in _READERS.items() if word in policy
    }
    if isinstance(values.get("model_policy"), _Candidates):
        candidates = values["model_policy"]
        if "models" in values:
            raise ValueError("policy.models: model_policy.candidates says the same; keep one of them")
        values |= {"models": candidates.models, "model_policy": candidates.model_policy}
    stated = policy.get("model_policy", {})
    by_price = not isinstance(stated, Mapping) or "order" in stated
    if by_price and values.get("models") and values.get("model_policy") == Choice.CHEAPEST:
        values["by_price"] = True
    return Policy(routes=_routes(policy, values.get("privacy")), **values)


def _routes(policy: Mapping[str, Any], privacy: str | None) -> tuple[Route, ...]:
    path = "policy.route_preference"
    routes = routes_of(policy.get("route_preference", "platform_pool"), path)
    if not _boolean(policy.get("fallback_to_platform", True), "policy.fallback_to_platform"):
        routes = tuple(route for route in routes if route is not Route.PLATFORM or route is routes[0])
    if privacy == "local_only":
        if Route.LOCAL not in routes and "route_preference" in policy:
            raise ValueError("policy.privacy: local_only needs the route `local`")
        routes = (Route.LOCAL,)
    return routes


def _one_of(value: object, path: str, words: Collection[str]) -> str:
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{path}: must be one of {', '.join(words)}")
    return value


def _boolean(value: object, path: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{path}: must be true or false")
    return value


def _models(value: object, path: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) > MODELS_MAX:
        raise ValueError(f"{path}: must be an array of at most {MODELS_MAX} model names")
    for position, name in enumerate(value):
        if not isinstance(name, str) or not 1 <= len(name) <= MODEL_CHARACTERS_MAX:
            raise ValueError(f"{path}[{position}]: must be a model's name")
    if len(set(value)) != len(value):
        raise ValueError(f"{path}: names a model twice")
    return tuple(value)


def _model_policy(value: object, path: str) -> str | _Candidates:
    if not isinstance(value, Mapping):
        return _one_of(value, path, _MODEL_POLICIES)
    for word in value:
        if word not in ("candidates", "order"):
            raise unknown_word(path, word, ("candidates", "order"))
    models = _models(value.get("candidates", ()), f"{path}.candidates")
    return _Candidates(models, _POLICY_BY_ORDER[_one_of(value.get("order", "cost"), f"{path}.order", _POLICY_BY_ORDER)])


def _tokens(value: object, path: str) -> int:
    # A bool is an int to Python, but not to the writer of a manifest.
    if type(value) is not int or not 1 <= value <= MODEL_TOKENS_MAX:
        raise ValueError(f"{path}: must be a whole number from 1 to {MODEL_TOKENS_MAX}")
    return value


def _tier(value: object, path: str) -> int:
    if type(value) is not int or not 0 <= value <= QUALITY_TIER_MAX:
        raise ValueError(f"{path}: must be a whole number from 0 to {QUALITY_TIER_MAX}")
    return value


def routes_of(preference: object, path: str) -> tuple[Route, ...]:
    """The routes that a `route_preference` names, in its order. Raises ValueError, whose text starts with the path."""
    if isinstance(preference, str):
        return _PREFERENCES[_one_of(preference, path, _PREFERENCES)]
    if not isinstance(preference, list | tuple):
        raise ValueError(f"{path}: must be a word or an array of routes")
    words = [_one_of(word, f"{path}[{i}]", list(Route)) for i, word in enumerate(preference)]
    if not words or len(set(words)) != len(words):
        raise ValueError(f"{path}: must name at least one route, each once")
    return tuple(Route(word) for word in words)


def policy_words() -> tuple[str, ...]:
    """What a feature's `policy` may say."""
    return ("route_preference", "fallback_to_platform", *_READERS)


_READERS: Mapping[str, Callable[[object, str], Any]] = {
    "privacy": lambda value, path: _one_of(value, path, _PRIVACY),
    "model_policy": _model_policy,
    "models": _models,
    "quality_tier": _tier,
    "provider_fallback": _boolean,
    "fit_to_wallet": _boolean,
    "max_output_tokens": _tokens,
}

POLICY_WORDS = (*_READERS, "route_preference", "fallback_to_platform")
"""Every word of a feature's `policy`."""
