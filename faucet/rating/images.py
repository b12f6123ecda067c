"""How many input tokens an image is, by the rule that its provider publishes, for where usage is not reported.

Before a call the bound of the price version is held; afterwards an image whose size can be seen is counted by its
rule, never above that bound. Not here: reading the size (`kit.image_size`), and text.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from math import isqrt
from typing import Any

from faucet.kit.image_size import image_size
from faucet.kit.tokens import IMAGE_TOKENS
from faucet.rating.price import Price

HEAD_CHARACTERS = 256 << 10
"""Of an image in base64, what is looked at for its size: a multiple of four."""
_TILES = (
    (re.compile(r"gpt-4o-mini"), 2833, 5667),
    (re.compile(r"gpt-5"), 70, 140),
    (re.compile(r"o[1-9]"), 75, 150),
    (re.compile(r"gpt-4|chatgpt-4o"), 85, 170),
)
"""OpenAI's models that see tiles of 512 pixels: the fixed part, and each tile's."""
_PATCHES = ((re.compile(r"(gpt-4\.1|gpt-5)-mini"), 162), (re.compile(r"(gpt-4\.1|gpt-5)-nano"), 246),
            (re.compile(r"o4-mini"), 172))  # fmt: skip
"""OpenAI's models that see patches of 32 pixels, 1536 at most, and what each counts, in hundredths of a token."""
PATCHES_MAX = 1536
_SHARP_CLAUDE = re.compile(r"claude-[a-z]+-(?:4-[7-9]|4-1\d|[5-9]|\d\d)(?!\d)")
"""Those that see images up to 2576 pixels; older ones see 1568."""


def image_counter(price: Price) -> Callable[[Mapping[str, Any]], int]:
    """What counts an image part of a chat request for this price's model."""

    def counted(part: Mapping[str, Any]) -> int:
        size = _size_of(part)
        inner = part.get("image_url")
        detail = inner.get("detail") if isinstance(inner, dict) else None
        tokens = None if size is None else image_tokens(price.provider, price.model, *size, low=detail == "low")
        return min(IMAGE_TOKENS if tokens is None else tokens, price.image_tokens_max)

    return counted


def image_tokens(provider: str, model: str, width: int, height: int, *, low: bool = False) -> int | None:
    """The tokens of an image of this size; None where no rule is published."""
    if "claude" in model:
        return _claude(model, width, height)
    if "gemini" in model:
        return _gemini(width, height)
    if provider not in ("openai", "azure_openai"):
        return None
    for names, hundredths in _PATCHES:
        if names.match(model):
            return -(-_patches(width, height) * hundredths // 100)
    for names, base, tile in _TILES:
        if names.match(model):
            return base if low else base + tile * _tiles(width, height)
    return None


def _tiles(width: int, height: int) -> int:
    """Tiles of 512 pixels, once the image is scaled into 2048 by 2048 and its shorter side to 768 at most."""
    width, height = _within(width, height, 2048)
    shorter = min(width, height)
    if shorter > 768:
        width, height = width * 768 // shorter, height * 768 // shorter
    return -(-width // 512) * -(-height // 512)


def _patches(width: int, height: int) -> int:
    """Patches of 32 pixels; a larger image is scaled until one side is whole patches and they are few enough."""
    patches = -(-width // 32) * -(-height // 32)
    if patches <= PATCHES_MAX:
        return patches
    across = max(1, isqrt(width * width * PATCHES_MAX // (width * height)))
    down = max(1, isqrt(height * height * PATCHES_MAX // (width * height)))
    if across * height <= down * width:
        return min(across * -(-height * across // width), PATCHES_MAX)
    return min(down * -(-width * down // height), PATCHES_MAX)


def _claude(model: str, width: int, height: int) -> int:
    """Width times height by 750, of the image as it is scaled before it is seen."""
    edge, most = (2576, 4784) if _SHARP_CLAUDE.search(model) else (1568, 1600)
    width, height = _within(width, height, edge)
    return min(-(-width * height // 750), most)


def _gemini(width: int, height: int) -> int:
    """258 for a small image, else for each of its tiles, which are as large as two thirds of the shorter side."""
    if width <= 384 and height <= 384:
        return 258
    unit = max(256, min(768, min(width, height) * 2 // 3))
    return 258 * -(-width // unit) * -(-height // unit)


def _within(width: int, height: int, edge: int) -> tuple[int, int]:
    longer = max(width, height)
    if longer <= edge:
        return width, height
    return max(1, width * edge // longer), max(1, height * edge // longer)


def _size_of(part: Mapping[str, Any]) -> tuple[int, int] | None:
    inner = part.get("image_url")
    address = inner.get("url") if isinstance(inner, dict) else inner
    if not isinstance(address, str) or not address.startswith("data:"):
        return None
    try:
        head = base64.b64decode(address.partition(",")[2][:HEAD_CHARACTERS].rstrip("=") + "==")
    except (binascii.Error, ValueError):
        return None
    return image_size(head)
