"""Extended thinking under Anthropic's API: its signed blocks reach the client and come back to Anthropic unchanged.

Anthropic's replies are recorded ones, played over HTTP; the client is the official one. Anybody else than who signed a
block never sees it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from anthropic import Anthropic
from fakes.recorded_provider import Case, Playing, RecordedProvider, cases
from gateway_world import EndUser, Gateway, Mock, World, ask, chat, posted, request

CASES = {case.model: case for case in cases()}
MODELS = {
    "anthropic": ("anthropic-thinking-tools", "anthropic-thinking-between", "anthropic-stream-sealed"),
    "litellm": ("openai-cached",),
}
TOOLS: Any = [{"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}]
QUESTION: Any = {"role": "user", "content": "How is the weather in Oslo?"}
THINKING: Any = {"type": "enabled", "budget_tokens": 2000}
SIGNED = {"type": "thinking", "thinking": "One city, one call.", "signature": "EqQBTools+/="}
SEALED = {"type": "redacted_thinking", "data": "AAECAw=="}


@pytest.fixture(scope="module")
def recorded() -> Iterator[RecordedProvider]:
    with RecordedProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def replayer(
    world: World, mock: Mock, recorded: RecordedProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway with recorded providers beside the mock."""
    for provider, models in MODELS.items():
        for model in models:
            world.books.rows(
                "insert into price (provider, model, tokenizer, context_window, max_output_tokens, input_e8_per_m,"
                " cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m, image_tokens_max, effective_from,"
                " source, status) values (%s, %s, 'words', 200000, 100000, 300000000, 30000000, 375000000, 1500000000,"
                " 1600, '2026-01-01', 'test', 'confirmed') on conflict do nothing returning id",
                provider,
                model,
            )
    settings = {"ANTHROPIC_API_KEY": "sk-ant-1", "ANTHROPIC_BASE_URL": recorded.base_url, "PROVIDER_MAX_RETRIES": 0}
    settings |= {"LITELLM_BASE_URL": recorded.base_url}
    running = Gateway(world.dsn, mock.url, tmp_path_factory.mktemp("thinking"), **settings)
    yield running
    running.stop()


@pytest.fixture
def client(replayer: Gateway, rich: EndUser) -> Iterator[Anthropic]:
    with Anthropic(base_url=replayer.base_url, api_key=rich.bearer, max_retries=0, timeout=20) as made:
        yield made


def blocks_of(case: Case) -> list[dict[str, Any]]:
    """What the recorded provider sent, block by block."""
    if not case.stream:
        blocks: list[dict[str, Any]] = json.loads(case.wire)["content"]
        return blocks
    told: list[dict[str, Any]] = []
    for line in case.wire.decode().splitlines():
        event = json.loads(line[6:]) if line.startswith("data: ") else {}
        delta = event.get("delta", {})
        match event.get("type"), delta.get("type"):
            case "content_block_start", _:
                told.append(event["content_block"])
            case "content_block_delta", "input_json_delta":
                told[-1]["input"] = json.loads(delta["partial_json"])
            case "content_block_delta", kind:
                name = str(kind).removesuffix("_delta")
                told[-1][name] += delta[name]
    return told


def shown(block: Any) -> dict[str, Any]:
    """A block as the client has it, without what the provider didn't say."""
    return {name: value for name, value in block.to_dict().items() if value is not None}


@pytest.mark.parametrize("model", MODELS["anthropic"])
def test_a_turn_of_thinking_and_tools_goes_on(client: Anthropic, recorded: RecordedProvider, model: str) -> None:
    """Lost: Anthropic refuses the next turn, for the thinking before a tool's call is missing or was changed."""
    case = CASES[model]
    recorded.play(Playing(case, piece=7))
    asked: Any = {"model": model, "max_tokens": 5000, "tools": TOOLS, "thinking": THINKING}
    if case.stream:
        with client.messages.stream(messages=[QUESTION], **asked) as stream:
            said = stream.get_final_message().content
    else:
        said = client.messages.create(messages=[QUESTION], **asked).content
    made = blocks_of(case)
    assert [shown(block) for block in said] == made
    assert {block["type"] for block in made} == {"thinking", "redacted_thinking", "text", "tool_use"}

    result = {"type": "tool_result", "tool_use_id": made[-1]["id"], "content": "Rain."}
    talk: Any = [QUESTION, {"role": "assistant", "content": said}, {"role": "user", "content": [result]}]
    if case.stream:
        with client.messages.stream(messages=talk, **asked) as stream:
            stream.get_final_message()
    else:
        client.messages.create(messages=talk, **asked)
    sent = recorded.seen[-1].body
    assert sent["messages"][1] == {"role": "assistant", "content": made}
    assert sent["messages"][2]["content"][0]["tool_use_id"] == made[-1]["id"]
    assert sent["thinking"] == {"type": "adaptive"} and sent["output_config"] == {"effort": "low"}


@pytest.mark.parametrize("stream", [False, True])
def test_others_never_see_what_was_signed(client: Anthropic, mock: Mock, stream: bool) -> None:
    """Lost: a provider refuses a field that it doesn't know, and the conversation can't change its model."""
    said: Any = [SIGNED, SEALED, {"type": "text", "text": "It rains."}]
    talk: Any = [QUESTION, {"role": "assistant", "content": said}, {"role": "user", "content": "And tomorrow?"}]
    asked: Any = {"model": "mock-small", "max_tokens": 50, "messages": talk, "thinking": {"type": "adaptive"}}
    if stream:
        with client.messages.stream(**asked) as streamed:
            kinds = [block.type for block in streamed.get_final_message().content]
    else:
        kinds = [block.type for block in client.messages.create(**asked).content]
    assert kinds == ["text"]
    assert mock.last()["body"]["messages"][1] == {"role": "assistant", "content": "It rains."}
    assert not [name for name in mock.last()["body"] if "thinking" in name]


def test_thinking_that_nobody_signed_is_no_anthropics(client: Anthropic, recorded: RecordedProvider) -> None:
    """Lost: thinking of another provider is passed off as Anthropic's, which refuses it."""
    model = MODELS["anthropic"][0]
    recorded.play(Playing(CASES[model]))
    said: Any = [{"type": "thinking", "thinking": "Hm.", "signature": ""}, {"type": "text", "text": "It rains."}]
    talk: Any = [QUESTION, {"role": "assistant", "content": said}, {"role": "user", "content": "Sure?"}]
    client.messages.create(model=model, max_tokens=5000, messages=talk)
    assert recorded.seen[-1].body["messages"][1]["content"] == said[1:]


def test_a_proxy_that_knows_the_blocks_gets_them(client: Anthropic, recorded: RecordedProvider) -> None:
    """Lost: Claude behind a LiteLLM proxy can't go on after a tool's call."""
    (model,) = MODELS["litellm"]
    recorded.play(Playing(CASES[model]))
    said: Any = [SIGNED, SEALED, {"type": "text", "text": "It rains."}]
    talk: Any = [QUESTION, {"role": "assistant", "content": said}, {"role": "user", "content": "And tomorrow?"}]
    client.messages.create(model=model, max_tokens=50, messages=talk)
    assert recorded.seen[-1].body["messages"][1] == {
        "role": "assistant",
        "content": "It rains.",
        "thinking_blocks": [SIGNED, SEALED],
    }


def test_a_chat_has_each_block_once(replayer: Gateway, rich: EndUser, recorded: RecordedProvider) -> None:
    """Lost: what only the other API needs is in a chat's answer, under a name that nobody knows."""
    model = "anthropic-thinking-between"
    recorded.play(Playing(CASES[model]))
    (choice,) = ask(replayer, rich.bearer, chat(model=model, max_tokens=5000)).json["choices"]
    kinds = ("thinking", "redacted_thinking")
    made = [block for block in blocks_of(CASES[model]) if block["type"] in kinds]
    assert choice["message"]["thinking_blocks"] == made
    assert not [name for name in choice["message"] if name.startswith("modelfaucet")]


def test_thinking_that_goes_back_is_held_for(replayer: Gateway, world: World, recorded: RecordedProvider) -> None:
    """Lost: a wallet that is nearly empty pays for a few words, and the platform for all that was thought before."""
    long = {"type": "thinking", "thinking": "so " * 2000, "signature": "EqQB"}
    said = {"role": "assistant", "content": [long, {"type": "text", "text": "Rain."}]}
    body: Any = {"max_tokens": 50, "messages": [QUESTION, said, {"role": "user", "content": "Sure?"}]}
    poor = world.end_user(500_000)  # enough for 50 words of an answer, not for 2000 more of a question
    model = MODELS["anthropic"][0]
    recorded.play(Playing(CASES[model]))
    replies = [
        request(replayer, "POST", "/v1/messages", *posted(poor.bearer, body | {"model": name}))
        for name in (model, "mock-small")
    ]
    assert [reply.status for reply in replies] == [402, 200], "the mock doesn't get it, and has nothing held for it"
    # Other tests of this database may have sold the second model at the recorded provider, too.
    assert [seen for seen in recorded.seen if seen.body["model"] == model] == []


def test_a_chats_own_words_pass(replayer: Gateway, rich: EndUser, mock: Mock) -> None:
    """Lost: fields of a chat request that we don't know are dropped on the way."""
    body = chat("Hello", model="mock-small")
    body["messages"].insert(0, {"role": "assistant", "content": "Hm.", "thinking_blocks": [SIGNED]})
    assert ask(replayer, rich.bearer, body).status == 200
    assert mock.last()["body"]["messages"][0]["thinking_blocks"] == [SIGNED]
