"""A feature's policy: every known word is understood, every other is refused by its path."""

from __future__ import annotations

from typing import Any

import pytest

from faucet.rating.price import PricePlan
from faucet.routing.policy import Choice, RoutePolicy
from faucet.tenants.manifest import PAYER_OF, Policy, Route, parse_manifest, parse_policy
from faucet.terms import Payer

ALL = (Route.LOCAL, Route.BYOK, Route.DEVELOPER_KEY, Route.PLATFORM)


def test_the_demo_s_policy() -> None:
    """Lost: the policy that the contract shows."""
    policy = parse_policy(
        {
            "route_preference": ["local", "end_user_byok", "developer_key", "platform_pool"],
            "privacy": "redact_pii_before_cloud",
            "model_policy": "cheapest_sufficient",
        }
    )
    assert policy == Policy(routes=ALL, privacy="redact_pii_before_cloud")
    assert policy.modes() == ["local", "platform"]
    assert policy.modes(has_byok=True, has_developer_key=True) == ["local", "byok", "developer_key", "platform"]
    assert policy.routing == RoutePolicy((Payer.LOCAL, Payer.BYOK, Payer.DEVELOPER, Payer.PLATFORM))


@pytest.mark.parametrize("word", ["none", "redact_pii_before_cloud", "block"])
def test_privacy_is_no_matter_of_routes(word: str) -> None:
    """What may leave is said beside who answers: only `local_only` is both."""
    assert parse_policy({"privacy": word}) == Policy(routes=(Route.PLATFORM,), privacy=word)


@pytest.mark.parametrize(
    ("policy", "routes"),
    [
        ({}, (Route.PLATFORM,)),
        ({"route_preference": "local_first"}, ALL),
        ({"route_preference": "byok_first"}, ALL[1:]),
        ({"route_preference": "developer_key_first"}, ALL[2:]),
        ({"route_preference": "platform_pool"}, ALL[3:]),
        ({"route_preference": "privacy_first"}, ALL[:2]),
        ({"route_preference": "local_only"}, ALL[:1]),
        ({"route_preference": ["platform_pool", "local"]}, (Route.PLATFORM, Route.LOCAL)),
        ({"route_preference": "byok_first", "fallback_to_platform": False}, ALL[1:3]),
        ({"route_preference": ["local", "platform_pool"], "fallback_to_platform": False}, (Route.LOCAL,)),
        ({"route_preference": "platform_pool", "fallback_to_platform": False}, (Route.PLATFORM,)),
        ({"route_preference": "local_first", "privacy": "local_only"}, (Route.LOCAL,)),
        ({"privacy": "local_only"}, (Route.LOCAL,)),
    ],
)
def test_routes_in_order_of_preference(policy: dict[str, Any], routes: tuple[Route, ...]) -> None:
    """Lost: a request goes another way, or on another's bill, than the manifest says."""
    parsed = parse_policy(policy)
    assert parsed.routes == routes
    assert parsed.routing.payers == tuple(PAYER_OF[route] for route in routes)


def test_models_and_bounds() -> None:
    """Lost: a concrete model that the manifest doesn't allow."""
    policy = parse_policy(
        {
            "models": ["gpt-4o-mini", "gpt-4o"],
            "provider_fallback": False,
            "fit_to_wallet": False,
            "max_output_tokens": 9,
            "model_policy": "quality_first",
            "quality_tier": 3,
        }
    )
    assert policy.routing == RoutePolicy(
        models=("gpt-4o-mini", "gpt-4o"), choice=Choice.QUALITY, quality_tier=3, provider_fallback=False
    )
    assert (policy.fit_to_wallet, policy.max_output_tokens) == (False, 9)


@pytest.mark.parametrize(
    ("policy", "path"),
    [
        (None, "policy"),
        ([], "policy"),
        ({"surprise": 1}, "policy.surprise"),
        ({"quality_tier": 6}, "policy.quality_tier"),
        ({"quality_tier": True}, "policy.quality_tier"),
        ({"route_preference": "fastest"}, "policy.route_preference"),
        ({"route_preference": []}, "policy.route_preference"),
        ({"route_preference": ["local", "local"]}, "policy.route_preference"),
        ({"route_preference": ["local", "byok"]}, "policy.route_preference[1]"),
        ({"route_preference": [7]}, "policy.route_preference[0]"),
        ({"route_preference": {"a": 1}}, "policy.route_preference"),
        ({"privacy": "maybe"}, "policy.privacy"),
        ({"privacy": "local_only", "route_preference": "byok_first"}, "policy.privacy"),
        ({"model_policy": "best"}, "policy.model_policy"),
        ({"fallback_to_platform": "no"}, "policy.fallback_to_platform"),
        ({"provider_fallback": 1}, "policy.provider_fallback"),
        ({"models": "gpt-4o"}, "policy.models"),
        ({"models": [""]}, "policy.models[0]"),
        ({"models": ["a", "a"]}, "policy.models"),
        ({"models": ["a"] * 101}, "policy.models"),
        ({"max_output_tokens": 0}, "policy.max_output_tokens"),
        ({"max_output_tokens": True}, "policy.max_output_tokens"),
        ({"max_output_tokens": 1.5}, "policy.max_output_tokens"),
        ({"fit_to_wallet": None}, "policy.fit_to_wallet"),
    ],
)
def test_words_that_are_wrong_are_named(policy: object, path: str) -> None:
    """Lost: a policy that is half understood and so broken."""
    with pytest.raises(ValueError) as refused:
        parse_policy(policy)
    assert str(refused.value).startswith(f"{path}: ")


def test_a_manifest_is_policy_and_pricing() -> None:
    """Lost: a feature without the share that its app grants."""
    manifest = parse_manifest({}, {"markup_percent": 30}, default_share_bps=4000)
    assert manifest.pricing == PricePlan(markup_bps=3000, share_bps=4000)
    with pytest.raises(ValueError, match=r"^pricing\.markup_percent: "):
        parse_manifest({}, {"markup_percent": -1}, default_share_bps=0)
