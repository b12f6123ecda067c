"""How Claude models are asked to think, wherever they are: by effort, by a number of tokens, or as the caller wrote it.

What a model's generation refuses is not sent. Not here: the rest of a request (`anthropic`, `bedrock`).
"""

from __future__ import annotations

import re
from typing import Any

from faucet.providers.chat_words import SIGNED_THINKING, Fields, word, wrong

BUDGETS = {"low": 1024, "medium": 4096, "high": 16_384, "xhigh": 32_768, "max": 32_768}
"""Tokens of thinking for models that want a number."""
BUDGET_LEAST = 1024
ADAPTIVE_SINCE = (4, 6)
"""The generation that decides by itself how much it thinks; no earlier one may be asked so."""
_NAMED = re.compile(r"claude-(?:(\d+)(?:-(\d{1,2}))?-[a-z]+|[a-z]+-(\d+)(?:-(\d{1,2}))?)(?![0-9])")


def thinking(fields: Fields, model: str, limit: int, *, impossible: bool) -> dict[str, Any]:
    """The fields of a request that ask a Claude model for thinking: none where the API would refuse it (`impossible`).

    A chat's own `thinking` is sent as it is. Raises Refusal.
    """
    given = word(fields, "thinking")
    if isinstance(given, dict):
        return {"thinking": given}
    effort, asked = word(fields, "reasoning_effort"), word(fields, SIGNED_THINKING)
    if effort is not None and effort not in ("none", "minimal", *BUDGETS):
        raise wrong("reasoning_effort", f"must be none, minimal, {', '.join(BUDGETS)}")
    is_off = effort in (None, "none", "minimal")
    version = _version(model)
    if version is None or version >= ADAPTIVE_SINCE:
        told = asked if isinstance(asked, dict) and asked.get("type") == "adaptive" else {"type": "adaptive"}
        if impossible or is_off and told is not asked:
            return {}
        return {"thinking": told} if is_off else {"thinking": told, "output_config": {"effort": effort}}
    if impossible or is_off or version < (3, 7):
        return {}
    budget, most = BUDGETS[str(effort)], limit // 2
    if isinstance(asked, dict) and type(asked.get("budget_tokens")) is int:
        budget, most = asked["budget_tokens"], limit - 1
    budget = min(budget, most)
    return {"thinking": {"type": "enabled", "budget_tokens": budget}} if budget >= BUDGET_LEAST else {}


def _version(model: str) -> tuple[int, int] | None:
    """The generation in a model's name, old style or new; None where there is none."""
    found = _NAMED.search(model)
    if found is None:
        return None
    return int(found[1] or found[3]), int(found[2] or found[4] or 0)
