"""The gateway's own HTTP/1.1 client: pooled, bound by deadlines, guarded against forbidden addresses.

Lives here: `Endpoint` (a base URL, parsed once), `Pool` (resolve, check, connect, send) and `Response`. The connection
below them is in `kit.upstream_pool`, the address policy in `kit.address`. Does not live here: what a request means,
retries of a provider, and content coding (we ask for `identity`). Redirects are never followed.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from faucet.kit.address import RefusedAddress, check_addresses, check_host
from faucet.kit.upstream_pool import WRITE_SLICE_BYTES, Connection, Deadlines, Limits, Origin, UpstreamError

__all__ = ["Deadlines", "Endpoint", "Pool", "Resolve", "Response", "UpstreamError"]

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to the texts of all its addresses."""

RESOLUTION_SECONDS = 30.0
"""How long a trusted host's addresses are believed."""
ADDRESSES_TRIED = 8
RESOLVER_THREADS_TRUSTED = 4
RESOLVER_THREADS_UNTRUSTED = 64

_DEFAULT_PORTS = {"https": 443, "http": 80}
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*")
_TARGET = re.compile(rb"/[\x21-\x7e]*")
_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
_WITHOUT_BODY = frozenset({b"GET", b"HEAD", b"DELETE", b"OPTIONS"})
_REPEATABLE = frozenset({b"GET", b"HEAD"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go. `trusted`: named by the operator, so private addresses are allowed."""

    scheme: str
    host: str
    port: int
    path_prefix: str
    trusted: bool
    key: str = field(init=False, repr=False, compare=False)
    target: bytes = field(init=False, repr=False, compare=False)
    tail: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        name = f"[{self.host}]" if ":" in self.host else self.host
        if self.port != _DEFAULT_PORTS.get(self.scheme):
            name = f"{name}:{self.port}"
        # Shared per origin and trust: a connection made for the operator never carries a tenant's request.
        set_once = object.__setattr__
        set_once(self, "key", f"{self.scheme}://{self.host}:{self.port}#{self.trusted:d}")
        set_once(self, "target", self.path_prefix.encode("ascii"))
        set_once(self, "tail", f" HTTP/1.1\r\nhost: {name}\r\naccept-encoding: identity\r\n".encode("ascii"))

    @classmethod
    def parse(
        cls, base_url: str, *, trusted: bool, extra_ports: Collection[int] = (), allow_http: bool = False
    ) -> Endpoint:
        """Read a base URL.

        Raises ValueError, with a text that the one who wrote the address may read, for anything but scheme,
        host, port and path; and, unless trusted, for plain http (without `allow_http`) and ports other than
        443 and `extra_ports`.
        """
        if not base_url.isascii() or not base_url.isprintable() or " " in base_url or "\\" in base_url:
            raise ValueError("the address holds characters that it may not; write other scripts as xn-- names")
        try:
            parts = urlsplit(base_url)
            scheme, host, port = parts.scheme, parts.hostname or "", parts.port
        except ValueError:
            raise ValueError("the address is not a URL") from None
        if scheme not in _DEFAULT_PORTS:
            raise ValueError("the address must start with https:// or http://")
        if "@" in parts.netloc:
            raise ValueError("the address must not hold a user name or password")
        if parts.query or parts.fragment or "?" in base_url or "#" in base_url:
            raise ValueError("the address must not hold a query or a fragment")
        if not host or parts.netloc.endswith(":"):
            raise ValueError("the address needs a host, and a port after its colon")
        if port is None:
            port = _DEFAULT_PORTS[scheme]
        if not 1 <= port <= 65535:
            raise ValueError("the port must be between 1 and 65535")
        prefix = parts.path.rstrip("/")
        if not _PREFIX.fullmatch(prefix) or any(s in (".", "..") for s in prefix.split("/")):
            raise ValueError("the address's path must be a plain path")
        if not trusted:
            if scheme != "https" and not allow_http:
                raise ValueError("the address must start with https://")
            if port != _DEFAULT_PORTS[scheme] and port not in extra_ports:
                raise ValueError(f"the port {port} is not allowed")
        try:
            check_host(host, trusted=trusted)
        except RefusedAddress:
            raise ValueError(f"the host {host} is not one that may be reached") from None
        return cls(scheme, host, port, prefix, trusted)


class Response:
    """The head of a response, and its body as it comes.

    Reading the body to its end gives the connection back; cancelling or dropping the response closes it.
    One reader at a time.
    """

    __slots__ = ("status", "_connection", "_raw", "_headers", "_error", "_detail")

    def __init__(self, connection: Connection) -> None:
        self.status = connection.status
        self._raw = connection.raw_headers
        self._headers: dict[str, str] | None = None
        self._connection: Connection | None = connection
        self._error = ""
        self._detail = ""

    @property
    def headers(self) -> dict[str, str]:
        """Lower-cased names; of a repeated header the last, but every `set-cookie`, one a line."""
        headers = self._headers
        if headers is None:
            headers = self._headers = {}
            for raw_name, raw_value in self._raw:
                name = raw_name.decode("latin-1").lower()
                value = raw_value.decode("latin-1")
                if name == "set-cookie" and name in headers:
                    value = f"{headers[name]}\n{value}"
                headers[name] = value
        return headers

    async def read(self) -> bytes:
        """The whole body, or what is left of it. Raises UpstreamError, also when it is too long."""
        connection = self._connection
        if connection is None:
            self._raise_again()
            return b""
        if not connection.done:
            connection.gather()
            while not connection.done:
                if connection.closed:
                    raise self._failure(connection)
                await self._news(connection)
        data = connection.take()
        self._connection = None
        connection.finish()
        if len(data) > connection.limits.body_bytes:
            self._error, self._detail = "protocol", "the response's body is over the limit"
            self._raise_again()
        return data

    async def chunk(self) -> bytes | None:
        """What arrived since the last call, waiting if that is nothing; None at the end of a complete body.

        Raises UpstreamError when the body breaks off, after everything that came before has been handed out.
        """
        connection = self._connection
        if connection is None:
            self._raise_again()
            return None
        while not connection.parts:
            if connection.done:
                self._connection = None
                connection.finish()
                return None
            if connection.closed:
                raise self._failure(connection)
            await self._news(connection)
        data = connection.take()
        if connection.done:
            self._connection = None
            connection.finish()
        return data

    def chunk_nowait(self) -> bytes | None:
        """What is buffered now, b"" if nothing is, None at the end. Raises UpstreamError like `chunk`."""
        connection = self._connection
        if connection is None:
            self._raise_again()
            return None
        data = connection.take() if connection.parts else b""
        if connection.done:
            self._connection = None
            connection.finish()
            return data or None
        if not data and connection.closed:
            raise self._failure(connection)
        return data

    def cancel(self) -> None:
        """Close the connection at once, unless the response was read to its end. Idempotent."""
        connection = self._connection
        if connection is not None:
            self._connection = None
            self._error, self._detail = "closed", "the response was cancelled"
            connection.abort()

    async def _news(self, connection: Connection) -> None:
        try:
            await connection.wait()
        except BaseException:
            self.cancel()
            raise

    def _failure(self, connection: Connection) -> UpstreamError:
        self._connection = None
        self._error, self._detail = connection.error or "closed", connection.detail
        return UpstreamError(self._error, True, self._detail)

    def _raise_again(self) -> None:
        if self._error:
            raise UpstreamError(self._error, True, self._detail)

    def __del__(self) -> None:
        connection = self._connection
        if connection is not None:
            # The collector may run in any thread; the connection belongs to its loop.
            try:
                connection.loop.call_soon_threadsafe(connection.drop)
            except RuntimeError:
                pass  # the loop is closed, and its connections with it


class Pool:
    """Keeps connections to many endpoints and sends requests over them, all on one event loop."""

    def __init__(
        self,
        *,
        max_connections_per_endpoint: int = 1024,
        keepalive_seconds: float = 30,
        max_header_bytes: int = 65536,
        max_json_bytes: int = 64 << 20,
        ssl_context: ssl.SSLContext | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        if ssl_context is not None:
            if not ssl_context.check_hostname or ssl_context.verify_mode != ssl.CERT_REQUIRED:
                raise ValueError("the TLS context must check certificates and host names")
            ssl_context.set_alpn_protocols(["http/1.1"])
        self._ssl = ssl_context
        self._limits = Limits(keepalive_seconds, max_header_bytes, max_json_bytes)
        self._limit = max_connections_per_endpoint
        self._resolve = resolve
        self._resolvers: dict[bool, ThreadPoolExecutor] = {}
        self._origins: dict[str, Origin] = {}
        self._live: set[Connection] = set()
        self._closed = False
        self._requests = 0
        self._connects = 0

    async def request(
        self,
        endpoint: Endpoint,
        method: bytes,
        path: bytes,
        headers: bytes,
        body: bytes,
        deadlines: Deadlines,
    ) -> Response:
        """Send a request and wait for the head of its final response.

        `headers` are whole lines, each with its line end, without host, content-length and accept-encoding.
        Only GET and HEAD are ever sent twice, and only when an idle connection turned out to be closed.
        Raises UpstreamError, and ValueError for a method, path or header block that would not be one request.
        """
        head, body = _written(endpoint, method, path, headers, body)
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._requests += 1
        repeatable = method in _REPEATABLE
        connection = self._idle(endpoint.key)
        while True:
            reused = connection is not None
            if connection is None:
                connection = await self._obtain(loop, endpoint, started, deadlines)
            try:
                connection.start(head, body, bodiless=method == b"HEAD", started=started, deadlines=deadlines)
                while not connection.head:
                    if connection.closed:
                        break
                    await connection.wait()
                else:
                    return Response(connection)
            except BaseException:
                connection.abort()
                raise
            if not (repeatable and reused and connection.error == "closed" and not connection.received):
                raise UpstreamError(connection.error or "closed", True, connection.detail)
            repeatable = False
            connection = None

    async def check(self, endpoint: Endpoint) -> None:
        """Resolve a host and let the guard judge, without connecting and without a deadline. Raises UpstreamError."""
        origin = Origin(endpoint.key, endpoint.trusted, 0, {}, set())
        await self._checked_addresses(asyncio.get_running_loop(), origin, endpoint)

    async def close(self) -> None:
        """Close every connection; what is in flight or in line fails. Returns when the sockets are closed."""
        self._closed = True
        for origin in list(self._origins.values()):
            origin.refuse(UpstreamError("connect", False, "the pool is closed"))
        for connection in list(self._live):
            connection.fail("closed", "the pool is closed")
        for executor in self._resolvers.values():
            executor.shutdown(wait=False, cancel_futures=True)
        for _ in range(1000):
            if not self._live:
                return
            await asyncio.sleep(0.001)

    def stats(self) -> dict[str, int]:
        """For the metrics: requests and connects so far, connections open and idle, requests in line."""
        origins = self._origins.values()
        return {
            "requests": self._requests,
            "connects": self._connects,
            "open": len(self._live),
            "idle": sum(len(origin.idle) for origin in origins),
            "waiting": sum(len(origin.waiters) for origin in origins),
        }

    def _idle(self, key: str) -> Connection | None:
        """The connection to an origin that was used last and is still open."""
        origin = self._origins.get(key)
        if origin is not None:
            idle = origin.idle
            while idle:
                connection = idle.popitem()[0]
                if connection.is_usable():
                    return connection
                connection.abort()
        return None

    async def _obtain(
        self, loop: asyncio.AbstractEventLoop, endpoint: Endpoint, started: float, deadlines: Deadlines
    ) -> Connection:
        """A usable connection that is nobody else's: one that became free, or a new one."""
        due = started + min(deadlines.connect, deadlines.total)
        stage = "waiting for a free connection"
        try:
            async with asyncio.timeout_at(due):
                while True:
                    if self._closed:
                        raise UpstreamError("connect", False, "the pool is closed")
                    origin = self._origins.get(endpoint.key)
                    if origin is None:
                        origin = Origin(endpoint.key, endpoint.trusted, self._limit, self._origins, self._live)
                        self._origins[endpoint.key] = origin
                    connection = await origin.turn(loop)
                    if connection is None:
                        stage = "resolving and connecting"
                        return await self._connect_counted(loop, origin, endpoint, due)
                    if connection.is_usable():
                        return connection
        except TimeoutError:
            kind = "connect" if deadlines.connect <= deadlines.total else "total_timeout"
            raise UpstreamError(kind, False, f"timed out {stage}") from None

    async def _connect_counted(
        self, loop: asyncio.AbstractEventLoop, origin: Origin, endpoint: Endpoint, due: float
    ) -> Connection:
        """A new connection in the place that was counted for it; the place is given back if there is none."""
        try:
            connection = await self._connect(loop, origin, endpoint, due)
            if self._closed or connection.closed:
                connection.abort()
                raise UpstreamError("connect", False, connection.detail or "closed at once")
        except BaseException:
            origin.free()
            raise
        connection.adopted = True
        return connection

    async def _connect(
        self, loop: asyncio.AbstractEventLoop, origin: Origin, endpoint: Endpoint, due: float
    ) -> Connection:
        addresses = await self._checked_addresses(loop, origin, endpoint)
        context = self._tls() if endpoint.scheme == "https" else None
        name = endpoint.host if context is not None else None
        detail = "no address answered"
        for index, address in enumerate(addresses):
            # Each address gets its share of the time: one that swallows packets must not use up all of it.
            left = len(addresses) - index
            share = due if left == 1 else loop.time() + (due - loop.time()) / left
            try:
                async with asyncio.timeout_at(share):
                    transport, connection = await loop.create_connection(
                        lambda: Connection(loop, origin, self._limits),
                        address,
                        endpoint.port,
                        ssl=context,
                        server_hostname=name,
                    )
            except ssl.SSLError as problem:
                raise UpstreamError("tls", False, str(problem)) from None
            except TimeoutError:
                detail = "timed out"
            except OSError as problem:
                detail = str(problem)
            else:
                self._connects += 1
                origin.preferred = address
                raw = transport.get_extra_info("socket")
                if raw is not None:
                    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection
        raise UpstreamError("connect", False, detail)

    def _tls(self) -> ssl.SSLContext:
        """The TLS context; the default one is made when it is first needed, for it takes a while to load."""
        if self._ssl is None:
            self._ssl = ssl.create_default_context()
            self._ssl.set_alpn_protocols(["http/1.1"])
        return self._ssl

    async def _checked_addresses(
        self, loop: asyncio.AbstractEventLoop, origin: Origin, endpoint: Endpoint
    ) -> list[str]:
        """The addresses to try, each acceptable to the guard; the one that worked last comes first."""
        host = endpoint.host
        if endpoint.trusted and loop.time() < origin.resolved_until:
            addresses = origin.addresses
        else:
            try:
                ip_address(host)
                addresses = [host]
            except ValueError:
                addresses = list(await self._resolved(origin, endpoint))
            try:
                check_addresses(host, addresses, trusted=endpoint.trusted)
            except RefusedAddress as problem:
                raise UpstreamError("refused_address", False, str(problem)) from None
            origin.addresses = addresses
            origin.resolved_until = loop.time() + RESOLUTION_SECONDS
        preferred = origin.preferred
        return sorted(dict.fromkeys(addresses), key=lambda address: address != preferred)[:ADDRESSES_TRIED]

    async def _resolved(self, origin: Origin, endpoint: Endpoint) -> Sequence[str]:
        """What the resolver says; those who ask for one host at the same time share one question."""
        question = origin.resolving
        if question is None:
            resolve = self._resolve
            answer = self._ask_system(endpoint) if resolve is None else resolve(endpoint.host, endpoint.port)
            question = asyncio.ensure_future(answer)
            origin.resolving = question
            question.add_done_callback(origin.resolution_ended)
        try:
            return await asyncio.shield(question)
        except asyncio.CancelledError:
            if self._closed and question.cancelled():
                raise UpstreamError("connect", False, "the pool is closed") from None
            raise
        except (OSError, UnicodeError) as problem:
            raise UpstreamError("connect", False, f"{endpoint.host} did not resolve: {problem}") from None

    async def _ask_system(self, endpoint: Endpoint) -> Sequence[str]:
        """Ask the system's resolver, in threads of our own.

        A name server can take half a minute. In the loop's shared threads a few such names, which tenants may
        choose, would hold up every other endpoint; here they can't hold up the operator's.
        """
        executor = self._resolvers.get(endpoint.trusted)
        if executor is None:
            threads = RESOLVER_THREADS_TRUSTED if endpoint.trusted else RESOLVER_THREADS_UNTRUSTED
            executor = self._resolvers[endpoint.trusted] = ThreadPoolExecutor(threads, "resolve")
        answers = await asyncio.get_running_loop().run_in_executor(
            executor, socket.getaddrinfo, endpoint.host, endpoint.port, 0, socket.SOCK_STREAM
        )
        return [str(answer[4][0]) for answer in answers]


def _written(endpoint: Endpoint, method: bytes, path: bytes, headers: bytes, body: bytes) -> tuple[bytes, bytes]:
    """The bytes of a request: what is written at once, and a large body that follows piece by piece."""
    begin = _begin(method, endpoint.target, path, endpoint.tail, headers)
    size = len(body)
    if size > WRITE_SLICE_BYTES:
        return b"%bcontent-length: %d\r\n\r\n" % (begin, size), body
    if size or method not in _WITHOUT_BODY:
        return b"%bcontent-length: %d\r\n\r\n%b" % (begin, size, body), b""
    return begin + b"\r\n", b""


@lru_cache(maxsize=256)
def _begin(method: bytes, target: bytes, path: bytes, tail: bytes, headers: bytes) -> bytes:
    """A request's head up to its length, checked: the same for every request to one provider."""
    if method not in _METHODS or _TARGET.fullmatch(path) is None:
        raise ValueError("not a method and path that can be sent")
    if headers and (headers[-2:] != b"\r\n" or headers[:2] == b"\r\n" or b"\r\n\r\n" in headers):
        raise ValueError("not a block of header lines")
    return b"".join((method, b" ", target, path, tail, headers))
