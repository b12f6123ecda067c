"""What callers ask in OpenAI's words, in the words of each provider."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faucet.kit.errors import Refusal
from faucet.providers.base import Adapter, Call
from faucet.providers.catalog import CATALOG, provider_for

PIXEL = "iVBORw0KGgo="
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "high"}}
PDF = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": SCHEMA}}
FORM = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}


def call(call_id: str, city: str, **more: Any) -> dict[str, Any]:
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": "weather", "arguments": f'{{"city":"{city}"}}'},
    } | more


def text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE]},
    {"role": "assistant", "content": "A tower.", "tool_calls": [call("c1", "Oslo"), call("c2", "Bergen")]},
    {"role": "tool", "tool_call_id": "c1", "content": '{"rain": true}'},
    {"role": "tool", "tool_call_id": "c2", "content": "sun"},
    {"role": "user", "content": "And now?"},
    {"role": "developer", "content": "In English."},
]


def adapter_of(provider: str) -> Adapter:
    adapter = provider_for(CATALOG[provider], None).adapter
    assert adapter is not None
    return adapter


def asked(provider: str, model: str = "m", limit: int = 9000, stream: bool = False, **fields: Any) -> tuple[str, Any]:
    """Path and body of what a provider is sent."""
    fields.setdefault("messages", [{"role": "user", "content": "Hi"}])
    raw = msgspec.json.decode(msgspec.json.encode(fields), type=dict[str, msgspec.Raw])
    made = adapter_of(provider).chat(raw, model, limit, stream=stream)
    return made.path.decode(), json.loads(made.body)


def refused(provider: str, **fields: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        asked(provider, **fields)
    assert caught.value.status == 400
    return caught.value


def test_a_conversation_in_anthropics_words() -> None:
    """Lost: parallel calls, their results, images or the system prompt arrive wrong or not at all."""
    path, body = asked("anthropic", messages=TALK, tools=[TOOL], stop=["###"], user="u-1")
    assert path == "/messages"
    assert body == {
        "model": "m",
        "max_tokens": 9000,
        "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "In English."}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "A tower."},
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Oslo"}},
                    {"type": "tool_use", "id": "c2", "name": "weather", "input": {"city": "Bergen"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "c1",
                        "content": [{"type": "text", "text": '{"rain": true}'}],
                    },
                    {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "text", "text": "sun"}]},
                    {"type": "text", "text": "And now?"},
                ],
            },
        ],
        "tools": [{"name": "weather", "description": "Tells it.", "input_schema": SCHEMA}],
        "stop_sequences": ["###"],
        "metadata": {"user_id": "u-1"},
    }


def test_a_conversation_in_geminis_words() -> None:
    """Lost: a result is given to the wrong call, or a signature that the model needs back is dropped."""
    signed = call("c1", "Oslo", extra_content={"google": {"thought_signature": "c2ln"}})
    talk = [*TALK[:2], TALK[2] | {"tool_calls": [signed, call("c2", "Bergen")]}, *TALK[3:]]
    path, body = asked("gemini", messages=talk, tools=[TOOL], stop="###", temperature=1.5, seed=7, stream=True)
    assert path == "/models/m:streamGenerateContent?alt=sse"
    assert body == {
        "systemInstruction": {"parts": [{"text": "Be brief."}, {"text": "In English."}]},
        "contents": [
            {
                "role": "user",
                "parts": [{"text": "What is this?"}, {"inlineData": {"mimeType": "image/png", "data": PIXEL}}],
            },
            {
                "role": "model",
                "parts": [
                    {"text": "A tower."},
                    {"functionCall": {"name": "weather", "args": {"city": "Oslo"}}, "thoughtSignature": "c2ln"},
                    {"functionCall": {"name": "weather", "args": {"city": "Bergen"}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"name": "weather", "response": {"rain": True}}},
                    {"functionResponse": {"name": "weather", "response": {"result": "sun"}}},
                    {"text": "And now?"},
                ],
            },
        ],
        "tools": [
            {"functionDeclarations": [{"name": "weather", "description": "Tells it.", "parametersJsonSchema": SCHEMA}]}
        ],
        "generationConfig": {"maxOutputTokens": 9000, "temperature": 1.5, "seed": 7, "stopSequences": ["###"]},
    }


def test_a_conversation_in_bedrocks_words() -> None:
    """Lost: a model on Bedrock gets another conversation than the same model elsewhere."""
    path, body = asked("bedrock", "anthropic.claude-v1:0", messages=TALK, tools=[TOOL], top_p=0.5, stream=True)
    assert path == "/model/anthropic.claude-v1%3A0/converse-stream"
    assert body == {
        "system": [{"text": "Be brief."}, {"text": "In English."}],
        "messages": [
            {
                "role": "user",
                "content": [{"text": "What is this?"}, {"image": {"format": "png", "source": {"bytes": PIXEL}}}],
            },
            {
                "role": "assistant",
                "content": [
                    {"text": "A tower."},
                    {"toolUse": {"toolUseId": "c1", "name": "weather", "input": {"city": "Oslo"}}},
                    {"toolUse": {"toolUseId": "c2", "name": "weather", "input": {"city": "Bergen"}}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"toolResult": {"toolUseId": "c1", "content": [{"text": '{"rain": true}'}]}},
                    {"toolResult": {"toolUseId": "c2", "content": [{"text": "sun"}]}},
                    {"text": "And now?"},
                ],
            },
        ],
        "toolConfig": {
            "tools": [{"toolSpec": {"name": "weather", "description": "Tells it.", "inputSchema": {"json": SCHEMA}}}]
        },
        "inferenceConfig": {"maxTokens": 9000, "topP": 0.5},
    }


@pytest.mark.parametrize(
    ("choice", "anthropic", "gemini", "bedrock"),
    [
        ("auto", {"type": "auto"}, {"mode": "AUTO"}, None),
        ("none", {"type": "none"}, {"mode": "NONE"}, None),
        ("required", {"type": "any"}, {"mode": "ANY"}, {"any": {}}),
        (
            {"type": "function", "function": {"name": "weather"}},
            {"type": "tool", "name": "weather"},
            {"mode": "ANY", "allowedFunctionNames": ["weather"]},
            {"tool": {"name": "weather"}},
        ),
    ],
)
def test_which_tool_is_called(choice: Any, anthropic: Any, gemini: Any, bedrock: Any) -> None:
    """Lost: a model that must call a tool doesn't, or the other way round."""
    given = {"tools": [TOOL], "tool_choice": choice}
    assert asked("anthropic", **given)[1]["tool_choice"] == anthropic
    assert asked("gemini", **given)[1]["toolConfig"] == {"functionCallingConfig": gemini}
    config = asked("bedrock", **given)[1].get("toolConfig", {})
    assert config.get("toolChoice") == bedrock and bool(config) is (choice != "none")
    alone = asked("anthropic", **given, parallel_tool_calls=False)[1]["tool_choice"]
    assert alone == (anthropic if choice == "none" else anthropic | {"disable_parallel_tool_use": True})


def test_structured_answers() -> None:
    """Lost: an answer that should follow a schema is free text."""
    assert asked("anthropic", response_format=FORM)[1]["output_config"] == {
        "format": {"type": "json_schema", "schema": SCHEMA}
    }
    config = asked("gemini", response_format=FORM)[1]["generationConfig"]
    assert (config["responseMimeType"], config["responseJsonSchema"]) == ("application/json", SCHEMA)
    config = asked("gemini", response_format={"type": "json_object"})[1]["generationConfig"]
    assert config["responseMimeType"] == "application/json" and "responseJsonSchema" not in config
    form = asked("bedrock", response_format=FORM)[1]["outputConfig"]["textFormat"]
    assert form["type"] == "json_schema" and json.loads(form["structure"]["jsonSchema"]["schema"]) == SCHEMA


@pytest.mark.parametrize(
    ("model", "limit", "effort", "thinking", "given_effort"),
    [
        ("claude-sonnet-4-6", 9000, "high", {"type": "adaptive"}, "high"),
        ("claude-opus-5-20270101", 500, "low", {"type": "adaptive"}, "low"),
        ("claude-sonnet-4-5-20250929", 9000, "low", {"type": "enabled", "budget_tokens": 1024}, None),
        ("claude-opus-4-20250514", 9000, "high", {"type": "enabled", "budget_tokens": 4500}, None),
        ("claude-3-7-sonnet-20250219", 90_000, "high", {"type": "enabled", "budget_tokens": 16_384}, None),
        ("claude-3-5-haiku-20241022", 9000, "high", None, None),
        ("claude-sonnet-4-5", 1500, "high", None, None),
        ("claude-sonnet-4-6", 9000, "none", None, None),
    ],
)
def test_thinking_of_claude(model: str, limit: int, effort: str, thinking: Any, given_effort: Any) -> None:
    """Lost: a model refuses a request because of the way in which it is asked to think."""
    body = asked("anthropic", model, limit, reasoning_effort=effort, temperature=0.2, top_k=5)[1]
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == given_effort
    assert ("temperature" in body, "top_k" in body) == ((thinking is None,) * 2)
    more = asked("bedrock", f"us.anthropic.{model}-v1:0", limit, reasoning_effort=effort)[1]
    assert more.get("additionalModelRequestFields", {}).get("thinking") == thinking


@pytest.mark.parametrize(
    ("model", "limit", "given", "effort", "thinking"),
    [
        ("claude-sonnet-4-5", 9000, {"type": "enabled", "budget_tokens": 5000}, "medium", 5000),
        ("claude-sonnet-4-5", 4000, {"type": "enabled", "budget_tokens": 5000}, "medium", 3999),
        ("claude-sonnet-4-5", 900, {"type": "enabled", "budget_tokens": 5000}, "medium", None),
        ("claude-sonnet-4-5", 9000, {"type": "adaptive"}, None, None),
        ("claude-opus-4-7", 9000, {"type": "adaptive", "display": "summarized"}, None, {"display": "summarized"}),
        ("claude-opus-4-7", 9000, {"type": "adaptive", "display": "summarized"}, "low", {"display": "summarized"}),
        ("claude-opus-4-7", 9000, {"type": "enabled", "budget_tokens": 5000}, "medium", {}),
    ],
)
def test_thinking_as_it_was_asked_for_under_anthropics_api(
    model: str, limit: int, given: Any, effort: str | None, thinking: Any
) -> None:
    """Lost: a client's own word about thinking, or the request, for the model's generation knows no such word."""
    fields: dict[str, Any] = {"modelfaucet_thinking": given} | ({} if effort is None else {"reasoning_effort": effort})
    if isinstance(thinking, int):
        expected: Any = {"type": "enabled", "budget_tokens": thinking}
    else:
        expected = None if thinking is None else {"type": "adaptive", **thinking}
    body = asked("anthropic", model, limit, **fields)[1]
    assert body.get("thinking") == expected
    assert body.get("output_config", {}).get("effort") == (effort if "4-7" in model else None)
    more = asked("bedrock", f"us.anthropic.{model}-v1:0", limit, **fields)[1]
    assert more.get("additionalModelRequestFields", {}).get("thinking") == expected


def test_thinking_comes_back_with_its_signature() -> None:
    """Lost: a turn with tools is refused because its thinking was not sent back as it was."""
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"}
    turn = {"role": "assistant", "content": None, "thinking_blocks": [thought], "tool_calls": [call("c1", "Oslo")]}
    talk = [{"role": "user", "content": "Hi"}, turn, {"role": "tool", "tool_call_id": "c1", "content": "sun"}]
    body = asked("anthropic", "claude-sonnet-4-6", messages=talk, tools=[TOOL], reasoning_effort="low")[1]
    assert body["messages"][1]["content"][0] == thought and body["thinking"] == {"type": "adaptive"}
    blocks = asked("bedrock", messages=talk, tools=[TOOL])[1]["messages"][1]["content"]
    assert blocks[0] == {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "EqQB"}}}
    del turn["thinking_blocks"]
    assert "thinking" not in asked("anthropic", "claude-sonnet-4-6", messages=talk, reasoning_effort="low")[1]


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        ("gemini-2.5-flash", "none", {"includeThoughts": False, "thinkingBudget": 0}),
        ("gemini-2.5-pro", "high", {"includeThoughts": True, "thinkingBudget": 24_576}),
        ("gemini-3-pro-preview", "low", {"includeThoughts": True, "thinkingLevel": "low"}),
    ],
)
def test_thinking_of_gemini(model: str, effort: str, config: Any) -> None:
    """Lost: a generation of models refuses the words of another."""
    assert asked("gemini", model, reasoning_effort=effort)[1]["generationConfig"]["thinkingConfig"] == config


def test_marks_for_the_cache_pass() -> None:
    """Lost: a long prompt is paid for in full every time."""
    mark = {"type": "ephemeral"}
    part = {"type": "text", "text": "Long.", "cache_control": mark}
    talk = [{"role": "system", "content": [part]}, {"role": "user", "content": [part]}]
    body = asked("anthropic", messages=talk, tools=[TOOL | {"cache_control": mark}])[1]
    assert body["system"] == body["messages"][0]["content"] == [part]
    assert body["tools"][0]["cache_control"] == mark
    point = {"cachePoint": {"type": "default"}}
    body = asked("bedrock", messages=talk, tools=[TOOL | {"cache_control": mark}])[1]
    assert body["system"] == body["messages"][0]["content"] == [{"text": "Long."}, point]
    assert body["toolConfig"]["tools"][1] == point


def test_documents_and_addresses_of_images() -> None:
    """Lost: what one wire has and another hasn't is sent all the same."""
    shown = {"type": "image_url", "image_url": {"url": "https://a.example/cat.png"}}
    talk = [{"role": "user", "content": [PDF, shown]}]
    blocks = asked("anthropic", messages=talk)[1]["messages"][0]["content"]
    assert [block["type"] for block in blocks] == ["document", "image"]
    assert blocks[1]["source"] == {"type": "url", "url": "https://a.example/cat.png"}
    for provider in ("gemini", "bedrock"):
        assert refused(provider, messages=talk).param == "messages"
        assert asked(provider, messages=[{"role": "user", "content": [PDF]}])


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}],
        [{"type": "image_url", "image_url": {"url": "http://a.example/cat.png"}}],
        [{"type": "image_url", "image_url": {"url": "data:image/png,plain"}}],
        [{"type": "file", "file": {"file_id": "file-1"}}],
        ["text"],
        5,
    ],
)
@pytest.mark.parametrize("provider", ["anthropic", "gemini", "bedrock"])
def test_parts_that_cannot_be_sent_are_named(provider: str, content: Any) -> None:
    """Lost: a part is dropped, and the model answers about something else."""
    refusal = refused(provider, messages=[{"role": "user", "content": content}])
    assert refusal.param == "messages" and "messages.0.content" in refusal.public


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "type text image_url url file file_data role content tool_calls id function name arguments parameters"
                " cache_control ttl json_schema schema thinking_blocks extra_content google tool_call_id".split()
            )
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
messages = st.lists(
    st.builds(
        lambda role, rest: rest | {"role": role},
        st.sampled_from("system user assistant tool developer other".split()),
        st.dictionaries(
            st.sampled_from("content tool_calls tool_call_id thinking_blocks name cache_control".split()), json_values
        ),
    ),
    min_size=1,
    max_size=4,
)
FIELDS = (
    "tools tool_choice response_format stop temperature top_p top_k n logprobs user reasoning_effort thinking"
    " parallel_tool_calls seed functions".split()
)


@settings(deadline=None)
@given(
    st.sampled_from(["anthropic", "gemini", "bedrock"]), messages, st.dictionaries(st.sampled_from(FIELDS), json_values)
)
def test_anything_is_translated_or_refused(provider: str, talk: list[Any], fields: dict[str, Any]) -> None:
    """Lost: a slip of a caller is answered with a fault of ours."""
    body = msgspec.json.encode(fields | {"messages": talk})
    raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    try:
        made = adapter_of(provider).chat(raw, "claude-3-7", 9000, stream=False)
    except Refusal as refusal:
        assert refusal.status == 400 and refusal.param in {*FIELDS, "messages"}
    else:
        assert isinstance(made, Call) and json.loads(made.body)
