"""One client connection of the mock provider: HTTP/1.1 on a raw protocol, as cheap as it can be.

Requests come in, pipelined or not, and answers go out strictly in order: at once and in one write where
nothing asks for a pause, else step by step on timers. What to answer is the `Desk`'s matter (`fake_server`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol, cast

import httptools

from faucet.providers import fake
from faucet.providers.fake import Answer, Ending
from faucet.providers.fake_ask import Problem
from faucet.providers.fake_faces import face_of, refusal

CHAT_PATH = b"/v1/chat/completions"
BODY_LIMIT = 32 << 20
HEADER_LIMIT = 64 << 10
PIPELINE_LIMIT = 64
"""Requests that wait on one connection before its reading pauses."""
TINY = 7
"""Bytes of a piece where an answer wants tiny writes."""

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Ready:
    """An answer with all framing done: only the serial and the stamp are put in when it's sent."""

    answer: Answer
    head: bytes
    """Up to the value of x-request-id."""
    parts: list[bytes]
    """The framed body, cut at the places of the stamp."""


@dataclass(slots=True)
class Request:
    """A whole request, as the parser gave it."""

    method: bytes
    path: bytes
    headers: Headers
    body: bytes
    keep_alive: bool

    @property
    def is_chat(self) -> bool:
        return self.path == CHAT_PATH and self.method == b"POST"

    @property
    def is_paced(self) -> bool:
        """Whether its answer is one of a model, which has a pace."""
        return self.is_chat or (self.method == b"POST" and face_of(self.path) is not None)


class Desk(Protocol):
    """What a connection needs of its provider."""

    delay_ms: int
    chunk_delay_ms: int
    bytes_sent: int
    hung_up: int
    connections: set[Connection]

    def serial(self) -> bytes:
        """A new reply's own part of its id, of SERIAL_LENGTH digits."""

    def answer(self, request: Request) -> Ready:
        """The answer to a request. Raises Problem."""


def prepared(answer: Answer) -> Ready:
    """An answer framed for HTTP/1.1: chunked for a stream, with a length else."""
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    if answer.stream:
        lines += ["content-type: text/event-stream; charset=utf-8", "cache-control: no-cache"]
        lines.append("transfer-encoding: chunked")
        body = b"".join(map(_chunk, answer.steps))
        if answer.ending is Ending.WHOLE:
            body += b"0\r\n\r\n"
    else:
        body = b"".join(answer.steps)
        length = len(body) + body.count(fake.STAMP) * (_STAMP_LENGTH - 1)
        lines += ["content-type: application/json", f"content-length: {length}"]
        if answer.ending is Ending.CUT:
            body = body[: len(body) // 2]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    head = "\r\n".join([*lines, "x-request-id: req_mock_"]).encode()
    return Ready(answer, head, body.split(fake.STAMP))


SERIAL_LENGTH = 24
_STAMP_LENGTH = len(fake.stamp(b"0" * SERIAL_LENGTH, 1_700_000_000, False))
_STREAM_STAMP_LENGTH = len(fake.stamp(b"0" * SERIAL_LENGTH, 1_700_000_000, True))


def _chunk(step: bytes) -> bytes:
    length = len(step) + step.count(fake.STAMP) * (_STREAM_STAMP_LENGTH - 1)
    return b"%x\r\n%b\r\n" % (length, step)


class Connection(asyncio.Protocol):
    """One client connection: requests in, answers out, strictly in order."""

    def __init__(self, desk: Desk, loop: asyncio.AbstractEventLoop) -> None:
        self.desk = desk
        self.loop = loop
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any other call
        self.parser: Any = httptools.HttpRequestParser(self)
        self.waiting: deque[Request] = deque()
        self.busy = False
        """An answer is under way: delayed, paced or stalled."""
        self.choked = False
        """The client reads too slowly; nothing is written until it catches up."""
        self.closing = False
        self.timer: asyncio.Handle | None = None
        self.left: deque[bytes] = deque()
        self.spaced = False
        """Each step is written on its own, `gap` seconds after the one before."""
        self.gap = 0.0
        self.ending = Ending.WHOLE
        self.keep_alive = True
        self._reset()

    def _reset(self) -> None:
        self.path = b""
        self.headers: Headers = []
        self.header_bytes = 0
        self.body: list[bytes] = []
        self.body_bytes = 0

    # The transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's doesn't inherit from it
        self.desk.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self.busy and not self.closing:
            self.desk.hung_up += 1
        self.closing = True
        self.busy = False
        if self.timer is not None:
            self.timer.cancel()
        self.waiting.clear()
        self.left.clear()
        self.parser = None  # it refers back to this object
        self.desk.connections.discard(self)

    def pause_writing(self) -> None:
        self.choked = True

    def resume_writing(self) -> None:
        self.choked = False
        if self.busy and self.timer is None and self.left:
            self._next_step()
        self._answer_waiting()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The request itself is complete and gets its answer; the parser can't go on behind it.
            self.waiting[-1].keep_alive = False
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, Problem):
                raise
            self._refuse(error.__context__)
        except httptools.HttpParserError as error:
            self._refuse(Problem(400, f"Malformed HTTP: {error}"))
        if self.waiting:
            self._answer_waiting()

    def abort(self) -> None:
        """Close now, without a word."""
        self.closing = True
        self.transport.abort()

    # The parser's calls

    def on_url(self, url: bytes) -> None:
        self.path += url
        if len(self.path) > HEADER_LIMIT:
            raise Problem(414, "The address is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))
        self.header_bytes += len(name) + len(value)
        if self.header_bytes > HEADER_LIMIT:
            raise Problem(431, "The headers are too large.")
        if len(name) == 6 and name.lower() == b"expect" and not (self.busy or self.waiting):
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self.body.append(body)
        self.body_bytes += len(body)
        if self.body_bytes > BODY_LIMIT:
            raise Problem(413, f"The body is larger than {BODY_LIMIT} bytes.")

    def on_message_complete(self) -> None:
        body = self.body[0] if len(self.body) == 1 else b"".join(self.body)
        keep_alive = self.parser.should_keep_alive()
        self.waiting.append(Request(self.parser.get_method(), self.path, self.headers, body, keep_alive))
        self._reset()

    # Answering

    def _answer_waiting(self) -> None:
        while self.waiting and not (self.busy or self.choked or self.closing):
            self._answer(self.waiting.popleft())
        if self.closing:
            return
        if len(self.waiting) > PIPELINE_LIMIT:
            self.transport.pause_reading()
        elif not self.transport.is_reading():
            self.transport.resume_reading()

    def _answer(self, request: Request) -> None:
        try:
            ready = self.desk.answer(request)
        except Problem as problem:
            ready = prepared(refusal(request.path, problem))
        answer = ready.answer
        serial = self.desk.serial()
        stamp = fake.stamp(serial, int(time.time()), answer.stream)
        ending = b"\r\n\r\n" if request.keep_alive else b"\r\nconnection: close\r\n\r\n"
        head = b"%b%b%b" % (ready.head, serial, ending)
        if not request.is_paced:
            body = b"" if request.method == b"HEAD" else b"".join(ready.parts)
            self.transport.write(head + body)
            self._after(request.keep_alive)
            return
        delay = self.desk.delay_ms if answer.delay_ms is None else answer.delay_ms
        gap = self.desk.chunk_delay_ms if answer.chunk_delay_ms is None else answer.chunk_delay_ms
        if delay or (gap and answer.stream) or answer.tiny_writes or answer.ending is not Ending.WHOLE:
            self._pace(ready, head, stamp, delay / 1000, gap / 1000, request.keep_alive)
            return
        self._write(head + stamp.join(ready.parts))
        self._after(request.keep_alive)

    def _pace(self, ready: Ready, head: bytes, stamp: bytes, delay: float, gap: float, keep: bool) -> None:
        answer = ready.answer
        self.busy, self.keep_alive, self.ending = True, keep, answer.ending
        self.gap, self.spaced = gap, gap > 0 or answer.tiny_writes
        if answer.stream and answer.tiny_writes:
            whole = b"".join(answer.steps).replace(fake.STAMP, stamp)
            tiny = (whole[start : start + TINY] for start in range(0, len(whole), TINY))
            self.left.extend(_chunk(piece) for piece in tiny)
        elif answer.stream:
            self.left.extend(_chunk(step).replace(fake.STAMP, stamp) for step in answer.steps)
        elif answer.ending is not Ending.STALL:
            self.left.append(head + stamp.join(ready.parts))
        if answer.stream:
            if answer.ending is Ending.WHOLE:
                self.left[-1] += b"0\r\n\r\n"
            if self.left and not answer.tiny_writes:
                self.left[0] = head + self.left[0]
            else:
                self.left.appendleft(head)
        self.timer = self.loop.call_later(delay, self._next_step)

    def _next_step(self) -> None:
        self.timer = None
        while self.left and not self.choked:
            self._write(self.left.popleft())
            if self.left and self.spaced:
                self.timer = self.loop.call_later(self.gap, self._next_step)
                return
        if self.left or self.ending is Ending.STALL:
            return  # resume_writing goes on; after a stall, nothing does
        self.busy = False
        self._after(self.keep_alive and self.ending is Ending.WHOLE)
        self._answer_waiting()

    def _write(self, data: bytes) -> None:
        """Write a part of a chat answer."""
        self.desk.bytes_sent += len(data)
        self.transport.write(data)

    def _after(self, keep_alive: bool) -> None:
        if not keep_alive:
            self.closing = True
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Answer to a request that can't be read, and close; silently while another answer is under way."""
        if not self.busy:
            self._answer_waiting()
        if not self.busy and not self.closing:
            ready = prepared(fake.refusal(problem))
            ending = b"\r\nconnection: close\r\n\r\n"
            self.transport.write(ready.head + self.desk.serial() + ending + b"".join(ready.parts))
        self.closing = True
        self.transport.close()
