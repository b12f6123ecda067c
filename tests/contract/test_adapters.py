"""Every provider's recorded replies through a real gateway: what is booked is the recording's truth.

The replies are in `tests/fixtures/providers`, each with what must be booked and what the caller must be told. They
are played over HTTP, in pieces and codings that providers really use; tokens are read from the database.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fakes.recorded_provider import Case, Playing, RecordedProvider, cases
from gateway_world import MARKUP_PERCENT, EndUser, Gateway, Reply, World, ask, chat, hold_of, request, wait_for

CASES = cases()
PROVIDERS = sorted({case.provider for case in CASES})
ANSWERED = [case for case in CASES if case.truth is not None]
STREAMED = [case for case in ANSWERED if case.stream]
REPORTED, COUNTED = 0, 1
COMPLETE, PROVIDER_FAILED = 0, 2
KEY = "sk-recorded-0123456789"
SHOWN = {"anthropic": "x-api-key", "gemini": "x-goog-api-key", "azure_openai": "api-key"}


def named(case: Case) -> str:
    return case.model


@pytest.fixture(scope="module")
def recorded() -> Iterator[RecordedProvider]:
    with RecordedProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def replayer(world: World, recorded: RecordedProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose every provider is the recorded one."""
    for case in CASES:
        world.books.rows(
            "insert into price (provider, model, tokenizer, context_window, max_output_tokens, input_e8_per_m,"
            " cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m, image_tokens_max, effective_from, source,"
            " status) values (%s, %s, 'words', 200000, 100000, 300000000, 30000000, 375000000, 1500000000, 1600,"
            " '2026-01-01', 'test', 'confirmed') on conflict do nothing",
            case.provider,
            case.model,
        )
    settings: dict[str, object] = {"PROVIDER_IDLE_TIMEOUT_MS": 500, "PROVIDER_MAX_RETRIES": 0}
    for name in PROVIDERS:
        settings |= {f"{name.upper()}_API_KEY": KEY, f"{name.upper()}_BASE_URL": recorded.base_url}
    running = Gateway(world.dsn, "http://127.0.0.1:9/v1", tmp_path_factory.mktemp("replayer"), **settings)
    yield running
    running.stop()


def told(case: Case, reply: Reply) -> dict[str, Any]:
    """What a caller learns of a reply, of a stream put together as clients do."""
    if not case.stream:
        choice = reply.json["choices"][0]
        message = choice["message"]
        calls = [[c["id"], c["function"]["name"], c["function"]["arguments"]] for c in message.get("tool_calls") or ()]
        return {**message, "calls": calls, "finish": choice["finish_reason"], "usage": reply.json.get("usage")}
    found: dict[str, Any] = {"content": "", "reasoning_content": "", "refusal": None, "calls": [], "usage": None}
    assert reply.events[-1] == "[DONE]", reply.body
    for event in reply.events[:-1]:
        found["usage"] = event.get("usage") or found["usage"]
        for choice in event["choices"]:
            delta = choice["delta"]
            found["content"] += delta.get("content") or ""
            found["reasoning_content"] += delta.get("reasoning_content") or ""
            found["refusal"] = delta.get("refusal") or found["refusal"]
            found["finish"] = choice["finish_reason"] or found.get("finish")
            for call in delta.get("tool_calls") or ():
                if call["index"] == len(found["calls"]):
                    found["calls"].append([call["id"], call["function"]["name"], ""])
                found["calls"][call["index"]][2] += call["function"].get("arguments") or ""
    return found


def assert_told(case: Case, reply: Reply) -> None:
    """The caller learns what the recording says."""
    says = case.says
    assert says is not None
    found = told(case, reply)
    assert (found["content"] or "", found["finish"]) == (says.get("text", ""), says["finish"])
    assert (found.get("reasoning_content") or "") == says.get("reasoning", "")
    assert found.get("refusal") == says.get("refusal")
    assert found["calls"] == says.get("calls", [])


def assert_booked(case: Case, world: World, reply: Reply) -> dict[str, Any]:
    """The books have the recording's tokens, and the caller's usage says the same."""
    truth = case.truth
    assert truth is not None
    event = world.event(hold_of(reply))
    assert event is not None, world.resolution(hold_of(reply))
    assert (event["provider"], event["model"], event["outcome"]) == (case.provider, case.model, COMPLETE)
    if truth.get("counted"):
        assert event["usage_source"] == COUNTED and event["output_tokens"] == len(case.says["text"].split())  # type: ignore[index]
        return event
    assert event["usage_source"] == REPORTED
    booked = {name: event[f"{name}_tokens"] for name in ("input", "cached_read", "cached_write", "output", "reasoning")}
    assert booked == {name: truth.get(name, 0) for name in booked}
    cost = booked["input"] * 300 + booked["cached_read"] * 30 + booked["cached_write"] * 375 + booked["output"] * 1500
    assert (event["cost_e8"], event["write_off_e8"]) == (cost, 0)
    return event


def asked(case: Case) -> dict[str, Any]:
    body = chat("Where is my parcel?", model=case.model)
    return body | {"stream": True, "stream_options": {"include_usage": True}} if case.stream else body


@pytest.mark.parametrize("case", ANSWERED, ids=named)
def test_what_is_booked_is_the_truth(
    case: Case, world: World, replayer: Gateway, recorded: RecordedProvider, rich: EndUser
) -> None:
    """Lost: a provider's way to count is misread, and every request of it is charged too much or too little."""
    recorded.play(Playing(case))
    reply = ask(replayer, rich.bearer, asked(case))
    assert reply.status == 200, reply.body
    assert_told(case, reply)
    assert_booked(case, world, reply)
    truth, usage = case.truth, told(case, reply)["usage"]
    assert truth is not None
    if not truth.get("counted"):
        whole = truth["input"] + truth.get("cached_read", 0) + truth.get("cached_write", 0)
        assert usage["prompt_tokens"] == whole and usage["cost"] > 0
    (seen,) = recorded.seen
    header = SHOWN.get(case.provider, "authorization")
    assert seen.headers[header].endswith(KEY) and seen.headers["accept-encoding"] == "identity"
    assert not {"authorization", "x-api-key", "x-goog-api-key", "api-key"} - {header} & set(seen.headers)


@pytest.mark.parametrize("playing", ["bytes", "crlf", "lines", "gzip"])
@pytest.mark.parametrize("case", STREAMED, ids=named)
def test_how_a_stream_comes_changes_nothing(
    case: Case, playing: str, world: World, replayer: Gateway, recorded: RecordedProvider, rich: EndUser
) -> None:
    """Lost: an answer, or its usage, where a provider cuts, ends its lines or compresses in another way."""
    if playing in ("crlf", "lines") and case.provider == "bedrock":
        return  # binary: there are no lines
    how = {"bytes": Playing(case, piece=3), "crlf": Playing(case, piece=50, crlf=True)}
    how["lines"] = Playing(case, piece=40, lines=True, crlf=True)
    recorded.play(how.get(playing, Playing(case, piece=20, coding="gzip")))
    reply = ask(replayer, rich.bearer, asked(case))
    assert reply.status == 200, reply.body
    assert_told(case, reply)
    assert_booked(case, world, reply)


@pytest.mark.parametrize("case", [case for case in ANSWERED if not case.stream], ids=named)
def test_a_reply_that_comes_compressed_is_opened(
    case: Case, world: World, replayer: Gateway, recorded: RecordedProvider, rich: EndUser
) -> None:
    """Lost: an answer, because a proxy on its way compresses what we asked not to be."""
    recorded.play(Playing(case, coding="gzip"))
    reply = ask(replayer, rich.bearer, asked(case))
    assert reply.status == 200, reply.body
    assert_told(case, reply)
    assert_booked(case, world, reply)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_coding_that_nobody_asked_for_is_refused_cleanly(
    provider: str, stream: bool, world: World, replayer: Gateway, recorded: RecordedProvider, rich: EndUser
) -> None:
    """Lost: bytes that nobody can read are sent on and charged."""
    case = next(case for case in ANSWERED if case.provider == provider and case.stream is stream)
    recorded.play(Playing(case, coding="br"))
    reply = ask(replayer, rich.bearer, asked(case))
    if stream or provider == "anthropic":
        assert (reply.status, reply.code) == (502, "provider_error")
        wait_for(lambda: world.open_holds(rich) == [])
        assert world.event(hold_of(reply)) is None


@pytest.mark.parametrize("case", [case for case in CASES if case.fails is not None], ids=named)
def test_a_failure_costs_nothing_and_tells_nothing(
    case: Case, world: World, replayer: Gateway, recorded: RecordedProvider, rich: EndUser
) -> None:
    """Lost: an error inside of a 200 is charged as an answer; or an upstream's inner words reach callers."""
    recorded.play(Playing(case))
    reply = ask(replayer, rich.bearer, asked(case))
    fails = case.fails
    assert fails is not None
    assert reply.status == fails["status"], reply.body
    error = reply.json["error"]
    assert [attempt["errorCode"] for attempt in error["details"]["attempts"]] == [fails["code"]]
    if "text" in fails:
        assert fails["text"] in error["message"]
    else:
        assert not any(word in reply.body.decode() for word in ("verload", "API key", "credit"))
    assert KEY not in reply.body.decode() and KEY not in replayer.log.read_text()
    wait_for(lambda: world.open_holds(rich) == [])
    assert world.event(hold_of(reply)) is None and world.balance(rich) == (10 * 10**8, 0)


@pytest.mark.parametrize("case", [case for case in CASES if case.breaks is not None], ids=named)
def test_what_broke_off_is_booked_as_far_as_it_came(
    case: Case, world: World, replayer: Gateway, recorded: RecordedProvider, rich: EndUser
) -> None:
    """Lost: an answer that broke off is charged in full, or free, or looks complete."""
    recorded.play(Playing(case))
    reply = ask(replayer, rich.bearer, asked(case))
    assert reply.status == 200
    *events, finish, error = reply.events
    assert "".join(e["choices"][0]["delta"].get("content") or "" for e in events) == case.breaks
    assert finish["choices"][0]["finish_reason"] == "error" and error["error"]["code"] == "provider_error"
    assert "10.0.0.7" not in reply.body.decode()
    event = world.event(hold_of(reply))
    assert event is not None and (event["outcome"], event["usage_source"]) == (PROVIDER_FAILED, COUNTED)
    assert event["output_tokens"] == len(str(case.breaks).split())


# ── what is sent ──

ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "anthropic-plain": (
        "/messages",
        {"model": "anthropic-plain", "max_tokens": 50, "system": [{"type": "text", "text": "Be brief."}]},
    ),
    "gemini-plain": (
        "/models/gemini-plain:generateContent",
        {"generationConfig": {"maxOutputTokens": 50}, "systemInstruction": {"parts": [{"text": "Be brief."}]}},
    ),
    "gemini-stream": (
        "/models/gemini-stream:streamGenerateContent?alt=sse",
        {"generationConfig": {"maxOutputTokens": 50}},
    ),
    "bedrock-plain": (
        "/model/bedrock-plain/converse",
        {"inferenceConfig": {"maxTokens": 50}, "system": [{"text": "Be brief."}]},
    ),
    "bedrock-stream": ("/model/bedrock-stream/converse-stream", {"inferenceConfig": {"maxTokens": 50}}),
    "azure_openai-plain": (
        "/openai/deployments/azure_openai-plain/chat/completions?api-version=2024-10-21",
        {"max_completion_tokens": 50},
    ),
    "mistral-stream": ("/chat/completions", {"max_tokens": 50, "stream": True}),
    "deepseek-cached": ("/chat/completions", {"max_tokens": 50}),
}


@pytest.mark.parametrize("model", ASKED)
def test_what_a_provider_is_sent(model: str, replayer: Gateway, recorded: RecordedProvider, rich: EndUser) -> None:
    """Lost: a provider refuses what we send, or answers more than was held."""
    case = next(case for case in CASES if case.model == model)
    recorded.play(Playing(case))
    body = asked(case) | {"max_completion_tokens": 50}
    body["messages"].insert(0, {"role": "system", "content": "Be brief."})
    assert ask(replayer, rich.bearer, body).status == 200
    (seen,) = recorded.seen
    path, words = ASKED[model]
    assert seen.path == path
    assert {name: seen.body.get(name) for name in words} == words
    if case.provider in ("mistral", "deepseek"):
        assert not {"stream_options", "max_completion_tokens"} & set(seen.body)


@pytest.mark.parametrize(
    ("model", "more", "param"),
    [
        ("anthropic-plain", {"n": 2}, "n"),
        ("anthropic-plain", {"logprobs": True}, "logprobs"),
        ("anthropic-plain", {"response_format": {"type": "json_object"}}, "response_format"),
        ("anthropic-plain", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools"),
        ("gemini-plain", {"reasoning_effort": "loud"}, "reasoning_effort"),
        ("bedrock-plain", {"tool_choice": 5}, "tool_choice"),
        ("deepseek-cached", {"n": 2}, "n"),
        ("openai-cached", {"tools": [{"type": "web_search"}]}, "tools"),
        ("moonshot-cached", {"tools": [{"type": "builtin_function", "function": {"name": "$web_search"}}]}, "tools"),
        ("openai-cached", {"tools": {"type": "function"}}, "tools"),
        ("xai-thinking", {"search_parameters": {"mode": "on"}}, "search_parameters"),
    ],
)
def test_what_a_wire_has_no_words_for_is_refused(
    model: str, more: dict[str, Any], param: str, world: World, replayer: Gateway, recorded: RecordedProvider,
    rich: EndUser,
) -> None:  # fmt: skip
    """Lost: a caller's wish is dropped in silence; or what a provider bills beyond tokens gets through."""
    recorded.play(Playing(next(case for case in CASES if case.model == model)))
    reply = ask(replayer, rich.bearer, chat(model=model, **more))
    assert (reply.status, reply.code, reply.json["error"]["param"]) == (400, "invalid_request", param)
    assert recorded.seen == []
    wait_for(lambda: world.open_holds(rich) == [])


@pytest.mark.parametrize("model", ["anthropic-cached", "openai-cached"])
def test_an_hour_of_cache_is_not_sold(
    model: str, world: World, replayer: Gateway, recorded: RecordedProvider, rich: EndUser
) -> None:
    """Lost: writes to the longer cache cost more than they are rated with."""
    recorded.play(Playing(next(case for case in CASES if case.model == model)))
    hour = {"type": "ephemeral", "ttl": "1h"}
    part: dict[str, Any] = {"type": "text", "text": 'Not "ttl": "1h".', "cache_control": hour}
    body = chat(model=model) | {"messages": [{"role": "user", "content": [part]}]}
    reply = ask(replayer, rich.bearer, body)
    assert reply.status == 400 and "cache of five minutes" in reply.json["error"]["message"]
    part["cache_control"] = {"type": "ephemeral"}
    assert ask(replayer, rich.bearer, body).status == 200
    assert recorded.seen[0].body["messages"][0]["content"] == [part]


def test_tiers_are_held_and_charged(world: World, replayer: Gateway, recorded: RecordedProvider) -> None:
    """Lost: a long prompt is charged as a short one, or costs more than was held."""
    case = next(case for case in CASES if case.model == "gemini-cached-thoughts-tools")
    always = {"from_minute": 0, "until_minute": 1439}
    prices = {f"{kind}_e8_per_m": 1_000_000 * e8 for kind, e8 in (("input", 7), ("cached_read", 3), ("output", 11))}
    dear = {name: 10 * e8 for name, e8 in prices.items()} | {"cached_write_e8_per_m": 0}
    flat = {name: 1_000_000 for name in dear}
    model = "gemini-tiered"
    world.books.rows(
        "insert into price (provider, model, tokenizer, context_window, max_output_tokens, input_e8_per_m,"
        " cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m, image_tokens_max, effective_from, source,"
        " status, tiers) values ('gemini', %s, 'words', 20000, 1000, 1000000, 1000000, 1000000, 1000000, 1600,"
        " '2026-01-01', 'test', 'confirmed', %s) returning id",
        model,
        json.dumps(
            [
                flat | {"above_input_tokens": 0},
                prices | {"cached_write_e8_per_m": 0, "above_input_tokens": 5_000},
                dear | {"above_input_tokens": 6_000},
                flat | {"above_input_tokens": 9_000, **always},
            ]
        ),
    )
    world.announce()
    recorded.play(Playing(replace(case, name="tiered")))
    person = world.end_user()
    body = chat("word " * 1_000, model=model)
    wait_for(lambda: ask(replayer, person.bearer, body).status == 200)
    event = world.events_of(person)[-1]
    # 5,250 input tokens in all: above the first border, below the next.
    assert event["cost_e8"] == 1_154 * 7 + 4_096 * 3 + 200 * 11
    # About 5,100 bytes and 1,000 tokens of output at the worst that so many can reach, never at the dear tier.
    worst = ((len(json.dumps(body)) + 64) * 7 + 1_000 * 11) * (100 + MARKUP_PERCENT) // 100
    assert event["held_e8"] <= worst and event["write_off_e8"] == 0


def test_all_providers_are_looked_at(replayer: Gateway) -> None:
    """Lost: the health page asks a provider where it has nothing to say, and calls it sick."""
    shown = request(replayer, "GET", "/health/providers").json
    assert {each["provider"] for each in shown["providers"]} >= set(PROVIDERS)
    told = [each for each in shown["providers"] if each["provider"] != "mock"]
    # Those whose account a test's failures spoke of are cooling; none failed to answer the question.
    assert all(each["ok"] or each.get("cooling") for each in told), json.dumps(shown)
    assert not any("error" in each or each.get("statusCode", 200) >= 500 for each in told), json.dumps(shown)
