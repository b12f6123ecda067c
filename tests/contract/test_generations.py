"""GET /v1/generations/{id}: what a request used and cost, to the one whose it was."""

from __future__ import annotations

from typing import Any

import pytest
from gateway_world import FEATURE, EndUser, Gateway, Hanging, World, ask, chat, request, wait_for

from faucet.kit.ids import request_id


def look(gateway: Gateway, end_user: EndUser, name: str) -> Any:
    return request(gateway, "GET", f"/v1/generations/{name}", headers={"authorization": f"Bearer {end_user.bearer}"})


def test_what_a_request_cost_can_be_looked_up(gateway: Gateway, rich: EndUser) -> None:
    """An app that lost a reply, or a stream's last event, could not show what was paid."""
    reply = ask(gateway, rich.bearer, chat())
    note = reply.json["modelfaucet"]
    for name in (reply.json["id"], note["request_id"]):
        found = look(gateway, rich, name)
        assert found.status == 200
        told = found.json
        assert told["request_id"] == note["request_id"] and told["state"] == "settled"
        assert (told["price_usd"], told["provider"], told["model"]) == (note["price_usd"], "mock", "mock-small")
        assert (told["outcome"], told["usage_source"], told["route_mode"]) == ("complete", "reported", "platform")
        assert told["usage"]["output_tokens"] == 48 and told["feature_key"] == FEATURE
        assert told["feature_version"] == note["feature_version"]
        assert told["usage"]["input_tokens"] == reply.json["usage"]["prompt_tokens"]


def test_the_callers_own_id_finds_the_newest(gateway: Gateway, rich: EndUser) -> None:
    """Apps that name their requests could not find them by that name."""
    for text in ("short", "a longer question than before"):
        reply = ask(gateway, rich.bearer, chat(text), {"x-request-id": "order:42"})
    told = look(gateway, rich, "order:42").json
    assert told["request_id"] == "order:42" and told["price_usd"] == reply.json["modelfaucet"]["price_usd"]


def test_a_request_that_runs_and_one_that_was_released(gateway: Gateway, world: World, rich: EndUser) -> None:
    """What is reserved, and that it came back, would be a riddle."""
    hanging = Hanging(gateway, rich.bearer, chat(model="slow-first-byte", mock={"delay_ms": 20_000}))
    [hold] = wait_for(lambda: world.open_holds(rich))
    running = look(gateway, rich, request_id(hold)).json
    assert running["state"] == "running" and float(running["held_usd"]) > 0 and "price_usd" not in running
    hanging.hang_up()
    wait_for(lambda: not world.open_holds(rich))
    ended = look(gateway, rich, request_id(hold)).json
    assert ended["state"] == "released" and ended["price_usd"] == "0.00000000" and ended["reason"] == "client hung up"


@pytest.mark.parametrize("name", ["req_" + "0" * 32, "req_zz", "nothing", "a%20b", "", "x" * 300])
def test_what_is_not_known_is_not_found(gateway: Gateway, rich: EndUser, name: str) -> None:
    """A typo would be a fault of ours."""
    found = look(gateway, rich, name)
    assert found.status == 404 and found.code == "not_found"


def test_another_end_users_request_is_not_found(gateway: Gateway, world: World, rich: EndUser) -> None:
    """One could see what others ask for and pay."""
    mine = ask(gateway, rich.bearer, chat(), {"x-request-id": "mine"})
    other = world.end_user()
    for name in (mine.json["id"], "mine"):
        assert look(gateway, other, name).status == 404
    assert request(gateway, "GET", "/v1/generations/mine").status == 401
