"""A client of a running ModelFaucet for commands that try it out: sessions, wallet, chat, reports.

Amounts are e8, as everywhere. Not here: what the answers are used for, nor any default address.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from types import TracebackType
from typing import Any, BinaryIO

import httpx2

from faucet.kit.errors import FaucetError
from faucet.kit.money import E8_PER_USD, from_wire

Message = dict[str, str]
JSON_SECONDS = 30.0
STREAM_SECONDS = 120.0
_FAILED = (httpx2.HTTPError, httpx2.InvalidURL)


class Unreachable(FaucetError):
    """Nobody answers at an address."""

    def __init__(self, address: str, reason: BaseException) -> None:
        super().__init__(f"nothing answers at {address} ({type(reason).__name__})")
        self.address = address


class Refused(FaucetError):
    """The server turned a request down; the text is the server's own."""

    def __init__(self, status: int, code: str, message: str, request_id: str, details: str = "") -> None:
        told = ", ".join(part for part in (code, str(status), details, request_id) if part)
        super().__init__(f"{message} ({told})")
        self.status = status
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Session:
    """A session as minted."""

    token: str = field(repr=False)
    expires_in: int
    gateway_base_url: str
    modes: tuple[str, ...]
    balance_e8: int


@dataclass(frozen=True, slots=True)
class WalletView:
    """A wallet as its end user sees it."""

    id: str
    balance_e8: int
    held_e8: int
    available_e8: int


@dataclass(frozen=True, slots=True)
class Note:
    """What an answer cost, as the gateway tells it."""

    request_id: str
    provider: str
    model: str
    price_e8: int
    balance_e8: int | None
    input_tokens: int
    output_tokens: int
    is_counted: bool
    route_mode: str = "platform"


@dataclass(slots=True)
class Streaming:
    """A streamed answer: iterate its texts; afterwards `note` and `finish_reason` are there."""

    response: httpx2.Response
    note: Note | None = None
    finish_reason: str = ""
    chunks: int = 0

    def __iter__(self) -> Iterator[str]:
        for line in self.response.iter_lines():
            if not line.startswith("data:"):
                continue
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                return
            event = _json(data)
            if "error" in event:
                raise refusal(self.response.status_code, event)
            self.chunks += 1
            if "modelfaucet" in event:
                self.note = note_of(event)
            for choice in event.get("choices", ()):
                self.finish_reason = choice.get("finish_reason") or self.finish_reason
                text = choice.get("delta", {}).get("content")
                if text:
                    yield text


@dataclass(slots=True)
class Client:
    """The API and the gateway at two base addresses. Use as a context manager."""

    api: str
    gateway: str
    _http: httpx2.Client = field(init=False)

    def __post_init__(self) -> None:
        # Proxies of the environment are for the world outside, not for the addresses that we are given.
        self._http = httpx2.Client(trust_env=False, timeout=JSON_SECONDS)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def call(
        self,
        method: str,
        address: str,
        bearer: str | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """One JSON call. Raises Unreachable, Refused."""
        try:
            reply = self._http.request(method, address, headers=_bearer(bearer) | dict(headers or {}), json=body)
        except _FAILED as error:
            raise Unreachable(address, error) from None
        return _checked(reply)

    def download(self, address: str, bearer: str, into: BinaryIO) -> None:
        """Write what an address gives into a file, part by part. Raises Unreachable, Refused."""
        try:
            with self._http.stream("GET", address, headers=_bearer(bearer)) as response:
                if response.status_code != 200:
                    response.read()
                    _checked(response)
                for part in response.iter_bytes():
                    into.write(part)
        except _FAILED as error:
            raise Unreachable(address, error) from None

    def session(self, public_app_id: str, external_user_id: str, feature_key: str | None = None) -> Session:
        """Mint a session. Raises Unreachable, Refused."""
        body = {"public_app_id": public_app_id, "external_user_id": external_user_id}
        if feature_key is not None:
            body["feature_key"] = feature_key
        got = self.call("POST", f"{self.api}/v1/sessions", body=body)
        return Session(
            token=got["session_token"],
            expires_in=got["expires_in"],
            gateway_base_url=got["gateway_base_url"],
            modes=tuple(got["available_modes"]),
            balance_e8=signed_e8(got["wallet_balance_usd"]),
        )

    def wallet(self, token: str) -> WalletView:
        """The wallet of a session's end user. Raises Unreachable, Refused."""
        got = self.call("GET", f"{self.api}/v1/user/wallet", token)
        return _wallet(got)

    def credit(self, wallet_id: str, amount_usd: str, operator: str) -> WalletView:
        """Give a wallet test credits. Raises Unreachable, Refused."""
        address = f"{self.api}/v1/admin/wallets/{wallet_id}/credit-test-balance"
        return _wallet(self.call("POST", address, operator, {"amount_usd": amount_usd}))

    def models(self, token: str) -> list[dict[str, Any]]:
        """What a session may ask for. Raises Unreachable, Refused."""
        items: list[dict[str, Any]] = self.call("GET", f"{self.gateway}/v1/models", token)["data"]
        return items

    def chat(
        self,
        token: str,
        messages: Sequence[Message],
        model: str,
        *,
        idempotency_key: str | None = None,
        **more: Any,
    ) -> tuple[dict[str, Any], Note]:
        """A whole answer, and what it cost. Raises Unreachable, Refused."""
        body = {"model": model, "messages": list(messages), **more}
        headers = {"idempotency-key": idempotency_key} if idempotency_key else None
        got = self.call("POST", f"{self.gateway}/v1/chat/completions", token, body, headers)
        return got, note_of(got)

    def run(self, token: str, feature_key: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], Note]:
        """What a feature's own prompt makes of an input, and what it cost. Raises Unreachable, Refused."""
        got = self.call("POST", f"{self.gateway}/v1/features/{feature_key}/run", token, {"input": values})
        return got, note_of(got)

    @contextmanager
    def stream(self, token: str, messages: Sequence[Message], model: str, **more: Any) -> Iterator[Streaming]:
        """A streamed answer, with its cost at the end unless `stream_options` says otherwise.

        Raises Unreachable, Refused; also while it is read.
        """
        address = f"{self.gateway}/v1/chat/completions"
        body = {"stream_options": {"include_usage": True}, "model": model, "messages": list(messages), **more}
        body["stream"] = True
        try:
            with self._http.stream(
                "POST", address, headers=_bearer(token), json=body, timeout=httpx2.Timeout(STREAM_SECONDS, connect=5)
            ) as response:
                if response.status_code != 200:
                    response.read()
                    _checked(response)
                yield Streaming(response)
        except _FAILED as error:
            raise Unreachable(address, error) from None


def _bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"authorization": f"Bearer {token}"}


def _json(text: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(text, parse_float=Decimal)
    return value


def _checked(reply: httpx2.Response) -> dict[str, Any]:
    try:
        got = _json(reply.text)
    except ValueError:
        got = {}
    if not reply.is_success or not isinstance(got, dict):  # nor is a redirect an answer
        raise refusal(reply.status_code, got)
    return got


def refusal(status: int, body: Mapping[str, Any]) -> Refused:
    """The refusal that an error body tells."""
    error = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        return Refused(status, "no_envelope", "the server answered with an error that is not ours", "")
    return Refused(
        status,
        str(error.get("code", "")),
        str(error.get("message", "")),
        str(error.get("request_id") or ""),
        _attempts(error.get("details")),
    )


def _attempts(details: object) -> str:
    """What the providers that were tried answered, in a few words."""
    attempts = details.get("attempts") if isinstance(details, Mapping) else None
    told = [
        f"{one.get('provider')} answered {one.get('statusCode') or one.get('errorCode')}"
        for one in (attempts if isinstance(attempts, list) else [])
        if isinstance(one, Mapping)
    ]
    return "; ".join(dict.fromkeys(told))


def _wallet(got: Mapping[str, Any]) -> WalletView:
    return WalletView(
        str(got["id"]), signed_e8(got["balance_usd"]), signed_e8(got["held_usd"]), signed_e8(got["available_usd"])
    )


def note_of(event: Mapping[str, Any]) -> Note:
    """What the gateway says of an answer's cost, in a reply or in a stream's usage event."""
    told, usage = event["modelfaucet"], event["usage"]
    balance = told.get("wallet_balance_usd")
    return Note(
        request_id=told["request_id"],
        provider=told["provider"],
        model=told["model"],
        price_e8=signed_e8(told["price_usd"]),
        balance_e8=None if balance is None else signed_e8(balance),
        input_tokens=usage["prompt_tokens"],
        output_tokens=usage["completion_tokens"],
        is_counted=told.get("usage_source") == "counted",
        route_mode=told["route_mode"],
    )


def signed_e8(text: str) -> int:
    """The e8 of an amount that the wire shows, which may be below zero."""
    return -from_wire(text[1:]) if text.startswith("-") else from_wire(text)


def usd(e8: int) -> str:
    """An amount for people, exact: at least two places, at most eight."""
    whole, part = divmod(abs(e8), E8_PER_USD)
    places = f"{part:08d}".rstrip("0").ljust(2, "0")
    return f"{'-' if e8 < 0 else ''}${whole}.{places}"
