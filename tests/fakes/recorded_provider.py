"""Replies of providers from files, played back over real HTTP on loopback, cut and coded as a test wants.

Here: reading `tests/fixtures/providers`, framing Bedrock's messages as AWS does, and a server that answers each model
with one reply. Not here: what must be booked for a reply; that stands beside it in its file.
"""

from __future__ import annotations

import gzip
import json
import re
import socketserver
import struct
import threading
import tomllib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

FOLDER = Path(__file__).parents[1] / "fixtures" / "providers"
EVENTS, AWS_EVENTS = "text/event-stream", "application/vnd.amazon.eventstream"


@dataclass(frozen=True)
class Case:
    """One recorded reply."""

    provider: str
    name: str
    wire: bytes
    stream: bool
    status: int
    ending: str
    says: dict[str, Any] | None
    truth: dict[str, Any] | None
    fails: dict[str, Any] | None
    breaks: str | None

    @property
    def model(self) -> str:
        """A model's name of its own, so that the server knows what to answer."""
        return f"{self.provider}-{self.name}"

    @property
    def content_type(self) -> str:
        if not self.stream or self.status != 200:
            return "application/json"
        return AWS_EVENTS if self.provider == "bedrock" else EVENTS


def cases() -> list[Case]:
    """All recorded replies, by provider and name."""
    found = []
    for path in sorted(FOLDER.glob("*.toml")):
        for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
            stream = table.get("stream", False)
            text = table["wire"].encode()
            ending = table.get("ending", "whole")
            wire = framed(text, ending) if stream and path.stem == "bedrock" else text
            found.append(
                Case(
                    path.stem,
                    name,
                    wire,
                    stream,
                    table.get("status", 200),
                    "whole" if ending == "damaged" else ending,
                    table.get("says"),
                    table.get("truth"),
                    table.get("fails"),
                    table.get("breaks"),
                )
            )
    return found


def framed(lines: bytes, ending: str = "whole") -> bytes:
    """Lines of `event-type {json}` as AWS's binary messages; `!` marks an exception."""
    out = b""
    for line in lines.strip().splitlines():
        kind, _, body = line.partition(b" ")
        exception = kind.startswith(b"!")
        headers = _header(":message-type", "exception" if exception else "event")
        headers += _header(":exception-type" if exception else ":event-type", kind.lstrip(b"!").decode())
        headers += _header(":content-type", "application/json")
        prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
        message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + body
        out += message + struct.pack(">I", zlib.crc32(message))
    if ending == "cut":
        return out[:-9]
    return out[:-9] + bytes([out[-9] ^ 1]) + out[-8:] if ending == "damaged" else out


def _header(name: str, value: str) -> bytes:
    return bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()


@dataclass
class Playing:
    """How a case is played: in pieces of so many bytes, with line ends of another kind, compressed."""

    case: Case
    piece: int = 1 << 20
    crlf: bool = False
    lines: bool = False
    """Each event's data on two lines."""
    coding: str | None = None


@dataclass
class Seen:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class _State:
    playing: dict[str, Playing] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)


class _Player:
    """One connection's requests and replies."""

    def __init__(self, state: _State, connection: socketserver.StreamRequestHandler) -> None:
        self.state = state
        self.rfile, self.wfile = connection.rfile, connection.wfile
        self.connection = connection.connection

    def play(self) -> None:
        """Answer until the client leaves, or a reply ends with its connection."""
        while line := self.rfile.readline():
            headers: dict[str, str] = {}
            while head := self.rfile.readline().strip():
                name, _, value = head.decode().partition(":")
                headers[name.lower()] = value.strip()
            body = self.rfile.read(int(headers.get("content-length", 0)))
            path = unquote(line.split()[1].decode())
            asked = json.loads(body) if body else None
            self.state.seen.append(Seen(path, headers, asked))
            if not self._answer(path, asked):
                return

    def _answer(self, path: str, asked: Any) -> bool:
        """Answer one request; whether the connection stays open."""
        named = asked.get("model") if isinstance(asked, dict) else None
        playing = self.state.playing.get(named) if isinstance(named, str) else None
        playing = playing or next(
            (p for m, p in self.state.playing.items() if f"/{m}:" in path or f"/{m}/" in path), None
        )
        if playing is None:
            self.wfile.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}")
            return True
        case, body = playing.case, playing.case.wire
        if playing.lines:
            body = two_lines(body)
        if playing.crlf:
            body = body.replace(b"\n", b"\r\n")
        coded = ""
        if playing.coding is not None:
            body = gzip.compress(body) if playing.coding == "gzip" else body
            coded = f"content-encoding: {playing.coding}\r\n"
        head = f"HTTP/1.1 {case.status} Said\r\ncontent-type: {case.content_type}\r\n{coded}"
        if not case.stream or case.status != 200:
            self.wfile.write(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
            return True
        self.wfile.write(head.encode() + b"transfer-encoding: chunked\r\n\r\n")
        for at in range(0, len(body), playing.piece):
            piece = body[at : at + playing.piece]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.flush()
        if case.ending == "stall":
            self.connection.recv(1)
        elif case.ending == "whole":
            self.wfile.write(b"0\r\n\r\n")
            return True
        return False


class RecordedProvider:
    """The server while the block runs."""

    def __init__(self) -> None:
        self._state = _State()
        state = self._state

        def play(connection: socketserver.StreamRequestHandler) -> None:
            _Player(state, connection).play()

        def ignore(*_: object) -> None:
            """A client that hangs up is no news."""

        connection = type("C", (socketserver.StreamRequestHandler,), {"handle": play, "disable_nagle_algorithm": True})
        quiet = {"allow_reuse_address": True, "daemon_threads": True, "handle_error": ignore}
        server = type("Server", (socketserver.ThreadingTCPServer,), quiet)
        self._server: socketserver.ThreadingTCPServer = server(("127.0.0.1", 0), connection)
        self.port: int = self._server.server_address[1]
        self.base_url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def play(self, playing: Playing) -> None:
        """Answer this case's model so from now on."""
        self._state.playing[playing.case.model] = playing
        self._state.seen.clear()

    @property
    def seen(self) -> list[Seen]:
        """The requests since the last `play`."""
        return self._state.seen

    def __enter__(self) -> RecordedProvider:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def two_lines(body: bytes) -> bytes:
    """A stream whose events have their data on two lines each, broken between two fields."""
    return re.sub(rb'(?m)^(data: \{[^\n]*?),"', rb'\1,\ndata: "', body)


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """The data cut at these places."""
    start = 0
    for cut in sorted({min(cut, len(data)) for cut in cuts} | {len(data)}):
        if cut > start:
            yield data[start:cut]
            start = cut
