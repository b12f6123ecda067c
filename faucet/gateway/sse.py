"""OpenAI's chunks inside of a provider's events: read what money needs, keep the bytes.

The events leave as they came, but for the id. Not here: cutting a stream into events (`kit.events`).
"""

from __future__ import annotations

from typing import Any

import msgspec

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


def plain_payloads(whole: bytes) -> list[bytes] | None:
    """The data of whole events that are all of the usual form, one line `data: …` each; else None.

    With these, an event is eight bytes longer than its data.
    """
    if whole[:6] != b"data: " or whole[-2:] != b"\n\n" or b"\r" in whole:
        return None
    bodies = whole[6:-2].split(b"\n\ndata: ")
    return bodies if whole.count(b"\n") == 2 * len(bodies) else None
