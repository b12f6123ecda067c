"""`POST /v1/features/:key/run`: an input becomes an answer of the feature's own shape, at the price of a chat."""

from __future__ import annotations

import json
from typing import Any

import pytest
from features_world import Features, Fields, run
from gateway_world import E8, EndUser, Gateway, World, ask, chat, events_of, hold_of, request, text_of

from faucet.gateway.prompt import INPUT_BYTES_MAX

INPUT: Fields = {
    "type": "object",
    "properties": {
        "question": {"type": "string", "minLength": 1, "maxLength": 5_000},
        "tone": {"type": "string", "enum": ["kind", "brief"]},
        "order": {"type": "object", "properties": {"lines": {"type": "array", "items": {"type": "integer"}}}},
    },
    "required": ["question"],
    "additionalProperties": False,
}
PROMPT: Fields = {
    "system": "Answer customers. Tone: {{ input.tone }}. Order: {{ input.order }}",
    "user": "{{ input.question }}",
}
OUTPUT: Fields = {
    "type": "object",
    "properties": {"reply": {"type": "string"}, "urgent": {"type": "boolean"}},
    "required": ["reply", "urgent"],
    "additionalProperties": False,
}


def test_a_run_is_checked_templated_answered_in_its_shape_and_paid(
    features: Features, world: World, gateway: Gateway, mock: Any, rich: EndUser
) -> None:
    """Lost: what a feature is for, or the money of an answer that was given."""
    key = features.add(input_schema=INPUT, prompt=PROMPT, output_schema=OUTPUT)
    reply = run(
        gateway, rich, key, {"input": {"question": "Where is it? {{ input.tone }}", "order": {"lines": [1, 2]}}}
    )
    assert reply.status == 200, reply.body
    told = reply.json
    assert list(told)[:4] == ["request_id", "feature_key", "feature_version", "output"]
    assert (told["feature_key"], told["feature_version"]) == (key, 3)
    assert set(told["output"]) == {"reply", "urgent"} and json.loads(told["text"]) == told["output"]
    assert told["modelfaucet"]["feature_version"] == 3 and told["modelfaucet"]["feature_key"] == key
    asked = mock.last()["body"]
    assert asked["messages"] == [
        {"role": "system", "content": 'Answer customers. Tone: . Order: {"lines": [1, 2]}'},
        {"role": "user", "content": "Where is it? {{ input.tone }}"},
    ]
    assert asked["response_format"]["json_schema"]["schema"] == OUTPUT
    assert asked["response_format"]["json_schema"]["strict"] is True
    event = world.event(hold_of(reply))
    assert event is not None and event["feature_version"] == 3
    assert event["retail_e8"] > 0 and world.balance(rich) == (10 * E8 - event["retail_e8"], 0)


def test_a_stream_is_a_chats(features: Features, world: World, gateway: Gateway, rich: EndUser) -> None:
    """Lost: clients of OpenAI's streams can't read a run; or a stream is not paid."""
    key = features.add(input_schema=INPUT, prompt=PROMPT, output_schema=OUTPUT)
    reply = run(gateway, rich, key, {"input": {"question": "Where?"}, "stream": True})
    events = events_of(reply.body)
    assert reply.status == 200 and events[-1] == "[DONE]"
    assert all(event["object"] == "chat.completion.chunk" for event in events[:-1])
    assert set(json.loads(text_of(events))) == {"reply", "urgent"}
    note = events[-2]["modelfaucet"]
    assert note["output_valid"] is True and note["feature_version"] == 3
    event = world.event(hold_of(reply))
    assert event is not None and event["outcome"] == 0 and event["feature_version"] == 3


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"input": {}}, "input.question"),
        ({"input": {"question": ""}}, "input.question"),
        ({"input": {"question": 1}}, "input.question"),
        ({"input": {"question": "x", "tone": "loud"}}, "input.tone"),
        ({"input": {"question": "x", "order": {"lines": [1, "2"]}}}, "input.order.lines[1]"),
        ({"input": {"question": "x", "more": 1}}, "input.more"),
        ({"input": []}, "input"),
        ({"input": {"question": "x"}, "temperature": 1}, "temperature"),
        ({"input": {"question": "x"}, "stream": "yes"}, "stream"),
        ({"input": {"question": "x"}, "model": "auto:other"}, "model"),
        ({"input": {"question": "x"}, "metadata": 1}, "metadata"),
    ],
)
def test_what_is_wrong_with_an_input_is_told_by_its_path(
    features: Features, world: World, gateway: Gateway, rich: EndUser, body: Fields, path: str
) -> None:
    """Lost: an input that the prompt was not made for is answered and charged; or nobody learns what was wrong."""
    key = features.add(input_schema=INPUT, prompt=PROMPT)
    reply = run(gateway, rich, key, body)
    assert (reply.status, reply.code) == (400, "invalid_request")
    assert path in reply.json["error"]["details"]["fieldErrors"], reply.body
    assert reply.json["error"]["param"] == path
    assert world.balance(rich) == (10 * E8, 0)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'"x"', b"\xff", b'{"input":' + b"[" * 5_000, b'{"input":{"a":1e999}}']
)
def test_what_is_no_run_is_refused(features: Features, gateway: Gateway, rich: EndUser, body: bytes) -> None:
    """Lost: a body that nobody meant becomes a fault of ours."""
    key = features.add(prompt=PROMPT)
    reply = run(gateway, rich, key, body)
    assert (reply.status, reply.code) == (400, "invalid_request")


def test_a_large_input_is_refused(features: Features, gateway: Gateway, rich: EndUser) -> None:
    """Lost: one caller keeps a gateway busy with checking."""
    key = features.add(input_schema=INPUT, prompt=PROMPT)
    reply = run(gateway, rich, key, {"input": {"question": "x" * INPUT_BYTES_MAX}})
    assert (reply.status, reply.code) == (413, "payload_too_large")
    lines = {"question": "x", "order": {"lines": [1] * 60_000}}
    reply = run(gateway, rich, key, {"input": lines})
    assert reply.status == 400 and "too many values" in reply.json["error"]["message"]


def test_an_answer_of_another_shape_is_delivered_says_so_and_is_paid(
    features: Features, world: World, gateway: Gateway, rich: EndUser
) -> None:
    """Lost: an answer that the provider made and billed is given away, or passes for what was asked for."""
    key = features.add({"max_output_tokens": 3}, prompt=PROMPT, output_schema=OUTPUT)
    reply = run(gateway, rich, key, {"input": {"question": "Where?"}})
    assert reply.status == 200
    assert "output" not in reply.json and reply.json["output_error"]["message"] == "the answer is not JSON"
    assert reply.json["text"] and reply.json["finish_reason"] == "length"
    event = world.event(hold_of(reply))
    assert event is not None and event["retail_e8"] > 0 and event["output_tokens"] == 3
    streamed = run(gateway, rich, key, {"input": {"question": "Where?"}, "stream": True})
    assert events_of(streamed.body)[-2]["modelfaucet"]["output_valid"] is False


def test_the_same_key_gives_the_same_run(features: Features, world: World, gateway: Gateway, rich: EndUser) -> None:
    """Lost: a run that is repeated after a lost answer is charged twice."""
    key = features.add(prompt=PROMPT, output_schema=OUTPUT)
    named = {"idempotency-key": "run-once"}
    first = run(gateway, rich, key, {"input": {"question": "Where?"}}, named)
    again = run(gateway, rich, key, {"input": {"question": "Where?"}}, named)
    other = run(gateway, rich, key, {"input": {"question": "Who?"}}, named)
    assert again.headers["idempotent-replayed"] == "true" and again.json["text"] == first.json["text"]
    assert other.code == "idempotency_conflict"
    assert len(world.events_of(rich)) == 1


def test_a_chat_begins_with_the_standing_prompt_unless_it_is_locked(
    features: Features, gateway: Gateway, mock: Any, rich: EndUser
) -> None:
    """Lost: a feature's rules are left out by whoever asks it as a chat."""
    key = features.add(prompt=PROMPT | {"system": "Only about shoes. {{ input.tone }}"})
    run(gateway, rich, key, {"input": {"question": "Where?"}})
    reply = ask(gateway, rich.bearer, chat("Hello", model=f"auto:{key}"))
    assert reply.status == 200, reply.body
    assert mock.last()["body"]["messages"] == [
        {"role": "system", "content": "Only about shoes. "},
        {"role": "user", "content": "Hello"},
    ]
    locked = features.add(prompt=PROMPT | {"locked": True})
    assert run(gateway, rich, locked, {"input": {"question": "Where?"}}).status == 200
    refused = ask(gateway, rich.bearer, chat("Hello", model=f"auto:{locked}"))
    assert (refused.status, refused.code) == (403, "forbidden")
    body = json.dumps({"model": f"auto:{locked}", "input": "x"}).encode()
    headers = {"authorization": f"Bearer {rich.bearer}"}
    for path in ("/v1/embeddings", "/v1/responses"):
        other = request(gateway, "POST", path, body, headers)
        assert (other.status, other.code) == (403, "forbidden"), path


def test_a_feature_without_a_prompt_and_one_that_is_not_there(
    features: Features, gateway: Gateway, rich: EndUser
) -> None:
    """Lost: a caller learns nothing from the refusal."""
    key = features.add()
    reply = run(gateway, rich, key, {"input": {}})
    assert (reply.status, reply.code) == (400, "invalid_request") and "no prompt" in reply.json["error"]["message"]
    headers = {"authorization": f"Bearer {rich.bearer}"}
    assert request(gateway, "POST", "/v1/features/nothing/run", b"{}", headers).code == "feature_not_found"
    assert request(gateway, "GET", f"/v1/features/{key}/run", None, headers).status == 405
    assert request(gateway, "POST", f"/v1/features/{key}/run/x", b"{}", headers).status == 404
    assert request(gateway, "POST", f"/v1/features/{key}/run", b"{}").status == 401


# ── limits ──


def test_requests_a_minute_are_counted_by_end_user_and_by_session(
    features: Features, world: World, gateway: Gateway
) -> None:
    """Lost: one person, or one of their sessions, uses a feature as often as they like."""
    key = features.add(prompt=PROMPT, limits={"requests_per_minute": {"end_user": 2}})
    one, other = world.end_user(), world.end_user()
    body = {"input": {"question": "Where?"}}
    replies = [run(gateway, one, key, body) for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert "end user" in replies[2].json["error"]["message"] and int(replies[2].headers["retry-after"]) >= 1
    assert run(gateway, other, key, body).status == 200
    by_session = features.add(prompt=PROMPT, limits={"requests_per_minute": {"session": 1}})
    assert [run(gateway, one, by_session, body).status for _ in range(2)] == [200, 429]


# ── a fixed price ──

FIXED: Fields = {"fixed_price_usd": "0.00100000", "channel_share_bps": 4000}


def test_a_fixed_price_is_held_and_paid_whatever_the_answer_cost(
    features: Features, world: World, gateway: Gateway, rich: EndUser
) -> None:
    """Lost: a price that was shown is not the price that is paid, or its parts don't add up to it."""
    key = features.add({"max_output_tokens": 100}, FIXED, prompt=PROMPT)
    reply = run(gateway, rich, key, {"input": {"question": "Where?"}})
    assert reply.json["modelfaucet"]["price_usd"] == "0.00100000"
    event = world.event(hold_of(reply))
    assert event is not None and (event["held_e8"], event["retail_e8"]) == (100_000, 100_000)
    margin = 100_000 - event["cost_e8"]
    assert event["channel_e8"] == margin * 4000 // 10_000 and event["write_off_e8"] == 0
    assert world.transfers(hold_of(reply)) == {
        1: event["cost_e8"],
        2: event["channel_e8"],
        3: margin - event["channel_e8"],
    }


def test_an_answer_is_never_longer_than_its_fixed_price_pays_for(
    features: Features, world: World, gateway: Gateway, rich: EndUser
) -> None:
    """Lost: a developer's price is below cost, and the platform pays the rest of every answer."""
    key = features.add({}, {"fixed_price_usd": "0.00003000"}, prompt={"user": "{{ input.question }}"})
    reply = run(gateway, rich, key, {"input": {"question": "Please answer with 500 words"}})
    assert reply.status == 200 and reply.json["finish_reason"] == "length"
    event = world.event(hold_of(reply))
    assert event is not None and event["retail_e8"] == 3_000 and event["cost_e8"] <= 3_000
    assert event["write_off_e8"] == 0
    refused = run(gateway, rich, key, {"input": {"question": "word " * 400}})
    assert (refused.status, refused.code) == (400, "invalid_request")
    strict = features.add({"fit_to_wallet": False}, {"fixed_price_usd": "0.00003000"}, prompt=PROMPT)
    assert run(gateway, rich, strict, {"input": {"question": "Where?"}}).status == 400


def test_of_a_fixed_price_a_broken_answer_pays_its_cost_only(
    features: Features, world: World, gateway: Gateway, rich: EndUser
) -> None:
    """Lost: somebody pays the whole price of half an answer, or the provider's part of it is given away."""
    key = features.add({"models": ["cut-mid-stream"]}, FIXED, prompt=PROMPT)
    reply = run(gateway, rich, key, {"input": {"question": "Please answer with 60 words"}, "stream": True})
    assert reply.status == 200
    event = world.event(hold_of(reply))
    assert event is not None and event["outcome"] == 2
    assert event["retail_e8"] == event["cost_e8"] > 0 and event["channel_e8"] == 0


def test_a_hint_about_the_payer_survives_the_standing_prompt(
    features: Features, world: World, gateway: Gateway, rich: EndUser
) -> None:
    """Lost: an end user who wants to pay with a key of their own only is charged for the platform's answer."""
    key = features.add({"route_preference": "byok_first"}, prompt=PROMPT)
    run(gateway, rich, key, {"input": {"question": "Where?"}})
    before = len(world.events_of(rich))
    refused = ask(gateway, rich.bearer, chat(model=f"auto:{key}", metadata={"route_mode": "byok"}))
    assert (refused.status, refused.code) == (503, "no_available_route")
    assert len(world.events_of(rich)) == before


def test_models_are_never_shown_cheaper_than_they_are(
    features: Features, world: World, gateway: Gateway, rich: EndUser
) -> None:
    """Lost: a session of an app with several features sees what models cost us, and is charged more."""
    world.books.rows("update session set feature_id = null where id = %s", rich.tenant.session)
    headers = {"authorization": f"Bearer {rich.bearer}"}

    def prompt_price() -> str:
        told: str = request(gateway, "GET", "/v1/models/mock-small", None, headers).json["pricing"]["prompt"]
        return told

    alone = prompt_price()
    key = features.add(
        pricing={"mode": "usage_markup", "markup_percent": 100, "channel_share_bps": 4000}, prompt=PROMPT
    )
    run(gateway, rich, key, {"input": {"question": "Where?"}})  # it is known now
    assert (alone, prompt_price()) == ("0.000000195", "0.0000003")
