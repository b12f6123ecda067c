"""Providers' streams, however they are cut: the same events; and never an exception for what they hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes.recorded_provider import Case, cases, framed, pieces, two_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from faucet.providers.base import Adapter
from faucet.providers.catalog import CATALOG, provider_for
from faucet.rating.usage import read_report

NOW = 1_800_000_000
STREAMS = [c for c in cases() if c.stream and c.wire and CATALOG[c.provider].wire in ("anthropic", "gemini", "bedrock")]


def adapter_of(provider: str) -> Adapter:
    adapter = provider_for(CATALOG[provider], None, base_url="https://llm.example.com").adapter
    assert adapter is not None
    return adapter


def whole(case: Case, cuts: list[int] | None = None) -> bytes:
    stream = adapter_of(case.provider).stream(NOW)
    return b"".join(stream.feed(piece) for piece in pieces(case.wire, cuts or []))


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case.model)
def test_cut_at_every_byte(case: Case) -> None:
    """Lost: an event whose end falls on the border of a read."""
    everywhere = list(range(len(case.wire)))
    assert whole(case, everywhere) == whole(case)


@settings(deadline=None)
@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 4000), max_size=12), st.booleans())
def test_any_cut_gives_the_same_events(case: Case, cuts: list[int], returns: bool) -> None:
    """Lost: an answer that depends on how the network delivered it."""
    if returns and case.provider != "bedrock":
        wire = two_lines(case.wire).replace(b"\n", b"\r\n")
        stream, again = adapter_of(case.provider).stream(NOW), whole(case)
        assert b"".join(stream.feed(piece) for piece in pieces(wire, cuts)) == again
    assert whole(case, cuts) == whole(case)


@settings(deadline=None)
@given(st.sampled_from(STREAMS), st.integers(0, 4000), st.binary(max_size=40))
def test_damage_is_an_error_event_and_no_exception(case: Case, place: int, noise: bytes) -> None:
    """Lost: a provider's garbage ends a request without its settlement."""
    place = min(place, len(case.wire))
    wire = case.wire[:place] + noise + case.wire[place + len(noise) :]
    out = adapter_of(case.provider).stream(NOW).feed(wire)
    for event in out.split(b"\n\n")[:-1]:
        assert event.startswith(b"data: ") and (event == b"data: [DONE]" or json.loads(event[6:]))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**41) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = {
    "anthropic": (
        "type message index delta content_block usage error input_tokens output_tokens text stop_reason content"
        " cache_read_input_tokens cache_creation_input_tokens output_tokens_details thinking_tokens"
    ),
    "gemini": (
        "candidates content parts text finishReason usageMetadata promptTokenCount candidatesTokenCount error"
        " thoughtsTokenCount cachedContentTokenCount functionCall promptFeedback blockReason index"
    ),
    "bedrock": (
        "output message content text toolUse reasoningContent stopReason usage inputTokens outputTokens delta"
        " contentBlockIndex start cacheReadInputTokens"
    ),
}
TYPES = (
    "message_start content_block_start content_block_delta content_block_stop message_delta message_stop error"
    " text_delta input_json_delta thinking_delta signature_delta tool_use text thinking"
).split()
BEDROCK_EVENTS = (
    "messageStart contentBlockStart contentBlockDelta contentBlockStop messageStop metadata !exception".split()
)


def objects(provider: str) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from(NAMES[provider].split())
    inner: st.SearchStrategy[Any] = st.deferred(
        lambda: values | st.sampled_from(TYPES) | st.lists(nested, max_size=2) | nested
    )
    nested: st.SearchStrategy[dict[str, Any]] = st.dictionaries(names, inner, max_size=5)
    return nested


@pytest.mark.parametrize("provider", sorted(NAMES))
def test_any_object_is_read_or_refused(provider: str) -> None:
    """Lost: a reply of an unforeseen shape is a fault of ours; or a count that can't be one is billed."""
    adapter = adapter_of(provider)

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from(BEDROCK_EVENTS), objects(provider)), max_size=4))
    def read(told: list[tuple[str, dict[str, Any]]]) -> None:
        from faucet.providers.base import Unreadable

        lines = [(kind.encode(), json.dumps(body).encode()) for kind, body in told]
        for _, body in lines:
            try:
                reply = json.loads(adapter.reply(body, NOW))
            except Unreadable:
                continue
            assert "choices" in reply or "error" in reply
            if "usage" in reply:
                usage, _ = read_report(json.dumps(reply["usage"]).encode())
                assert usage is not None and min(usage.input_tokens, usage.output_tokens) >= 0
        if provider == "bedrock":
            wire = framed(b"\n".join(b"%b %b" % line for line in lines))
        else:
            wire = b"".join(b"data: %b\n\n" % body for _, body in lines)
        adapter.stream(NOW).feed(wire)
        adapter.failure(lines[0][1] if lines else b"")

    read()
