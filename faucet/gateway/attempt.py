"""Stop six: call providers until one begins to answer. After the first byte there is no second try.

A provider can refuse, stall, or answer 200 with an error inside: all of that is judged here, before anything has
been sent to the client.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Protocol
from uuid import UUID

import msgspec

from faucet.gateway.catalogue import Product
from faucet.gateway.circuits import Circuits
from faucet.gateway.exchange import ClientGone, Exchange
from faucet.gateway.metrics import METRICS
from faucet.gateway.outbound import EVENT_STREAM, GZIP_MAGIC, Inbound, inbound, opened
from faucet.gateway.sse import decode_chunk
from faucet.gateway.wire import Reply, decode_reply, is_answer
from faucet.kit.errors import Refusal
from faucet.kit.events import EventSplitter, EventTooLong, payload
from faucet.kit.log import logger
from faucet.kit.upstream import Deadlines, Pool, Response, UpstreamError
from faucet.providers.base import (
    BARRING_STATUS,
    CALLER_STATUS,
    KEY_STATUS,
    NOT_THERE,
    RETRYABLE_STATUS,
    Attempt,
    Call,
    says_key_invalid,
)
from faucet.routing.health import State
from faucet.routing.plan import in_order
from faucet.routing.policy import MODE_OF

RETRY_AFTER_MAX_SECONDS = 5.0
"""A provider that wants to be left alone for longer is not asked a second time."""
PUBLIC_TEXT_MAX = 500
FIRST_EVENT_BYTES_MAX = 65_536
"""A stream's first event is judged when it is whole, or when this much of it is there."""
KEY_CHARACTERS_MIN = 8

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n")
_ACCOUNT_STATUS = {"authentication_error": 401, "billing_error": 402}
"""What some say under status 400 is about the account, by the type of their error."""
_PLAIN_WORDS = frozenset({"application/json", "modelfaucet-gateway"})
_TIMEOUTS = frozenset({"first_byte_timeout", "idle_timeout", "total_timeout"})


@dataclass(frozen=True, slots=True)
class CallRules:
    """How patient the gateway is with providers."""

    deadlines: Deadlines
    max_retries: int
    retry_delay_seconds: float


class Answering(msgspec.Struct):
    """A provider that has begun to answer."""

    product: Product
    response: Response | Inbound
    first: bytes
    """The whole body of a JSON reply, or the first bytes of a stream."""
    reply: Reply | None
    """A JSON reply's fields; None for a stream."""
    first_byte_ms: int
    tries: Sequence[Attempt] = ()
    """Those that failed before."""


@dataclass(slots=True)
class _Failure:
    status: int | None
    code: str
    retryable: bool
    retry_after: float | None = None
    public: str | None = None


class Tries(msgspec.Struct):
    """The attempts of one request that failed so far."""

    exchange: Exchange
    attempts: list[Attempt] = msgspec.field(default_factory=list)
    last: _Failure | None = None
    unspoken: Refusal | None = None
    """Why a provider could not be asked at all."""

    def failed(self, product: Product, failure: _Failure, began: float) -> None:
        self.last = failure
        attempt = Attempt(
            attempt=len(self.attempts) + 1,
            provider=product.provider.name,
            model=product.price.model,
            route_mode=MODE_OF[product.payer],
            status_code=failure.status,
            error_code=failure.code,
            retryable=failure.retryable,
            duration_ms=round((time.monotonic() - began) * 1000),
        )
        self.attempts.append(attempt)
        key = (attempt.provider, attempt.error_code)
        METRICS.provider_errors[key] = METRICS.provider_errors.get(key, 0) + 1
        logger.info("provider.failed", request_id=self.exchange.request_id, **attempt.to_wire())

    def refusal(self) -> Refusal:
        """What the client is told when no provider answered."""
        last = self.last
        if last is None:
            return self.unspoken or Refusal("no_available_route", "no provider is available for this model")
        details: dict[str, Any] = {"provider": self.attempts[-1].provider}
        if last.status is not None:
            details["status_code"] = last.status
        details["attempts"] = [attempt.to_wire() for attempt in self.attempts]
        if last.status == 429:
            wait = max(1, round(last.retry_after or 1))
            return Refusal("rate_limited", "the provider is at its limit", details=details, retry_after_seconds=wait)
        if last.status in CALLER_STATUS and last.public is not None:
            return Refusal("provider_error", last.public, status=400, details=details)
        if last.code in _TIMEOUTS:
            return Refusal("provider_error", "the provider did not answer in time", status=504, details=details)
        return Refusal("provider_error", "the provider could not answer", details=details)


class Watch(Protocol):
    """Who hears how tries of stored keys end."""

    def used(self, credential: UUID) -> None: ...

    def refused(self, credential: UUID, code: str) -> None: ...


async def first_answer(
    pool: Pool,
    rules: CallRules,
    exchange: Exchange,
    products: Sequence[Product],
    call_for: Callable[[Product], Call],
    *,
    stream: bool,
    circuits: Circuits,
    watch: Watch,
    answers: Callable[[Reply], bool] = is_answer,
) -> Answering:
    """The first product whose provider begins to answer. Raises Refusal when none does, ClientGone when nobody waits.

    The products of one payer are tried in their order, those that are down last, and once more after a pause where
    that may help, before it is another payer's turn.
    """
    tries = Tries(exchange)
    for group in _by_payer(products):
        for repeat in range(rules.max_retries + 1):
            left = []
            for product in group:
                if exchange.gone:
                    product.circuit.left()
                    raise ClientGone
                try:
                    call = call_for(product)
                except Refusal as refusal:  # another provider's wire may have words for it
                    product.circuit.left()
                    tries.unspoken = tries.unspoken or refusal
                    continue
                began = time.monotonic()
                try:
                    outcome = await _call(pool, rules, exchange, product, call, stream, answers, began)
                except BaseException:  # nobody waits any more: whether it is well nobody knows
                    product.circuit.left()
                    raise
                if isinstance(outcome, Answering):
                    product.circuit.answered(began, outcome.first_byte_ms)
                    if product.account.credential is not None:
                        watch.used(product.account.credential)
                    if tries.attempts:
                        outcome.tries = tries.attempts
                        logger.info("route.fell_over", request_id=exchange.request_id, **answered_wire(outcome))
                    return outcome
                _failed(outcome, product, began, tries, circuits, watch)
                if outcome.status in CALLER_STATUS and outcome.status != NOT_THERE and outcome.public is not None:
                    # The request itself is wrong: another provider would say so too.
                    raise tries.refusal()
                if outcome.retryable and (outcome.retry_after or 0) <= RETRY_AFTER_MAX_SECONDS:
                    left.append(product)
            group = left
            if not group:
                break
            if repeat < rules.max_retries:
                await asyncio.sleep(_pause(rules, repeat, tries.last))
    raise tries.refusal()


def answered_wire(answering: Answering) -> dict[str, object]:
    """The last attempt, the one that answers, as its details are shown."""
    product = answering.product
    return {
        "attempt": len(answering.tries) + 1,
        "provider": product.provider.name,
        "model": product.price.model,
        "route_mode": MODE_OF[product.payer],
        "durationMs": answering.first_byte_ms,
    }


def _by_payer(products: Sequence[Product]) -> Sequence[Sequence[Product]]:
    """The products in the order in which they are tried, in groups of one payer."""
    if len(products) == 1:
        return (products,)
    now = time.monotonic()
    ordered = in_order(
        products, lambda product: product.circuit.state is State.CLOSED, lambda product: product.circuit.is_down(now)
    )
    return [list(group) for _, group in groupby(ordered, key=lambda product: product.payer)]


def _failed(outcome: _Failure, product: Product, began: float, tries: Tries, circuits: Circuits, watch: Watch) -> None:
    """Tell all who want to know that one try failed, and how."""
    account = product.account
    tries.failed(product, outcome, began)
    if outcome.status in KEY_STATUS and account.credential is not None:
        watch.refused(account.credential, outcome.code)
    if outcome.status in BARRING_STATUS:
        circuits.bar(account.name, outcome.code)
    elif outcome.status in CALLER_STATUS:
        product.circuit.answered(began, None)
    else:
        product.circuit.failed(time.monotonic(), outcome.code, wait_seconds=outcome.retry_after)


def _pause(rules: CallRules, repeat: int, failure: _Failure | None) -> float:
    if failure is not None and failure.retry_after is not None and failure.retry_after <= RETRY_AFTER_MAX_SECONDS:
        return failure.retry_after + rules.retry_delay_seconds * random.random()
    # Full jitter: many clients of one sick provider must not come back together.
    return rules.retry_delay_seconds * float(1 << repeat) * (0.5 + random.random() / 2)


async def _call(
    pool: Pool,
    rules: CallRules,
    exchange: Exchange,
    product: Product,
    call: Call,
    stream: bool,
    answers: Callable[[Reply], bool],
    began: float,
) -> Answering | _Failure:
    provider = product.provider
    headers = provider.headers
    if provider.signer is not None:
        headers += provider.signer.headers(call.path, call.body, datetime.now(UTC))
    response: Response | Inbound | None = None
    try:
        request = pool.request(provider.endpoint, b"POST", call.path, headers, call.body, rules.deadlines)
        if exchange.gone:
            request.close()
            raise ClientGone
        response = await _head(exchange, request, provider.bills_after_cancel)
        if stream or provider.adapter is not None:
            response = inbound(response, provider.adapter, call, stream=stream)
        if response.status != 200:
            failure = await _read_failure(response, headers)
        elif stream and _is_event_stream(response):
            first = await _first_event(response)
            if first is not None and not _begins_with_error(first):
                return Answering(product, response, first, None, _ms_since(began))
            response.cancel()
            failure = _Failure(200, "empty_stream" if first is None else "error_in_reply", True)
        else:
            whole = await response.read()
            try:
                reply = decode_reply(whole if whole[:2] != GZIP_MAGIC else opened(whole))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                failure = _Failure(200, "unreadable_reply", True)
            else:
                if answers(reply):
                    return Answering(product, response, whole, reply, _ms_since(began))
                failure = _Failure(200, "error_in_reply", True)
    except UpstreamError as error:
        if response is not None:
            response.cancel()
        if exchange.gone:
            raise ClientGone from None
        failure = _Failure(None, error.kind, error.kind != "refused_address")
    if exchange.gone:
        raise ClientGone
    return failure


async def _head(exchange: Exchange, request: Coroutine[Any, Any, Response], bills_after_cancel: bool) -> Response:
    """Wait for the response's head. A client that leaves ends the request, then and later, unless it is billed
    all the same. Raises ClientGone, and what the request raises."""
    if bills_after_cancel:
        return await request
    task = asyncio.current_task()
    assert task is not None
    exchange.on_gone = task.cancel
    try:
        response = await request
    except asyncio.CancelledError:
        if exchange.gone and task.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        exchange.on_gone = None
    exchange.on_gone = response.cancel
    return response


def _is_event_stream(response: Response | Inbound) -> bool:
    return response.headers.get("content-type", "").startswith(EVENT_STREAM)


async def _first_event(response: Response | Inbound) -> bytes | None:
    """The stream's bytes up to the end of its first event at least, so that an error in it can be told."""
    first = await response.chunk()
    while first is not None and not _EVENT_END.search(first) and len(first) < FIRST_EVENT_BYTES_MAX:
        more = await response.chunk()
        if more is None:
            break
        first += more
    return first


def _begins_with_error(first: bytes) -> bool:
    if b'"error"' not in first:
        return False
    try:
        for event in EventSplitter().feed(first):
            body = payload(event)
            if body is not None:
                return decode_chunk(body).error is not None
    except (msgspec.MsgspecError, EventTooLong):
        return False
    return False


async def _read_failure(response: Response | Inbound, headers: bytes) -> _Failure:
    status = response.status
    public = None
    body = await response.read()
    if status == 400:
        status = 401 if says_key_invalid(body) else _ACCOUNT_STATUS.get(_error_type(body), 400)
    if status in CALLER_STATUS:
        public = _caller_text(body, headers)
    return _Failure(
        status,
        f"http_{status}",
        status in RETRYABLE_STATUS,
        retry_after=_seconds(response.headers.get("retry-after")),
        public=public,
    )


def _error_type(body: bytes) -> str:
    try:
        kind = msgspec.json.decode(body[:65_536])["error"]["type"]
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError, IndexError):
        return ""
    return kind if isinstance(kind, str) else ""


def _caller_text(body: bytes, headers: bytes) -> str | None:
    """What a provider says about the request itself, cut short; nothing else of its body is shown, and nothing of a
    text that repeats what our headers carry: the key is not the caller's to see."""
    try:
        told = msgspec.json.decode(body[:65_536])
        text = told["error"]["message"]
    except (msgspec.MsgspecError, KeyError, TypeError):
        return None
    if not isinstance(text, str):
        return None
    sent = [word for line in headers.decode("latin-1").splitlines() for word in line.partition(":")[2].split()]
    if any(len(word) >= KEY_CHARACTERS_MIN and word in text for word in sent if word not in _PLAIN_WORDS):
        return "the provider refused the request"
    return f"the provider refused the request: {text[:PUBLIC_TEXT_MAX]}"


def _seconds(value: str | None) -> float | None:
    try:
        seconds = float(value) if value is not None else None
    except ValueError:
        return None
    return seconds if seconds is not None and 0 <= seconds < 86_400 else None


def _ms_since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
