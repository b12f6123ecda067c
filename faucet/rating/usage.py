"""Reading the usage object of an OpenAI-shaped reply.

Here: one function from decoded JSON to `terms.Usage`. A report is taken whole or not at all: where it cannot
be understood the caller counts, and nothing is billed on a guess. Not here: other wire shapes (each
provider's adapter translates its own), and counting.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from faucet.rating.price import TOKENS_MAX
from faucet.terms import Usage

_Count = Annotated[int, msgspec.Meta(ge=0, le=TOKENS_MAX)]
_RAW_MAX = 4096
_CACHED_ELSEWHERE = ("prompt_cache_hit_tokens", "cached_tokens")
_COLUMNS = frozenset(
    {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_cache_miss_tokens", *_CACHED_ELSEWHERE}
)
_COLUMNS_OF = {
    "prompt_tokens_details": frozenset({"cached_tokens", "cache_write_tokens"}),
    "completion_tokens_details": frozenset({"reasoning_tokens"}),
}


class _Prompt(msgspec.Struct, forbid_unknown_fields=True):
    cached_tokens: _Count | None = 0
    cache_write_tokens: _Count | None = 0
    audio_tokens: int | None = 0


class _Completion(msgspec.Struct, forbid_unknown_fields=True):
    reasoning_tokens: _Count | None = 0
    audio_tokens: int | None = 0
    accepted_prediction_tokens: int | None = 0
    rejected_prediction_tokens: int | None = 0


class _Common(msgspec.Struct, forbid_unknown_fields=True):
    """The shape that nearly all reports have; any other is read word by word."""

    prompt_tokens: _Count
    completion_tokens: _Count
    total_tokens: int | None = 0
    prompt_tokens_details: _Prompt | None = None
    completion_tokens_details: _Completion | None = None


_decode_common = msgspec.json.Decoder(_Common).decode
_NONE = (None, None)


def read_report(report: bytes | msgspec.Raw | None) -> tuple[Usage | None, str | None]:
    """The tokens by kind that a report in JSON states, and its text where it says more than those.

    None for the tokens where the report is missing or not usable.
    """
    if report is None:
        return _NONE
    try:
        common = _decode_common(report)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _read_word_by_word(report)
    cached_read = cached_write = reasoning = 0
    prompt, completion = common.prompt_tokens_details, common.completion_tokens_details
    if prompt is not None:
        if prompt.audio_tokens:
            return _read_word_by_word(report)
        cached_read, cached_write = prompt.cached_tokens or 0, prompt.cache_write_tokens or 0
    if completion is not None:
        if completion.audio_tokens or completion.accepted_prediction_tokens or completion.rejected_prediction_tokens:
            return _read_word_by_word(report)
        reasoning = completion.reasoning_tokens or 0
    given = common.completion_tokens
    if reasoning:
        given = _with_thinking(common.prompt_tokens, given, reasoning, common.total_tokens)
    return _usage(common.prompt_tokens, given, cached_read, cached_write, reasoning), None


def _read_word_by_word(report: bytes | msgspec.Raw) -> tuple[Usage | None, str | None]:
    try:
        words = msgspec.json.decode(report)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _NONE
    return usage_from_openai(words), _more_than_columns(words)


def _more_than_columns(report: object) -> str | None:
    """A provider's usage block, kept only where it says more than a usage event's columns do."""
    if not isinstance(report, dict):
        return None
    for name, value in report.items():
        if name in _COLUMNS:
            continue
        known = _COLUMNS_OF.get(name)
        if known is None or not isinstance(value, dict) or any(v and k not in known for k, v in value.items()):
            return msgspec.json.encode(report).decode()[:_RAW_MAX]
    return None


def usage_from_openai(report: object) -> Usage | None:
    """The tokens by kind that a `usage` object reports, or None where it is missing or not usable.

    On this wire the prompt's count includes what was read from and written to a cache, and the completion's
    includes thinking, but where the total says that it doesn't (xAI); parts that exceed their whole are cut to it.
    Some say beside the details what was read from a cache (DeepSeek, Moonshot). Embeddings have no completion: then the
    total must say so.
    """
    if not isinstance(report, dict):
        return None
    prompt = _count(report, "prompt_tokens")
    completion = _count(report, "completion_tokens")
    if completion is None and report.get("completion_tokens") is None:
        completion = 0 if prompt == _count(report, "total_tokens") else None
    cached_read = _detail(report, "prompt_tokens_details", "cached_tokens")
    cached_write = _detail(report, "prompt_tokens_details", "cache_write_tokens")
    reasoning = _detail(report, "completion_tokens_details", "reasoning_tokens")
    if not cached_read:
        for elsewhere in _CACHED_ELSEWHERE:
            if report.get(elsewhere) is not None:
                cached_read = _count(report, elsewhere)
    if prompt is None or completion is None or cached_read is None or cached_write is None or reasoning is None:
        return None
    completion = _with_thinking(prompt, completion, reasoning, report.get("total_tokens"))
    return _usage(prompt, completion, cached_read, cached_write, reasoning)


def _with_thinking(prompt: int, completion: int, reasoning: int, total: object) -> int:
    """All output tokens: with the thinking, where the total shows that the completion's count leaves it out."""
    return completion + reasoning if reasoning and total == prompt + completion + reasoning else completion


def _usage(prompt: int, completion: int, cached_read: int, cached_write: int, reasoning: int) -> Usage:
    """The kinds made disjoint; parts that exceed their whole are cut to it."""
    if cached_read or cached_write:
        cached_read = min(cached_read, prompt)
        cached_write = min(cached_write, prompt - cached_read)
    return Usage(prompt - cached_read - cached_write, cached_read, cached_write, completion, min(reasoning, completion))


def _count(container: dict[Any, Any], name: str) -> int | None:
    """A count that can be one, else None."""
    count = container.get(name)
    # `type` and not `isinstance`: true is no token count.
    return count if type(count) is int and 0 <= count <= TOKENS_MAX else None


def _detail(report: dict[Any, Any], group: str, name: str) -> int | None:
    """A count of an optional group: 0 where group or count is left out, None where either makes no sense."""
    details = report.get(group)
    if details is None:
        return 0
    if not isinstance(details, dict):
        return None
    return 0 if details.get(name) is None else _count(details, name)
