"""Micro-benchmarks of the pure work in a request's path. Run: `pytest bench/micro.py`.

Believe the ratios between two commits on one quiet machine. Each checks what it computed, so that a fast wrong
answer is none.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from bench.load import CHUNKS, read_answer, request_body
from faucet.gateway.sse import decode_chunk
from faucet.gateway.wire import parse_chat, upstream_body
from faucet.kit.events import EventSplitter, payload
from faucet.providers.fake import STAMP, answer, stamp
from faucet.rating.price import PricePlan
from faucet.rating.rate import ceiling, input_bound_tokens, rate
from faucet.rating.seed import seed_rows
from faucet.rating.usage import usage_from_openai
from faucet.routing.plan import Offer, RoutePolicy, plan
from faucet.terms import Payer

PRICE = next(
    row
    for row in seed_rows(effective_from=datetime(2026, 1, 1, tzinfo=UTC), providers=()).rows
    if row.model == "mock-small"
)
PLAN = PricePlan.parse_pricing({"mode": "usage_markup", "markup_percent": 30, "channel_share_bps": 4000})
REPORT = {
    "prompt_tokens": 241,
    "completion_tokens": 48,
    "total_tokens": 289,
    "prompt_tokens_details": {"cached_tokens": 128, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}


def mock_stream() -> bytes:
    """The body of the mock provider's stream."""
    return b"".join(answer(request_body("stream")).steps).replace(STAMP, stamp(b"0" * 24, 1_800_000_000, True))


def test_parse_chat(benchmark: Any) -> None:
    """Reading a request of 1.4 kB."""
    body = request_body("stream")
    ask = benchmark(parse_chat, body)
    assert (ask.model, ask.stream, ask.max_tokens, ask.body_bytes) == ("mock-small", True, 60, len(body))


def test_upstream_body(benchmark: Any) -> None:
    """Writing the request that the provider gets."""
    ask = parse_chat(request_body("json"))
    made = benchmark(upstream_body, ask, b'"mock-small"', 60, "max_tokens")
    assert json.loads(made) == json.loads(request_body("json"))


def test_ceiling(benchmark: Any) -> None:
    """The most that a request can cost."""
    ask = parse_chat(request_body("json"))

    def bound() -> int:
        tokens = input_bound_tokens(ask.body_bytes, 0, False, PRICE)
        return ceiling(PRICE, PLAN, Payer.PLATFORM, input_tokens_max=tokens, output_tokens_max=60, n=1).retail_e8

    usage = usage_from_openai(REPORT)
    assert usage is not None
    assert benchmark(bound) > rate(PRICE, PLAN, Payer.PLATFORM, usage).retail_e8


def test_rate(benchmark: Any) -> None:
    """Reading a usage report and rating it."""

    def charge() -> Any:
        usage = usage_from_openai(REPORT)
        assert usage is not None
        return rate(PRICE, PLAN, Payer.PLATFORM, usage)

    rated = benchmark(charge)
    assert rated.retail_e8 == rated.cost_e8 + rated.channel_e8 + rated.platform_e8 > 0


def test_plan(benchmark: Any) -> None:
    """Choosing the attempts among twenty offers."""
    auto = [Offer(f"provider-{n % 4}", f"model-{n}", 1_000_000 - n, True) for n in range(20)]
    offers = {offer.model: [offer] for offer in auto}
    attempts = benchmark(plan, RoutePolicy(), None, offers, auto)
    assert attempts[0].model == "model-19" and len(attempts) == 20


@pytest.mark.parametrize("reads", [1, 40])
def test_sse(benchmark: Any, reads: int) -> None:
    """Splitting a stream of 20 chunks that came in so many reads, and reading every event."""
    stream = mock_stream()
    size = -(-len(stream) // reads)
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]

    def read() -> list[bytes]:
        splitter = EventSplitter()
        found = []
        for piece in pieces:
            for event in splitter.feed(piece):
                data = payload(event)
                if data is not None and data != b"[DONE]":
                    decode_chunk(data)
                found.append(event)
        return found

    events = benchmark(read)
    assert b"".join(events) == stream and len(events) > CHUNKS


def test_own_check(benchmark: Any) -> None:
    """What our load generator pays for checking a stream."""
    body = mock_stream()
    assert benchmark(read_answer, "stream", 200, body).completion_tokens == 48
