"""What providers document of their models and the price catalogue lacks: output limits, and the rule for images.

Not here: prices. Where nothing is documented, the bounds are those that always hold.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

OUTPUT_TOKENS_DEFAULT = 4_096
"""Where an output limit is not known: small, because it is sent upstream when a caller gives none."""
IMAGE_TOKENS_DEFAULT = 2_833 + 8 * 5_667
"""Where a rule for images is not known: the dearest documented one (gpt-4o-mini, eight tiles)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a provider documents of a model and the catalogue lacks."""

    max_output_tokens: int
    image_tokens_max: int = IMAGE_TOKENS_DEFAULT
    context_window: int | None = None


def _tiles(base: int, tile: int) -> int:
    """An image scaled to 2048 by 768 is at most eight tiles of 512 by 512."""
    return base + 8 * tile


_GPT_4O = Limits(16_384, _tiles(85, 170))
_O_SERIES = Limits(100_000, _tiles(75, 150))
_GPT_5 = Limits(128_000)
_OPENAI = {
    "gpt-3.5-turbo": Limits(4_096),
    "gpt-4": Limits(8_192),
    "gpt-4-turbo": Limits(4_096),
    "chatgpt-4o-latest": _GPT_4O,
    "gpt-4o": _GPT_4O,
    "gpt-4o-2024-05-13": Limits(4_096, _tiles(85, 170)),
    "gpt-4o-mini": Limits(16_384, IMAGE_TOKENS_DEFAULT),
    "gpt-4.1": Limits(32_768, _tiles(85, 170), 1_047_576),
    "gpt-4.1-mini": Limits(32_768, context_window=1_047_576),
    "gpt-4.1-nano": Limits(32_768, context_window=1_047_576),
    "gpt-5": Limits(128_000, _tiles(70, 140)),
    "gpt-5-mini": _GPT_5,
    "gpt-5-nano": _GPT_5,
    "gpt-5-pro": _GPT_5,
    "gpt-5.1": _GPT_5,
    "gpt-5.1-codex-mini": _GPT_5,
    "gpt-5.2": _GPT_5,
    "gpt-5.2-pro": _GPT_5,
    "gpt-5.3-codex": _GPT_5,
    "gpt-5.4-mini": _GPT_5,
    "gpt-5.4-nano": _GPT_5,
    "o1": _O_SERIES,
    "o1-mini": Limits(65_536),
    "o1-preview": Limits(32_768),
    "o1-pro": _O_SERIES,
    "o3": _O_SERIES,
    "o3-mini": Limits(100_000),
    "o3-pro": _O_SERIES,
    "o4-mini": Limits(100_000),
}

ANTHROPIC_IMAGE_TOKENS = 4_784
"""Width times height by 750, of an image scaled to 2576 on its longer side, as the newest models see it."""
GEMINI_IMAGE_TOKENS = 16 * 258
"""258 for each tile of 768 by 768, of an image scaled to 3072 by 3072."""
_CLAUDE = re.compile(r"claude-(?:(\d)(?:[-.](\d))?-(?:opus|sonnet|haiku)|([a-z]+)-(\d+)(?:-(\d{1,2})(?!\d))?)")
_GEMINI = re.compile(r"gemini-(\d+)(?:\.(\d+))?")


def limits_of(provider: str, model: str) -> Limits:
    """What is known of a provider's model."""
    if provider in ("openai", "azure_openai", "azure"):
        return _OPENAI.get(model, Limits(OUTPUT_TOKENS_DEFAULT))
    if (claude := _CLAUDE.search(model)) is not None and provider in ("anthropic", "bedrock", "aws"):
        return Limits(_claude_output(claude), ANTHROPIC_IMAGE_TOKENS)
    if (gemini := _GEMINI.search(model)) is not None and provider in ("gemini", "google"):
        newer = (int(gemini[1]), int(gemini[2] or 0)) >= (2, 5)
        return Limits(65_535 if newer else 8_192, GEMINI_IMAGE_TOKENS, 2**20)
    return Limits(OUTPUT_TOKENS_DEFAULT)


def _claude_output(found: re.Match[str]) -> int:
    if found[1] is not None:
        older = {"0": 4_096, "5": 8_192, "7": 64_000}
        return older.get(found[2] or "0", 4_096)
    version = (int(found[4]), int(found[5] or 0))
    return 32_000 if found[3] == "opus" and version < (4, 5) else 64_000
