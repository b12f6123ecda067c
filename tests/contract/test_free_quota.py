"""A feature's free quota: requests are paid from it while all that they can cost fits, then from the wallet."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from features_world import MARKUP, Features, run
from gateway_world import E8, EndUser, Gateway, StartGateway, World, ask, chat, events_of, hold_of, wait_for

PRICE = 100_000
FIXED = {"fixed_price_usd": "0.00100000", "channel_share_bps": 4000, "free_quota": {"requests": 10}}
PROMPT = {"user": "{{ input.question }}"}
BODY = {"input": {"question": "Where is my order?"}}
AT_ONCE = 200


@pytest.fixture(autouse=True)
def generous(world: World) -> Iterator[None]:
    """A platform that gives much away for this developer."""
    say = "update developer set free_quota_month_max_e8 = %s where id = %s"
    world.books.rows(say, 1_000 * E8, world.tenant.developer)
    yield
    world.books.rows(say, 0, world.tenant.developer)


def allowance(world: World, end_user: EndUser) -> tuple[int, int] | None:
    """What an end user's only allowance has, and what of it is held."""
    rows = world.books.rows(
        "select posted_e8, held_e8 from account where owner_id = %s and label like 'free:%%'", end_user.tenant.end_user
    )
    return rows[0] if rows else None


def test_an_answer_is_free_while_the_quota_lasts(
    features: Features, world: World, gateway: Gateway, rich: EndUser
) -> None:
    """Lost: what was promised for nothing is charged; or the developer earns nothing from it."""
    key = features.add({"max_output_tokens": 100}, FIXED | {"free_quota": {"requests": 2}}, prompt=PROMPT)
    first = run(gateway, rich, key, BODY)
    note = first.json["modelfaucet"]
    assert (note["paid_by"], note["free_quota_left_usd"]) == ("free_quota", "0.00100000")
    assert "wallet_balance_usd" not in note and note["price_usd"] == "0.00100000"
    streamed = run(gateway, rich, key, BODY | {"stream": True})
    assert events_of(streamed.body)[-2]["modelfaucet"]["free_quota_left_usd"] == "0.00000000"
    assert world.balance(rich) == (10 * E8, 0)
    event = world.event(hold_of(first))
    assert event is not None and event["channel_e8"] > 0 and world.transfers(hold_of(first))[2] == event["channel_e8"]
    third = run(gateway, rich, key, BODY).json["modelfaucet"]
    assert "paid_by" not in third and third["wallet_balance_usd"] == "9.99900000"
    assert allowance(world, rich) == (0, 0)


def test_a_quota_in_usd_is_for_chats_too_and_takes_only_what_fits(
    features: Features, world: World, gateway: Gateway, rich: EndUser
) -> None:
    """Lost: a request that could cost more than is left is begun for nothing, and its rest is nobody's."""
    key = features.add({}, MARKUP | {"free_quota": {"usd": "0.00100000"}})
    small = ask(gateway, rich.bearer, chat(model=f"auto:{key}", max_tokens=20))
    while small.status == 404:
        small = ask(gateway, rich.bearer, chat(model=f"auto:{key}", max_tokens=20))
    assert small.json["modelfaucet"]["paid_by"] == "free_quota"
    large = ask(gateway, rich.bearer, chat(model=f"auto:{key}", max_tokens=2_000))
    assert "paid_by" not in large.json["modelfaucet"]
    charged = [world.event(hold_of(reply)) for reply in (small, large)]
    assert charged[0] is not None and charged[1] is not None
    assert allowance(world, rich) == (100_000 - charged[0]["retail_e8"], 0)
    assert world.balance(rich) == (10 * E8 - charged[1]["retail_e8"], 0)


def test_who_has_no_money_may_still_use_what_is_free(features: Features, world: World, gateway: Gateway) -> None:
    """Lost: a quota is for those only who don't need it."""
    poor = world.end_user(0)
    key = features.add({"max_output_tokens": 100}, FIXED | {"free_quota": {"requests": 1}}, prompt=PROMPT)
    assert run(gateway, poor, key, BODY).status == 200
    assert run(gateway, poor, key, BODY).code == "insufficient_balance"


def test_an_answer_that_never_came_leaves_the_quota_as_it_was(
    features: Features, world: World, gateway: Gateway, rich: EndUser
) -> None:
    """Lost: a failing provider uses up what people have for nothing."""
    key = features.add({"models": ["refuse-400"]}, FIXED, prompt=PROMPT)
    replies = [run(gateway, rich, key, BODY) for _ in range(2)]
    assert [reply.status for reply in replies] == [400, 400] and world.events_of(rich) == []
    assert wait_for(lambda: allowance(world, rich) == (10 * PRICE, 0))
    assert world.balance(rich) == (10 * E8, 0)


def test_of_two_hundred_at_once_exactly_the_quota_is_free(
    features: Features, world: World, gateway: Gateway, start_gateway: StartGateway
) -> None:
    """Lost: a burst at two gateways gets more for nothing than there is, or pays for what is free."""
    key = features.add({"max_output_tokens": 20}, FIXED, prompt=PROMPT)
    pair = [gateway, start_gateway(HOLD_WAIT_SECONDS=20)]
    user = world.end_user(150 * PRICE)
    assert run(pair[1], world.end_user(), key, BODY).status == 200  # it knows the feature
    with ThreadPoolExecutor(AT_ONCE) as threads:
        asking = [threads.submit(run, pair[i % 2], user, key, BODY, None, 90) for i in range(AT_ONCE)]
        replies = [one.result() for one in asking]
    served = [reply.json["modelfaucet"] for reply in replies if reply.status == 200]
    free = [note for note in served if note.get("paid_by") == "free_quota"]
    assert (len(free), len(served)) == (10, 160)
    assert {reply.code for reply in replies if reply.status != 200} == {"insufficient_balance"}
    assert allowance(world, user) == (0, 0) and world.balance(user) == (0, 0)
    world.books.assert_sound()
