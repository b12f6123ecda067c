"""What a feature's privacy policy promises, end to end: planted values never reach the provider, and the client gets
them back as if nothing had happened."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from gateway_world import (
    CHAT,
    INPUT_E8,
    MARKUP_PERCENT,
    EndUser,
    Gateway,
    Mock,
    Reply,
    World,
    ask,
    chat,
    request,
    text_of,
)

from faucet.terms import UsageSource

PLANTED = {
    "email": "anna.petrov@example.com",
    "phone": "+44 20 7946 0958",
    "cn_id": "11010519491231002X",
    "card": "4111 1111 1111 1111",
    "iban": "DE89 3704 0044 0532 0130 00",
    "us_ssn": "987-65-4321",
    "secret": 'Tr0ub4dor&3\\x"7',
    "address": "北京市朝阳区建国路88号3号楼1201室",
}
TEXT = (
    f"I am {PLANTED['email']}, 电话 {PLANTED['phone']}; 身份证 {PLANTED['cn_id']}, card {PLANTED['card']},\n"
    f"IBAN {PLANTED['iban']}, SSN {PLANTED['us_ssn']}, 地址 {PLANTED['address']}。 Again {PLANTED['email']} [EMAIL_7]"
)
COUNTS = {kind: 1 for kind in PLANTED if kind != "secret"}
SCHEMA = {"type": "object", "properties": {"note": {"type": "string"}}, "required": ["note"]}
TOOL = {"type": "function", "function": {"name": "keep", "parameters": SCHEMA}}
ECHO = {"echo": True, "chunks": 10_000}
"""The mock answers with what it was asked, a character an event."""

EndUserOf = Callable[[str], EndUser]


@pytest.fixture
def private(world: World) -> EndUserOf:
    """An end user of an app whose only feature has this privacy."""

    def make(privacy: str) -> EndUser:
        tenant = world.books.tenant()
        query = (
            'update feature set policy = %s, pricing = \'{"mode":"usage_markup","markup_percent":30}\' where id = %s'
        )
        world.books.rows(query, json.dumps({"privacy": privacy}), tenant.feature)
        return world.end_user(app_of=tenant)

    return make


def leaked(text: str, values: list[str]) -> list[str]:
    """The values that a text has, plain or as JSON spells them."""
    return [value for value in values if value in text or json.dumps(value)[1:-1] in text]


def sent(mock: Mock) -> str:
    """What the provider got last, as text."""
    return json.dumps(mock.last(), ensure_ascii=False)


def note_of(reply: Reply) -> dict[str, Any]:
    """The `modelfaucet` object of a reply."""
    if reply.headers["content-type"].startswith("text/event-stream"):
        return next(event["modelfaucet"] for event in reply.events if "modelfaucet" in event)
    found: dict[str, Any] = reply.json["modelfaucet"]
    return found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["mock-small", "crlf-sse"])
def test_content_goes_redacted_and_comes_back(
    gateway: Gateway, mock: Mock, private: EndUserOf, stream: bool, model: str
) -> None:
    """Lost: a person's data at a company that they never heard of, or an answer full of placeholders."""
    me = private("redact_pii_before_cloud")
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    reply = ask(gateway, me.bearer, chat(TEXT, model=model, n=2, mock=ECHO, **options))
    assert reply.status == 200
    got = sent(mock)
    assert leaked(got, list(PLANTED.values())) == []
    assert "[EMAIL_1]" in got and got.count("[EMAIL_1]") == 2 and "[EMAIL_7]" in got
    assert reply.text == TEXT
    assert note_of(reply)["redactions"] == COUNTS
    if stream:
        second = [choice for event in reply.events[:-1] for choice in event["choices"] if choice["index"] == 1]
        assert "".join(choice["delta"].get("content") or "" for choice in second) == TEXT
    else:
        assert reply.json["choices"][1]["message"]["content"] == TEXT
    log = gateway.log.read_text()
    assert leaked(log, list(PLANTED.values())) == []
    line = next(line for line in log.splitlines() if "privacy.redacted" in line and reply.request_id in line)
    assert json.loads(line)["redactions"] == COUNTS


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called_with_the_values(gateway: Gateway, mock: Mock, private: EndUserOf, stream: bool) -> None:
    """Arguments of a tool call are JSON with the client's values in it, whatever quotes these have."""
    me = private("redact_pii_before_cloud")
    text = f"{TEXT}\npassword: {PLANTED['secret']}"
    body = chat(text, tools=[TOOL], tool_choice="required", stream=stream, mock=ECHO)
    body["messages"].insert(0, {"role": "system", "content": f"You serve {PLANTED['email']}."})
    reply = ask(gateway, me.bearer, body)
    assert reply.status == 200
    assert leaked(sent(mock), list(PLANTED.values())) == []
    if stream:
        deltas = [choice["delta"] for event in reply.events[:-1] for choice in event["choices"]]
        calls = [call["function"] for delta in deltas for call in delta.get("tool_calls", ())]
        arguments = "".join(call.get("arguments", "") for call in calls)
    else:
        arguments = reply.json["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"note": text}


@pytest.mark.parametrize("stream", [False, True])
def test_earlier_turns_and_results_go_redacted(gateway: Gateway, mock: Mock, private: EndUserOf, stream: bool) -> None:
    """What a tool said, and what it was called with, is as personal as what its user said."""
    me = private("redact_pii_before_cloud")
    arguments = json.dumps({"note": PLANTED["address"], "to": PLANTED["email"]})
    call = {"id": "call_1", "type": "function", "function": {"name": "keep", "arguments": arguments}}
    body = chat("Go on", stream=stream, mock=ECHO, tools=[TOOL], user=PLANTED["email"])
    body["messages"] += [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": json.dumps({"card": PLANTED["card"]})},
        {"role": "user", "name": PLANTED["email"], "content": [{"type": "text", "text": f"ID {PLANTED['cn_id']}"}]},
    ]
    body["messages"].append({"role": "tool", "tool_call_id": "call_1", "content": "done"})
    reply = ask(gateway, me.bearer, body)
    assert reply.status == 200 and reply.text == f"ID {PLANTED['cn_id']}"
    got = mock.last()["body"]
    assert leaked(json.dumps(got, ensure_ascii=False), list(PLANTED.values())) == []
    called = json.loads(got["messages"][1]["tool_calls"][0]["function"]["arguments"])
    assert called == {"note": "[ADDRESS_1]", "to": "[EMAIL_1]"}


def test_a_cut_placeholder_is_not_lost(gateway: Gateway, private: EndUserOf) -> None:
    """An answer that ends within a placeholder ends with what the model wrote of it, in the event that finishes it."""
    me = private("redact_pii_before_cloud")
    for most in range(1, 8):
        body = chat(f"a {PLANTED['email']} b {PLANTED['email']}", max_tokens=most, mock=ECHO)
        whole, stream = (ask(gateway, me.bearer, {**body, "stream": flag}) for flag in (False, True))
        assert whole.text == text_of(stream.events) != ""
        finish = [choice for event in stream.events[:-1] for choice in event["choices"] if choice["finish_reason"]]
        assert len(finish) == 1


def test_a_broken_stream_gives_what_came(gateway: Gateway, private: EndUserOf) -> None:
    """Where a provider breaks off, the client has every character that was meant for it, and the error."""
    me = private("redact_pii_before_cloud")
    text = f"{PLANTED['email']} and {PLANTED['email']}"
    reply = ask(gateway, me.bearer, chat(text, model="cut-mid-stream", stream=True, mock=ECHO))
    assert reply.events[-1]["error"]["code"] == "provider_error"
    # Half of "[EMAIL_1] and [EMAIL_1]", restored.
    assert text_of(reply.events[:-1]).startswith(f"{PLANTED['email']} a")


@pytest.mark.parametrize("stream", [False, True])
def test_a_repeat_is_the_restored_reply(gateway: Gateway, mock: Mock, private: EndUserOf, stream: bool) -> None:
    """The reply that is kept for a repeated key is the client's, not the provider's."""
    me = private("redact_pii_before_cloud")
    body, key = chat(TEXT, stream=stream, mock=ECHO), {"idempotency-key": uuid4().hex}
    first = ask(gateway, me.bearer, body, key)
    calls = mock.calls()
    again = ask(gateway, me.bearer, body, key)
    assert (first.text, again.text, again.headers["idempotent-replayed"]) == (TEXT, TEXT, "true")
    assert mock.calls() == calls


def test_block_refuses_before_anything_is_held(gateway: Gateway, world: World, mock: Mock, private: EndUserOf) -> None:
    """Where nothing personal may leave, nothing does: no call, no charge, and the counts alone are told."""
    me = private("block")
    calls, key = mock.calls(), {"idempotency-key": uuid4().hex}
    reply = ask(gateway, me.bearer, chat(TEXT), key)
    assert (reply.status, reply.code) == (403, "forbidden")
    assert reply.json["error"]["details"] == {"personal_data": COUNTS}
    assert leaked(reply.body.decode() + gateway.log.read_text(), list(PLANTED.values())) == []
    assert (mock.calls(), world.open_holds(me), world.events_of(me)) == (calls, [], [])
    # The key is free again, and a clean request passes unchanged.
    clean = ask(gateway, me.bearer, chat("Where is my order 4155550100123?", mock=ECHO), key)
    assert clean.status == 200 and clean.text == "Where is my order 4155550100123?"


def test_without_privacy_nothing_is_changed(gateway: Gateway, mock: Mock, private: EndUserOf) -> None:
    """A feature that doesn't ask for it sends what it was given, and says nothing of redactions."""
    reply = ask(gateway, private("none").bearer, chat(TEXT, mock=ECHO))
    assert reply.text == TEXT and "redactions" not in note_of(reply)
    assert mock.last()["body"]["messages"][0]["content"] == TEXT


def test_local_only_never_leaves(gateway: Gateway, mock: Mock, private: EndUserOf) -> None:
    """A feature that is for local models only has no route through the cloud, redacted or not."""
    calls = mock.calls()
    reply = ask(gateway, private("local_only").bearer, chat(TEXT))
    assert reply.code == "no_available_route" and mock.calls() == calls


def test_the_hold_bounds_what_is_sent(gateway: Gateway, world: World, mock: Mock, private: EndUserOf) -> None:
    """A request that grows by its placeholders is held for as it is sent, and charged as the provider counts it."""
    me = private("redact_pii_before_cloud")
    text = " ".join(f"a{number}@b.cn" for number in range(2000))
    reply = ask(gateway, me.bearer, chat(text, max_tokens=10, mock={"tokens": 5}))
    assert reply.status == 200 and note_of(reply)["redactions"] == {"email": 2000}
    content = mock.last()["body"]["messages"][0]["content"]
    assert len(content) > 1.1 * len(text)
    (event,) = world.events_of(me)
    assert event["held_e8"] >= len(content) * INPUT_E8 * (100 + MARKUP_PERCENT) // 100
    assert event["input_tokens"] == reply.json["usage"]["prompt_tokens"]


def test_without_a_report_the_redacted_text_is_counted(gateway: Gateway, world: World, private: EndUserOf) -> None:
    """Our own count is of what was sent and generated, not of what the client reads."""
    for stream in (False, True):
        me = private("redact_pii_before_cloud")
        reply = ask(gateway, me.bearer, chat(PLANTED["address"], model="no-usage", stream=stream, mock=ECHO))
        assert reply.text == PLANTED["address"]
        (event,) = world.events_of(me)
        assert event["usage_source"] == UsageSource.COUNTED and event["output_tokens"] < len(PLANTED["address"]) // 2


def test_odd_bodies_are_refused_with_a_reason(gateway: Gateway, private: EndUserOf) -> None:
    """What can't be read can't be redacted, so it doesn't pass either."""
    me = private("redact_pii_before_cloud")
    for extra in ('"x": {"y": 1e999}', '"x": ' + "[" * 5000 + "]" * 5000):
        body = '{"model":"mock-small","messages":[{"role":"user","content":"hi"}],' + extra + "}"
        headers = {"authorization": f"Bearer {me.bearer}", "content-type": "application/json"}
        reply = request(gateway, "POST", CHAT, body.encode(), headers)
        assert (reply.status, reply.code) == (400, "invalid_request")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_other_faces_go_redacted_too(gateway: Gateway, mock: Mock, private: EndUserOf, path: str, stream: bool) -> None:
    """Whatever API a client speaks, its values stay here and are in its answer."""
    me = private("redact_pii_before_cloud")
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 500}
    if path == "/v1/responses":
        asked = {"input": TEXT}
    headers = {"authorization": f"Bearer {me.bearer}", "content-type": "application/json"}
    body = json.dumps({"model": "mock-small", "stream": stream, "mock": ECHO, **asked}).encode()
    reply = request(gateway, "POST", path, body, headers)
    assert reply.status == 200
    assert leaked(sent(mock), list(PLANTED.values())) == []
    assert leaked(reply.body.decode(), [value for kind, value in PLANTED.items() if kind in COUNTS]) == [
        value for kind, value in PLANTED.items() if kind in COUNTS
    ]
