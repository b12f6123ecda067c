"""Server-sent events from a provider: split at event ends, read what money needs, keep the bytes.

The events leave as they came, but for the id. Format: WHATWG HTML §9.2 (event streams); OpenAI's chunks inside.
"""

from __future__ import annotations

from typing import Any

import msgspec

EVENT_BYTES_MAX = 4 << 20


NO_USAGE = msgspec.Raw()
"""What a chunk without that field has."""


class Delta(msgspec.Struct):
    """The text-bearing parts of a chunk's delta."""

    content: Any = None
    refusal: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Any = None
    function_call: Any = None


class Choice(msgspec.Struct):
    """One choice of a chunk."""

    index: int = 0
    delta: Delta | None = None
    finish_reason: Any = None


class Chunk(msgspec.Struct):
    """What we read of a streamed chunk."""

    id: Any = None
    choices: list[Choice] | None = None
    usage: msgspec.Raw = NO_USAGE
    error: Any = None

    @property
    def report(self) -> bytes | None:
        """The usage report as it came, if there is one."""
        if self.usage is NO_USAGE:
            return None
        usage = bytes(self.usage)
        return None if usage == b"null" else usage


decode_chunk = msgspec.json.Decoder(Chunk).decode
decode_chunks = msgspec.json.Decoder(list[Chunk]).decode
DONE = b"[DONE]"
_BLANK_LINES = (b"\r\n\r\n", b"\n\n", b"\r\r", b"\n\r\n")


class EventTooLong(Exception):
    """An event grew beyond any honest size."""


class EventSplitter:
    """Cuts a byte stream into whole events, wherever the reads happened to cut it."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are complete now, each with its ending blank line. Raises EventTooLong."""
        return split_events(self.whole(data))

    def whole(self, data: bytes) -> bytes:
        """The bytes of all events that are complete now. Raises EventTooLong."""
        if self._rest:
            data = self._rest + data
        end = sum(map(len, _split_with_returns(data))) if b"\r" in data else data.rfind(b"\n\n") + 2
        if end < 2:
            self._keep(data)
            return b""
        self._keep(data[end:])
        return data[:end]

    def _keep(self, rest: bytes) -> None:
        if len(rest) > EVENT_BYTES_MAX:
            raise EventTooLong
        self._rest = rest

    @property
    def rest(self) -> bytes:
        """What came after the last whole event."""
        return self._rest


def _split_with_returns(data: bytes) -> list[bytes]:
    """The whole events at the beginning of bytes in which lines may end in CR, LF or both."""
    events = []
    start = 0
    while ends := [(at, at + len(mark)) for mark in _BLANK_LINES if (at := data.find(mark, start)) >= 0]:
        end = min(ends)[1]
        events.append(data[start:end])
        start = end
    return events


def split_events(whole: bytes) -> list[bytes]:
    """Whole events one by one, each with its ending blank line."""
    if not whole:
        return []
    if b"\r" in whole:
        return _split_with_returns(whole)
    return [part + b"\n\n" for part in whole[:-2].split(b"\n\n")]


def plain_payloads(whole: bytes) -> list[bytes] | None:
    """The data of whole events that are all of the usual form, one line `data: …` each; else None.

    With these, an event is eight bytes longer than its data.
    """
    if whole[:6] != b"data: " or whole[-2:] != b"\n\n" or b"\r" in whole:
        return None
    bodies = whole[6:-2].split(b"\n\ndata: ")
    return bodies if whole.count(b"\n") == 2 * len(bodies) else None


def payload(event: bytes) -> bytes | None:
    """The data of an event; None for a comment or an event without data."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and event[-3] != 13:
        return event[6:-2]
    lines = []
    for line in event.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        if line.startswith(b"data:"):
            lines.append(line[6:] if line[5:6] == b" " else line[5:])
    return b"\n".join(lines) if lines else None
