"""CPU time per request of the gateway's upstream client, beside aiohttp, in one run.

A trivial raw server runs in a process of its own, on the other core where there is one. Measured is the
client process: `getrusage`, user and system, over a fixed number of requests at a fixed concurrency. Kinds:

    json     one JSON document with content-length
    stream   twenty server-sent events in chunked coding, all at once (one or two reads)
    trickle  the same twenty events, each in a segment of its own (twenty reads)

`raw bytes` is the floor: bare transports, nothing parsed. Believe the ratios of one run, not numbers of two.
Run: `python bench/micro_upstream.py [--requests N] [--only KIND]`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import cast

import aiohttp
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from faucet.kit.upstream import Deadlines, Endpoint, Pool

EVENTS = 20
EVENT = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"delta":{"content":"a "}}]}\n\n'
REPLY_HEADERS = (
    b"date: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: raw\r\nx-request-id: req_0123456789\r\n"
    b"openai-processing-ms: 12\r\nx-ratelimit-remaining: 1000\r\ncache-control: no-store\r\n"
)
REQUEST_BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "word " * 270}]}).encode()
REQUEST_HEADERS = b"authorization: Bearer sk-0123456789\r\ncontent-type: application/json\r\n"


def _json_reply() -> bytes:
    body = json.dumps({"choices": [{"message": {"content": "word " * 60}}], "usage": {"total_tokens": 60}}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n%s" % (
        REPLY_HEADERS,
        len(body),
        body,
    )


def _stream_pieces() -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n%stransfer-encoding: chunked\r\n\r\n" % REPLY_HEADERS
    chunk = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)
    return [head, *([chunk] * EVENTS), b"0\r\n\r\n"]


class RawServer(asyncio.Protocol):
    """Answers every request by its path, without parsing more than it must."""

    JSON = _json_reply()
    PIECES = _stream_pieces()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0 or len(self.buffer) < end + 4 + len(REQUEST_BODY):
            return
        path, self.buffer = self.buffer[:16], b""
        if b"/json" in path:
            self.transport.write(self.JSON)
        elif b"/stream" in path:
            self.transport.write(b"".join(self.PIECES))
        else:
            self.send_next(0)

    def send_next(self, index: int) -> None:
        """One event a loop iteration, each flushed alone."""
        if index < len(self.PIECES) and not self.transport.is_closing():
            self.transport.write(self.PIECES[index])
            asyncio.get_running_loop().call_later(0.001, self.send_next, index + 1)


def serve(pipe: Pipe, core: int | None) -> None:
    """The server process: says its port, and ends when its pipe does."""
    if core is not None:
        os.sched_setaffinity(0, {core})

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(RawServer, "127.0.0.1", 0, backlog=2048)
        pipe.send(server.sockets[0].getsockname()[1])
        await loop.run_in_executor(None, pipe.poll, None)
        server.close()

    uvloop.run(main())


async def ours(port: int, kind: str, requests: int, concurrency: int) -> float:
    pool = Pool()
    endpoint = Endpoint.parse(f"http://127.0.0.1:{port}/v1", trusted=True)
    deadlines = Deadlines()
    path = f"/{kind}".encode()

    async def one() -> int:
        response = await pool.request(endpoint, b"POST", path, REQUEST_HEADERS, REQUEST_BODY, deadlines)
        assert response.status == 200
        if kind == "json":
            return len(await response.read())
        size = 0
        while (piece := await response.chunk()) is not None:
            size += len(piece)
        return size

    spent = await _measure(one, kind, requests, concurrency)
    await pool.close()
    return spent


async def theirs(port: int, kind: str, requests: int, concurrency: int) -> float:
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"authorization": "Bearer sk-0123456789", "content-type": "application/json"}
    url = f"http://127.0.0.1:{port}/v1/{kind}"
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:

        async def one() -> int:
            async with session.post(url, data=REQUEST_BODY, headers=headers) as response:
                assert response.status == 200
                if kind == "json":
                    return len(await response.read())
                size = 0
                async for piece in response.content.iter_any():
                    size += len(piece)
                return size

        return await _measure(one, kind, requests, concurrency)


async def _measure(one: Callable[[], Awaitable[int]], kind: str, requests: int, concurrency: int) -> float:
    """CPU microseconds per request, after a warm-up, with every reply's length checked."""
    expected = len(_json_reply().partition(b"\r\n\r\n")[2]) if kind == "json" else EVENTS * len(EVENT)

    async def worker(count: int) -> None:
        for _ in range(count):
            size = await one()
            assert size == expected, (size, expected)

    each = max(1, requests // concurrency)
    await asyncio.gather(*(worker(max(1, each // 10)) for _ in range(concurrency)))
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF)
    await asyncio.gather(*(worker(each) for _ in range(concurrency)))
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return spent / (each * concurrency) * 1e6


async def raw(port: int, kind: str, requests: int, concurrency: int) -> float:
    """The floor: the same bytes over bare transports on the same loop, one future a reply, nothing parsed."""
    loop = asyncio.get_running_loop()
    reply = len(_json_reply()) if kind == "json" else sum(map(len, _stream_pieces()))
    expected = len(_json_reply().partition(b"\r\n\r\n")[2]) if kind == "json" else EVENTS * len(EVENT)
    head = b"POST /v1/%s HTTP/1.1\r\nhost: x\r\n%scontent-length: %d\r\n\r\n"
    message = head % (kind.encode(), REQUEST_HEADERS, len(REQUEST_BODY)) + REQUEST_BODY

    class Bare(asyncio.Protocol):
        got = 0
        waiter: asyncio.Future[None]

        def data_received(self, data: bytes) -> None:
            self.got += len(data)
            if self.got == reply:
                self.got = 0
                self.waiter.set_result(None)

    idle = [await loop.create_connection(Bare, "127.0.0.1", port) for _ in range(concurrency)]

    async def one() -> int:
        transport, protocol = idle.pop()
        waiter = protocol.waiter = loop.create_future()
        transport.write(message)
        await waiter
        idle.append((transport, protocol))
        return expected

    spent = await _measure(one, kind, requests, concurrency)
    for transport, _ in idle:
        transport.abort()
    return spent


def main() -> None:
    arguments = argparse.ArgumentParser(description="CPU per request of the upstream client, beside aiohttp")
    arguments.add_argument("--requests", type=int, default=20_000)
    arguments.add_argument("--concurrency", type=int, default=32)
    arguments.add_argument("--only", choices=("json", "stream", "trickle"))
    arguments.add_argument("--ours", action="store_true", help="leave aiohttp out (for profiling)")
    options = arguments.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    near, far = pipes = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(far, cores[1] if len(cores) > 1 else None), daemon=True
    )
    server.start()
    port = near.recv()
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[0]})
    else:
        print("one core only: client and server share it")
    clients = {"raw bytes": raw, "ours": ours} if options.ours else {"raw bytes": raw, "ours": ours, "aiohttp": theirs}
    print(f"CPU µs per request, {options.concurrency} at a time")
    try:
        for kind in (options.only,) if options.only else ("json", "stream", "trickle"):
            requests = options.requests // (10 if kind == "trickle" else 1)
            spent = {}
            for name, client in clients.items():
                started = time.perf_counter()
                spent[name] = uvloop.run(client(port, kind, requests, options.concurrency))
                rate = requests / (time.perf_counter() - started)
                ratio = spent[name] / spent["ours"] if "ours" in spent else 0
                shown = f"{ratio:5.2f} × ours" if ratio else " " * 12
                print(f"  {kind:8} {name:10} {spent[name]:8.1f} {shown}   ({rate:,.0f}/s)")
    finally:
        near.send(None)
        server.join(5)
        for pipe in pipes:
            pipe.close()


if __name__ == "__main__":
    main()
