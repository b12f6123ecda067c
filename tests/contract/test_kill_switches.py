"""Kill switches at the gateway: what is switched off begins no request, and what has begun ends as it would."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from gateway_world import EndUser, Gateway, Hanging, World, ask, chat, request, wait_for

SECONDS = 5.0
"""How long a gateway may go on after a switch was thrown."""


@pytest.fixture
def switched(world: World) -> Iterator[World]:
    """The gateways' world, whose switches are released after the test."""
    yield world
    world.books.rows("delete from kill_switch")
    world.announce()


def _throw(world: World, target: str, target_id: str, *, announced: bool = True) -> None:
    world.books.rows(
        "insert into kill_switch (target, target_id, reason, thrown_by) values (%s, %s, 'test', 'operator')",
        target,
        target_id,
    )
    if announced:
        world.announce()


def _refused(gateway: Gateway, user: EndUser) -> bool:
    reply = ask(gateway, user.bearer, chat())
    assert reply.status in (200, 403), reply.body
    return reply.status == 403 and reply.code == "disabled"


@pytest.mark.parametrize("target", ["app", "provider", "everything"])
@pytest.mark.parametrize("announced", [True, False])
def test_what_is_switched_off_is_refused(
    gateway: Gateway, switched: World, rich: EndUser, target: str, announced: bool
) -> None:
    """Lost: the one lever that an operator has while something burns; also where the notice of it got lost."""
    target_id = {"app": str(rich.tenant.app), "provider": "mock", "everything": ""}[target]
    assert ask(gateway, rich.bearer, chat()).status == 200
    began = time.monotonic()
    _throw(switched, target, target_id, announced=announced)
    wait_for(lambda: _refused(gateway, rich), seconds=SECONDS + 1)
    assert time.monotonic() - began < SECONDS + 1
    before = switched.booked()
    assert _refused(gateway, rich) and switched.booked() == before
    assert request(gateway, "GET", "/ready").status == 200
    switched.books.rows("delete from kill_switch")
    switched.announce()
    wait_for(lambda: ask(gateway, rich.bearer, chat()).status == 200, seconds=SECONDS + 1)


def test_another_app_goes_on(gateway: Gateway, switched: World, rich: EndUser) -> None:
    """Lost: one app's abuse takes all others down."""
    other = switched.end_user(app_of=switched.books.tenant())
    _throw(switched, "app", str(rich.tenant.app))
    _throw(switched, "provider", "some-other-provider")
    wait_for(lambda: _refused(gateway, rich), seconds=SECONDS + 1)
    assert ask(gateway, other.bearer, chat()).status == 200


def test_what_has_begun_ends_and_is_paid_for(gateway: Gateway, switched: World, rich: EndUser) -> None:
    """Lost: a switch that cuts answers off leaves holds and unpaid providers behind."""
    slow = {"stream": True, "mock": {"chunk_delay_ms": 100, "chunks": 20, "tokens": 40}}
    hanging = Hanging(gateway, rich.bearer, chat(**slow))
    hanging.first_events(1)
    _throw(switched, "everything", "")
    other = switched.end_user()
    wait_for(lambda: _refused(gateway, other), seconds=SECONDS + 1)
    rest = hanging.response.read()
    hanging.hang_up()
    assert rest.endswith(b"data: [DONE]\n\n")
    assert len(switched.events_of(rich)) == 1 and switched.open_holds(rich) == []
