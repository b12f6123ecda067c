"""What a chat request asks of the mock provider, and what it replies: texts and tool calls, not yet bytes.

Pure, no I/O. Tokens are those of `words` (`faucet.kit.tokens`). A reply has N visible tokens: N is
`mock.tokens`, else a number asked for in words ("in 200 words", "200字"), else 48, and never more than
max_tokens leaves beside the reasoning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from faucet.kit.tokens import count_chat_input
from faucet.providers import fake_text

MODELS = ("mock-small", "mock-large", "mock-reasoner")
FAILURES = {
    "fail-500": "answers 500",
    "429": "answers 429 with retry-after: 1",
    "refuse-400": "answers 400 about a parameter",
    "flaky": "answers 500 the first mock.fail_times (1) times that it sees a body, then works",
    "stall": "JSON: never answers; stream: headers, then nothing",
    "slow-first-byte": "waits 3 s, or mock.delay_ms, before the first byte",
    "cut-mid-stream": "closes the connection in the middle",
    "200-with-error-body": "status 200, but an error inside: the body, or an event in mid-stream",
    "no-usage": "never reports usage",
    "lies-about-usage": "reports ten times the prompt and completion tokens",
    "usage-twice": "streams a first, lower usage report with the finish chunk, then the right one",
    "crlf-sse": "streams CRLF line ends, comments and multi-line data, in tiny writes",
}
DEFAULT_TOKENS = 48
REASONING_TOKENS = 32
"""What mock-reasoner thinks when it isn't told how much."""
MAX_TOKENS = 200_000


class Problem(Exception):
    """A request that is answered by an OpenAI-shaped error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        self.headers = headers


_Count = Annotated[int, Meta(ge=1, le=1 << 53)]
_Tokens = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]
_Millis = Annotated[int, Meta(ge=0, le=3_600_000)]


class Controls(Struct, forbid_unknown_fields=True):
    """The field `mock` of a request: details of the answer that a test wants to fix."""

    tokens: _Tokens | None = None
    reply: str | None = None
    """Answer with exactly this text."""
    echo: bool = False
    """Answer with what was asked; a tool is called with it in its first free string."""
    delay_ms: _Millis | None = None
    chunk_delay_ms: _Millis | None = None
    chunks: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    cached_tokens: _Tokens | None = None
    cache_write_tokens: _Tokens | None = None
    reasoning_tokens: _Tokens | None = None
    fail_times: Annotated[int, Meta(ge=0, le=1_000_000)] = 1


class StreamOptions(Struct):
    include_usage: bool | None = None


class Ask(Struct):
    """What the mock reads of a chat request; it ignores all other fields."""

    model: str
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    stop: str | Annotated[list[str], Meta(max_length=4)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    mock: Controls | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the `n` replies: a text or a tool call."""

    text: str
    finish: Literal["stop", "length", "tool_calls"]
    call: Call | None = None

    @property
    def tokens(self) -> int:
        if self.call is None:
            return fake_text.count(self.text)
        return fake_text.count(self.call.name) + fake_text.count(self.call.arguments)


def parse(body: bytes) -> tuple[Ask, int]:
    """The request in a body, and its prompt tokens. Raises Problem (400, 404) in OpenAI's words."""
    try:
        raw = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"We could not parse the JSON body of your request: {error}") from None
    if not isinstance(raw, dict):
        raise Problem(400, "The JSON body of your request must be an object.")
    if raw.get("model") in (None, ""):
        raise Problem(400, "you must provide a model parameter", param="model")
    try:
        ask = msgspec.convert(raw, Ask)
    except msgspec.ValidationError as error:
        raise Problem(400, str(error), param=_param(str(error))) from None
    if ask.model not in MODELS and ask.model not in FAILURES:
        raise Problem(404, f"The model `{ask.model}` does not exist.", param="model", code="model_not_found")
    for index, message in enumerate(ask.messages):
        _check_message(message, f"messages[{index}]")
    if ask.top_logprobs is not None and not ask.logprobs:
        raise Problem(400, "top_logprobs needs logprobs to be true.", param="top_logprobs")
    return ask, count_chat_input(raw, "words")


def _param(text: str) -> str | None:
    """The field that msgspec's message speaks of, in OpenAI's dotted form."""
    place = re.search(r" - at `\$\.?(.*)`$", text)
    field = re.search(r"(?:field|unknown field) `(\w+)`", text)
    parts = [part for part in (place[1] if place else "", field[1] if field else "") if part]
    return ".".join(parts) or None


def _check_message(message: dict[str, Any], place: str) -> None:
    if message.get("role") not in ("system", "developer", "user", "assistant", "tool", "function"):
        raise Problem(400, f"Invalid value: '{place}.role' must be a known role.", param=f"{place}.role")
    content = message.get("content")
    if content is None and message["role"] == "assistant":
        return
    parts = content if isinstance(content, list) else None
    if parts is not None and all(isinstance(part, dict) and "type" in part for part in parts):
        return
    if not isinstance(content, str):
        raise Problem(400, f"Invalid type: '{place}.content' must be a string or parts.", param=f"{place}.content")


def choices(ask: Ask) -> tuple[list[Choice], int]:
    """The replies to a request, and the reasoning tokens of each. Raises Problem (400)."""
    controls = ask.mock or Controls()
    question = _question(ask.messages)
    limits = [limit for limit in (ask.max_tokens, ask.max_completion_tokens) if limit is not None]
    room = min(limits, default=MAX_TOKENS * 2)
    reasoning = controls.reasoning_tokens
    if reasoning is None:
        reasoning = REASONING_TOKENS if ask.model == "mock-reasoner" else 0
    reasoning = min(reasoning, room)
    wanted = controls.tokens
    if wanted is None:
        wanted = min(fake_text.asked_length(question) or DEFAULT_TOKENS, MAX_TOKENS)
    if wanted * (ask.n or 1) > MAX_TOKENS:
        raise Problem(400, f"The mock makes at most {MAX_TOKENS} tokens a request.", param="n")
    digest = blake2b(msgspec.json.encode(ask.messages), digest_size=8)
    seed = int.from_bytes(digest.digest(), "big")
    tool = _chosen_tool(ask)
    made = []
    for index in range(ask.n or 1):
        if tool is not None:
            call_id = f"call_mock_{(seed + index) % (1 << 64):016x}"
            made.append(_tool_call(tool, call_id, room - reasoning, question if controls.echo else None))
            continue
        text = question if controls.echo else controls.reply
        if text is None:
            text = fake_text.prose(wanted, question, seed + index)
        made.append(_finished(_formatted(ask.response_format, text), ask.stop, room - reasoning))
    return made, reasoning


def _question(messages: list[dict[str, Any]]) -> str:
    """The text of the last user message, or of the last message where no user speaks."""
    message = next((one for one in reversed(messages) if one["role"] == "user"), messages[-1])
    content = message.get("content")
    if isinstance(content, str):
        return content
    texts = (part.get("text") for part in content or ())
    return " ".join(text for text in texts if isinstance(text, str))


def _finished(text: str, stop: str | list[str] | None, room: int) -> Choice:
    stops = [stop] if isinstance(stop, str) else stop or []
    ends = [place for place in (text.find(word) for word in stops if word) if place >= 0]
    if ends:
        text = text[: min(ends)]
    shorter = fake_text.cut(text, room)
    return Choice(shorter, "stop" if fake_text.count(shorter) == fake_text.count(text) else "length")


def _formatted(response_format: dict[str, Any] | None, text: str) -> str:
    kind = (response_format or {"type": "text"}).get("type")
    if kind == "text":
        return text
    if kind == "json_object":
        return fake_text.compact({"reply": text})
    described = (response_format or {}).get("json_schema")
    if kind != "json_schema" or not isinstance(described, dict) or "schema" not in described:
        raise Problem(400, "Invalid value: 'response_format'.", param="response_format")
    try:
        return fake_text.compact(fake_text.instance(described["schema"], text))
    except fake_text.Impossible as error:
        raise Problem(400, f"Invalid schema for response_format: {error}", param="response_format") from None


def _chosen_tool(ask: Ask) -> dict[str, Any] | None:
    """The tool that is to be called, if any. Every tool is checked. Raises Problem (400)."""
    tools = []
    for index, tool in enumerate(ask.tools or ()):
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict):
            raise Problem(400, "The mock knows tools of type 'function' only.", param=f"tools[{index}].type")
        if not re.fullmatch("[a-zA-Z0-9_-]{1,64}", str(function.get("name"))):
            raise Problem(400, "Invalid name of a function.", param=f"tools[{index}].function.name")
        tools.append(function)
    choice = ask.tool_choice
    if isinstance(choice, dict):
        forced = choice.get("function")
        name = forced.get("name") if isinstance(forced, dict) else None
        tools = [tool for tool in tools if tool["name"] == name]
    if choice not in (None, "none", "auto", "required") and not isinstance(choice, dict):
        raise Problem(400, "Invalid value for 'tool_choice'.", param="tool_choice")
    if not tools and choice not in (None, "none", "auto"):
        raise Problem(400, "'tool_choice' names no tool of 'tools'.", param="tool_choice")
    if not tools or choice == "none" or ask.messages[-1]["role"] == "tool":
        return None
    return tools[0]


def _tool_call(tool: dict[str, Any], call_id: str, room: int, text: str | None) -> Choice:
    if room < 1:
        return Choice("", "length")
    try:
        arguments = fake_text.compact(fake_text.instance(tool.get("parameters") or {"type": "object"}, text))
    except fake_text.Impossible as error:
        raise Problem(400, f"Invalid schema for function '{tool['name']}': {error}", param="tools") from None
    shorter = fake_text.cut(arguments, room - 1)
    return Choice("", "tool_calls" if shorter == arguments else "length", Call(call_id, tool["name"], shorter))
