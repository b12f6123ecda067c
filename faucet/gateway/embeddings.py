"""POST /v1/embeddings: a chat request's story, shorter. Nothing is generated, so the input alone is held and rated.

Floats and base64, single inputs and batches, texts and arrays of tokens pass as they are, where the provider's wire
has them. Not here: the stops, which are chat's (`chat.py · answer`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

from faucet.gateway.catalogue import Product
from faucet.gateway.chat import Kind, Request, answer
from faucet.gateway.exchange import Exchange, bearer_of
from faucet.gateway.prompt import raise_if_locked
from faucet.gateway.relay import Streamed
from faucet.gateway.wire import ChatAsk, Reply, decode_reply, named
from faucet.gateway.world import World
from faucet.kit.errors import Refusal, field_error
from faucet.providers.base import Call, path_of

INPUTS_MAX = 2048
"""As many as OpenAI takes in one request."""
DIMENSIONS_MAX = 1 << 16
_encode = msgspec.json.Encoder().encode


async def embed(world: World, exchange: Exchange) -> None:
    """Answer one embeddings request. Raises Refusal before anything is sent; ClientGone when nobody is left."""
    began = time.monotonic()
    bearer = bearer_of(exchange.authorization)
    caller = world.admission.recall(bearer) or await world.admission.find(bearer)
    world.limit(exchange, caller)
    ask = parse_embeddings(exchange.body)
    feature = await world.admission.feature(caller, ask.feature_key)
    raise_if_locked(feature)
    if feature.privacy != "none" and _is_tokens(msgspec.json.decode(ask.fields["input"])):
        raise field_error("input", "must be texts: this feature looks for personal data, and nobody can in tokens")
    await answer(world, exchange, caller, feature, ask, EmbeddingsShape(), began, EMBEDDINGS)


class _Known(msgspec.Struct):
    model: Any = None
    input: Any = None
    encoding_format: Any = None
    dimensions: Any = None
    metadata: Any = None


_known = msgspec.json.Decoder(_Known)


def parse_embeddings(body: bytes) -> ChatAsk:
    """Read an embeddings request. Raises Refusal `invalid_request` naming the first field that is wrong."""
    try:
        if not body.isascii():
            body.decode("utf-8")
        fields = decode_reply(body)
        known = _known.decode(body)
    except UnicodeDecodeError as error:
        raise Refusal("invalid_request", f"the body is not valid UTF-8 (byte {error.start})") from None
    except msgspec.ValidationError:
        raise Refusal("invalid_request", "the body must be a JSON object") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refusal("invalid_request", f"the body is not valid JSON: {error}") from None
    model, feature_key, payers = named(fields, known.model, known.metadata)
    _check_input(known.input)
    if known.encoding_format not in (None, "float", "base64"):
        raise field_error("encoding_format", "must be float or base64")
    size = known.dimensions
    if size is not None and (type(size) is not int or not 1 <= size <= DIMENSIONS_MAX):
        raise field_error("dimensions", f"must be a whole number from 1 to {DIMENSIONS_MAX}")
    return ChatAsk(
        fields=fields,
        body_bytes=len(body),
        model=model,
        feature_key=feature_key,
        stream=False,
        include_usage=False,
        max_tokens=None,
        max_tokens_field=None,
        n=1,
        images=0,
        opaque_parts=False,
        extra_output_bytes=0,
        body=body,
        payers=payers,
        embeds=True,
    )


def _check_input(given: Any) -> None:
    """A text, texts, tokens, or arrays of tokens. Whatever it is, a token of it is at least one of its bytes."""
    if isinstance(given, str) and given:
        return
    if not isinstance(given, list) or not 1 <= len(given) <= (1 << 20):
        raise field_error("input", "must be a text, or an array of texts or tokens")
    if all(type(each) is int and each >= 0 for each in given):
        return
    if len(given) > INPUTS_MAX:
        raise field_error("input", f"may have at most {INPUTS_MAX} entries")
    if all(isinstance(each, str) and each for each in given):
        return
    for each in given:
        if not isinstance(each, list) or not each or not all(type(token) is int and token >= 0 for token in each):
            raise field_error("input", "must be all texts, all tokens, or all arrays of tokens, and none empty")


def _is_tokens(given: Any) -> bool:
    return isinstance(given, list) and not isinstance(given[0], str)


def _call(ask: ChatAsk, product: Product, limit: int | None) -> Call:
    provider, model = product.provider, product.price.model
    if provider.adapter is not None:
        return provider.adapter.embeddings(ask.fields, model)
    assert provider.embeddings_path is not None
    body = _encode({**ask.fields, "model": Raw(product.model_json)})
    return Call(path_of(provider.embeddings_path, model), body)


def _is_list(reply: Reply) -> bool:
    data, error = reply.get("data"), reply.get("error")
    return data is not None and bytes(data)[:1] == b"[" and (error is None or bytes(error) == b"null")


def _no_texts(reply: Reply) -> list[str]:
    return []


def _embedders(planned: Sequence[Product]) -> Sequence[Product]:
    found = [p for p in planned if p.price.max_output_tokens == 0 and p.provider.embeddings_path is not None]
    if not found:
        raise field_error("model", "is no model of embeddings; name one that is")
    return found


class EmbeddingsShape:
    """The provider's list, with the model that answered and its usage."""

    async def reply(self, request: Request, fields: Reply, product: Product, usage: bytes) -> Reply:
        return {**fields, "model": Raw(product.model_json), "usage": Raw(usage)}

    async def note(self, request: Request, streamed: Streamed) -> bytes:
        return b""


EMBEDDINGS = Kind(_embedders, _call, _is_list, _no_texts)
