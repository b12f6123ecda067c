"""Which upstream may answer a request, on whose bill, and in which order: asked model x policy x what there is."""

from __future__ import annotations

from collections import Counter
from itertools import permutations, product
from uuid import UUID

import pytest

from faucet.routing.plan import ATTEMPTS_MAX, Offer, Plan, Shelf, Why, in_order, plan
from faucet.routing.policy import Choice, Need, RoutePolicy
from faucet.tenants.manifest import parse_policy
from faucet.terms import Payer

MILLION = 1_000_000


def offer(provider: str, model: str, price: int = 0, **more: object) -> Offer:
    return Offer(provider, model, input_e8_per_m=price, output_e8_per_m=price, **more)  # type: ignore[arg-type]


CHEAP, MIDDLE, DEAR = offer("mock", "small", 75), offer("mock", "middle", 500), offer("mock", "large", 1250)
ELSEWHERE = offer("other", "small", 60)
PLATFORM = {
    Payer.PLATFORM: Shelf(
        {"small": [CHEAP, ELSEWHERE], "middle": [MIDDLE], "large": [DEAR]},
        [DEAR, CHEAP, MIDDLE],
    )
}
SOME = Need(1000, 500)


def names(planned: Plan) -> list[tuple[str, str]]:
    return [(one.provider, one.model) for one in planned.attempts()]


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
        (RoutePolicy((Payer.LOCAL,)), None, []),
        (RoutePolicy((Payer.BYOK, Payer.DEVELOPER)), "small", []),
        (RoutePolicy((Payer.LOCAL,), models=("small",)), None, []),
    ],
)
def test_the_plan_follows_policy_and_offers(
    policy: RoutePolicy, model: str | None, expected: list[tuple[str, str]]
) -> None:
    """A request would be answered by what its app's policy forbids, or by the dearer of two."""
    planned = plan(policy, model, PLATFORM, SOME)
    assert names(planned) == expected
    assert all(one.payer is Payer.PLATFORM for one in planned.attempts())
    assert planned.pools or planned.passed_over  # no plan without a reason


def test_nothing_for_sale_is_no_plan() -> None:
    """An unpriced model would be answered for free."""
    assert names(plan(RoutePolicy(), None, {})) == [] == names(plan(RoutePolicy(), "small", {}))


def test_equals_keep_the_operators_order() -> None:
    """Which of two equal providers is asked would be chance."""
    twins = [offer(name, "m", 7) for name in ("b", "a", "c")]
    planned = plan(RoutePolicy(), None, {Payer.PLATFORM: Shelf({"m": twins}, twins)}, SOME)
    assert [one.provider for one in planned.attempts(12345)] == ["b", "a", "c"]


def test_cheapest_depends_on_what_is_asked() -> None:
    """Lost: a long prompt goes to the model whose answers are cheap, or the other way round."""
    reads = Offer("p", "reads", input_e8_per_m=10, output_e8_per_m=100)
    writes = Offer("p", "writes", input_e8_per_m=30, output_e8_per_m=50)
    fixed = Offer("p", "fixed", request_e8=1)
    shelf = {Payer.PLATFORM: Shelf({}, [reads, writes, fixed])}

    def first(need: Need) -> str:
        return plan(RoutePolicy(), None, shelf, need).attempts()[0].model

    assert (first(Need(9000, 100)), first(Need(100, 900))) == ("reads", "writes")
    assert first(Need(90_000, 9_000)) == "fixed"


def test_only_what_suffices_is_chosen() -> None:
    """Lost: the cheapest model is chosen for what it can't do."""
    blind = offer("p", "blind", 1, capabilities=frozenset(), quality_tier=2)
    short = offer("p", "short", 2, capabilities=frozenset({"images"}), context_tokens=1000, quality_tier=3)
    sees = offer("p", "sees", 3, capabilities=frozenset({"images", "tools"}), context_tokens=9000, quality_tier=4)
    unknown = offer("p", "unknown", 4)
    every = [blind, short, sees, unknown]
    shelf = {Payer.PLATFORM: Shelf({one.model: [one] for one in every}, every)}
    images = frozenset({"images"})

    def chosen(need: Need, tier: int = 0, model: str | None = None) -> list[str]:
        return [o.model for o in plan(RoutePolicy(quality_tier=tier), model, shelf, need).attempts()]

    assert chosen(Need(100, 100)) == ["blind", "short", "sees", "unknown"]
    assert chosen(Need(100, 100, images)) == ["short", "sees", "unknown"]
    assert chosen(Need(900, 200, images)) == ["sees", "unknown"]
    assert chosen(Need(100, 100), tier=3) == ["short", "sees"]
    assert chosen(Need(100, 100, frozenset({"flies"}))) == ["unknown"]
    assert chosen(Need(100, 100, images), tier=5) == []
    # Who names a model has chosen.
    assert chosen(Need(10**9, 1, images), model="blind") == ["blind"]
    left_out = plan(RoutePolicy(quality_tier=5), None, shelf, SOME).passed_over
    assert {one.why for one in left_out} == {Why.INSUFFICIENT} and len(left_out) == 4


def test_quality_and_latency_first() -> None:
    """Lost: a policy's word that changes nothing."""
    slow = offer("p", "slow", 1, quality_tier=1)
    good = offer("p", "good", 9, quality_tier=5)
    also = offer("q", "also", 8, quality_tier=5)
    shelf = {Payer.PLATFORM: Shelf({"slow": [slow]}, [slow, good, also])}
    times = {"slow": 900, "good": 300, "also": 0}

    def chosen(choice: Choice) -> list[str]:
        planned = plan(RoutePolicy(choice=choice), None, shelf, SOME, lambda one: times[one.model])
        return [one.model for one in planned.attempts()]

    assert chosen(Choice.CHEAPEST) == ["slow", "also", "good"]
    assert chosen(Choice.QUALITY) == ["also", "good", "slow"]
    assert chosen(Choice.LATENCY) == ["also", "good", "slow"]  # the unknown one gets known first


def key(number: int, **more: object) -> Offer:
    return offer("p", "m", 5, payer=Payer.BYOK, credential=UUID(int=number), **more)


def test_keys_take_turns_by_weight_within_their_priority() -> None:
    """Lost: the shares of traffic that the owner of several keys wants, or the spare key goes first."""
    keys = [key(1, weight=3), key(2, weight=1), key(3, priority=200), key(4, priority=1)]
    planned = plan(RoutePolicy((Payer.BYOK,)), "m", {Payer.BYOK: Shelf({"m": keys})})
    dealt = [[one.credential.int for one in planned.attempts(turn)] for turn in range(400)]  # type: ignore[union-attr]
    assert all(one[0] == 4 and one[-1] == 3 for one in dealt)
    assert Counter(one[1] for one in dealt) == {1: 300, 2: 100}
    assert all(sorted(one) == [1, 2, 3, 4] for one in dealt)
    assert planned.takes_turns


def test_there_is_an_end_of_trying() -> None:
    """Lost: a request with a hundred keys is tried a hundred times."""
    keys = [key(number) for number in range(1, 101)]
    planned = plan(RoutePolicy((Payer.BYOK,)), "m", {Payer.BYOK: Shelf({"m": keys})})
    assert len(planned.attempts(7**40)) == ATTEMPTS_MAX


def test_what_is_down_goes_last_and_stays() -> None:
    """Lost: a sick provider is asked first; or, when all are sick, nobody is; or one that recovered gets no trial."""
    attempts = ["a", "b", "c"]

    def order(sick: str, down: str) -> tuple[list[str], str]:
        asked = []

        def is_down(one: str) -> bool:
            asked.append(one)
            return one in down

        return in_order(attempts, lambda one: one not in sick, is_down), "".join(asked)

    assert order("", "") == (["a", "b", "c"], "")
    assert order("a", "a") == (["b", "c", "a"], "a")
    assert order("a", "") == (["a", "b", "c"], "a")  # its trial
    assert order("b", "") == (["a", "c", "b"], "")  # behind one that is well it gets none
    assert order("abc", "abc") == (["a", "b", "c"], "abc")
    assert order("abc", "ab") == (["c", "a", "b"], "abc")
    assert order("ab", "a") == (["b", "c", "a"], "ab")


# ── the matrix: every order of payers x what each has x whose keys let go ──

ALL = (Payer.LOCAL, Payer.BYOK, Payer.DEVELOPER, Payer.PLATFORM)
ORDERS = [order for length in (1, 2, 3, 4) for order in permutations(ALL, length)]
Keys = tuple[bool, ...]
"""A payer's keys, by whether each lets go."""
HAVES: tuple[Keys, ...] = ((), (True,), (False,), (True, False))


def expected_routes(order: tuple[Payer, ...], haves: dict[Payer, Keys], fallback: bool) -> list[tuple[Payer, int]]:
    """The rules once more, as one would tell them: walk the payers, and stop where an owner says stop."""
    walked: list[tuple[Payer, int]] = []
    stopped = False
    for payer in order:
        if payer == Payer.LOCAL or stopped:
            continue
        for number, lets_go in enumerate(haves[payer]):
            walked.append((payer, number))
            if not lets_go:
                stopped = True
    return walked if fallback else walked[: 1 if not walked else len(haves[walked[0][0]])]


def test_the_matrix_of_routes() -> None:
    """Lost: somebody pays who did not agree to, or nobody answers although somebody would have."""
    cases = 0
    for order, byok, developer, platform, fallback in product(ORDERS, HAVES, HAVES, (1, 0, 2), (True, False)):
        haves = {Payer.BYOK: byok, Payer.DEVELOPER: developer, Payer.PLATFORM: (True,) * platform}
        shelves = {
            payer: Shelf(
                {"m": [
                    offer("p", "m", 5, payer=payer, credential=UUID(int=number), lets_go=goes)
                    for number, goes in enumerate(keys)
                ]}
            )
            for payer, keys in haves.items()
        }  # fmt: skip
        planned = plan(RoutePolicy(order, provider_fallback=fallback), "m", shelves)
        got = [(one.payer, one.credential.int) for one in planned.attempts()]  # type: ignore[union-attr]
        assert got == expected_routes(order, haves, fallback), (order, haves, fallback)
        told = {one.payer for one in planned.passed_over}
        assert told | {payer for payer, _ in got} == set(order)  # whoever isn't in the plan is in its explanation
        cases += 1
    assert cases == len(ORDERS) * 16 * 3 * 2 == 6144


def test_auto_never_takes_what_makes_vectors_for_what_answers() -> None:
    """Lost: a chat goes to the model of embeddings, which is the cheapest there is, and fails."""
    vectors, talks = offer("p", "vectors", 1, embeds=True), offer("p", "talks", 5)
    shelf = {Payer.PLATFORM: Shelf({"vectors": [vectors], "talks": [talks]}, [vectors, talks])}
    for models in ((), ("vectors", "talks")):
        policy = RoutePolicy(models=models)
        assert names(plan(policy, None, shelf, SOME)) == [("p", "talks")]
        assert names(plan(policy, None, shelf, Need(embeds=True))) == [("p", "vectors")]


@pytest.mark.parametrize(
    ("policy", "first"),
    [
        ({"models": ["large", "small"]}, "large"),
        ({"models": ["large", "small"], "model_policy": "cheapest_sufficient"}, "small"),
        ({"model_policy": {"candidates": ["large", "small"]}}, "large"),
        ({"model_policy": {"candidates": ["large", "small"], "order": "cost"}}, "small"),
        ({"model_policy": "cheapest_sufficient"}, "small"),
    ],
)
def test_the_cheapest_of_a_list_where_the_manifest_says_so(policy: dict[str, object], first: str) -> None:
    """Lost: a manifest says `order: cost`, and the dearest answers because it was named first."""
    assert names(plan(parse_policy(policy).routing, None, PLATFORM, SOME))[0][1] == first
