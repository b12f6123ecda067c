"""The upstream providers that are known, as data: where they are, what they speak, how a key is shown to them.

Here: reading and checking `catalog.toml`, and making a `Provider` of an entry and a secret, whosever they are. Not
here: the wires themselves (`anthropic`, `gemini`, `bedrock`), asking whether a key is taken (`probe`), and who may use
a key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from importlib.resources import files
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from faucet.kit.secret import Secret
from faucet.kit.upstream import Endpoint
from faucet.providers.anthropic import Anthropic
from faucet.providers.base import Adapter, Provider
from faucet.providers.bedrock import Bedrock
from faucet.providers.gemini import Gemini
from faucet.providers.sigv4 import KeyPairSigner

Wire = Literal["openai", "azure", "anthropic", "gemini", "bedrock"]
_AZURE_DEPLOYMENT = "/openai/deployments/"
_AZURE_V1 = "/openai/v1"


class Shown(Enum):
    """The header that carries a key."""

    BEARER = "authorization: Bearer "
    API_KEY = "api-key: "
    X_API_KEY = "x-api-key: "
    GOOGLE = "x-goog-api-key: "
    AWS = ""
    """A bearer, or the signature that a key pair makes; see `sigv4`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One provider as the catalogue has it. The defaults are those of OpenAI's wire."""

    name: str
    title: str
    base_url: str | None = None
    """None: who brings the key, or the operator, has to say."""
    wire: Wire = "openai"
    chat_path: str = "/chat/completions"
    """`{model}` in a path stands for the model's name."""
    embeddings_path: str | None = None
    """None: embeddings are not asked for there."""
    question: str | None = "/models"
    """The path of a request that costs nothing and needs a key; None where the provider has none."""
    shown: Shown = Shown.BEARER
    headers: tuple[tuple[str, str], ...] = ()
    cut_at: str | None = None
    """Where in an address's path the provider's own paths begin."""
    limit_field: str = "max_tokens"
    """The field that bounds the output where the caller named none."""
    only_limit_field: bool = False
    """Whether a limit in the other field is not understood there."""
    stream_options: bool = True
    """Whether it understands that field; one that doesn't reports usage unasked."""
    one_choice: bool = False
    """Whether it gives one choice only, whatever `n` says."""
    bills_apart: tuple[str, ...] = ()
    """Fields that it bills for beside tokens, or by which another model may answer: they can't be asked for."""
    bills_after_cancel: bool = False
    """Whether closing the connection fails to stop the bill."""
    thinking_blocks: bool = False
    """Whether it takes signed thinking of earlier turns back under that name."""
    operator_only: bool = False
    """Whether only the operator's settings name it; others bring it as `openai_compatible`."""
    keyless: bool = False
    """Whether it may do without a key; then its address turns it on."""
    auto_models: tuple[str, ...] = ()
    """What `auto` may choose of it, unless the operator says otherwise."""
    aliases: tuple[str, ...] = ()
    prices: str | None = None
    """Its name in the packaged price catalogue."""

    def endpoint(self, base_url: str | None, *, extra_ports: Collection[int], allow_http: bool) -> Endpoint:
        """Where a tenant's key is sent. Raises ValueError, in words for whoever gave the address."""
        return self._endpoint(base_url, trusted=False, extra_ports=extra_ports, allow_http=allow_http)

    def _endpoint(
        self, base_url: str | None, *, trusted: bool, extra_ports: Collection[int], allow_http: bool
    ) -> Endpoint:
        address = base_url or self.base_url
        if address is None:
            raise ValueError("is required for this provider")
        if self.cut_at is not None:
            # Judged as it was given first: cutting must not repair an address.
            Endpoint.parse(address, trusted=trusted, extra_ports=extra_ports, allow_http=allow_http)
            path = urlsplit(address).path
            if self.cut_at in path:
                address = address[: address.index(path)] + path[: path.index(self.cut_at)]
        return Endpoint.parse(address, trusted=trusted, extra_ports=extra_ports, allow_http=allow_http)

    def header_block(self, secret: Secret) -> bytes:
        """The lines of the head of the question whether the provider takes the key."""
        return b"accept: application/json\r\nuser-agent: modelfaucet\r\n" + self._authorised(secret)

    def _authorised(self, secret: Secret | None) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers).encode()
        if secret is None or not secret.reveal():
            return lines
        if self.shown is Shown.AWS:
            if ":" in secret.reveal():
                return lines  # a key pair signs each request
            return b"%b%b%b\r\n" % (lines, Shown.BEARER.value.encode(), secret.reveal().encode("ascii"))
        return b"%b%b%b\r\n" % (lines, self.shown.value.encode(), secret.reveal().encode("ascii"))


def provider_for(
    entry: Entry,
    secret: Secret | None,
    *,
    base_url: str | None = None,
    trusted: bool = False,
    extra_ports: Collection[int] = (),
    allow_http: bool = False,
    auto_models: Sequence[str] = (),
) -> Provider:
    """The provider that this secret opens: the operator's own (`trusted`), or a tenant's by a stored key.

    `base_url` replaces the entry's. Without a secret the requests carry none. Raises ValueError, in words for whoever
    gave the address or the key; the text never holds the key.
    """
    endpoint = entry._endpoint(base_url, trusted=trusted, extra_ports=extra_ports, allow_http=allow_http)
    key = "" if secret is None else secret.reveal()
    if any(ord(c) < 33 or ord(c) > 126 for c in key):
        raise ValueError(f"the credential of {entry.name} has characters that no header can carry")
    return Provider(
        name=entry.name,
        endpoint=endpoint,
        chat_path=_path(entry, entry.chat_path, "/chat/completions", base_url),
        headers=b"content-type: application/json\r\nuser-agent: modelfaucet-gateway\r\n" + entry._authorised(secret),
        auto_models=tuple(auto_models),
        limit_field=entry.limit_field,
        bills_after_cancel=entry.bills_after_cancel,
        name_json=b'"' + entry.name.encode() + b'"',
        adapter=_adapter(entry),
        signer=KeyPairSigner(key, endpoint) if entry.shown is Shown.AWS and ":" in key else None,
        embeddings_path=_path(entry, entry.embeddings_path, "/embeddings", base_url) if entry.embeddings_path else None,
        question=entry.question.encode() if entry.question else None,
        only_limit_field=entry.only_limit_field,
        stream_options=entry.stream_options,
        one_choice=entry.one_choice,
        answers_as=_deployment(entry, base_url),
        bills_apart=entry.bills_apart,
        thinking_blocks=entry.thinking_blocks,
    )


def _adapter(entry: Entry) -> Adapter | None:
    """What translates the entry's wire; None where it is OpenAI's."""
    path = entry.chat_path.encode()
    if entry.wire == "anthropic":
        return Anthropic(path)
    if entry.wire == "gemini":
        return Gemini(path, (entry.embeddings_path or "").encode())
    return Bedrock(path) if entry.wire == "bedrock" else None


def _path(entry: Entry, path: str, v1_path: str, base_url: str | None) -> bytes:
    """A path of the provider. An Azure address may name the one deployment that it is for, or the newer API."""
    if entry.wire == "azure" and base_url is not None:
        given = urlsplit(base_url).path
        deployment = _deployment(entry, base_url)
        if deployment is not None:
            path = path.replace("{model}", deployment)
        elif given.rstrip("/").endswith(_AZURE_V1):
            path = _AZURE_V1 + v1_path
    return path.encode("ascii")


def _deployment(entry: Entry, base_url: str | None) -> str | None:
    """The one deployment that an Azure address is for, if it names one."""
    given = "" if base_url is None or entry.wire != "azure" else urlsplit(base_url).path
    return given.partition(_AZURE_DEPLOYMENT)[2].partition("/")[0] or None


def read_catalog(text: str) -> dict[str, Entry]:
    """The entries of a catalogue in TOML, by name, in its order. Raises ValueError, naming the entry and the word."""
    return {entry.name: entry for entry in _entries(tomllib.loads(text))}


_FIELDS = {each.name for each in fields(Entry)} - {"name"}


def _entries(tables: Mapping[str, Any]) -> Iterator[Entry]:
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ValueError(f"{name}: is not a table")
        words = dict(table)
        if unknown := words.keys() - _FIELDS:
            raise ValueError(f"{name}: unknown words {', '.join(sorted(unknown))}")
        if words.get("wire", "openai") not in get_args(Wire):
            raise ValueError(f"{name}: wire: must be one of {', '.join(get_args(Wire))}")
        if words.get("question") == "":
            words["question"] = None
        words["shown"] = Shown[words.get("shown", "bearer").upper()]
        words["headers"] = tuple(words.get("headers", {}).items())
        for word in ("aliases", "auto_models", "bills_apart"):
            words[word] = tuple(words.get(word, ()))
        yield Entry(name=name, **words)


CATALOG = read_catalog((files("faucet.providers") / "catalog.toml").read_text(encoding="utf-8"))
"""Every known provider by its name."""
