"""Google's Gemini API: OpenAI's chat and embeddings requests into its words, its replies and streams back.

Output is candidates and thoughts together; input is the prompt, cached parts included, and what tools put into it;
in a stream the usage comes again and again, and the last one counts. Thought signatures travel in a tool call's
`extra_content`, as Google's own OpenAI wire has them. Not here: what a request costs, and any I/O.
"""

from __future__ import annotations

import base64
import re
import struct
from functools import partial
from typing import Any

import msgspec

from faucet.kit.events import EventSplitter, EventTooLong, payload
from faucet.providers.base import Call, Unreadable, path_of, says_key_invalid
from faucet.providers.chat_words import (
    UNREADABLE,
    Chunks,
    Fields,
    blob_of,
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
    texts_of,
    tool_choice_of,
    tools_of,
    usage_object,
    word,
    wrong,
)

FINISH = {"STOP": "stop", "MAX_TOKENS": "length", "MALFORMED_FUNCTION_CALL": "stop", "OTHER": "stop"}
"""Every other reason is a filter's: safety, recitation, blocklists, prohibited content."""
BUDGETS = {"none": 0, "minimal": 512, "low": 1024, "medium": 8192, "high": 24_576}
"""Tokens of thinking for models before the third generation."""
LEVELS = {"none": "minimal", "minimal": "minimal", "low": "low", "medium": "medium", "high": "high"}
_GENERATION = re.compile(r"gemini-(\d+)")


class Gemini:
    """Translates to and from `generateContent`, its stream, and `batchEmbedContents`."""

    event_stream = "text/event-stream"

    def __init__(self, path: bytes, embeddings_path: bytes) -> None:
        self._path = path
        self._stream_path = path.replace(b":generateContent", b":streamGenerateContent") + b"?alt=sse"
        self._embeddings_path = embeddings_path

    def chat(self, fields: Fields, model: str, limit: int, *, stream: bool) -> Call:
        """The request of `generateContent`. Raises Refusal `invalid_request`."""
        refuse_unspoken(fields, one_choice=False)
        system, contents = _conversation(fields)
        body: dict[str, Any] = {"contents": contents}
        if system:
            body["systemInstruction"] = {"parts": system}
        _tools(fields, body)
        body["generationConfig"] = _generation(fields, model, limit)
        return Call(path_of(self._stream_path if stream else self._path, model), encode(body))

    def reply(self, body: bytes, now: int) -> bytes:
        """A reply as a completion. Raises Unreadable."""
        told = _object(body)
        if "error" in told:
            return self.failure(body)
        choices = [_choice(told, i, each) for i, each in enumerate(_candidates(told))]
        if not choices and (blocked := _blocked(told)) is not None:
            message = {"role": "assistant", "content": None, "refusal": blocked}
            choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": "content_filter"}]
        if not choices:
            raise Unreadable("a reply without candidates")
        usage = _usage(told.get("usageMetadata"))
        return completion(str(told.get("responseId") or "gemini"), str(told.get("modelVersion")), now, choices, usage)

    def stream(self, now: int) -> Stream:
        """What translates one stream."""
        return Stream(now)

    def failure(self, body: bytes) -> bytes:
        """An error's message and status, nothing else of it; nothing at all where it is about our key."""
        if says_key_invalid(body):
            return b'{"error":{"type":"authentication_error"}}'
        kind, text = "INTERNAL", "the provider failed"
        try:
            told = decode(body)
            error = (told[0] if isinstance(told, list) else told)["error"]
            kind, text = str(error["status"]), str(error["message"])
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, IndexError, TypeError):
            pass
        return error_object(text, kind)

    def embeddings(self, fields: Fields, model: str) -> Call:
        """The request of `batchEmbedContents`. Raises Refusal `invalid_request`."""
        given = word(fields, "input")
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise wrong("input", "must be a string or an array of strings for this model")
        size = word(fields, "dimensions")
        more = {} if size is None else {"outputDimensionality": size}
        name = f"models/{model}"
        requests = [{"model": name, "content": {"parts": [{"text": text}]}, **more} for text in texts]
        reads = partial(self._embedded, as_base64=word(fields, "encoding_format") == "base64")
        return Call(path_of(self._embeddings_path, model), encode({"requests": requests}), reads)

    def _embedded(self, body: bytes, now: int, *, as_base64: bool) -> bytes:
        """The vectors as OpenAI's list. Raises Unreadable."""
        told = _object(body)
        if "error" in told:
            return self.failure(body)
        found = told.get("embeddings")
        if not isinstance(found, list):
            raise Unreadable("a reply without embeddings")
        rows = []
        for index, each in enumerate(found):
            values = each.get("values") if isinstance(each, dict) else None
            if not isinstance(values, list):
                raise Unreadable("an embedding without values")
            try:
                packed = struct.pack(f"<{len(values)}f", *values)
            except (struct.error, OverflowError):
                raise Unreadable("an embedding that is not of numbers") from None
            shown = base64.b64encode(packed).decode() if as_base64 else values
            rows.append({"object": "embedding", "index": index, "embedding": shown})
        reply: dict[str, Any] = {"object": "list", "data": rows}
        report = told.get("usageMetadata")
        asked = count(report, "promptTokenCount") if isinstance(report, dict) else None
        if asked:
            reply["usage"] = {"prompt_tokens": asked, "total_tokens": asked}
        return encode(reply)


def _object(body: bytes) -> dict[str, Any]:
    try:
        told = decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Unreadable("not JSON") from None
    if isinstance(told, list) and told:
        told = told[0]  # how its errors come where a stream was asked for
    if not isinstance(told, dict):
        raise Unreadable("not an object")
    return told


# ── the request ──


def _conversation(fields: Fields) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The system instruction's parts, and the turns: what follows of one side is one turn."""
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for where, message in messages_of(fields):
        role = message["role"]
        if role in ("system", "developer"):
            system.append({"text": texts_of(message, where)})
            continue
        if role == "user":
            side, parts = "user", [_part(part, f"{where}.content.{i}") for i, part in _numbered(message, where)]
        elif role == "tool":
            side, parts = "user", [_tool_result(message, where, names)]
        elif role == "assistant":
            side, parts = "model", _said(message, where, names)
        else:
            raise wrong(f"{where}.role", "must be system, developer, user, assistant or tool")
        if turns and turns[-1]["role"] == side:
            turns[-1]["parts"] += parts
        elif parts:
            turns.append({"role": side, "parts": parts})
    if not turns:
        raise wrong("messages", "must hold a message of the user")
    return system, turns


def _numbered(message: dict[str, Any], where: str) -> list[tuple[int, dict[str, Any]]]:
    return list(enumerate(parts_of(message, where)))


def _part(part: dict[str, Any], where: str) -> dict[str, Any]:
    if part.get("type") in ("text", "refusal"):
        return {"text": text_of(part, where)}
    blob = blob_of(part, where)
    if blob.data is None:
        raise wrong(where, "must hold a `data:` address for this model")
    return {"inlineData": {"mimeType": blob.media_type, "data": blob.data}}


def _tool_result(message: dict[str, Any], where: str, names: dict[str, str]) -> dict[str, Any]:
    name = names.get(str(message.get("tool_call_id")))
    if name is None:
        raise wrong(f"{where}.tool_call_id", "must be the id of a call that was made before")
    text = texts_of(message, where)
    try:
        said = decode(text)
    except (msgspec.MsgspecError, RecursionError):
        said = text
    return {"functionResponse": {"name": name, "response": said if isinstance(said, dict) else {"result": said}}}


def _said(message: dict[str, Any], where: str, names: dict[str, str]) -> list[dict[str, Any]]:
    parts = [_part(part, f"{where}.content.{i}") for i, part in _numbered(message, where) if part.get("text") != ""]
    for raw, call in zip(message.get("tool_calls") or (), calls_of(message, where), strict=True):
        names[call.id] = call.name
        part: dict[str, Any] = {"functionCall": {"name": call.name, "args": call.arguments}}
        extra = raw.get("extra_content")
        google = extra.get("google") if isinstance(extra, dict) else None
        if isinstance(google, dict) and isinstance(google.get("thought_signature"), str):
            part["thoughtSignature"] = google["thought_signature"]
        parts.append(part)
    return parts


def _tools(fields: Fields, body: dict[str, Any]) -> None:
    tools = tools_of(fields)
    if not tools:
        return
    declared = []
    for tool in tools:
        shown: dict[str, Any] = {"name": tool.name, "parametersJsonSchema": tool.parameters}
        if tool.description is not None:
            shown["description"] = tool.description
        declared.append(shown)
    body["tools"] = [{"functionDeclarations": declared}]
    choice = tool_choice_of(fields)
    if isinstance(choice, tuple):
        body["toolConfig"] = {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": [choice[1]]}}
    elif choice is not None:
        mode = {"auto": "AUTO", "none": "NONE", "required": "ANY"}[choice]
        body["toolConfig"] = {"functionCallingConfig": {"mode": mode}}


_PLAIN = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}


def _generation(fields: Fields, model: str, limit: int) -> dict[str, Any]:
    config: dict[str, Any] = {"maxOutputTokens": limit}
    for ours, theirs in _PLAIN.items():
        value = word(fields, ours)
        if value is not None:
            config[theirs] = value
    if (n := word(fields, "n")) not in (None, 1):
        config["candidateCount"] = n
    if stops := stops_of(fields):
        config["stopSequences"] = stops
    form, schema = schema_of(fields)
    if form != "text":
        config["responseMimeType"] = "application/json"
    if schema is not None:
        config["responseJsonSchema"] = schema
    effort = word(fields, "reasoning_effort")
    if effort is not None:
        config["thinkingConfig"] = _thinking(effort, model)
    return config


def _thinking(effort: Any, model: str) -> dict[str, Any]:
    if effort not in BUDGETS:
        raise wrong("reasoning_effort", f"must be one of {', '.join(BUDGETS)}")
    found = _GENERATION.search(model)
    asked: dict[str, Any] = {"includeThoughts": effort != "none"}
    if found is not None and int(found[1]) < 3:
        asked["thinkingBudget"] = BUDGETS[effort]
    else:
        asked["thinkingLevel"] = LEVELS[effort]
    return asked


# ── the reply ──


def _usage(report: Any) -> dict[str, Any] | None:
    """The report in OpenAI's shape; None where it is missing or makes no sense."""
    if not isinstance(report, dict) or report.get("promptTokenCount") is None:
        return None
    prompt, by_tools = count(report, "promptTokenCount"), count(report, "toolUsePromptTokenCount")
    given, thought = count(report, "candidatesTokenCount"), count(report, "thoughtsTokenCount")
    cached = count(report, "cachedContentTokenCount")
    if prompt is None or by_tools is None or given is None or thought is None or cached is None:
        return None
    return usage_object(prompt + by_tools, given + thought, cached=min(cached, prompt), reasoning=thought)


def _candidates(told: dict[str, Any]) -> list[dict[str, Any]]:
    candidates = told.get("candidates")
    return [each for each in candidates if isinstance(each, dict)] if isinstance(candidates, list) else []


def _parts(candidate: dict[str, Any]) -> list[dict[str, Any]]:
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _blocked(told: dict[str, Any]) -> str | None:
    feedback = told.get("promptFeedback")
    reason = feedback.get("blockReason") if isinstance(feedback, dict) else None
    return None if reason is None else f"the prompt was blocked: {reason}"


def _call(told: dict[str, Any], part: dict[str, Any], place: int) -> dict[str, Any]:
    inner = part["functionCall"]
    call_id = str(inner.get("id") or f"call_{told.get('responseId') or 'gemini'}_{place}")
    call = function_call(call_id, str(inner.get("name")), encode(inner.get("args") or {}).decode())
    if isinstance(part.get("thoughtSignature"), str):
        call["extra_content"] = {"google": {"thought_signature": part["thoughtSignature"]}}
    return call


def _finish(reason: Any, *, calls: bool) -> str:
    finish = FINISH.get(str(reason), "content_filter")
    return "tool_calls" if calls and finish == "stop" else finish


def _choice(told: dict[str, Any], index: int, candidate: dict[str, Any]) -> dict[str, Any]:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for part in _parts(candidate):
        if isinstance(part.get("functionCall"), dict):
            calls.append(_call(told, part, len(calls)))
        elif isinstance(part.get("text"), str):
            (thoughts if part.get("thought") else texts).append(part["text"])
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    message["refusal"] = None
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    finish = _finish(candidate.get("finishReason"), calls=bool(calls))
    place = candidate.get("index")
    return {
        "index": place if isinstance(place, int) else index,
        "message": message,
        "logprobs": None,
        "finish_reason": finish,
    }


class Stream:
    """One stream of `streamGenerateContent`, event by event."""

    def __init__(self, now: int) -> None:
        self._splitter = EventSplitter()
        self._chunks = Chunks(now)
        self._is_broken = False
        self._calls: dict[int, int] = {}
        """How many calls each choice has made."""
        self._begun: set[int] = set()
        self._is_ending = False

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
        told = _object(body)
        if "error" in told:
            return b"data: " + Gemini.failure(_ANY, body) + b"\n\n"
        if not self._begun and told.get("responseId"):
            self._chunks.id = str(told["responseId"])
        self._chunks.model = str(told.get("modelVersion") or self._chunks.model)
        out = [self._candidate(told, each) for each in _candidates(told)]
        if not out and (blocked := _blocked(told)) is not None:
            out.append(self._chunks.delta({"role": "assistant", "refusal": blocked}, finish="content_filter"))
            self._is_ending = True
        # Before its end a report says how much there was so far, or less; the last one says it all.
        usage = _usage(told.get("usageMetadata")) if self._is_ending else None
        if usage is not None:
            out.append(self._chunks.usage(usage))
        return b"".join(out)

    def _candidate(self, told: dict[str, Any], candidate: dict[str, Any]) -> bytes:
        place = candidate.get("index")
        index = place if isinstance(place, int) else 0
        out = []
        if index not in self._begun:
            self._begun.add(index)
            out.append(self._chunks.delta({"role": "assistant", "content": ""}, index=index))
        for part in _parts(candidate):
            if isinstance(part.get("functionCall"), dict):
                number = self._calls.get(index, 0)
                self._calls[index] = number + 1
                out.append(self._chunks.call(number, _call(told, part, number), index=index))
            elif isinstance(part.get("text"), str) and part["text"]:
                name = "reasoning_content" if part.get("thought") else "content"
                out.append(self._chunks.delta({name: part["text"]}, index=index))
        reason = candidate.get("finishReason")
        if reason is not None:
            self._is_ending = True
            finish = _finish(reason, calls=index in self._calls)
            out.append(self._chunks.delta({}, index=index, finish=finish))
        return b"".join(out)


_ANY = Gemini(b"", b"")
