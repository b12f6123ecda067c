"""POST /v1/responses: OpenAI's Responses API in front of any provider, stateless.

Format: OpenAI's API reference, "The response object" and "Streaming events". Every event carries the next
`sequence_number`; the last one, `response.completed` or `response.incomplete`, leaves when the answer is paid.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from faucet.gateway.faces import responses_ask
from faucet.gateway.faces.face import ChunkReader, Fields, compact, deltas, encode
from faucet.gateway.wire import error_body
from faucet.kit.errors import Refusal

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_TOLD_BACK = ("instructions", "max_output_tokens", "temperature", "top_p", "top_logprobs", "reasoning", "metadata")


class _Item:
    """One item of the output while it is told."""

    def __init__(self, kind: str, item_id: str, call: Fields | None = None) -> None:
        self.kind = kind
        self.texts: list[str] = []
        self.logprobs: list[Any] = []
        function = {} if call is None else call.get("function") or {}
        self.id = item_id
        self.call_id = "" if call is None else call.get("id") or item_id
        self.name = function.get("name") or ""

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def part(self, text: str) -> Fields:
        """What stands in the item's content."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self.logprobs}

    def shown(self, status: str) -> Fields:
        """The item as it stands now."""
        begun = status == "in_progress"
        if self.kind == "call":
            return {
                "id": self.id,
                "type": "function_call",
                "status": status,
                "call_id": self.call_id,
                "name": self.name,
                "arguments": "" if begun else self.text,
            }
        content = [] if begun else [self.part(self.text)]
        if self.kind == "reasoning":
            return {"id": self.id, "type": "reasoning", "summary": [], "content": content, "status": status}
        return {"id": self.id, "type": "message", "role": "assistant", "status": status, "content": content}


_WORDS = {
    "call": "function_call_arguments",
    "reasoning": "reasoning_text",
    "refusal": "refusal",
    "text": "output_text",
}


class ResponsesFace:
    """One request under the shape of Responses."""

    def __init__(self) -> None:
        self._reader = ChunkReader()
        self._asked: Fields = {}
        self._sequence = 0
        self._response: Fields | None = None
        self._items: list[Fields] = []
        self._item: _Item | None = None
        self._place: tuple[str, int] | None = None
        self._finish: str | None = None

    def chat(self, body: bytes) -> bytes:
        self._asked = responses_ask.read(body)
        return responses_ask.chat_of(self._asked)

    def reply(self, body: bytes) -> bytes:
        answer = msgspec.json.decode(body)
        response = self._begin(answer)
        for kind, value in deltas(answer):
            if kind == "finish":
                self._finish = value
            elif kind != "thought":  # this API has no words for another provider's signature
                self._tell(kind, value)
        self._end_item(None)
        self._logprobs_of(answer)
        return encode(self._finished(response, answer))

    def events(self, data: bytes, *, last: bool) -> bytes:
        chunks, out = self._reader.feed(data)
        for chunk in chunks:
            error = chunk.get("error")
            if error is not None:
                self._fail(error, chunk, out)
                return b"".join(out)
            if self._response is None:
                response = self._begin(chunk)
                out.append(self._event("response.created", response=response))
                out.append(self._event("response.in_progress", response=response))
            assert self._response is not None
            for word in ("usage", "modelfaucet"):
                if chunk.get(word) is not None:
                    self._response[word] = chunk[word]
            for kind, value in deltas(chunk):
                if kind not in ("finish", "thought"):
                    self._tell(kind, value, out)
                elif kind == "finish" and value != "error":
                    self._finish = value
        if last and self._response is not None and self._finish is not None:
            self._end_item(out)
            done = self._finished(self._response, self._response)
            out.append(self._event(f"response.{done['status']}", response=done))
        return b"".join(out)

    def error(self, refusal: Refusal, request_id: str) -> bytes:
        return error_body(refusal, request_id)

    # ── telling ──

    def _tell(self, kind: str, value: Any, out: list[bytes] | None = None) -> None:
        place = (kind, value["index"] if kind == "call" else 0)
        if self._place != place or self._item is None:
            self._end_item(out)
            self._place = place
            self._item = self._begin_item(kind, value, out)
        item = self._item
        if kind == "call":
            function = value.get("function")
            value = function.get("arguments") if isinstance(function, dict) else None
            if not isinstance(value, str) or not value:
                return
        item.texts.append(value)
        if out is not None:
            more: Fields = {"logprobs": []} if kind == "text" else {}
            out.append(self._event(f"response.{_WORDS[kind]}.delta", **self._where(item), delta=value, **more))

    def _begin_item(self, kind: str, value: Any, out: list[bytes] | None) -> _Item:
        assert self._response is not None
        prefix = {"call": "fc_", "reasoning": "rs_"}.get(kind, "msg_")
        item_id = f"{prefix}{self._response['id'].removeprefix('resp_')}_{len(self._items)}"
        item = _Item(kind, item_id, value if kind == "call" else None)
        if out is not None:
            at = len(self._items)
            out.append(self._event("response.output_item.added", output_index=at, item=item.shown("in_progress")))
            if kind != "call":
                out.append(self._event("response.content_part.added", **self._where(item), part=item.part("")))
        return item

    def _end_item(self, out: list[bytes] | None) -> None:
        item = self._item
        if item is None:
            return
        text = item.text
        shown = item.shown("incomplete" if self._finish in _INCOMPLETE else "completed")
        if out is not None:
            where = self._where(item)
            word = _WORDS[item.kind]
            if item.kind == "call":
                out.append(self._event(f"response.{word}.done", **where, name=item.name, arguments=text))
            else:
                field = "refusal" if item.kind == "refusal" else "text"
                more: Fields = {"logprobs": []} if item.kind == "text" else {}
                out.append(self._event(f"response.{word}.done", **where, **{field: text}, **more))
                out.append(self._event("response.content_part.done", **where, part=item.part(text)))
            out.append(self._event("response.output_item.done", output_index=len(self._items), item=shown))
        self._items.append(shown)
        self._item = None

    def _where(self, item: _Item) -> Fields:
        where: Fields = {"item_id": item.id, "output_index": len(self._items)}
        return where if item.kind == "call" else {**where, "content_index": 0}

    def _fail(self, error: Fields, chunk: Fields, out: list[bytes]) -> None:
        told = {"code": "server_error", "message": str(error.get("message"))}
        if self._response is None:
            out.append(self._event("error", code=error.get("code"), message=told["message"], param=None))
            return
        self._end_item(out)
        failed = {**self._response, "status": "failed", "error": told, "output": self._items}
        out.append(self._event("response.failed", response=_usage_renamed(failed)))

    def _event(self, event: str, /, **fields: Any) -> bytes:
        data = encode({"type": event, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        return b"event: %b\ndata: %b\n\n" % (event.encode(), data)

    # ── the response ──

    def _begin(self, answer: Fields) -> Fields:
        asked = self._asked
        created = answer.get("created")
        self._response = {
            "id": "resp_" + str(answer.get("id") or "").removeprefix("chatcmpl_"),
            "object": "response",
            "created_at": created if isinstance(created, int) else int(time.time()),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": answer.get("model"),
            "output": [],
            "parallel_tool_calls": asked.get("parallel_tool_calls") is not False,
            "previous_response_id": None,
            "store": False,
            "text": asked.get("text") or {"format": {"type": "text"}},
            "tool_choice": asked.get("tool_choice") or "auto",
            "tools": asked.get("tools") or [],
            "truncation": "disabled",
            "usage": None,
            **{name: asked.get(name) for name in _TOLD_BACK},
        }
        return self._response

    def _finished(self, response: Fields, answer: Fields) -> Fields:
        reason = _INCOMPLETE.get(self._finish or "")
        return _usage_renamed(
            {
                **response,
                "status": "incomplete" if reason else "completed",
                "incomplete_details": {"reason": reason} if reason else None,
                "output": self._items,
                "usage": answer.get("usage"),
                **compact(modelfaucet=answer.get("modelfaucet")),
            }
        )

    def _logprobs_of(self, answer: Fields) -> None:
        """The log probabilities of a complete answer's text."""
        choices = answer.get("choices") or [{}]
        told = (choices[0].get("logprobs") or {}).get("content")
        if told:
            for item in self._items:
                for part in item.get("content", ()):
                    if part["type"] == "output_text":
                        part["logprobs"] = told


def _usage_renamed(response: Fields) -> Fields:
    """A usage report of chat completions in the words of Responses."""
    report = response.get("usage")
    if not isinstance(report, dict):
        return response
    asked, given = report.get("prompt_tokens") or 0, report.get("completion_tokens") or 0
    before, after = report.get("prompt_tokens_details") or {}, report.get("completion_tokens_details") or {}
    usage = {
        "input_tokens": asked,
        "input_tokens_details": {
            "cached_tokens": before.get("cached_tokens") or 0,
            "cache_write_tokens": before.get("cache_write_tokens") or 0,
        },
        "output_tokens": given,
        "output_tokens_details": {"reasoning_tokens": after.get("reasoning_tokens") or 0},
        "total_tokens": asked + given,
        **compact(cost=report.get("cost")),
    }
    return {**response, "usage": usage}
