"""A feature's prompt as OpenAI's chat body: for a run with its input, and before the messages of a chat.

An input is checked and put into its places here; the body that comes out is read by `wire.parse_chat` like any
other. Not here: how a prompt or a schema is read (`tenants.template`, `tenants.schemas`).
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec

from faucet.gateway.admit import Feature
from faucet.gateway.wire import ChatAsk, parse_chat
from faucet.kit.errors import Refusal, field_error
from faucet.tenants.schemas import Problem, Schema
from faucet.tenants.template import TooLong

INPUT_BYTES_MAX = 262_144
INLINE_BYTES_MAX = 4_096
"""A larger input is checked off the event loop."""

_encode = msgspec.json.Encoder().encode
_FIELDS = ("input", "stream", "model", "metadata")


class Run(msgspec.Struct):
    """What `POST /v1/features/:key/run` was asked."""

    input: dict[str, Any]
    model: str
    stream: bool
    metadata: dict[str, Any] | None


def parse_run(body: bytes) -> Run:
    """Read the body of a run. Raises Refusal `invalid_request` naming the first field that is wrong."""
    if len(body) > INPUT_BYTES_MAX:
        raise Refusal("payload_too_large", f"a run has at most {INPUT_BYTES_MAX} bytes")
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal("invalid_request", f"the body is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise Refusal("invalid_request", "the body must be a JSON object")
    for name in fields:
        if name not in _FIELDS:
            raise field_error(name[:100], f"is not known here; a run has {', '.join(_FIELDS)}")
    values, model = fields.get("input", {}), fields.get("model", "auto")
    stream, metadata = fields.get("stream"), fields.get("metadata")
    if not isinstance(values, dict):
        raise field_error("input", "must be an object")
    if not isinstance(model, str) or not 1 <= len(model) <= 256 or model.startswith("auto:"):
        raise field_error("model", "must be a model's name, or `auto`")
    if stream is not None and not isinstance(stream, bool):
        raise field_error("stream", "must be true or false")
    if metadata is not None and not isinstance(metadata, dict):
        raise field_error("metadata", "must be an object")
    return Run(values, model, bool(stream), metadata)


async def run_ask(feature: Feature, run: Run) -> ChatAsk:
    """The chat request that a run comes to. Raises Refusal `invalid_request` with every wrong value's path."""
    prompt, schema = feature.parts.prompt, feature.parts.input_schema
    if prompt is None:
        raise Refusal("invalid_request", f"the feature {feature.key!r} has no prompt; use /v1/chat/completions")
    if schema is not None:
        problems = await problems_of(schema, run.input, "input")
        if problems:
            raise _refused(problems)
    try:
        messages = prompt.render(run.input)
    except TooLong as error:
        raise field_error("input", str(error)) from None
    body: dict[str, Any] = {"model": run.model, "messages": messages}
    if run.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if run.metadata is not None:
        body["metadata"] = run.metadata
    if feature.parts.output_schema is not None:
        body["response_format"] = response_format(feature.key, feature.parts.output_schema)
    ask = parse_chat(_encode(body))
    if schema is not None and feature.privacy != "none":
        ask.sensitive = schema.sensitive(run.input)
    return ask


def response_format(key: str, schema: Schema) -> dict[str, Any]:
    """How a provider is asked for an answer of this shape."""
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", key)[:64]
    described: dict[str, Any] = {"name": name, "schema": schema.document}
    if schema.is_strict:
        described["strict"] = True
    return {"type": "json_schema", "json_schema": described}


async def problems_of(schema: Schema, value: Any, name: str) -> list[Problem]:
    """What is wrong with a value, found off the event loop where it is large."""
    if len(_encode(value)) <= INLINE_BYTES_MAX:
        return schema.problems(value, name)
    return await asyncio.to_thread(schema.problems, value, name)


def _refused(problems: list[Problem]) -> Refusal:
    fields: dict[str, list[str]] = {}
    for path, text in problems:
        fields.setdefault(path, []).append(text)
    path, text = problems[0]
    return Refusal(
        "invalid_request",
        f"{path}: {text}",
        param=path,
        details={"formErrors": [], "fieldErrors": fields},
    )


def is_locked(feature: Feature) -> bool:
    """Whether the feature answers runs of its own prompt alone."""
    return feature.parts.prompt is not None and feature.parts.prompt.locked


def raise_if_locked(feature: Feature) -> None:
    """Raises Refusal `forbidden` where the feature answers runs of its own prompt alone."""
    if is_locked(feature):
        raise Refusal("forbidden", f"this feature answers POST /v1/features/{feature.key}/run only", param="model")


def chat_ask(feature: Feature, ask: ChatAsk) -> ChatAsk:
    """A chat with the feature: its prompt's standing messages stand before the caller's.

    Raises Refusal `forbidden` where the prompt is locked.
    """
    raise_if_locked(feature)
    prompt = feature.parts.prompt
    if prompt is None:
        return ask
    standing = prompt.standing()
    if not standing:
        return ask
    fields = dict(ask.fields)
    given = bytes(fields["messages"]).lstrip()
    fields["messages"] = msgspec.Raw(_encode(standing)[:-1] + b"," + given[1:])
    longer = parse_chat(_encode(fields))
    # Whose words for us were taken out of `fields` is known from before.
    longer.feature_key, longer.payers = ask.feature_key, ask.payers
    return longer
