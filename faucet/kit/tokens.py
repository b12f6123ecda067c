"""How many tokens a text or a chat request has, offline.

Two tokenizers: `o200k` (OpenAI's o200k_base; the vocabulary ships in `vocab/`, nothing is ever fetched)
and `words` (the mock provider's own, defined below). Used where a provider doesn't report usage and for
estimates; a provider's own report always wins. What a token costs is not known here.

`o200k` takes about half a second and 100 MB to load, at the first use or by `preload`; counting costs
0.05 s per megabyte of prose and up to 0.3 s of hostile text. On an event loop that serves others, preload
at start and count big texts in a thread.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiktoken import Encoding

TOKENIZERS = ("o200k", "words")

MESSAGE_TOKENS = 3
"""What the chat format itself adds per message."""
REPLY_TOKENS = 3
"""What the chat format adds to start the reply."""
IMAGE_TOKENS = 1105
"""Counted for every image, a simplification: the image isn't opened and `detail` isn't honoured. By OpenAI's
rule of tiles that is a high-detail image of a usual shape (85 + 6 x 170); long narrow ones reach 1445."""

WORD = re.compile("[\u2e80-\uffff]|[^\\s\u2e80-\uffff]+")
"""One token of `words`: a character of U+2E80..U+FFFF (CJK), or any other run of non-space characters."""

_O200K_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_ELISION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K_PATTERN = "|".join(
    (
        _BEFORE + r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + _ELISION,
        _BEFORE + r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + _ELISION,
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
_O200K_SPECIAL = {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}

RUN_LIMIT = 4096
"""Longer runs of spaces, or of characters without a space, are counted in pieces of this many characters."""
_SPACE = r"[^\S\x1c-\x1f]"  # Rust's \s, which lacks four control characters of Python's
_SOLID = r"[\S\x1c-\x1f]"
# As many short runs as there are; else a piece of a long one. Possessive, so that it stays linear.
_PIECE = re.compile(
    f"(?:{_SOLID}{{1,{RUN_LIMIT}}}+(?!{_SOLID})|{_SPACE}{{1,{RUN_LIMIT}}}+(?!{_SPACE}))++"
    f"|{_SOLID}{{1,{RUN_LIMIT}}}|{_SPACE}{{1,{RUN_LIMIT}}}"
)

_loading = threading.Lock()
_loaded: Encoding | None = None


def count_text(text: str, tokenizer: str) -> int:
    """The number of tokens of `text`, at most its UTF-8 bytes. Special tokens count as plain text.

    Exact for `words`. For `o200k` exact while no run of spaces or of non-spaces is longer than RUN_LIMIT;
    beyond that an estimate, and an upper one but for rare merges (a token or two per RUN_LIMIT characters):
    tiktoken slows down on such runs, and panics on a megabyte of spaces.
    Raises ValueError for an unknown tokenizer.
    """
    if tokenizer == "words":
        # str.split() knows the same ASCII spaces as the pattern, and is four times faster.
        return len(text.split()) if text.isascii() else len(WORD.findall(text))
    if tokenizer != "o200k":
        raise ValueError(f"tokenizer: one of {', '.join(TOKENIZERS)}, not {tokenizer!r}")
    encoding = _o200k()
    if len(text) <= RUN_LIMIT:
        return _count_piece(encoding, text)
    return sum(_count_piece(encoding, piece) for piece in _PIECE.findall(text))


Images = Callable[[Mapping[str, Any]], int]
"""What counts an image part."""


def any_image(part: Mapping[str, Any]) -> int:
    """What an image counts whose provider's rule nobody applies."""
    return IMAGE_TOKENS


def count_chat_input(request: Mapping[str, Any], tokenizer: str, images: Images = any_image) -> int:
    """The input tokens of an OpenAI chat request: its messages, tools and response format.

    Per message: MESSAGE_TOKENS, and the texts of role, name, content, refusal and tool calls. An image counts
    as `images` says; a part of another kind (audio, file) as its JSON text. Tools and response format count as
    compact JSON text. REPLY_TOKENS at the end. A field of an unexpected type counts as its JSON text.
    Raises ValueError for an unknown tokenizer.
    """
    messages = request.get("messages")
    total = REPLY_TOKENS
    for message in messages if isinstance(messages, (list, tuple)) else ():
        total += MESSAGE_TOKENS + _count_message(message, tokenizer, images)
    for field in ("tools", "functions", "response_format"):
        total += _count_any(request.get(field), tokenizer)
    return total


def count_input(request: Mapping[str, Any], tokenizer: str, images: Images = any_image) -> int:
    """The input tokens of a chat or an embeddings request, whichever it is. Raises ValueError as the counts do."""
    if "messages" in request:
        return count_chat_input(request, tokenizer, images)
    given = request.get("input")
    texts = given if isinstance(given, list) else [given]
    # A number is a token; in a list of lists of numbers each list is one input.
    return sum(1 if isinstance(text, int) else _count_embedded(text, tokenizer) for text in texts)


def _count_embedded(text: Any, tokenizer: str) -> int:
    return len(text) if isinstance(text, list) else _count_any(text, tokenizer)


def preload(tokenizer: str) -> None:
    """Load what `tokenizer` needs now, so that the first count doesn't wait for it."""
    count_text("", tokenizer)


def _count_message(message: Any, tokenizer: str, images: Images) -> int:
    if not isinstance(message, dict):
        return _count_any(message, tokenizer)
    total = 0
    for field in ("role", "name", "refusal"):
        total += _count_any(message.get(field), tokenizer)
    content = message.get("content")
    for part in content if isinstance(content, (list, tuple)) else (content,):
        total += _count_part(part, tokenizer, images)
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, (list, tuple)) else (calls,):
        inner = call.get("function", call.get("custom")) if isinstance(call, dict) else call
        total += _count_call(inner, tokenizer)
    return total + _count_call(message.get("function_call"), tokenizer)


def _count_part(part: Any, tokenizer: str, images: Images) -> int:
    if isinstance(part, dict):
        kind = part.get("type")
        if kind in ("image_url", "input_image"):
            return images(part)
        if kind in ("text", "refusal"):
            return _count_any(part.get(kind), tokenizer)
    return _count_any(part, tokenizer)


def _count_call(call: Any, tokenizer: str) -> int:
    if not isinstance(call, dict):
        return _count_any(call, tokenizer)
    return sum(_count_any(call.get(field), tokenizer) for field in ("name", "arguments", "input"))


def _count_any(value: Any, tokenizer: str) -> int:
    if value is None:
        return 0
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return count_text(value, tokenizer)


def _count_piece(encoding: Encoding, piece: str) -> int:
    try:
        return len(encoding.encode_ordinary(piece))
    except BaseException as error:
        # tiktoken's Rust panics arrive outside the Exception tree, where they would end the caller's task.
        # The number of bytes is the bound that always holds.
        if type(error).__name__ != "PanicException":
            raise
        return len(piece.encode("utf-8", "replace"))


def _o200k() -> Encoding:
    global _loaded
    if _loaded is None:
        with _loading:
            if _loaded is None:
                _loaded = _load_o200k()
    return _loaded


def _load_o200k() -> Encoding:
    from tiktoken import Encoding

    packed = (files("faucet.kit") / "vocab" / "o200k_base.tiktoken.gz").read_bytes()
    vocabulary = gzip.decompress(packed)
    if hashlib.sha256(vocabulary).hexdigest() != _O200K_SHA256:
        raise ValueError("the shipped vocabulary o200k_base is damaged")
    ranks = {}
    for line in vocabulary.splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    # Built directly: tiktoken's own loader would want a cache directory, and a network when that is empty.
    return Encoding(
        "o200k_base",
        pat_str=_O200K_PATTERN,
        mergeable_ranks=ranks,
        special_tokens=_O200K_SPECIAL,
    )
