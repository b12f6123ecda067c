"""The mock provider's other faces, asked by official clients and by a gateway that speaks their wires."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from gateway_world import EndUser, Gateway, Mock, World, ask, chat, hold_of

MODEL = "mock-small"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ROLES = [{"role": "user", "content": "Where is my order?"}]


@pytest.fixture(scope="module")
def client(mock: Mock) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=mock.url.removesuffix("/v1"), api_key="any", max_retries=0) as made:
        yield made


def test_anthropics_client_reads_a_message(client: anthropic.Anthropic) -> None:
    """Lost: a shape that Anthropic's own client can't read, so that trying against it proves nothing."""
    mock = {"reply": "It left on Monday.", "cached_tokens": 3, "cache_write_tokens": 2, "reasoning_tokens": 5}
    message = client.messages.create(model=MODEL, max_tokens=50, messages=ROLES, extra_body={"mock": mock})  # type: ignore[arg-type]
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[1].text == "It left on Monday." and message.stop_reason == "end_turn"  # type: ignore[union-attr]
    usage = message.usage
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens, usage.output_tokens) == (3, 2, 9)


def test_anthropics_client_reads_a_stream(client: anthropic.Anthropic) -> None:
    """Lost: as above, for streams, tool calls and their ends."""
    with client.messages.stream(model=MODEL, max_tokens=50, messages=ROLES) as stream:  # type: ignore[arg-type]
        text = "".join(stream.text_stream)
        whole = stream.get_final_message()
    again = client.messages.create(model=MODEL, max_tokens=50, messages=ROLES)  # type: ignore[arg-type]
    assert text == again.content[0].text and whole.usage.output_tokens == again.usage.output_tokens  # type: ignore[union-attr]
    tool: Any = {"name": "weather", "input_schema": SCHEMA}
    with client.messages.stream(model=MODEL, max_tokens=50, messages=ROLES, tools=[tool]) as stream:  # type: ignore[arg-type]
        called = stream.get_final_message()
    assert called.stop_reason == "tool_use" and set(called.content[0].input) == {"city"}  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("429", anthropic.RateLimitError),
        ("fail-500", anthropic.InternalServerError),
        ("nobody", anthropic.NotFoundError),
        ("refuse-400", anthropic.BadRequestError),
    ],
)
def test_anthropics_client_reads_errors(client: anthropic.Anthropic, model: str, error: type[Exception]) -> None:
    """Lost: failures look different from the real ones."""
    with pytest.raises(error):
        client.messages.create(model=model, max_tokens=50, messages=ROLES)  # type: ignore[arg-type]


def gemini(provider: Mock, method: str, **fields: Any) -> Any:
    body = {"contents": [{"role": "user", "parts": [{"text": "Where is my order?"}]}], **fields}
    url = f"{provider.url.removesuffix('/v1')}/v1beta/models/{MODEL}:{method}"
    asked = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=10) as reply:
        return reply.read()


def test_geminis_shapes(mock: Mock) -> None:
    """Lost: cached tokens, thoughts and repeated usage can't be tried without the real thing."""
    controls = {"cached_tokens": 2, "reasoning_tokens": 5, "tokens": 6}
    whole = json.loads(gemini(mock, "generateContent", mock=controls))
    usage = whole["usageMetadata"]
    assert (usage["cachedContentTokenCount"], usage["candidatesTokenCount"], usage["thoughtsTokenCount"]) == (2, 6, 5)
    events = gemini(mock, "streamGenerateContent?alt=sse", mock=controls).split(b"\r\n\r\n")[:-1]
    told = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert told[-1]["usageMetadata"] == usage != told[0]["usageMetadata"]
    parts = [part for event in told for part in event["candidates"][0]["content"]["parts"] if not part.get("thought")]
    assert "".join(part["text"] for part in parts) == whole["candidates"][0]["content"]["parts"][1]["text"]


@pytest.fixture(scope="module", params=["anthropic", "gemini"])
def speaker(
    request: pytest.FixtureRequest, world: World, mock: Mock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Gateway]]:
    """A gateway that reaches the mock provider by one of its other faces only."""
    provider: str = request.param
    for model in (MODEL, "mock-reasoner", "no-usage", "cut-mid-stream", "stall"):
        world.books.rows(
            "insert into price (provider, model, tokenizer, context_window, max_output_tokens, input_e8_per_m,"
            " cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m, image_tokens_max, effective_from,"
            " source, status) values (%s, %s, 'words', 128000, 16384, 15000000, 1500000, 20000000, 60000000, 1000,"
            " '2026-01-01', 'test', 'confirmed') returning id",
            provider,
            model,
        )
    url = {"anthropic": mock.url, "gemini": mock.url.removesuffix("/v1") + "/v1beta"}[provider]
    settings = {f"{provider.upper()}_API_KEY": "key-0123456789", f"{provider.upper()}_BASE_URL": url}
    patience = {"PROVIDER_MAX_RETRIES": 0, "PROVIDER_IDLE_TIMEOUT_MS": 500, "PROVIDER_TIMEOUT_MS": 500}
    running = Gateway(world.dsn, mock.url, tmp_path_factory.mktemp("speaker"), **settings, **patience)
    yield provider, running
    running.stop()


@pytest.mark.parametrize("stream", [False, True])
def test_a_gateway_books_what_each_face_reports(
    stream: bool, world: World, speaker: tuple[str, Gateway], mock: Mock, rich: EndUser
) -> None:
    """Lost: the adapters agree with their recordings, and with nothing that answers."""
    provider, gateway = speaker
    effort = {
        "reasoning_effort": "low",
        "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
    }
    for model, more in ((MODEL, {}), ("mock-reasoner", {}), (MODEL, effort)):
        body = chat("Where is my order?", model=model, stream=stream, max_completion_tokens=2100, **more)
        reply = ask(gateway, rich.bearer, body)
        assert reply.status == 200, reply.body
        event = world.event(hold_of(reply))
        assert event is not None and (event["provider"], event["usage_source"], event["outcome"]) == (provider, 0, 0)
        assert (event["reasoning_tokens"] > 0) is (model == "mock-reasoner" or bool(more))
        words = len(reply.text.split()) if not more else 0
        assert event["output_tokens"] >= event["reasoning_tokens"] + words and event["input_tokens"] > 3


def test_failures_of_a_face_are_booked_as_any(world: World, speaker: tuple[str, Gateway], rich: EndUser) -> None:
    """Lost: another wire's failures end otherwise than OpenAI's."""
    _, gateway = speaker
    counted = ask(gateway, rich.bearer, chat(model="no-usage", stream=True))
    event = world.event(hold_of(counted))
    assert event is not None and (event["usage_source"], event["output_tokens"]) == (1, len(counted.text.split()))
    broken = ask(gateway, rich.bearer, chat(model="cut-mid-stream", stream=True))
    assert broken.events[-1]["error"]["code"] == "provider_error"
    event = world.event(hold_of(broken))
    assert event is not None and event["outcome"] == 2
    silent = ask(gateway, rich.bearer, chat(model="stall", stream=True))
    assert silent.status == 504 and world.event(hold_of(silent)) is None
