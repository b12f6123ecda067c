"""The gateway as clients on Node see it: OpenAI's and Anthropic's own, and Vercel's AI SDK.

Each is a script under `node/` that prints what it saw.
"""

from __future__ import annotations

import json
from pathlib import Path

from gateway_world import EndUser, Gateway, World
from node_world import packages, run

__all__ = ["packages"]


def test_openais_client(packages: Path, gateway: Gateway, world: World, rich: EndUser) -> None:
    """Most apps on Node use this client."""
    seen = run(packages, "openai.mjs", gateway, rich)
    assert seen["plain"]["text"] and seen["plain"]["text"] == seen["stream"]["text"] == seen["response"]["text"]
    assert seen["plain"]["usage"]["completion_tokens"] == seen["stream"]["usage"]["completion_tokens"] == 48
    assert seen["response"]["usage"]["output_tokens"] == 48
    assert seen["tool"]["name"] == "find_order" and json.loads(seen["tool"]["arguments"])["id"]
    assert set(seen["structured"]) == {"id"}
    assert seen["events"][0] == "response.created" and seen["events"][-1] == "response.completed"
    assert "mock-small" in seen["models"]
    assert seen["error"]["name"] == "NotFoundError" and seen["error"]["code"] == "not_found"
    assert seen["error"]["id"].startswith("req_")
    assert len(world.events_of(rich)) == 6


def test_anthropics_client(packages: Path, gateway: Gateway, world: World, rich: EndUser) -> None:
    """Agents written for Anthropic's API use this client."""
    seen = run(packages, "anthropic.mjs", gateway, rich)
    assert seen["plain"]["text"] == seen["stream"]["text"] and seen["plain"]["stop"] == "end_turn"
    assert seen["plain"]["usage"]["output_tokens"] == seen["stream"]["usage"]["output_tokens"] == 48
    assert seen["stream"]["usage"]["input_tokens"] == seen["plain"]["usage"]["input_tokens"]
    assert seen["tool"]["name"] == "find_order" and seen["tool"]["input"]["id"]
    assert seen["error"]["name"] == "NotFoundError" and seen["error"]["id"].startswith("req_")
    assert len(world.events_of(rich)) == 3


def test_vercels_ai_sdk(packages: Path, gateway: Gateway, world: World, rich: EndUser) -> None:
    """Chat pages in React are built on this one."""
    seen = run(packages, "ai_sdk.mjs", gateway, rich)
    assert seen["stream"]["text"] == seen["plain"]["text"] != ""
    assert seen["stream"]["usage"]["outputTokens"] == seen["plain"]["usage"]["outputTokens"] == 48
    assert seen["stream"]["finish"] == "stop"
    [call] = seen["calls"]
    assert call["name"] == "find_order" and seen["executed"] == [call["input"]["id"]]
    assert seen["error"]["status"] == 404
    assert len(world.events_of(rich)) == 3
