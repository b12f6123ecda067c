"""What a feature's `privacy` lets out to a provider in the cloud, and the way back into what the client gets.

`redact_pii_before_cloud` replaces what is personal before anything is held or sent: the redacted request is what the
provider gets, and what its price is bounded and counted by. `block` refuses such a request. Only counts by kind are
shown and logged; no value is kept beyond its request. Not here: what is personal (`faucet.privacy`).
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from faucet.gateway.admit import Feature
from faucet.gateway.attempt import Answering
from faucet.gateway.exchange import Exchange
from faucet.gateway.relay import Relay, Streamed
from faucet.gateway.sse import Chunk
from faucet.gateway.wire import ChatAsk
from faucet.kit.errors import Refusal
from faucet.kit.events import payload
from faucet.kit.log import logger
from faucet.privacy.redact import Redactor

BLOCK = "block"
LARGE_BYTES = 32_768
"""A body above this is searched in a thread, so that others needn't wait for it."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


async def let_out(feature: Feature, ask: ChatAsk, request_id: str) -> tuple[ChatAsk, Redactor]:
    """The request as it may leave, and what brings its values back.

    Raises Refusal `forbidden` where the policy is to block and something was found, `invalid_request` where the body
    can't be read.
    """
    redactor = Redactor(ask.sensitive)
    try:
        if len(ask.body) > LARGE_BYTES:
            fields = await asyncio.to_thread(redactor.redact_chat, ask.fields)
        else:
            fields = redactor.redact_chat(ask.fields)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise Refusal("invalid_request", f"the body is not valid JSON: {error}") from None
    counts = redactor.counts
    if counts and feature.privacy == BLOCK:
        logger.info("privacy.blocked", request_id=request_id, personal_data=counts)
        raise Refusal(
            "forbidden",
            "this feature lets no personal data out, and the request has some: "
            + ", ".join(f"{count} {kind}" for kind, count in counts.items()),
            param="messages",
            details={"personal_data": counts},
        )
    if counts:
        logger.info("privacy.redacted", request_id=request_id, redactions=counts)
    body = _encode(fields)
    extra = len(fields["prediction"]) if "prediction" in fields else 0
    return (
        msgspec.structs.replace(ask, fields=fields, body=body, body_bytes=len(body), extra_output_bytes=extra),
        redactor,
    )


def redactions_note(redactor: Redactor | None) -> bytes:
    """What the reply's `modelfaucet` says more: how many values were kept from the provider, by kind."""
    return b"" if redactor is None else b',"redactions":' + _encode(redactor.counts)


def restored(redactor: Redactor, choices: msgspec.Raw) -> msgspec.Raw:
    """The choices of a JSON reply with their values back; the same bytes where there are none."""
    if not redactor.counts or b"[" not in bytes(choices)[1:]:
        return choices
    return msgspec.Raw(_encode(redactor.chat_restorer().whole(_decode(choices))))


def relay_for(
    redactor: Redactor | None, exchange: Exchange, answering: Answering, chat_id: str, *, record: bool
) -> Relay:
    """The relay of a stream: one that restores only where something was taken out."""
    if redactor is None or not redactor.counts:
        return Relay(exchange, answering, chat_id, record=record)
    return RestoringRelay(redactor, exchange, answering, chat_id, record=record)


class RestoringRelay(Relay):
    """A relay that puts values back into the events that have a placeholder; all others leave as they came.

    What is counted and rated is what the provider wrote, placeholders and all.
    """

    def __init__(
        self, redactor: Redactor, exchange: Exchange, answering: Answering, chat_id: str, *, record: bool
    ) -> None:
        super().__init__(exchange, answering, chat_id, record=record)
        self._restorer = redactor.chat_restorer()
        self._last: dict[str, Any] = {}

    async def run(self) -> Streamed:
        """Forward as every relay does; at last also what was held back of a choice that nothing finished."""
        streamed = await super().run()
        choices = self._restorer.rest()
        if choices and not self._exchange.gone:
            out = self._renamed(_event({**self._last, "choices": choices}))
            if streamed.record is not None:
                streamed.record.append(out)
            await self._exchange.events(out)
        return streamed

    def _take(self, data: bytes) -> bytes:
        return self._renamed(self._take_each(self._splitter.whole(data)))

    def _sort(self, event: bytes, chunk: Chunk, out: list[bytes]) -> None:
        super()._sort(self._restored(event) if chunk.choices else event, chunk, out)

    def _restored(self, event: bytes) -> bytes:
        try:
            data = _decode(payload(event) or b"{}")
        except msgspec.MsgspecError:  # a number beyond all bounds: the event is forwarded as any that we can't read
            return event
        self._last = {name: value for name, value in data.items() if name not in ("choices", "usage")}
        return _event(data) if self._restorer.chunk(data["choices"]) else event

    def _learn_id(self, old: str, event: bytes) -> None:
        super()._learn_id(old, event)
        # Events that were written anew spell it in their own way.
        text = msgspec.json.encode(old)
        self._spellings = (b'"id":' + text, b'"id": ' + text)


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + _encode(data) + b"\n\n"
