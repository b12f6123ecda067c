"""Which provider may answer a request, and in which order: asked model x policy x what is for sale."""

from __future__ import annotations

import pytest

from faucet.routing.plan import Offer, Planned, RoutePolicy, plan
from faucet.terms import Payer

CHEAP = Offer("mock", "small", 75, True)
MIDDLE = Offer("mock", "middle", 500, True)
DEAR = Offer("mock", "large", 1250, True)
ELSEWHERE = Offer("other", "small", 60, False)
OFFERS = {"small": [CHEAP, ELSEWHERE], "middle": [MIDDLE], "large": [DEAR]}
AUTO = [DEAR, CHEAP, MIDDLE]


def names(planned: list[Planned]) -> list[tuple[str, str]]:
    return [(one.provider, one.model) for one in planned]


@pytest.mark.parametrize(
    ("policy", "model", "expected"),
    [
        # auto: the cheapest first, the others behind it
        (RoutePolicy(), None, [("mock", "small"), ("mock", "middle"), ("mock", "large")]),
        (RoutePolicy(provider_fallback=False), None, [("mock", "small")]),
        # a manifest's own list is its order of preference, and nothing else may answer
        (RoutePolicy(models=("large", "small")), None, [("mock", "large"), ("mock", "small"), ("other", "small")]),
        (RoutePolicy(models=("gone", "middle")), None, [("mock", "middle")]),
        (RoutePolicy(models=("gone",)), None, []),
        # a named model: by its own providers, in the operator's order
        (RoutePolicy(), "small", [("mock", "small"), ("other", "small")]),
        (RoutePolicy(provider_fallback=False), "small", [("mock", "small")]),
        (RoutePolicy(models=("large",)), "small", []),
        (RoutePolicy(models=("small",)), "small", [("mock", "small"), ("other", "small")]),
        (RoutePolicy(), "gone", []),
        (RoutePolicy(), "", []),
        # no platform at all
        (RoutePolicy(allows_platform=False), None, []),
        (RoutePolicy(allows_platform=False), "small", []),
        (RoutePolicy(allows_platform=False, models=("small",)), None, []),
    ],
)
def test_the_plan_follows_policy_and_offers(
    policy: RoutePolicy, model: str | None, expected: list[tuple[str, str]]
) -> None:
    """A request would be answered by what its app's policy forbids, or by the dearer of two."""
    planned = plan(policy, model, OFFERS, AUTO)
    assert names(planned) == expected
    assert all(one.payer is Payer.PLATFORM for one in planned)


def test_nothing_for_sale_is_no_plan() -> None:
    """An unpriced model would be answered for free."""
    assert plan(RoutePolicy(), None, {}, []) == [] == plan(RoutePolicy(), "small", {}, [])


def test_equals_keep_the_operators_order() -> None:
    """Which of two equal providers is asked would be chance."""
    twins = [Offer(name, "m", 7, True) for name in ("b", "a", "c")]
    assert [one.provider for one in plan(RoutePolicy(), None, {"m": twins}, twins)] == ["b", "a", "c"]
