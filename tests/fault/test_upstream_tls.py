"""The upstream client before the first byte of HTTP: resolving, the address guard, and TLS.

Names resolve through an injected resolver; servers are real, on loopback, with certificates made here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from faucet.kit.upstream import Deadlines, Endpoint, Pool, Resolve, UpstreamError

pytestmark = pytest.mark.anyio

QUICK = Deadlines(connect=2.0, first_byte=2.0, idle=2.0, total=5.0)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return ("asyncio", {"use_uvloop": request.param})


class Authority:
    """A certificate authority of our own, and what it signed for one host name and one address."""

    def __init__(self, folder: Path, *names: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.root = folder / "root.pem"
        root = self._certificate(who, who, key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        root = root.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        root = root.add_extension(_usage(signs=True), critical=True)
        self.root.write_bytes(root.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        own = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        alternatives: list[x509.GeneralName] = [
            x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names
        ]
        leaf = self._certificate(subject, who, own.public_key())
        leaf = leaf.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        leaf = leaf.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        self.leaf = folder / "leaf.pem"
        self.leaf.write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + leaf.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )

    @staticmethod
    def _certificate(
        subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
        )

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.root))

    def server(self, seen: list[tuple[str | None, str | None]]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.leaf)
        context.set_alpn_protocols(["h2", "http/1.1"])

        def remember(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            seen.append((name, connection.version()))

        context.sni_callback = remember
        return context


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "api.example.com", "127.0.0.1")


class Server:
    """A loopback server that answers every request with OK, and counts."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.alpn: list[str | None] = []


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None, *, mute: bool = False) -> AsyncIterator[Server]:
    seen = Server()
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        writers.append(writer)
        encrypted = writer.get_extra_info("ssl_object")
        seen.alpn.append(encrypted.selected_alpn_protocol() if encrypted else None)
        try:
            while mute and await reader.read(65536):
                pass
            while await reader.readuntil(b"{}"):
                writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            seen.connections -= mute
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.sleep(0.01)


@asynccontextmanager
async def pooled(
    resolve: Resolve | None = None, tls: ssl.SSLContext | None = None, **options: int
) -> AsyncIterator[Pool]:
    pool = Pool(resolve=resolve, ssl_context=tls, **options)
    try:
        yield pool
    finally:
        await pool.close()


class Names:
    """A resolver whose answers are a list, used up one by one; the last stays."""

    def __init__(self, *answers: Sequence[str], delay: float = 0.0) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []
        self.delay = delay

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        await asyncio.sleep(self.delay)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not answer:
            raise OSError("no such host")
        return answer


async def get(pool: Pool, endpoint: Endpoint, deadlines: Deadlines = QUICK, close: bool = False) -> bytes:
    headers = b"connection: close\r\n" if close else b""
    response = await pool.request(endpoint, b"POST", b"/", headers, b"{}", deadlines)
    body = await response.read()
    return body


async def failure(pool: Pool, endpoint: Endpoint, deadlines: Deadlines = QUICK) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await get(pool, endpoint, deadlines)
    return caught.value


async def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the awaited never came")


# ── the address guard ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"],
        ["8.8.8.8", "127.0.0.1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["169.254.169.254"],
        ["fe80::1%lo"],
        ["not an address"],
        ["127.1"],
    ],
)
async def test_a_tenants_name_that_leads_inside_is_refused(answer: list[str]) -> None:
    """A public name with a private address would reach our own network."""
    names = Names(answer)
    async with serving() as server, pooled(names) as pool:
        endpoint = Endpoint.parse(
            f"http://api.example.com:{server.port}", trusted=False, extra_ports={server.port}, allow_http=True
        )
        problem = await failure(pool, endpoint)
        assert (problem.kind, problem.sent) == ("refused_address", False)
        assert (server.connections, names.asked) == (0, [("api.example.com", server.port)])
        assert pool.stats()["open"] == 0 and pool._origins == {}


async def test_an_address_written_down_is_guarded_as_well() -> None:
    """An endpoint that was stored before the guard, or made by hand, would pass."""
    async with serving() as server, pooled() as pool:
        endpoint = Endpoint("http", "127.0.0.1", server.port, "", False)
        assert (await failure(pool, endpoint)).kind == "refused_address"
        assert (await failure(pool, replace(endpoint, host="2130706433"))).kind == "refused_address"
        assert server.connections == 0
        assert await get(pool, replace(endpoint, trusted=True)) == b"ok"
        assert (await failure(pool, endpoint)).kind == "refused_address"  # not over the operator's connection
        assert server.connections == 1


async def test_a_name_that_changes_its_mind_is_asked_once_a_connection() -> None:
    """The guard would judge one answer, and the connection be made to another."""
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    async with serving() as server, pooled(names) as pool:
        endpoint = Endpoint.parse(f"http://vllm:{server.port}", trusted=True)
        assert await get(pool, endpoint) == b"ok"  # nobody listens at 127.0.0.2
        assert (len(names.asked), server.connections) == (1, 1)
        assert await get(pool, endpoint) == b"ok"
        assert (len(names.asked), server.connections) == (1, 1)


async def test_a_refused_name_is_asked_again_and_judged_anew() -> None:
    """A tenant's corrected name would stay refused, or an earlier judgement hold for a later answer."""
    names = Names(["10.0.0.1"], ["127.0.0.1"], [], ["::1"])
    async with pooled(names) as pool:
        endpoint = Endpoint.parse("https://api.example.com", trusted=False)
        kinds = [(await failure(pool, endpoint)).kind for _ in range(4)]
        assert kinds == ["refused_address", "refused_address", "connect", "refused_address"]
        assert len(names.asked) == 4


async def test_only_trusted_answers_are_remembered() -> None:
    """A tenant's name must be judged for each connection; the operator's must not cost a query each time."""
    names = Names(["127.0.0.1"], [])
    async with serving() as server, pooled(names, keepalive_seconds=0) as pool:
        endpoint = Endpoint.parse(f"http://vllm:{server.port}", trusted=True)
        for turn in (1, 2, 3):
            assert await get(pool, endpoint) == b"ok"
            await eventually(lambda: pool.stats()["open"] == 0)
            assert (server.connections, len(names.asked)) == (turn, 1)


async def test_a_name_without_addresses_is_a_connect_error() -> None:
    """A typing error in a base URL would look like our fault."""
    async with pooled(Names([])) as pool:
        problem = await failure(pool, Endpoint.parse("https://api.example.com", trusted=False))
        assert (problem.kind, problem.sent) == ("connect", False)


async def test_the_next_address_is_tried() -> None:
    """One dead address of several would take the provider down, and cost its time at every connection."""
    names = Names(["127.0.0.2", "127.0.0.1"])
    async with serving() as server, pooled(names, keepalive_seconds=0) as pool:
        endpoint = Endpoint.parse(f"http://vllm:{server.port}", trusted=True)
        assert await get(pool, endpoint) == b"ok"
        assert pool._origins[endpoint.key].preferred == "127.0.0.1"


async def test_the_systems_resolver_is_the_default() -> None:
    """Without an injected resolver no name would be reached."""
    async with serving() as server, pooled() as pool:
        assert await get(pool, Endpoint.parse(f"http://localhost:{server.port}", trusted=True)) == b"ok"


async def test_slow_names_are_asked_once_and_delay_no_one_else() -> None:
    """A name server that takes its time would hold up, or multiply with, every request."""
    slow = Names(["127.0.0.1"], delay=0.3)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return await slow(host, port) if host == "slow" else ["127.0.0.1"]

    async with serving() as server, pooled(resolve) as pool:
        endpoint = Endpoint.parse(f"http://slow:{server.port}", trusted=True)
        impatient = asyncio.create_task(failure(pool, endpoint, replace(QUICK, connect=0.05)))
        patient = [asyncio.create_task(get(pool, endpoint)) for _ in range(5)]
        started = asyncio.get_running_loop().time()
        assert await get(pool, Endpoint.parse(f"http://quick:{server.port}", trusted=True)) == b"ok"
        assert asyncio.get_running_loop().time() - started < 0.2
        problem = await impatient
        assert (problem.kind, problem.sent) == ("connect", False)
        assert await asyncio.gather(*patient) == [b"ok"] * 5
        assert len(slow.asked) == 1


async def test_closing_the_pool_ends_a_question() -> None:
    """Shutting down would wait for a name server."""
    async with pooled(Names(["127.0.0.1"], delay=60)) as pool:
        task = asyncio.create_task(failure(pool, Endpoint.parse("https://api.example.com", trusted=False)))
        await asyncio.sleep(0.02)
        await pool.close()
        problem = await task
        assert (problem.kind, problem.sent) == ("connect", False)
        assert pool._origins == {}


# ── TLS ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_tls_with_the_right_name(authority: Authority) -> None:
    """A provider could not be reached, or would not be told which of its names is meant."""
    seen: list[tuple[str | None, str | None]] = []
    names = Names(["127.0.0.1"])
    async with serving(authority.server(seen)) as server, pooled(names, authority.client()) as pool:
        endpoint = Endpoint.parse(f"https://api.example.com:{server.port}/v1", trusted=True)
        for _ in range(3):
            assert await get(pool, endpoint) == b"ok"
        assert [name for name, _ in seen] == ["api.example.com"]
        assert (server.alpn, server.connections) == (["http/1.1"], 1)
        by_address = Endpoint.parse(f"https://127.0.0.1:{server.port}/v1", trusted=True)
        assert await get(pool, by_address) == b"ok"


async def test_tls_carries_large_bodies_both_ways(authority: Authority) -> None:
    """Backpressure under TLS goes through another layer, which could lose or reorder bytes."""
    body = bytes(range(256)) * 20_000
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    taken: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        taken.append(await reader.readexactly(len(body)))
        writer.write(head + body)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=authority.server([]))
    port = server.sockets[0].getsockname()[1]
    async with pooled(Names(["127.0.0.1"]), authority.client()) as pool:
        endpoint = Endpoint.parse(f"https://api.example.com:{port}", trusted=True)
        response = await pool.request(endpoint, b"POST", b"/", b"", body, QUICK)
        await asyncio.sleep(0.05)
        pieces = []
        while (piece := await response.chunk()) is not None:
            pieces.append(piece)
            await asyncio.sleep(0)
        assert taken == [body] and b"".join(pieces) == body
        assert pool.stats()["idle"] == 1
    server.close()
    await asyncio.sleep(0.02)


async def test_tls_with_another_name_is_refused(authority: Authority) -> None:
    """Whoever owns any certificate could read our users' prompts and keys."""
    async with (
        serving(authority.server([])) as server,
        pooled(Names(["127.0.0.1"]), authority.client()) as pool,
    ):
        problem = await failure(pool, Endpoint.parse(f"https://evil.example.com:{server.port}", trusted=True))
        assert (problem.kind, problem.sent) == ("tls", False)
        assert pool.stats()["open"] == 0


async def test_tls_by_an_unknown_authority_is_refused(authority: Authority) -> None:
    """A certificate that anyone can make would be as good as the provider's."""
    async with serving(authority.server([])) as server, pooled(Names(["127.0.0.1"])) as pool:
        problem = await failure(pool, Endpoint.parse(f"https://api.example.com:{server.port}", trusted=True))
        assert (problem.kind, problem.sent) == ("tls", False)


async def test_tls_that_is_none_is_an_error(authority: Authority) -> None:
    """A plain server behind an https address would be spoken to in the clear."""
    async with serving(mute=True) as server, pooled(Names(["127.0.0.1"]), authority.client()) as pool:
        endpoint = Endpoint.parse(f"https://api.example.com:{server.port}", trusted=True)
        problem = await failure(pool, endpoint, replace(QUICK, connect=0.2))
        assert (problem.kind, problem.sent) == ("connect", False)  # a handshake that never ends
        await eventually(lambda: server.connections == 0)


def test_a_context_that_checks_nothing_is_refused() -> None:
    """A test's shortcut would end up in production."""
    context = ssl.create_default_context()
    context.check_hostname = False
    with pytest.raises(ValueError, match="host names"):
        Pool(ssl_context=context)
