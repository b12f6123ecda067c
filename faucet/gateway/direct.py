"""Writing a response straight to uvicorn's transport: one write where ASGI's messages would take two or more.

The app stays an ASGI app: on another server, or for HEAD, `Exchange` sends ordinary messages. This file keeps
uvicorn's own book-keeping (what its `RequestResponseCycle.send` does) and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

KEY = "faucet.cycle"
"""Where the server puts the cycle in the ASGI scope."""


async def whole(
    cycle: RequestResponseCycle, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes
) -> None:
    """Write a complete response with a `content-length` among its headers."""
    if cycle.flow.write_paused and not cycle.disconnected:
        await cycle.flow.drain()
    if cycle.disconnected:
        return
    cycle.response_started = True
    cycle.chunked_encoding = False
    cycle.transport.write(b"".join((_head(cycle, status, headers), b"\r\n", body)))
    _complete(cycle)


async def begin(
    cycle: RequestResponseCycle, status: int, headers: Iterable[tuple[bytes, bytes]], first: bytes
) -> None:
    """Write the head of a chunked response together with its first bytes."""
    if cycle.flow.write_paused and not cycle.disconnected:
        await cycle.flow.drain()
    if cycle.disconnected:
        return
    cycle.response_started = True
    cycle.chunked_encoding = True
    head = _head(cycle, status, headers)
    cycle.transport.write(
        b"".join((head, b"transfer-encoding: chunked\r\n\r\n", b"%x\r\n" % len(first), first, b"\r\n"))
    )


async def more(cycle: RequestResponseCycle, data: bytes, *, last: bool) -> None:
    """Write further bytes of a chunked response, and its end where they are the last."""
    if cycle.flow.write_paused and not cycle.disconnected:
        await cycle.flow.drain()
    if cycle.disconnected:
        return
    chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
    if last:
        cycle.transport.write(chunk + b"0\r\n\r\n")
        _complete(cycle)
    elif chunk:
        cycle.transport.write(chunk)


def _head(cycle: RequestResponseCycle, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    cycle.waiting_for_100_continue = False
    lines = [STATUS_LINE[status]]
    closes = False
    for name, value in headers:
        lines += (name, b": ", value, b"\r\n")
        closes = closes or (name == b"connection" and value == b"close")
    if closes:
        cycle.keep_alive = False
    elif not cycle.keep_alive:
        lines.append(b"connection: close\r\n")
    return b"".join(lines)


def _complete(cycle: RequestResponseCycle) -> None:
    cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
