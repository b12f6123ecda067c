"""The mock provider's answers: an OpenAI chat request in, the bytes of the reply and its pace out.

Pure, no I/O. The same body always gives the same text and the same usage; only the id and the time differ,
and the server puts those in. Beside three well-behaved models there is one for each way in which real
providers misbehave (`fake_ask.FAILURES`). What is replied is decided in `fake_ask`; sockets are
`fake_server`'s matter.

`completion_tokens` is the sum over all choices of visible and reasoning tokens; of a tool call, its name and
arguments count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import msgspec

from faucet.providers import fake_text
from faucet.providers.fake_ask import FAILURES, MODELS, Ask, Choice, Controls, Problem, choices, parse

SLOW_MS = 3000
DEFAULT_CHUNKS = 20

STAMP = b"\x00"
"""Stands in every body step for what differs between replies (see `stamp`). JSON text has no such byte."""

_DONE = b"data: [DONE]\n\n"
_FINGERPRINT = "fp_mock"


class Ending(Enum):
    """What happens after the last step of an answer."""

    WHOLE = "the answer is complete"
    STALL = "nothing, until the client leaves"
    CUT = "the connection is closed in the middle of the answer"


@dataclass(frozen=True, slots=True)
class Answer:
    """How a chat request is answered. `steps` are the body: one for JSON, one per event of a stream."""

    status: int
    steps: tuple[bytes, ...]
    stream: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    delay_ms: int | None = None
    chunk_delay_ms: int | None = None
    ending: Ending = Ending.WHOLE
    tiny_writes: bool = False
    """Send the stream in pieces of a few bytes, each in a write of its own."""
    fail_times: int = 0
    """So many times this body is answered by `FLAKY` first."""


def refusal(problem: Problem) -> Answer:
    """The OpenAI-shaped error answer to a request with a problem."""
    return Answer(problem.status, (msgspec.json.encode(problem.body),), headers=problem.headers)


_FAULT = Problem(500, "The server had an error while processing your request.", kind="server_error")
FLAKY = refusal(_FAULT)
_ERRORS = {
    "fail-500": _FAULT,
    "429": Problem(
        429,
        "Rate limit reached for requests.",
        kind="requests",
        code="rate_limit_exceeded",
        headers=(("retry-after", "1"),),
    ),
    "refuse-400": Problem(
        400,
        "Unsupported value: 'temperature' does not support this value with this model.",
        param="temperature",
        code="unsupported_value",
    ),
}


def refuse_on_purpose(model: str) -> None:
    """Raises the Problem that a model always has."""
    if model in _ERRORS:
        raise _ERRORS[model]


def answer(body: bytes) -> Answer:
    """The answer to a chat request. Raises Problem (400, 404) where the request is malformed."""
    ask, prompt_tokens = parse(body)
    controls = ask.mock or Controls()
    made, reasoning = choices(ask)
    if ask.model in _ERRORS:
        return replace(refusal(_ERRORS[ask.model]), delay_ms=controls.delay_ms)
    usage = _usage(ask, controls, prompt_tokens, made, reasoning)
    slow = SLOW_MS if ask.model == "slow-first-byte" else None
    whole = Answer(
        200,
        (),
        stream=bool(ask.stream),
        delay_ms=controls.delay_ms if controls.delay_ms is not None else slow,
        chunk_delay_ms=controls.chunk_delay_ms,
        fail_times=controls.fail_times if ask.model == "flaky" else 0,
    )
    return _streamed(whole, ask, controls, made, usage) if ask.stream else _plain(whole, ask, made, usage)


def stamp(serial: bytes, now: int, stream: bool) -> bytes:
    """What takes the place of STAMP: the rest of the id, the kind of object and the time."""
    kind = b"chat.completion.chunk" if stream else b"chat.completion"
    return b'%b","object":"%b","created":%d' % (serial, kind, now)


def models(created: int) -> dict[str, Any]:
    """The body of GET /v1/models."""
    names = (*MODELS, *FAILURES)
    return {"object": "list", "data": [model(name, created) for name in names]}


def model(name: str, created: int) -> dict[str, Any]:
    """One entry of the list of models."""
    return {"id": name, "object": "model", "created": created, "owned_by": "modelfaucet-mock"}


def _usage(ask: Ask, controls: Controls, prompt_tokens: int, made: list[Choice], reasoning: int) -> dict[str, Any]:
    completion = sum(choice.tokens for choice in made) + reasoning * len(made)
    times = 10 if ask.model == "lies-about-usage" else 1
    return {
        "prompt_tokens": prompt_tokens * times,
        "completion_tokens": completion * times,
        "total_tokens": (prompt_tokens + completion) * times,
        "prompt_tokens_details": {
            "cached_tokens": min(controls.cached_tokens or 0, prompt_tokens),
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": reasoning * len(made),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _stamped(fields: dict[str, Any]) -> bytes:
    return b'{"id":"chatcmpl-mock-' + STAMP + b"," + msgspec.json.encode(fields)[1:]


def _plain(whole: Answer, ask: Ask, made: list[Choice], usage: dict[str, Any]) -> Answer:
    if ask.model == "stall":
        return replace(whole, ending=Ending.STALL)
    if ask.model == "200-with-error-body":
        return replace(whole, steps=(msgspec.json.encode(_FAULT.body),))
    fields: dict[str, Any] = {
        "model": ask.model,
        "choices": [_plain_choice(index, choice, ask) for index, choice in enumerate(made)],
    }
    if ask.model != "no-usage":
        fields["usage"] = usage
    fields |= {"service_tier": "default", "system_fingerprint": _FINGERPRINT}
    ending = Ending.CUT if ask.model == "cut-mid-stream" else Ending.WHOLE
    return replace(whole, steps=(_stamped(fields),), ending=ending)


def _plain_choice(index: int, choice: Choice, ask: Ask) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.call is not None:
        function = {"name": choice.call.name, "arguments": choice.call.arguments}
        message["content"] = None
        message["tool_calls"] = [{"id": choice.call.id, "type": "function", "function": function}]
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(fake_text.pieces(choice.text), ask) if ask.logprobs else None,
        "finish_reason": choice.finish,
    }


def _logprobs(tokens: list[str], ask: Ask) -> dict[str, Any]:
    """Plausible log probabilities, the same for the same token."""
    content = []
    for token in tokens:
        weight = sum(token.encode("utf-8", "replace")) % 97
        first = _logprob(token, -weight / 400)
        others = [_logprob(f"{token}{place}", -2.0 - place) for place in range(1, ask.top_logprobs or 0)]
        content.append({**first, "top_logprobs": [first, *others] if ask.top_logprobs else []})
    return {"content": content, "refusal": None}


def _logprob(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "replace"))}


def _streamed(whole: Answer, ask: Ask, controls: Controls, made: list[Choice], usage: dict[str, Any]) -> Answer:
    if ask.model == "stall":
        return replace(whole, ending=Ending.STALL)
    asked = ask.stream_options is not None and bool(ask.stream_options.include_usage)
    reports = asked and ask.model != "no-usage"
    empty = {"usage": None} if reports else {}
    roles = [_event(ask, [_delta(i, _role(choice), ask)], empty) for i, choice in enumerate(made)]
    contents = list(_contents(ask, controls, made, empty))
    if ask.model == "cut-mid-stream":
        half = len(contents) // 2
        torn = (contents[half:] or roles)[0]
        return replace(whole, steps=(*roles, *contents[:half], torn[: len(torn) // 2]), ending=Ending.CUT)
    if ask.model == "200-with-error-body":
        broken = b"data: " + msgspec.json.encode(_FAULT.body) + b"\n\n"
        return replace(whole, steps=(*roles, *contents[: (len(contents) + 1) // 2], broken))
    first = {**usage, "completion_tokens": usage["completion_tokens"] // 2}
    first["total_tokens"] = first["prompt_tokens"] + first["completion_tokens"]
    early = {"usage": first} if reports and ask.model == "usage-twice" else empty
    ends = [
        _event(ask, [_delta(i, {}, ask, finish=choice.finish)], early if i == len(made) - 1 else empty)
        for i, choice in enumerate(made)
    ]
    if reports:
        ends.append(_event(ask, [], {"usage": usage}))
    steps = (*roles, *contents, *ends, _DONE)
    if ask.model == "crlf-sse":
        return replace(whole, steps=tuple(_awkward(step) for step in steps), tiny_writes=True)
    return replace(whole, steps=steps)


def _event(ask: Ask, deltas: list[dict[str, Any]], more: dict[str, Any]) -> bytes:
    fields = {
        "model": ask.model,
        "service_tier": "default",
        "system_fingerprint": _FINGERPRINT,
        "choices": deltas,
        **more,
    }
    return b"data: " + _stamped(fields) + b"\n\n"


def _delta(
    index: int, delta: dict[str, Any], ask: Ask, *, tokens: list[str] | None = None, finish: str | None = None
) -> dict[str, Any]:
    logprobs = _logprobs(tokens, ask) if ask.logprobs and tokens is not None else None
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _role(choice: Choice) -> dict[str, Any]:
    delta: dict[str, Any] = {"role": "assistant", "content": "" if choice.call is None else None}
    if choice.call is None:
        return {**delta, "refusal": None}
    function = {"name": choice.call.name, "arguments": ""}
    call = {"index": 0, "id": choice.call.id, "type": "function", "function": function}
    return {**delta, "tool_calls": [call]}


def _contents(ask: Ask, controls: Controls, made: list[Choice], empty: dict[str, Any]) -> Iterator[bytes]:
    """The content events of all choices, taking turns."""
    rows = [cut_in_chunks(choice, controls.chunks, bool(ask.logprobs)) for choice in made]
    for turn in range(max(map(len, rows))):
        for index, row in enumerate(rows):
            if turn >= len(row):
                continue
            chunk = "".join(row[turn])
            if made[index].call is None:
                yield _event(ask, [_delta(index, {"content": chunk}, ask, tokens=row[turn])], empty)
                continue
            fragment = {"index": 0, "function": {"arguments": chunk}}
            yield _event(ask, [_delta(index, {"tool_calls": [fragment]}, ask)], empty)


def cut_in_chunks(choice: Choice, wanted: int | None, whole_tokens: bool) -> list[list[str]]:
    """The text or the arguments of a choice, cut evenly: between tokens where there are enough of them."""
    if choice.call is not None:
        units = list(choice.call.arguments)
        total = wanted or max(2, min(DEFAULT_CHUNKS, len(units) // 8))
    else:
        units = fake_text.pieces(choice.text)
        if wanted is not None and wanted > len(units) and not whole_tokens:
            units = list(choice.text)
        total = wanted or DEFAULT_CHUNKS
    total = min(total, len(units))
    return [units[i * len(units) // total : (i + 1) * len(units) // total] for i in range(total)]


def _awkward(event: bytes) -> bytes:
    """The same event with CRLF ends, a comment before it and its data on two lines."""
    first, comma, rest = event.rstrip(b"\n").partition(STAMP + b",")
    lines = first + comma + b"\r\ndata: " + rest if comma else first
    return b": keep-alive\r\n" + lines + b"\r\n\r\n"
