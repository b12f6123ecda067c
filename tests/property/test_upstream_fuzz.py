"""The upstream client's reading of responses, however they are cut, generated or spoiled.

A corpus of scripted responses and Hypothesis drive the real connection through a transport in memory, which decides
where each read ends. aiohttp reads the same corpus from a real socket: where it disagrees, the corpus says so and why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from faucet.kit.upstream import Deadlines, Endpoint, Pool, Response, UpstreamError
from faucet.kit.upstream_pool import Connection, Limits, Origin

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
BODY_LIMIT = 100_000


class Wire(asyncio.Transport):
    """A transport that writes nowhere and remembers what was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return 0


@dataclass(frozen=True)
class Outcome:
    """What a caller learns of a response. `error` is a kind; `reusable`: the connection went back to its pool."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    error: str
    reusable: bool


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """One loop for all examples: a new one each would be most of the work."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def run(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Outcome]) -> Outcome:
    return loop.run_until_complete(work)


async def outcome(pieces: Sequence[bytes], *, eof: bool = True, stream: bool = False) -> Outcome:
    """Let a connection read these pieces, and say what its caller sees."""
    loop = asyncio.get_running_loop()
    origin = Origin("key", True, 1, {}, set())
    connection = Connection(loop, origin, Limits(30.0, 65536, BODY_LIMIT))
    wire = Wire()
    connection.connection_made(wire)
    connection.start(b"GET", b"", bodiless=False, started=loop.time(), deadlines=Deadlines())
    seen: list[bytes] = []
    response: Response | None = None
    try:
        for piece in pieces:
            connection.data_received(piece)
            if response is None and connection.head:
                response = Response(connection)
            if response is not None and stream and connection.parts:
                seen.append(response.chunk_nowait() or b"")
        if eof and not wire.closed:
            connection.eof_received()
        if response is None:
            assert connection.closed, "a response without a head must end in an error once its bytes have ended"
            return Outcome(0, (), b"", connection.error, False)
        headers = tuple(sorted(response.headers.items()))
        try:
            if stream:
                while (more := await response.chunk()) is not None:
                    seen.append(more)
                body = b"".join(seen)
            else:
                body = await response.read()
        except UpstreamError as problem:
            return Outcome(response.status, headers, b"".join(seen), problem.kind, False)
        return Outcome(response.status, headers, body, "", connection in origin.idle)
    finally:
        connection.abort()
        connection.connection_lost(None)


@dataclass(frozen=True)
class Case:
    """A scripted response: its bytes, and what they mean. `aiohttp_differs` names the reason where it does."""

    name: str
    raw: bytes
    status: int = 200
    body: bytes = b""
    error: str = ""
    aiohttp_differs: str = ""


CORPUS = (
    Case("length", HEAD + b"content-length: 5\r\n\r\nhello", body=b"hello"),
    Case("length 0", HEAD + b"Content-Length: 0\r\n\r\n"),
    Case(
        "header odds", HEAD + b"A:\r\nb:  c \r\nB: \t d\r\ncontent-length:2\r\nx-u: \xc3\xa9\xff\r\n\r\nhi", body=b"hi"
    ),
    Case("no reason", b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nhi", body=b"hi"),
    Case("an error", b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\nno", 429, b"no"),
    Case("a redirect", b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", 302),
    Case("unknown status", b"HTTP/1.1 599 What\r\ncontent-length: 1\r\n\r\nx", 599, b"x"),
    Case("204", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
    Case("304 with a length", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n", 304),
    Case("chunks", CHUNKED + b"5\r\nhello\r\n1\r\n,\r\n006\r\n world\r\n0\r\n\r\n", body=b"hello, world"),
    Case("upper-case size", CHUNKED + b"A\r\n0123456789\r\n00\r\n\r\n", body=b"0123456789"),
    Case("extensions", CHUNKED + b'2;a=b;c="d"\r\nhi\r\n0;z\r\n\r\n', body=b"hi"),
    Case("trailers", CHUNKED + b"2\r\nhi\r\n0\r\nx-a: 1\r\nx-b: 2\r\n\r\n", body=b"hi"),
    Case(
        "line ends in chunks", CHUNKED + b"6\r\n\r\n0\r\n\r\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n", body=b"\r\n0\r\n\r\r\n\r\n"
    ),
    Case("te in capitals", HEAD + b"TRANSFER-ENCODING: Chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", body=b"hi"),
    Case("100 first", b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"content-length: 2\r\n\r\nhi", body=b"hi"),
    Case("103 first", b"HTTP/1.1 103 Hints\r\nlink: a\r\n\r\n" + HEAD + b"content-length: 2\r\n\r\nhi", body=b"hi"),
    Case("to the end", HEAD + b"\r\nall of it", body=b"all of it"),
    Case("close", HEAD + b"connection: close\r\ncontent-length: 2\r\n\r\nhi", body=b"hi"),
    Case("1.0", b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", body=b"hi"),
    Case("1.0 to the end", b"HTTP/1.0 200 OK\r\n\r\nhi", body=b"hi"),
    Case("1.0 kept", b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi", body=b"hi"),
    Case("1.1 upgrade offer", HEAD + b"upgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 2\r\n\r\nhi", body=b"hi"),
    Case("cut length", HEAD + b"content-length: 5\r\n\r\nhell", error="closed"),
    Case("cut chunk", CHUNKED + b"5\r\nhell", error="closed"),
    Case("cut before the last chunk", CHUNKED + b"5\r\nhello\r\n", error="closed"),
    Case("cut after the last size", CHUNKED + b"5\r\nhello\r\n0\r\n", error="closed"),
    Case("cut trailers", CHUNKED + b"5\r\nhello\r\n0\r\nx-a: 1\r\n", error="closed"),
    Case("cut head", HEAD + b"content-length: 5\r\n", 0, error="closed"),
    Case("nothing", b"", 0, error="closed"),
    Case("only 100", b"HTTP/1.1 100 Continue\r\n\r\n", 0, error="closed"),
    Case("garbage", b"hello there\r\n\r\n", 0, error="protocol"),
    Case("0.9", b"<html></html>", 0, error="protocol"),
    Case("bad version", b"HTTP/x.1 200 OK\r\n\r\n", 0, error="protocol"),
    Case("bad status", b"HTTP/1.1 2x0 OK\r\n\r\n", 0, error="protocol"),
    Case("two lengths", HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\nabc", 0, error="protocol"),
    Case("bad length", HEAD + b"content-length: 2a\r\n\r\nabc", 0, error="protocol"),
    Case("negative length", HEAD + b"content-length: -2\r\n\r\nabc", 0, error="protocol"),
    Case("huge length", HEAD + b"content-length: 99999999999999999999\r\n\r\nabc", 0, error="protocol"),
    Case("length and chunks", CHUNKED[:-2] + b"content-length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 0, error="protocol"),
    Case("bad name", HEAD + b"a b: c\r\n\r\n", 0, error="protocol"),
    Case("zero byte", HEAD + b"a: b\x00c\r\n\r\n", 0, error="protocol"),
    Case("no colon", HEAD + b"abc\r\n\r\n", 0, error="protocol"),
    Case("bad size", CHUNKED + b"xyz\r\nabc\r\n", error="protocol"),
    Case("huge size", CHUNKED + b"fffffffffffffffff\r\nabc\r\n", error="protocol"),
    Case("long chunk", CHUNKED + b"2\r\nabc\r\n0\r\n\r\n", error="protocol"),
    Case("bad trailer", CHUNKED + b"2\r\nab\r\n0\r\na b: c\r\n\r\n", error="protocol"),
    Case(
        "bare line feeds",
        b"HTTP/1.1 200 OK\ncontent-length: 2\n\nhi",
        0,
        error="protocol",
        aiohttp_differs="forgives bare line feeds",
    ),
    Case(
        "folded header",
        HEAD + b"a: b\r\n c\r\ncontent-length: 2\r\n\r\nhi",
        0,
        error="protocol",
        aiohttp_differs="joins folded lines",
    ),
    Case(
        "space in size",
        CHUNKED + b"2 \r\nhi\r\n0\r\n\r\n",
        error="protocol",
        aiohttp_differs="forgives spaces after a chunk's size",
    ),
    Case(
        "101",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc",
        0,
        error="protocol",
        aiohttp_differs="hands a switched protocol to the caller",
    ),
    Case(
        "status 99",
        b"HTTP/1.1 099 Low\r\ncontent-length: 0\r\n\r\n",
        0,
        error="protocol",
        aiohttp_differs="takes any number for a status",
    ),
    Case("other coding last", HEAD + b"transfer-encoding: chunked, gzip\r\n\r\nabc", body=b"abc"),
)
NAMES = [case.name for case in CORPUS]


@pytest.mark.parametrize("case", CORPUS, ids=NAMES)
@pytest.mark.parametrize("stream", [False, True], ids=["read", "chunk"])
def test_a_response_means_the_same_wherever_it_is_cut(
    loop: asyncio.AbstractEventLoop, case: Case, stream: bool
) -> None:
    """Networks cut where they like: an answer would be right or wrong by chance."""
    whole = run(loop, outcome([case.raw] if case.raw else [], stream=stream))
    assert (whole.status, whole.error) == (case.status, case.error)
    if not case.error:
        assert whole.body == case.body
    for at in range(1, len(case.raw)):
        cut = run(loop, outcome([case.raw[:at], case.raw[at:]], stream=stream))
        if case.error:
            assert cut.error == whole.error, at
        else:
            assert cut == whole, at
    single = run(loop, outcome([case.raw[at : at + 1] for at in range(len(case.raw))], stream=stream))
    assert (single.status, single.error) == (whole.status if not case.error else single.status, whole.error)
    assert case.error or single == whole


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=st.sampled_from(CORPUS), cuts=st.lists(st.integers(1, 120), max_size=12), stream=st.booleans())
def test_many_cuts_change_nothing_either(
    loop: asyncio.AbstractEventLoop, case: Case, cuts: list[int], stream: bool
) -> None:
    """State carried over several reads would be lost in one of them."""
    places = sorted({cut for cut in cuts if cut < len(case.raw)})
    pieces = [case.raw[a:b] for a, b in zip([0, *places], [*places, len(case.raw)], strict=True) if a < b]
    seen = run(loop, outcome(pieces, stream=stream))
    assert seen.error == case.error
    if not case.error:
        assert (seen.status, seen.body) == (case.status, case.body)


token = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_", min_size=1, max_size=12)
value = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20)
RESERVED = {"content-length", "transfer-encoding", "connection", "upgrade", "set-cookie"}
headers_made = st.lists(st.tuples(token, value), max_size=6).map(
    lambda pairs: [(name, text) for name, text in pairs if name.lower() not in RESERVED]
)


@st.composite
def responses(draw: st.DrawFn) -> tuple[bytes, int, list[tuple[str, str]], bytes, bool]:
    """A valid response: its bytes, status, headers and body, and whether the connection may be used again."""
    status = draw(st.sampled_from([200, 201, 206, 400, 404, 429, 500, 503]))
    headers = draw(headers_made)
    body_parts = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    body = b"".join(body_parts)
    framing = draw(st.sampled_from(["length", "chunked", "end"]))
    closes = draw(st.booleans())
    interim = draw(st.integers(0, 2))
    raw = bytearray(b"HTTP/1.1 100 Continue\r\nx: y\r\n\r\n" * interim)
    raw += b"HTTP/1.1 %d Some Reason\r\n" % status
    for name, text in headers:
        raw += name.encode() + b": " + text.encode("latin-1") + b"\r\n"
    if closes:
        raw += b"connection: close\r\n"
    if framing == "length":
        raw += b"content-length: %d\r\n\r\n" % len(body) + body
    elif framing == "end":
        raw += b"\r\n" + body
    else:
        raw += b"transfer-encoding: chunked\r\n\r\n"
        for part in body_parts:
            raw += b"%x%s\r\n%s\r\n" % (len(part), draw(st.sampled_from([b"", b";e", b";e=1"])), part)
        raw += b"0\r\n" + draw(st.sampled_from([b"", b"x-trailer: 1\r\n"])) + b"\r\n"
    return bytes(raw), status, headers, body, not closes and framing != "end"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=responses(), step=st.integers(1, 60), stream=st.booleans())
def test_what_was_written_is_what_is_read(
    loop: asyncio.AbstractEventLoop,
    made: tuple[bytes, int, list[tuple[str, str]], bytes, bool],
    step: int,
    stream: bool,
) -> None:
    """Any valid answer: not a byte more, not a byte less, and the connection kept only where it may be."""
    raw, status, headers, body, reusable = made
    pieces = [raw[at : at + step] for at in range(0, len(raw), step)]
    seen = run(loop, outcome(pieces, eof=not reusable, stream=stream))
    assert (seen.status, seen.body, seen.error, seen.reusable) == (status, body, "", reusable)
    expected = {name.lower(): text.strip(" \t") for name, text in headers}
    assert expected.items() <= dict(seen.headers).items()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    made=responses(),
    at=st.integers(0, 400),
    noise=st.binary(max_size=12),
    drop=st.integers(0, 12),
    step=st.integers(1, 400),
)
@example(made=(b"", 200, [], b"", False), at=0, noise=b"\r\n\r\n", drop=0, step=1)
def test_a_spoiled_response_ends_in_an_answer_or_an_upstream_error(
    loop: asyncio.AbstractEventLoop,
    made: tuple[bytes, int, list[tuple[str, str]], bytes, bool],
    at: int,
    noise: bytes,
    drop: int,
    step: int,
) -> None:
    """Bytes of a stranger would raise something that nobody catches, or hang a request for ever."""
    raw = made[0][:at] + noise + made[0][at + drop :]
    pieces = [raw[place : place + step] for place in range(0, len(raw), step)]
    seen = run(loop, outcome(pieces))
    assert seen.error in ("", "closed", "protocol")
    assert not seen.reusable  # the peer has closed
    if not seen.error:
        assert 200 <= seen.status <= 999


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=responses().filter(lambda made: made[4]), extra=st.binary(min_size=1, max_size=30), together=st.booleans())
def test_a_connection_with_extra_bytes_is_never_used_again(
    loop: asyncio.AbstractEventLoop,
    made: tuple[bytes, int, list[tuple[str, str]], bytes, bool],
    extra: bytes,
    together: bool,
) -> None:
    """Extra bytes would be the beginning of the answer to somebody else's question."""
    raw, status, _, body, _ = made
    seen = run(loop, outcome([raw + extra] if together else [raw, extra], eof=False))
    assert (seen.status, seen.body, seen.error) == (status, body, "")
    # Empty lines between messages mean nothing, and the parser skips them.
    assert seen.reusable == (extra.strip(b"\r\n") == b"")


# ── beside aiohttp ─────────────────────────────────────────────────────────────────────────────────────────


async def beside_aiohttp(step: int) -> dict[str, tuple[tuple[int, bytes, bool], tuple[int, bytes, bool]]]:
    """What we and aiohttp make of each case from the same real server: status, body, and whether it failed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        raw = CORPUS[int(head.split(b"/", 2)[1].split()[0])].raw
        for at in range(0, len(raw), step):
            writer.write(raw[at : at + step])
            await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    endpoint = Endpoint.parse(f"http://127.0.0.1:{port}", trusted=True)
    pool = Pool()
    found = {}
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.5)) as session:
            for index, case in enumerate(CORPUS):
                ours = theirs = (0, b"", True)
                try:
                    response = await pool.request(endpoint, b"POST", b"/%d" % index, b"", b"", Deadlines())
                    ours = (response.status, await response.read(), False)
                except UpstreamError:
                    pass
                try:
                    url = f"http://127.0.0.1:{port}/{index}"
                    async with session.post(url, allow_redirects=False) as answer:
                        theirs = (answer.status, await answer.read(), False)
                except (aiohttp.ClientError, ValueError, TimeoutError):
                    pass  # aiohttp waits on after some errors that come in a later read than the head
                found[case.name] = (ours, theirs)
    finally:
        await pool.close()
        server.close()
        await asyncio.sleep(0.01)
    return found


@pytest.mark.parametrize("step", [100_000, 7])
def test_aiohttp_reads_the_same(step: int) -> None:
    """A second, older reader is the nearest thing to a truth about HTTP that we have."""
    found = asyncio.run(beside_aiohttp(step))
    for case in CORPUS:
        ours, theirs = found[case.name]
        expected = (0, b"", True) if case.error else (case.status, case.body, False)
        assert ours == expected, case.name
        assert (theirs != ours) == bool(case.aiohttp_differs), (case.name, ours, theirs)
