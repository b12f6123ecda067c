"""Reading the usage object of an OpenAI-shaped reply.

Here: one function from decoded JSON to `terms.Usage`. A report is taken whole or not at all: where it cannot
be understood the caller counts, and nothing is billed on a guess. Not here: other wire shapes (each
provider's adapter translates its own), and counting.
"""

from __future__ import annotations

from typing import Any

from faucet.rating.price import TOKENS_MAX
from faucet.terms import Usage


def usage_from_openai(report: object) -> Usage | None:
    """The tokens by kind that a `usage` object reports, or None where it is missing or not usable.

    On this wire the prompt's count includes what was read from and written to a cache, and the completion's
    includes thinking; parts that exceed their whole are cut to it. Embeddings have no completion: then the
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
    if prompt is None or completion is None or cached_read is None or cached_write is None or reasoning is None:
        return None
    cached_read = min(cached_read, prompt)
    cached_write = min(cached_write, prompt - cached_read)
    return Usage(
        input_tokens=prompt - cached_read - cached_write,
        cached_read_tokens=cached_read,
        cached_write_tokens=cached_write,
        output_tokens=completion,
        reasoning_tokens=min(reasoning, completion),
    )


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
