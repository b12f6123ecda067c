"""What a face is to the gateway, and the reading that both have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from faucet.gateway.sse import DONE
from faucet.kit.errors import Refusal, field_error
from faucet.kit.events import EventSplitter, payload

Fields = dict[str, Any]

encode = msgspec.json.encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Face(Protocol):
    """One request under another API's shape. Made for one exchange."""

    def chat(self, body: bytes) -> bytes:
        """The request as a chat completion. Raises Refusal `invalid_request` naming what is wrong."""

    def reply(self, body: bytes) -> bytes:
        """A complete chat completion, or what is kept of one, in this API's shape."""

    def events(self, data: bytes, *, last: bool) -> bytes:
        """Events of a chat completion's stream in this API's shape."""

    def error(self, refusal: Refusal, request_id: str) -> bytes:
        """The body of an error."""


def read_object(body: bytes) -> Fields:
    """A request's JSON object. Raises Refusal `invalid_request`."""
    try:
        body.decode("utf-8")
        return _decode(body)
    except UnicodeDecodeError as error:
        raise Refusal("invalid_request", f"the body is not valid UTF-8 (byte {error.start})") from None
    except msgspec.ValidationError:
        raise Refusal("invalid_request", "the body must be a JSON object") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refusal("invalid_request", f"the body is not valid JSON: {error}") from None


def refuse_words(fields: Mapping[str, Any], words: Mapping[str, str]) -> None:
    """Refuse what this API knows and we don't offer. Raises Refusal with the reason that `words` give."""
    for word, reason in words.items():
        if fields.get(word) not in (None, False, [], {}):
            raise field_error(word, reason)


def objects(value: Any, path: str) -> list[Fields]:
    """An array of objects. Raises Refusal."""
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise field_error(path, "must be an array of objects")
    return value


def obj(value: Any, path: str) -> Fields:
    """An object. Raises Refusal."""
    if not isinstance(value, dict):
        raise field_error(path, "must be an object")
    return value


def string(value: Any, path: str) -> str:
    """A string. Raises Refusal."""
    if not isinstance(value, str):
        raise field_error(path, "must be a string")
    return value


def text_of(value: Any, path: str) -> str:
    """What should be a string and may be an array of text parts. Raises Refusal."""
    if isinstance(value, str):
        return value
    texts = []
    for i, part in enumerate(objects(value, path)):
        if not isinstance(part.get("text"), str):
            raise field_error(f"{path}[{i}]", "only text can stand here")
        texts.append(part["text"])
    return "".join(texts)


def compact(**fields: Any) -> Fields:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


class ChunkReader:
    """Cuts a chat completion's event stream into its chunks: objects, errors among them."""

    def __init__(self) -> None:
        self._splitter = EventSplitter()

    def feed(self, data: bytes) -> tuple[list[Fields], list[bytes]]:
        """The chunks that are complete now, and comments, which keep a connection alive under every API."""
        chunks, comments = [], []
        for event in self._splitter.feed(data):
            body = payload(event)
            if body is None:
                comments.append(event)
            elif body != DONE:
                try:
                    chunk = msgspec.json.decode(body)
                except msgspec.MsgspecError:
                    continue  # what nobody can read can't be translated
                if isinstance(chunk, dict):
                    chunks.append(chunk)
        return chunks, comments


def deltas(chunk: Fields) -> list[tuple[str, Any]]:
    """What a chunk adds, as kind and value, in order: `reasoning`, `thought` (a block of it that is complete, as its
    provider signed it), `refusal`, `text`, `call` (with its index in the answer), `finish`. Only the first choice is
    read: neither API has more."""
    found: list[tuple[str, Any]] = []
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        if not isinstance(choice, dict) or choice.get("index", 0) != 0:
            continue
        delta = choice.get("delta") or choice.get("message") or {}
        reasoning = next(filter(None, map(delta.get, ("reasoning_content", "reasoning"))), None)
        if isinstance(reasoning, str):
            found.append(("reasoning", reasoning))
        blocks = delta.get("thinking_blocks")
        found += [("thought", block) for block in (blocks if isinstance(blocks, list) else []) if is_thought(block)]
        for name, kind in (("refusal", "refusal"), ("content", "text")):
            if isinstance(delta.get(name), str) and delta[name]:
                found.append((kind, delta[name]))
        calls = delta.get("tool_calls")
        for place, call in enumerate(calls if isinstance(calls, list) else []):
            if isinstance(call, dict):
                at = call.get("index")
                found.append(("call", {**call, "index": at if isinstance(at, int) else place}))
        if choice.get("finish_reason") is not None:
            found.append(("finish", choice["finish_reason"]))
    return found


def is_thought(block: Any) -> bool:
    """Whether it is thinking that its provider signed or sealed: only such a block is ever wanted back."""
    if not isinstance(block, dict):
        return False
    sealed = {"thinking": "signature", "redacted_thinking": "data"}.get(str(block.get("type")))
    return sealed is not None and isinstance(block.get(sealed), str) and block[sealed] != ""
