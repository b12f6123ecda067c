"""Providers that a developer or an end user may bring a key for, as data: where they are, how a key is shown to
them, and which cheap question tells whether they take it.

Not here: asking it (`providers.probe`), and who may use a key.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

from faucet.kit.secret import Secret
from faucet.kit.upstream import Endpoint


class Shown(Enum):
    """The header that carries a key."""

    BEARER = "authorization: Bearer "
    API_KEY = "api-key: "
    X_API_KEY = "x-api-key: "
    GOOGLE = "x-goog-api-key: "


@dataclass(frozen=True, slots=True)
class KeyedProvider:
    """One provider that keys may be brought for."""

    name: str
    base_url: str | None
    """None: who brings the key has to say."""
    question: str | None = "/models"
    """The path of a request that costs nothing and needs a key; None where the provider has none."""
    shown: Shown = Shown.BEARER
    headers: str = ""
    cut_at: str | None = None
    """Where in an address's path the question's own path begins."""

    def endpoint(self, base_url: str | None, *, extra_ports: Collection[int], allow_http: bool) -> Endpoint:
        """Where to ask. Raises ValueError, in words for whoever gave the address."""
        address = base_url or self.base_url
        if address is None:
            raise ValueError("is required for this provider")
        if self.cut_at is not None:
            # Judged as it was given first: cutting must not repair an address.
            Endpoint.parse(address, trusted=False, extra_ports=extra_ports, allow_http=allow_http)
            path = urlsplit(address).path
            if self.cut_at in path:
                address = address[: address.index(path)] + path[: path.index(self.cut_at)]
        return Endpoint.parse(address, trusted=False, extra_ports=extra_ports, allow_http=allow_http)

    def header_block(self, secret: Secret) -> bytes:
        """The lines of a request's head that carry the key."""
        lines = f"accept: application/json\r\nuser-agent: modelfaucet\r\n{self.headers}{self.shown.value}"
        return lines.encode() + secret.reveal().encode("ascii") + b"\r\n"


_GEMINI = KeyedProvider(
    "gemini", "https://generativelanguage.googleapis.com/v1beta", "/models?pageSize=1", Shown.GOOGLE
)
KEYED = {
    each.name: each
    for each in (
        KeyedProvider("openai", "https://api.openai.com/v1"),
        # Its list of models is public; what it says about a key isn't.
        KeyedProvider("openrouter", "https://openrouter.ai/api/v1", "/key"),
        KeyedProvider(
            "anthropic",
            "https://api.anthropic.com/v1",
            "/models?limit=1",
            Shown.X_API_KEY,
            "anthropic-version: 2023-06-01\r\n",
        ),
        _GEMINI,
        KeyedProvider("azure_openai", None, "/openai/models?api-version=2024-10-21", Shown.API_KEY, cut_at="/openai"),
        KeyedProvider("openai_compatible", None),
        KeyedProvider("mistral", "https://api.mistral.ai/v1"),
        KeyedProvider("groq", "https://api.groq.com/openai/v1"),
        KeyedProvider("deepseek", "https://api.deepseek.com"),
        KeyedProvider("xai", "https://api.x.ai/v1"),
        KeyedProvider("together", "https://api.together.xyz/v1"),
        KeyedProvider("fireworks", "https://api.fireworks.ai/inference/v1"),
        KeyedProvider("cohere", "https://api.cohere.com/v1", "/models?page_size=1"),
        KeyedProvider("cerebras", "https://api.cerebras.ai/v1"),
        KeyedProvider("moonshot", "https://api.moonshot.ai/v1"),
        KeyedProvider("perplexity", "https://api.perplexity.ai", None),
    )
} | {"google": _GEMINI}
"""By the name that the wire has; `google` is another one of `gemini`."""
