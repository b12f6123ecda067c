"""Where an endpoint's events go: an address of a tenant, judged again at every connection by `kit.address`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from faucet.kit.config import Config
from faucet.kit.upstream import Endpoint

URL_CHARACTERS_MAX = 2_048
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Rules:
    """What addresses of tenants may be, beyond https to port 443 of a public host."""

    extra_ports: Collection[int] = ()
    allow_http: bool = False
    allow_loopback: bool = False
    """For development: http to this very machine, on any port."""

    @classmethod
    def of(cls, config: Config) -> Rules:
        """What the settings say."""
        return cls(config.tenant_upstream_ports, config.tenant_upstream_http, config.webhook_loopback)


@dataclass(frozen=True, slots=True)
class Target:
    """A host, and the path and query that are asked for there."""

    endpoint: Endpoint
    path: bytes


def target_of(url: str, rules: Rules) -> Target:
    """Read an endpoint's URL. Raises ValueError, with a text that who wrote it may read, for one that may not be."""
    if not 8 <= len(url) <= URL_CHARACTERS_MAX:
        raise ValueError(f"must have 8 to {URL_CHARACTERS_MAX} characters")
    if not url.isascii() or not url.isprintable() or any(character in url for character in ' \\#"<>'):
        raise ValueError("holds characters that it may not; write other scripts as xn-- names or %-escapes")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise ValueError("is not a URL") from None
    origin = f"{parts.scheme}://{parts.netloc}"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if rules.allow_loopback and host in LOOPBACK:
        # Only this machine is trusted, by its own names.
        return Target(Endpoint.parse(origin, trusted=True), path.encode("ascii"))
    endpoint = Endpoint.parse(origin, trusted=False, extra_ports=rules.extra_ports, allow_http=rules.allow_http)
    return Target(endpoint, path.encode("ascii"))
