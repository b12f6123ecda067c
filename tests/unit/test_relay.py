"""Streams on their way: however they are cut and spelt, the client gets the same bytes and the books the same text."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from faucet.gateway.attempt import Answering
from faucet.gateway.exchange import Exchange
from faucet.gateway.relay import Relay, Streamed

ID = "chatcmpl-theirs"


class _Body:
    """A provider's body that comes in these pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    async def chunk(self) -> bytes | None:
        return self.pieces.pop(0) if self.pieces else None

    def cancel(self) -> None:
        self.pieces.clear()


class _Client:
    """A client that keeps what it gets."""

    gone = False

    def __init__(self) -> None:
        self.got = b""

    async def events(self, data: bytes) -> None:
        self.got += data


class LongWay(Relay):
    """Takes every event one by one."""

    def _take(self, data: bytes) -> bytes:
        return self._renamed(self._take_each(self._splitter.whole(data)))


def relayed(pieces: list[bytes], kind: type[Relay] = Relay) -> tuple[bytes, Streamed]:
    """What a client got at once, and what the relay knows, of a stream in these pieces."""
    client = _Client()
    answering = Answering(cast(Any, None), cast(Any, _Body(pieces[1:])), pieces[0], None, 0)
    ours = kind(cast(Exchange, client), cast(Any, answering), "chatcmpl_mf_ours", record=False)
    streamed = asyncio.run(ours.run())
    return client.got, streamed


def event(body: dict[str, Any] | str, spacing: str = "") -> bytes:
    text = body if isinstance(body, str) else json.dumps(body, separators=("," + spacing, ":" + spacing))
    return f"data: {text}\n\n".encode()


def chunk(**more: Any) -> dict[str, Any]:
    choice = {"index": more.pop("index", 0), "delta": more.pop("delta", {}), "finish_reason": more.pop("finish", None)}
    return {"id": ID, "object": "chat.completion.chunk", "choices": [choice], **more}


texts = st.text(min_size=1, max_size=6).map(lambda text: chunk(delta={"content": text}))
others = st.sampled_from(
    [
        chunk(delta={"role": "assistant", "content": ""}),
        chunk(delta={"content": "second"}, index=1),
        chunk(delta={"reasoning_content": "hm"}),
        chunk(delta={"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}),
        chunk(delta={"content": "x"}, usage=None),
        chunk(delta={"content": "x"}, usage={"prompt_tokens": 1, "completion_tokens": 2}),
        chunk(finish="stop"),
        {"id": ID, "choices": []},
        {"id": ID, "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
    ]
)
streams = st.lists(st.one_of(texts, texts, texts, others), max_size=12)


@given(streams, st.booleans(), st.lists(st.integers(0, 2000), max_size=6), st.sampled_from(["", " "]))
def test_runs_of_text_are_relayed_as_one_by_one(
    bodies: list[dict[str, Any]], done: bool, cuts: list[int], spacing: str
) -> None:
    """The short way for plain text would lose, repeat or reorder what the long way forwards, counts or keeps back."""
    whole = b"".join(event(body, spacing) for body in bodies) + (event("[DONE]") if done else b"")
    places = sorted({0, *(cut % (len(whole) + 1) for cut in cuts), len(whole)})
    pieces = [whole[a:b] for a, b in zip(places, places[1:], strict=False)] or [b""]
    got, streamed = relayed(list(pieces))
    expected, reference = relayed(list(pieces), LongWay)
    assert got == expected and streamed == reference
    assert ID.encode() not in got + b"".join(streamed.kept)
    said = [body["choices"][0]["delta"].get("content") for body in bodies if body["choices"]]
    counted = [text for part, found in streamed.texts.items() if isinstance(part, int) for text in found]
    assert sorted(text for text in said if text) == sorted(counted)


def test_an_error_in_the_middle_stops_the_stream_there() -> None:
    """What comes after a provider's error would be taken for an answer."""
    whole = (
        event(chunk(delta={"content": "a"}))
        + event({"error": {"message": "no"}})
        + event(chunk(delta={"content": "b"}))
    )
    got, streamed = relayed([whole])
    assert b'"a"' in got and b'"b"' not in got and streamed.failed and not streamed.finished
    assert streamed.texts == {0: ["a"]}


def test_returns_and_comments_pass() -> None:
    """A provider that ends lines with CR LF, or keeps the line alive, would be cut off."""
    whole = b": still here\r\n\r\n" + event(chunk(delta={"content": "a"})).replace(b"\n", b"\r\n")
    got, streamed = relayed([whole])
    assert got.startswith(b": still here\r\n\r\ndata: {") and got.endswith(b"}\r\n\r\n")
    assert streamed.texts == {0: ["a"]}
