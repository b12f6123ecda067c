"""OpenAI's chat words, as adapters need them: what a request asks for, and chunks and completions of an answer.

Reading is strict where a word bears on the answer: what another wire can't say is refused, naming the field, and
never dropped in silence. Not here: any other wire.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from faucet.kit.errors import Refusal, field_error

Fields = Mapping[str, msgspec.Raw]
COUNT_MAX = 2**40
"""More tokens than this in one report are not a count but an accident."""
SIGNED_THINKING = "modelfaucet_thinking"
"""Where a message that came by the Messages API keeps its blocks of thinking. Only providers that made them take them
back; unlike the `thinking_blocks` of a chat request's own message, which are the caller's words, all others never see
them. Beside the messages the same name has how the caller asked that API for thinking."""
ORDERED_BLOCKS = "modelfaucet_blocks"
"""Where a reply's message has all its blocks, as that API ordered them, if an answer's other fields can't say it."""
DONE = b"data: [DONE]\n\n"
encode = msgspec.json.Encoder().encode
decode = msgspec.json.decode


def wrong(where: str, text: str) -> Refusal:
    """The refusal of a field; `where` is its path."""
    return field_error(where, text, param=where.partition(".")[0])


def word(fields: Fields, name: str) -> Any:
    """A field's value, or None where it is missing or null."""
    raw = fields.get(name)
    return None if raw is None else decode(raw)


# ── what is asked ──


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str | None
    parameters: dict[str, Any]
    strict: bool
    cache_control: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Blob:
    """An image or a document: its bytes in base64, or where it is."""

    media_type: str | None
    data: str | None
    url: str | None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made in an earlier turn."""

    id: str
    name: str
    arguments: dict[str, Any]


def array(value: Any, where: str) -> list[Any]:
    """A field's array, empty where it is left out. Raises Refusal."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong(where, "must be an array")
    return value


def refuse_unspoken(fields: Fields, *, one_choice: bool) -> None:
    """Refuse what bears on an answer and what no wire but OpenAI's has. Raises Refusal."""
    n = word(fields, "n")
    if one_choice and n not in (None, 1):
        raise wrong("n", "this model gives one choice")
    for name in ("logprobs", "top_logprobs"):
        if word(fields, name):
            raise wrong(name, "this model gives no log probabilities")
    for name in ("functions", "function_call", "audio"):
        if word(fields, name) is not None:
            raise wrong(name, "is not offered for this model" + ("; use `tools`" if "func" in name else ""))


def messages_of(fields: Fields) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each message with its path. They are known to be objects with a role."""
    for index, message in enumerate(word(fields, "messages") or ()):
        yield f"messages.{index}", message


def parts_of(message: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """A message's content as parts. Raises Refusal."""
    content = message.get("content")
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return content
    raise wrong(f"{where}.content", "must be a string or an array of parts")


def text_of(part: dict[str, Any], where: str) -> str:
    """The text of a part that must be one. Raises Refusal."""
    kind = part.get("type")
    text = part.get(kind) if kind in ("text", "refusal") else None
    if not isinstance(text, str):
        raise wrong(where, "must be a part of type `text`")
    return text


def texts_of(message: dict[str, Any], where: str) -> str:
    """The text of a message that has nothing else. Raises Refusal."""
    return "".join(text_of(part, f"{where}.content.{i}") for i, part in enumerate(parts_of(message, where)))


def blob_of(part: dict[str, Any], where: str) -> Blob:
    """The image or file in a part. Raises Refusal."""
    kind = part.get("type")
    inner = part.get(kind) if isinstance(kind, str) else None
    if kind == "image_url":
        address = inner.get("url") if isinstance(inner, dict) else inner
    elif kind == "file" and isinstance(inner, dict):
        address = inner.get("file_data")
    else:
        raise wrong(where, "parts of this type are not offered for this model")
    if not isinstance(address, str):
        raise wrong(where, "has no data that can be sent on")
    if not address.startswith("data:"):
        if kind != "image_url" or not address.startswith("https://"):
            raise wrong(where, "must hold a `data:` address, or an image's `https://` address")
        return Blob(None, None, address)
    head, comma, data = address.partition(",")
    media_type, *options = head.removeprefix("data:").split(";")
    if not comma or "base64" not in options or not media_type:
        raise wrong(where, "must be a `data:` address with a media type, in base64")
    return Blob(media_type, data, None)


def calls_of(message: dict[str, Any], where: str) -> list[ToolCall]:
    """The calls that an assistant's message made. Raises Refusal."""
    found = []
    for index, call in enumerate(array(message.get("tool_calls"), f"{where}.tool_calls")):
        here = f"{where}.tool_calls.{index}"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise wrong(here, "must be a call of a function")
        arguments = function.get("arguments") or "{}"
        try:
            decoded = decode(arguments) if isinstance(arguments, str) else None
        except (msgspec.MsgspecError, RecursionError):
            decoded = None
        if not isinstance(decoded, dict):
            raise wrong(f"{here}.function.arguments", "must be a JSON object in a string")
        found.append(ToolCall(str(call.get("id") or f"call_{index}"), function["name"], decoded))
    return found


def thoughts_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    """What the model thought in an earlier turn, block by block, with the signatures that its provider wants back."""
    for name in ("thinking_blocks", SIGNED_THINKING):
        blocks = message.get(name)
        if isinstance(blocks, list):
            return [block for block in blocks if isinstance(block, dict)]
    return []


def tools_of(fields: Fields) -> list[Tool]:
    """The functions that may be called. Raises Refusal for tools of another kind."""
    found = []
    for index, tool in enumerate(array(word(fields, "tools"), "tools")):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise wrong(f"tools.{index}", "only functions are offered for this model")
        parameters = function.get("parameters")
        found.append(
            Tool(
                function["name"],
                function.get("description"),
                parameters if isinstance(parameters, dict) else {"type": "object", "properties": {}},
                function.get("strict") is True,
                cache_control_of(tool, f"tools.{index}"),
            )
        )
    return found


def tool_choice_of(fields: Fields) -> str | tuple[str, str] | None:
    """`auto`, `none`, `required`, or the one function; None where nothing is said. Raises Refusal."""
    choice = word(fields, "tool_choice")
    if choice is None or choice in ("auto", "none", "required"):
        return choice if isinstance(choice, str) else None
    function = choice.get("function") if isinstance(choice, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise wrong("tool_choice", "must be auto, none, required or a function")
    return "function", function["name"]


def stops_of(fields: Fields) -> list[str]:
    """The texts at which the answer stops. Raises Refusal."""
    stop = word(fields, "stop")
    stops = [stop] if isinstance(stop, str) else array(stop, "stop")
    if not all(isinstance(each, str) for each in stops):
        raise wrong("stop", "must be a string or an array of strings")
    return stops


def schema_of(fields: Fields) -> tuple[str, dict[str, Any] | None]:
    """The form of the answer: `text`, `json_object`, or `json_schema` with its schema. Raises Refusal."""
    form = word(fields, "response_format")
    if form is None:
        return "text", None
    kind = form.get("type") if isinstance(form, dict) else None
    if kind in ("text", "json_object"):
        return str(kind), None
    inner = form.get("json_schema") if kind == "json_schema" else None
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if not isinstance(schema, dict):
        raise wrong("response_format", "must be text, json_object, or json_schema with a schema")
    return "json_schema", schema


def cache_control_of(part: dict[str, Any], where: str) -> dict[str, Any] | None:
    """A mark for the provider's cache, as it came. Raises Refusal for one that is billed outside of our rating."""
    mark = part.get("cache_control")
    if mark is None:
        return None
    if not isinstance(mark, dict) or mark.get("ttl", "5m") != "5m":
        raise wrong(f"{where}.cache_control", "only a cache of five minutes is offered here")
    return mark


# ── what is answered ──


def count(report: Mapping[str, Any], name: str) -> int | None:
    """A count of a report: 0 where it is left out, None where it makes no sense."""
    value = report.get(name)
    if value is None:
        return 0
    return value if type(value) is int and 0 <= value <= COUNT_MAX else None


def usage_object(
    prompt: int, completion: int, *, cached: int = 0, cache_write: int = 0, reasoning: int = 0, **more: int
) -> dict[str, Any]:
    """A usage report as OpenAI's wire has it: parts are inside of their wholes. `more` is kept for the records."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": cache_write, **more},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def function_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """One entry of `tool_calls`."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def completion(
    reply_id: str, model: str, now: int, choices: list[dict[str, Any]], usage: dict[str, Any] | None
) -> bytes:
    """A whole `chat.completion`."""
    fields: dict[str, Any] = {
        "id": reply_id,
        "object": "chat.completion",
        "created": now,
        "model": model,
        "choices": choices,
    }
    if usage is not None:
        fields["usage"] = usage
    return encode(fields)


def error_object(message: str, kind: str) -> bytes:
    """An error as OpenAI's wire has it."""
    return encode({"error": {"message": message, "type": kind, "param": None, "code": None}})


UNREADABLE = b"data: " + error_object("the provider's stream can't be read", "api_error") + b"\n\n"
"""Takes the place of what a provider's wire does not allow, and of all that follows it."""


class Chunks:
    """The chunks of one streamed answer."""

    __slots__ = ("id", "model", "now")

    def __init__(self, now: int) -> None:
        self.id = "chatcmpl-upstream"
        self.model = ""
        self.now = now

    def delta(self, delta: dict[str, Any], *, index: int = 0, finish: str | None = None) -> bytes:
        """A chunk of one choice."""
        return self._event({"choices": [{"index": index, "delta": delta, "finish_reason": finish}]})

    def call(self, place: int, fields: dict[str, Any], *, index: int = 0) -> bytes:
        """A chunk with a piece of one tool call."""
        return self.delta({"tool_calls": [{"index": place, **fields}]}, index=index)

    def usage(self, usage: dict[str, Any]) -> bytes:
        """The chunk that reports usage."""
        return self._event({"choices": [], "usage": usage})

    def _event(self, more: dict[str, Any]) -> bytes:
        fields = {"id": self.id, "object": "chat.completion.chunk", "created": self.now, "model": self.model, **more}
        return b"data: " + encode(fields) + b"\n\n"
