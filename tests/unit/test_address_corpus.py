"""Addresses that tenants may write, hostile and honest, on the whole way that each takes: read, resolved, judged.

The parts have tests of their own (`test_address`, `tests/fault/test_upstream_tls.py`); this is the list that an
attacker would try.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from faucet.kit.upstream import Endpoint, Pool, UpstreamError
from faucet.providers.keyed import KEYED

pytestmark = pytest.mark.anyio

PUBLIC = "93.184.215.14"

LITERALS = (
    # IPv4 in other spellings: decimal, octal, hexadecimal, short, padded, mixed, of other scripts.
    "https://127.0.0.1/v1",
    "https://2130706433/v1",
    "https://0x7f000001/v1",
    "https://0X7F000001/v1",
    "https://017700000001/v1",
    "https://0177.0.0.1/v1",
    "https://0x7f.0x0.0x0.0x1/v1",
    "https://127.1/v1",
    "https://127.0.1/v1",
    "https://0/v1",
    "https://0.0.0.0/v1",
    "https://127.000.000.001/v1",
    "https://127.0.0.1./v1",
    "https://127.0.0.0x1/v1",
    "https://0251.0376.0251.0376/v1",
    "https://2852039166/v1",
    "https://0xa9fea9fe/v1",
    "https://169.254.169.254/latest/meta-data",
    "https://169.254.170.2/v2/credentials",
    "https://100.100.100.200/latest",
    "https://168.63.129.16/metadata",
    "https://192.0.0.192/opc/v2",
    "https://①②⑦.⓪.⓪.①/v1",
    "https://１２７.0.0.1/v1",
    "https://127。0。0。1/v1",
    "https://127%2e0%2e0%2e1/v1",
    # Networks that are not the internet.
    "https://10.0.0.1/v1",
    "https://172.16.0.1/v1",
    "https://172.31.255.255/v1",
    "https://192.168.1.1/v1",
    "https://100.64.0.1/v1",
    "https://100.127.255.254/v1",
    "https://198.18.0.1/v1",
    "https://192.0.2.1/v1",
    "https://198.51.100.7/v1",
    "https://203.0.113.7/v1",
    "https://192.88.99.1/v1",
    "https://224.0.0.1/v1",
    "https://240.0.0.1/v1",
    "https://255.255.255.255/v1",
    # IPv6, and IPv4 in it.
    "https://[::1]/v1",
    "https://[::]/v1",
    "https://[0:0:0:0:0:0:0:1]/v1",
    "https://[::ffff:127.0.0.1]/v1",
    "https://[::ffff:7f00:1]/v1",
    "https://[::ffff:a9fe:a9fe]/v1",
    "https://[::127.0.0.1]/v1",
    "https://[::ffff:0:127.0.0.1]/v1",
    "https://[64:ff9b::127.0.0.1]/v1",
    "https://[64:ff9b::a9fe:a9fe]/v1",
    "https://[64:ff9b:1::a00:1]/v1",
    "https://[2002:7f00:1::]/v1",
    "https://[2002:a9fe:a9fe::1]/v1",
    "https://[2001:0:7f00:1::]/v1",
    "https://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/v1",
    "https://[2001:db8::1]/v1",
    "https://[fc00::1]/v1",
    "https://[fd00:ec2::254]/v1",
    "https://[fd20:ce::254]/v1",
    "https://[fe80::1]/v1",
    "https://[fe80::1%25eth0]/v1",
    "https://[fe80::5efe:a9fe:a9fe]/v1",
    "https://[fec0::1]/v1",
    "https://[ff02::1]/v1",
    "https://[::1%25lo]/v1",
    "https://[v1.fe80::a]/v1",
    "https://::1/v1",
)
NAMES = (
    # Names of clouds' metadata and of the local network, in every spelling.
    "https://localhost/v1",
    "https://LOCALHOST/v1",
    "https://localhost./v1",
    "https://a.b.localhost/v1",
    "https://localhost.localdomain/v1",
    "https://metadata/v1",
    "https://metadata.google.internal/computeMetadata/v1",
    "https://METADATA.GOOGLE.INTERNAL/v1",
    "https://metadata.google.internal./v1",
    "https://metadata.goog/v1",
    "https://metadata.azure.com/v1",
    "https://metadata.tencentyun.com/v1",
    "https://instance-data/v1",
    "https://instance-data.ec2.internal/v1",
    "https://rancher-metadata/v1",
    "https://kubernetes.default.svc.cluster.local/v1",
    "https://postgres/v1",
    "https://printer.lan/v1",
    "https://router.home.arpa/v1",
    "https://vault.internal/v1",
    "https://llm.example.com./v1",
    "https://llm..example.com/v1",
    "https://.example.com/v1",
    "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/v1",
    "https://käse.example.com/v1",
    "https://llm.example.com%00.evil.example/v1",
    "https://llm.example.com%2f@127.0.0.1/v1",
)
SHAPES = (
    # What two readers may read differently: userinfo, ports, schemes, blanks, slashes, queries.
    "https://user@llm.example.com/v1",
    "https://user:pass@llm.example.com/v1",
    "https://@llm.example.com/v1",
    "https://llm.example.com@127.0.0.1/v1",
    "https://llm.example.com:443@127.0.0.1/v1",
    "https://127.0.0.1#@llm.example.com/v1",
    "https://127.0.0.1\\@llm.example.com/v1",
    "https:\\\\127.0.0.1/v1",
    "https:/127.0.0.1/v1",
    "https:127.0.0.1/v1",
    "//127.0.0.1/v1",
    "http://llm.example.com/v1",
    "ftp://llm.example.com/v1",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "file:///etc/passwd",
    "unix:///var/run/docker.sock",
    "javascript:alert(1)",
    "https://llm.example.com:22/v1",
    "https://llm.example.com:6379/v1",
    "https://llm.example.com:80/v1",
    "https://llm.example.com:0/v1",
    "https://llm.example.com:65536/v1",
    "https://llm.example.com:-1/v1",
    "https://llm.example.com:4 43/v1",
    "https://llm.example.com:/v1",
    "https://llm.example.com/v1?next=http://127.0.0.1",
    "https://llm.example.com/v1#x",
    "https://llm.example.com/../../admin",
    "https://llm.example.com/v1/./x",
    "https://llm.example.com/%2e%2e/x",
    "https://llm.example.com/v1\r\nhost: 127.0.0.1",
    "https://llm.example.com/v1\thost",
    "https://llm.example.com /v1",
    " https://llm.example.com/v1",
    "https://llm.example.com/v1\x00",
    "https://",
    "https:///v1",
    "llm.example.com/v1",
    "",
)
HOSTILE = LITERALS + NAMES + SHAPES

HONEST = (
    "https://api.openai.com/v1",
    "https://api.openai.com/v1/",
    "https://API.OpenAI.com/v1",
    "https://api.openai.com:443/v1",
    "https://api.anthropic.com/v1",
    "https://generativelanguage.googleapis.com/v1beta",
    "https://openrouter.ai/api/v1",
    "https://api.groq.com/openai/v1",
    "https://my-resource.openai.azure.com/openai/deployments/gpt-4o",
    "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
    "https://llm.example.com",
    "https://llm.example.com/a/b/c-d_e~f",
    "https://xn--kse-qla.example.com/v1",
    "https://xn--fiqs8s/v1".replace("xn--fiqs8s", "llm.xn--fiqs8s"),
    # They only look like something else.
    "https://feast.dev/v1",
    "https://fd-llm.example.com/v1",
    "https://fe80.example.com/v1",
    "https://fc00.io/v1",
    "https://10.example.com/v1",
    "https://127.0.0.1.example.com/v1",
    "https://169-254-169-254.example.com/v1",
    "https://localhost.example.com/v1",
    "https://metadata.example.com/v1",
    "https://0xabc.com/v1",
    "https://internal.example.com/v1",
    "https://8.8.8.8/v1",
    "https://[2606:4700::6812:6c0]/v1",
)


async def reached(base_url: str, answers: Sequence[str] = (PUBLIC,)) -> bool:
    """Whether a tenant's address gets as far as a connection, if its name resolves to these addresses."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return answers

    pool = Pool(resolve=resolve)
    try:
        await pool.check(Endpoint.parse(base_url, trusted=False))
    except ValueError:
        return False
    except UpstreamError as refused:
        assert refused.kind == "refused_address", refused
        return False
    finally:
        await pool.close()
    return True


def test_the_corpus_is_large_and_says_nothing_twice() -> None:
    """Lost: a list that looks long because it repeats itself."""
    assert len(set(HOSTILE)) == len(HOSTILE) >= 120
    assert len(set(HONEST)) == len(HONEST) >= 20


@pytest.mark.parametrize("base_url", HOSTILE)
async def test_a_hostile_address_is_not_reached(base_url: str) -> None:
    """Lost: a tenant's key is sent to, or a tenant reads from, a machine that only we can reach."""
    assert not await reached(base_url)


@pytest.mark.parametrize("base_url", HONEST)
async def test_an_honest_address_is_reached(base_url: str) -> None:
    """Lost: customers whose provider's name looks odd are locked out."""
    assert await reached(base_url)


async def test_every_known_provider_is_honest() -> None:
    """Lost: our own list of providers names one that our own guard refuses."""
    addresses = [provider.base_url for provider in KEYED.values() if provider.base_url is not None]
    assert addresses
    for address in addresses:
        assert await reached(address), address


@pytest.mark.parametrize(
    "answers",
    [
        ["127.0.0.1"],
        ["::1"],
        ["169.254.169.254"],
        ["10.0.0.1"],
        ["::ffff:10.0.0.1"],
        ["64:ff9b::a9fe:a9fe"],
        ["fd00:ec2::254"],
        ["fe80::1%eth0"],
        ["0.0.0.0"],
        [PUBLIC, "10.0.0.1"],
        ["10.0.0.1", PUBLIC],
        [PUBLIC, PUBLIC, "::1"],
        [PUBLIC, "not an address"],
        [],
    ],
)
async def test_a_name_is_as_bad_as_its_worst_answer(answers: list[str]) -> None:
    """Lost: an attacker's own name server leads inside, always or every second time."""
    assert not await reached("https://llm.example.com/v1", answers)


async def test_a_name_that_changes_its_mind_is_judged_each_time() -> None:
    """Lost: a name that was good when it was stored leads inside when it is used (DNS rebinding)."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return [PUBLIC] if len(asked) % 2 else ["127.0.0.1"]

    pool = Pool(resolve=resolve)
    endpoint = Endpoint.parse("https://llm.example.com/v1", trusted=False)
    try:
        for _ in range(3):
            await pool.check(endpoint)
            with pytest.raises(UpstreamError, match="not a public address"):
                await pool.check(endpoint)
    finally:
        await pool.close()
    assert len(asked) == 6, "an answer was believed twice, or asked for twice"


@pytest.mark.parametrize("base_url", [url for url in HOSTILE if url])
async def test_cutting_an_address_repairs_nothing(base_url: str) -> None:
    """Lost: where a provider's question has a path of its own, a hostile address becomes a good one."""
    azure = KEYED["azure_openai"]
    for given in (base_url, f"{base_url}/openai/deployments/x"):
        with pytest.raises(ValueError):
            azure.endpoint(given, extra_ports=(), allow_http=False)


async def test_ports_and_plain_http_are_the_operators_choice() -> None:
    """Lost: a port that was opened opens others, or plain http for everybody."""
    compatible = KEYED["openai_compatible"]
    assert compatible.endpoint("https://a.example:8443/v1", extra_ports=(8443,), allow_http=False).port == 8443
    for url, ports, http in (
        ("https://a.example:8444/v1", (8443,), False),
        ("http://a.example/v1", (8443,), False),
        ("http://a.example:8080/v1", (8443,), True),
        ("http://127.0.0.1:8443/v1", (8443,), True),
    ):
        with pytest.raises(ValueError, match="the "):
            compatible.endpoint(url, extra_ports=ports, allow_http=http)
