"""Server-sent events: cut at event ends, wherever the reads happened to cut, and the data of each.

Format: WHATWG HTML §9.2 (event streams). Not here: what an event's data means.
"""

from __future__ import annotations

EVENT_BYTES_MAX = 4 << 20
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


def payload(event: bytes) -> bytes | None:
    """The data of an event; None for a comment or an event without data."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and event[-3] != 13:
        return event[6:-2]
    lines = []
    for line in event.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        if line.startswith(b"data:"):
            lines.append(line[6:] if line[5:6] == b" " else line[5:])
    return b"\n".join(lines) if lines else None
