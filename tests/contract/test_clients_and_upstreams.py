"""Every client in front of every kind of upstream: OpenAI's, Anthropic's and Gemini's wire behind the same gateway.

Each client asks for an answer, a stream, a tool call, and, where it has them, a structured answer and embeddings.
What it reads, and what is booked, must not depend on who answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from gateway_world import EndUser, Gateway, Mock, World
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from node_world import packages, run
from openai import OpenAI
from pydantic import BaseModel, SecretStr

__all__ = ["packages"]

MODEL = "mock-small"
ASKED = "Please answer this customer: where is my order?"
PARAMETERS = {
    "type": "object",
    "properties": {"id": {"type": "string"}},
    "required": ["id"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=["openai", "anthropic", "gemini"])
def spoken(
    request: pytest.FixtureRequest, world: World, mock: Mock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Gateway]]:
    """A gateway that reaches the mock provider by one of its faces: as OpenAI, Anthropic or Gemini."""
    provider: str = request.param
    world.books.rows(
        "insert into price (provider, model, tokenizer, context_window, max_output_tokens, input_e8_per_m,"
        " cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m, image_tokens_max, effective_from,"
        " source, status) values (%s, %s, 'words', 128000, 16384, 15000000, 1500000, 20000000, 60000000, 1000,"
        " '2026-01-01', 'test', 'confirmed') returning id",
        provider,
        MODEL,
    )
    root = mock.url.removesuffix("/v1")
    url = {"openai": mock.url, "anthropic": mock.url, "gemini": f"{root}/v1beta"}[provider]
    settings = {f"{provider.upper()}_API_KEY": "key-0123456789", f"{provider.upper()}_BASE_URL": url}
    running = Gateway(world.dsn, mock.url, tmp_path_factory.mktemp("spoken"), **settings)
    yield provider, running
    running.stop()


def check_booked(world: World, rich: EndUser, provider: str, count: int) -> None:
    """All that was asked is booked as this provider's, by its own report."""
    events = world.events_of(rich)
    assert [event["provider"] for event in events] == [provider] * count
    assert all(event["usage_source"] == 0 and event["outcome"] == 0 for event in events)


def test_openais_client(world: World, spoken: tuple[str, Gateway], rich: EndUser) -> None:
    """An app would have to know which provider stands behind its model."""
    provider, gateway = spoken
    asked: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": ASKED}]}
    called = {"type": "function", "function": {"name": "find_order", "parameters": PARAMETERS}}
    form = {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": PARAMETERS}}
    with OpenAI(base_url=gateway.openai_url, api_key=rich.bearer, max_retries=0, timeout=20) as client:
        create: Any = client.chat.completions.create
        plain = create(**asked)
        assert plain.choices[0].message.content and plain.choices[0].finish_reason == "stop"
        chunks = list(create(**asked, stream=True, stream_options={"include_usage": True}))
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert text == plain.choices[0].message.content
        assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens == 48
        tooled = create(**asked, tools=[called], tool_choice="required")
        [call] = tooled.choices[0].message.tool_calls
        assert call.function.name == "find_order" and json.loads(call.function.arguments)["id"]
        parts = [
            part
            for chunk in create(**asked, tools=[called], tool_choice="required", stream=True)
            for choice in chunk.choices
            for part in choice.delta.tool_calls or ()
        ]
        assert "".join(part.function.arguments or "" for part in parts) == call.function.arguments
        answered = [
            *asked["messages"],
            tooled.choices[0].message.to_dict(),
            {"role": "tool", "tool_call_id": call.id, "content": "shipped"},
        ]
        assert create(model=MODEL, messages=answered, tools=[called], tool_choice="none").choices[0].message.content
        assert set(json.loads(create(**asked, response_format=form).choices[0].message.content)) == {"id"}
        response = client.responses.create(model=MODEL, input=ASKED)
        assert response.output_text == text
        assert list(client.responses.create(model=MODEL, input=ASKED, stream=True))[-1].type == "response.completed"
    check_booked(world, rich, provider, 8)


def test_anthropics_client(world: World, spoken: tuple[str, Gateway], rich: EndUser) -> None:
    """An agent for Anthropic's API could only be answered by Anthropic."""
    provider, gateway = spoken
    asked: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 300,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": ASKED}],
    }
    tools: Any = [{"name": "find_order", "input_schema": PARAMETERS}]
    with Anthropic(base_url=gateway.base_url, api_key=rich.bearer, max_retries=0, timeout=20) as client:
        plain: Any = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            streamed: Any = stream.get_final_message()
        assert [block.text for block in streamed.content] == [block.text for block in plain.content] != []
        assert streamed.usage.output_tokens == plain.usage.output_tokens == 48
        tooled: Any = client.messages.create(**asked, tools=tools, tool_choice={"type": "any"})
        [call] = [block for block in tooled.content if block.type == "tool_use"]
        assert call.name == "find_order" and call.input["id"] and tooled.stop_reason == "tool_use"
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "shipped"}
        talk = [
            *asked["messages"],
            {"role": "assistant", "content": [block.to_dict() for block in tooled.content]},
            {"role": "user", "content": [result]},
        ]
        more: Any = {**asked, "messages": talk, "tools": tools, "tool_choice": {"type": "none"}}
        assert client.messages.create(**more).content[0].text
    check_booked(world, rich, provider, 4)


class Reply(BaseModel):
    """An answer to a customer."""

    id: str


@tool
def find_order(id: str) -> str:
    """Find an order."""
    return f"{id} is shipped"


def test_langchain(world: World, spoken: tuple[str, Gateway], rich: EndUser) -> None:
    """A chain would work with one provider only."""
    provider, gateway = spoken
    model = ChatOpenAI(
        base_url=gateway.openai_url,
        api_key=SecretStr(rich.bearer),
        model=MODEL,
        stream_usage=True,
        max_retries=0,
        timeout=20,
    )
    whole = model.invoke(ASKED)
    built: Any = None
    for chunk in model.stream(ASKED):
        built = chunk if built is None else built + chunk
    assert built.content == whole.content and built.usage_metadata["output_tokens"] == 48
    called: Any = model.bind_tools([find_order], tool_choice="required").invoke(ASKED)
    assert called.tool_calls[0]["name"] == "find_order"
    assert isinstance(model.with_structured_output(Reply, method="json_schema").invoke(ASKED), Reply)
    check_booked(world, rich, provider, 4)


@pytest.mark.parametrize("script", ["openai.mjs", "anthropic.mjs", "ai_sdk.mjs"])
def test_clients_on_node(packages: Path, world: World, spoken: tuple[str, Gateway], rich: EndUser, script: str) -> None:
    """The same on Node."""
    provider, gateway = spoken
    seen = run(packages, script, gateway, rich)
    assert seen["plain"]["text"] and seen["plain"]["text"] == seen["stream"]["text"]
    if script == "openai.mjs":
        assert seen["tool"]["name"] == "find_order" and seen["response"]["text"] == seen["plain"]["text"]
        assert set(seen["structured"]) == {"id"}
    elif script == "anthropic.mjs":
        assert seen["tool"]["name"] == "find_order" and seen["stream"]["usage"]["output_tokens"] == 48
    else:
        assert seen["calls"][0]["name"] == "find_order" and seen["stream"]["usage"]["outputTokens"] == 48
    check_booked(world, rich, provider, {"openai.mjs": 6, "anthropic.mjs": 3, "ai_sdk.mjs": 3}[script])
