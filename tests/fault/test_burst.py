"""A burst of 64 requests on a wallet that pays for exactly 10: ten are served, and nobody is overdrawn.

By one and by two gateway processes, as JSON and as streams, and the same against a spend limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from books import E8
from gateway_world import EndUser, Gateway, Mock, Reply, World, ask, chat, wait_for

AT_ONCE = 64
PAID_FOR = 10


@pytest.fixture(scope="module")
def pair(world: World, mock: Mock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Gateway]]:
    """Two gateway processes on the same books. They wait long in line, for a test machine may be slow."""
    folder = tmp_path_factory.mktemp("burst")
    running = [Gateway(world.dsn, mock.url, folder, HOLD_WAIT_SECONDS=20) for _ in range(2)]
    yield running
    for one in running:
        one.stop()


def price_of(gateway: Gateway, world: World, body: dict[str, Any]) -> int:
    """What one answer to this costs, in e8."""
    probe = world.end_user()
    assert ask(gateway, probe.bearer, body).status == 200
    [event] = world.events_of(probe)
    return int(event["retail_e8"])


def burst(gateways: Sequence[Gateway], askers: Sequence[EndUser], body: dict[str, Any]) -> list[Reply]:
    """Ask 64 times at once, over all gateways and askers in turn."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        asking = [
            threads.submit(ask, gateways[place % len(gateways)], askers[place % len(askers)].bearer, body, seconds=60)
            for place in range(AT_ONCE)
        ]
        return [one.result() for one in asking]


def check_ten_served(replies: Sequence[Reply], code: str) -> None:
    """Ten whole answers, and 54 refusals that clients don't repeat."""
    served = [reply for reply in replies if reply.status == 200]
    assert Counter(reply.status for reply in replies) == {200: PAID_FOR, 402: AT_ONCE - PAID_FOR}
    assert {reply.code for reply in replies if reply.status != 200} == {code}
    assert not any("retry-after" in reply.headers for reply in replies)
    assert len({reply.text for reply in served}) == 1 and b'"finish_reason":"length"' not in served[0].body


@pytest.mark.parametrize("processes", [1, 2], ids=["one", "two"])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("limits", [{}, {"max_tokens": 64}], ids=["wide holds", "narrow holds"])
def test_a_wallet_that_pays_for_ten_serves_ten(
    pair: list[Gateway], world: World, mock: Mock, processes: int, stream: bool, limits: dict[str, int]
) -> None:
    """A burst would overdraw a wallet, or be refused what the wallet can pay."""
    body = chat(stream=stream, **limits)
    price = price_of(pair[0], world, body)
    end_user, before = world.end_user(PAID_FOR * price), mock.calls()
    replies = burst(pair[:processes], [end_user], body)
    check_ten_served(replies, "insufficient_balance")
    assert world.balance(end_user) == (0, 0) and world.open_holds(end_user) == []
    assert [event["retail_e8"] for event in world.events_of(end_user)] == [price] * PAID_FOR
    assert mock.calls() == before + PAID_FOR


@pytest.mark.parametrize("scope", ["end_user", "app", "feature_end_user"])
def test_a_spend_limit_that_pays_for_ten_serves_ten(pair: list[Gateway], world: World, mock: Mock, scope: str) -> None:
    """A burst would pass the limit that a developer or an end user has set, though every wallet is full."""
    tenant = world.books.tenant()
    askers = [world.end_user(app_of=tenant) for _ in range(4 if scope == "app" else 1)]
    body = chat(max_tokens=64)
    # This app has no markup: ask it, and not the other, what an answer costs.
    assert ask(pair[0], askers[0].bearer, body).status == 200
    price = world.events_of(askers[0])[0]["retail_e8"]
    limited = getattr(askers[0].tenant, "feature" if scope == "feature_end_user" else scope)
    world.books.limit(scope, limited, "month", (PAID_FOR + 1) * price)
    before = mock.calls()
    replies = burst(pair, askers, body)
    check_ten_served(replies, "budget_exceeded")
    assert world.books.counter(limited) == ((PAID_FOR + 1) * price, 0)
    spent = sum(10 * E8 - world.balance(asker)[0] for asker in askers)
    assert spent == (PAID_FOR + 1) * price and mock.calls() == before + PAID_FOR


def test_a_burst_on_many_wallets_serves_every_one_that_can_pay(pair: list[Gateway], world: World) -> None:
    """One end user's empty wallet would cost another their answer."""
    body = chat()
    price = price_of(pair[0], world, body)
    askers = [world.end_user(4 * price if place % 2 else 0) for place in range(16)]
    replies = burst(pair, askers, body)
    assert [reply.status for reply in replies] == [200 if place % 2 else 402 for place in range(AT_ONCE)]
    assert wait_for(lambda: all(world.balance(asker) == (0, 0) for asker in askers))
