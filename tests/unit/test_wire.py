"""Requests, replies and errors as bytes: what is read of them, what is changed, and what stays as it was."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faucet.gateway.wire import (
    ABSURD_TOKENS,
    chat_fields,
    decode_reply,
    error_body,
    is_answer,
    money_note,
    parse_chat,
    quoted,
    upstream_body,
    usage_of,
    with_cost,
    with_note,
)
from faucet.kit.errors import Refusal, field_error

BASE: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
strange = st.dictionaries(st.text(min_size=1, max_size=6).map(lambda name: f"x_{name}"), values, max_size=5)


def body(**fields: Any) -> bytes:
    return json.dumps(BASE | fields).encode()


def sent(request: bytes, *, limit: int = 100, limit_field: str = "max_tokens") -> dict[str, Any]:
    """What the provider gets of a request."""
    made: dict[str, Any] = json.loads(upstream_body(parse_chat(request), b'"real"', limit, limit_field))
    return made


def refused(request: bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        parse_chat(request)
    assert caught.value.code == "invalid_request"
    return caught.value


# ── requests ──


@given(strange)
def test_fields_that_we_do_not_know_pass(fields: dict[str, Any]) -> None:
    """A provider's new feature would be lost on its way."""
    made = sent(body(**fields))
    assert made == BASE | fields | {"model": "real", "max_tokens": 100}


def test_what_passes_stays_byte_for_byte() -> None:
    """Numbers and spellings would change: a schema's order, a seed beyond 53 bits, a price of 1.10."""
    odd = b'{"a": 1.10, "a2":1e2,"b":12345678901234567890,"c":"\\u00e9","d":[ ]}'
    made = upstream_body(parse_chat(b'{"x":' + odd + b"," + body()[1:]), b'"real"', 5, "max_tokens")
    assert odd in made


@pytest.mark.parametrize(
    ("fields", "limit", "expected"),
    [
        ({}, 100, {"max_tokens": 100}),
        ({"max_tokens": 50}, 50, {"max_tokens": 50}),
        ({"max_tokens": 50}, 20, {"max_tokens": 20}),
        ({"max_completion_tokens": 50}, 50, {"max_completion_tokens": 50}),
        ({"max_completion_tokens": 50}, 20, {"max_completion_tokens": 20}),
        ({"max_completion_tokens": 50, "max_tokens": 30}, 30, {"max_completion_tokens": 30}),
        ({"max_completion_tokens": 30, "max_tokens": 50}, 30, {"max_completion_tokens": 30}),
        ({"max_tokens": None}, 100, {"max_tokens": 100}),
        ({"max_completion_tokens": None, "max_tokens": 9}, 9, {"max_tokens": 9, "max_completion_tokens": None}),
    ],
)
def test_the_provider_gets_the_limit_that_is_held_for(
    fields: dict[str, Any], limit: int, expected: dict[str, Any]
) -> None:
    """A provider could answer with more than was reserved."""
    made = sent(body(**fields), limit=limit)
    assert {name: made[name] for name in ("max_tokens", "max_completion_tokens") if name in made} == expected


def test_each_try_is_written_afresh() -> None:
    """The second provider would get the first one's limit beside its own."""
    ask = parse_chat(body())
    first = json.loads(upstream_body(ask, b'"a"', 100, "max_completion_tokens"))
    second = json.loads(upstream_body(ask, b'"b"', 50, "max_tokens"))
    assert (first["model"], first["max_completion_tokens"]) == ("a", 100)
    assert (second["model"], second["max_tokens"]) == ("b", 50) and "max_completion_tokens" not in second


@pytest.mark.parametrize(
    ("options", "expected", "wanted"),
    [
        ({}, {"include_usage": True}, False),
        ({"stream_options": None}, {"include_usage": True}, False),
        ({"stream_options": {}}, {"include_usage": True}, False),
        ({"stream_options": {"include_usage": False, "x": 1}}, {"include_usage": True, "x": 1}, False),
        ({"stream_options": {"include_usage": True, "x": 1}}, {"include_usage": True, "x": 1}, True),
    ],
)
def test_a_stream_always_reports_usage_to_us(options: dict[str, Any], expected: dict[str, Any], wanted: bool) -> None:
    """A stream would be counted although its provider knows; or its client get what it didn't ask for."""
    request = body(stream=True, **options)
    assert sent(request)["stream_options"] == expected and parse_chat(request).include_usage is wanted
    assert "stream_options" not in sent(body(stream=False))


@pytest.mark.parametrize(
    ("fields", "model", "feature"),
    [
        ({"model": "gpt-x"}, "gpt-x", None),
        ({"model": "auto"}, None, None),
        ({"model": "auto:reply"}, None, "reply"),
        ({"model": "auto:reply", "metadata": {"feature_key": "other"}}, None, "reply"),
        ({"model": "auto", "metadata": {"feature_key": "other"}}, None, "other"),
        ({"model": "gpt-x", "metadata": {"feature_key": "other"}}, "gpt-x", "other"),
        ({"model": "automatic"}, "automatic", None),
    ],
)
def test_model_and_feature_are_read(fields: dict[str, Any], model: str | None, feature: str | None) -> None:
    """Another feature's price and policy would count."""
    ask = parse_chat(body(**fields))
    assert (ask.model, ask.feature_key) == (model, feature)


def test_our_words_stay_with_us() -> None:
    """A provider would read what is none of its business, or the caller's own words be lost."""
    ours = {"feature_key": "f", "route_mode": "byok", "route_preference": []}
    assert "metadata" not in sent(body(metadata=ours))
    assert sent(body(metadata=ours | {"mine": "1"}))["metadata"] == {"mine": "1"}
    assert sent(body(metadata={"mine": "1"}))["metadata"] == {"mine": "1"}
    assert sent(body(metadata={}))["metadata"] == {} and sent(body(metadata=None))["metadata"] is None


def test_of_fields_that_come_twice_both_readers_see_the_last() -> None:
    """What is held for and what is sent would differ."""
    request = b'{"n":9,"max_tokens":9000,"stream":true,"max_tokens":7,"n":1,"stream":false,' + body()[1:]
    ask = parse_chat(request)
    assert (ask.n, ask.max_tokens, ask.stream) == (1, 7, False)
    made = sent(request, limit=7)
    assert (made["n"], made["max_tokens"], made["stream"]) == (1, 7, False)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": ABSURD_TOKENS + 1}, "max_tokens"),
        ({"max_completion_tokens": True}, "max_completion_tokens"),
        ({"n": 10**9}, "n"),
        ({"stream": "true"}, "stream"),
        ({"messages": [7]}, "messages[0]"),
        ({"metadata": {"feature_key": 7}}, "metadata.feature_key"),
    ],
)
def test_a_refusal_names_its_field(fields: dict[str, Any], field: str) -> None:
    """Nobody could tell what is wrong with a request."""
    refusal = refused(body(**fields))
    assert refusal.details == {"formErrors": [], "fieldErrors": {field: [refusal.public.partition(": ")[2]]}}
    assert refusal.param == field.partition(".")[0].partition("[")[0] and refusal.status == 400


@given(st.binary(max_size=60))
def test_noise_is_refused_or_read(noise: bytes) -> None:
    """Some sequence of bytes would be a fault."""
    for request in (noise, body()[:-1] + b',"x":' + noise + b"}", body().replace(b'"hi"', noise)):
        try:
            assert parse_chat(request).model == "m"
        except Refusal as refusal:
            assert refusal.status == 400 and refusal.public.encode()


@pytest.mark.parametrize(
    ("content", "images", "opaque"),
    [
        ("hi", 0, False),
        ([{"type": "text", "text": "hi"}], 0, False),
        ([{"type": "image_url", "image_url": {"url": "u"}}], 1, False),
        ([{"type": "image_url", "image_url": {"url": "u"}}] * 3, 3, False),
        ([{"type": "input_audio", "input_audio": {"data": ""}}], 0, True),
        ([{"type": "file", "file": {"file_id": "f"}}], 0, True),
        ([{"type": "video_url", "video_url": {"url": "u"}}], 0, True),
    ],
)
def test_parts_that_cost_more_than_their_bytes_are_seen(content: Any, images: int, opaque: bool) -> None:
    """An image, a sound or a film would be reserved for as if it were its few letters."""
    plain = body(messages=[{"role": "user", "content": content}])
    escaped = plain.replace(b'"image_url"', b'"im\\u0061ge_url"').replace(b'"input_audio"', b'"input_\\u0061udio"')
    for request in (plain, escaped):
        ask = parse_chat(request)
        assert ask.images >= images and ask.opaque_parts is opaque


# ── replies ──


def test_a_reply_gets_our_id_its_model_and_its_price_and_keeps_the_rest() -> None:
    """Choices, logprobs or a provider's own fields would be lost; or a price be shown that isn't the one paid."""
    reply = b'{"id":"theirs","object":"chat.completion","model":"alias","choices":[{"x": 1.50}],"extra":{"a":1}}'
    note = money_note(
        request_id="req_1", mode=b"platform",
        feature_json=b'"f"', feature_version=3, price=b"0.00003958", balance_e8=5, provider_json=b'"p"',
        model_json=b'"m"', counted=True,
    )  # fmt: skip
    shown = chat_fields(
        decode_reply(reply), "chatcmpl_mf_req_1", b'"m"', with_cost(b'{"prompt_tokens":1}', b"0.00003958")
    )
    made = with_note(shown, note)
    assert b'[{"x": 1.50}]' in made
    told = json.loads(made, parse_float=Decimal)
    assert (told["id"], told["model"], told["extra"]) == ("chatcmpl_mf_req_1", "m", {"a": 1})
    assert told["usage"] == {"prompt_tokens": 1, "cost": Decimal("0.00003958")}
    assert told["modelfaucet"] == {
        "request_id": "req_1",
        "route_mode": "platform",
        "feature_key": "f",
        "feature_version": 3,
        "estimated_price_usd": "0.00003958",
        "price_usd": "0.00003958",
        "provider": "p",
        "model": "m",
        "usage_source": "counted",
        "wallet_balance_usd": "0.00000005",
    }


def test_what_is_not_known_is_absent() -> None:
    """A client would read null where it expects a text."""
    note = money_note(
        request_id="r", mode=b"byok", feature_json=None, price=b"0.00000000", balance_e8=None, provider_json=b'"p"',
        model_json=quoted('m"'), counted=False, more=b',"fee_usd":"0.00000000"',
    )  # fmt: skip
    told = json.loads(note)
    assert "feature_key" not in told and "wallet_balance_usd" not in told
    assert (told["route_mode"], told["fee_usd"]) == ("byok", "0.00000000")
    assert told["model"] == 'm"' and told["usage_source"] == "reported"


@pytest.mark.parametrize("usage", [b"{}", b"null", b"[]"])
def test_a_usage_that_is_none_gets_no_cost(usage: bytes) -> None:
    """The reply would not be JSON any more."""
    assert with_cost(usage, b"0.00000001") == usage


def test_the_shape_of_a_reply_is_read() -> None:
    """An error inside a 200 would pass for an answer."""
    answer = decode_reply(b'{"choices": [],"usage": {"a":1},"error":null,"x":1}')
    assert is_answer(answer) and bytes(usage_of(answer) or b"") == b'{"a":1}'
    assert usage_of(decode_reply(b'{"choices":[],"usage":null}')) is None
    for other in (b'{"choices":[],"error":{"message":"no"}}', b"{}", b'{"choices":null}', b'{"choices":{}}'):
        assert not is_answer(decode_reply(other))


# ── errors ──


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Refusal("invalid_session", "x"), "authentication_error"),
        (Refusal("insufficient_balance", "x"), "insufficient_quota"),
        (Refusal("disabled", "x"), "permission_error"),
        (Refusal("not_found", "x"), "not_found_error"),
        (Refusal("idempotency_conflict", "x"), "conflict_error"),
        (Refusal("rate_limited", "x"), "rate_limit_error"),
        (Refusal("payload_too_large", "x"), "invalid_request_error"),
        (Refusal("provider_error", "x", status=400), "invalid_request_error"),
        (Refusal("provider_error", "x"), "server_error"),
        (Refusal("unavailable", "x"), "server_error"),
        (Refusal("internal", "x"), "server_error"),
    ],
)
def test_an_error_has_both_our_words_and_openais(refusal: Refusal, kind: str) -> None:
    """Official clients would raise the wrong exception, or ours could not read the code."""
    assert json.loads(error_body(refusal, "req_1")) == {
        "error": {"code": refusal.code, "message": "x", "request_id": "req_1", "type": kind, "param": None}
    }


def test_an_error_carries_its_details() -> None:
    """A form could not mark the field that is wrong."""
    told = json.loads(error_body(field_error("n", "must be less — 少"), "req_1"))["error"]
    assert told["param"] == "n" and told["details"]["fieldErrors"] == {"n": ["must be less — 少"]}


@pytest.mark.parametrize("field", [{}, {"max_tokens": 9}, {"max_completion_tokens": 9}])
def test_without_a_limit_the_callers_words_stay(field: dict[str, int]) -> None:
    """Lost: a model that we don't know is asked for more tokens than it has, and refuses."""
    sent = json.loads(upstream_body(parse_chat(body(**field)), b'"m"', None, "max_tokens"))
    assert {name: sent[name] for name in ("max_tokens", "max_completion_tokens") if name in sent} == field
