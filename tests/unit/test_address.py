"""The address guard: what a tenant may never make a cloud process connect to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from faucet.kit.address import (
    RefusedAddress,
    check_addresses,
    check_host,
    is_metadata_address,
    is_public_unicast,
)
from faucet.kit.upstream import Endpoint

PUBLIC = (
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "104.18.6.192",
    "126.255.255.255",
    "128.0.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2606:4700::6812:6c0",
    "2a00:1450:4001:81b::200e",
    "64:ff9b::808:808",  # DNS64's answer for 8.8.8.8
)

NOT_PUBLIC = (
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:8.8.8.8",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b::192.0.2.1",
    "64:ff9b:1::808:808",
    "100::1",
    "2001::1",
    "2001:0:7f00:1::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "2a00:1450::5efe:a00:1",
    "2a00:1450::200:5efe:7f00:1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fdff::1",
    "fe80::1",
    "fe80::1%eth0",
    "2a00:1450::1%eth0",
    "fec0::1",
    "ff02::1",
)


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_pass(text: str) -> None:
    """Without this, real providers could not be reached."""
    assert is_public_unicast(text)
    assert is_public_unicast(ip_address(text))
    check_addresses("api.example.com", [text], trusted=False)


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_everything_else_is_refused(text: str) -> None:
    """A tenant's base URL would otherwise reach our own network, a neighbour's, or a cloud's credentials."""
    assert not is_public_unicast(text)
    assert not is_public_unicast(ip_address(text))
    with pytest.raises(RefusedAddress):
        check_addresses("api.example.com", [text], trusted=False)


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "0x7f000001", "08.8.8.8", "8.8.8.8 ", "١.1.1.1"])
def test_what_is_no_address_is_not_public(text: str) -> None:
    """A resolver that answers with something else must not be believed."""
    assert not is_public_unicast(text)
    with pytest.raises(RefusedAddress):
        check_addresses("api.example.com", [text], trusted=False)


def test_one_bad_answer_spoils_all() -> None:
    """A name with a public and a private address would be a coin toss for the attacker otherwise."""
    check_addresses("api.example.com", ["8.8.8.8", "2606:4700::1"], trusted=False)
    for bad in ("10.0.0.1", "::1", "64:ff9b::a00:1"):
        with pytest.raises(RefusedAddress, match="not a public address"):
            check_addresses("api.example.com", ["8.8.8.8", bad, "2606:4700::1"], trusted=False)


def test_no_answer_is_refused() -> None:
    """A name without addresses must not count as checked."""
    for trusted in (True, False):
        with pytest.raises(RefusedAddress, match="no address"):
            check_addresses("api.example.com", [], trusted=trusted)


def test_the_operator_may_name_private_addresses_but_not_metadata() -> None:
    """The demo's mock provider is on loopback; a cloud's credentials are nobody's provider."""
    check_addresses("vllm", ["10.1.2.3", "fd12::1", "127.0.0.1", "::1"], trusted=True)
    check_addresses("127.0.0.1", ["127.0.0.1"], trusted=True)
    for bad in ("169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"):
        with pytest.raises(RefusedAddress, match="metadata"):
            check_addresses("vllm", ["10.1.2.3", bad], trusted=True)


def test_metadata_is_seen_through_every_wrapping() -> None:
    """An IPv6 spelling of a metadata address would slip past a list of IPv4 addresses."""
    assert is_metadata_address(IPv4Address("169.254.169.254"))
    for text in ("::169.254.169.254", "2001:0:a9fe:a9fe::", "fe80::5efe:a9fe:a9fe", "fd00:ec2::254"):
        assert is_metadata_address(IPv6Address(text)), text
    assert not is_metadata_address(IPv4Address("8.8.8.8"))
    assert not is_metadata_address(IPv6Address("2606:4700::a9fe:a9fe"))


@pytest.mark.parametrize(
    "name",
    [
        "api.openai.com",
        "feast.dev",
        "fd-something.example",
        "fe80.example.com",
        "fc00.io",
        "10.example.com",
        "127.0.0.1.example.com",
        "0xabc.com",
        "metadata.example.com",
        "localhost.example.com",
        "xn--fiqs8s.example",
        "a_b.example.com",
        "A.Example.COM",
        "8.8.8.8",
        "2606:4700::1",
    ],
)
def test_names_that_only_look_private_pass(name: str) -> None:
    """feast.dev is a real company: judging a name by how it begins locks out customers."""
    check_addresses(name, ["8.8.8.8"], trusted=False)
    check_host(name, trusted=False)
    with pytest.raises(RefusedAddress, match="not a public address"):
        check_addresses(name, ["10.0.0.1"], trusted=False)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "localhost",
        "LOCALHOST",
        "a.localhost",
        "intranet",
        "printer.local",
        "db.internal",
        "metadata.google.internal",
        "METADATA.google.INTERNAL",
        "metadata.google.internal.",
        "metadata",
        "metadata.goog",
        "instance-data",
        "api.example.com.",
        "api..example.com",
        "-a.example.com",
        "a-.example.com",
        "a b.example.com",
        "a\tb.example.com",
        "a/b.example.com",
        "a%2eexample.com",
        "käse.example.com",
        "127.0.0.1.",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0X7F.1",
        "0177.0.0.1",
        "017700000001",
        "127.0.0.01",
        "1.2.3.4.5",
        "256.1.1.1",
        "8.8.8.0x8",
        "8.8.8.8.0x",
        "[::1]",
        "127.0.0.1",
        "::1",
        "fe80::1%eth0",
        "a" * 64 + ".example.com",
        ".".join(["a" * 60] * 5),
    ],
)
def test_odd_hosts_are_refused(name: str) -> None:
    """A spelling that only the resolver understands would be judged as one thing and reached as another."""
    with pytest.raises(RefusedAddress):
        check_addresses(name, ["8.8.8.8"], trusted=False)


@pytest.mark.parametrize("name", ["127.1", "0x7f.1", "2130706433", "localhost.", "metadata", "169.254.169.254"])
def test_some_hosts_are_refused_even_from_the_operator(name: str) -> None:
    """One name, one spelling: an exact list of trusted upstreams can only be exact then."""
    with pytest.raises(RefusedAddress):
        check_addresses(name, ["127.0.0.1"], trusted=True)


@pytest.mark.parametrize(
    ("base_url", "shown"),
    [
        ("https://api.openai.com/v1", ("https", "api.openai.com", 443, "/v1")),
        ("https://api.openai.com/v1/", ("https", "api.openai.com", 443, "/v1")),
        ("HTTPS://API.OpenAI.com", ("https", "api.openai.com", 443, "")),
        ("https://api.openai.com:443/", ("https", "api.openai.com", 443, "")),
        ("https://[2606:4700::1]/v1", ("https", "2606:4700::1", 443, "/v1")),
        (
            "https://a.example/openai/deployments/gpt-4o",
            ("https", "a.example", 443, "/openai/deployments/gpt-4o"),
        ),
    ],
)
def test_a_tenants_base_url_is_read(base_url: str, shown: tuple[str, str, int, str]) -> None:
    """Requests would go to a path or port other than the one that was stored."""
    endpoint = Endpoint.parse(base_url, trusted=False)
    assert (endpoint.scheme, endpoint.host, endpoint.port, endpoint.path_prefix) == shown
    assert endpoint.trusted is False


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "api.openai.com",
        "//api.openai.com/v1",
        "ftp://api.openai.com",
        "file:///etc/passwd",
        "http://api.openai.com/v1",
        "https://api.openai.com:8443/v1",
        "https://api.openai.com:0/v1",
        "https://api.openai.com:/v1",
        "https://api.openai.com:99999/v1",
        "https://api.openai.com:x/v1",
        "https://user:password@api.openai.com/v1",
        "https://user@api.openai.com/v1",
        "https://@api.openai.com/v1",
        "https://api.openai.com@10.0.0.1/v1",
        "https://api.openai.com/v1?x=1",
        "https://api.openai.com/v1?",
        "https://api.openai.com/v1#a",
        "https://api.openai.com/../v1",
        "https://api.openai.com/./v1",
        "https://api.openai.com/%2e%2e/v1",
        "https://api.openai.com//v1",
        "https://api.openai.com/v 1",
        "https://api.openai.com/v1\r\nx: y",
        "https://api.openai.com\\@10.0.0.1/",
        "https://10.0.0.1/v1",
        "https://[::1]/v1",
        "https://[::ffff:127.0.0.1]/v1",
        "https://[fe80::1%25eth0]/v1",
        "https://2130706433/v1",
        "https://0x7f.1/v1",
        "https://localhost/v1",
        "https://metadata.google.internal/v1",
        "https://api.openai.com./v1",
        "https://käse.example/v1",
        "https://①②⑦.0.0.1/v1",
    ],
)
def test_other_base_urls_are_refused(base_url: str) -> None:
    """A stored address must be one that the guard can judge."""
    with pytest.raises(ValueError, match="the "):
        Endpoint.parse(base_url, trusted=False)


def test_ports_and_http_are_what_was_configured() -> None:
    """An operator who opens one more port opens no other."""
    assert Endpoint.parse("https://a.example:8443", trusted=False, extra_ports={8443}).port == 8443
    with pytest.raises(ValueError, match="port 8444"):
        Endpoint.parse("https://a.example:8444", trusted=False, extra_ports={8443})
    assert Endpoint.parse("http://a.example", trusted=False, allow_http=True).port == 80
    with pytest.raises(ValueError, match="port 8080"):
        Endpoint.parse("http://a.example:8080", trusted=False, allow_http=True)


def test_the_operators_base_url_may_be_local() -> None:
    """The demo runs its mock provider on loopback, over plain HTTP, on a high port."""
    endpoint = Endpoint.parse("http://127.0.0.1:4010/v1", trusted=True)
    assert (endpoint.scheme, endpoint.host, endpoint.port) == ("http", "127.0.0.1", 4010)
    assert Endpoint.parse("http://[::1]:4010", trusted=True).host == "::1"
    assert Endpoint.parse("http://mock_provider:4010", trusted=True).host == "mock_provider"
    with pytest.raises(ValueError, match="user name"):
        Endpoint.parse("http://user@127.0.0.1:4010/v1", trusted=True)


def test_endpoints_are_values() -> None:
    """Two readings of one address share connections; a trusted and an untrusted one never do."""
    first, second = (Endpoint.parse("https://a.example/v1", trusted=False) for _ in range(2))
    assert first == second and hash(first) == hash(second) and first.key == second.key
    operator = Endpoint.parse("https://a.example/v1", trusted=True)
    assert operator != first and operator.key != first.key
