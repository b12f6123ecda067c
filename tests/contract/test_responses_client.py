"""POST /v1/responses as OpenAI's official Python client sees it, in front of a provider of the chat wire."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import openai
import pytest
from gateway_world import FEATURE, Charged, EndUser, Gateway, Mock, World, request
from openai import OpenAI

from faucet.kit.money import to_wire

ASKED = "Please answer this customer: where is my order?"
TOOLS: Any = [
    {
        "type": "function",
        "name": "find_order",
        "description": "Find an order.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"id": {"type": "string"}},
            "required": ["id"],
            "additionalProperties": False,
        },
    }
]


def client_for(gateway: Gateway, bearer: str) -> OpenAI:
    return OpenAI(base_url=gateway.openai_url, api_key=bearer, max_retries=0, timeout=20)


@pytest.fixture
def client(gateway: Gateway, rich: EndUser) -> Iterator[OpenAI]:
    with client_for(gateway, rich.bearer) as made:
        yield made


def create(client: OpenAI, *, mock: Any = None, **more: Any) -> Any:
    asked = {"model": "mock-small", "input": ASKED, **more}
    return client.responses.create(**asked, extra_body={} if mock is None else {"mock": mock})


def test_a_response_is_openais_with_what_it_cost(client: OpenAI, world: World, rich: EndUser) -> None:
    """Apps written for this API could not come, or would not see what they pay."""
    reply = create(client, instructions="Be brief.", metadata={"ticket": "T-1"})
    assert reply.object == "response" and reply.status == "completed" and reply.model == "mock-small"
    assert reply.output_text and [item.type for item in reply.output] == ["message"]
    assert reply.usage.output_tokens == 48
    assert reply.usage.total_tokens == reply.usage.input_tokens + 48
    assert (reply.instructions, reply.metadata, reply.store) == ("Be brief.", {"ticket": "T-1"}, False)
    due = Charged(reply.usage.input_tokens, 48)
    assert reply.modelfaucet["price_usd"] == to_wire(due.retail)
    assert reply.id == f"resp_mf_{reply._request_id}"
    event = world.event(UUID(reply._request_id.removeprefix("req_")))
    assert event is not None and event["retail_e8"] == due.retail
    assert world.balance(rich) == (10 * 10**8 - due.retail, 0)


def test_a_stream_builds_the_same_response(client: OpenAI, world: World, rich: EndUser) -> None:
    """A streaming client would show another answer, or see events in an order that it can't follow."""
    whole = create(client)
    with client.responses.stream(model="mock-small", input=ASKED) as stream:
        events = list(stream)
        built: Any = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"
    raw = list(create(client, stream=True))
    assert [event.sequence_number for event in raw] == list(range(len(raw)))
    assert built.output_text == whole.output_text
    assert "".join(event.delta for event in raw if event.type == "response.output_text.delta") == whole.output_text
    assert built.usage == whole.usage.model_copy(update={"cost": built.usage.cost})
    assert raw[-1].response.modelfaucet["usage_source"] == "reported"
    assert len(world.events_of(rich)) == 3


def test_tools_work_both_ways(client: OpenAI, mock: Mock) -> None:
    """Agents would lose the calls that they are made of."""
    reply = create(client, tools=TOOLS, tool_choice="required")
    [call] = reply.output
    assert call.type == "function_call" and call.name == "find_order" and json.loads(call.arguments)["id"]
    with client.responses.stream(model="mock-small", input=ASKED, tools=TOOLS, tool_choice="required") as stream:
        built: Any = stream.get_final_response()
    [streamed] = built.output
    assert (streamed.name, streamed.arguments) == (call.name, call.arguments)
    talk = [
        {"role": "user", "content": ASKED},
        call.to_dict(),
        {"type": "function_call_output", "call_id": call.call_id, "output": "shipped"},
    ]
    assert create(client, input=talk, tools=TOOLS, tool_choice="none").output_text
    shown = mock.last()["body"]["messages"]
    assert [message["role"] for message in shown] == ["user", "assistant", "tool"]
    assert shown[1]["tool_calls"][0]["id"] == shown[2]["tool_call_id"] == call.call_id


def test_what_is_asked_reaches_the_provider(client: OpenAI, mock: Mock) -> None:
    """Instructions, pictures or limits would get lost on the way."""
    parts = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": "https://example.com/cat.png", "detail": "low"},
    ]
    talk = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "output_text", "text": "A cat.", "annotations": []}]},
        {"role": "user", "content": "Sure?"},
    ]
    create(
        client,
        input=talk,
        max_output_tokens=60,
        temperature=0.5,
        reasoning={"effort": "low"},
        text={"verbosity": "low"},
        safety_identifier="who",
    )
    sent = mock.last()["body"]
    assert [message["role"] for message in sent["messages"]] == ["system", "user", "assistant", "user"]
    assert sent["messages"][1]["content"][1] == {
        "type": "image_url",
        "image_url": {"url": "https://example.com/cat.png", "detail": "low"},
    }
    assert sent["messages"][2]["content"] == "A cat."
    assert (sent["max_completion_tokens"], sent["temperature"], sent["reasoning_effort"]) == (60, 0.5, "low")
    assert (sent["verbosity"], sent["safety_identifier"]) == ("low", "who")
    assert not {"input", "instructions", "max_output_tokens", "reasoning", "text", "store"} & set(sent)


def test_a_structured_answer_and_its_odds(client: OpenAI) -> None:
    """Apps that parse their answers, or weigh them, would not work."""
    form = {
        "type": "json_schema",
        "name": "reply",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"urgent": {"type": "boolean"}},
            "required": ["urgent"],
            "additionalProperties": False,
        },
    }
    reply = create(client, text={"format": form})
    assert set(json.loads(reply.output_text)) == {"urgent"}
    odds = create(client, top_logprobs=2, include=["message.output_text.logprobs"])
    assert odds.output[0].content[0].logprobs[0].top_logprobs


def test_an_answer_that_is_cut_says_so(client: OpenAI) -> None:
    """A client would take half an answer for a whole one."""
    reply = create(client, max_output_tokens=5)
    assert reply.status == "incomplete" and reply.incomplete_details.reason == "max_output_tokens"
    assert list(create(client, max_output_tokens=5, stream=True))[-1].type == "response.incomplete"


def test_thinking_is_told_apart(client: OpenAI) -> None:
    """What was thought would be shown as the answer, or be free."""
    reply = create(client, model="mock-reasoner", mock={"cached_tokens": 4})
    assert reply.output[-1].type == "message" and reply.output_text
    assert reply.usage.output_tokens_details.reasoning_tokens > 0
    assert reply.usage.input_tokens_details.cached_tokens == 4


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_output_tokens": 0}, "max_completion_tokens"),
        ({"text": {"format": {"type": "grammar"}}}, "text"),
    ],
)
def test_what_is_not_offered_is_refused_by_name(
    client: OpenAI, world: World, rich: EndUser, asked: dict[str, Any], field: str
) -> None:
    """A field that is silently left out would change an answer without a word."""
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, **asked)
    body: Any = caught.value.body
    assert body["code"] == "invalid_request" and field in json.dumps(body)
    assert world.events_of(rich) == []


def test_typed_errors(client: OpenAI, gateway: Gateway, world: World) -> None:
    """Official clients would not raise what their callers catch."""
    with pytest.raises(openai.NotFoundError):
        create(client, model="no-such-model")
    with pytest.raises(openai.RateLimitError):
        create(client, model="429")
    with pytest.raises(openai.InternalServerError):
        create(client, model="fail-500")
    with client_for(gateway, world.end_user(0).bearer) as poor, pytest.raises(openai.APIStatusError) as caught:
        create(poor)
    assert caught.value.status_code == 402
    assert request(gateway, "POST", "/v1/responses", b"{}").status == 401


def test_a_stream_that_breaks_ends_as_failed(client: OpenAI, world: World, rich: EndUser) -> None:
    """Half an answer would look complete, or be free."""
    events = list(create(client, model="cut-mid-stream", stream=True))
    assert events[-1].type == "response.failed" and "broke off" in events[-1].response.error.message
    [event] = world.events_of(rich)
    assert event["outcome"] == 2 and event["output_tokens"] > 0


def test_a_feature_can_be_named(client: OpenAI) -> None:
    """The words of our own would not be understood under this API."""
    reply = create(client, model=f"auto:{FEATURE}")
    assert reply.model == "mock-small" and reply.modelfaucet["feature_key"] == FEATURE
