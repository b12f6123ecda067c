"""The mock provider's other faces: Anthropic's Messages, Gemini's generateContent, embeddings. Pure, no I/O.

Each reads a request of its wire, lets `fake_ask` decide what is replied, and says it in that wire's own shapes: the
same text, the same tokens, counted as that provider counts. The field `mock` has the same controls everywhere. Not
here: sockets, and what is replied.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote

import msgspec

from faucet.kit.tokens import count_input
from faucet.providers import fake, fake_ask
from faucet.providers.fake import Answer, Ending
from faucet.providers.fake_ask import Ask, Choice, Controls, Problem

EMBEDDERS = ("mock-embed",)
DIMENSIONS = 16
MESSAGES_PATH = b"/v1/messages"
EMBEDDINGS_PATH = b"/v1/embeddings"
GEMINI_PATH = b"/v1beta/models/"
Face = Callable[[bytes, bytes], Answer]
"""Path and body of a POST to its answer. Raises Problem in OpenAI's words."""

_encode = msgspec.json.Encoder().encode


def face_of(path: bytes) -> Face | None:
    """What answers at a path, if anything does."""
    if path.startswith(MESSAGES_PATH) and path.partition(b"?")[0] == MESSAGES_PATH:
        return anthropic
    if path == EMBEDDINGS_PATH:
        return embeddings
    return gemini if path.startswith(GEMINI_PATH) and b":" in path else None


def refusal(path: bytes, problem: Problem) -> Answer:
    """A problem in the words of the wire that lives at a path."""
    message = problem.body["error"]["message"]
    if path.startswith(MESSAGES_PATH):
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 500: "api_error"}
        error = {"type": kinds.get(problem.status, "invalid_request_error"), "message": message}
        body: dict[str, Any] = {"type": "error", "error": error, "request_id": "req_mock"}
    elif path.startswith(GEMINI_PATH):
        words = {401: "UNAUTHENTICATED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL"}
        status = words.get(problem.status, "INVALID_ARGUMENT")
        body = {"error": {"code": problem.status, "message": message, "status": status}}
    else:
        body = problem.body
    return Answer(problem.status, (_encode(body),), headers=problem.headers)


def _read(body: bytes) -> dict[str, Any]:
    try:
        raw = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"We could not parse the JSON body of your request: {error}") from None
    if not isinstance(raw, dict):
        raise Problem(400, "The JSON body of your request must be an object.")
    return raw


def _decided(path: bytes, asked: dict[str, Any]) -> tuple[Ask, Controls, int, list[Choice], int, Answer]:
    """What is replied to a request put into OpenAI's words, and the answer's pace. Raises Problem."""
    ask, prompt_tokens = fake_ask.parse(_encode(asked))
    controls = ask.mock or Controls()
    made, reasoning = fake_ask.choices(ask)
    fake.refuse_on_purpose(ask.model)
    endings = {"stall": Ending.STALL, "cut-mid-stream": Ending.CUT}
    whole = Answer(
        200,
        (),
        stream=bool(ask.stream),
        delay_ms=controls.delay_ms,
        chunk_delay_ms=controls.chunk_delay_ms,
        ending=endings.get(ask.model, Ending.WHOLE),
    )
    return ask, controls, prompt_tokens, made, reasoning, whole


def _sent(whole: Answer, steps: list[bytes]) -> Answer:
    """The answer with its body, as far as its ending lets it come."""
    if whole.ending is Ending.STALL:
        return replace(whole, steps=())
    if whole.ending is Ending.CUT and whole.stream:
        torn = steps[: len(steps) // 2]
        return replace(whole, steps=(*torn[:-1], torn[-1][: len(torn[-1]) // 2]))
    return replace(whole, steps=tuple(steps))


# ── Anthropic ──


def anthropic(path: bytes, body: bytes) -> Answer:
    """The answer to a request of the Messages API."""
    raw = _read(body)
    if type(raw.get("max_tokens")) is not int:
        raise Problem(400, "max_tokens: Field required")
    asked: dict[str, Any] = {"model": raw.get("model"), "max_tokens": raw["max_tokens"], "stream": raw.get("stream")}
    asked["messages"] = list(_from_anthropic(raw))
    asked["stop"] = raw.get("stop_sequences")
    tools = raw.get("tools") or []
    asked["tools"] = [_function(t.get("name"), t.get("description"), t.get("input_schema")) for t in tools] or None
    choice = raw.get("tool_choice") or {"type": "auto"}
    named = {"type": "function", "function": {"name": choice.get("name")}}
    asked["tool_choice"] = (
        named if choice["type"] == "tool" else {"any": "required"}.get(choice["type"], choice["type"])
    )
    form = (raw.get("output_config") or {}).get("format")
    if form is not None:
        asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "a", "schema": form.get("schema")}}
    thinks = (raw.get("thinking") or {}).get("type") in ("enabled", "adaptive")
    asked["mock"] = ({"reasoning_tokens": fake_ask.REASONING_TOKENS} if thinks else {}) | (raw.get("mock") or {})
    ask, controls, prompt, (choice, *_), reasoning, whole = _decided(path, asked)
    message_id = "msg_mock_" + blake2b(body, digest_size=8).hexdigest()
    start = {"id": message_id, "type": "message", "role": "assistant", "model": ask.model}
    usage = _anthropic_usage(controls, prompt, choice.tokens + reasoning, reasoning)
    reasons = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
    end = {"stop_reason": reasons[choice.finish], "stop_sequence": None}
    if not ask.stream:
        content = [_block(choice)]
        if reasoning:
            content.insert(0, {"type": "thinking", "thinking": "…", "signature": "mock"})
        return _sent(whole, [_encode({**start, "content": content, **end, "usage": usage})])
    return _sent(whole, list(_anthropic_events(start, end, ask, controls, choice, reasoning, usage)))


def _anthropic_usage(controls: Controls, prompt: int, output: int, reasoning: int) -> dict[str, Any]:
    """What was read and written is left out of `input_tokens`, as that API has it."""
    read = min(controls.cached_tokens or 0, prompt)
    written = min(controls.cache_write_tokens or 0, prompt - read)
    return {
        "input_tokens": prompt - read - written,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"thinking_tokens": reasoning},
    }


def _anthropic_events(
    start: dict[str, Any],
    end: dict[str, Any],
    ask: Ask,
    controls: Controls,
    choice: Choice,
    reasoning: int,
    usage: dict[str, Any],
) -> Iterator[bytes]:
    def event(kind: str, **more: Any) -> bytes:
        return f"event: {kind}\n".encode() + b"data: " + _encode({"type": kind, **more}) + b"\n\n"

    begun = {**start, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage | {"output_tokens": 1}}
    yield event("message_start", message=begun)
    index = 0
    if reasoning:
        thinking = {"type": "thinking", "thinking": "", "signature": ""}
        yield event("content_block_start", index=0, content_block=thinking)
        yield event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "…"})
        yield event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "mock"})
        yield event("content_block_stop", index=0)
        index = 1
    block = _block(choice)
    empty: dict[str, Any] = {"input": {}} if choice.call is not None else {"text": ""}
    yield event("content_block_start", index=index, content_block={**block, **empty})
    yield event("ping")
    for pieces in fake.cut_in_chunks(choice, controls.chunks, False):
        text = "".join(pieces)
        delta = (
            {"type": "text_delta", "text": text}
            if choice.call is None
            else {"type": "input_json_delta", "partial_json": text}
        )
        yield event("content_block_delta", index=index, delta=delta)
    yield event("content_block_stop", index=index)
    told = {} if ask.model == "no-usage" else {"usage": {"output_tokens": usage["output_tokens"]}}
    if told:
        told["usage"]["output_tokens_details"] = usage["output_tokens_details"]
    yield event("message_delta", delta=end, **told)
    yield event("message_stop")


def _block(choice: Choice) -> dict[str, Any]:
    if choice.call is None:
        return {"type": "text", "text": choice.text}
    call = choice.call
    try:
        given = msgspec.json.decode(call.arguments)
    except msgspec.DecodeError:
        given = {}  # cut by the limit
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": given}


def _function(name: Any, description: Any, schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def _from_anthropic(raw: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The conversation in OpenAI's words."""
    system = raw.get("system")
    if system:
        yield {"role": "system", "content": system}
    messages = raw.get("messages")
    for message in messages if isinstance(messages, list) else ():
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("user", "assistant"):
            raise Problem(400, "messages: roles are user and assistant")
        content = message.get("content")
        if not isinstance(content, list):
            yield {"role": role, "content": content}
            continue
        results = [block for block in content if block.get("type") == "tool_result"]
        calls = [block for block in content if block.get("type") == "tool_use"]
        rest = [block for block in content if block not in results and block not in calls]
        for block in results:
            given = block.get("content") or ""
            yield {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": given}
        if calls:
            made = [
                (c.get("id"), {"name": c.get("name"), "arguments": _encode(c.get("input")).decode()}) for c in calls
            ]
            shown = [{"id": call_id, "type": "function", "function": function} for call_id, function in made]
            yield {"role": role, "content": rest or None, "tool_calls": shown}
        elif rest:
            yield {"role": role, "content": rest}


# ── Gemini ──


def gemini(path: bytes, body: bytes) -> Answer:
    """The answer to `generateContent`, `streamGenerateContent` or `batchEmbedContents`."""
    model, _, method = unquote(path.partition(b"?")[0][len(GEMINI_PATH) :].decode("latin-1")).rpartition(":")
    raw = _read(body)
    if method == "batchEmbedContents":
        return _batch_embedded(model, raw)
    if method not in ("generateContent", "streamGenerateContent"):
        raise Problem(404, f"Unknown method {method}.")
    config = raw.get("generationConfig") or {}
    asked: dict[str, Any] = {"model": model, "messages": list(_from_gemini(raw)), "stop": config.get("stopSequences")}
    asked |= {"stream": method == "streamGenerateContent", "max_tokens": config.get("maxOutputTokens")}
    asked["n"] = config.get("candidateCount")
    declared = [f for tool in raw.get("tools") or () for f in tool.get("functionDeclarations") or ()]
    schemas = [f.get("parametersJsonSchema") or f.get("parameters") for f in declared]
    asked["tools"] = [
        _function(f.get("name"), f.get("description"), s) for f, s in zip(declared, schemas, strict=True)
    ] or None
    calling = (raw.get("toolConfig") or {}).get("functionCallingConfig") or {}
    asked["tool_choice"] = {"ANY": "required", "NONE": "none"}.get(str(calling.get("mode")), "auto")
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    if schema is not None:
        asked["response_format"] = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    elif config.get("responseMimeType") == "application/json":
        asked["response_format"] = {"type": "json_object"}
    thinks = (config.get("thinkingConfig") or {}).get("includeThoughts")
    asked["mock"] = ({"reasoning_tokens": fake_ask.REASONING_TOKENS} if thinks else {}) | (raw.get("mock") or {})
    ask, controls, prompt, made, reasoning, whole = _decided(path, asked)
    stamp = {"modelVersion": ask.model, "responseId": blake2b(body, digest_size=8).hexdigest()}
    total = sum(choice.tokens for choice in made)
    usage = {} if ask.model == "no-usage" else {"usageMetadata": _gemini_usage(controls, prompt, total, reasoning)}
    thought = [{"text": "…", "thought": True}] if reasoning else []
    if not ask.stream:
        candidates = [_candidate(i, choice, [*thought, _part(choice)], choice.finish) for i, choice in enumerate(made)]
        return _sent(whole, [_encode({"candidates": candidates, **usage, **stamp})])
    early = {name: {**told, "candidatesTokenCount": 1, "totalTokenCount": prompt + 1} for name, told in usage.items()}
    events = [{"candidates": [_candidate(0, made[0], thought)], **early, **stamp}] if thought else []
    for i, choice in enumerate(made):
        parts = [_part(choice)]
        if choice.call is None:
            parts = [{"text": "".join(cut)} for cut in fake.cut_in_chunks(choice, controls.chunks, False)]
        events += [{"candidates": [_candidate(i, choice, [part])], **early, **stamp} for part in parts]
        events.append({"candidates": [_candidate(i, choice, [{"text": ""}], choice.finish)], **usage, **stamp})
    return _sent(whole, [b"data: " + _encode(event) + b"\r\n\r\n" for event in events])


def _gemini_usage(controls: Controls, prompt: int, total: int, reasoning: int) -> dict[str, int]:
    """Cached tokens are inside of the prompt's, thoughts beside the candidates', as that API has them."""
    counts = {"promptTokenCount": prompt, "candidatesTokenCount": total, "totalTokenCount": prompt + total + reasoning}
    if controls.cached_tokens:
        counts["cachedContentTokenCount"] = min(controls.cached_tokens, prompt)
    if reasoning:
        counts["thoughtsTokenCount"] = reasoning
    return counts


def _part(choice: Choice) -> dict[str, Any]:
    block = _block(choice)
    if choice.call is None:
        return {"text": choice.text}
    return {"functionCall": {"id": choice.call.id, "name": block["name"], "args": block["input"]}}


def _candidate(index: int, choice: Choice, parts: list[dict[str, Any]], finish: str | None = None) -> dict[str, Any]:
    shown: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": index}
    if finish is not None:
        shown["finishReason"] = "MAX_TOKENS" if finish == "length" else "STOP"
    return shown


def _from_gemini(raw: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The conversation in OpenAI's words."""

    def texts(content: Any) -> list[dict[str, Any]]:
        parts = content.get("parts") if isinstance(content, dict) else None
        return [{"type": "text", "text": p["text"]} for p in parts or () if isinstance(p.get("text"), str)]

    if system := texts(raw.get("systemInstruction")):
        yield {"role": "system", "content": system}
    contents = raw.get("contents")
    for content in contents if isinstance(contents, list) else ():
        parts = content.get("parts") or []
        for part in parts:
            if "functionResponse" in part:
                said = part["functionResponse"]
                yield {"role": "tool", "tool_call_id": said.get("name"), "content": _encode(said["response"]).decode()}
        images = [{"type": "image_url", "image_url": {"url": "data:"}} for part in parts if "inlineData" in part]
        calls = [part["functionCall"] for part in parts if "functionCall" in part]
        rest = texts(content) + images
        if calls:
            functions = [{"name": c.get("name"), "arguments": _encode(c.get("args") or {}).decode()} for c in calls]
            shown = [{"id": f["name"], "type": "function", "function": f} for f in functions]
            yield {"role": "assistant", "content": rest or None, "tool_calls": shown}
        elif rest:
            yield {"role": "assistant" if content.get("role") == "model" else "user", "content": rest}


# ── embeddings ──


def embeddings(path: bytes, body: bytes) -> Answer:
    """The answer to a request of OpenAI's embeddings."""
    raw = _read(body)
    _check_embedder(raw.get("model"))
    given = raw.get("input")
    if isinstance(given, str) or (isinstance(given, list) and given and isinstance(given[0], int)):
        given = [given]
    if not isinstance(given, list) or not given:
        raise Problem(400, "'$.input' is invalid.", param="input")
    as_base64 = raw.get("encoding_format") == "base64"
    rows = []
    for index, one in enumerate(given):
        packed = _vector(one, raw.get("dimensions"))
        values = (
            base64.b64encode(packed).decode() if as_base64 else list(struct.unpack(f"<{len(packed) // 4}f", packed))
        )
        rows.append({"object": "embedding", "index": index, "embedding": values})
    tokens = count_input(raw, "words")
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Answer(200, (_encode({"object": "list", "data": rows, "model": raw["model"], "usage": usage}),))


def _batch_embedded(model: str, raw: dict[str, Any]) -> Answer:
    _check_embedder(model)
    rows = []
    for one in raw.get("requests") or ():
        text = "".join(part.get("text", "") for part in one["content"]["parts"])
        packed = _vector(text, one.get("outputDimensionality"))
        rows.append({"values": _numbers(packed)})
    return Answer(200, (_encode({"embeddings": rows}),))


def _check_embedder(model: Any) -> None:
    if model not in EMBEDDERS:
        raise Problem(404, f"The model `{model}` does not exist.", param="model", code="model_not_found")


def _numbers(packed: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))


def _vector(given: Any, size: Any) -> bytes:
    """The same numbers for the same input, between -1 and 1, as 32-bit floats."""
    size = size if type(size) is int and 0 < size <= 1 << 16 else DIMENSIONS
    seed = _encode(given)
    digests = b"".join(blake2b(seed, digest_size=64, salt=i.to_bytes(8, "big")).digest() for i in range(size // 32 + 1))
    return struct.pack(f"<{size}f", *(value / 32_768 for value in struct.unpack_from(f"<{size}h", digests)))
