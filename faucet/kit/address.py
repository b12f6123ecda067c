"""The address guard: which hosts and addresses a cloud process may connect to, and which never.

Lives here: the policy, as pure functions over names and addresses. Does not live here: resolving, connecting
(that is `kit.upstream`, which calls this guard with every resolved answer and then connects to the checked
address).

The policy is our own list of networks. `ipaddress.is_global` lets NAT64, 6to4, IPv4-compatible, site-local
and multicast addresses pass and `is_private` misses CGNAT, so neither is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from faucet.kit.errors import FaucetError

_REFUSED_V4 = tuple(
    IPv4Network(net)
    for net in (
        "0.0.0.0/8",  # "this network", unspecified
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's wire server: publicly numbered, answered by the host itself
        "169.254.0.0/16",  # link-local, instance metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; a cloud's metadata is at 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")
"""All global unicast. Loopback, mapped, compatible, ULA, link- and site-local, multicast lie outside."""
_REFUSED_V6 = tuple(
    IPv6Network(net)
    for net in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarking
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: carries any IPv4 address; out of use, so refused whole
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
"""What DNS64 answers in an IPv6-only network: as good or bad as the IPv4 address that it carries."""
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})
"""Interface identifiers whose low 32 bits are an IPv4 address behind a tunnel."""

_METADATA_ADDRESSES = frozenset(
    ip_address(text)
    for text in (
        "100.100.100.200",
        "168.63.129.16",
        "169.254.169.253",
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "192.0.0.192",
        "fd00:ec2::23",
        "fd00:ec2::254",
        "fd20:ce::254",
    )
)
_METADATA_NAMES = frozenset(
    {
        "metadata",
        "metadata.azure.com",
        "metadata.azure.internal",
        "metadata.goog",
        "metadata.google.internal",
        "metadata.oraclecloud.com",
        "metadata.packet.net",
        "metadata.platformequinix.com",
        "metadata.tencentyun.com",
        "instance-data",
        "instance-data.ec2.internal",
        "rancher-metadata",
    }
)
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".localdomain")

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")


class RefusedAddress(FaucetError):
    """A host or one of its addresses is not one that we connect to. The text is for logs."""


def is_public_unicast(ip: str | IPv4Address | IPv6Address) -> bool:
    """Whether an address is one single public machine; False also for text that is no address."""
    if isinstance(ip, str):
        try:
            ip = ip_address(ip)
        except ValueError:
            return False
    if isinstance(ip, IPv4Address):
        return not any(ip in net for net in _REFUSED_V4)
    if ip.scope_id is not None:
        return False
    if ip in _NAT64:
        return is_public_unicast(IPv4Address(int(ip) & 0xFFFFFFFF))
    if ip not in _GLOBAL_V6 or any(ip in net for net in _REFUSED_V6):
        return False
    if (int(ip) >> 32) & 0xFFFFFFFF in _ISATAP:
        return is_public_unicast(IPv4Address(int(ip) & 0xFFFFFFFF))
    return True


def is_metadata_address(ip: IPv4Address | IPv6Address) -> bool:
    """Whether a cloud answers there with credentials, also when the address is wrapped in IPv6."""
    if ip in _METADATA_ADDRESSES:
        return True
    return isinstance(ip, IPv6Address) and any(v4 in _METADATA_ADDRESSES for v4 in _wrapped(ip))


def _wrapped(ip: IPv6Address) -> Iterable[IPv4Address]:
    """Every IPv4 address that an IPv6 address may carry."""
    number = int(ip)
    low = IPv4Address(number & 0xFFFFFFFF)
    if number >> 48 == 0 or ip in _NAT64 or (number >> 32) & 0xFFFFFFFF in _ISATAP:
        yield low  # compatible, mapped (…:ffff:a.b.c.d) and translated addresses
    if ip.sixtofour is not None:
        yield ip.sixtofour
    if ip.teredo is not None:
        yield from ip.teredo


def check_host(host: str, *, trusted: bool) -> None:
    """Accept a host name or address as written in a base URL.

    Raises RefusedAddress for names that are no plain DNS name, for IPv4 addresses in any spelling but the
    usual one, for cloud metadata, and, unless trusted, for names that only mean something on the local
    network.
    """
    try:
        ip = ip_address(host)
    except ValueError:
        _check_name(host, trusted=trusted)
        return
    _check_address(host, ip, trusted=trusted)


def check_addresses(host: str, addresses: Iterable[str], *, trusted: bool) -> None:
    """Accept a host and every address that it resolved to, or refuse all.

    Raises RefusedAddress when there is no address, when one is not an address, or when any of them may not be
    reached: for untrusted hosts everything but public unicast, for trusted ones (named by the operator) only
    cloud metadata.
    """
    check_host(host, trusted=trusted)
    empty = True
    for text in addresses:
        empty = False
        try:
            ip = ip_address(text)
        except ValueError:
            raise RefusedAddress(f"{host} resolved to {text!r}, which is not an address") from None
        _check_address(host, ip, trusted=trusted)
    if empty:
        raise RefusedAddress(f"{host} has no address")


def _check_address(host: str, ip: IPv4Address | IPv6Address, *, trusted: bool) -> None:
    if is_metadata_address(ip):
        raise RefusedAddress(f"{host}: {ip} belongs to cloud metadata")
    if not trusted and not is_public_unicast(ip):
        raise RefusedAddress(f"{host}: {ip} is not a public address")


def _check_name(host: str, *, trusted: bool) -> None:
    name = host.lower()
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        # Also the trailing dot: one name, one spelling, so that no list is missed and TLS checks what we
        # connect to.
        raise RefusedAddress(f"{host!r} is not a plain host name")
    if _NUMERIC_LABEL.fullmatch(labels[-1]):
        # Resolvers read 127.1, 0x7f.1, 0177.0.0.1 and 2130706433 as addresses. No top-level domain is a
        # number.
        raise RefusedAddress(f"{host!r} is an unusual spelling of an address")
    if name in _METADATA_NAMES:
        raise RefusedAddress(f"{host!r} is a cloud metadata name")
    if trusted:
        return
    if len(labels) == 1 or name.endswith(_LOCAL_SUFFIXES):
        raise RefusedAddress(f"{host!r} is a local name")
