"""What a first upstream may do so that its answer, its error or its silence harms who asked: a healthy second one is
behind it, and the key that it was sent is nobody's to see."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.answering_provider import Answer, AnsweringProvider
from features_world import Features, features, run
from gateway_world import EndUser, Gateway, Mock, World, ask, chat, text_of, wait_for

__all__ = ["features"]

KEY = "sk-" + "the-operators-own-" + "0123456789abcdef"
NOTHING = Answer(500, (b"{}",))


@pytest.fixture(scope="module")
def first() -> Iterator[AnsweringProvider]:
    """The provider that is asked first."""
    with AnsweringProvider(lambda headers, body: NOTHING) as running:
        yield running


@pytest.fixture(scope="module")
def sold_twice(world: World) -> None:
    """`mock-large` is sold by `litellm`, too, and cheaper."""
    world.books.rows(
        "insert into price (provider, model, tokenizer, context_window, max_output_tokens, input_e8_per_m,"
        " cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m, image_tokens_max, effective_from, source,"
        " status) values ('litellm', 'mock-large', 'words', 128000, 16384, 25000000, 25000000, 25000000, 100000000,"
        " 1000, '2026-01-01', 'x', 'confirmed')"
    )


@pytest.fixture
def gateway(world: World, mock: Mock, first: AnsweringProvider, sold_twice: None, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway with both, new for each test: what was seen of the first one is not remembered."""
    running = Gateway(
        world.dsn,
        mock.url,
        tmp_path,
        LITELLM_BASE_URL=first.url,
        LITELLM_MASTER_KEY=KEY,
        PROVIDER_TIMEOUT_MS=3000,
        PROVIDER_MAX_RETRIES=1,
        PROVIDER_RETRY_DELAY_MS=10,
    )
    first.asked.clear()
    yield running
    running.stop()


def error(status: int, message: str, *headers: tuple[str, str], code: str | None = None) -> Answer:
    body = json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": code}}).encode()
    return Answer(status, (body,), (("content-type", "application/json"), *headers))


def test_a_provider_that_repeats_our_headers_does_not_give_the_key_away(
    gateway: Gateway, first: AnsweringProvider, rich: EndUser
) -> None:
    """Lost: an end user reads the operator's or the developer's key in an error."""
    first.answer = lambda headers, body: error(400, f"bad request; headers were {headers}")
    reply = ask(gateway, rich.bearer, chat(model="mock-large"))
    assert reply.status == 400 and reply.code == "provider_error"
    assert KEY.encode() not in reply.body and b"0123456789abcdef" not in reply.body
    assert KEY not in gateway.log.read_text()
    first.answer = lambda headers, body: error(400, "x" * 490 + headers["authorization"])
    assert b"sk-" not in ask(gateway, rich.bearer, chat(model="mock-large")).body
    first.answer = lambda headers, body: error(400, "temperature must be at most 2")
    assert b"temperature must be at most 2" in ask(gateway, rich.bearer, chat(model="mock-large")).body


def test_an_account_without_the_model_is_not_the_last_word(
    gateway: Gateway, first: AnsweringProvider, rich: EndUser
) -> None:
    """Lost: an end user sees `model not found` although a healthy route has the model."""
    first.answer = lambda headers, body: error(404, "The model does not exist or you do not have access to it.")
    for stream in (False, True):
        reply = ask(gateway, rich.bearer, chat(model="mock-large", stream=stream))
        assert reply.status == 200, reply.body
    assert len(first.asked) == 2  # never twice for one request


def test_an_error_in_the_first_event_is_told_however_it_is_cut(
    gateway: Gateway, first: AnsweringProvider, rich: EndUser
) -> None:
    """Lost: a stream whose first bytes are half an error is taken for an answer."""
    event = b'data: {"error":{"message":"overloaded","code":529}}\n\n'
    stream = (("content-type", "text/event-stream"),)
    for cut in (1, 9, 20, len(event) - 1):
        first.answer = lambda headers, body, cut=cut: Answer(200, (event[:cut], 0.02, event[cut:]), stream)
        reply = ask(gateway, rich.bearer, chat(model="mock-large", stream=True))
        assert reply.status == 200 and text_of(reply.events), (cut, reply.body)
        assert b"overloaded" not in reply.body and reply.body.endswith(b"data: [DONE]\n\n")


def test_a_provider_that_wants_a_long_pause_gets_it(gateway: Gateway, first: AnsweringProvider, rich: EndUser) -> None:
    """Lost: everybody waits for five seconds, and the provider is asked again before it said it may be."""
    first.answer = lambda headers, body: error(429, "slow down", ("retry-after", "30"))
    began = time.monotonic()
    assert ask(gateway, rich.bearer, chat(model="mock-large")).status == 200
    assert time.monotonic() - began < 4 and len(first.asked) == 1


def test_what_a_model_thinks_is_no_part_of_a_streamed_output(
    gateway: Gateway, first: AnsweringProvider, features: Features, rich: EndUser
) -> None:
    """Lost: a valid answer is called invalid because the model thought aloud before it."""
    deltas = [{"reasoning_content": "Hm."}, {"content": '{"ok":'}, {"content": "true}"}]
    chunks = [{"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    first.answer = lambda headers, asked: Answer(200, (body,), (("content-type", "text/event-stream"),))
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    key = features.add({"models": ["mock-large"]}, prompt={"user": "Is it?"}, output_schema=schema)
    reply = run(gateway, rich, key, {"input": {}, "stream": True})
    assert text_of(reply.events) == '{"ok":true}'
    assert reply.events[-2]["modelfaucet"]["output_valid"] is True, reply.body


def answer(model: str = "x", wait: float = 0.0) -> Answer:
    reply = {
        "id": "c",
        "object": "chat.completion",
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
    }
    return Answer(200, (wait, json.dumps(reply).encode()))


GOOGLES = '{"error":{"code":400,"status":"INVALID_ARGUMENT","message":%s,"details":[{"reason":"%s"}]}}'
ANTHROPICS = '{"type":"error","error":{"type":"invalid_request_error","message":%s}}'


@pytest.mark.parametrize(
    ("name", "about_the_account", "about_the_request"),
    [
        (
            "gemini",
            GOOGLES % ('"API key not valid."', "API_KEY_INVALID"),
            GOOGLES % (json.dumps('no such type: "reason":"API_KEY_INVALID"'), "FIELD"),
        ),
        (
            "anthropic",
            ANTHROPICS % '"Your credit balance is too low to access the Anthropic API."',
            ANTHROPICS % '"tag: Your credit balance is too low"',
        ),
    ],
)
def test_an_account_that_is_told_off_under_400_goes_last_and_nobody_can_feign_it(
    world: World,
    mock: Mock,
    first: AnsweringProvider,
    rich: EndUser,
    tmp_path: Path,
    name: str,
    about_the_account: str,
    about_the_request: str,
) -> None:
    """Lost: a dead account is asked first by every request; or an end user's words take it from everybody else."""
    world.books.rows(
        "insert into price (provider, model, tokenizer, context_window, max_output_tokens, input_e8_per_m,"
        " cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m, image_tokens_max, effective_from, source,"
        " status) values (%s, 'mock-large', 'words', 128000, 16384, 25000000, 25000000, 25000000, 100000000, 1000,"
        " '2026-01-01', 'x', 'confirmed')",
        name,
    )
    word = name.upper()
    settings = {f"{word}_API_KEY": KEY, f"{word}_BASE_URL": first.url, "PROVIDER_MAX_RETRIES": 0}
    gateway = Gateway(world.dsn, mock.url, tmp_path, **settings)
    first.asked.clear()
    json_type = (("content-type", "application/json"),)
    try:
        first.answer = lambda headers, body: Answer(400, (about_the_request.encode(),), json_type)
        for _ in range(2):
            refused = ask(gateway, rich.bearer, chat(model="mock-large"))
            assert refused.status == 400 and any(said in refused.body for said in (b"too low", b"no such type"))
        assert len(first.asked) == 2
        first.answer = lambda headers, body: Answer(400, (about_the_account.encode(),), json_type)
        for _ in range(3):
            assert ask(gateway, rich.bearer, chat(model="mock-large")).status == 200
        assert len(first.asked) == 3
    finally:
        gateway.stop()


def test_latency_first_takes_who_is_faster_and_says_so(
    gateway: Gateway, first: AnsweringProvider, features: Features, rich: EndUser
) -> None:
    """Lost: a policy's word that changes nothing on a running gateway; a provider that refuses fast counts as fast."""
    key = features.add({"models": ["mock-large"], "model_policy": "latency_first"})

    def asked() -> str:
        reply = run_chat(gateway, rich, key)
        provider: str = reply["modelfaucet"]["provider"]
        return provider

    first.answer = lambda headers, body: answer(wait=0.4)
    seen = [asked() for _ in range(8)]
    assert seen[0] == "litellm" and set(seen[2:]) == {"mock"}, seen


def test_a_provider_that_refuses_fast_is_not_fast(
    gateway: Gateway, first: AnsweringProvider, features: Features, rich: EndUser
) -> None:
    """Lost: latency_first sends everybody to the one account that has not got the model."""
    key = features.add({"models": ["mock-large"], "model_policy": "latency_first"})
    first.answer = lambda headers, body: error(404, "no such model")
    assert {run_chat(gateway, rich, key)["modelfaucet"]["provider"] for _ in range(4)} == {"mock"}


def run_chat(gateway: Gateway, end_user: EndUser, key: str) -> dict[str, Any]:
    """A chat with the feature, once the gateway knows it."""
    body = chat(model=f"auto:{key}")
    reply = wait_for(lambda: each if (each := ask(gateway, end_user.bearer, body)).status != 404 else None)
    assert reply.status == 200, reply.body
    told: dict[str, Any] = reply.json
    return told
