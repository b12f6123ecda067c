"""Splitting a provider's event stream: what comes out depends on the bytes, never on how they were cut."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faucet.gateway.sse import DONE, decode_chunk
from faucet.kit.events import EVENT_BYTES_MAX, EventSplitter, EventTooLong, payload

ENDS = {"lf": [b"\n"], "crlf": [b"\r\n"], "cr": [b"\r"], "mixed": [b"\n", b"\r\n"]}
texts = st.text(st.characters(blacklist_characters="\r\n\x00", blacklist_categories=("Cs",)), max_size=12)
contents = st.lists(texts.map(str.encode), min_size=1, max_size=3)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes | None]]:
    """The bytes of a stream, and the data of each of its events; None for those that are comments only."""
    ends = st.sampled_from(ENDS[draw(st.sampled_from(sorted(ENDS)))])
    stream, expected = b"", []
    for lines in draw(st.lists(st.one_of(contents, st.none()), max_size=6)):
        if draw(st.booleans()) or lines is None:
            stream += b": keep-alive" + draw(ends)
        for line in lines or ():
            space = b" " if line.startswith(b" ") or draw(st.booleans()) else b""
            stream += b"data:" + space + line + draw(ends)
        stream += draw(ends)
        expected.append(None if lines is None else b"\n".join(lines))
    return stream, expected


def fed(stream: bytes, cuts: list[int]) -> list[bytes]:
    """The events of a stream that arrives cut at these places."""
    splitter = EventSplitter()
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    events = [event for a, b in zip(places, places[1:], strict=False) for event in splitter.feed(stream[a:b])]
    assert b"".join(events) + splitter.rest == stream, "bytes were lost or made up"
    return events


@given(streams(), st.lists(st.integers(0, 1000), max_size=8))
def test_any_cut_gives_the_same_events(made: tuple[bytes, list[bytes | None]], cuts: list[int]) -> None:
    """An event would be lost, doubled or torn where a network happens to cut it."""
    stream, expected = made
    assert [payload(event) for event in fed(stream, cuts)] == expected
    assert [payload(event) for event in fed(stream, list(range(len(stream))))] == expected, "byte by byte"


def test_bytes_are_kept_as_they_came() -> None:
    """A client would not see what its provider wrote."""
    stream = b': hi\ndata:{"a":1}\n\nevent: x\nid: 7\ndata: two\ndata:  lines\n\nretry: 10\n\ndata: [DONE]\n\n'
    events = fed(stream, [])
    assert b"".join(events) == stream
    assert [payload(event) for event in events] == [b'{"a":1}', b"two\n lines", None, DONE]


def test_what_has_not_ended_is_no_event() -> None:
    """Half an event would be read as a whole one."""
    splitter = EventSplitter()
    assert splitter.feed(b"data: [DONE]\n") == [] and splitter.rest == b"data: [DONE]\n"
    assert splitter.feed(b"\r") == []
    assert splitter.feed(b"\n") == [b"data: [DONE]\n\r\n"] and splitter.rest == b""


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n"])
def test_the_end_is_recognised_with_every_line_end(end: bytes) -> None:
    """A stream with other line ends would never be done."""
    [event] = EventSplitter().feed(b"data: [DONE]" + end)
    assert payload(event) == DONE


@pytest.mark.parametrize("piece", [b"x" * 65_536, b"x\r" * 32_768])
def test_an_event_without_end_is_refused(piece: bytes) -> None:
    """A provider could fill the memory with one event."""
    splitter = EventSplitter()
    fed_bytes = 0
    with pytest.raises(EventTooLong):
        while fed_bytes <= EVENT_BYTES_MAX:
            splitter.feed(piece)
            fed_bytes += len(piece)
    assert fed_bytes <= EVENT_BYTES_MAX


def test_a_chunk_is_read_whatever_else_is_in_it() -> None:
    """New fields of a provider would stop its streams, or its usage be overlooked."""
    chunk = decode_chunk(
        b'{"id":"x","new":{"a":[1]},"choices":[{"index":1,"delta":{"content":"hi","x":1},"finish_reason":null}],'
        b'"usage":{"prompt_tokens":1}}'
    )
    assert chunk.choices is not None and chunk.choices[0].delta is not None
    assert (chunk.choices[0].index, chunk.choices[0].delta.content) == (1, "hi")
    assert chunk.report == b'{"prompt_tokens":1}' and chunk.error is None
    assert decode_chunk(b'{"error":{"message":"no"}}').error == {"message": "no"}
    with pytest.raises(msgspec.DecodeError):
        decode_chunk(b"{")
