"""Images: their size from their first bytes, and their tokens by each provider's published rule."""

from __future__ import annotations

import base64
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faucet.kit.image_size import image_size
from faucet.kit.tokens import IMAGE_TOKENS, count_chat_input
from faucet.rating.images import image_counter, image_tokens
from faucet.rating.seed import seed_rows

PRICE = next(row for row in seed_rows(providers=("openai",)).rows if row.model == "gpt-4o")
SIDES = st.integers(1, 20_000)


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + b"\x08\x02"


def jpeg(width: int, height: int) -> bytes:
    about = b"\xff\xe1" + struct.pack(">H", 300) + b"\xff\xc0" * 149
    return b"\xff\xd8" + about + b"\xff\xff\xc2" + struct.pack(">HBHHB", 17, 8, height, width, 3) + b"\x00" * 9


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x00" * 3


def webp(width: int, height: int, kind: bytes) -> bytes:
    if kind == b"VP8X":
        body = b"\x00" * 4 + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == b"VP8L":
        body = b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little") + b"\x00" * 6
    else:
        body = b"\x00" * 3 + b"\x9d\x01\x2a" + struct.pack("<HH", width, height)
    return b"RIFF" + struct.pack("<I4s4sI", 30, b"WEBP", kind, len(body)) + body


@settings(deadline=None)
@given(st.integers(1, 16_383), st.integers(1, 16_383))
def test_the_size_is_read_from_each_format(width: int, height: int) -> None:
    """Lost: images of one format are counted as if nothing were known of them."""
    made = [png(width, height), jpeg(width, height), gif(width, height)]
    made += [webp(width, height, kind) for kind in (b"VP8X", b"VP8L", b"VP8 ")]
    assert [image_size(each) for each in made] == [(width, height)] * 6


@settings(deadline=None)
@given(st.sampled_from([png(3, 4), jpeg(3, 4), gif(3, 4), webp(3, 4, b"VP8X")]), st.integers(0, 400), st.binary())
def test_no_bytes_are_a_fault(image: bytes, cut: int, noise: bytes) -> None:
    """Lost: a broken image ends a request without its settlement."""
    for each in (image[:cut], image[:cut] + noise, noise):
        size = image_size(each)
        assert size is None or min(size) > 0


@pytest.mark.parametrize(
    ("provider", "model", "width", "height", "tokens"),
    [
        ("openai", "gpt-4o", 1024, 1024, 765),
        ("openai", "gpt-4o", 2048, 4096, 1105),
        ("openai", "gpt-4o-2024-08-06", 512, 512, 255),
        ("openai", "gpt-4o-mini", 1024, 1024, 2833 + 4 * 5667),
        ("openai", "gpt-5", 1024, 1024, 70 + 4 * 140),
        ("openai", "o3", 1024, 1024, 75 + 4 * 150),
        ("openai", "gpt-4.1-mini", 1024, 1024, 1659),
        ("openai", "gpt-5-nano", 1800, 2400, 3572),
        ("openai", "o4-mini", 32, 32, 2),
        ("anthropic", "claude-sonnet-4-5", 200, 200, 54),
        ("anthropic", "claude-sonnet-4-5", 1000, 1000, 1334),
        ("anthropic", "claude-sonnet-4-5", 4000, 4000, 1600),
        ("anthropic", "claude-opus-4-7", 2000, 1500, 4000),
        ("bedrock", "anthropic.claude-sonnet-4-20250514-v1:0", 1092, 1092, 1590),
        ("gemini", "gemini-2.5-flash", 384, 384, 258),
        ("gemini", "gemini-2.5-flash", 960, 540, 258 * 6),
        ("gemini", "gemini-2.5-flash", 3072, 3072, 258 * 16),
        ("mock", "mock-small", 100, 100, None),
    ],
)
def test_published_examples(provider: str, model: str, width: int, height: int, tokens: int | None) -> None:
    """Lost: an answer whose usage nobody reports is charged by another rule than its provider bills."""
    assert image_tokens(provider, model, width, height) == tokens


@settings(deadline=None)
@given(st.sampled_from(["gpt-4o", "gpt-4o-mini", "gpt-5", "gpt-4.1-mini", "o3", "o4-mini", "gpt-5-nano"]), SIDES, SIDES)
def test_what_is_counted_is_never_above_what_was_held(model: str, width: int, height: int) -> None:
    """Lost: an image costs more than its hold, and the platform pays the rest."""
    price = next(row for row in seed_rows(providers=("openai",)).rows if row.model == model)
    counted = image_tokens("openai", model, width, height)
    assert counted is not None and 0 < counted
    assert image_counter(price)(shown(png(width, height))) <= price.image_tokens_max


def shown(data: bytes, **more: Any) -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    return {"type": "image_url", "image_url": {"url": url} | more}


def test_images_are_counted_in_a_request() -> None:
    """Lost: the rule is there and nobody asks it."""
    count = image_counter(PRICE)
    assert count(shown(png(1024, 1024))) == 765 and count(shown(png(1024, 1024), detail="low")) == 85
    assert count({"type": "image_url", "image_url": {"url": "https://a.example/cat.png"}}) == IMAGE_TOKENS
    assert count({"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}) == IMAGE_TOKENS
    assert image_counter(replace(PRICE, image_tokens_max=100))(shown(png(1024, 1024))) == 100
    request = {"messages": [{"role": "user", "content": [shown(png(1024, 1024))]}]}
    bare = {"messages": [{"role": "user", "content": []}]}
    assert count_chat_input(request, "words", count) == count_chat_input(bare, "words") + 765
