"""POST /v1/messages: Anthropic's Messages API in front of any provider.

Format: Anthropic's API reference, "Messages" and "Streaming messages". The usage of a stream is complete in its
`message_delta`; its `message_start` comes before anything is known.
"""

from __future__ import annotations

from typing import Any

import msgspec

from faucet.gateway.faces.face import ChunkReader, Fields, deltas, encode
from faucet.gateway.faces.messages_ask import chat_of
from faucet.kit.errors import Refusal
from faucet.providers.chat_words import ORDERED_BLOCKS

_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class MessagesFace:
    """One request under Anthropic's shape."""

    def __init__(self) -> None:
        self._reader = ChunkReader()
        self._started = False
        self._blocks = 0
        self._open: tuple[str, int] | None = None
        """The kind of the block that is being told, and which call it is."""
        self._stop: str | None = None
        self._usage: Fields | None = None
        self._note: Any = None

    def chat(self, body: bytes) -> bytes:
        return chat_of(body)

    def reply(self, body: bytes) -> bytes:
        answer = msgspec.json.decode(body)
        told = deltas(answer)
        finish = next((value for kind, value in told if kind == "finish"), "stop")
        # Where the provider signed what was thought, its blocks stand as they came.
        left_out = {"finish", "reasoning"} if any(kind == "thought" for kind, _ in told) else {"finish"}
        content = _ordered(answer) or [
            value if kind == "thought" else _block(kind, value) for kind, value in told if kind not in left_out
        ]
        return encode(
            {
                **_message(answer),
                "content": content,
                "stop_reason": _STOP.get(finish, "end_turn"),
                "usage": usage_of(answer.get("usage")),
                "modelfaucet": answer.get("modelfaucet"),
            }
        )

    def events(self, data: bytes, *, last: bool) -> bytes:
        chunks, out = self._reader.feed(data)
        for chunk in chunks:
            error = chunk.get("error")
            if error is not None:
                out.append(_event("error", {"error": _error_of(error), "request_id": error.get("request_id")}))
                return b"".join(out)
            if not self._started:
                self._started = True
                start = {**_message(chunk), "content": [], "stop_reason": None, "usage": usage_of(None)}
                out.append(_event("message_start", {"message": start}))
            if isinstance(chunk.get("usage"), dict):
                self._usage = chunk["usage"]
                self._note = chunk.get("modelfaucet", self._note)
            for kind, value in deltas(chunk):
                if kind == "thought":
                    self._sign(value, out)
                elif kind != "finish":
                    self._tell(kind, value, out)
                elif value != "error":
                    self._stop = _STOP.get(value, "end_turn")
        if last and self._stop is not None:
            self._close(out)
            delta = {"stop_reason": self._stop, "stop_sequence": None}
            more = {} if self._note is None else {"modelfaucet": self._note}
            out.append(_event("message_delta", {"delta": delta, "usage": usage_of(self._usage), **more}))
            out.append(_event("message_stop", {}))
        return b"".join(out)

    def _tell(self, kind: str, value: Any, out: list[bytes]) -> None:
        place = ("call", value["index"]) if kind == "call" else ("text" if kind == "refusal" else kind, 0)
        if self._open != place:
            self._close(out)
            self._open = place
            begun = _block(kind, value, empty=True)
            out.append(_event("content_block_start", {"index": self._blocks, "content_block": begun}))
        if kind == "call":
            delta: Fields = {"type": "input_json_delta", "partial_json": _function(value).get("arguments") or ""}
            if not delta["partial_json"]:
                return
        elif kind == "reasoning":
            if not value:
                return
            delta = {"type": "thinking_delta", "thinking": value}
        else:
            delta = {"type": "text_delta", "text": value}
        out.append(_event("content_block_delta", {"index": self._blocks, "delta": delta}))

    def _sign(self, block: Fields, out: list[bytes]) -> None:
        """The end of a block of thinking, whose text was told as it came, or all of one that came at once."""
        if block["type"] == "redacted_thinking":
            self._close(out)
            self._open = ("sealed", 0)
            out.append(_event("content_block_start", {"index": self._blocks, "content_block": block}))
        else:
            text = block.get("thinking")
            if self._open != ("reasoning", 0):
                self._tell("reasoning", text if isinstance(text, str) else "", out)
            delta = {"type": "signature_delta", "signature": block["signature"]}
            out.append(_event("content_block_delta", {"index": self._blocks, "delta": delta}))
        self._close(out)

    def _close(self, out: list[bytes]) -> None:
        if self._open is not None:
            out.append(_event("content_block_stop", {"index": self._blocks}))
            self._blocks += 1
            self._open = None

    def error(self, refusal: Refusal, request_id: str) -> bytes:
        told: Fields = {"type": _error_type(refusal.status), "message": refusal.public, "code": refusal.code}
        if refusal.details is not None:
            told["details"] = refusal.details
        return encode({"type": "error", "error": told, "request_id": request_id})


def usage_of(report: Any) -> Fields:
    """A usage report of chat completions in Anthropic's words: there, input excludes what a cache gave or took."""
    usage = report if isinstance(report, dict) else {}
    details = usage.get("prompt_tokens_details") or {}
    read, write = details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0
    shown = {
        "input_tokens": max(0, (usage.get("prompt_tokens") or 0) - read - write),
        "cache_creation_input_tokens": write,
        "cache_read_input_tokens": read,
        "output_tokens": usage.get("completion_tokens") or 0,
    }
    return shown if usage.get("cost") is None else {**shown, "cost": usage["cost"]}


def _message(answer: Fields) -> Fields:
    chat_id = str(answer.get("id") or "")
    return {
        "id": "msg_" + chat_id.removeprefix("chatcmpl_"),
        "type": "message",
        "role": "assistant",
        "model": answer.get("model"),
        "stop_sequence": None,
    }


def _ordered(answer: Fields) -> list[Any] | None:
    """An answer's blocks in the order in which the model made them, where the provider told it."""
    choices = answer.get("choices")
    message = choices[0].get("message") if isinstance(choices, list) and choices else None
    blocks = message.get(ORDERED_BLOCKS) if isinstance(message, dict) else None
    return blocks if isinstance(blocks, list) else None


def _block(kind: str, value: Any, *, empty: bool = False) -> Fields:
    if kind == "reasoning":
        return {"type": "thinking", "thinking": "" if empty else value, "signature": ""}
    if kind == "call":
        function = _function(value)
        return {
            "type": "tool_use",
            "id": value.get("id") or f"call_{value['index']}",
            "name": function.get("name") or "",
            "input": {} if empty else _input(function.get("arguments")),
        }
    return {"type": "text", "text": "" if empty else value}


def _function(call: Fields) -> Fields:
    function = call.get("function")
    return function if isinstance(function, dict) else {}


def _input(arguments: Any) -> Any:
    """A call's arguments as the object that they are; what isn't one is shown as it came."""
    try:
        found = msgspec.json.decode(arguments or "{}")
    except (msgspec.MsgspecError, TypeError):
        found = None
    return found if isinstance(found, dict) else {"arguments": arguments}


def _error_of(error: Fields) -> Fields:
    return {"type": "api_error", "message": error.get("message"), "code": error.get("code")}


def _error_type(status: int) -> str:
    return _ERRORS.get(status, "invalid_request_error" if status < 500 else "api_error")


def _event(name: str, fields: Fields) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode({"type": name, **fields}))
