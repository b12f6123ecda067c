"""POST /v1/chat/completions: one request, top to bottom.

admit → parse → plan → hold → call → relay → settle → last byte. Whatever happens after the hold ends in exactly one
of two ways: settled, when something was delivered, or released.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from faucet.gateway.admit import Caller, Feature
from faucet.gateway.attempt import Answering, first_answer
from faucet.gateway.catalogue import Product
from faucet.gateway.exchange import ClientGone, Exchange, bearer_of
from faucet.gateway.explain import reasons
from faucet.gateway.metrics import METRICS
from faucet.gateway.outbound import chat_call, for_chats
from faucet.gateway.payers import fee_note
from faucet.gateway.prompt import chat_ask
from faucet.gateway.redaction import let_out, redactions_note, relay_for, restored
from faucet.gateway.relay import Streamed
from faucet.gateway.replay import Claim
from faucet.gateway.reserve import Held
from faucet.gateway.settle import Rated, rated
from faucet.gateway.wire import (
    MODES_WIRE,
    ChatAsk,
    Reply,
    chat_fields,
    error_body,
    is_answer,
    money_note,
    parse_chat,
    usage_of,
    with_cost,
    with_note,
)
from faucet.gateway.world import World
from faucet.kit.errors import Refusal
from faucet.kit.money import to_wire_bytes
from faucet.kit.tokens import TOKENIZERS, count_input, count_text
from faucet.privacy.redact import Redactor
from faucet.providers.base import Call
from faucet.rating.images import image_counter
from faucet.rating.usage import read_report
from faucet.terms import Outcome, Usage, UsageSource

LIKELY_TOKENIZER = "o200k"
"""What an answer is counted with whose model's own tokenizer nobody knows: the nearest guess, not the bound."""


class Request(msgspec.Struct):
    """A held request, as the rest of the story needs it."""

    exchange: Exchange
    caller: Caller
    feature: Feature
    ask: ChatAsk
    shape: Shape
    kind: Kind
    held: Held
    claim: Claim | None
    began: float
    explain: bool
    redactor: Redactor | None
    """Where the feature's policy redacts: what brings the values back into the answer."""

    @property
    def chat_id(self) -> str:
        return f"chatcmpl_mf_{self.exchange.request_id}"


class Kind(msgspec.Struct, frozen=True):
    """What is asked of providers: what differs between chats and all else that is held, called and settled alike."""

    products: Callable[[Sequence[Product]], Sequence[Product]]
    """Those of the planned products that can answer. Raises Refusal where none can."""
    call: Callable[[ChatAsk, Product, int | None], Call]
    """The call for a product, with the output limit that was held, where there is one. Raises Refusal
    `invalid_request`."""
    answers: Callable[[Reply], bool]
    """Whether a JSON reply holds an answer."""
    texts: Callable[[Reply], list[str]]
    """The generated texts of a JSON reply, to be counted where no usage is reported."""


class Shape(Protocol):
    """How an answer looks to whoever asked: what differs between endpoints that share the story."""

    async def reply(self, request: Request, fields: Reply, product: Product, usage: bytes) -> Reply:
        """A JSON reply's fields, in their order, without the note of what it cost."""

    async def note(self, request: Request, streamed: Streamed) -> bytes:
        """What the note at a stream's end says more."""


class ChatShape:
    """A chat's reply is the provider's own, under our id."""

    async def reply(self, request: Request, fields: Reply, product: Product, usage: bytes) -> Reply:
        if product.provider.adapter is not None and request.exchange.face is None:
            fields = for_chats(fields)
        return chat_fields(fields, request.chat_id, product.model_json, usage)

    async def note(self, request: Request, streamed: Streamed) -> bytes:
        return b""


CHAT = ChatShape()


async def chat_completions(world: World, exchange: Exchange) -> None:
    """Answer one chat request. Raises Refusal before anything is sent; ClientGone when nobody is left to answer."""
    began = time.monotonic()
    bearer = bearer_of(exchange.authorization)
    caller = world.admission.recall(bearer) or await world.admission.find(bearer)
    world.limit(exchange, caller)
    ask = parse_chat(exchange.body)
    feature = await world.admission.feature(caller, ask.feature_key)
    if not feature.is_plain:
        ask = chat_ask(feature, ask)
    await answer(world, exchange, caller, feature, ask, CHAT, began)


async def answer(
    world: World,
    exchange: Exchange,
    caller: Caller,
    feature: Feature,
    ask: ChatAsk,
    shape: Shape,
    began: float,
    kind: Kind | None = None,
) -> None:
    """What follows once it is known who asks what of which feature. Raises as `chat_completions`."""
    kind = kind or CHATS
    if not feature.is_plain:
        world.feature_rates.count(caller, feature)
    chosen = await world.choose(exchange, caller, feature, ask)
    if kind is not CHATS:
        chosen = msgspec.structs.replace(chosen, products=kind.products(chosen.products))
    for product in chosen.products:
        if world.lacks_cost_account(caller, product):
            await world.open_cost_accounts(caller, chosen.products)
            break

    claim = redactor = None
    if exchange.idempotency_key is not None:
        claim = await world.replays.claim(exchange, caller.end_user_id, exchange.body)
        if claim is None:
            return
    try:
        if feature.privacy != "none":
            ask, redactor = await let_out(feature, ask, exchange.request_id)
        held = await world.reserver.reserve(exchange, caller, feature, chosen, ask)
    except BaseException as failure:
        if claim is not None:
            await world.replays.give_up(exchange)
        if isinstance(failure, Refusal) and failure.code in METRICS.refusals:
            METRICS.refusals[failure.code] += 1
        raise
    world.settler.open[exchange.hold_id] = began
    request = Request(exchange, caller, feature, ask, shape, kind, held, claim, began, chosen.explain, redactor)
    try:
        if claim is not None:
            claim.require()
        answering = await first_answer(
            world.pool,
            world.call_rules,
            exchange,
            held.products,
            lambda product: kind.call(ask, product, held.limit_of(product)),
            stream=ask.stream,
            circuits=world.circuits,
            watch=world.keyring,
            answers=kind.answers,
        )
    except BaseException as failure:
        _release(world, request, _reason(failure))
        METRICS.hang_ups += isinstance(failure, ClientGone)
        raise
    try:
        if answering.reply is None:
            await _answer_stream(world, request, answering)
        else:
            await _answer_json(world, request, answering)
    except BaseException as failure:
        if exchange.hold_id in world.settler.open:
            # Neither settled nor released: a fault of ours, which nobody pays for.
            answering.response.cancel()
            _release(world, request, _reason(failure))
        raise


def _release(world: World, request: Request, reason: str) -> None:
    METRICS.released += 1
    world.settler.release(request.exchange.hold_id, request.held.wallet_id, reason)


def _reason(failure: BaseException) -> str:
    if isinstance(failure, Refusal):
        return failure.code
    return "client hung up" if isinstance(failure, ClientGone) else type(failure).__name__


async def _answer_json(world: World, request: Request, answering: Answering) -> None:
    """Settle a complete JSON reply, then send it. A client that left before it is not charged for what it
    never got, unless the provider bills us all the same."""
    exchange = request.exchange
    fields = answering.reply
    assert fields is not None
    if exchange.gone and not answering.product.provider.bills_after_cancel:
        _release(world, request, "client hung up")
        METRICS.hang_ups += 1
        raise ClientGone
    report = usage_of(fields)
    usage, more = read_report(report)
    if usage is None or report is None:
        usage = await _counted(request, answering.product, request.kind.texts(fields))
        report_json = _usage_json(usage)
    else:
        report_json = bytes(report)
    product = answering.product
    answer = rated(product, request.feature.plan, usage, request.held.amount_e8)
    price = to_wire_bytes(answer.paid_e8)
    if request.redactor is not None and "choices" in fields:
        fields["choices"] = restored(request.redactor, fields["choices"])
    shown = await request.shape.reply(request, fields, product, with_cost(report_json, price))

    def reply(balance_e8: int | None) -> bytes:
        return with_note(shown, _note(request, answering, answer, price, balance_e8))

    sealed = None if request.claim is None else world.replays.seal_json(request.claim, reply(None))
    balance_e8 = await _settle(world, request, answering, answer, more, Outcome.COMPLETE, sealed)
    await exchange.reply(200, reply(balance_e8))


def _note(
    request: Request, answering: Answering, answer: Rated, price: bytes, balance_e8: int | None, more: bytes = b""
) -> bytes:
    product = answering.product
    more = fee_note(product, request.feature) + redactions_note(request.redactor) + more
    if request.explain and balance_e8 is not None:  # without a balance it is kept, and may be asked for by others
        more += reasons(answering, request.held.passed_over)
    return money_note(
        request_id=request.exchange.request_id,
        mode=MODES_WIRE[product.payer],
        feature_json=request.feature.key_json,
        feature_version=request.feature.version,
        price=price,
        balance_e8=balance_e8,
        is_free=request.held.wallet_id != request.caller.wallet_id,
        provider_json=product.provider.name_json,
        model_json=product.model_json,
        counted=answer.usage.source is UsageSource.COUNTED,
        more=more,
    )


async def _answer_stream(world: World, request: Request, answering: Answering) -> None:
    """Relay a stream, settle it however it ended, and only then let its last events go."""
    exchange = request.exchange
    relay = relay_for(request.redactor, exchange, answering, request.chat_id, record=request.claim is not None)
    try:
        streamed = await relay.run()
    except BaseException:
        answering.response.cancel()
        streamed = relay.streamed
        streamed.failed = True
        if not streamed.has_text:
            _release(world, request, "the request was cut short")
            raise
        await _settle_stream(world, request, answering, streamed)
        raise
    if not streamed.finished and not streamed.has_text:
        # Nothing was delivered, so nothing is charged.
        if exchange.gone:
            _release(world, request, "client hung up")
            METRICS.hang_ups += 1
            raise ClientGone
        _release(world, request, "provider failed before any content")
        await _end_with_error(exchange, _broken(answering), request)
        return
    try:
        answer, balance_e8 = await _settle_stream(world, request, answering, streamed)
    except Refusal as refusal:
        await _end_with_error(exchange, refusal, request)
        return
    if exchange.gone:
        METRICS.hang_ups += 1
        return
    if streamed.failed:
        await _end_with_error(exchange, _broken(answering), request)
        return
    tail = await _tail(request, answering, streamed, answer, balance_e8)
    await exchange.events(tail, last=True)
    await _let_connection_rest(answering)


async def _settle_stream(world: World, request: Request, answering: Answering, streamed: Streamed) -> tuple[Rated, int]:
    """Book what a stream gave: the report where it is complete, else what was generated, counted."""
    usage, more = read_report(streamed.usage)
    if usage is None:
        usage = await _counted(request, answering.product, ["".join(t) for t in streamed.texts.values()])
    if request.exchange.gone and not streamed.finished:
        outcome = Outcome.CLIENT_HUNG_UP
    else:
        outcome = Outcome.COMPLETE if streamed.finished else Outcome.PROVIDER_FAILED
    whole = outcome is not Outcome.PROVIDER_FAILED
    answer = rated(answering.product, request.feature.plan, usage, request.held.amount_e8, whole=whole)
    sealed = None
    if request.claim is not None:
        # A stream that broke off is kept too, as it ended: the same key must not be charged a second time.
        if outcome is Outcome.COMPLETE:
            tail = await _tail(request, answering, streamed, answer, None)
        else:
            tail = _error_events(request, _broken(answering))
        sealed = world.replays.seal_events(request.claim, b"".join(streamed.record or []) + tail)
    balance_e8 = await _settle(world, request, answering, answer, more, outcome, sealed)
    return answer, balance_e8


async def _tail(
    request: Request, answering: Answering, streamed: Streamed, answer: Rated, balance_e8: int | None
) -> bytes:
    """The events that were kept back, the usage event where it was asked for, and the end."""
    parts = list(streamed.kept)
    if request.ask.include_usage:
        usage = answer.usage
        price = to_wire_bytes(answer.paid_e8)
        more = await request.shape.note(request, streamed)
        note = _note(request, answering, answer, price, balance_e8, more)
        if usage.source is UsageSource.COUNTED or streamed.usage is None:
            usage_json = _usage_json(usage)
        else:
            usage_json = streamed.usage
        parts.append(
            b'data: {"id":"'
            + request.chat_id.encode()
            + b'","object":"chat.completion.chunk","created":%d,"model":' % int(time.time())
            + answering.product.model_json
            + b',"choices":[],"usage":'
            + with_cost(usage_json, price)
            + b',"modelfaucet":'
            + note
            + b"}\n\n"
        )
    parts.append(b"data: [DONE]\n\n")
    return b"".join(parts)


def _settle(
    world: World,
    request: Request,
    answering: Answering,
    answer: Rated,
    raw_usage: str | None,
    outcome: Outcome,
    sealed: bytes | None,
) -> Awaitable[int]:
    product = answering.product
    usage = answer.usage
    METRICS.settled += 1
    METRICS.tokens["input"] += usage.total_input_tokens
    METRICS.tokens["output"] += usage.output_tokens
    return world.settler.settle(
        request.exchange.hold_id,
        request.caller,
        product,
        answer,
        wallet_id=request.held.wallet_id,
        feature_version=request.feature.version,
        has_budgets=request.held.has_budgets,
        cost_account=world.cost_account(request.caller, product),
        outcome=outcome,
        first_byte_ms=answering.first_byte_ms,
        duration_ms=round((time.monotonic() - request.began) * 1000),
        raw_usage=raw_usage,
        reply=sealed,
    )


async def _counted(request: Request, product: Product, texts: list[str]) -> Usage:
    """Usage by our own count, off the event loop: what we can show was asked and given."""
    own = product.price.tokenizer
    tokenizer = own if own in TOKENIZERS else LIKELY_TOKENIZER
    known = request.held.input_tokens
    body = request.ask.body
    images = image_counter(product.price)

    def count() -> tuple[int, int]:
        asked = known if known is not None else count_input(msgspec.json.decode(body), tokenizer, images)
        return asked, sum(count_text(text, tokenizer) for text in texts)

    asked, given = await asyncio.to_thread(count)
    return Usage(input_tokens=asked, output_tokens=given, source=UsageSource.COUNTED)


def _texts_of(fields: Reply) -> list[str]:
    texts = []
    for choice in msgspec.json.decode(fields["choices"]):
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            continue
        for name in ("content", "refusal", "reasoning_content", "reasoning"):
            if isinstance(message.get(name), str):
                texts.append(message[name])
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else []:
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                texts += [v for v in (function.get("name"), function.get("arguments")) if isinstance(v, str)]
    return texts


CHATS = Kind(lambda planned: planned, chat_call, is_answer, _texts_of)


def _usage_json(usage: Usage) -> bytes:
    asked, given = usage.total_input_tokens, usage.output_tokens
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (asked, given, asked + given)


def _broken(answering: Answering) -> Refusal:
    return Refusal(
        "provider_error",
        "the provider broke off; what was delivered is charged",
        details={"provider": answering.product.provider.name},
    )


async def _end_with_error(exchange: Exchange, refusal: Refusal, request: Request) -> None:
    """End a stream that can't be completed: a chunk that says so, and the error. Before the head: a plain error."""
    if exchange.gone:
        raise ClientGone
    if not exchange.started:
        raise refusal
    await exchange.events(_error_events(request, refusal), last=True)


def _error_events(request: Request, refusal: Refusal) -> bytes:
    """A chunk that finishes with `error`, and the envelope."""
    chunk = {
        "id": request.chat_id,
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": request.ask.model or "auto",
        "choices": [{"index": 0, "delta": {}, "finish_reason": "error"}],
    }
    data = json.dumps(chunk, separators=(",", ":")).encode()
    return b"data: " + data + b"\n\ndata: " + error_body(refusal, request.exchange.request_id) + b"\n\n"


async def _let_connection_rest(answering: Answering) -> None:
    """Read the end of the provider's body after the client has its answer, so the connection can be used again."""
    response = answering.response
    if response.chunk_nowait() != b"":
        return
    try:
        async with asyncio.timeout(1):
            while await response.chunk() is not None:
                pass
    except Exception:
        response.cancel()
