"""Whatever a client sends: the envelope with the right code, never a 500, and nothing held or booked.

Over loopback sockets against a real gateway process. Slow senders meet a gateway whose patience is short.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from gateway_world import CHAT, EndUser, Gateway, Mock, Reply, World, ask, chat, request, wait_for

MIB = 1 << 20
DEEP = 100_000
IMPATIENT = "server.HEAD_SECONDS = server.BODY_SECONDS = server.UNREAD_SECONDS = server.PARTING_SECONDS = 0.6"
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    431: "invalid_request_error",
}


@pytest.fixture
def nothing_booked(world: World, mock: Mock) -> Iterator[None]:
    """Proves that the test left no trace in the books, and that no provider was asked."""
    wait_for(lambda: world.books.one("select count(*) from hold") == 0)
    before, calls = world.booked(), mock.calls()
    yield
    assert world.booked() == before and mock.calls() == calls


@pytest.fixture(scope="session")
def impatient(world: World, mock: Mock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that waits only a moment for heads and bodies."""
    running = Gateway(world.dsn, mock.url, tmp_path_factory.mktemp("impatient"), before=IMPATIENT)
    yield running
    running.stop()


def check_envelope(reply: Reply, status: int, code: str) -> dict[str, Any]:
    """The envelope of CONTRACT §2 with OpenAI's two words; gives its error."""
    assert (reply.status, reply.code) == (status, code), reply
    assert reply.headers["content-type"] == "application/json"
    error: dict[str, Any] = reply.json["error"]
    assert set(reply.json) == {"error"}
    assert set(error) - {"details"} == {"code", "message", "request_id", "type", "param"}
    assert error["type"] == TYPES[status] and error["message"]
    assert error["request_id"] == reply.request_id and reply.request_id.startswith("req_")
    return error


def post(gateway: Gateway, bearer: str, body: bytes, headers: dict[str, str] | None = None) -> Reply:
    named = {"authorization": f"Bearer {bearer}", "content-type": "application/json", **(headers or {})}
    return request(gateway, "POST", CHAT, body, named)


class Line:
    """A raw connection to a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.socket = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *pieces: bytes) -> None:
        """Send; that the other side has closed already is not this one's matter."""
        try:
            for piece in pieces:
                self.socket.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            return

    def reply(self) -> Reply:
        """The next response."""
        response = http.client.HTTPResponse(self.socket)
        try:
            response.begin()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            response.close()

    def is_closed(self) -> bool:
        """Whether the other side closes, and sends nothing more."""
        try:
            return self.socket.recv(65_536) == b""
        except ConnectionResetError:
            return True


def head(bearer: str, *lines: bytes, path: str = CHAT) -> bytes:
    """A POST's head with these lines."""
    start = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {bearer}\r\n".encode()
    return start + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


GOOD = json.dumps(chat()).encode()
DOTTED = [b'{"model":"mock-small","messages":[{"role":"user","content":', b"}]}"]


def around(content: bytes) -> bytes:
    """A request with this JSON text as its only content."""
    return content.join(DOTTED)


def with_fields(**fields: Any) -> bytes:
    return json.dumps(chat(**fields)).encode()


def without(*names: str) -> bytes:
    return json.dumps({name: value for name, value in chat().items() if name not in names}).encode()


# ── bodies ──

UNREADABLE = {
    "empty": b"",
    "spaces": b"  \n ",
    "a torn object": GOOD[:-1],
    "a torn string": b'{"model":"mock',
    "text behind the end": GOOD + b"x",
    "two objects": GOOD + GOOD,
    "an array": b"[" + GOOD + b"]",
    "a string": b'"hello"',
    "a number": b"7",
    "null": b"null",
    "no JSON": b"model=mock-small",
    "single quotes": b"{'model':'mock-small'}",
    "a comma too much": b'{"model":"mock-small",}',
    "NaN": b'{"model":"mock-small","temperature":NaN}',
    "bytes that are no UTF-8": around(b'"\xff\xfe"'),
    "an overlong slash": around(b'"\xc0\xaf"'),
    "half of a surrogate pair": around(b'"\\ud800"'),
    "a raw surrogate": around(b'"\xed\xa0\x80"'),
    "UTF-16": GOOD.decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "a raw control character": around(b'"a\x01b"'),
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "arrays without end": b"[" * DEEP,
    "deep arrays": around(b"[" * DEEP + b"]" * DEEP),
    "deep objects": around(b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    "a deep unknown field": b'{"x":' + b"[" * DEEP + b"]" * DEEP + b"," + GOOD[1:],
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_refused(gateway: Gateway, rich: EndUser, nothing_booked: None, body: bytes) -> None:
    """A body that nobody can read would crash a request, or be guessed at with somebody's money."""
    check_envelope(post(gateway, rich.bearer, body), 400, "invalid_request")


WRONG = [
    ("model", without("model")),
    *(("model", with_fields(model=value)) for value in (None, 7, True, ["mock-small"], {}, "", "m" * 257)),
    ("messages", without("messages")),
    *(("messages", with_fields(messages=value)) for value in (None, [], "hello", {"role": "user"}, 7)),
    *(("messages", with_fields(messages=[value])) for value in (None, 7, "hello", [], {}, {"role": None})),
    ("messages", with_fields(messages=[{"role": "user", "content": "x"}, {"role": 7, "content": "x"}])),
    *(("stream", with_fields(stream=value)) for value in ("yes", 1, 0, [], {})),
    *(("stream_options", with_fields(stream=True, stream_options=value)) for value in ("x", 7, [], True)),
    *(("stream_options", with_fields(stream=True, stream_options={"include_usage": v})) for v in ("x", 1, [])),
    *(
        (name, with_fields(**{name: value}))
        for name in ("max_tokens", "max_completion_tokens")
        for value in (0, -1, 1.5, "10", True, [], {}, 10**9, 200_000, -(10**18), 10**18, 10**40)
    ),
    ("max_tokens", b'{"max_tokens":1e30,' + GOOD[1:]),
    *(("n", with_fields(n=value)) for value in (0, -1, 129, 10**9, 10**40, 1.5, "2", False, [])),
    *(("metadata", with_fields(metadata=value)) for value in ("x", 7, [], [{}], False)),
    *(("metadata", with_fields(metadata={"feature_key": value})) for value in (7, [], {}, True)),
]


@pytest.mark.parametrize(("param", "body"), WRONG, ids=[f"{param}-{place}" for place, (param, _) in enumerate(WRONG)])
def test_a_field_with_a_wrong_value_is_named(
    gateway: Gateway, rich: EndUser, nothing_booked: None, param: str, body: bytes
) -> None:
    """A developer would search in vain for what is wrong; or an absurd figure would reserve a whole wallet."""
    error = check_envelope(post(gateway, rich.bearer, body), 400, "invalid_request")
    assert error["param"] == param
    assert list(error["details"]) == ["formErrors", "fieldErrors"] and len(error["details"]["fieldErrors"]) == 1


MISSING = [
    (with_fields(model="gpt-99"), "not_found"),
    (with_fields(model="AUTO"), "not_found"),
    (with_fields(model="mock-small\x00"), "not_found"),
    (with_fields(model="' or 1=1 --"), "not_found"),
    (with_fields(model="客户"), "not_found"),
    (with_fields(model="auto:nowhere"), "feature_not_found"),
    (with_fields(model="auto:"), "feature_not_found"),
    (with_fields(model="auto:\x00"), "feature_not_found"),
    (with_fields(model="auto", metadata={"feature_key": "nowhere"}), "feature_not_found"),
    (with_fields(metadata={"feature_key": "x" * 100_000}), "feature_not_found"),
]


@pytest.mark.parametrize(("body", "code"), MISSING, ids=range(len(MISSING)))
def test_what_does_not_exist_is_not_found(
    gateway: Gateway, rich: EndUser, nothing_booked: None, body: bytes, code: str
) -> None:
    """A name that nobody knows would be served by something else."""
    reply = post(gateway, rich.bearer, body)
    check_envelope(reply, 404, code)
    assert len(reply.body) < 1000, "what was sent is not sent back at length"


@pytest.mark.parametrize("words", [[], ["auto", 7], [{"type": "text"}, 7], "x"])
def test_what_only_the_provider_knows_is_its_to_refuse(
    gateway: Gateway, world: World, rich: EndUser, words: Any
) -> None:
    """A provider's 400 would be our 500, be retried, or be paid for."""
    body = chat(stop=[7, words], temperature="hot")
    reply = ask(gateway, rich.bearer, body)
    assert (
        reply.status == 400 and reply.code == "provider_error" and len(reply.json["error"]["details"]["attempts"]) == 1
    )
    assert wait_for(lambda: world.balance(rich) == (10 * 10**8, 0)) and world.events_of(rich) == []


def test_of_a_field_that_comes_twice_one_value_counts(
    gateway: Gateway, world: World, mock: Mock, rich: EndUser
) -> None:
    """The limit that is reserved for would not be the limit that the provider gets."""
    body = b'{"max_tokens":9000,"n":1,"max_tokens":4,"n":2,' + GOOD[1:-1] + b',"model":"mock-small"}'
    reply = post(gateway, rich.bearer, body)
    sent = mock.last()["body"]
    assert (sent["max_tokens"], sent["n"]) == (4, 2)
    assert reply.json["usage"]["completion_tokens"] == 8
    [event] = world.events_of(rich)
    assert event["held_e8"] < 20_000 and event["write_off_e8"] == 0


def test_deep_but_readable_content_is_counted_without_harm(gateway: Gateway, world: World, rich: EndUser) -> None:
    """Counting what a parser could just read would fall over, with a hold in its hands for ever."""
    deep = around(b"[" * 800 + b"]" * 800).replace(b"mock-small", b"no-usage")
    assert post(gateway, rich.bearer, deep).status == 400  # the mock wants text or parts
    for depth in (100, 400, 700, 900):
        part = b'[{"type":"x","y":' + b"[" * depth + b"]" * depth + b"}]"
        reply = post(gateway, rich.bearer, around(part).replace(b"mock-small", b"no-usage"))
        assert reply.status in (200, 400), reply
    assert wait_for(lambda: world.open_holds(rich) == [])


# ── who asks ──

STRANGERS: list[tuple[str, list[bytes]]] = [
    ("nobody", []),
    ("no token", [b"authorization: Bearer"]),
    ("an empty token", [b"authorization: Bearer "]),
    ("another scheme", [b"authorization: Basic dXNlcjpwYXNz"]),
    ("no scheme", [b"authorization: mf_sess_0123456789abcdef0123456789abcdef"]),
    ("a short token", [b"authorization: Bearer abc"]),
    ("an unknown token", [b"authorization: Bearer mf_sess_0123456789abcdef0123456789abcdef"]),
    ("a long token", [b"authorization: Bearer " + b"x" * 10_000]),
    ("no ASCII", [b"authorization: Bearer mf_sess_\xff\xfe0123456789abcdef"]),
    ("a developer's", [b"authorization: Bearer mf_dev_0123456789abcdef0123456789abcdef"]),
]


@pytest.mark.parametrize("lines", [lines for _, lines in STRANGERS], ids=[name for name, _ in STRANGERS])
def test_a_stranger_is_turned_away(gateway: Gateway, nothing_booked: None, lines: list[bytes]) -> None:
    """A bearer that is none would reach somebody's wallet, or crash on its way there."""
    with Line(gateway) as line:
        start = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
        line.send(
            start + b"".join(one + b"\r\n" for one in [*lines, b"content-length: %d" % len(GOOD)]) + b"\r\n" + GOOD
        )
        check_envelope(line.reply(), 401, "invalid_session")


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_an_idempotency_key_that_is_none_is_refused(
    gateway: Gateway, rich: EndUser, nothing_booked: None, key: str
) -> None:
    """A client would believe itself safe from a second charge when it isn't."""
    error = check_envelope(post(gateway, rich.bearer, GOOD, {"Idempotency-Key": key}), 400, "invalid_request")
    assert error["param"] == "Idempotency-Key"


# ── methods and addresses ──


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "TRACE"])
def test_another_method_is_405(gateway: Gateway, rich: EndUser, nothing_booked: None, method: str) -> None:
    """A client would not learn that only the method is wrong."""
    reply = request(gateway, method, CHAT, None, {"authorization": f"Bearer {rich.bearer}"})
    assert reply.headers["allow"] == "POST, OPTIONS"
    if method == "HEAD":
        assert reply.status == 405 and reply.body == b"" and reply.request_id
    else:
        check_envelope(reply, 405, "method_not_allowed")


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/chat", "/v1/chat/completions/", "/v1/chat/completions%00", "/v1/./chat/completions",
     "//v1/models", "/v1/chat/completions;x", "/V1/CHAT/COMPLETIONS", "/%ff%fe", "/" + "a" * 5000,
     "/v1/models?x", "/health/"],
)  # fmt: skip
def test_an_unknown_address_is_404(gateway: Gateway, nothing_booked: None, path: str) -> None:
    """A wrong address would be answered by something that the caller didn't mean."""
    reply = request(gateway, "POST", path, GOOD)
    if path == "/v1/models?x":
        check_envelope(reply, 405, "method_not_allowed")
    else:
        check_envelope(reply, 404, "not_found")
    assert len(reply.body) < 1000


# ── HTTP itself ──

BROKEN: list[tuple[str, bytes]] = [
    ("noise", b"\x00\x01\x02\x03\r\n\r\n"),
    ("a TLS greeting", bytes.fromhex("16030100a5010000a10303") + b"\x00" * 200),
    ("another version", b"GET / HTTP/9.9\r\nhost: x\r\n\r\n"),
    ("another protocol", b"GET / FTP/1.1\r\nhost: x\r\n\r\n"),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("an unknown method", b"BREW /v1/chat/completions HTTP/1.1\r\nhost: x\r\n\r\n"),
    ("a header without a colon", b"POST / HTTP/1.1\r\nhost x\r\n\r\n"),
    ("a space before the colon", b"POST / HTTP/1.1\r\nhost : x\r\n\r\n"),
    ("a header with NUL", b"POST / HTTP/1.1\r\nhost: x\x00y\r\n\r\n"),
    ("a header folded", b"POST / HTTP/1.1\r\nhost: x\r\n y\r\nfolded\r\n\r\n"),
    ("a negative length", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n"),
    ("a length of words", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: ten\r\n\r\n"),
    ("a length of 400 digits", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: " + b"9" * 400 + b"\r\n\r\n"),
    ("two lengths", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
    ("length and chunks", b"POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("an unknown encoding", b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n"),
    ("a path with a raw space", b"POST /a b HTTP/1.1\r\nhost: x\r\n\r\n"),
    ("a path of no ASCII", b"POST /\xff HTTP/1.1\r\nhost: x\r\n\r\n"),
    ("no path", b"POST HTTP/1.1\r\nhost: x\r\n\r\n"),
]  # fmt: skip


@pytest.mark.parametrize("sent", [sent for _, sent in BROKEN], ids=[name for name, _ in BROKEN])
def test_what_is_no_http_is_turned_away(gateway: Gateway, nothing_booked: None, sent: bytes) -> None:
    """Two readers of one connection could take it for different requests; or a process would fall over noise."""
    with Line(gateway) as line:
        line.send(sent)
        check_envelope(line.reply(), 400, "invalid_request")
        assert line.is_closed()


BROKEN_CHUNKS = {
    "no size": b"zz\r\n{}\r\n0\r\n\r\n",
    "a negative size": b"-1\r\n{}\r\n0\r\n\r\n",
    "an endless size": b"f" * 40 + b"\r\n{}",
    "more than was said": b"1\r\n{}\r\n0\r\n\r\n",
    "no line end": b"2\r\n{}0\r\n\r\n",
}


@pytest.mark.parametrize("body", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS)
def test_broken_chunks_are_turned_away(gateway: Gateway, rich: EndUser, nothing_booked: None, body: bytes) -> None:
    """A body whose end can't be known would be answered all the same."""
    with Line(gateway) as line:
        line.send(head(rich.bearer, b"transfer-encoding: chunked"), body)
        check_envelope(line.reply(), 400, "invalid_request")
        assert line.is_closed()


def test_chunks_are_a_body_like_any_other(gateway: Gateway, world: World, rich: EndUser) -> None:
    """Clients that don't know a body's length when they begin would be refused."""
    with Line(gateway) as line:
        line.send(head(rich.bearer, b"transfer-encoding: chunked"))
        for place in range(0, len(GOOD), 7):
            line.send(b"%x;ext=1\r\n%b\r\n" % (len(GOOD[place : place + 7]), GOOD[place : place + 7]))
        line.send(b"0\r\ntrailer: x\r\n\r\n")
        assert line.reply().status == 200
        line.send(head(rich.bearer, b"content-length: %d" % len(GOOD), b"expect: 100-continue"))
        assert line.socket.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.send(GOOD)
        assert line.reply().status == 200
    assert len(world.events_of(rich)) == 2


@pytest.mark.parametrize("promised", [len(GOOD) + 1, 10_000, MIB])
def test_a_body_that_never_ends_is_no_request(
    gateway: Gateway, rich: EndUser, nothing_booked: None, promised: int
) -> None:
    """A client that dies half-way would have asked for something it never said."""
    with Line(gateway) as line:
        line.send(head(rich.bearer, b"content-length: %d" % promised), GOOD)
        line.socket.shutdown(socket.SHUT_WR)
        assert line.is_closed()
    with Line(gateway) as line:
        line.send(head(rich.bearer, b"transfer-encoding: chunked"), b"%x\r\n" % promised, GOOD)
    assert request(gateway, "GET", "/health").status == 200


def test_what_follows_a_body_is_another_request(gateway: Gateway, world: World, rich: EndUser) -> None:
    """Bytes beyond a body's length would be taken for part of it, or smuggle a request."""
    with Line(gateway) as line:
        line.send(head(rich.bearer, b"content-length: %d" % len(GOOD)), GOOD, b"garbage\r\n\r\n")
        assert line.reply().status == 200
        assert line.is_closed()
    with Line(gateway) as line:
        line.send((head(rich.bearer, b"content-length: %d" % len(GOOD)) + GOOD) * 3)
        assert [line.reply().status for _ in "123"] == [200, 200, 200]
    assert len(world.events_of(rich)) == 4


# ── too much ──


def big(size: int) -> bytes:
    return around(b'"' + b"x" * size + b'"')


def test_a_huge_body_is_refused_by_its_length(gateway: Gateway, rich: EndUser, nothing_booked: None) -> None:
    """Memory would be filled by whoever asks; or the refusal would get lost on its way to who still sends."""
    said = head(rich.bearer, b"content-length: %d" % (21 * MIB))
    with Line(gateway) as line:
        line.send(said)
        check_envelope(line.reply(), 413, "payload_too_large")
    with Line(gateway) as line:
        line.send(said, *[b"x" * MIB] * 21)
        check_envelope(line.reply(), 413, "payload_too_large")
    with Line(gateway) as line:
        line.send(head(rich.bearer, b"content-length: %d" % (21 * MIB), b"expect: 100-continue"))
        assert line.socket.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 413", "nobody asks for it to be sent"
        check_envelope(line.reply(), 413, "payload_too_large")
    check_envelope(post(gateway, rich.bearer, big(20 * MIB)), 413, "payload_too_large")


def test_a_huge_body_in_chunks_is_refused_where_it_gets_too_large(
    gateway: Gateway, rich: EndUser, nothing_booked: None
) -> None:
    """A body without a length would have no limit."""
    with Line(gateway) as line:
        line.send(head(rich.bearer, b"transfer-encoding: chunked"), *[chunked(b"x" * MIB)[:-5]] * 21, b"0\r\n\r\n")
        check_envelope(line.reply(), 413, "payload_too_large")


def test_a_body_up_to_the_limit_is_read(gateway: Gateway, rich: EndUser, nothing_booked: None) -> None:
    """Prompts with images would be refused below the limit that is promised."""
    body = big(20 * MIB - 200)
    assert len(body) <= 20 * MIB
    reply = post(gateway, rich.bearer, body.replace(b"mock-small", b"gpt-99"))
    check_envelope(reply, 404, "not_found")


HEADS = {
    "one long header": [b"x-long: " + b"a" * 70_000],
    "many headers": [b"x-%05d: %s" % (number, b"a" * 50) for number in range(1200)],
    "a long value in 100 headers": [b"x-%d: " % number + b"a" * 700 for number in range(100)],
}


@pytest.mark.parametrize("lines", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("earlier", [0, 1], ids=["first", "later"])
def test_a_huge_head_is_refused(
    gateway: Gateway, rich: EndUser, world: World, lines: Sequence[bytes], earlier: int
) -> None:
    """Headers would be collected without end, on a connection's first request or on a later one."""
    small = head(rich.bearer, b"content-length: 2") + b"{}"
    with Line(gateway) as line:
        for _ in range(earlier):
            line.send(small)
            check_envelope(line.reply(), 400, "invalid_request")
        line.send(head(rich.bearer, *lines, b"content-length: 2") + b"{}")
        check_envelope(line.reply(), 431, "invalid_request")
        assert line.is_closed()
    assert world.events_of(rich) == []


def test_a_huge_address_is_refused(gateway: Gateway, nothing_booked: None) -> None:
    """An address would be collected without end."""
    with Line(gateway) as line:
        line.send(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        check_envelope(line.reply(), 431, "invalid_request")


# ── too slow ──


def drip(line: Line, sent: bytes, seconds: float) -> None:
    """Send byte by byte, for so long at most."""
    end = time.monotonic() + seconds
    for place in range(len(sent)):
        if time.monotonic() > end:
            return
        line.send(sent[place : place + 1])
        time.sleep(0.02)


def test_a_slow_head_is_given_up(impatient: Gateway, rich: EndUser, nothing_booked: None) -> None:
    """A few clients that send a byte now and then would hold every connection there is."""
    began = time.monotonic()
    with Line(impatient) as line:
        drip(line, head(rich.bearer, b"content-length: 2"), 1.0)
        check_envelope(line.reply(), 408, "invalid_request")
        assert line.is_closed()
    with Line(impatient) as line:
        assert line.is_closed(), "one that never says a word is let go"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("piece", [b"P", b"POST /v1/chat/completions HTTP/1.1\r\nx: "])
@pytest.mark.parametrize("idle_seconds", [0, 1])
def test_a_slow_later_head_is_given_up(
    impatient: Gateway, rich: EndUser, nothing_booked: None, piece: bytes, idle_seconds: int
) -> None:
    """One quick request would buy a connection that may be held for ever."""
    with Line(impatient) as line:
        line.send(head(rich.bearer, b"content-length: 2") + b"{}")
        check_envelope(line.reply(), 400, "invalid_request")
        time.sleep(idle_seconds)
        line.send(piece)
        check_envelope(line.reply(), 408, "invalid_request")
        assert line.is_closed()


@pytest.mark.parametrize("coding", [b"content-length: %d" % len(GOOD), b"transfer-encoding: chunked"])
def test_a_slow_body_is_given_up(impatient: Gateway, rich: EndUser, nothing_booked: None, coding: bytes) -> None:
    """A few clients that send a byte now and then would hold requests open for ever."""
    body = GOOD if coding.startswith(b"content") else b"".join(b"1\r\n%c\r\n" % byte for byte in GOOD)
    began = time.monotonic()
    with Line(impatient) as line:
        line.send(head(rich.bearer, coding))
        drip(line, body, 1.0)
        check_envelope(line.reply(), 408, "invalid_request")
        assert line.is_closed()
    assert time.monotonic() - began < 5


def test_who_goes_on_sending_after_a_refusal_is_cut_off(impatient: Gateway, nothing_booked: None) -> None:
    """A stranger could hold a connection by sending, for ever, what was refused long ago."""
    began = time.monotonic()
    with Line(impatient) as line:
        line.send(head("x" * 43, b"content-length: 1000000"))
        check_envelope(line.reply(), 408, "invalid_request")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while time.monotonic() - began < 8:
                line.socket.sendall(b"x")
                time.sleep(0.05)
    assert 1 < time.monotonic() - began < 5


def test_a_huge_body_does_not_cost_the_answer_before_it(gateway: Gateway, world: World, rich: EndUser) -> None:
    """An answer that is being made, and paid, would be cut off by what its client says next."""
    body = json.dumps(chat(mock={"delay_ms": 300})).encode()
    with Line(gateway) as line:
        line.send(head(rich.bearer, b"content-length: %d" % len(body)) + body)
        line.send(head(rich.bearer, b"content-length: %d" % (21 * MIB)) + b"x" * 100_000)
        assert line.reply().json["choices"][0]["message"]["content"]
        assert line.is_closed()
    assert len(world.events_of(rich)) == 1


def test_a_reader_that_stops_reading_is_given_up(impatient: Gateway, world: World, rich: EndUser) -> None:
    """A client could hold a connection, a provider's answer and its own money for ever, by not reading."""
    body = json.dumps(chat(stream=True, logprobs=True, top_logprobs=20, mock={"tokens": 20_000, "chunks": 10_000}))
    with Line(impatient) as line:
        line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.send(head(rich.bearer, b"content-length: %d" % len(body)) + body.encode())
        [event] = wait_for(lambda: world.events_of(rich), 20)
    assert event["outcome"] == 1 and 0 < event["output_tokens"] < 20_000 and event["usage_source"] == 1
    assert world.balance(rich)[1] == 0


def test_many_slow_clients_are_nobody_elses_problem(impatient: Gateway, world: World, rich: EndUser) -> None:
    """Other clients would wait behind those that dawdle."""
    with ExitStack() as lines:
        slow = [lines.enter_context(Line(impatient)) for _ in range(100)]
        for line in slow:
            line.send(head(rich.bearer, b"content-length: 1000") + b"{")
        began = time.monotonic()
        assert ask(impatient, rich.bearer, chat()).status == 200
        assert time.monotonic() - began < 2
        for line in slow:
            check_envelope(line.reply(), 408, "invalid_request")


def test_nothing_above_was_a_fault(gateway: Gateway, impatient: Gateway) -> None:
    """A 500 that a client doesn't notice would go unnoticed: the processes' own words are looked at."""
    for running in (gateway, impatient):
        told = running.log.read_text()
        assert "request.failed" not in told and "Traceback" not in told and "ASGI" not in told, told[-3000:]
        shown = request(running, "GET", "/metrics").body.decode()
        assert 'status="500"' not in shown
