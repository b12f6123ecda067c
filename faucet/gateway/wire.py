"""OpenAI's request, reply and error shapes as bytes. Fields that we don't know pass through untouched.

A request's top level is split into raw slices, so what we don't read is forwarded byte for byte. Nothing here
decides anything about money; it only says what was asked.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec import Raw

from faucet.kit.errors import Refusal, field_error
from faucet.kit.money import to_wire_bytes
from faucet.routing.policy import MODES
from faucet.tenants.manifest import PAYER_OF, routes_of
from faucet.terms import Payer

CHOICES_MAX = 128
ABSURD_TOKENS = 1 << 24
"""No model answers with more tokens than this; asking for them is a mistake, not a wish."""

_AUTO = "auto:"
_OPAQUE = (b'"input_audio"', b'"file"', b'"file_id"', b'"audio"', b'"video_url"')
"""Parts that can fill a context window without their bytes being here."""
_OUR_METADATA = ("feature_key", "route_mode", "route_preference")


class _Message(msgspec.Struct):
    """A message is an object with a role; what else it carries is between caller and provider."""

    role: str
    audio: Any = None


class _Known(msgspec.Struct):
    """The fields that decide routing and money; everything else stays raw."""

    model: Any = None
    messages: list[_Message] | None = None
    stream: Any = None
    stream_options: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    n: Any = None
    metadata: Any = None
    service_tier: Any = None
    web_search_options: Any = None
    modalities: Any = None


_fields = msgspec.json.Decoder(dict[str, Raw])
_known = msgspec.json.Decoder(_Known)
_encode = msgspec.json.Encoder().encode


class ChatAsk(msgspec.Struct):
    """A chat request as asked: what we read of it, and the raw fields to forward."""

    fields: dict[str, Raw]
    body_bytes: int
    model: str | None
    """A concrete model, or None for `auto`."""
    feature_key: str | None
    stream: bool
    include_usage: bool
    max_tokens: int | None
    max_tokens_field: str | None
    n: int
    images: int
    opaque_parts: bool
    extra_output_bytes: int
    """Bytes of a `prediction`, whose rejected tokens are billed as output beyond the limit."""
    body: bytes
    payers: tuple[Payer, ...] | None = None
    """Whom the caller would like to pay, in this order; whether that may be, the policy says."""
    embeds: bool = False
    """Whether vectors are asked for."""
    sensitive: tuple[str, ...] = ()
    """Values of this request that are personal because its feature says so, whatever they look like."""

    @property
    def capabilities(self) -> frozenset[str]:
        """What a model must be able to do for this."""
        fields = self.fields
        needs = {"images"} if self.images else set()
        if "tools" in fields and bytes(fields["tools"]) not in (b"[]", b"null"):
            needs.add("tools")
        if "response_format" in fields and b'"json_schema"' in bytes(fields["response_format"]):
            needs.add("json_schema")
        return frozenset(needs) if needs else _NOTHING


_NOTHING: frozenset[str] = frozenset()


def parse_chat(body: bytes) -> ChatAsk:
    """Read a chat request. Raises Refusal `invalid_request` naming the first field that is wrong."""
    try:
        if not body.isascii():
            body.decode("utf-8")
        fields = _fields.decode(body)
        known = _known.decode(body)
    except UnicodeDecodeError as error:
        raise Refusal("invalid_request", f"the body is not valid UTF-8 (byte {error.start})") from None
    except msgspec.ValidationError as error:
        where = str(error).rpartition("`$.")[2].rstrip("`")
        if where.startswith("messages"):
            text = "must be an array of message objects, each with a role"
            raise field_error(where, text, param="messages") from None
        if where:
            raise field_error(where, "has a value that cannot be read", param=where.split(".")[0]) from None
        raise Refusal("invalid_request", "the body must be a JSON object") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refusal("invalid_request", f"the body is not valid JSON: {error}") from None

    model, feature_key, payers = named(fields, known.model, known.metadata)
    if not known.messages:
        raise field_error("messages", "must be an array of at least one message")
    stream = _boolean(known.stream, "stream")
    include_usage = False
    if known.stream_options is not None:
        if not isinstance(known.stream_options, dict):
            raise field_error("stream_options", "must be an object")
        include_usage = _boolean(known.stream_options.get("include_usage"), "stream_options.include_usage")
    _refuse_unrated(known)
    limit, limit_field = _output_limit(known)
    n = _whole(known.n, "n", 1, CHOICES_MAX) or 1
    images, opaque_parts = _parts(body, known.messages)
    return ChatAsk(
        fields,
        len(body),
        model,
        feature_key,
        stream,
        include_usage,
        limit,
        limit_field,
        n,
        images,
        opaque_parts,
        len(fields["prediction"]) if "prediction" in fields else 0,
        body,
        payers,
    )


def _wanted_payers(metadata: dict[str, Any]) -> tuple[Payer, ...] | None:
    """Whom a request's hints would have pay."""
    mode, preference = metadata.get("route_mode"), metadata.get("route_preference")
    if mode is not None:
        if not isinstance(mode, str) or mode not in MODES:
            raise field_error("metadata.route_mode", f"must be one of {', '.join(MODES)}", param="metadata")
        return (MODES[mode],)
    if preference is None:
        return None
    try:
        return tuple(PAYER_OF[route] for route in routes_of(preference, "metadata.route_preference"))
    except ValueError as problem:
        path, _, text = str(problem).partition(": ")
        raise field_error(path, text, param="metadata") from None


def _parts(body: bytes, messages: list[_Message]) -> tuple[int, bool]:
    """How many images a request shows, and whether it has parts that can't be seen into."""
    if body.count(b"[") == 1 and all([message.audio is None for message in messages]):
        return 0, False  # the messages are its only array: none of them has parts
    # An escaped letter could hide a part's type from the search.
    plain = body if b"\\u00" not in body else _encode(msgspec.json.decode(body))
    # An image part says the word twice: as its type and as its field.
    images = (plain.count(b'"image_url"') + plain.count(b'"input_image"') + 1) // 2
    return images, any(word in plain for word in _OPAQUE)


def _refuse_unrated(known: _Known) -> None:
    """What a provider would bill beyond the tokens that we rate can't be asked for."""
    if known.service_tier not in (None, "auto", "default"):
        raise field_error("service_tier", "only `auto` and `default` are offered here")
    if known.web_search_options is not None:
        raise field_error("web_search_options", "the provider's own web search is not offered here")
    if known.modalities is not None and known.modalities != ["text"]:
        raise field_error("modalities", 'only ["text"] is offered here')


def named(fields: dict[str, Raw], model: Any, metadata: Any) -> tuple[str | None, str | None, tuple[Payer, ...] | None]:
    """The model and the feature that a request names, and whom it would like to pay. Words that are for us are taken
    out of its metadata."""
    concrete, feature_key = _model(model)
    payers = None
    if metadata is not None:
        if not isinstance(metadata, dict):
            raise field_error("metadata", "must be an object")
        feature = metadata.get("feature_key")
        if feature is not None:
            if not isinstance(feature, str):
                raise field_error("metadata.feature_key", "must be a string", param="metadata")
            feature_key = feature_key or feature
        payers = _wanted_payers(metadata)
        _strip_our_metadata(fields, metadata)
    return concrete, feature_key, payers


def _model(model: Any) -> tuple[str | None, str | None]:
    if model is None:
        raise field_error("model", "is required: a model's name, `auto`, or `auto:<feature>`")
    if not isinstance(model, str) or not 1 <= len(model) <= 256:
        raise field_error("model", "must be a string of 1 to 256 characters")
    if model == "auto":
        return None, None
    if model.startswith(_AUTO):
        return None, model[len(_AUTO) :]
    return model, None


def _output_limit(known: _Known) -> tuple[int | None, str | None]:
    newer = _whole(known.max_completion_tokens, "max_completion_tokens", 1, ABSURD_TOKENS)
    older = _whole(known.max_tokens, "max_tokens", 1, ABSURD_TOKENS)
    if newer is not None:
        return (newer if older is None else min(newer, older)), "max_completion_tokens"
    return older, None if older is None else "max_tokens"


def _whole(value: Any, field: str, least: int, most: int) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not least <= value <= most:
        raise field_error(field, f"must be a whole number from {least} to {most}")
    return value


def _boolean(value: Any, field: str) -> bool:
    if value is None:
        return False
    if not isinstance(value, bool):
        raise field_error(field, "must be true or false", param=field.split(".")[0])
    return value


def _strip_our_metadata(fields: dict[str, Raw], metadata: dict[str, Any]) -> None:
    """Words that are for us don't travel on; the caller's own metadata does."""
    rest = {k: v for k, v in metadata.items() if k not in _OUR_METADATA}
    if len(rest) != len(metadata):
        if rest:
            fields["metadata"] = Raw(_encode(rest))
        else:
            del fields["metadata"]


def upstream_body(
    ask: ChatAsk,
    model_json: bytes,
    limit: int | None,
    limit_field: str,
    *,
    only_limit_field: bool = False,
    stream_options: bool = True,
) -> bytes:
    """The request as the provider gets it: the model named, the output bounded, usage asked for in streams.

    Without a limit the caller's own words about it stay. Some providers know only one of the two fields that bound the
    output, and some no `stream_options`.
    """
    fields = dict(ask.fields)
    fields["model"] = Raw(model_json)
    if limit is None:
        pass
    elif only_limit_field:
        for name in ("max_tokens", "max_completion_tokens"):
            fields.pop(name, None)
        fields[limit_field] = Raw(b"%d" % limit)
    elif ask.max_tokens_field is not None:
        if limit != ask.max_tokens or (ask.max_tokens_field != "max_tokens" and "max_tokens" in fields):
            fields.pop("max_tokens", None)
            fields[ask.max_tokens_field] = Raw(b"%d" % limit)
    else:
        fields[limit_field] = Raw(b"%d" % limit)
    if not stream_options:
        fields.pop("stream_options", None)
    elif ask.stream and not ask.include_usage:
        options = fields.get("stream_options")
        if options is None or bytes(options) == b"null":
            fields["stream_options"] = Raw(b'{"include_usage":true}')
        else:
            given = msgspec.json.decode(options)
            given["include_usage"] = True
            fields["stream_options"] = Raw(_encode(given))
    return _encode(fields)


# ── replies ──


MODES_WIRE = {payer: mode.encode() for mode, payer in MODES.items()}

Reply = dict[str, Raw]
"""A JSON reply as its top-level fields, each the bytes that the provider sent."""

decode_reply = _fields.decode
_NULL = b"null"


def is_answer(reply: Reply) -> bool:
    """Whether a reply with status 200 holds an answer: it has choices, and no error."""
    error = reply.get("error")
    choices = reply.get("choices")
    return choices is not None and bytes(choices)[:1] == b"[" and (error is None or bytes(error) == _NULL)


def usage_of(reply: Reply) -> Raw | None:
    """A reply's usage report, if it has one."""
    usage = reply.get("usage")
    return None if usage is None or bytes(usage) == _NULL else usage


def money_note(
    *,
    request_id: str,
    mode: bytes,
    feature_json: bytes | None,
    feature_version: int = 0,
    price: bytes,
    balance_e8: int | None,
    is_free: bool = False,
    provider_json: bytes,
    model_json: bytes,
    counted: bool,
    more: bytes = b"",
) -> bytes:
    """The `modelfaucet` object of a reply; `price` is what the answer cost as the wire shows it, `more` are further
    members, each behind a comma.

    The balance is the wallet's, or, where the answer `is_free`, what is left of the free quota that paid for it.
    """
    left = b"wallet_balance_usd" if not is_free else b"free_quota_left_usd"
    return (
        b'{"request_id":"%b","route_mode":"%b",%b"estimated_price_usd":"%b","price_usd":"%b","provider":%b,'
        b'"model":%b,"usage_source":"%b"%b%b%b}'
        % (
            request_id.encode(),
            mode,
            b""
            if feature_json is None
            else b'"feature_key":%b,"feature_version":%d,' % (feature_json, feature_version),
            price,
            price,
            provider_json,
            model_json,
            b"counted" if counted else b"reported",
            b',"paid_by":"free_quota"' if is_free else b"",
            b"" if balance_e8 is None else b',"%b":"%b"' % (left, to_wire_bytes(balance_e8)),
            more,
        )
    )


def with_cost(usage: bytes, price: bytes) -> bytes:
    """A usage object with `cost` added, in USD as a JSON number."""
    body = usage.rstrip()
    if body[-1:] != b"}" or body == b"{}":
        return usage
    return b'%b,"cost":%b}' % (body[:-1], price)


def chat_fields(fields: Reply, chat_id: str, model_json: bytes, usage: bytes) -> Reply:
    """A provider's reply under our id, with the model that answered and its usage."""
    fields["id"] = Raw(b'"%b"' % chat_id.encode())
    fields["model"] = Raw(model_json)
    fields["usage"] = Raw(usage)
    return fields


def with_note(fields: Reply, note: bytes) -> bytes:
    """A reply as its bytes, with the note of what it cost."""
    fields["modelfaucet"] = Raw(note)
    return _encode(fields)


def error_body(refusal: Refusal, request_id: str) -> bytes:
    """The envelope of every error on `/v1/*`, with OpenAI's `type` and `param` beside our own words."""
    error: dict[str, Any] = {
        "code": refusal.code,
        "message": refusal.public,
        "request_id": request_id,
        "type": _openai_type(refusal.status),
        "param": refusal.param,
    }
    if refusal.details is not None:
        error["details"] = refusal.details
    return json.dumps({"error": error}, ensure_ascii=False, separators=(",", ":")).encode()


def _openai_type(status: int) -> str:
    return {
        401: "authentication_error",
        402: "insufficient_quota",
        403: "permission_error",
        404: "not_found_error",
        409: "conflict_error",
        429: "rate_limit_error",
    }.get(status, "invalid_request_error" if status < 500 else "server_error")


def quoted(text: str) -> bytes:
    """A text as a JSON string."""
    return _encode(text)
