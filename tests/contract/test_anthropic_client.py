"""The gateway as Anthropic's official Python client sees it, in front of a provider of OpenAI's wire."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import anthropic
import pytest
from anthropic import Anthropic
from gateway_world import FEATURE, Charged, EndUser, Gateway, Mock, World, request

from faucet.kit.money import to_wire

MESSAGES: Any = [{"role": "user", "content": "Please answer this customer: where is my order?"}]
TOOLS: Any = [
    {
        "name": "find_order",
        "description": "Find an order.",
        "input_schema": {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
    }
]
AN_HOUR: Any = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def client_for(gateway: Gateway, bearer: str) -> Anthropic:
    return Anthropic(base_url=gateway.base_url, api_key=bearer, max_retries=0, timeout=20)


@pytest.fixture
def client(gateway: Gateway, rich: EndUser) -> Iterator[Anthropic]:
    with client_for(gateway, rich.bearer) as made:
        yield made


def create(client: Anthropic, *, mock: Any = None, extra: Any = None, **more: Any) -> Any:
    asked = {"model": "mock-small", "max_tokens": 400, "messages": MESSAGES, **more}
    return client.messages.create(**asked, extra_body={**(extra or {}), **({} if mock is None else {"mock": mock})})


def test_a_message_is_anthropics_with_what_it_cost(client: Anthropic, world: World, rich: EndUser) -> None:
    """Apps written for Anthropic's API could not come, or would not see what they pay."""
    reply = create(client)
    assert (reply.type, reply.role, reply.model) == ("message", "assistant", "mock-small")
    assert reply.stop_reason == "end_turn" and reply.stop_sequence is None
    [block] = reply.content
    assert block.type == "text" and block.text
    due = Charged(reply.usage.input_tokens, reply.usage.output_tokens)
    assert reply.usage.output_tokens == 48 and reply.modelfaucet["price_usd"] == to_wire(due.retail)
    assert reply.id == f"msg_mf_{reply._request_id}" and reply._request_id == reply.modelfaucet["request_id"]
    event = world.event(UUID(reply._request_id.removeprefix("req_")))
    assert event is not None and event["retail_e8"] == due.retail
    assert world.balance(rich) == (10 * 10**8 - due.retail, 0)


def test_a_stream_builds_the_same_message(client: Anthropic, world: World, rich: EndUser) -> None:
    """A streaming client would show another answer, or know no usage."""
    whole = create(client)
    with client.messages.stream(model="mock-small", max_tokens=400, messages=MESSAGES) as stream:
        kinds = [event.type for event in stream]
        built: Any = stream.get_final_message()
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop" and "content_block_stop" in kinds
    assert [block.text for block in built.content] == [block.text for block in whole.content]
    assert built.stop_reason == "end_turn"
    assert (built.usage.input_tokens, built.usage.output_tokens) == (whole.usage.input_tokens, 48)
    assert len(world.events_of(rich)) == 2


def test_tools_work_both_ways(client: Anthropic, mock: Mock) -> None:
    """Agents would lose the calls that they are made of."""
    reply = create(client, tools=TOOLS, tool_choice={"type": "any", "disable_parallel_tool_use": True})
    assert reply.stop_reason == "tool_use"
    [call] = [block for block in reply.content if block.type == "tool_use"]
    assert call.name == "find_order" and call.input["id"]
    sent = mock.last()["body"]
    assert sent["tool_choice"] == "required" and sent["parallel_tool_calls"] is False
    with client.messages.stream(
        model="mock-small", max_tokens=400, messages=MESSAGES, tools=TOOLS, tool_choice={"type": "any"}
    ) as stream:
        streamed: Any = stream.get_final_message()
    assert [block.input for block in streamed.content if block.type == "tool_use"] == [call.input]
    assert streamed.stop_reason == "tool_use"
    talk = [
        *MESSAGES,
        {"role": "assistant", "content": [block.to_dict() for block in reply.content]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "shipped"}]},
                {"type": "text", "text": "And now?"},
            ],
        },
    ]
    assert create(client, messages=talk, tools=TOOLS, tool_choice={"type": "none"}).content[0].text
    shown = mock.last()["body"]["messages"]
    assert [message["role"] for message in shown] == ["user", "assistant", "tool", "user"]
    assert shown[1]["tool_calls"][0]["id"] == call.id == shown[2]["tool_call_id"] and shown[2]["content"] == "shipped"


def test_what_is_asked_reaches_the_provider(client: Anthropic, mock: Mock) -> None:
    """A system prompt, a picture or a limit would get lost on the way."""
    parts = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
        {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral"}},
    ]
    create(
        client,
        messages=[{"role": "user", "content": parts}],
        system=[{"type": "text", "text": "Be brief."}],
        stop_sequences=["END"],
        extra={"temperature": 0.5, "top_p": 0.9},
        metadata={"user_id": "u-1"},
        thinking={"type": "enabled", "budget_tokens": 4000},
        max_tokens=77,
    )
    sent = mock.last()["body"]
    assert sent["messages"][0] == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert sent["messages"][1]["content"][0] == {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{PIXEL}"},
    }
    assert sent["messages"][1]["content"][1]["cache_control"] == {"type": "ephemeral"}
    assert (sent["stop"], sent["temperature"], sent["top_p"], sent["user"]) == (["END"], 0.5, 0.9, "u-1")
    assert sent["reasoning_effort"] == "medium" and sent["max_completion_tokens"] == 77
    assert not {"system", "stop_sequences", "thinking", "max_tokens"} & set(sent)


def test_a_structured_answer(client: Anthropic, mock: Mock) -> None:
    """Apps that parse their answers would get prose."""
    schema = {
        "type": "object",
        "properties": {"urgent": {"type": "boolean"}},
        "required": ["urgent"],
        "additionalProperties": False,
    }
    reply = create(client, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert set(json.loads(reply.content[0].text)) == {"urgent"}
    assert mock.last()["body"]["response_format"]["json_schema"]["schema"] == schema


def test_thinking_and_caches_are_told_apart(client: Anthropic) -> None:
    """What was thought would be shown as the answer, or what a cache gave would be told as read anew."""
    reply = create(client, model="mock-reasoner", mock={"cached_tokens": 4})
    assert [block.type for block in reply.content][-1] == "text"
    assert reply.usage.cache_read_input_tokens == 4 and reply.usage.input_tokens > 0


def test_an_answer_that_is_cut_says_so(client: Anthropic) -> None:
    """A client would take half an answer for a whole one."""
    reply = create(client, max_tokens=5)
    assert reply.stop_reason == "max_tokens" and reply.usage.output_tokens == 5


@pytest.mark.parametrize(
    ("asked", "error", "kind"),
    [
        ({"model": "no-such-model"}, anthropic.NotFoundError, "not_found_error"),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, anthropic.BadRequestError, "messages[0]"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, anthropic.BadRequestError, "tools[0]"),
        ({"max_tokens": -1}, anthropic.BadRequestError, "max_completion_tokens"),
        ({"thinking": {"type": "enabled"}}, anthropic.BadRequestError, "thinking.budget_tokens"),
        ({"system": AN_HOUR}, anthropic.BadRequestError, "only a cache of five minutes"),
        ({"model": "fail-500"}, anthropic.InternalServerError, "api_error"),
        ({"model": "429"}, anthropic.RateLimitError, "rate_limit_error"),
    ],
)
def test_errors_are_anthropics(
    client: Anthropic, world: World, rich: EndUser, asked: dict[str, Any], error: type[Exception], kind: str
) -> None:
    """Official clients would not raise what their callers catch."""
    with pytest.raises(error) as caught:
        create(client, **asked)
    body: Any = caught.value.body  # type: ignore[attr-defined]
    assert body["type"] == "error" and body["request_id"].startswith("req_")
    assert kind in json.dumps(body)
    assert world.events_of(rich) == []


def test_no_money_and_no_bearer(gateway: Gateway, world: World) -> None:
    """A client would not know that it has to pay, or who it has to be."""
    with client_for(gateway, world.end_user(0).bearer) as client, pytest.raises(anthropic.APIStatusError) as caught:
        create(client)
    assert caught.value.status_code == 402 and caught.value.body["error"]["type"] == "billing_error"  # type: ignore[index,call-overload]
    with client_for(gateway, "mf_sess_nobody_has_this_one") as client, pytest.raises(anthropic.AuthenticationError):
        create(client)
    nameless = request(gateway, "POST", "/v1/messages", b"{}", {"content-type": "application/json"})
    assert nameless.status == 401 and nameless.json["error"]["type"] == "authentication_error"
    for body in (b"[]", b'{"a', b'{"max_tokens":1,"messages":"\xff"}', b'{"max_tokens":1,"messages":[1]}'):
        bearer = {"x-api-key": world.end_user().bearer}
        assert request(gateway, "POST", "/v1/messages", body, bearer).json["error"]["type"] == "invalid_request_error"


def test_a_stream_that_breaks_ends_with_an_error(client: Anthropic, world: World, rich: EndUser) -> None:
    """Half an answer would look complete, or be free."""
    with pytest.raises(anthropic.APIStatusError) as caught:
        with client.messages.stream(model="cut-mid-stream", max_tokens=400, messages=MESSAGES) as stream:
            stream.get_final_message()
    assert "broke off" in str(caught.value)
    [event] = world.events_of(rich)
    assert event["outcome"] == 2 and event["output_tokens"] > 0


def test_a_feature_can_be_named(client: Anthropic) -> None:
    """The words of our own would not be understood under this API."""
    reply = create(client, model=f"auto:{FEATURE}", metadata={"feature_key": FEATURE, "user_id": "x"})
    assert reply.model == "mock-small" and reply.modelfaucet["feature_key"] == FEATURE


def test_the_same_key_gives_the_same_message(client: Anthropic, world: World, rich: EndUser) -> None:
    """A retry would be charged again."""
    first = client.messages.create(
        model="mock-small", max_tokens=50, messages=MESSAGES, extra_headers={"idempotency-key": "once"}
    )
    again = client.messages.create(
        model="mock-small", max_tokens=50, messages=MESSAGES, extra_headers={"idempotency-key": "once"}
    )
    assert again.content == first.content and again.id == first.id
    assert len(world.events_of(rich)) == 1
