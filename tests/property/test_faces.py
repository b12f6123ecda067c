"""The other faces of a chat request: whatever comes is translated or refused, and how a stream was cut is no matter."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faucet.gateway.faces.face import Face
from faucet.gateway.faces.messages import MessagesFace
from faucet.gateway.faces.responses import ResponsesFace
from faucet.gateway.wire import parse_chat
from faucet.kit.errors import Refusal

FACES: list[type[Any]] = [MessagesFace, ResponsesFace]
WORDS = (
    "model messages max_tokens system tools tool_choice thinking output_config metadata stop_sequences stream input"
    " instructions text reasoning max_output_tokens type role content text source data media_type id name input_schema"
    " tool_use_id call_id arguments output image_url format schema json_schema tool_use tool_result user assistant"
    " function message function_call function_call_output input_text input_image base64 url image enabled budget_tokens"
).split()
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 10**6), st.floats(allow_nan=False), st.text(), st.sampled_from(WORDS)
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.sampled_from(WORDS), st.text()), inner, max_size=5)
    ),
    max_leaves=25,
)


@pytest.mark.parametrize("face", FACES)
@given(fields=st.dictionaries(st.sampled_from(WORDS), ANYTHING, max_size=8))
@settings(max_examples=300, deadline=None)
def test_any_request_is_translated_or_refused(face: type[Any], fields: dict[str, Any]) -> None:
    """A strange request would be a fault of ours, and not an error that its caller can read."""
    try:
        parse_chat(face().chat(json.dumps(fields).encode()))
    except Refusal as refusal:
        assert refusal.status == 400 and refusal.public


THOUGHTS: list[Any] = [
    {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"},
    {"type": "redacted_thinking", "data": "AAEC"},
    {"type": "thinking", "thinking": "Hm.", "signature": ""},
    "?",
]
DELTAS = st.one_of(
    st.builds(lambda text: {"content": text}, st.text(min_size=1, max_size=8)),
    st.builds(lambda text: {"reasoning_content": text}, st.text(min_size=1, max_size=8)),
    st.builds(
        lambda at, text: {"tool_calls": [{"index": at, "id": f"c{at}", "function": {"name": "f", "arguments": text}}]},
        st.integers(0, 2),
        st.text(max_size=8),
    ),
    st.just({"role": "assistant", "content": ""}),
    st.builds(lambda block: {"thinking_blocks": [block]}, st.sampled_from(THOUGHTS)),
)


def stream_of(deltas: list[dict[str, Any]], finish: str) -> bytes:
    head = {"id": "chatcmpl_mf_req_1", "object": "chat.completion.chunk", "created": 5, "model": "m"}
    chunks: list[dict[str, Any]] = [{**head, "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    chunks.append({**head, "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}})
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def told(face: Face, pieces: list[bytes]) -> list[Any]:
    out = b"".join(face.events(piece, last=i == len(pieces) - 1) for i, piece in enumerate(pieces))
    return [json.loads(event.split(b"data: ", 1)[1]) for event in out.split(b"\n\n") if event]


@pytest.mark.parametrize("face", FACES)
@given(
    deltas=st.lists(DELTAS, max_size=6),
    finish=st.sampled_from(["stop", "length", "tool_calls", "content_filter"]),
    cuts=st.lists(st.integers(0, 2000), max_size=8),
)
@settings(max_examples=200, deadline=None)
def test_how_a_stream_is_cut_is_no_matter(
    face: type[Any], deltas: list[dict[str, Any]], finish: str, cuts: list[int]
) -> None:
    """Reads of the network would change what a client is told."""
    whole = stream_of(deltas, finish)
    places = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    pieces = [whole[a:b] for a, b in zip(places, places[1:], strict=False)]
    events = told(face(), pieces)
    # The mark that ends an event may come in a read of its own, so only what was told is compared.
    assert _without_time(events) == _without_time(told(face(), [whole]))
    texts = "".join(d["content"] for d in deltas if d.get("content"))
    if face is MessagesFace:
        assert "".join(e["delta"].get("text", "") for e in events if e["type"] == "content_block_delta") == texts
        signed = [block for d in deltas for block in d.get("thinking_blocks", ()) if block in THOUGHTS[:2]]
        begun = [e["content_block"] for e in events if e["type"] == "content_block_start"]
        assert [e["delta"]["signature"] for e in events if e.get("delta", {}).get("type") == "signature_delta"] == [
            block["signature"] for block in signed if "signature" in block
        ]
        assert [block for block in begun if block["type"] == "redacted_thinking"] == [
            block for block in signed if "data" in block
        ]
        assert events[-1]["type"] == "message_stop" and events[-2]["usage"]["output_tokens"] == 4
        starts = [e["index"] for e in events if e["type"] == "content_block_start"]
        assert starts == list(range(len(starts))) == [e["index"] for e in events if e["type"] == "content_block_stop"]
    else:
        assert "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta") == texts
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events[-1]["response"]["usage"]["total_tokens"] == 7
        done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
        assert done == events[-1]["response"]["output"]


def _without_time(events: list[Any]) -> bytes:
    return msgspec.json.encode(events)
