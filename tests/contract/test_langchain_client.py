"""The gateway as LangChain sees it: ChatOpenAI with another base address."""

from __future__ import annotations

from typing import Any

import pytest
from gateway_world import EndUser, Gateway, World
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

ASKED = "Please answer this customer: where is my order?"


class Reply(BaseModel):
    """An answer to a customer."""

    subject: str
    urgent: bool


@tool
def find_order(id: str) -> str:
    """Find an order."""
    return f"{id} is shipped"


@pytest.fixture
def model(gateway: Gateway, rich: EndUser) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=gateway.openai_url,
        api_key=SecretStr(rich.bearer),
        model="mock-small",
        stream_usage=True,
        max_retries=0,
        timeout=20,
    )


def test_answers_and_streams_with_usage(model: ChatOpenAI, world: World, rich: EndUser) -> None:
    """Chains could not count what they spend."""
    whole = model.invoke(ASKED)
    assert whole.usage_metadata is not None and whole.usage_metadata["output_tokens"] == 48
    built: Any = None
    for chunk in model.stream(ASKED):
        built = chunk if built is None else built + chunk
    assert built.content == whole.content and built.usage_metadata["output_tokens"] == 48
    assert len(world.events_of(rich)) == 2


async def test_it_streams_asynchronously(model: ChatOpenAI) -> None:
    """Servers use the asynchronous half."""
    texts = [str(chunk.content) async for chunk in model.astream(ASKED)]
    assert "".join(texts) == (await model.ainvoke(ASKED)).content


def test_tools_and_structured_answers(model: ChatOpenAI) -> None:
    """Agents would lose the calls that they are made of."""
    called: Any = model.bind_tools([find_order], tool_choice="required").invoke(ASKED)
    [call] = called.tool_calls
    assert call["name"] == "find_order" and call["args"]["id"]
    reply = model.with_structured_output(Reply, method="json_schema").invoke(ASKED)
    assert isinstance(reply, Reply)
