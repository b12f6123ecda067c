"""Stop seven: provider events to client bytes, counting. The last event waits until the money is settled.

Events are forwarded as they come. From an event that finishes a choice on, events are kept back until another
content event proves that the stream goes on, or until the end: the client never sees a finished answer that
isn't paid for. Not here: what an answer costs, and what to do when the stream breaks (`chat.py`).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import msgspec

from faucet.gateway.attempt import Answering
from faucet.gateway.exchange import Exchange
from faucet.gateway.sse import DONE, Chunk, EventSplitter, EventTooLong, decode_chunk, payload
from faucet.kit.upstream import UpstreamError

DRAIN_BYTES_MAX = 16 << 20


@dataclass(slots=True)
class Streamed:
    """What a stream has given so far."""

    texts: dict[Hashable, list[str]] = field(default_factory=dict)
    """The generated text by choice and part, for counting where no usage is reported."""
    usage: object = None
    usage_event: bytes | None = None
    """The provider's own event that only reports usage."""
    finished: bool = False
    """The provider said that it is done."""
    failed: bool = False
    sent_content: bool = False
    kept: list[bytes] = field(default_factory=list)
    """Events held back until settlement."""
    record: list[bytes] | None = None
    """Everything sent, where the reply must be kept for a repeated Idempotency-Key."""

    @property
    def has_text(self) -> bool:
        return any(self.texts.values())


class Relay:
    """One stream from a provider to a client."""

    def __init__(
        self,
        exchange: Exchange,
        answering: Answering,
        chat_id: str,
        *,
        record: bool,
    ) -> None:
        self._exchange = exchange
        self._answering = answering
        self._splitter = EventSplitter()
        self._new_id = b'"id":"' + chat_id.encode() + b'"'
        self._old_ids: tuple[bytes, ...] = ()
        self.streamed = Streamed(record=[] if record else None)

    async def run(self) -> Streamed:
        """Forward until the provider is done, it fails, or the client leaves."""
        streamed = self.streamed
        response = self._answering.response
        exchange = self._exchange
        chunk: bytes | None = self._answering.first
        drained = 0
        try:
            while chunk is not None:
                out = self._take(chunk)
                if out:
                    if streamed.record is not None:
                        streamed.record.append(out)
                    await exchange.events(out)
                if streamed.finished or streamed.failed:
                    break
                if exchange.gone:
                    # Only reached where cancelling doesn't stop the bill: read on, up to a bound.
                    drained += len(chunk)
                    if drained > DRAIN_BYTES_MAX:
                        break
                chunk = await response.chunk()
        except (UpstreamError, EventTooLong):
            streamed.failed = True
        if not streamed.finished and not streamed.failed:
            # The body ended without [DONE]; with a finish reason seen it is complete all the same.
            streamed.finished = bool(streamed.kept)
            streamed.failed = not streamed.finished
        if streamed.failed or exchange.gone:
            response.cancel()
        return streamed

    def _take(self, data: bytes) -> bytes:
        """Read whole events; return the bytes that may leave now."""
        streamed = self.streamed
        out: list[bytes] = []
        for event in self._splitter.feed(data):
            body = payload(event)
            if body is None:
                out.append(event)  # comments keep the connection alive on the client's side too
                continue
            if body == DONE:
                streamed.finished = True
                break
            try:
                chunk = decode_chunk(body)
            except msgspec.MsgspecError:
                out.append(event)
                continue
            if chunk.error is not None:
                streamed.failed = True
                break
            self._sort(event, chunk, out)
        return b"".join(out)

    def _sort(self, event: bytes, chunk: Chunk, out: list[bytes]) -> None:
        """Forward one event, or keep it back; remember what it says."""
        streamed = self.streamed
        choices = chunk.choices
        if chunk.usage is not None:
            streamed.usage = chunk.usage
        if not choices:
            if chunk.usage is None:
                out.append(self._renamed(event, chunk.id))
            else:
                streamed.usage_event = event
            return
        finishing = False
        for choice in choices:
            if choice.finish_reason is not None:
                finishing = True
            delta = choice.delta
            if delta is not None:
                if type(delta.content) is str:
                    if delta.content:
                        self._text(choice.index, delta.content)
                else:
                    self._unusual(choice.index, delta)
        event = self._renamed(event, chunk.id)
        if finishing:
            streamed.kept.append(event)
        else:
            if streamed.kept:
                out.extend(streamed.kept)
                streamed.kept.clear()
            out.append(event)

    def _text(self, part: Hashable, text: str) -> None:
        texts = self.streamed.texts.get(part)
        if texts is None:
            self.streamed.texts[part] = [text]
        else:
            texts.append(text)

    def _unusual(self, index: int, delta: object) -> None:
        """Text that isn't content: thinking, refusals, and the names and arguments of tool calls."""
        for name in ("refusal", "reasoning_content", "reasoning"):
            value = getattr(delta, name)
            if isinstance(value, str) and value:
                self._text((index, name), value)
        calls = getattr(delta, "tool_calls", None)
        call = getattr(delta, "function_call", None)
        for each in [*(calls if isinstance(calls, list) else []), {"function": call}]:
            function = each.get("function") if isinstance(each, dict) else None
            if isinstance(function, dict):
                place = each.get("index")
                place = place if isinstance(place, int) else None
                for word in ("name", "arguments"):
                    if isinstance(function.get(word), str) and function[word]:
                        self._text((index, word, place), function[word])

    def _renamed(self, event: bytes, old: object) -> bytes:
        """The event under our id. A provider repeats one id, so its spellings are worked out once."""
        if not isinstance(old, str):
            return event
        if not self._old_ids or self._old_ids[0] != b'"id":"' + old.encode() + b'"':
            quoted = old.encode()
            self._old_ids = (b'"id":"' + quoted + b'"', b'"id": "' + quoted + b'"')
        for spelling in self._old_ids:
            if spelling in event:
                return event.replace(spelling, self._new_id, 1)
        return event
