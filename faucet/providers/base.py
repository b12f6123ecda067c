"""What a provider is to the gateway, what translates its wire, and what its failures mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from urllib.parse import quote

import msgspec

from faucet.kit.upstream import Endpoint


class Call(msgspec.Struct, frozen=True):
    """A request as its provider gets it: the path below its endpoint, and the body."""

    path: bytes
    body: bytes
    reads: Callable[[bytes, int], bytes] | None = None
    """What reads the whole reply to it, where that isn't `Adapter.reply`."""


class Unreadable(Exception):
    """A provider's reply that its wire does not allow. The text is for logs, and holds nothing of the reply."""


class Translation(Protocol):
    """A provider's stream, turned into events of OpenAI's wire as it comes."""

    def feed(self, data: bytes) -> bytes:
        """The events that are complete now. However the bytes are cut, the events are the same.

        What makes no sense becomes an error event, after which there are no others.
        """


class Adapter(Protocol):
    """Translates between OpenAI's wire and a provider's own. Pure: no I/O and no clock."""

    @property
    def event_stream(self) -> str:
        """The content type of its streams."""

    def chat(self, fields: Mapping[str, msgspec.Raw], model: str, limit: int, *, stream: bool) -> Call:
        """A chat request's raw fields in the provider's words, its output bounded by `limit`.

        Raises Refusal `invalid_request` for what can't be said in them.
        """

    def reply(self, body: bytes, now: int) -> bytes:
        """A complete reply as a `chat.completion`, its usage included, or as OpenAI's error. Raises Unreadable.

        `now`, in seconds, is when it was made where the provider doesn't say.
        """

    def stream(self, now: int) -> Translation:
        """What translates one stream, its usage and its end included."""

    def failure(self, body: bytes) -> bytes:
        """An error's body as OpenAI's: what it says about the request, and nothing else of it."""

    def embeddings(self, fields: Mapping[str, msgspec.Raw], model: str) -> Call:
        """An embeddings request, whose reply is read as OpenAI's list. Raises Refusal `invalid_request`."""


class Signer(Protocol):
    """Authorises each request by itself."""

    def headers(self, path: bytes, body: bytes, now: datetime) -> bytes:
        """The header lines that authorise a POST of this body at this time."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One upstream LLM service, with the credential that it is asked with."""

    name: str
    endpoint: Endpoint
    chat_path: bytes
    """`{model}` in it stands for the model's name; see `path_of`."""
    headers: bytes = field(repr=False)
    """A ready block of header lines, the credential among them; never printed."""
    auto_models: tuple[str, ...]
    """Models that `auto` may choose from, in order of preference between equals."""
    limit_field: str = "max_tokens"
    """The field that bounds the output where the caller named none."""
    bills_after_cancel: bool = False
    """Whether closing the connection fails to stop the bill; then an abandoned answer is read to its end."""
    name_json: bytes = b""
    adapter: Adapter | None = None
    """None: it speaks OpenAI's wire, and bytes pass as they are."""
    signer: Signer | None = field(default=None, repr=False)
    embeddings_path: bytes | None = None
    """None: embeddings are not asked for there."""
    question: bytes | None = b"/models"
    """The path of a request that costs nothing; None where it has none."""
    only_limit_field: bool = False
    """Whether a limit in another field than `limit_field` is not understood."""
    stream_options: bool = True
    """Whether usage has to be asked for in streams, and may be."""
    one_choice: bool = False
    """Whether it gives one choice only, whatever `n` says."""
    answers_as: str | None = None
    """The one model that its address leads to, whatever model is asked for."""
    bills_apart: tuple[str, ...] = ()
    """Fields that it bills for beside tokens, or by which another model may answer."""
    thinking_blocks: bool = False
    """Whether it takes signed thinking of earlier turns back under that name, on OpenAI's wire."""


def path_of(path: bytes, model: str) -> bytes:
    """A path with the model's name in its place, if it has one for it."""
    return path.replace(b"{model}", quote(model, safe="").encode()) if b"{model}" in path else path


@dataclass(frozen=True, slots=True)
class Attempt:
    """What happened on one try of a provider: for details of errors and for logs. No secrets, no addresses."""

    attempt: int
    provider: str
    model: str
    route_mode: str
    status_code: int | None
    error_code: str
    retryable: bool
    duration_ms: int

    def to_wire(self) -> dict[str, object]:
        shown: dict[str, object] = {
            "attempt": self.attempt,
            "provider": self.provider,
            "route_mode": self.route_mode,
        }
        if self.status_code is not None:
            shown["statusCode"] = self.status_code
        return shown | {
            "errorCode": self.error_code,
            "retryable": self.retryable,
            "durationMs": self.duration_ms,
        }


RETRYABLE_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
KEY_STATUS = frozenset({401, 402, 403})
"""Statuses that speak about the account: its key is wrong, barred or out of credit. Its owner is told."""
BARRING_STATUS = frozenset({401, 402})
"""Those after which the whole account is left alone for a while. Some providers say 403 of a prompt that they moderate,
and one caller's words must not stop the account for others."""
_KEY_INVALID = re.compile(rb'"reason"\s*:\s*"API_KEY_INVALID"')


def says_key_invalid(body: bytes) -> bool:
    """Whether it is Google's way to refuse a key, under status 400. Nobody's words can say so: in a text of JSON their
    quotes are escaped."""
    return _KEY_INVALID.search(body) is not None


CALLER_STATUS = frozenset({400, 404, 413, 415, 422})
"""Statuses that speak about the request itself: the caller can act on them."""
NOT_THERE = 404
"""The one of them that another account may answer otherwise: this one may not have the model."""
