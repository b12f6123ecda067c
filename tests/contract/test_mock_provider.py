"""The mock provider, driven by OpenAI's official client over loopback HTTP."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Any

import openai
import pytest
import uvloop
from openai import OpenAI
from pydantic import BaseModel, Field

from faucet.kit.tokens import IMAGE_TOKENS, count_chat_input, count_text
from faucet.providers.fake_server import serve

KEY = "sk-mock-of-the-tests"
ENGLISH = [{"role": "user", "content": "Please answer this customer: where is my order?"}]
CHINESE = [{"role": "user", "content": "请帮我生成一条客户回复，客户想退款。"}]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A mock provider that runs in a thread of its own, on uvloop, until the module's tests are done."""
    loop = uvloop.new_event_loop()
    stop, listening, ports = asyncio.Event(), threading.Event(), []

    def ready(port: int) -> None:
        ports.append(port)
        listening.set()

    server = serve("127.0.0.1", 0, ready=ready, stop=stop)
    thread = threading.Thread(target=lambda: loop.run_until_complete(server))
    thread.start()
    assert listening.wait(10)
    yield f"http://127.0.0.1:{ports[0]}"
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=20) as made:
        yield made


def get(url: str, path: str) -> Any:
    with urllib.request.urlopen(url + path, timeout=10) as answer:
        return json.load(answer)


def words(text: str | None) -> int:
    return count_text(text or "", "words")


def ask(client: OpenAI, messages: Any = ENGLISH, *, model: str = "mock-small", mock: Any = None, **more: Any) -> Any:
    body = None if mock is None else {"mock": mock}
    return client.chat.completions.create(model=model, messages=messages, extra_body=body, **more)


def stream_text(chunks: Any, index: int = 0) -> str:
    """The text of one choice of a stream."""
    pieces = [c.delta.content or "" for chunk in chunks for c in chunk.choices if c.index == index]
    return "".join(pieces)


def test_a_plain_reply_has_openais_shape_and_honest_usage(client: OpenAI) -> None:
    """Everything that is tested against the mock would be tested against something that OpenAI isn't."""
    reply = ask(client)
    assert reply.id.startswith("chatcmpl-mock-") and reply.object == "chat.completion"
    assert reply.model == "mock-small" and reply.system_fingerprint and reply.created > 1_700_000_000
    assert reply._request_id == "req_mock_" + reply.id.removeprefix("chatcmpl-mock-")
    [choice] = reply.choices
    assert choice.index == 0 and choice.finish_reason == "stop" and choice.message.role == "assistant"
    usage = reply.usage
    assert usage.completion_tokens == words(choice.message.content) == 48
    assert usage.prompt_tokens == count_chat_input({"messages": ENGLISH}, "words")
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens == 0
    assert usage.completion_tokens_details.reasoning_tokens == 0


def test_the_same_body_gives_the_same_text_under_another_id(client: OpenAI) -> None:
    """Retries, replays and benchmarks couldn't be checked against what they must return."""
    first, second = ask(client), ask(client)
    assert first.choices == second.choices and first.usage == second.usage
    assert first.id != second.id
    assert ask(client, [*ENGLISH, {"role": "user", "content": "Now a refund."}]).choices != first.choices
    assert "".join(stream_text(ask(client, stream=True))) == first.choices[0].message.content


@pytest.mark.parametrize("messages", [ENGLISH, CHINESE], ids=["en", "zh"])
@pytest.mark.parametrize("wanted", [0, 1, 2, 7, 39, 40, 48, 333])
def test_a_reply_has_exactly_the_tokens_asked_for(client: OpenAI, messages: Any, wanted: int) -> None:
    """Tests of metering couldn't know what a request must cost."""
    reply = ask(client, messages, mock={"tokens": wanted})
    assert words(reply.choices[0].message.content) == wanted == reply.usage.completion_tokens
    assert reply.choices[0].finish_reason == "stop"
    cut = ask(client, messages, mock={"tokens": wanted + 5}, max_tokens=wanted + 1, max_completion_tokens=900)
    assert cut.usage.completion_tokens == wanted + 1 == words(cut.choices[0].message.content)
    assert cut.choices[0].finish_reason == "length"


def test_the_language_and_length_follow_the_last_user_message(client: OpenAI) -> None:
    """The demo of a Chinese CRM would answer in English, or not at the length that its user asked for."""
    chinese = ask(client, [*ENGLISH, {"role": "user", "content": "请用200字回复客户"}])
    assert words(chinese.choices[0].message.content) == 200
    assert "您" in chinese.choices[0].message.content
    english = ask(client, [*CHINESE, {"role": "user", "content": "Write it in 60 words, please."}])
    assert words(english.choices[0].message.content) == 60
    assert english.choices[0].message.content.isascii()


@pytest.mark.parametrize("messages", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_a_stream_adds_up(client: OpenAI, messages: Any) -> None:
    """Metering of streams would be compared with wrong numbers, or meet an order that OpenAI never sends."""
    chunks = list(ask(client, messages, stream=True, n=3, stream_options={"include_usage": True}))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.choices[0].delta.role for chunk in chunks[:3]] == ["assistant"] * 3
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    texts = [stream_text(chunks, index) for index in range(3)]
    assert len(set(texts)) == 3
    assert sum(map(words, texts)) == chunks[-1].usage.completion_tokens == 3 * 48
    finishes = [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert finishes == ["stop"] * 3
    plain = ask(client, messages, n=3)
    assert [choice.message.content for choice in plain.choices] == texts
    assert plain.usage == chunks[-1].usage


def test_a_stream_reports_usage_only_when_asked(client: OpenAI) -> None:
    """A gateway that forgets to ask upstream for usage would pass its tests."""
    assert all(chunk.usage is None and chunk.choices for chunk in ask(client, stream=True))


@pytest.mark.parametrize(("tokens", "chunks"), [(48, 1), (48, 5), (48, 48), (3, 12), (200, 150)])
def test_a_stream_is_cut_in_as_many_pieces_as_told(client: OpenAI, tokens: int, chunks: int) -> None:
    """Benchmarks of streams would measure another number of events than they name."""
    events = list(ask(client, stream=True, mock={"tokens": tokens, "chunks": chunks}))
    pieces = [event.choices[0].delta.content for event in events if event.choices[0].delta.content]
    assert len(pieces) == chunks
    assert words("".join(pieces)) == tokens


def test_reasoning_is_part_of_completion(client: OpenAI) -> None:
    """Adapters that add reasoning to the output again, or bill past the limit, would not be caught."""
    reply = ask(client, model="mock-reasoner", n=2)
    thought = reply.usage.completion_tokens_details.reasoning_tokens
    visible = sum(words(choice.message.content) for choice in reply.choices)
    assert thought > 0 and reply.usage.completion_tokens == visible + thought
    short = ask(client, model="mock-reasoner", max_completion_tokens=20)
    assert short.usage.completion_tokens == 20 and short.choices[0].finish_reason == "length"
    assert short.choices[0].message.content == ""


def test_controls_fix_the_details_of_usage_and_text(client: OpenAI) -> None:
    """Tests of cached and reasoning prices, and of restored placeholders, would have nothing to call."""
    reply = ask(client, mock={"cached_tokens": 7, "reasoning_tokens": 11, "reply": "Mail [EMAIL_1] now."})
    assert reply.choices[0].message.content == "Mail [EMAIL_1] now."
    assert reply.usage.prompt_tokens_details.cached_tokens == 7
    assert reply.usage.completion_tokens_details.reasoning_tokens == 11
    assert reply.usage.completion_tokens == 11 + 3
    many = ask(client, mock={"cached_tokens": 9999})
    assert many.usage.prompt_tokens_details.cached_tokens == many.usage.prompt_tokens


def test_stop_ends_a_reply(client: OpenAI) -> None:
    """Text after a stop word would be billed."""
    reply = ask(client, stop=["three", "two"], mock={"reply": "one two three four"})
    assert reply.choices[0].message.content == "one " and reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens == 1
    streamed = list(ask(client, stop="three", stream=True, mock={"reply": "one two three four"}))
    assert stream_text(streamed) == "one two "


def test_logprobs_cover_the_text(client: OpenAI) -> None:
    """A gateway that loses logprobs would pass its tests."""
    reply = ask(client, logprobs=True, top_logprobs=3)
    content = reply.choices[0].logprobs.content
    assert "".join(one.token for one in content) == reply.choices[0].message.content
    assert all(len(one.top_logprobs) == 3 and one.logprob <= 0 for one in content)
    assert bytes(content[0].bytes).decode() == content[0].token
    chunks = list(ask(client, logprobs=True, stream=True))
    parts = [c.logprobs.content for chunk in chunks for c in chunk.choices if c.logprobs]
    assert "".join(one.token for part in parts for one in part) == stream_text(chunks)
    assert ask(client).choices[0].logprobs is None


def test_images_are_accepted_and_counted(client: OpenAI) -> None:
    """Requests with images couldn't be metered in tests."""
    parts = [
        {"type": "text", "text": "What is this? In 20 words."},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    reply = ask(client, [{"role": "user", "content": parts}])
    assert reply.usage.prompt_tokens == IMAGE_TOKENS + 3 + 1 + 6 + 3
    assert reply.usage.completion_tokens == 20


class Tone(StrEnum):
    WARM = "warm"
    PLAIN = "plain"


class Line(BaseModel):
    sku: Annotated[str, Field(pattern=r"^[A-Z]{3}-\d{4}$")]
    amount: Annotated[int, Field(ge=2, le=9, multiple_of=3)]


class Reply(BaseModel):
    reply: str
    tone: Tone
    lines: Annotated[list[Line], Field(min_length=2)]
    score: Annotated[float, Field(gt=0, lt=1)]
    mail: str | None
    nested: Reply | None = None


def test_a_json_schema_is_satisfied(client: OpenAI) -> None:
    """Structured features couldn't be run against the mock."""
    reply = client.chat.completions.parse(model="mock-small", messages=CHINESE, response_format=Reply)
    parsed = reply.choices[0].message.parsed
    assert parsed is not None and len(parsed.lines) == 2 and "您" in parsed.reply
    assert words(reply.choices[0].message.content) == reply.usage.completion_tokens
    free = ask(client, response_format={"type": "json_object"})
    assert set(json.loads(free.choices[0].message.content)) == {"reply"}
    text = "".join(stream_text(ask(client, response_format={"type": "json_object"}, stream=True)))
    assert text == free.choices[0].message.content


class Lookup(BaseModel):
    city: str
    days: Annotated[int, Field(ge=3)]
    when: Annotated[str, Field(json_schema_extra={"format": "date"})]


TOOLS = [
    openai.pydantic_function_tool(Lookup, name="look_up"),
    {"type": "function", "function": {"name": "give_up"}},
]


def test_a_tool_is_called_with_valid_arguments(client: OpenAI) -> None:
    """Agents couldn't be tested, nor that a gateway leaves tool calls as they are."""
    reply = ask(client, tools=TOOLS)
    [choice] = reply.choices
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    [call] = choice.message.tool_calls
    assert call.function.name == "look_up" and call.id.startswith("call_mock_")
    assert Lookup.model_validate_json(call.function.arguments).days >= 3
    assert reply.usage.completion_tokens == 1 + words(call.function.arguments)
    answer = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    after = ask(client, [*ENGLISH, choice.message.model_dump(exclude_none=True), answer], tools=TOOLS)
    assert after.choices[0].finish_reason == "stop" and words(after.choices[0].message.content) == 48


def test_tool_calls_are_streamed_in_fragments(client: OpenAI) -> None:
    """A relay that joins or drops fragments of arguments would pass its tests."""
    plain = ask(client, tools=TOOLS).choices[0].message.tool_calls[0]
    chunks = list(ask(client, tools=TOOLS, stream=True, stream_options={"include_usage": True}))
    calls = [c.delta.tool_calls[0] for chunk in chunks for c in chunk.choices if c.delta.tool_calls]
    assert calls[0].id == plain.id and calls[0].function.name == "look_up"
    assert len(calls) >= 3 and all(call.index == 0 for call in calls)
    assert "".join(call.function.arguments for call in calls) == plain.function.arguments
    assert chunks[-2].choices[0].finish_reason == "tool_calls"
    assert chunks[-1].usage.completion_tokens == 1 + words(plain.function.arguments)


def test_tool_choice_is_obeyed(client: OpenAI) -> None:
    """A gateway that drops tool_choice would pass its tests."""
    forced = {"type": "function", "function": {"name": "give_up"}}
    called = ask(client, tools=TOOLS, tool_choice=forced).choices[0].message.tool_calls[0].function
    assert (called.name, called.arguments) == ("give_up", "{}")
    assert ask(client, tools=TOOLS, tool_choice="none").choices[0].message.tool_calls is None
    assert ask(client, tools=TOOLS, tool_choice="required").choices[0].message.tool_calls
    short = ask(client, tools=TOOLS, max_tokens=1)
    assert short.usage.completion_tokens == 1 and short.choices[0].finish_reason == "length"
    with pytest.raises(openai.BadRequestError):
        ask(client, tool_choice="required")
    with pytest.raises(openai.BadRequestError):
        ask(client, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "unknown"}})


def test_models_health_and_unknown_addresses(client: OpenAI, url: str) -> None:
    """Start-up checks and model lists couldn't be tried against the mock."""
    names = {model.id for model in client.models.list()}
    assert {"mock-small", "mock-large", "mock-reasoner", "fail-500", "crlf-sse", "429"} <= names
    assert client.models.retrieve("mock-large").owned_by == "modelfaucet-mock"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-unknown")
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, model="gpt-unknown")
    assert caught.value.code == "model_not_found"
    assert get(url, "/health") == {"ok": True, "service": "mock-provider"}
    with pytest.raises(urllib.error.HTTPError) as wrong:
        urllib.request.urlopen(url + "/v1/chat/completions", timeout=10)
    assert wrong.value.code == 405 and wrong.value.headers["allow"] == "POST"
    assert json.load(wrong.value)["error"]["type"] == "invalid_request_error"
    wrong.value.close()


def test_calls_are_counted_and_the_last_are_shown_without_keys(client: OpenAI, url: str) -> None:
    """Tests couldn't see how often and with what a gateway called, or would find keys in a log."""
    before = get(url, "/requests/count")
    for number in range(105):
        ask(client, mock={"tokens": 1}, user=f"user-{number}")
    after = get(url, "/requests/count")
    assert after["chat"] - before["chat"] == 105 and after["bytes_sent"] > before["bytes_sent"]
    assert get(url, "/requests/count") == after
    items = get(url, "/requests/last")["items"]
    assert [item["body"]["user"] for item in items] == [f"user-{number}" for number in range(5, 105)]
    shown = items[-1]["headers"]["authorization"]
    assert shown == "sha256:" + sha256(KEY.encode()).hexdigest()[:12]
    assert KEY not in json.dumps(items)


GOOD = {"model": "mock-small", "messages": ENGLISH}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": "9"}, "max_completion_tokens"),
        ({"n": 200}, "n"),
        ({"n": 100, "mock": {"tokens": 100_000}}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "two words"}}]}, "tools[0].function.name"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"mock": {"token": 5}}, "mock.token"),
        ({"mock": {"tokens": -1}}, "mock.tokens"),
    ],
)
def test_a_malformed_request_is_refused_by_its_parameter(url: str, change: Any, param: str) -> None:
    """A gateway that sends rubbish upstream would pass its tests."""
    status, body = post(url, json.dumps({**GOOD, **change}).encode())
    assert status == 400
    assert body["error"]["type"] == "invalid_request_error" and body["error"]["param"] == param
    assert body["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"model":"mock-small"}', b"[" * 100_000])
def test_an_unreadable_body_is_refused(url: str, body: bytes) -> None:
    """A broken body would end the mock's connection instead of getting OpenAI's 400."""
    before = get(url, "/requests/count")["chat"]
    status, answer = post(url, body)
    assert status == 400 and answer["error"]["type"] == "invalid_request_error"
    assert get(url, "/requests/count")["chat"] == before


def post(url: str, body: bytes) -> tuple[int, Any]:
    request = urllib.request.Request(f"{url}/v1/chat/completions", body)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
