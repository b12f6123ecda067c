"""POST /v1/features/:key/run: a feature's own prompt with an input, and an answer of the feature's own shape.

The input is checked, put into the prompt, and from there on it is the story of `chat`: plan, hold, call, settle. An
answer that does not match the output's schema is delivered as it is, says so, and is paid for: the provider made it,
and its text is there to be used or looked at. Streams are those of a chat.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from faucet.gateway.catalogue import Product
from faucet.gateway.chat import Request, answer
from faucet.gateway.exchange import Exchange, bearer_of
from faucet.gateway.prompt import parse_run, problems_of, run_ask
from faucet.gateway.relay import Streamed
from faucet.gateway.wire import Reply
from faucet.gateway.world import World
from faucet.tenants.schemas import Schema

_encode = msgspec.json.Encoder().encode


async def run_feature(world: World, exchange: Exchange, key: str) -> None:
    """Answer one run. Raises Refusal before anything is sent; ClientGone when nobody is left to answer."""
    began = time.monotonic()
    bearer = bearer_of(exchange.authorization)
    caller = world.admission.recall(bearer) or await world.admission.find(bearer)
    world.limit(exchange, caller)
    run = parse_run(exchange.body)
    feature = await world.admission.feature(caller, key)
    ask = await run_ask(feature, run)
    await answer(world, exchange, caller, feature, ask, RunShape(feature.parts.output_schema), began)


class RunShape:
    """How a run's reply looks."""

    def __init__(self, schema: Schema | None) -> None:
        self._schema = schema

    async def reply(self, request: Request, fields: Reply, product: Product, usage: bytes) -> dict[str, msgspec.Raw]:
        """The reply's fields, in their order, without the note of what it cost."""
        text, reason = _text_of(fields)
        shown: dict[str, Any] = {
            "request_id": request.exchange.request_id,
            "feature_key": request.feature.key,
            "feature_version": request.feature.version,
            **await self._judged(text),
            "text": text,
            "finish_reason": reason,
        }
        raw = {name: msgspec.Raw(_encode(value)) for name, value in shown.items()}
        raw["model"] = msgspec.Raw(product.model_json)
        raw["usage"] = msgspec.Raw(usage)
        return raw

    async def note(self, request: Request, streamed: Streamed) -> bytes:
        """What a stream's last note says more: whether what was sent has the shape that it should have."""
        if self._schema is None:
            return b""
        text = "".join(streamed.texts.get(0, ()))  # what was thought is no part of it
        if request.redactor is not None:
            text = request.redactor.restore_text(text)  # it is judged as the client reads it
        judged = await self._judged(text)
        if "output" in judged:
            return b',"output_valid":true'
        return b',"output_valid":false,"output_error":' + _encode(judged["output_error"])

    async def _judged(self, text: str) -> dict[str, Any]:
        """`output` where the text has the shape of the schema, else `output_error`; nothing without a schema."""
        if self._schema is None:
            return {}
        try:
            output = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            return {"output_error": {"message": "the answer is not JSON", "fieldErrors": {}}}
        problems = await problems_of(self._schema, output, "output")
        if not problems:
            return {"output": output}
        fields: dict[str, list[str]] = {}
        for path, said in problems:
            fields.setdefault(path, []).append(said)
        return {"output_error": {"message": "the answer does not match output_schema", "fieldErrors": fields}}


def _text_of(fields: Reply) -> tuple[str, str | None]:
    """The text of the first choice, and why it ended."""
    choices = msgspec.json.decode(fields["choices"])
    first = choices[0] if choices and isinstance(choices[0], dict) else {}
    message, reason = first.get("message"), first.get("finish_reason")
    content = message.get("content") if isinstance(message, dict) else None
    return (content if isinstance(content, str) else ""), (reason if isinstance(reason, str) else None)
