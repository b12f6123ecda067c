"""Anthropic's Messages API: OpenAI's chat requests into its words, its replies and streams back.

Its system prompt stands apart; its usage leaves what was read from and written to the cache out of `input_tokens`,
and comes in a stream cumulatively, piece by piece. Thinking goes out as `reasoning_content`, and with its signatures
as `thinking_blocks`, which a caller may send back. Not here: what a request costs, and any I/O.
"""

from __future__ import annotations

from typing import Any

import msgspec

from faucet.kit.events import EventSplitter, EventTooLong, payload
from faucet.providers.base import Call, Unreadable
from faucet.providers.chat_words import (
    DONE,
    ORDERED_BLOCKS,
    UNREADABLE,
    Chunks,
    Fields,
    blob_of,
    cache_control_of,
    calls_of,
    completion,
    count,
    decode,
    encode,
    error_object,
    function_call,
    messages_of,
    parts_of,
    refuse_unspoken,
    schema_of,
    stops_of,
    text_of,
    thoughts_of,
    tool_choice_of,
    tools_of,
    usage_object,
    word,
    wrong,
)
from faucet.providers.claude_thinking import thinking

FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_SAYS_UNPAID = "Your credit balance is too low"
"""How an account without money is told, under status 400: the text begins so, and repeats nobody's words before it."""
_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


class Anthropic:
    """Translates to and from the Messages API."""

    event_stream = "text/event-stream"

    def __init__(self, path: bytes) -> None:
        self._path = path

    def chat(self, fields: Fields, model: str, limit: int, *, stream: bool) -> Call:
        """The request of the Messages API. Raises Refusal `invalid_request`."""
        refuse_unspoken(fields, one_choice=True)
        system, messages = _conversation(fields)
        body: dict[str, Any] = {"model": model, "max_tokens": limit, "messages": messages}
        if system:
            body["system"] = system
        if stream:
            body["stream"] = True
        if stops := stops_of(fields):
            body["stop_sequences"] = stops
        tools = _tools(fields)
        if tools:
            body["tools"] = tools
            if (choice := _tool_choice(fields)) is not None:
                body["tool_choice"] = choice
        _output(fields, body)
        if not _think(fields, body, model, limit, messages):
            temperature = word(fields, "temperature")
            if temperature is not None:
                body["temperature"] = min(temperature, 1) if type(temperature) in (int, float) else temperature
            if (top_k := word(fields, "top_k")) is not None:
                body["top_k"] = top_k
        if (top_p := word(fields, "top_p")) is not None and "temperature" not in body:
            body["top_p"] = top_p
        person = word(fields, "user")
        if isinstance(person, str) and len(person) <= 256:
            body["metadata"] = {"user_id": person}
        return Call(self._path, encode(body))

    def reply(self, body: bytes, now: int) -> bytes:
        """A message as a completion. Raises Unreadable."""
        try:
            message = decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise Unreadable("not JSON") from None
        if not isinstance(message, dict):
            raise Unreadable("not an object")
        if message.get("type") == "error":
            return self.failure(body)
        blocks = message.get("content")
        if not isinstance(blocks, list):
            raise Unreadable("a message without content")
        finish = FINISH.get(str(message.get("stop_reason")), "stop")
        choice = {"index": 0, "message": _message(blocks, message), "logprobs": None, "finish_reason": finish}
        usage = message.get("usage")
        return completion(
            str(message.get("id")),
            str(message.get("model")),
            now,
            [choice],
            _usage(usage) if isinstance(usage, dict) else None,
        )

    def stream(self, now: int) -> Stream:
        """What translates one stream."""
        return Stream(now)

    def failure(self, body: bytes) -> bytes:
        """An error's message and kind, nothing else of it; nothing at all where it is about our account."""
        kind, text = "api_error", "the provider failed"
        try:
            error = decode(body)["error"]
            kind, text = str(error["type"]), str(error["message"])
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError):
            pass
        if text.startswith(_SAYS_UNPAID):
            return b'{"error":{"type":"billing_error"}}'
        return error_object(text, kind)

    def embeddings(self, fields: Fields, model: str) -> Call:
        """Refused: there are none."""
        raise wrong("model", "this provider has no embeddings")


# ── the request ──


def _conversation(fields: Fields) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The system prompt's blocks, and the turns: what follows of one side is one turn."""
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for where, message in messages_of(fields):
        role = message["role"]
        if role in ("system", "developer"):
            for i, part in enumerate(parts_of(message, where)):
                here = f"{where}.content.{i}"
                system += _marked({"type": "text", "text": text_of(part, here)}, part, here)
            continue
        if role == "user":
            side, blocks = "user", _blocks(message, where)
        elif role == "tool":
            side, blocks = "user", [_tool_result(message, where)]
        elif role == "assistant":
            side, blocks = "assistant", _said(message, where)
        else:
            raise wrong(f"{where}.role", "must be system, developer, user, assistant or tool")
        if turns and turns[-1]["role"] == side:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": side, "content": blocks})
    if not turns:
        raise wrong("messages", "must hold a message of the user")
    return system, turns


def _marked(block: dict[str, Any], part: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """A block with its part's mark for the cache; none for a text without characters, which the API refuses."""
    if block.get("text") == "":
        return []
    mark = cache_control_of(part, where)
    return [block if mark is None else {**block, "cache_control": mark}]


def _blocks(message: dict[str, Any], where: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for i, part in enumerate(parts_of(message, where)):
        here = f"{where}.content.{i}"
        if part.get("type") in ("text", "refusal"):
            block: dict[str, Any] = {"type": "text", "text": text_of(part, here)}
        else:
            block = _shown(part, here)
        found += _marked(block, part, here)
    return found


def _shown(part: dict[str, Any], where: str) -> dict[str, Any]:
    """An image or a document."""
    blob = blob_of(part, where)
    if blob.url is not None:
        return {"type": "image", "source": {"type": "url", "url": blob.url}}
    source = {"type": "base64", "media_type": blob.media_type, "data": blob.data}
    if blob.media_type in _IMAGES:
        return {"type": "image", "source": source}
    if blob.media_type == "application/pdf":
        return {"type": "document", "source": source}
    raise wrong(where, "must be an image in JPEG, PNG, GIF or WebP, or a PDF")


def _tool_result(message: dict[str, Any], where: str) -> dict[str, Any]:
    call_id = message.get("tool_call_id")
    if not isinstance(call_id, str):
        raise wrong(f"{where}.tool_call_id", "is required")
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": call_id}
    if content := _blocks(message, where):
        block["content"] = content
    return _marked(block, message, where)[0]


def _said(message: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """An assistant's turn: its thinking with signatures first, as the API wants it back."""
    blocks = thoughts_of(message)
    blocks += _blocks(message, where)
    for call in calls_of(message, where):
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments})
    return blocks


def _tools(fields: Fields) -> list[dict[str, Any]]:
    found = []
    for tool in tools_of(fields):
        shown: dict[str, Any] = {"name": tool.name, "input_schema": {"type": "object", **tool.parameters}}
        if tool.description is not None:
            shown["description"] = tool.description
        if tool.strict:
            shown["strict"] = True
        if tool.cache_control is not None:
            shown["cache_control"] = tool.cache_control
        found.append(shown)
    return found


def _tool_choice(fields: Fields) -> dict[str, Any] | None:
    choice = tool_choice_of(fields)
    alone = word(fields, "parallel_tool_calls") is False
    if choice is None and not alone:
        return None
    if isinstance(choice, tuple):
        shown: dict[str, Any] = {"type": "tool", "name": choice[1]}
    else:
        shown = {"type": {"required": "any", "none": "none"}.get(choice or "auto", "auto")}
    if alone and shown["type"] != "none":
        shown["disable_parallel_tool_use"] = True
    return shown


def _output(fields: Fields, body: dict[str, Any]) -> None:
    form, schema = schema_of(fields)
    if form == "json_object":
        raise wrong("response_format", "this model wants a schema: use `json_schema`")
    if schema is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}


def _think(fields: Fields, body: dict[str, Any], model: str, limit: int, turns: list[dict[str, Any]]) -> bool:
    """Ask for thinking as the caller did. Whether there will be any; it excludes some other fields."""
    forced = body.get("tool_choice", {}).get("type") in ("any", "tool")
    asked = thinking(fields, model, limit, impossible=forced or _lost_thoughts(turns))
    if (config := asked.pop("output_config", None)) is not None:
        body["output_config"] = body.get("output_config", {}) | config
    body |= asked
    return asked.get("thinking", {}).get("type") not in (None, "disabled")


def _lost_thoughts(turns: list[dict[str, Any]]) -> bool:
    """Whether the last turn of the model called tools, and the thinking before it did not come back."""
    for turn in reversed(turns):
        if turn["role"] == "assistant":
            kinds = {block.get("type") for block in turn["content"]}
            return "tool_use" in kinds and not kinds & {"thinking", "redacted_thinking"}
    return False


# ── the reply ──


def _usage(report: dict[str, Any]) -> dict[str, Any] | None:
    """The report in OpenAI's shape; None where it makes no sense."""
    plain, given = count(report, "input_tokens"), count(report, "output_tokens")
    read, written = count(report, "cache_read_input_tokens"), count(report, "cache_creation_input_tokens")
    details = report.get("output_tokens_details") or {}
    thought = count(details, "thinking_tokens") if isinstance(details, dict) else None
    if plain is None or given is None or read is None or written is None or thought is None:
        return None
    if report.get("input_tokens") is None or report.get("output_tokens") is None:
        return None
    by_age = report.get("cache_creation")
    hour = count(by_age, "ephemeral_1h_input_tokens") if isinstance(by_age, dict) else 0
    more = {"cache_write_1h_tokens": hour} if hour else {}
    return usage_object(
        plain + read + written, given, cached=read, cache_write=written, reasoning=min(thought, given), **more
    )


def _message(blocks: list[Any], whole: dict[str, Any]) -> dict[str, Any]:
    texts: list[str] = []
    thoughts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for block in blocks:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            texts.append(str(block.get("text") or ""))
        elif kind in ("thinking", "redacted_thinking"):
            thoughts.append(block)
        elif kind == "tool_use":
            arguments = encode(block.get("input") or {}).decode()
            calls.append(function_call(str(block.get("id")), str(block.get("name")), arguments))
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    message["refusal"] = _why_refused(whole) if whole.get("stop_reason") == "refusal" else None
    if thoughts:
        message["reasoning_content"] = "".join(str(each.get("thinking") or "") for each in thoughts)
        message["thinking_blocks"] = thoughts
    if calls:
        message["tool_calls"] = calls
    if thoughts and blocks[: len(thoughts)] != thoughts:
        message[ORDERED_BLOCKS] = blocks  # it thought again after it had said something
    return message


def _why_refused(told: dict[str, Any]) -> str:
    details = told.get("stop_details")
    why = details.get("explanation") if isinstance(details, dict) else None
    return why if isinstance(why, str) else "the model declined to answer"


def _place(told: dict[str, Any]) -> int:
    index = told.get("index")
    return index if isinstance(index, int) else 0


class Stream:
    """One stream of the Messages API, event by event."""

    def __init__(self, now: int) -> None:
        self._splitter = EventSplitter()
        self._chunks = Chunks(now)
        self._is_broken = False
        self._report: dict[str, Any] = {}
        self._is_final = False
        """Whether the output was counted at its end; what `message_start` says of it is only a beginning."""
        self._role = b""
        """The first chunk, kept until something follows that isn't an error."""
        self._calls: dict[int, int] = {}
        """The place among the tool calls of each block that is one."""
        self._block: dict[str, Any] | None = None
        """A block of thinking under way, for its signature."""

    def feed(self, data: bytes) -> bytes:
        """The chunks of the events that are complete now."""
        if self._is_broken:
            return b""
        out: list[bytes] = []
        try:
            for event in self._splitter.feed(data):
                out.append(self._event(event))
        except (Unreadable, EventTooLong):
            self._is_broken = True
            out.append(UNREADABLE)
        return b"".join(out)

    def _event(self, event: bytes) -> bytes:
        body = payload(event)
        if body is None:
            return b""
        try:
            told = decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise Unreadable("an event that is not JSON") from None
        if not isinstance(told, dict):
            raise Unreadable("an event that is not an object")
        kind = told.get("type")
        if kind == "error":
            return b"data: " + Anthropic.failure(_ANY, body) + b"\n\n"
        if kind == "message_start":
            self._start(told.get("message"))
            return b""
        out = self._follow(str(kind), told)
        if out and self._role:
            out, self._role = self._role + out, b""
        return out

    def _start(self, message: Any) -> None:
        if not isinstance(message, dict):
            raise Unreadable("a stream that begins without a message")
        self._chunks.id, self._chunks.model = str(message.get("id")), str(message.get("model"))
        self._merge(message.get("usage"))
        self._role = self._chunks.delta({"role": "assistant", "content": ""})

    def _follow(self, kind: str, told: dict[str, Any]) -> bytes:
        if kind == "content_block_start":
            return self._begin(_place(told), told.get("content_block"))
        if kind == "content_block_delta":
            return self._delta(_place(told), told.get("delta"))
        if kind == "content_block_stop" and self._block is not None:
            block, self._block = self._block, None
            return self._chunks.delta({"thinking_blocks": [block]})
        if kind == "message_delta":
            return self._end(told)
        return DONE if kind == "message_stop" else b""

    def _begin(self, index: int, block: Any) -> bytes:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "tool_use":
            place = self._calls[index] = len(self._calls)
            given = block.get("input")
            arguments = encode(given).decode() if given else ""
            return self._chunks.call(place, function_call(str(block.get("id")), str(block.get("name")), arguments))
        if kind == "text" and block.get("text"):
            return self._chunks.delta({"content": str(block["text"])})
        if kind in ("thinking", "redacted_thinking"):
            self._block = dict(block)
        return b""

    def _delta(self, index: int, delta: Any) -> bytes:
        kind = delta.get("type") if isinstance(delta, dict) else None
        if kind == "text_delta":
            text = str(delta.get("text") or "")
            return self._chunks.delta({"content": text}) if text else b""
        if kind == "input_json_delta" and index in self._calls:
            piece = str(delta.get("partial_json") or "")
            return self._chunks.call(self._calls[index], {"function": {"arguments": piece}}) if piece else b""
        if self._block is not None and kind == "thinking_delta":
            thought = str(delta.get("thinking") or "")
            self._block["thinking"] = str(self._block.get("thinking") or "") + thought
            return self._chunks.delta({"reasoning_content": thought}) if thought else b""
        if self._block is not None and kind == "signature_delta":
            self._block["signature"] = str(delta.get("signature") or "")
        return b""

    def _end(self, told: dict[str, Any]) -> bytes:
        """The reason of the end, and the usage as it is known by then."""
        report = told.get("usage")
        self._merge(report)
        self._is_final = self._is_final or (isinstance(report, dict) and report.get("output_tokens") is not None)
        delta = told.get("delta")
        reason = delta.get("stop_reason") if isinstance(delta, dict) else None
        if reason is None:
            return b""
        last: dict[str, Any] = {"refusal": _why_refused(delta or {})} if reason == "refusal" else {}
        out = self._chunks.delta(last, finish=FINISH.get(str(reason), "stop"))
        usage = _usage(self._report) if self._is_final else None
        return out if usage is None else out + self._chunks.usage(usage)

    def _merge(self, report: Any) -> None:
        """Take what a report says; what it leaves out stays as an earlier one had it."""
        if isinstance(report, dict):
            self._report |= {name: value for name, value in report.items() if value is not None}


_ANY = Anthropic(b"/messages")
