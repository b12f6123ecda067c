"""The gateway as OpenAI's official Python client sees it, sync and async, over loopback HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import openai
import pytest
from cable import Cable
from gateway_world import FEATURE, Charged, EndUser, Gateway, Mock, World, wait_for
from openai import AsyncOpenAI, OpenAI

from faucet.kit.money import to_wire
from faucet.kit.tokens import count_chat_input, count_text

MESSAGES: Any = [{"role": "user", "content": "Please answer this customer: where is my order?"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "find_order",
            "description": "Find an order.",
            "parameters": {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
        },
    }
]
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "reply",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"subject": {"type": "string"}, "urgent": {"type": "boolean"}},
            "required": ["subject", "urgent"],
            "additionalProperties": False,
        },
    },
}
PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def client_for(gateway: Gateway, bearer: str, *, retries: int = 0, port: int | None = None) -> OpenAI:
    url = gateway.openai_url if port is None else f"http://127.0.0.1:{port}/v1"
    return OpenAI(base_url=url, api_key=bearer, max_retries=retries, timeout=20)


@pytest.fixture
def client(gateway: Gateway, rich: EndUser) -> Iterator[OpenAI]:
    with client_for(gateway, rich.bearer) as made:
        yield made


@pytest.fixture(scope="module")
def strict(world: World, mock: Mock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a credential for its provider and few requests a session."""
    running = Gateway(
        world.dsn,
        mock.url,
        tmp_path_factory.mktemp("strict"),
        MOCK_PROVIDER_API_KEY="the-operators-own",
        GATEWAY_RATE_LIMIT_MAX_REQUESTS=3,
        GATEWAY_RATE_LIMIT_WINDOW_MS=60_000,
    )
    yield running
    running.stop()


def create(
    client: OpenAI, *, model: str = "mock-small", messages: Any = MESSAGES, mock: Any = None, **more: Any
) -> Any:
    body = {} if mock is None else {"mock": mock}
    body |= more.pop("extra_body", {})
    return client.chat.completions.create(model=model, messages=messages, extra_body=body, **more)


def hold_of(reply: Any) -> UUID:
    return UUID(reply.id.removeprefix("chatcmpl_mf_req_"))


def text_of(chunks: list[Any], index: int = 0) -> str:
    return "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices if c.index == index)


def test_a_plain_reply_is_openais_with_what_it_cost(client: OpenAI, world: World, rich: EndUser) -> None:
    """The price that a client shows its end user would not be the one that was taken from the wallet."""
    reply = create(client)
    assert reply.object == "chat.completion" and reply.model == "mock-small" and reply.system_fingerprint == "fp_mock"
    assert reply.choices[0].finish_reason == "stop"
    usage = reply.usage
    assert usage.prompt_tokens == count_chat_input({"messages": MESSAGES}, "words")
    assert usage.completion_tokens == count_text(reply.choices[0].message.content, "words") == 48
    due = Charged(usage.prompt_tokens, usage.completion_tokens)
    note = reply.modelfaucet
    assert reply.id == f"chatcmpl_mf_{note['request_id']}"
    assert note == {
        "request_id": reply._request_id,
        "route_mode": "platform",
        "feature_key": FEATURE,
        "feature_version": 1,
        "estimated_price_usd": to_wire(due.retail),
        "price_usd": to_wire(due.retail),
        "provider": "mock",
        "model": "mock-small",
        "usage_source": "reported",
        "wallet_balance_usd": to_wire(world.balance(rich)[0]),
    }
    assert Decimal(str(usage.cost)) == Decimal(to_wire(due.retail))
    event = world.event(hold_of(reply))
    assert event is not None and event["retail_e8"] == due.retail
    assert world.balance(rich) == (10 * 10**8 - due.retail, 0)


def test_a_stream_with_usage_ends_with_what_it_cost(client: OpenAI, world: World, rich: EndUser) -> None:
    """A client that streams could not show usage or price, or would show it before it was booked."""
    chunks = list(create(client, stream=True, stream_options={"include_usage": True}))
    assert {chunk.id for chunk in chunks} == {chunks[0].id} and chunks[0].id.startswith("chatcmpl_mf_req_")
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["stop"]
    last = chunks[-1]
    assert last.choices == [] and last.object == "chat.completion.chunk" and last.model == "mock-small"
    assert last.usage.completion_tokens == count_text(text_of(chunks), "words") == 48
    due = Charged(last.usage.prompt_tokens, 48)
    assert last.modelfaucet["price_usd"] == to_wire(due.retail)
    assert last.modelfaucet["usage_source"] == "reported" and last.modelfaucet["feature_key"] == FEATURE
    assert last.modelfaucet["wallet_balance_usd"] == to_wire(world.balance(rich)[0])
    assert Decimal(str(last.usage.cost)) == Decimal(to_wire(due.retail))
    assert world.balance(rich) == (10 * 10**8 - due.retail, 0)


@pytest.mark.parametrize("asked", [{}, {"stream_options": {"include_usage": False}}, {"stream_options": {}}])
def test_a_stream_without_usage_has_no_usage_chunk(client: OpenAI, mock: Mock, rich: EndUser, asked: Any) -> None:
    """Clients that read `choices[0]` of every chunk would break on a chunk that they never asked for."""
    chunks = list(create(client, stream=True, **asked))
    assert all(chunk.choices for chunk in chunks)
    assert not any(chunk.usage for chunk in chunks)
    assert mock.last()["body"]["stream_options"] == {"include_usage": True}, "the gateway itself must know"


def test_other_stream_options_are_kept(client: OpenAI, mock: Mock) -> None:
    """An option of a provider's own would be lost when the gateway asks for usage."""
    list(create(client, stream=True, stream_options={"include_obfuscation": False}))
    assert mock.last()["body"]["stream_options"] == {"include_obfuscation": False, "include_usage": True}


async def test_the_async_client_works_too(gateway: Gateway, world: World, rich: EndUser) -> None:
    """Half of the apps that would move to us use the asynchronous client."""
    async with AsyncOpenAI(base_url=gateway.openai_url, api_key=rich.bearer, max_retries=0, timeout=20) as client:
        reply: Any = await client.chat.completions.create(model="mock-small", messages=MESSAGES)
        assert reply.choices[0].message.content and reply.modelfaucet["provider"] == "mock"
        stream = await client.chat.completions.create(
            model="mock-small", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert text_of(chunks) == reply.choices[0].message.content
        assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 48
        listed = [model.id async for model in client.models.list()]
        assert "mock-small" in listed
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="no-such-model", messages=MESSAGES)
    assert len(world.events_of(rich)) == 2


def test_tool_calls_survive(client: OpenAI, world: World) -> None:
    """Agents would lose the calls that they are made of, or tools would be used without being paid."""
    reply = create(client, tools=TOOLS, tool_choice="required")
    assert reply.choices[0].finish_reason == "tool_calls" and reply.choices[0].message.content is None
    [call] = reply.choices[0].message.tool_calls
    assert call.function.name == "find_order" and json.loads(call.function.arguments)["id"]
    chunks = list(create(client, tools=TOOLS, tool_choice="required", stream=True))
    parts = [c for chunk in chunks for choice in chunk.choices for c in choice.delta.tool_calls or ()]
    assert parts[0].function.name == "find_order" and parts[0].id == call.id
    assert "".join(part.function.arguments or "" for part in parts) == call.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    for answer in (reply, chunks[0]):
        event = world.event(hold_of(answer))
        assert event is not None and event["output_tokens"] == reply.usage.completion_tokens > 0


def test_a_tools_answer_goes_back(client: OpenAI) -> None:
    """The second half of a tool call could not be sent."""
    call = create(client, tools=TOOLS, tool_choice="required").choices[0].message
    talk = [*MESSAGES, call.to_dict(), {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "shipped"}]
    assert create(client, messages=talk, tools=TOOLS).choices[0].message.content


def test_all_choices_survive_and_are_billed(client: OpenAI, world: World) -> None:
    """All but the first of several answers would get lost, or be free."""
    reply = create(client, n=2)
    texts = [choice.message.content for choice in reply.choices]
    assert len(set(texts)) == 2 and reply.usage.completion_tokens == 96
    chunks = list(create(client, n=2, stream=True))
    assert [text_of(chunks, index) for index in range(2)] == texts
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["stop", "stop"]
    event = world.event(hold_of(chunks[0]))
    assert event is not None and event["output_tokens"] == 96


def test_structured_output_and_logprobs_survive(client: OpenAI) -> None:
    """Apps that parse their answers, or weigh them, would not work through the gateway."""
    parsed = json.loads(create(client, response_format=SCHEMA).choices[0].message.content)
    assert set(parsed) == {"subject", "urgent"}
    streamed = json.loads(text_of(list(create(client, response_format=SCHEMA, stream=True))))
    assert streamed == parsed
    reply = create(client, logprobs=True, top_logprobs=2)
    content = reply.choices[0].logprobs.content
    assert "".join(one.token for one in content) == reply.choices[0].message.content
    assert all(len(one.top_logprobs) == 2 for one in content)


def test_images_are_sent_on_and_billed(client: OpenAI, mock: Mock, world: World) -> None:
    """Prompts with images would be cut to their text, or their images would be free."""
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    reply = create(client, messages=[{"role": "user", "content": parts}])
    assert mock.last()["body"]["messages"][0]["content"] == parts
    event = world.event(hold_of(reply))
    assert event is not None and event["input_tokens"] == reply.usage.prompt_tokens > 1000


def test_unknown_fields_pass_and_our_words_do_not(client: OpenAI, mock: Mock) -> None:
    """New features of a provider would wait for us; or the provider would read words that are for us alone."""
    ours = {"feature_key": FEATURE, "route_mode": "platform", "route_preference": ["platform_pool"]}
    create(client, metadata={**ours, "ticket": "T-1"}, seed=7, extra_body={"verbosity": "low", "x_new": {"deep": [1]}})
    sent = mock.last()["body"]
    assert sent["metadata"] == {"ticket": "T-1"} and sent["seed"] == 7
    assert sent["verbosity"] == "low" and sent["x_new"] == {"deep": [1]}
    create(client, metadata=ours)
    assert "metadata" not in mock.last()["body"]


def test_the_provider_gets_its_own_credential_and_no_trace_of_ours(strict: Gateway, rich: EndUser, mock: Mock) -> None:
    """A session's bearer would leak to a provider."""
    with client_for(strict, rich.bearer) as client:
        create(client, extra_headers={"x-secret": "mine", "OpenAI-Organization": "org-1"})
    seen = mock.last()
    assert seen["headers"]["authorization"].startswith("sha256:")
    assert not {"x-secret", "openai-organization", "cookie"} & set(seen["headers"])
    assert rich.bearer not in json.dumps(seen)


@pytest.mark.parametrize("model", ["auto", f"auto:{FEATURE}"])
def test_auto_is_answered_by_a_model_that_is_named(client: OpenAI, model: str) -> None:
    """Clients of the 1.2 line name features and not models."""
    reply = create(client, model=model)
    assert reply.model == "mock-small" == reply.modelfaucet["model"]


def test_the_output_limit_that_was_asked_for_holds(client: OpenAI, mock: Mock) -> None:
    """An answer could cost more than the caller allowed, or the caller's own field would be renamed."""
    reply = create(client, max_tokens=5)
    assert reply.choices[0].finish_reason == "length" and reply.usage.completion_tokens == 5
    assert mock.last()["body"]["max_tokens"] == 5
    assert create(client, max_completion_tokens=6).usage.completion_tokens == 6
    assert "max_tokens" not in mock.last()["body"] and mock.last()["body"]["max_completion_tokens"] == 6
    both = create(client, max_tokens=7, max_completion_tokens=500)
    assert both.usage.completion_tokens == 7
    create(client)
    assert mock.last()["body"]["max_tokens"] == 16_384, "a request without a limit gets the model's"


def test_awkward_streams_are_read_right(client: OpenAI, world: World) -> None:
    """Line ends, comments, torn writes or an early usage report would lose text or money."""
    plain = create(client).choices[0].message.content
    for model in ("crlf-sse", "usage-twice"):
        chunks = list(create(client, model=model, stream=True, stream_options={"include_usage": True}))
        assert text_of(chunks) == plain
        assert chunks[-1].usage.completion_tokens == 48
        event = world.event(hold_of(chunks[0]))
        assert event is not None and event["output_tokens"] == 48 and event["usage_source"] == 0


# ── request ids ──


def test_the_raw_response_has_our_request_id(client: OpenAI, world: World) -> None:
    """Support could not find a request by what its client has logged."""
    raw = client.chat.completions.with_raw_response.create(model="mock-small", messages=MESSAGES)
    ours = raw.headers["x-request-id"]
    assert raw.request_id == ours and ours.startswith("req_") and len(ours) == 36
    assert world.event(UUID(ours.removeprefix("req_"))) is not None
    reply: Any = raw.parse()
    assert reply.id == f"chatcmpl_mf_{ours}" and reply._request_id == ours
    with client.chat.completions.with_streaming_response.create(
        model="mock-small", messages=MESSAGES, stream=True
    ) as streamed:
        assert streamed.headers["x-request-id"].startswith("req_")
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert streamed.read().endswith(b"data: [DONE]\n\n")


def test_a_callers_own_request_id_is_kept_and_may_come_again(client: OpenAI, world: World, rich: EndUser) -> None:
    """Requests could not be followed through both systems; or one that comes twice would clash or be free."""
    for _ in range(2):
        reply = create(client, extra_headers={"x-request-id": "order:42.a-b_c"})
        assert reply._request_id == "order:42.a-b_c" and reply.id == "chatcmpl_mf_order:42.a-b_c"
        assert reply.modelfaucet["request_id"] == "order:42.a-b_c"
    assert [event["request_id"] for event in world.events_of(rich)] == ["order:42.a-b_c"] * 2


@pytest.mark.parametrize("bad", ["with space", "x" * 129, "semi;colon", 'quote"d'])
def test_a_request_id_that_is_none_is_replaced(client: OpenAI, bad: str) -> None:
    """A caller could write into our logs and replies what it likes."""
    assert create(client, extra_headers={"x-request-id": bad})._request_id.startswith("req_")


# ── typed errors ──


def check_error(error: openai.APIStatusError, status: int, code: str, kind: str) -> dict[str, Any]:
    """The parts of an error that official clients show; gives the envelope's error."""
    assert error.status_code == status and error.code == code and error.type == kind
    assert isinstance(error.body, dict) and error.body["message"] and "param" in error.body
    assert error.request_id == error.body["request_id"] == error.response.headers["x-request-id"]
    return error.body


@pytest.mark.parametrize(
    ("state", "code"),
    [("garbage", "invalid_session"), ("expired", "expired_session"), ("revoked", "invalid_session")],
)
def test_a_bearer_that_is_no_good_is_an_authentication_error(
    gateway: Gateway, world: World, state: str, code: str
) -> None:
    """A session that ended would go on spending, or its client could not tell why it is refused."""
    end_user = world.end_user(expires="-1 second" if state == "expired" else "1 day")
    if state == "revoked":
        world.books.rows("update session set revoked_at = now() where id = %s", end_user.tenant.session)
    bearer = "mf_sess_nobody_has_this_one" if state == "garbage" else end_user.bearer
    with client_for(gateway, bearer) as client:
        for call in (lambda: create(client), lambda: create(client, stream=True), client.models.list):
            with pytest.raises(openai.AuthenticationError) as caught:
                call()
            check_error(caught.value, 401, code, "authentication_error")


def test_an_empty_wallet_is_402_and_not_tried_again(gateway: Gateway, world: World, mock: Mock) -> None:
    """Clients would hammer the gateway for an end user who has to top up."""
    poor, before = world.end_user(0), mock.calls()
    with client_for(gateway, poor.bearer, retries=3) as client:
        for stream in (False, True):
            with pytest.raises(openai.APIStatusError) as caught:
                create(client, stream=stream)
            told = check_error(caught.value, 402, "insufficient_balance", "insufficient_quota")
            assert told["details"]["available_usd"] == "0.00000000"
            assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"
    assert mock.calls() == before and world.open_holds(poor) == []


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"model": "auto:nowhere"}, "feature_not_found"),
        ({"model": "auto", "metadata": {"feature_key": "nowhere"}}, "feature_not_found"),
        ({"model": "gpt-99"}, "not_found"),
        ({"model": "mock-small/../x"}, "not_found"),
    ],
)
def test_what_is_not_there_is_not_found(client: OpenAI, asked: dict[str, Any], code: str) -> None:
    """A typo in a feature or a model would be answered, and billed, by something else."""
    with pytest.raises(openai.NotFoundError) as caught:
        create(client, **asked)
    assert check_error(caught.value, 404, code, "not_found_error")


def test_too_many_requests_are_429_with_when_to_come_back(strict: Gateway, world: World) -> None:
    """One session could take everybody's capacity, and well-behaved clients could not tell when to return."""
    gateway = strict
    busy, calm = world.end_user(), world.end_user()
    with client_for(gateway, busy.bearer) as client:
        raws = [client.chat.completions.with_raw_response.create(model="mock-small", messages=MESSAGES) for _ in "123"]
        assert [raw.headers["x-ratelimit-remaining"] for raw in raws] == ["2", "1", "0"]
        assert 0 < int(raws[-1].headers["x-ratelimit-reset"]) <= 60
        with pytest.raises(openai.RateLimitError) as caught:
            create(client)
    check_error(caught.value, 429, "rate_limited", "rate_limit_error")
    headers = caught.value.response.headers
    assert 1 <= int(headers["retry-after"]) <= 21
    assert headers["x-ratelimit-remaining"] == "0" and 0 < int(headers["x-ratelimit-reset"]) <= 60
    assert headers["ratelimit"] == f'"session";r=0;t={headers["x-ratelimit-reset"]}'
    assert headers["ratelimit-policy"] == '"session";q=3;w=60'
    assert len(world.events_of(busy)) == 3
    with client_for(gateway, calm.bearer) as client:
        assert create(client).choices


def test_a_providers_limit_is_429_and_free(client: OpenAI, world: World, rich: EndUser) -> None:
    """Clients would not back off from a provider that asks for it, or would pay for being refused."""
    with pytest.raises(openai.RateLimitError) as caught:
        create(client, model="429")
    told = check_error(caught.value, 429, "rate_limited", "rate_limit_error")
    assert told["details"]["status_code"] == 429 and len(told["details"]["attempts"]) == 2
    assert caught.value.response.headers["retry-after"] == "1"
    assert wait_for(lambda: world.balance(rich) == (10 * 10**8, 0))


def test_a_providers_own_complaint_reaches_who_can_act_on_it(client: OpenAI, mock: Mock, rich: EndUser) -> None:
    """A developer would not learn which parameter a model refuses; or we would ask again and again."""
    before = mock.calls()
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, model="refuse-400")
    told = check_error(caught.value, 400, "provider_error", "invalid_request_error")
    assert "temperature" in told["message"]
    assert [a["statusCode"] for a in told["details"]["attempts"]] == [400] and mock.calls() == before + 1


def test_a_failing_provider_is_a_server_error_without_its_secrets(client: OpenAI) -> None:
    """Clients would not retry what may pass, or would be shown addresses and texts of ours and the provider's."""
    with pytest.raises(openai.InternalServerError) as caught:
        create(client, model="fail-500", stream=True)
    told = check_error(caught.value, 502, "provider_error", "server_error")
    attempts = told["details"]["attempts"]
    assert [(a["attempt"], a["statusCode"], a["retryable"]) for a in attempts] == [(1, 500, True), (2, 500, True)]
    assert "127.0.0.1" not in caught.value.response.text and "had an error" not in caught.value.response.text


def test_a_stream_that_breaks_off_raises(client: OpenAI, world: World) -> None:
    """Half of an answer would pass for a whole one."""
    got = []
    with pytest.raises(openai.APIError) as caught:
        for chunk in create(client, model="cut-mid-stream", stream=True):
            got.append(chunk)
    assert isinstance(caught.value.body, dict) and caught.value.body["code"] == "provider_error"
    assert got[-1].choices[0].finish_reason == "error" and text_of(got)
    event = world.event(hold_of(got[0]))
    assert event is not None and event["outcome"] == 2


def test_a_body_that_is_too_large_is_413(client: OpenAI, rich: EndUser, world: World) -> None:
    """The refusal would get lost behind a broken connection, and the client would send it all again."""
    big = [{"role": "user", "content": "x" * (21 << 20)}]
    with pytest.raises(openai.APIStatusError) as caught:
        create(client, messages=big)
    check_error(caught.value, 413, "payload_too_large", "invalid_request_error")
    assert world.events_of(rich) == []


# ── retries ──


def test_a_clients_retry_is_answered_and_paid_once(gateway: Gateway, world: World, mock: Mock, rich: EndUser) -> None:
    """An answer that got lost on its way would be paid twice."""
    before = mock.calls()
    with Cable(gateway.port) as cable, client_for(gateway, rich.bearer, retries=2, port=cable.port) as client:
        cable.lose_next_answer()
        raw = client.chat.completions.with_raw_response.create(
            model="mock-small", messages=MESSAGES, extra_headers={"Idempotency-Key": "once-please"}
        )
        assert cable.lost.is_set() and raw.retries_taken == 1
        assert raw.headers["idempotent-replayed"] == "true"
    [event] = world.events_of(rich)
    assert raw.parse().id == f"chatcmpl_mf_req_{event['id'].hex}"
    assert mock.calls() == before + 1 and world.balance(rich) == (10 * 10**8 - event["retail_e8"], 0)


def test_without_a_key_a_retry_is_another_request(gateway: Gateway, world: World, rich: EndUser) -> None:
    """The test above would pass because nothing was lost at all."""
    with Cable(gateway.port) as cable, client_for(gateway, rich.bearer, retries=2, port=cable.port) as client:
        cable.lose_next_answer()
        assert create(client).choices and cable.lost.is_set()
    assert len(world.events_of(rich)) == 2


def test_a_clients_retry_waits_for_the_one_that_runs(gateway: Gateway, world: World, rich: EndUser) -> None:
    """A client that gave up too early and came back would pay for both."""
    key = {"Idempotency-Key": "slow-one"}
    with client_for(gateway, rich.bearer, retries=4) as client:
        first = client.chat.completions.create(
            model="mock-small",
            messages=MESSAGES,
            stream=True,
            extra_headers=key,
            extra_body={"mock": {"chunk_delay_ms": 50}},
        )
        began = time.monotonic()
        again = client.chat.completions.with_raw_response.create(
            model="mock-small",
            messages=MESSAGES,
            stream=True,
            extra_headers=key,
            extra_body={"mock": {"chunk_delay_ms": 50}},
        )
        assert again.retries_taken >= 1 and time.monotonic() - began > 0.8
        chunks, replayed = list(first), list(again.parse())
    assert text_of(replayed) == text_of(chunks) and {c.id for c in replayed} == {c.id for c in chunks}
    assert len(world.events_of(rich)) == 1


def test_a_sick_provider_is_asked_again_before_the_client_hears_of_it(
    client: OpenAI, world: World, rich: EndUser
) -> None:
    """One bad answer of a provider would be everybody's problem."""
    for stream in (False, True):
        text = f"A flaky question, {'streamed' if stream else 'plain'}."
        reply = create(client, model="flaky", messages=[{"role": "user", "content": text}], stream=stream)
        chunks = list(reply) if stream else [reply]
        assert chunks[0].choices
    assert len(world.events_of(rich)) == 2


# ── models ──


def test_models_are_listed_with_their_prices(client: OpenAI) -> None:
    """A client could neither choose a model nor know what it costs."""
    models = {model.id: model for model in client.models.list()}
    small: Any = models["mock-small"]
    assert {"mock-small", "mock-large", "mock-reasoner"} <= set(models)
    assert small.object == "model" and small.owned_by == "mock"
    # 0.15 and 0.60 USD per million tokens, and a markup of 30 %.
    assert Decimal(small.pricing["prompt"]) == Decimal("0.000000195")
    assert Decimal(small.pricing["completion"]) == Decimal("0.00000078")
    assert client.models.retrieve("mock-small") == small
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("mock-none")
    assert check_error(caught.value, 404, "not_found", "not_found_error")


def test_a_policys_models_are_all_there_is(gateway: Gateway, world: World) -> None:
    """An app's policy could be passed by naming another model."""
    tenant = world.books.tenant()
    world.books.rows('update feature set policy = \'{"models": ["mock-large"]}\' where id = %s', tenant.feature)
    with client_for(gateway, world.end_user(app_of=tenant).bearer) as client:
        assert [model.id for model in client.models.list()] == ["mock-large"]
        assert create(client, model="auto").model == "mock-large"
        with pytest.raises(openai.PermissionDeniedError) as caught:
            create(client, model="mock-small")
        check_error(caught.value, 403, "forbidden", "permission_error")
