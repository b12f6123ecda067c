"""Micro-benchmarks of the pure work in a request's path. Run: `pytest bench/micro.py`.

Believe the ratios between two commits on one quiet machine. Each checks what it computed, so that a fast wrong
answer is none.
"""

from __future__ import annotations

import dataclasses
import json
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from bench.load import CHUNKS, read_answer, request_body
from faucet.gateway.admit import Feature
from faucet.gateway.catalogue import Account, Catalogue
from faucet.gateway.circuits import Circuits
from faucet.gateway.keys import NO_KEYS, Keyring, Keys
from faucet.gateway.payers import Chosen, Payers
from faucet.gateway.sse import decode_chunk
from faucet.gateway.wire import parse_chat, upstream_body
from faucet.kit.events import EventSplitter, payload
from faucet.providers.catalog import CATALOG, provider_for
from faucet.providers.fake import STAMP, answer, stamp
from faucet.rating.price import PriceBook, PricePlan
from faucet.rating.rate import ceiling, input_bound_tokens, rate
from faucet.rating.seed import seed_rows
from faucet.rating.usage import usage_from_openai
from faucet.routing.health import Circuit, State
from faucet.routing.plan import Offer, Shelf, in_order, plan
from faucet.routing.policy import Need, RoutePolicy
from faucet.tenants.manifest import parse_policy
from faucet.terms import Payer

PRICE = next(
    row
    for row in seed_rows(effective_from=datetime(2026, 1, 1, tzinfo=UTC), providers=()).rows
    if row.model == "mock-small"
)
PRICE_FOR_SALE = dataclasses.replace(PRICE, id=1, status="confirmed")
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
    """Choosing the attempts among twenty offers: once per policy and snapshot."""
    auto = [Offer(f"provider-{n % 4}", f"model-{n}", input_e8_per_m=1_000_000 - n) for n in range(20)]
    shelves = {Payer.PLATFORM: Shelf({offer.model: [offer] for offer in auto}, auto)}
    found = benchmark(plan, RoutePolicy(), None, shelves, Need(100, 100))
    assert found.attempts()[0].model == "model-19" and len(found.pools) == 20


class _Caller:
    end_user_id = UUID(int=7)


@pytest.mark.parametrize("policy", ["platform_pool", "byok_first"])
@pytest.mark.parametrize("model", ["mock-small", "auto"])
def test_choose(benchmark: Any, policy: str, model: str) -> None:
    """What each request pays for routing: the caller's keys, and a route that was worked out before."""
    mock = provider_for(CATALOG["openai_compatible"], None, base_url="https://llm.example.com/v1")
    mock = dataclasses.replace(mock, name="mock", auto_models=("mock-small",))
    catalogue = Catalogue([Account(mock)], PriceBook([PRICE_FOR_SALE]), datetime.now(UTC), Circuits())
    parsed = parse_policy({"route_preference": policy}).routing
    feature = Feature(UUID(int=1), "f", b'"f"', parsed, PLAN, True, None, 1, "{}", uses_keys=policy == "byok_first")
    ask = parse_chat(json.dumps(json.loads(request_body("json")) | {"model": model}).encode())
    caller: Any = _Caller()
    keyring = Keyring(*([None] * 5))  # type: ignore[arg-type]
    keyring._known[caller.end_user_id] = Keys(time.monotonic() + 3600, caller)
    payers = Payers()

    def choose() -> Chosen:
        keys: Keys | None = NO_KEYS
        if feature.uses_keys:
            keys = keyring.recall(caller)
        assert keys is not None
        return payers.choose(catalogue, catalogue, feature, ask, keys, explain=False)

    assert [product.price.model for product in benchmark(choose).products] == ["mock-small"]


def test_attempts_in_order(benchmark: Any) -> None:
    """What each request pays for health: whether its three providers are well, and one answer told."""
    circuits = [Circuit() for _ in range(3)]

    def look() -> list[Circuit]:
        found = in_order(circuits, lambda one: one.state is State.CLOSED, lambda one: one.is_down(1.0))
        found[0].answered(1.0, 12)
        return found

    assert benchmark(look)[0] is circuits[0]


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
