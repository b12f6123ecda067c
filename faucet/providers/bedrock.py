"""AWS Bedrock's Converse API: OpenAI's chat requests into its words, its replies and binary streams back.

Its `inputTokens` leaves out what was read from and written to a cache. Signing is `sigv4`'s, the framing of streams
`aws_events`'s. Not here: what a request costs, and any I/O.
"""

from __future__ import annotations

from typing import Any

import msgspec

from faucet.providers.aws_events import Message, MessageCutter
from faucet.providers.base import Call, Unreadable, path_of
from faucet.providers.chat_words import (
    DONE,
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
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "refusal": "content_filter",
}
_IMAGES = {"image/jpeg": "jpeg", "image/png": "png", "image/gif": "gif", "image/webp": "webp"}
_CACHE_POINT = {"cachePoint": {"type": "default"}}


class Bedrock:
    """Translates to and from `Converse` and `ConverseStream`."""

    event_stream = "application/vnd.amazon.eventstream"

    def __init__(self, path: bytes) -> None:
        self._path = path

    def chat(self, fields: Fields, model: str, limit: int, *, stream: bool) -> Call:
        """The request of `Converse`. Raises Refusal `invalid_request`."""
        refuse_unspoken(fields, one_choice=True)
        system, turns = _conversation(fields)
        limits: dict[str, Any] = {"maxTokens": limit}
        body: dict[str, Any] = {"messages": turns, "inferenceConfig": limits}
        if system:
            body["system"] = system
        if stops := stops_of(fields):
            limits["stopSequences"] = stops
        _tools(fields, body)
        form, schema = schema_of(fields)
        if form == "json_object":
            raise wrong("response_format", "this model wants a schema: use `json_schema`")
        if schema is not None:
            structure = {"jsonSchema": {"name": "answer", "schema": encode(schema).decode()}}
            body["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": structure}}
        more, thinks = _think(fields, body, model, limit, turns)
        if more:
            body["additionalModelRequestFields"] = more
        for ours, theirs in (("temperature", "temperature"), ("top_p", "topP")):
            value = word(fields, ours)
            if value is not None and not (thinks and ours == "temperature"):
                limits[theirs] = value
        path = path_of(self._path, model)
        return Call(path + b"-stream" if stream else path, encode(body))

    def reply(self, body: bytes, now: int) -> bytes:
        """A reply as a completion. Raises Unreadable."""
        told = _object(body)
        output = told.get("output")
        message = output.get("message") if isinstance(output, dict) else None
        blocks = message.get("content") if isinstance(message, dict) else None
        if not isinstance(blocks, list):
            return self.failure(body)
        finish = FINISH.get(str(told.get("stopReason")), "stop")
        choice = {"index": 0, "message": _message(blocks), "logprobs": None, "finish_reason": finish}
        return completion("chatcmpl-bedrock", "bedrock", now, [choice], _usage(told.get("usage")))

    def stream(self, now: int) -> Stream:
        """What translates one stream."""
        return Stream(now)

    def failure(self, body: bytes) -> bytes:
        """An error's message, nothing else of it."""
        text = "the provider failed"
        try:
            told = decode(body)
            given = told.get("message") or told.get("Message")
            text = given if isinstance(given, str) else text
        except (msgspec.MsgspecError, UnicodeDecodeError, AttributeError):
            pass
        return error_object(text, "api_error")

    def embeddings(self, fields: Fields, model: str) -> Call:
        """Refused: Converse has none."""
        raise wrong("model", "this provider's embeddings are not offered here")


def _object(body: bytes) -> dict[str, Any]:
    try:
        told = decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Unreadable("not JSON") from None
    if not isinstance(told, dict):
        raise Unreadable("not an object")
    return told


# ── the request ──


def _conversation(fields: Fields) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The system prompt's blocks, and the turns: what follows of one side is one turn."""
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for where, message in messages_of(fields):
        role = message["role"]
        if role in ("system", "developer"):
            system += _blocks(message, where)
            continue
        if role == "user":
            side, blocks = "user", _blocks(message, where)
        elif role == "tool":
            side, blocks = "user", _tool_result(message, where)
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


def _blocks(message: dict[str, Any], where: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for i, part in enumerate(parts_of(message, where)):
        here = f"{where}.content.{i}"
        if part.get("type") not in ("text", "refusal"):
            found.append(_shown(part, here))
        elif text := text_of(part, here):
            found.append({"text": text})
        if cache_control_of(part, here) is not None:
            found.append(_CACHE_POINT)
    return found


def _shown(part: dict[str, Any], where: str) -> dict[str, Any]:
    blob = blob_of(part, where)
    kind = _IMAGES.get(blob.media_type or "")
    if blob.data is None:
        raise wrong(where, "must hold a `data:` address for this model")
    if kind is not None:
        return {"image": {"format": kind, "source": {"bytes": blob.data}}}
    if blob.media_type == "application/pdf":
        return {"document": {"format": "pdf", "name": "document", "source": {"bytes": blob.data}}}
    raise wrong(where, "must be an image in JPEG, PNG, GIF or WebP, or a PDF")


def _tool_result(message: dict[str, Any], where: str) -> list[dict[str, Any]]:
    call_id = message.get("tool_call_id")
    if not isinstance(call_id, str):
        raise wrong(f"{where}.tool_call_id", "is required")
    content = [block for block in _blocks(message, where) if block is not _CACHE_POINT] or [{"text": " "}]
    blocks: list[dict[str, Any]] = [{"toolResult": {"toolUseId": call_id, "content": content}}]
    if cache_control_of(message, where) is not None:
        blocks.append(_CACHE_POINT)
    return blocks


def _said(message: dict[str, Any], where: str) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for each in thoughts_of(message):
        if each.get("type") == "thinking":
            text = {"text": each.get("thinking"), "signature": each.get("signature")}
            blocks.append({"reasoningContent": {"reasoningText": text}})
        elif each.get("type") == "redacted_thinking":
            blocks.append({"reasoningContent": {"redactedContent": each.get("data")}})
    blocks += _blocks(message, where)
    for call in calls_of(message, where):
        blocks.append({"toolUse": {"toolUseId": call.id, "name": call.name, "input": call.arguments}})
    return blocks


def _tools(fields: Fields, body: dict[str, Any]) -> None:
    choice = tool_choice_of(fields)
    tools = tools_of(fields)
    if not tools or choice == "none":
        return
    shown: list[dict[str, Any]] = []
    for tool in tools:
        spec: dict[str, Any] = {"name": tool.name, "inputSchema": {"json": {"type": "object", **tool.parameters}}}
        if tool.description:
            spec["description"] = tool.description
        if tool.strict:
            spec["strict"] = True
        shown.append({"toolSpec": spec})
        if tool.cache_control is not None:
            shown.append(_CACHE_POINT)
    body["toolConfig"] = {"tools": shown}
    if isinstance(choice, tuple):
        body["toolConfig"]["toolChoice"] = {"tool": {"name": choice[1]}}
    elif choice == "required":
        body["toolConfig"]["toolChoice"] = {"any": {}}


def _think(
    fields: Fields, body: dict[str, Any], model: str, limit: int, turns: list[dict[str, Any]]
) -> tuple[dict[str, Any], bool]:
    """Fields of the model's own that ask for thinking, and whether there will be any."""
    effort = word(fields, "reasoning_effort")
    if "claude" not in model:
        return ({} if effort is None else {"reasoning_effort": effort}), False
    choice = body.get("toolConfig", {}).get("toolChoice", {})
    forced = "any" in choice or "tool" in choice
    last: set[str] = next((set().union(*t["content"]) for t in reversed(turns) if t["role"] == "assistant"), set())
    lost = "toolUse" in last and "reasoningContent" not in last
    more = thinking(fields, model, limit, impossible=forced or lost)
    return more, more.get("thinking", {}).get("type") not in (None, "disabled")


# ── the reply ──


def _usage(report: Any) -> dict[str, Any] | None:
    """The report in OpenAI's shape; None where it is missing or makes no sense."""
    if not isinstance(report, dict) or report.get("inputTokens") is None or report.get("outputTokens") is None:
        return None
    plain, given = count(report, "inputTokens"), count(report, "outputTokens")
    read, written = count(report, "cacheReadInputTokens"), count(report, "cacheWriteInputTokens")
    if plain is None or given is None or read is None or written is None:
        return None
    return usage_object(plain + read + written, given, cached=read, cache_write=written)


def _message(blocks: list[Any]) -> dict[str, Any]:
    texts: list[str] = []
    thoughts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for block in blocks:
        if not isinstance(block, dict):
            continue
        if isinstance(block.get("text"), str):
            texts.append(block["text"])
        elif isinstance(use := block.get("toolUse"), dict):
            arguments = encode(use.get("input") or {}).decode()
            calls.append(function_call(str(use.get("toolUseId")), str(use.get("name")), arguments))
        elif isinstance(reasoning := block.get("reasoningContent"), dict):
            thoughts.append(_thought(reasoning))
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    message["refusal"] = None
    if thoughts:
        message["reasoning_content"] = "".join(str(each.get("thinking") or "") for each in thoughts)
        message["thinking_blocks"] = thoughts
    if calls:
        message["tool_calls"] = calls
    return message


def _thought(reasoning: dict[str, Any]) -> dict[str, Any]:
    text = reasoning.get("reasoningText")
    if isinstance(text, dict):
        return {"type": "thinking", "thinking": text.get("text"), "signature": text.get("signature")}
    return {"type": "redacted_thinking", "data": reasoning.get("redactedContent")}


def _place(told: dict[str, Any]) -> int:
    index = told.get("contentBlockIndex")
    return index if isinstance(index, int) else 0


class Stream:
    """One stream of `ConverseStream`, message by message."""

    def __init__(self, now: int) -> None:
        self._cutter = MessageCutter()
        self._chunks = Chunks(now)
        self._is_broken = False
        self._chunks.id, self._chunks.model = "chatcmpl-bedrock", "bedrock"
        self._role = b""
        """The first chunk, kept until something follows that isn't an error."""
        self._calls: dict[int, int] = {}
        self._thought: dict[str, Any] | None = None

    def feed(self, data: bytes) -> bytes:
        """The chunks of the messages that are complete now."""
        if self._is_broken:
            return b""
        out: list[bytes] = []
        try:
            for message in self._cutter.feed(data):
                out.append(self._message(message))
        except Unreadable:
            self._is_broken = True
            out.append(UNREADABLE)
        return b"".join(out)

    def _message(self, message: Message) -> bytes:
        headers = message.headers
        if headers.get(":message-type", "event") != "event":
            kind = headers.get(":exception-type") or headers.get(":error-code") or "error"
            return b"data: " + error_object("the provider failed", kind) + b"\n\n"
        told = _object(message.payload)
        if headers.get(":event-type") == "messageStart":
            self._role = self._chunks.delta({"role": "assistant", "content": ""})
            return b""
        out = self._event(headers.get(":event-type", ""), told)
        if out and self._role:
            out, self._role = self._role + out, b""
        return out

    def _event(self, kind: str, told: dict[str, Any]) -> bytes:
        if kind == "contentBlockStart":
            start = told.get("start")
            use = start.get("toolUse") if isinstance(start, dict) else None
            if isinstance(use, dict):
                place = self._calls[_place(told)] = len(self._calls)
                return self._chunks.call(place, function_call(str(use.get("toolUseId")), str(use.get("name")), ""))
        elif kind == "contentBlockDelta":
            return self._delta(_place(told), told.get("delta"))
        elif kind == "contentBlockStop" and self._thought is not None:
            thought, self._thought = self._thought, None
            return self._chunks.delta({"thinking_blocks": [thought]})
        elif kind == "messageStop":
            return self._chunks.delta({}, finish=FINISH.get(str(told.get("stopReason")), "stop"))
        elif kind == "metadata":
            usage = _usage(told.get("usage"))
            return DONE if usage is None else self._chunks.usage(usage) + DONE
        return b""

    def _delta(self, index: int, delta: Any) -> bytes:
        if not isinstance(delta, dict):
            return b""
        if isinstance(text := delta.get("text"), str):
            return self._chunks.delta({"content": text}) if text else b""
        if isinstance(use := delta.get("toolUse"), dict) and index in self._calls:
            piece = str(use.get("input") or "")
            return self._chunks.call(self._calls[index], {"function": {"arguments": piece}}) if piece else b""
        if isinstance(reasoning := delta.get("reasoningContent"), dict):
            return self._reasoning(reasoning)
        return b""

    def _reasoning(self, piece: dict[str, Any]) -> bytes:
        if "redactedContent" in piece:
            self._thought = {"type": "redacted_thinking", "data": piece["redactedContent"]}
            return b""
        thought = self._thought or {"type": "thinking", "thinking": ""}
        self._thought = thought
        if isinstance(signature := piece.get("signature"), str):
            thought["signature"] = signature
        text = piece.get("text")
        if not isinstance(text, str) or not text:
            return b""
        thought["thinking"] = str(thought.get("thinking") or "") + text
        return self._chunks.delta({"reasoning_content": text})
