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
from faucet.gateway.sse import DONE, Chunk, EventSplitter, EventTooLong, decode_chunk, decode_chunks, payload
from faucet.kit.upstream import UpstreamError

DRAIN_BYTES_MAX = 16 << 20


@dataclass(slots=True)
class Streamed:
    """What a stream has given so far."""

    texts: dict[Hashable, list[str]] = field(default_factory=dict)
    """The generated text by choice and part, for counting where no usage is reported."""
    usage: object = None
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
        self._old_id: str | None = None
        self._spellings: tuple[bytes, ...] = ()
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
        events = self._splitter.feed(data)
        bodies = [payload(event) for event in events]
        for event, body, chunk in zip(events, bodies, _decoded(bodies), strict=True):
            if chunk is None:
                if body == DONE:
                    streamed.finished = True
                    break
                out.append(event)  # a comment keeps the connection alive on the client's side too
            elif chunk.error is not None:
                streamed.failed = True
                break
            else:
                self._sort(event, chunk, out)
        return self._renamed(b"".join(out))

    def _sort(self, event: bytes, chunk: Chunk, out: list[bytes]) -> None:
        """Forward one event, or keep it back; remember what it says."""
        streamed = self.streamed
        choices = chunk.choices
        if chunk.usage is not None:
            streamed.usage = chunk.usage
        if not choices:
            if chunk.usage is None:
                out.append(event)
            return
        if self._old_id is None and isinstance(chunk.id, str):
            self._learn_id(chunk.id)
        finishing = False
        for choice in choices:
            if choice.finish_reason is not None:
                finishing = True
            delta = choice.delta
            if delta is not None:
                content = delta.content
                if content and type(content) is str:
                    self._text(choice.index, content)
                else:
                    self._unusual(choice.index, delta)
        if finishing:
            streamed.kept.append(self._renamed(event))
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

    def _learn_id(self, old: str) -> None:
        """A provider repeats one id in all chunks of a stream; find out once how it is spelt."""
        self._old_id = old
        text = msgspec.json.encode(old)
        self._spellings = (b'"id":' + text, b'"id": ' + text)

    def _renamed(self, data: bytes) -> bytes:
        """The events under our id. Inside a string the quotes would be escaped, so only the field can match."""
        for spelling in self._spellings:
            if spelling in data:
                data = data.replace(spelling, self._new_id)
        return data


def _decoded(bodies: list[bytes | None]) -> list[Chunk | None]:
    """The chunks in these payloads; None for what is none (comments, the end, unreadable ones).

    Many at once are read as one JSON array, at half the cost of one by one.
    """
    chunks: list[Chunk | None] = [None] * len(bodies)
    places = [place for place, body in enumerate(bodies) if body is not None and body[:1] == b"{"]
    if len(places) > 2:
        try:
            whole = decode_chunks(b"[" + b",".join([bodies[place] or b"" for place in places]) + b"]")
        except msgspec.MsgspecError:
            whole = []
        if len(whole) == len(places):
            for place, chunk in zip(places, whole, strict=True):
                chunks[place] = chunk
            return chunks
    for place in places:
        try:
            chunks[place] = decode_chunk(bodies[place] or b"")
        except msgspec.MsgspecError:
            pass  # forwarded as it is: what we can't read is between provider and client
    return chunks
