"""The clients of a torture: hundreds of them in one process, each asking, hanging up, and asking again.

A client writes down what it was told to the last byte: the ids, the price, whether the answer was whole. That
record is what the books are compared with afterwards. Here too: the smallest HTTP client that can tell a whole
answer from a torn one. Not here: who kills what (`torture_killer`), and what must be true (`torture_checks`).

Run by `bench.torture` as `python -m bench.torture_clients`, with a `Plan` as JSON on standard input. It ends when
that is closed, and prints what it counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import uvloop

PATH = b"/v1/chat/completions"
PATIENCE_SECONDS = 25.0
"""A client that has waited so long leaves."""
LAST_SECONDS = 8.0
"""At the end, what is under way may take so long."""
TRIES_MAX = 8

MODELS = {
    "mock-small": 55,
    "auto": 5,
    "mock-reasoner": 8,
    "mock-large": 4,
    "no-usage": 5,
    "crlf-sse": 4,
    "lies-about-usage": 3,
    "usage-twice": 3,
    "flaky": 3,
    "slow-first-byte": 3,
    "cut-mid-stream": 3,
    "fail-500": 2,
    "refuse-400": 2,
    "200-with-error-body": 2,
    "stall": 1,
    "429": 1,
}
"""How often each model is asked for; all but a few misbehave in their own way."""

WORDS = "order parcel late refund invoice please kindly when why again bicycle wheel broken price week today".split()

_PRICE = re.compile(rb'"price_usd":"(\d+)\.(\d{8})"')
_CHAT_ID = re.compile(rb'"id":"chatcmpl_mf_([^"]+)"')
_CODE = re.compile(rb'"error":\{"code":"(\w+)"')
_VARYING = re.compile(rb',"wallet_balance_usd":"[^"]*"|"created":\d+')
"""What a stored reply may say otherwise than the first: the balance has moved on, and so has the clock."""


class Plan(msgspec.Struct):
    """What the clients are to do."""

    host: str
    port: int
    bearers: list[str]
    clients: int
    seed: int
    record: str
    """The file that every finished try is appended to."""


class Try(msgspec.Struct, omit_defaults=True):
    """One request as its client saw it."""

    own_id: str | None = None
    """The x-request-id that was sent."""
    answered_id: str | None = None
    """The x-request-id that came back."""
    body_id: str | None = None
    """The id inside the answer: another try's, where a kept reply was given again."""
    key: str | None = None
    status: int = 0
    code: str | None = None
    whole: bool = False
    """A complete answer: all of a JSON reply, or a stream up to its [DONE]."""
    ending: str = ""
    stream: bool = False
    model: str = ""
    price_e8: int | None = None
    digest: str | None = None
    """Of the answer, where it has a key and is whole."""
    replayed: bool = False
    began: float = 0
    """Seconds since the start, for whoever looks into a failure; so is `took`."""
    took: float = 0


class Reply:
    """What came back so far, and how it ended."""

    def __init__(self, cut_after: int | None) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.head = b""
        self.status = 0
        self.body = bytearray()
        self._unread = bytearray()
        self._left: int | None = None
        self._chunked = False
        self._cut_after = cut_after

    def end(self, how: str) -> None:
        if not self.ended.done():
            self.ended.set_result(how)

    def feed(self, received: bytes) -> None:
        """Take bytes from the connection. Those that come after the end are of no interest."""
        if self.ended.done():
            return
        self._unread += received
        if not self.status and not self._read_head():
            return
        if self._chunked:
            finished = self._read_chunks()
        else:
            self.body += self._unread
            self._unread.clear()
            finished = len(self.body) == self._left
        if finished:
            self.end("whole")
        elif self._cut_after is not None and len(self.body) > self._cut_after:
            self.end("hung up")

    def _read_head(self) -> bool:
        end = self._unread.find(b"\r\n\r\n")
        if end < 0:
            return False
        self.head = bytes(self._unread[: end + 2]).lower()
        self.status = int(self._unread[9:12])
        del self._unread[: end + 4]
        length = self.header(b"content-length")
        self._chunked = length is None
        self._left = int(length) if length is not None else None
        return True

    def _read_chunks(self) -> bool:
        while True:
            line = self._unread.find(b"\r\n")
            if line < 0:
                return False
            size = int(self._unread[:line], 16)
            if len(self._unread) < line + 4 + size:
                return False
            self.body += self._unread[line + 2 : line + 2 + size]
            del self._unread[: line + 4 + size]
            if size == 0:
                return True

    def header(self, name: bytes) -> bytes | None:
        """A header's value in lower case."""
        start = self.head.find(b"\r\n" + name + b": ")
        if start < 0:
            return None
        start += len(name) + 4
        return self.head[start : self.head.index(b"\r\n", start)]

    @property
    def is_whole(self) -> bool:
        if self.status != 200:
            return False
        if self._chunked or self.header(b"content-type") != b"application/json":
            return b"data: [DONE]\n\n" in self.body[-64:]
        return len(self.body) == self._left


class Wire(asyncio.Protocol):
    """One connection to a gateway, made when it is needed."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._transport: asyncio.Transport | None = None
        self._reply: Reply | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has another parent

    def data_received(self, data: bytes) -> None:
        if self._reply is not None:
            self._reply.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._reply is not None:
            self._reply.end("lost")

    async def ask(self, request: bytes, *, cut_after: int | None, leave_after: float, politely: bool) -> Reply:
        """Send a request and wait for its end. Raises OSError where no connection can be made.

        Before the end the client leaves after `leave_after` seconds, or once `cut_after` bytes of the body are
        there; politely or by a reset.
        """
        if self._transport is None or self._transport.is_closing():
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: self, self._plan.host, self._plan.port)
        assert self._transport is not None
        reply = self._reply = Reply(cut_after)
        self._transport.write(request)
        try:
            async with asyncio.timeout(leave_after):
                await asyncio.shield(reply.ended)
        except TimeoutError:
            reply.end("hung up")
        self._reply = None
        if reply.ended.result() != "whole":
            self.drop(politely=politely)
        return reply

    def drop(self, *, politely: bool) -> None:
        """Leave."""
        if self._transport is not None:
            if politely:
                self._transport.close()
            else:
                self._transport.abort()
            self._transport = None


class Crowd:
    """All clients, and the file that they write down in."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.stopping = asyncio.Event()
        self.counts: Counter[str] = Counter()
        self.began = time.monotonic()
        self._file = Path(plan.record).open("ab", buffering=1 << 16)
        self._encode = msgspec.json.Encoder().encode

    def write(self, told: Try) -> None:
        """Append what one try came to."""
        self._file.write(self._encode(told) + b"\n")
        self.counts["requests"] += 1
        self.counts[f"ending {told.ending}"] += 1
        if told.code is not None:
            self.counts[f"code {told.code}"] += 1

    async def run(self) -> None:
        """Let all clients live until `stopping`, and what they began end."""
        clients = [Client(self, number) for number in range(self.plan.clients)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.live()) for client in clients]
            await self.stopping.wait()
            await asyncio.wait(tasks, timeout=LAST_SECONDS)
            for client in clients:
                client.leave()
        self._file.close()


class Client:
    """One client: it asks for one thing after another."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self._crowd = crowd
        self._number = number
        self._chance = random.Random(f"{crowd.plan.seed}-{number}")
        self._serial = 0
        self._wires = [Wire(crowd.plan), Wire(crowd.plan)]

    def leave(self) -> None:
        for wire in self._wires:
            wire.drop(politely=False)

    async def live(self) -> None:
        """Ask until told to stop."""
        chance = self._chance
        await asyncio.sleep(chance.random())
        while not self._crowd.stopping.is_set():
            self._serial += 1
            bearer = chance.choice(self._crowd.plan.bearers)
            model, stream, body = ask_for(chance)
            if chance.random() < 0.35:
                await self._with_key(bearer, model, stream, body)
            else:
                await self._try(bearer, model, stream, body, None)
            await asyncio.sleep(chance.random() * chance.choice((0.02, 0.2)))

    async def _with_key(self, bearer: str, model: str, stream: bool, body: bytes) -> None:
        """Ask with an Idempotency-Key, again and again, until there is an answer or patience ends."""
        chance = self._chance
        key = f"key-{self._number}-{self._serial}"
        for _ in range(TRIES_MAX):
            if chance.random() < 0.1:  # a client that sends everything twice
                both = (self._try(bearer, model, stream, body, key, wire) for wire in (0, 1))
                told = max(await asyncio.gather(*both), key=lambda one: one.whole)
            else:
                told = await self._try(bearer, model, stream, body, key)
            if self._crowd.stopping.is_set():
                return
            over = told.whole or (told.ending == "whole" and told.code not in ("idempotency_conflict", "unavailable"))
            if over and chance.random() < (0.8 if told.whole else 0.97):
                return
            await asyncio.sleep(chance.random() * chance.choice((0.1, 1.0, 3.0)))

    async def _try(self, bearer: str, model: str, stream: bool, body: bytes, key: str | None, wire: int = 0) -> Try:
        """One request. What came of it is written down, unless there was nobody to connect to."""
        chance = self._chance
        told = Try(model=model, stream=stream, key=key)
        if key is not None or chance.random() < 0.7:
            self._serial += 1
            told.own_id = f"t-{self._number}-{self._serial}"
        cut_after, leave_after = None, PATIENCE_SECONDS
        dice = chance.random()
        if dice < 0.06:
            leave_after = chance.random() * chance.choice((0.01, 0.1, 1.0))
        elif dice < 0.12:
            cut_after = int(chance.random() * chance.choice((400, 6_000)))
        request = request_bytes(bearer, body, told.own_id, key)
        began = time.monotonic()
        told.began = round(began - self._crowd.began, 3)
        try:
            reply = await self._wires[wire].ask(
                request, cut_after=cut_after, leave_after=leave_after, politely=chance.random() < 0.5
            )
        except OSError:
            self._crowd.counts["no connection"] += 1
            told.ending = "no connection"
            await asyncio.sleep(0.05 + chance.random() * 0.2)
            return told
        told.took = round(time.monotonic() - began, 3)
        note(told, reply)
        self._crowd.write(told)
        return told


def note(told: Try, reply: Reply) -> None:
    """Put down what a reply says."""
    told.ending = reply.ended.result()
    told.status = reply.status
    answered = reply.header(b"x-request-id")
    told.answered_id = answered.decode() if answered is not None else None
    told.replayed = reply.header(b"idempotent-replayed") is not None
    told.whole = reply.is_whole
    body = bytes(reply.body)
    if (found := _CHAT_ID.search(body)) is not None:
        told.body_id = found[1].decode()
    if (found := _CODE.search(body)) is not None:
        told.code = found[1].decode()
    if (found := _PRICE.search(body)) is not None:
        told.price_e8 = int(found[1] + found[2])
    if told.whole and told.key is not None:
        told.digest = hashlib.sha256(_VARYING.sub(b"", body)).hexdigest()


def ask_for(chance: random.Random) -> tuple[str, bool, bytes]:
    """A question: its model, whether it is a stream, and its body."""
    model = chance.choices(list(MODELS), list(MODELS.values()))[0]
    stream = chance.random() < 0.5
    text = " ".join(chance.choice(WORDS) for _ in range(chance.randint(3, 40)))
    mock: dict[str, Any] = {"tokens": chance.choice((5, 20, 48, 48, 80))}
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": f"{text} {chance.random()}"}]}
    if chance.random() < 0.93:  # without one, the gateway has to shrink the answer to what the wallet pays for
        body["max_tokens"] = chance.choice((20, 60, 100))
    if chance.random() < 0.05:
        body["n"] = chance.choice((2, 3))
    if model == "slow-first-byte":
        mock["delay_ms"] = chance.choice((100, 700, 1_500))
    if stream:
        body["stream"] = True
        mock |= {"chunks": chance.randint(2, 12), "chunk_delay_ms": chance.choice((0, 0, 0, 5, 20, 150))}
        if chance.random() < 0.6:
            body["stream_options"] = {"include_usage": True}
    elif chance.random() < 0.3:
        mock["delay_ms"] = chance.choice((5, 50, 300))
    body["mock"] = mock
    return model, stream, msgspec.json.encode(body)


def request_bytes(bearer: str, body: bytes, own_id: str | None, key: str | None) -> bytes:
    """A request as it goes over the wire."""
    head = b"POST %s HTTP/1.1\r\nhost: torture\r\nauthorization: Bearer %s\r\ncontent-length: %d\r\n" % (
        PATH,
        bearer.encode(),
        len(body),
    )
    if own_id is not None:
        head += b"x-request-id: %s\r\n" % own_id.encode()
    if key is not None:
        head += b"idempotency-key: %s\r\n" % key.encode()
    return head + b"content-type: application/json\r\n\r\n" + body


async def run(plan: Plan) -> Counter[str]:
    """Run the crowd until standard input ends."""
    crowd = Crowd(plan)
    loop = asyncio.get_running_loop()
    loop.add_reader(0, lambda: None if os.read(0, 1) else crowd.stopping.set())
    began = time.monotonic()
    await crowd.run()
    crowd.counts["seconds"] = round(time.monotonic() - began)
    return crowd.counts


def main(arguments: Sequence[str]) -> int:
    """Read the plan, live it, print the counts as JSON."""
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=Plan)
    counts = uvloop.run(run(plan))
    print(msgspec.json.encode(counts).decode(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
