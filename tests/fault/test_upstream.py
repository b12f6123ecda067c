"""The upstream client against providers that are slow, broken, rude or gone.

Real sockets on loopback, both event loops. TLS, resolving and the address guard: `test_upstream_tls.py`.
"""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from faucet.kit.upstream import Deadlines, Endpoint, Pool, Response, UpstreamError

pytestmark = pytest.mark.anyio

QUICK = Deadlines(connect=2.0, first_byte=2.0, idle=2.0, total=5.0)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both loops: their transports differ in what they call, and when."""
    return ("asyncio", {"use_uvloop": request.param})


class Provider:
    """A loopback server that follows a script on each connection, and remembers what it saw."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.closed = 0
        self.requests: list[bytes] = []

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint.parse(f"http://127.0.0.1:{self.port}/v1", trusted=True)

    async def read(self, reader: asyncio.StreamReader) -> bytes:
        """One request, head and body; b"" when the client has gone."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            request = head + await reader.readexactly(int(length or 0))
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        self.requests.append(request)
        return request


@asynccontextmanager
async def serving(script: Callable[[Provider], Handler] | bytes) -> AsyncIterator[Provider]:
    """A provider that follows `script`; bytes stand for "answer every request with these"."""
    provider = Provider()
    handler = answering(provider, script) if isinstance(script, bytes) else script(provider)
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        task.add_done_callback(running.discard)
        provider.connections += 1
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except RuntimeError:
            # uvloop's word for a write to a transport that our client has just closed; asyncio only warns.
            if not writer.is_closing():
                raise
        finally:
            provider.closed += 1
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=2048)
    provider.port = server.sockets[0].getsockname()[1]
    try:
        yield provider
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.sleep(0)


def answering(provider: Provider, answer: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await provider.read(reader):
            writer.write(answer)

    return handler


def once(*pieces: bytes | float, then_close: bool = True) -> Callable[[Provider], Handler]:
    """A script: one request, then these bytes with these pauses, then the connection's end or silence."""

    def script(provider: Provider) -> Handler:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await provider.read(reader)
            for piece in pieces:
                if isinstance(piece, bytes):
                    writer.write(piece)
                    await writer.drain()
                else:
                    await asyncio.sleep(piece)
            if not then_close:
                await reader.read()

        return handler

    return script


@asynccontextmanager
async def pooled(**options: object) -> AsyncIterator[Pool]:
    pool = Pool(**options)  # type: ignore[arg-type]
    try:
        yield pool
    finally:
        await pool.close()


async def post(pool: Pool, endpoint: Endpoint, deadlines: Deadlines = QUICK, body: bytes = b"{}") -> Response:
    return await pool.request(endpoint, b"POST", b"/chat", b"x-a: b\r\n", body, deadlines)


async def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the awaited never came")


async def streamed(response: Response) -> list[bytes]:
    pieces = []
    while (piece := await response.chunk()) is not None:
        pieces.append(piece)
    return pieces


async def failure(awaited: Awaitable[object]) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await awaited
    return caught.value


# ── exchanges ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_json_exchange_and_its_connection_is_used_again() -> None:
    """Each request would cost a handshake, or the provider would get other bytes than the ones meant."""
    answer = (
        b"HTTP/1.1 201 Made\r\nX-One: a\r\nx-one: b\r\nSet-Cookie: p\r\nset-cookie: q\r\n" + OK.partition(b"\r\n")[2]
    )
    async with serving(answer) as provider, pooled() as pool:
        for _ in range(3):
            response = await post(pool, provider.endpoint)
            assert response.status == 201
            assert response.headers == {"x-one": "b", "set-cookie": "p\nq", "content-length": "2"}
            assert await response.read() == b"ok"
            assert await response.read() == b"" and await response.chunk() is None
        assert provider.connections == 1
        assert pool.stats() == {"requests": 3, "connects": 1, "open": 1, "idle": 1, "waiting": 0}
        host = f"127.0.0.1:{provider.port}".encode()
        assert provider.requests[0] == (
            b"POST /v1/chat HTTP/1.1\r\nhost: %s\r\naccept-encoding: identity\r\n"
            b"x-a: b\r\ncontent-length: 2\r\n\r\n{}" % host
        )


async def test_a_get_has_no_body_and_no_length() -> None:
    """Some servers refuse a GET that announces a body."""
    async with serving(OK) as provider, pooled() as pool:
        response = await pool.request(provider.endpoint, b"GET", b"/models?a=b", b"", b"", QUICK)
        assert await response.read() == b"ok"
        assert provider.requests[0].startswith(b"GET /v1/models?a=b HTTP/1.1\r\n")
        assert b"content-length" not in provider.requests[0]


async def test_a_stream_arrives_piece_by_piece() -> None:
    """A reader would wait for the end of an answer that is being written word by word."""
    script = once(
        CHUNKED,
        0.05,
        b"3\r\nabc\r\n",
        0.05,
        b"2\r\nde\r\n1\r\nf\r\n",
        0.05,
        b"0\r\nx-t: 1\r\n\r\n",
        then_close=False,
    )
    async with serving(script) as provider, pooled() as pool:
        response = await post(pool, provider.endpoint)
        assert response.chunk_nowait() == b""
        assert await streamed(response) == [b"abc", b"def"]
        assert await response.chunk() is None and response.chunk_nowait() is None
        assert "x-t" not in response.headers
        assert pool.stats()["idle"] == 1


async def test_chunk_nowait_hands_out_what_there_is() -> None:
    """Several small events could not be forwarded in one write."""
    async with (
        serving(once(CHUNKED + b"3\r\nabc\r\n", 0.1, b"1\r\nd\r\n0\r\n\r\n", then_close=False)) as provider,
        pooled() as pool,
    ):
        response = await post(pool, provider.endpoint)
        assert await response.chunk() == b"abc"
        assert response.chunk_nowait() == b""
        await asyncio.sleep(0.2)
        assert response.chunk_nowait() == b"d"
        assert response.chunk_nowait() is None


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK,
    ],
)
async def test_interim_heads_are_skipped(answer: bytes) -> None:
    """An early hint would be taken for the answer."""
    async with serving(answer) as provider, pooled() as pool:
        for _ in range(2):
            response = await post(pool, provider.endpoint)
            assert (response.status, await response.read()) == (200, b"ok")
            assert response.headers == {"content-length": "2"}
        assert provider.connections == 1


async def test_bodiless_answers_end_with_their_head() -> None:
    """The client would wait for a body that never comes."""
    for head in (b"204 No Content\r\n\r\n", b"304 Not Modified\r\ncontent-length: 9\r\n\r\n"):
        async with serving(b"HTTP/1.1 " + head) as provider, pooled() as pool:
            for _ in range(2):
                response = await post(pool, provider.endpoint)
                assert (response.status, await response.read()) == (int(head[:3]), b"")
            assert provider.connections == 1
    async with serving(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n") as provider, pooled() as pool:
        for _ in range(2):
            response = await pool.request(provider.endpoint, b"HEAD", b"/", b"", b"", QUICK)
            assert (response.status, await response.chunk()) == (200, None)
        assert provider.connections == 2  # after a HEAD the next response's beginning can't be told


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n", b"ok"),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", b"to the end"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"to the end"),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n", b"ok"),
        (b"HTTP/1.0 200 OK\r\n\r\n", b""),
    ],
)
async def test_an_announced_end_is_respected(head: bytes, body: bytes) -> None:
    """The next request would be written into a connection that its peer has given up."""
    async with serving(once(head, 0.02, body)) as provider, pooled() as pool:
        for turn in (1, 2):
            assert await (await post(pool, provider.endpoint)).read() == body
            assert (provider.connections, pool.stats()["idle"]) == (turn, 0)


async def test_what_cannot_be_one_request_is_not_sent() -> None:
    """A path or header with a line break in it would smuggle a second request."""
    async with serving(OK) as provider, pooled() as pool:
        for method, path, headers in (
            (b"POST", b"/a b", b""),
            (b"POST", b"/a\r\nx: y", b""),
            (b"POST", b"", b""),
            (b"BREW", b"/", b""),
            (b"POST", b"/", b"x: y"),
            (b"POST", b"/", b"x: y\r\n\r\nGET / HTTP/1.1\r\n"),
            (b"POST", b"/", b"\r\nGET / HTTP/1.1\r\n"),
        ):
            with pytest.raises(ValueError, match="not a"):
                await pool.request(provider.endpoint, method, path, headers, b"", QUICK)
        assert provider.connections == 0


# ── broken answers ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
        CHUNKED + b"3\r\nabc\r\n",
        CHUNKED + b"9\r\nabc",
        CHUNKED + b"3\r\nabc\r\n0\r\n",
        CHUNKED + b"3\r\nabc\r\n0\r\nx-t: 1\r\n",
    ],
)
async def test_a_cut_body_is_never_complete(answer: bytes) -> None:
    """Half an answer would be billed and shown as a whole one."""
    async with serving(once(answer)) as provider, pooled() as pool:
        problem = await failure((await post(pool, provider.endpoint)).read())
        assert (problem.kind, problem.sent) == ("closed", True)
        response = await post(pool, provider.endpoint)
        assert await response.chunk() == b"abc"
        for _ in range(2):
            assert (await failure(response.chunk())).kind == "closed"
        with pytest.raises(UpstreamError, match="closed"):
            response.chunk_nowait()
        assert pool.stats()["open"] == 0


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 O", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n"])
async def test_a_cut_head_is_an_error(answer: bytes) -> None:
    """A request that may have been processed would look as if it had not been sent."""
    async with serving(once(answer)) as provider, pooled() as pool:
        problem = await failure(post(pool, provider.endpoint))
        assert (problem.kind, problem.sent) == ("closed", True)
        assert len(provider.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"<html>",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx\x00y: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    ],
)
async def test_bytes_that_are_no_http_are_a_protocol_error(answer: bytes) -> None:
    """Garbage would hang the request, or two readers would see two different messages in it."""
    async with serving(once(answer, then_close=False)) as provider, pooled() as pool:
        problem = await failure(post(pool, provider.endpoint))
        assert (problem.kind, problem.sent) == ("protocol", True)
        assert pool.stats()["open"] == 0


@pytest.mark.parametrize(
    "tail", [b"xyz", b"g\r\n", b"3\r\nabcd\r\n", b"-1\r\n", b"fffffffffffffffff\r\n", b"3;\x00\r\nabc"]
)
async def test_bad_chunks_are_a_protocol_error_after_what_came_before(tail: bytes) -> None:
    """A broken chunk would hide the words before it, or pass for the end."""
    async with (
        serving(once(CHUNKED + b"2\r\nok\r\n", 0.05, tail, then_close=False)) as provider,
        pooled() as pool,
    ):
        response = await post(pool, provider.endpoint)
        assert (await response.chunk() or b"").startswith(b"ok")
        with pytest.raises(UpstreamError) as caught:
            await streamed(response)
        assert caught.value.kind == "protocol"


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000],
        [b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000 + b"\r\ncontent-length: 2\r\n\r\nok"],
        [b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 12_000],
        [b"HTTP/1.1 100 Continue\r\nx: " + b"a" * 1000 + b"\r\n\r\n"] * 70,
    ],
)
async def test_endless_heads_are_cut_off(pieces: list[bytes]) -> None:
    """A provider could fill our memory before it says anything."""
    async with serving(once(*pieces, then_close=False)) as provider, pooled() as pool:
        problem = await failure(post(pool, provider.endpoint))
        assert (problem.kind, "head" in problem.detail) == ("protocol", True)


async def test_a_head_is_not_too_long_because_of_the_body_that_came_with_it() -> None:
    """A large document in the same read as its head would be refused."""
    body = b"x" * 200_000
    async with (
        serving(b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n" + body) as provider,
        pooled() as pool,
    ):
        assert await (await post(pool, provider.endpoint)).read() == body


@pytest.mark.parametrize("flood", [b"0\r\nx: " + b"a" * 600_000, b"3;" + b"a" * 600_000])
async def test_endless_chunk_framing_is_cut_off(flood: bytes) -> None:
    """Trailers and chunk extensions are never shown to anyone, and would be held for ever."""
    async with serving(once(CHUNKED + b"2\r\nok\r\n", flood, then_close=False)) as provider, pooled() as pool:
        problem = await failure((await post(pool, provider.endpoint)).read())
        assert problem.kind == "protocol"


async def test_a_body_over_the_limit_is_refused_when_read_whole() -> None:
    """One answer could take all of the gateway's memory."""
    big = b"x" * 3_000_000
    plain = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(big), big)
    tiny = CHUNKED + b"2\r\nab\r\n" * 200_000 + b"0\r\n\r\n"
    for answer, size in ((plain, 3_000_000), (tiny, 400_000)):
        async with serving(answer) as provider, pooled(max_json_bytes=size) as pool:
            assert len(await (await post(pool, provider.endpoint)).read()) == size
        async with serving(answer) as provider, pooled(max_json_bytes=size - 1) as pool:
            response = await post(pool, provider.endpoint)
            for _ in range(2):
                assert (await failure(response.read())).kind == "protocol"
            assert sum(map(len, await streamed(await post(pool, provider.endpoint)))) == size


@pytest.mark.parametrize("extra", [b"x", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", b"\x00"])
@pytest.mark.parametrize("pause", [0.0, 0.05])
async def test_bytes_after_the_answer_end_the_connection(extra: bytes, pause: float) -> None:
    """A forged second answer would be given to the next request, another tenant's."""
    async with serving(once(OK, pause, extra, then_close=False)) as provider, pooled() as pool:
        for turn in (1, 2):
            assert await (await post(pool, provider.endpoint)).read() == b"ok"
            await asyncio.sleep(0.15)
            assert (provider.connections, pool.stats()["idle"]) == (turn, 0)


# ── deadlines ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("pieces", [(), (b"HTTP/1.1 100 Continue\r\n\r\n",), (b"H", 0.1, b"T", 0.1, b"T", 0.1, b"P")])
async def test_silence_before_the_head_is_bounded(pieces: tuple[bytes | float, ...]) -> None:
    """A stalled provider would hold a request and its money for ever; a drip must not count as an answer."""
    deadlines = replace(QUICK, first_byte=0.2)
    async with serving(once(*pieces, then_close=False)) as provider, pooled() as pool:
        started = asyncio.get_running_loop().time()
        problem = await failure(post(pool, provider.endpoint, deadlines))
        assert (problem.kind, problem.sent) == ("first_byte_timeout", True)
        assert 0.15 < asyncio.get_running_loop().time() - started < 1.0
        await eventually(lambda: provider.closed == 1)


async def test_silence_within_the_body_is_bounded() -> None:
    """A stream that stops without an end would never be settled."""
    deadlines = replace(QUICK, idle=0.2)
    async with (
        serving(once(CHUNKED + b"2\r\nok\r\n", 0.1, b"2\r\nok\r\n", 0.1, b"1\r\n", then_close=False)) as provider,
        pooled() as pool,
    ):
        response = await post(pool, provider.endpoint, deadlines)
        assert await response.chunk() == b"ok" and await response.chunk() == b"ok"
        started = asyncio.get_running_loop().time()
        problem = await failure(response.chunk())
        assert (problem.kind, problem.sent) == ("idle_timeout", True)
        assert 0.2 < asyncio.get_running_loop().time() - started < 1.0


async def test_a_request_is_bounded_in_all() -> None:
    """A provider that sends a byte now and then would never be done."""
    deadlines = replace(QUICK, total=0.4)
    drip = [piece for _ in range(40) for piece in (b"1\r\nx\r\n", 0.03)]
    async with serving(once(CHUNKED, *drip, then_close=False)) as provider, pooled() as pool:
        problem = await failure((await post(pool, provider.endpoint, deadlines)).read())
        assert problem.kind == "total_timeout"
        async with serving(once(then_close=False)) as silent:
            problem = await failure(post(pool, silent.endpoint, deadlines))
            assert (problem.kind, problem.sent) == ("total_timeout", True)


async def test_deadlines_start_anew_on_a_used_connection() -> None:
    """The timer of an earlier request would cut off a later one, or a short deadline be missed."""
    async with serving(answer_after(0.15)) as provider, pooled() as pool:
        for first_byte in (0.2, 0.2, 5.0, 0.2, 0.25):
            assert await (await post(pool, provider.endpoint, replace(QUICK, first_byte=first_byte))).read() == b"ok"
        assert (
            await failure(post(pool, provider.endpoint, replace(QUICK, first_byte=0.05)))
        ).kind == "first_byte_timeout"
        assert provider.connections == 1


def answer_after(seconds: float) -> Callable[[Provider], Handler]:
    def script(provider: Provider) -> Handler:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await provider.read(reader):
                await asyncio.sleep(seconds)
                writer.write(OK)

        return handler

    return script


async def test_idle_connections_are_given_up() -> None:
    """Connections to hosts that nobody asks any more would stay for ever."""
    async with serving(OK) as provider, pooled(keepalive_seconds=0.1) as pool:
        await (await post(pool, provider.endpoint)).read()
        assert pool.stats()["idle"] == 1
        await eventually(lambda: provider.closed == 1)
        assert pool.stats()["open"] == 0


# ── connections that end ───────────────────────────────────────────────────────────────────────────────────


async def test_a_connection_closed_while_idle_is_not_used() -> None:
    """Every request after a provider's restart would fail once per old connection."""
    async with serving(once(OK)) as provider, pooled() as pool:
        for turn in (1, 2, 3):
            assert await (await post(pool, provider.endpoint)).read() == b"ok"
            assert provider.connections == turn
            await eventually(lambda: pool.stats()["open"] == 0)


@pytest.mark.parametrize("method", [b"POST", b"GET"])
async def test_only_what_may_be_repeated_is_repeated(method: bytes) -> None:
    """A model call would be made, and paid, twice without anyone having asked."""

    def script(provider: Provider) -> Handler:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await provider.read(reader)
            writer.write(OK)
            if provider.connections == 1:
                await provider.read(reader)  # took the second request, and closes without a word
            else:
                await reader.read()

        return handler

    async with serving(script) as provider, pooled() as pool:
        await (await pool.request(provider.endpoint, method, b"/", b"", b"", QUICK)).read()
        second = pool.request(provider.endpoint, method, b"/", b"", b"", QUICK)
        if method == b"GET":
            assert await (await second).read() == b"ok"
            assert (provider.connections, len(provider.requests)) == (2, 3)
        else:
            problem = await failure(second)
            assert (problem.kind, problem.sent) == ("closed", True)
            assert (provider.connections, len(provider.requests)) == (1, 2)


async def test_a_fresh_connection_that_closes_is_not_tried_again() -> None:
    """A provider that drops every connection would be hammered."""
    async with serving(once()) as provider, pooled() as pool:
        problem = await failure(pool.request(provider.endpoint, b"GET", b"/", b"", b"", QUICK))
        assert (problem.kind, provider.connections) == ("closed", 1)


async def test_refused_connections_say_that_nothing_was_sent() -> None:
    """A request that surely was not sent could not be tried elsewhere."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = Endpoint.parse(f"http://127.0.0.1:{taken.getsockname()[1]}", trusted=True)
        async with pooled() as pool:
            problem = await failure(post(pool, endpoint))
            assert (problem.kind, problem.sent) == ("connect", False)


@pytest.mark.parametrize("stage", ["request", "read", "chunk"])
async def test_a_cancelled_wait_closes_the_connection(stage: str) -> None:
    """The rest of an abandoned answer would be read as the beginning of the next."""
    pieces = () if stage == "request" else (CHUNKED,)
    async with serving(once(*pieces, then_close=False)) as provider, pooled() as pool:

        async def use() -> None:
            response = await post(pool, provider.endpoint)
            await (response.read() if stage == "read" else response.chunk())

        task = asyncio.create_task(use())
        await eventually(lambda: len(provider.requests) == 1)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pool.stats()["idle"] == 0
        await eventually(lambda: provider.closed == 1 and pool.stats()["open"] == 0)


async def test_a_cancelled_response_closes_its_connection_and_no_other() -> None:
    """A caller who hangs up would leave the provider writing, or cut off someone else's answer."""
    async with serving(once(CHUNKED + b"2\r\nok\r\n", then_close=False)) as provider, pooled() as pool:
        response = await post(pool, provider.endpoint)
        response.cancel()
        response.cancel()
        assert (await failure(response.chunk())).kind == "closed"
        await eventually(lambda: provider.closed == 1)
    async with serving(answer_after(0.1)) as provider, pooled() as pool:
        done = await post(pool, provider.endpoint)
        await done.read()
        next_one = asyncio.create_task(post(pool, provider.endpoint))
        await asyncio.sleep(0.02)
        done.cancel()
        assert await (await next_one).read() == b"ok"
        assert provider.connections == 1


async def test_a_dropped_response_frees_its_connection() -> None:
    """A forgotten answer would hold a connection until the process ends."""
    async with serving(once(CHUNKED, then_close=False)) as provider, pooled() as pool:
        await post(pool, provider.endpoint)
        gc.collect()
        await eventually(lambda: provider.closed == 1 and pool.stats()["open"] == 0)
    async with serving(OK) as provider, pooled() as pool:
        for _ in range(2):
            await post(pool, provider.endpoint)
            gc.collect()
            await eventually(lambda: pool.stats()["idle"] == 1)
        assert provider.connections == 1


async def test_a_closed_pool_ends_everything() -> None:
    """Shutting down would leave sockets open, or requests waiting for ever."""
    async with serving(once(CHUNKED, then_close=False)) as provider:
        pool = Pool(max_connections_per_endpoint=1)
        response = await post(pool, provider.endpoint)
        waiting = asyncio.create_task(post(pool, provider.endpoint))
        reading = asyncio.create_task(response.read())
        await asyncio.sleep(0.02)
        assert pool.stats()["waiting"] == 1
        await pool.close()
        assert pool.stats()["open"] == 0
        assert (await failure(reading)).kind == "closed"
        for late in (waiting, post(pool, provider.endpoint)):
            problem = await failure(late)
            assert (problem.kind, problem.sent) == ("connect", False)
        await eventually(lambda: provider.closed == 1)


# ── many at once, and much at once ─────────────────────────────────────────────────────────────────────────


async def test_a_thousand_requests_to_a_slow_provider() -> None:
    """A slow provider under load would mix up answers or lose connections."""

    def script(provider: Provider) -> Handler:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while request := await provider.read(reader):
                await asyncio.sleep(0.3)
                body = request.partition(b"\r\n\r\n")[2]
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

        return handler

    async with serving(script) as provider, pooled() as pool:

        async def one(number: int) -> bool:
            body = b"%d" % number
            return await (await post(pool, provider.endpoint, Deadlines(), body)).read() == body

        assert all(await asyncio.gather(*map(one, range(1000))))
        assert pool.stats()["open"] == pool.stats()["idle"] == provider.connections <= 1000
        assert all(await asyncio.gather(*map(one, range(1000))))
        assert provider.connections <= 1000 and pool.stats()["requests"] == 2000


async def test_the_limit_holds_and_the_line_is_first_come_first_served() -> None:
    """One endpoint could take every socket, and an early request wait behind late ones."""
    for limit in (1, 3):
        options = {"max_connections_per_endpoint": limit}
        async with serving(answer_after(0.02)) as provider, pooled(**options) as pool:
            order: list[int] = []

            async def one(number: int) -> None:
                await (await post(pool, provider.endpoint)).read()
                order.append(number)  # noqa: B023

            await asyncio.gather(*(one(number) for number in range(10)))
            assert provider.connections == limit
            assert all(abs(place - number) < limit for place, number in enumerate(order))


async def test_waiting_in_line_is_bounded_and_can_be_given_up() -> None:
    """A full endpoint would pile up requests, and a place in line be lost with the one who left it."""
    async with serving(answer_after(0.3)) as provider, pooled(max_connections_per_endpoint=1) as pool:
        first = asyncio.create_task(post(pool, provider.endpoint))
        await eventually(lambda: len(provider.requests) == 1)
        impatient = asyncio.create_task(post(pool, provider.endpoint, replace(QUICK, connect=0.05)))
        cancelled = asyncio.create_task(post(pool, provider.endpoint))
        patient = asyncio.create_task(post(pool, provider.endpoint))
        await asyncio.sleep(0.02)
        assert pool.stats()["waiting"] == 3
        cancelled.cancel()
        problem = await failure(impatient)
        assert (problem.kind, problem.sent) == ("connect", False)
        await (await first).read()
        assert await (await patient).read() == b"ok"
        assert (pool.stats()["waiting"], provider.connections) == (0, 1)


async def test_a_place_goes_on_when_its_connection_breaks() -> None:
    """Those in line behind a broken connection would wait for one that never comes back."""
    async with serving(once(b"garbage\r\n")) as provider, pooled(max_connections_per_endpoint=1) as pool:
        problems = await asyncio.gather(*(failure(post(pool, provider.endpoint)) for _ in range(5)))
        assert [problem.kind for problem in problems] == ["protocol"] * 5
        assert provider.connections == 5


async def test_a_handed_over_place_survives_a_cancellation() -> None:
    """Cancelling at the very moment of one's turn would leak the connection, and the endpoint with it."""
    async with serving(OK) as provider, pooled(max_connections_per_endpoint=1) as pool:
        for _ in range(5):
            response = await post(pool, provider.endpoint)
            unlucky = asyncio.create_task(post(pool, provider.endpoint))
            lucky = asyncio.create_task(post(pool, provider.endpoint))
            await asyncio.sleep(0.01)
            await response.read()  # hands the connection to the unlucky one, who has not run yet
            unlucky.cancel()
            assert await (await lucky).read() == b"ok"
            assert unlucky.cancelled()
        assert provider.connections == 1


async def test_a_stalled_endpoint_delays_no_other() -> None:
    """One provider's outage would become everyone's."""
    async with serving(once(then_close=False)) as stalled, serving(OK) as provider:
        async with pooled(max_connections_per_endpoint=4) as pool:
            stuck = [asyncio.create_task(post(pool, stalled.endpoint)) for _ in range(20)]
            await eventually(lambda: len(stalled.requests) == 4)
            started = asyncio.get_running_loop().time()
            for _ in range(20):
                assert await (await post(pool, provider.endpoint)).read() == b"ok"
            assert asyncio.get_running_loop().time() - started < 1.0
            for task in stuck:
                task.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)


async def test_an_unread_stream_makes_the_provider_wait() -> None:
    """A slow reader's answer would pile up in the gateway's memory."""
    sent = 0

    def script(provider: Provider) -> Handler:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await provider.read(reader)
            writer.write(CHUNKED)
            for _ in range(400):
                writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await writer.drain()
                sent += 65536
            writer.write(b"0\r\n\r\n")
            await reader.read()

        return handler

    async with serving(script) as provider, pooled() as pool:
        response = await post(pool, provider.endpoint, replace(QUICK, idle=0.2))
        await asyncio.sleep(0.5)  # longer than the idle deadline: it is we who are slow
        stalled_at = sent
        assert stalled_at < 12_000_000
        first = await response.chunk()
        assert first is not None and 256 * 1024 <= len(first) < 1024 * 1024
        assert len(first) + sum(map(len, await streamed(response))) == 400 * 65536
        assert sent > stalled_at and pool.stats()["idle"] == 1


async def test_a_large_body_leaves_as_fast_as_it_is_taken() -> None:
    """A long upload would be cut off by the deadline of the answer, or be copied whole into the buffers."""
    body = bytes(range(256)) * 40_000

    def script(provider: Provider) -> Handler:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while head := await reader.readuntil(b"\r\n\r\n"):
                taken = []
                for _ in range(10):
                    await asyncio.sleep(0.15)
                    taken.append(await reader.readexactly(len(body) // 10))
                provider.requests.append(head + b"".join(taken))
                writer.write(OK)

        return handler

    async with serving(script) as provider, pooled() as pool:
        for _ in range(2):
            response = await post(pool, provider.endpoint, replace(QUICK, first_byte=1.0), body)
            assert await response.read() == b"ok"
            assert provider.requests[-1].partition(b"\r\n\r\n")[2] == body
        assert provider.connections == 1


async def test_an_answer_before_the_whole_body_ends_the_connection() -> None:
    """What is left of a refused upload would be read as the next request."""
    answer = b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno"

    def script(provider: Provider) -> Handler:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await asyncio.sleep(0.3)

        return handler

    async with serving(script) as provider, pooled() as pool:
        response = await post(pool, provider.endpoint, QUICK, b"x" * 30_000_000)
        assert (response.status, await response.read()) == (413, b"no")
        assert (pool.stats()["idle"], provider.connections) == (0, 1)
