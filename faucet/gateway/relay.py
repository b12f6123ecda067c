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
from faucet.gateway.sse import DONE, NO_USAGE, Chunk, decode_chunk, decode_chunks, plain_payloads
from faucet.kit.events import EventSplitter, EventTooLong, payload, split_events
from faucet.kit.upstream import UpstreamError

DRAIN_BYTES_MAX = 16 << 20


@dataclass(slots=True)
class Streamed:
    """What a stream has given so far."""

    texts: dict[Hashable, list[str]] = field(default_factory=dict)
    """The generated text by choice and part, for counting where no usage is reported."""
    usage: bytes | None = None
    """The provider's last report, as it came."""
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
        whole = self._splitter.whole(data)
        if not whole:
            return b""
        bodies = plain_payloads(whole)
        if bodies is not None:
            ends = bodies[-1] == DONE
            try:
                chunks = decode_chunks(b"[%b]" % b",".join(bodies[:-1] if ends else bodies))
            except msgspec.MsgspecError:
                chunks = []
            if len(chunks) == len(bodies) - ends:
                return self._renamed(self._take_plain(whole, bodies, chunks, ends))
        return self._renamed(self._take_each(whole))

    def _take_plain(self, whole: bytes, bodies: list[bytes], chunks: list[Chunk], ends: bool) -> bytes:
        """Events of the usual form, decoded together: runs of mere text leave as they are, without being cut up."""
        streamed = self.streamed
        out: list[bytes] = []
        texts: list[str] = []
        begin = end = 0
        for body, chunk in zip(bodies, chunks, strict=False):
            here = end
            end += len(body) + 8
            text = _mere_text(chunk)
            if text and self._old_id is not None and not streamed.kept:
                texts.append(text)
                continue
            if begin < here:
                out.append(whole[begin:here])
            begin = end
            if texts:
                streamed.texts.setdefault(0, []).extend(texts)
                texts.clear()
            if chunk.error is not None:
                streamed.failed = True
                return b"".join(out)
            self._sort(whole[here:end], chunk, out)
        if texts:
            streamed.texts.setdefault(0, []).extend(texts)
        if begin < end:
            out.append(whole[begin:end])
        streamed.finished = streamed.finished or ends
        return b"".join(out)

    def _take_each(self, whole: bytes) -> bytes:
        """Any other events, one by one."""
        streamed = self.streamed
        out: list[bytes] = []
        for event in split_events(whole):
            body = payload(event)
            chunk = _decoded(body)
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
        return b"".join(out)

    def _sort(self, event: bytes, chunk: Chunk, out: list[bytes]) -> None:
        """Forward one event, or keep it back; remember what it says."""
        streamed = self.streamed
        choices = chunk.choices
        report = chunk.report
        if report is not None:
            streamed.usage = report
        if self._old_id is None and isinstance(chunk.id, str):
            self._learn_id(chunk.id, event)
        if not choices:
            if report is None:
                out.append(event)
            return
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

    def _learn_id(self, old: str, event: bytes) -> None:
        """A provider repeats one id in all chunks of a stream; find out once how it is spelt."""
        self._old_id = old
        text = msgspec.json.encode(old)
        both = (b'"id":' + text, b'"id": ' + text)
        self._spellings = tuple(spelling for spelling in both if spelling in event) or both

    def _renamed(self, data: bytes) -> bytes:
        """The events under our id. Inside a string the quotes would be escaped, so only the field can match."""
        for spelling in self._spellings:
            data = data.replace(spelling, self._new_id)
        return data


def _mere_text(chunk: Chunk) -> str | None:
    """The text of a chunk that says nothing else; None for any other."""
    choices = chunk.choices
    if not choices or len(choices) > 1 or chunk.error is not None:
        return None
    choice = choices[0]
    if choice.finish_reason is not None or choice.index != 0 or choice.delta is None:
        return None
    if chunk.usage is not NO_USAGE and chunk.report is not None:
        return None
    content = choice.delta.content
    return content if type(content) is str else None


def _decoded(body: bytes | None) -> Chunk | None:
    """The chunk in a payload; None for what is none: comments, the end, and what we can't read, which is forwarded
    as it is, for it is between provider and client."""
    if body is None or body[:1] != b"{":
        return None
    try:
        return decode_chunk(body)
    except msgspec.MsgspecError:
        return None
