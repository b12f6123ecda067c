"""Between the gateway's words and a provider's: the call that goes out, and the answer that comes in.

A provider of OpenAI's wire is sent what the caller wrote, and its answers pass as they are. Any other has an adapter:
then its reply and its stream are OpenAI's by the time that anybody here reads them. An answer that comes compressed
although we asked for none of that is opened here too. Not here: calling, retrying, and what an answer costs.
"""

from __future__ import annotations

import re
import time
import zlib
from typing import Any

import msgspec

from faucet.gateway.catalogue import Product
from faucet.gateway.wire import ChatAsk, Reply, upstream_body
from faucet.kit.errors import field_error
from faucet.kit.upstream import Response, UpstreamError
from faucet.providers.base import Adapter, Call, Provider, Unreadable, path_of
from faucet.providers.chat_words import ORDERED_BLOCKS, SIGNED_THINKING

OPENED_BYTES_MAX = 64 << 20
"""A compressed answer may not unfold to more."""
UNKNOWN_OUTPUT_TOKENS = 4096
"""The limit for a model that we don't know, where its provider wants one."""
EVENT_STREAM = "text/event-stream"
_AN_HOUR = re.compile(rb'"ttl"\s*:\s*"1h"')
"""A mark for a cache whose writes cost more than those that are rated; providers that pass it on exist."""
_SIGNED_THINKING = b'"%b"' % SIGNED_THINKING.encode()
_ORDERED_BLOCKS = b'"%b"' % ORDERED_BLOCKS.encode()
_GZIP_OR_ZLIB = 47
GZIP_MAGIC = b"\x1f\x8b"


def chat_call(ask: ChatAsk, product: Product, limit: int | None) -> Call:
    """The call for a product, its output bounded where there is a limit.

    Raises Refusal `invalid_request` for what its provider can't be asked.
    """
    provider, price = product.provider, product.price
    if provider.one_choice and ask.n != 1:
        raise field_error("n", "this model gives one choice")
    if provider.adapter is not None:
        bound = UNKNOWN_OUTPUT_TOKENS if limit is None else limit
        return provider.adapter.chat(ask.fields, price.model, bound, stream=ask.stream)
    if provider.bills_apart or "tools" in ask.fields:
        _refuse_billed_apart(ask, provider)
    if b'"cache_control"' in ask.body and _AN_HOUR.search(ask.body):
        raise field_error("messages", "cache_control: only a cache of five minutes is offered here")
    if _SIGNED_THINKING in ask.body:
        ask = _for_others(ask, provider)
    body = upstream_body(
        ask,
        product.model_json,
        limit,
        provider.limit_field,
        only_limit_field=provider.only_limit_field,
        stream_options=provider.stream_options,
    )
    return Call(path_of(provider.chat_path, price.model), body)


def _for_others(ask: ChatAsk, provider: Provider) -> ChatAsk:
    """The request without what only Anthropic's API knows of thinking, or under the name that this provider has."""
    messages = msgspec.json.decode(ask.fields["messages"])
    for message in messages:
        thoughts = message.pop(SIGNED_THINKING, None)
        if thoughts is not None and provider.thinking_blocks:
            message["thinking_blocks"] = thoughts
    fields = {name: raw for name, raw in ask.fields.items() if name != SIGNED_THINKING}
    return msgspec.structs.replace(ask, fields={**fields, "messages": msgspec.Raw(msgspec.json.encode(messages))})


def takes_thoughts(provider: Provider) -> bool:
    """Whether signed thinking of earlier turns may be sent to it, and so is part of what it reads."""
    return provider.thinking_blocks or provider.adapter is not None


class _Tool(msgspec.Struct):
    type: Any = "function"


_tools = msgspec.json.Decoder(list[_Tool] | None)
_OUR_CALLERS_TOOLS = ("function", "custom")
"""Tools that the caller runs. All others are the provider's own, and billed beside the tokens."""


def _refuse_billed_apart(ask: ChatAsk, provider: Provider) -> None:
    """What this provider would bill beyond the tokens that we rate can't be asked for. Raises Refusal."""
    for name in provider.bills_apart:
        if name in ask.fields:
            raise field_error(name, "is not offered for this model")
    if "tools" in ask.fields:
        try:
            tools = _tools.decode(ask.fields["tools"])
        except msgspec.MsgspecError:
            raise field_error("tools", "must be an array of tools") from None
        for index, tool in enumerate(tools or ()):
            if tool.type not in _OUR_CALLERS_TOOLS:
                raise field_error(f"tools.{index}", "only functions are offered here", param="tools")


class Inbound:
    """A response whose bytes aren't yet what OpenAI's wire has; reads like one whose bytes are."""

    __slots__ = ("_adapter", "_coded", "_feed", "_opened", "_reads", "_response", "status")

    def __init__(self, response: Response, adapter: Adapter | None, call: Call) -> None:
        self.status = response.status
        self._reads = call.reads
        self._response = response
        self._adapter = adapter
        coding = response.headers.get("content-encoding", "identity").lower()
        self._coded = coding not in ("", "identity")
        self._opened = _Opener() if self._coded else None
        self._feed = adapter.stream(int(time.time())).feed if adapter is not None else None

    @property
    def headers(self) -> dict[str, str]:
        """The headers, with the type that the bytes have when they are read."""
        headers = self._response.headers
        if self._adapter is None or not headers.get("content-type", "").startswith(self._adapter.event_stream):
            return headers
        return {**headers, "content-type": EVENT_STREAM}

    async def read(self) -> bytes:
        """The whole reply, or the whole error. Raises UpstreamError, also for a reply that makes no sense."""
        body = await self._response.read()
        try:
            if self._opened is not None:
                body = self._opened.feed(body)
            if self._adapter is None:
                return body
            if self.status != 200:
                return self._adapter.failure(body)
            return (self._reads or self._adapter.reply)(body, int(time.time()))
        except Unreadable as problem:
            raise UpstreamError("protocol", True, str(problem)) from None

    async def chunk(self) -> bytes | None:
        """The next events, None at the end. Raises UpstreamError, also for a stream that makes no sense."""
        try:
            while (data := await self._response.chunk()) is not None:
                if self._opened is not None:
                    data = self._opened.feed(data)
                if self._feed is not None:
                    data = self._feed(data)
                if data:
                    return data
        except Unreadable as problem:
            self._response.cancel()
            raise UpstreamError("protocol", True, str(problem)) from None
        return None

    def chunk_nowait(self) -> bytes | None:
        """As the response has it; nobody reads on here but to let the connection rest."""
        return self._response.chunk_nowait()

    def cancel(self) -> None:
        """Close the connection at once, unless the response was read to its end."""
        self._response.cancel()


def for_chats(fields: Reply) -> Reply:
    """An adapter's reply without what only Anthropic's own API has words for."""
    if _ORDERED_BLOCKS not in bytes(fields["choices"]):
        return fields
    choices = msgspec.json.decode(fields["choices"])
    for choice in choices:
        choice["message"].pop(ORDERED_BLOCKS, None)
    return fields | {"choices": msgspec.Raw(msgspec.json.encode(choices))}


def inbound(response: Response, adapter: Adapter | None, call: Call, *, stream: bool) -> Response | Inbound:
    """The response as it can be read here."""
    if adapter is None and not (stream and "content-encoding" in response.headers):
        return response
    return Inbound(response, adapter, call)


def opened(body: bytes) -> bytes:
    """A compressed reply of OpenAI's wire, one that begins with `GZIP_MAGIC`. Raises msgspec.DecodeError."""
    try:
        return _Opener().feed(body)
    except Unreadable as problem:
        raise msgspec.DecodeError(str(problem)) from None


class _Opener:
    """Decompresses gzip and zlib, up to a bound."""

    __slots__ = ("_left", "_opener")

    def __init__(self) -> None:
        self._opener = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._left = OPENED_BYTES_MAX

    def feed(self, data: bytes) -> bytes:
        """The bytes that are readable now. Raises Unreadable."""
        try:
            out = self._opener.decompress(data, self._left + 1)
        except zlib.error:
            raise Unreadable("a body in a coding that was not asked for") from None
        self._left -= len(out)
        if self._left < 0:
            raise Unreadable("a compressed body that unfolds to too much")
        return out
