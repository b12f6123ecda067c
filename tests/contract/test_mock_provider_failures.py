"""The mock provider's misbehaviour, hang-ups and wire: what a gateway before real providers must survive."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI

from faucet.kit.tokens import count_text
from faucet.providers import fake, fake_ask, fake_text
from faucet.providers.fake_server import MockProvider

MESSAGES = [{"role": "user", "content": "Please answer this customer: my order is late."}]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def provider() -> AsyncIterator[MockProvider]:
    async with MockProvider() as made:
        yield made


@pytest.fixture
async def client(provider: MockProvider) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=provider.url, api_key="sk-any", max_retries=0, timeout=20) as made:
        yield made


async def ask(client: AsyncOpenAI, model: str, *, mock: Any = None, **more: Any) -> Any:
    body = None if mock is None else {"mock": mock}
    made: Any = client.chat.completions
    return await made.create(model=model, messages=MESSAGES, extra_body=body, **more)


async def streamed(client: AsyncOpenAI, model: str, **more: Any) -> tuple[str, list[Any]]:
    """The text and the chunks of a stream that asked for usage."""
    chunks = [
        chunk async for chunk in await ask(client, model, stream=True, stream_options={"include_usage": True}, **more)
    ]
    return "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices), chunks


def request(path: str = "/v1/chat/completions", *, version: str = "1.1", **body: Any) -> bytes:
    """A raw chat request."""
    text = json.dumps({"model": "mock-small", "messages": MESSAGES, **body}).encode()
    head = f"POST {path} HTTP/{version}\r\nhost: mock\r\ncontent-length: {len(text)}\r\n\r\n"
    return head.encode() + text


async def exchange(provider: MockProvider, *parts: bytes) -> bytes:
    """Everything that comes back on one connection for these bytes, until it closes or 0.5 s pass."""
    reader, writer = await asyncio.open_connection(provider.host, provider.port)
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0)
    received = bytearray()
    try:
        async with asyncio.timeout(0.5):
            while data := await reader.read(65536):
                received += data
    except TimeoutError:
        pass
    writer.close()
    await writer.wait_closed()
    return bytes(received)


async def until(condition: Any) -> None:
    """Wait for a condition, at most five seconds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_error_models_raise_openais_typed_errors(client: AsyncOpenAI) -> None:
    """Retries and error mapping of the gateway would be tested against errors that no client understands."""
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as fault:
            await ask(client, "fail-500", stream=stream)
        assert fault.value.type == "server_error"
        with pytest.raises(openai.RateLimitError) as limited:
            await ask(client, "429", stream=stream)
        assert limited.value.response.headers["retry-after"] == "1"
        with pytest.raises(openai.BadRequestError) as refused:
            await ask(client, "refuse-400", stream=stream)
        assert refused.value.param == "temperature"


async def test_flaky_fails_so_often_per_body_and_then_works(client: AsyncOpenAI) -> None:
    """A gateway that doesn't retry, or retries another body, would pass its tests."""
    for user in ("a", "b"):
        for _ in range(2):
            with pytest.raises(openai.InternalServerError):
                await ask(client, "flaky", mock={"fail_times": 2}, user=user)
        assert (await ask(client, "flaky", mock={"fail_times": 2}, user=user)).usage.completion_tokens == 48
    with pytest.raises(openai.InternalServerError):
        await ask(client, "flaky")
    assert (await ask(client, "flaky")).choices[0].finish_reason == "stop"


async def test_stall_keeps_the_client_waiting(client: AsyncOpenAI, provider: MockProvider) -> None:
    """A gateway without deadlines on first byte and idle time would pass its tests."""
    with pytest.raises(openai.APITimeoutError):
        await ask(client, "stall", timeout=0.2)
    received = await exchange(provider, request(model="stall", stream=True))
    assert received.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream")
    assert received.endswith(b"\r\n\r\n")
    await until(lambda: provider.hung_up == 2)


async def test_slow_first_byte_waits(client: AsyncOpenAI) -> None:
    """A deadline on the first byte couldn't be tested."""
    started = time.monotonic()
    assert (await ask(client, "slow-first-byte", mock={"delay_ms": 150})).usage.completion_tokens == 48
    assert time.monotonic() - started >= 0.15
    body = json.dumps({"model": "slow-first-byte", "messages": MESSAGES}).encode()
    assert fake.answer(body).delay_ms == 3000


async def test_cut_mid_stream_breaks_off_in_an_event(client: AsyncOpenAI, provider: MockProvider) -> None:
    """A relay that takes a broken stream for a complete one would pass its tests."""
    whole = (await ask(client, "mock-small")).choices[0].message.content
    text = ""
    with pytest.raises((openai.APIError, httpx2.HTTPError)):
        async for chunk in await ask(client, "cut-mid-stream", stream=True):
            text += chunk.choices[0].delta.content or ""
    assert text and len(text) < len(whole) and whole.startswith(text)
    raw = await exchange(provider, request(model="cut-mid-stream", stream=True))
    assert not raw.endswith(b"\n\n\r\n") and b"[DONE]" not in raw and b"0\r\n\r\n" not in raw
    with pytest.raises((openai.APIError, httpx2.HTTPError)):
        await ask(client, "cut-mid-stream")
    assert provider.hung_up == 0


async def test_a_status_of_200_can_hold_an_error(client: AsyncOpenAI, provider: MockProvider) -> None:
    """A gateway that believes the status alone would bill an error."""
    raw = await exchange(provider, request(model="200-with-error-body"))
    assert raw.startswith(b"HTTP/1.1 200 OK")
    assert json.loads(raw.partition(b"\r\n\r\n")[2])["error"]["type"] == "server_error"
    text = ""
    with pytest.raises(openai.APIError):
        async for chunk in await ask(client, "200-with-error-body", stream=True):
            text += chunk.choices[0].delta.content or ""
    assert 0 < count_text(text, "words") < 48
    raw = await exchange(provider, request(model="200-with-error-body", stream=True))
    assert raw.endswith(b"0\r\n\r\n") and b"[DONE]" not in raw


async def test_models_that_misreport_usage(client: AsyncOpenAI) -> None:
    """Metering that trusts any report, adds reports up, or needs one, would pass its tests."""
    honest = await ask(client, "mock-small")
    honest_text, honest_chunks = await streamed(client, "mock-small")
    usage = honest_chunks[-1].usage
    assert usage == honest.usage

    silent = await ask(client, "no-usage")
    assert silent.usage is None and silent.choices == honest.choices
    text, chunks = await streamed(client, "no-usage")
    assert text == honest_text and all(chunk.usage is None and chunk.choices for chunk in chunks)

    lie = (await ask(client, "lies-about-usage")).usage
    assert lie.prompt_tokens == usage.prompt_tokens * 10
    assert lie.completion_tokens == usage.completion_tokens * 10
    text, chunks = await streamed(client, "lies-about-usage")
    assert text == honest_text and chunks[-1].usage == lie

    text, chunks = await streamed(client, "usage-twice")
    early, last = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert text == honest_text and last == usage
    assert 0 < early.completion_tokens < last.completion_tokens


async def test_crlf_sse_is_the_same_stream_in_odd_clothes(client: AsyncOpenAI, provider: MockProvider) -> None:
    """A parser of events that knows only tidy streams would pass its tests."""
    expected, tidy = await streamed(client, "mock-small")
    text, chunks = await streamed(client, "crlf-sse")
    assert text == expected and len(chunks) == len(tidy) and chunks[-1].usage == tidy[-1].usage
    raw = await exchange(provider, request(model="crlf-sse", stream=True))
    body = raw.partition(b"\r\n\r\n")[2]
    sizes, events = [], b""
    while body:
        size, _, body = body.partition(b"\r\n")
        sizes.append(int(size, 16))
        events, body = events + body[: sizes[-1]], body[sizes[-1] + 2 :]
    assert max(sizes) <= 7 and sizes[-1] == 0
    assert events.startswith(b": keep-alive\r\ndata: ") and events.endswith(b"data: [DONE]\r\n\r\n")
    assert events.count(b"\n") == events.count(b"\r\n") and b",\r\ndata: " in events


def test_every_failure_model_is_tested_here() -> None:
    """A failure model could rot unnoticed."""
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in fake_ask.FAILURES if f'"{name}"' not in source] == []


async def test_a_hang_up_stops_a_stream_and_is_counted(client: AsyncOpenAI, provider: MockProvider) -> None:
    """A gateway that goes on reading after its client has left would pass its tests."""
    stream = await ask(client, "mock-small", stream=True, mock={"chunk_delay_ms": 20, "tokens": 2000})
    await anext(stream)
    await anext(stream)
    await stream.close()
    await until(lambda: provider.hung_up == 1)
    sent = provider.bytes_sent
    await asyncio.sleep(0.06)
    assert provider.bytes_sent == sent
    with pytest.raises(openai.APITimeoutError):
        await ask(client, "mock-small", mock={"delay_ms": 5000}, timeout=0.1)
    await until(lambda: provider.hung_up == 2)
    await ask(client, "mock-small", mock={"chunk_delay_ms": 1}, stream=False)
    assert provider.hung_up == 2 and provider.chat == 3


async def test_delays_pace_a_stream(client: AsyncOpenAI) -> None:
    """Time to first token and between tokens couldn't be tested."""
    started = time.monotonic()
    mock = {"delay_ms": 60, "chunk_delay_ms": 10, "chunks": 5}
    times = []
    async for _ in await ask(client, "mock-small", stream=True, mock=mock):
        times.append(time.monotonic() - started)
    assert times[0] >= 0.06 and times[-1] - times[0] >= 0.05


async def test_a_slow_reader_gets_everything(provider: MockProvider) -> None:
    """Big streams would be lost, or fill the memory, where the reader is slower than the mock."""
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.setblocking(False)
    await asyncio.get_running_loop().sock_connect(small, (provider.host, provider.port))
    reader, writer = await asyncio.open_connection(sock=small, limit=4096)
    body = {"stream": True, "n": 2, "mock": {"tokens": 20_000, "chunks": 10_000, "delay_ms": 1}}
    writer.write(request(**body) + request(mock={"tokens": 3}))
    await until(lambda: any(one.choked and one.left for one in provider.connections))
    received = bytearray()
    while not (b"[DONE]" in received[-2000:] and received.endswith(b"}")):
        received += await reader.read(65536)
    assert received.count(b"data: [DONE]\n\n\r\n0\r\n\r\nHTTP/1.1 200 OK") == 1
    assert received.count(b'"content":') == 2 * 10_000 + 2 + 1
    writer.close()
    await writer.wait_closed()


async def test_pipelined_requests_are_answered_in_order(provider: MockProvider) -> None:
    """Answers would go to the wrong requests on a reused connection."""
    first = request(model="mock-large", mock={"delay_ms": 50})
    second = request(model="mock-reasoner", stream=True)
    third = b"GET /health HTTP/1.1\r\nhost: mock\r\n\r\n"
    for parts in ([first + second + third], [bytes([byte]) for byte in first + second + third]):
        received = await exchange(provider, *parts)
        places = [received.index(word) for word in (b"mock-large", b"mock-reasoner", b"mock-provider")]
        assert places == sorted(places) and received.count(b"HTTP/1.1 200 OK") == 3
    assert provider.hung_up == 0


async def test_http_of_many_kinds(provider: MockProvider) -> None:
    """Clients other than the official one would hang or read answers that never end."""
    old = await exchange(provider, request(version="1.0"), request())
    assert b"\r\nconnection: close\r\n" in old and old.count(b"HTTP/1.1 200 OK") == 1
    whole = request()
    head, _, body = whole.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"content-length")]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:])) + b"0\r\n\r\n"
    chunked = b"\r\n".join([*lines, b"transfer-encoding: chunked", b"", chunks])
    assert (await exchange(provider, chunked)).startswith(b"HTTP/1.1 200 OK")
    expecting = head + b"\r\nexpect: 100-continue\r\n\r\n"
    received = await exchange(provider, expecting, body)
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
    empty = await exchange(provider, b"HEAD /health HTTP/1.1\r\nhost: mock\r\nconnection: close\r\n\r\n")
    assert b"content-length: 37" in empty and empty.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000 + b"\r\n\r\n", b"431"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\nPRI * HTTP/2.0", b"404"),
        (b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: x\r\n\r\n", b"400"),
        (b"GET /unknown HTTP/1.1\r\n\r\n", b"404"),
        (b"DELETE /v1/models HTTP/1.1\r\n\r\n", b"405"),
    ],
)
async def test_bad_http_gets_an_openai_shaped_error(provider: MockProvider, sent: bytes, status: bytes) -> None:
    """The mock would drop the connection without a word, which looks like a fault of the caller's network."""
    received = await exchange(provider, sent)
    assert received.startswith(b"HTTP/1.1 " + status)
    assert set(json.loads(received.rpartition(b"\r\n\r\n")[2])["error"]) == {
        "message",
        "type",
        "param",
        "code",
    }


async def test_a_body_that_is_too_large_is_refused(provider: MockProvider) -> None:
    """One upload could fill the memory of the machine that runs the tests."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    piece = b"%x\r\n%b\r\n" % (1 << 20, b" " * (1 << 20))
    reader, writer = await asyncio.open_connection(provider.host, provider.port)
    writer.write(head)
    for _ in range(32):
        writer.write(piece)
        await writer.drain()
    writer.write(b"1\r\n \r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()
    await writer.wait_closed()


async def test_a_required_key_is_checked() -> None:
    """A gateway that sends the wrong credential would pass its tests."""
    async with MockProvider(api_key="sk-right", delay_ms=0) as provider:
        for key, right in (("sk-right", True), ("sk-wrong", False)):
            async with AsyncOpenAI(base_url=provider.url, api_key=key, max_retries=0) as client:
                if right:
                    assert (await ask(client, "mock-small")).usage.completion_tokens == 48
                    continue
                for call in (ask(client, "mock-small"), client.models.list()):
                    with pytest.raises(openai.AuthenticationError) as refused:
                        await call
                    assert refused.value.code == "invalid_api_key"
        assert (await exchange(provider, request())).startswith(b"HTTP/1.1 401")
        assert provider.chat == 1


def test_the_command_serves_and_stops_cleanly() -> None:
    """The benchmark, the demo and other suites start the mock by this line and stop it by SIGTERM."""
    options = ["--port", "0", "--api-key", "sk-cli", "--delay-ms", "40", "--chunk-delay-ms", "1"]
    line = [sys.executable, "-m", "faucet.providers.fake_server", *options]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            url = json.loads(process.stdout.readline())["url"]
            with OpenAI(base_url=url, api_key="sk-cli", max_retries=0, timeout=20) as client:
                started = time.monotonic()
                made: Any = client.chat.completions
                chunks = list(made.create(model="mock-small", messages=MESSAGES, stream=True))
                assert time.monotonic() - started >= 0.06 and len(chunks) == 22
                with pytest.raises(openai.APITimeoutError):
                    made.create(model="stall", messages=MESSAGES, timeout=0.2)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            assert (process.stdout.read(), process.stderr.read()) == ("", "")
        finally:
            process.kill()


@given(
    length=st.integers(0, 400),
    question=st.sampled_from(("refund?", "退款", "报价 please", "")),
    seed=st.integers(0),
)
def test_prose_has_any_exact_length(length: int, question: str, seed: int) -> None:
    """A length that no sentences add up to would break the promise of exactly N tokens."""
    text = fake_text.prose(length, question, seed)
    assert count_text(text, "words") == length
    assert "".join(fake_text.pieces(text)) == text and len(fake_text.pieces(text)) == length


@given(text=st.text(alphabet="ab 中。\u3000\n'é"), limit=st.integers(0, 12))
def test_cut_and_pieces_agree_with_the_count(text: str, limit: int) -> None:
    """A reply that is cut at max_tokens would report more tokens than the limit."""
    total = count_text(text, "words")
    short = fake_text.cut(text, limit)
    assert text.startswith(short) and count_text(short, "words") == min(total, limit)
    assert "".join(fake_text.pieces(text)) == text


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": ["null", "integer"], "minimum": 5}, 5),
        ({"const": {"a": 1}}, {"a": 1}),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5}, 0.25),
        ({"type": "integer", "exclusiveMinimum": 4, "multipleOf": 5}, 5),
        ({"type": "integer", "maximum": -3}, -3),
        ({"type": "array", "minItems": 2, "uniqueItems": True, "items": {"enum": ["x", "y"]}}, ["x", "y"]),
        (
            {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "minItems": 2},
            [True, None],
        ),
        ({"type": "string", "format": "uuid"}, "01890a5d-ac96-774b-bcce-b302099a8057"),
        ({"type": "string", "minLength": 9, "maxLength": 9}, "example.."),
        ({"type": "string", "pattern": r"^(sk|pk)_[0-9]{3}$"}, "sk_111"),
        ({"oneOf": [{"type": "string", "pattern": "(?=a)b"}, {"type": "integer"}]}, 1),
        ({"allOf": [{"required": ["a"]}, {"properties": {"a": {"type": "null"}}}]}, {"a": None}),
        ({"$ref": "#/$defs/one", "$defs": {"one": {"enum": [7]}}}, 7),
        ({"type": "object", "minProperties": 1, "properties": {"k": {"type": "boolean"}}}, {"k": True}),
    ],
)
def test_instances_are_valid(schema: Any, expected: Any) -> None:
    """Arguments and structured replies would be refused by whoever validates them."""
    assert fake_text.instance(schema) == expected


_CYCLE = {"type": "object", "required": ["a", "b"], "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}}


@pytest.mark.parametrize(
    "schema",
    [
        _CYCLE,
        {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"$ref": "#/$defs/none"},
        {"$ref": "https://example.com/schema"},
        {"type": "text"},
        {"type": "integer", "minimum": 5, "maximum": 4},
        {"type": "object", "properties": 5, "required": ["a"]},
        {"type": "string", "pattern": "(["},
        {"type": "array", "minItems": 10**9},
        False,
    ],
)
def test_an_impossible_schema_is_refused_in_time(schema: Any) -> None:
    """A schema without a value would hang the mock, or get an answer that isn't valid."""
    with pytest.raises(fake_text.Impossible):
        fake_text.instance(schema)
