"""Whose request it is: the client's address, as far as proxies that we trust vouch for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network


def parse_networks(names: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and networks as networks. Raises ValueError."""
    return tuple(ip_network(name, strict=False) for name in names)


def client_address(peer: str, forwarded_for: Sequence[str], trusted: Sequence[Network]) -> str:
    """The nearest address that is not a trusted proxy's.

    `forwarded_for` are the values of X-Forwarded-For in the order received. Each proxy appends the address that
    it saw, so the list is read from its end, and nothing before the first untrusted address is believed.
    """
    address = peer
    chain = [part.strip() for value in forwarded_for for part in value.split(",")]
    while chain and _is_in(address, trusted):
        address = chain.pop()
    return address


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    return any(ip in network for network in networks if network.version == ip.version)
