"""Each way in which a request can end, and what the database says afterwards: MONEY §3, "How it ends".

Real gateway, provider and PostgreSQL. An absent database is `test_ledger_away`'s, repeats and stops are
`test_repeats_and_stops`'s.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from books import E8
from gateway_world import (
    Charged,
    EndUser,
    Gateway,
    Hanging,
    Mock,
    StartGateway,
    World,
    ask,
    chat,
    hold_of,
    request,
    text_of,
    wait_for,
)

from faucet.kit.money import to_wire
from faucet.kit.tokens import count_chat_input, count_text
from faucet.rating.price import Price, PricePlan
from faucet.rating.rate import rate
from faucet.terms import Payer, Usage

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
TEN = 10 * E8
TOOLS = [{"type": "function", "function": {"name": "find_order", "parameters": {"type": "object"}}}]


def words(text: str) -> int:
    return count_text(text, "words")


def asked(body: dict[str, Any]) -> int:
    return count_chat_input(body, "words")


def check_charged(
    world: World, end_user: EndUser, event: dict[str, Any], due: Charged, *, source: int = 0, outcome: int = 0
) -> None:
    """One usage event, its transfers and the wallet agree with what was due, to the unit."""
    assert (event["input_tokens"], event["output_tokens"]) == (due.input, due.output)
    assert (event["usage_source"], event["outcome"]) == (source, outcome)
    assert (event["cost_e8"], event["retail_e8"], event["channel_e8"]) == (due.cost, due.retail, due.channel)
    assert event["platform_e8"] == due.margin - due.channel and event["write_off_e8"] == 0
    assert event["payer"] == 0 and event["provider"] == "mock" and event["held_e8"] >= due.retail
    assert world.transfers(event["id"]) == due.transfers
    assert world.resolution(event["id"]) is None and world.open_holds(end_user) == []
    assert world.balance(end_user) == (TEN - due.retail, 0)


def check_released(world: World, end_user: EndUser, *, reason: str | None = None, credit: int = TEN) -> None:
    """The request's hold was given back, and nothing was booked."""
    assert wait_for(lambda: world.balance(end_user) == (credit, 0)), world.balance(end_user)
    assert world.events_of(end_user) == [] and world.open_holds(end_user) == []
    row = world.row("select * from hold_resolution where wallet_id = %s", end_user.wallet)
    assert row is not None and row["state"] == "released"
    assert reason is None or row["reason"] == reason, row["reason"]


def counter(gateway: Gateway, name: str) -> float:
    """A gateway's count of something."""
    lines = request(gateway, "GET", "/metrics").body.decode().splitlines()
    [line] = [line for line in lines if line.startswith(f"modelfaucet_{name}_total ")]
    return float(line.split()[1])


# ── a full answer ──


@BOTH
def test_a_full_answer_is_booked_as_reported(gateway: Gateway, world: World, rich: EndUser, stream: bool) -> None:
    """An answer would cost something else than its provider reported, or not reach everybody's account."""
    before = {name: world.books.posted(getattr(world.tenant, name)) for name in ("earnings", "revenue", "cost")}
    body = chat(stream=stream)
    reply = ask(gateway, rich.bearer, body)
    due = Charged(asked(body), words(reply.text))
    event = world.event(hold_of(reply))
    assert event is not None and due.output == 48
    check_charged(world, rich, event, due)
    assert (event["model"], event["request_id"], event["session_id"]) == ("mock-small", None, rich.tenant.session)
    assert event["duration_ms"] >= event["first_byte_ms"] >= 0 and event["reasoning_tokens"] == 0
    price = world.row("select * from price where id = %s", event["price_id"])
    assert price is not None and (price["provider"], price["model"]) == ("mock", "mock-small")
    gains = {name: world.books.posted(getattr(world.tenant, name)) - before[name] for name in before}
    assert gains == {"earnings": due.channel, "revenue": due.margin - due.channel, "cost": due.cost}


@BOTH
def test_cached_and_thinking_tokens_are_booked_apart(
    gateway: Gateway, world: World, rich: EndUser, stream: bool
) -> None:
    """Cached input would be charged in full, or thinking be added to the output a second time."""
    body = chat(model="mock-reasoner", stream=stream, mock={"cached_tokens": 4, "reasoning_tokens": 9})
    event = world.event(hold_of(ask(gateway, rich.bearer, body)))
    assert event is not None
    assert (event["cached_read_tokens"], event["reasoning_tokens"]) == (4, 9)
    assert (event["input_tokens"], event["output_tokens"]) == (asked(body) - 4, 48 + 9)
    assert event["cost_e8"] == (asked(body) - 4) * 110 + 4 * 55 + (48 + 9) * 440


@BOTH
@pytest.mark.parametrize(
    "fields", [{}, {"n": 2}, {"tools": TOOLS, "tool_choice": "required"}], ids=["text", "n", "tool"]
)
def test_without_a_report_the_answer_is_counted(
    gateway: Gateway, world: World, rich: EndUser, stream: bool, fields: dict[str, Any]
) -> None:
    """A provider that reports no usage would answer for free, or for a guess."""
    body = chat(model="no-usage", stream=stream, **fields)
    reply = ask(gateway, rich.bearer, body | {"stream_options": {"include_usage": True}} if stream else body)
    told = reply.events[-2] if stream else reply.json
    assert told["modelfaucet"]["usage_source"] == "counted"
    # The mock counts with the same words: another model of it says what there was to count.
    reported = ask(gateway, world.end_user().bearer, body | {"model": "mock-small", "stream": False}).json["usage"]
    due = Charged(reported["prompt_tokens"], reported["completion_tokens"])
    assert (told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"]) == (due.input, due.output)
    event = world.event(hold_of(reply))
    assert event is not None and due.output > 1
    check_charged(world, rich, event, due, source=1)


# ── no answer ──

DEAD = [
    ("fail-500", False, "provider_error", 502),
    ("fail-500", True, "provider_error", 502),
    ("429", False, "rate_limited", 429),
    ("cut-mid-stream", False, "provider_error", 502),
    ("200-with-error-body", False, "provider_error", 502),
    ("stall", False, "provider_error", 504),
    ("stall", True, "provider_error", 504),
]


@pytest.fixture(scope="module")
def hasty(world: World, mock: Mock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that gives providers only a moment."""
    folder = tmp_path_factory.mktemp("hasty")
    running = Gateway(world.dsn, mock.url, folder, PROVIDER_TIMEOUT_MS=300, PROVIDER_IDLE_TIMEOUT_MS=300)
    yield running
    running.stop()


@pytest.mark.parametrize(("model", "stream", "code", "status"), DEAD, ids=[f"{m}-{s}" for m, s, _, _ in DEAD])
def test_a_provider_that_fails_before_its_first_byte_costs_nothing(
    hasty: Gateway, world: World, mock: Mock, rich: EndUser, model: str, stream: bool, code: str, status: int
) -> None:
    """An end user would pay for an answer that never came, or it would not be tried again."""
    before = mock.calls()
    reply = ask(hasty, rich.bearer, chat(model=model, stream=stream))
    assert (reply.status, reply.code) == (status, code)
    assert mock.calls() == before + 2 and len(reply.json["error"]["details"]["attempts"]) == 2
    check_released(world, rich, reason=code)


def test_a_provider_that_cannot_be_reached_costs_nothing(
    start_gateway: StartGateway, world: World, rich: EndUser
) -> None:
    """An end user would pay for a provider's outage."""
    reply = ask(start_gateway(mock_url="http://127.0.0.1:9/v1"), rich.bearer, chat())
    assert (reply.status, reply.code) == (502, "provider_error") and b"127.0.0.1" not in reply.body
    check_released(world, rich)


@BOTH
def test_the_try_that_works_is_the_one_that_is_paid(
    gateway: Gateway, world: World, mock: Mock, rich: EndUser, stream: bool
) -> None:
    """A provider's bad moment would be an end user's problem, or be charged for."""
    before = mock.calls()
    body = chat(f"flaky, stream {stream}", model="flaky", stream=stream)
    reply = ask(gateway, rich.bearer, body)
    assert reply.status == 200 and mock.calls() == before + 2
    event = world.event(hold_of(reply))
    assert event is not None
    check_charged(world, rich, event, Charged(asked(body), 48))


@pytest.fixture(scope="module")
def prices_elsewhere(world: World) -> None:
    """Prices of another provider, `litellm`: cheap for `mock-large`, and its tokenizer unknown for `no-usage`."""
    for model, tokenizer, e8_per_m in (("mock-large", "words", 25_000_000), ("no-usage", "bytes", 250_000_000)):
        world.books.rows(
            "insert into price (provider, model, tokenizer, context_window, max_output_tokens, input_e8_per_m,"
            " cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m, image_tokens_max, effective_from, source,"
            " status) values ('litellm', %s, %s, 128000, 16384, %s, %s, %s, %s, 1000, '2026-01-01', 'x', 'confirmed')",
            model,
            tokenizer,
            *[e8_per_m] * 3,
            4 * e8_per_m,
        )


@pytest.fixture(scope="module")
def two_providers(
    world: World, mock: Mock, prices_elsewhere: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway with two providers, both of which answer: `litellm` is asked first."""
    running = Gateway(world.dsn, mock.url, tmp_path_factory.mktemp("two"), LITELLM_BASE_URL=mock.url)
    yield running
    running.stop()


def test_the_next_provider_answers_and_its_price_is_held_too(
    start_gateway: StartGateway, world: World, rich: EndUser, prices_elsewhere: None
) -> None:
    """The second choice would cost more than was held, at our expense or at the wallet's."""
    gateway = start_gateway(LITELLM_BASE_URL="http://127.0.0.1:9/v1", PROVIDER_MAX_RETRIES=0)
    body = chat(model="mock-large", max_tokens=48)
    reply = ask(gateway, rich.bearer, body)
    assert reply.status == 200 and reply.json["modelfaucet"]["provider"] == "mock"
    event = world.event(hold_of(reply))
    assert event is not None and event["cost_e8"] == asked(body) * 250 + 48 * 1000
    assert event["write_off_e8"] == 0 and event["retail_e8"] == event["cost_e8"] * 130 // 100
    assert world.balance(rich) == (TEN - event["retail_e8"], 0)


def test_a_wallet_that_cannot_pay_for_the_dearer_choice_still_gets_the_first(
    two_providers: Gateway, world: World
) -> None:
    """A fallback that is never needed would make an answer that the wallet can pay impossible, or shorter."""
    body = chat(model="mock-large", max_tokens=48)
    poor = world.end_user((asked(body) * 25 + 48 * 100) * 130 // 100)
    reply = ask(two_providers, poor.bearer, body)
    assert reply.status == 200 and reply.json["modelfaucet"]["provider"] == "litellm"
    assert reply.json["usage"]["completion_tokens"] == 48 and world.balance(poor) == (0, 0)


@BOTH
def test_a_model_whose_tokenizer_nobody_knows_is_counted_all_the_same(
    two_providers: Gateway, world: World, rich: EndUser, stream: bool
) -> None:
    """An answer without a report would end in a fault; so would a wallet that is short, whose prompt is counted."""
    body = chat(model="no-usage", stream=stream, mock={"tokens": 100})
    reply = ask(two_providers, rich.bearer, body)
    event = world.event(hold_of(reply))
    assert reply.status == 200 and event is not None
    assert (event["provider"], event["usage_source"]) == ("litellm", 1)
    assert event["output_tokens"] == count_text(reply.text, "o200k")
    poor = world.end_user(100_000)
    shorter = ask(two_providers, poor.bearer, body)
    assert shorter.status == 200 and 0 < words(shorter.text) < 100 and world.balance(poor)[0] >= 0


# ── half an answer ──


@pytest.mark.parametrize("model", ["cut-mid-stream", "200-with-error-body"])
def test_what_was_delivered_before_a_provider_broke_off_is_charged(
    gateway: Gateway, world: World, rich: EndUser, model: str
) -> None:
    """Half an answer would be free, charged whole, or pass for a whole one."""
    body = chat(model=model, stream=True, stream_options={"include_usage": True})
    reply = ask(gateway, rich.bearer, body)
    assert reply.status == 200
    *delivered, last, error = reply.events
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "error"}]
    assert error["error"]["code"] == "provider_error" and error["error"]["request_id"] == reply.request_id
    assert b"[DONE]" not in reply.body and not any(e.get("usage") for e in delivered)
    got = words(text_of(delivered))
    event = world.event(hold_of(reply))
    assert event is not None and 0 < got < 48
    check_charged(world, rich, event, Charged(asked(body), got), source=1, outcome=2)


def test_a_stream_that_breaks_off_before_any_content_is_free(hasty: Gateway, world: World, rich: EndUser) -> None:
    """An end user would pay for a role and no word."""
    body = chat(stream=True, mock={"reply": "late", "chunks": 1, "chunk_delay_ms": 2000})
    reply = ask(hasty, rich.bearer, body)
    assert reply.status == 200 and reply.events[-1]["error"]["code"] == "provider_error"
    check_released(world, rich)


# ── nobody there ──


def test_a_client_that_hangs_up_in_mid_stream_pays_for_what_was_made(
    gateway: Gateway, world: World, mock: Mock, rich: EndUser
) -> None:
    """Reading all but the last word would be free; or the provider would go on, and the wallet pay, for nobody."""
    body = chat(stream=True, mock={"chunk_delay_ms": 60})
    before = mock.hung_up()
    client = Hanging(gateway, rich.bearer, body)
    delivered = words(text_of(client.first_events(6)))
    client.hang_up()
    [event] = wait_for(lambda: world.events_of(rich))
    assert 0 < delivered <= event["output_tokens"] < 48
    check_charged(world, rich, event, Charged(asked(body), event["output_tokens"]), source=1, outcome=1)
    assert wait_for(lambda: mock.hung_up() == before + 1), "the provider works on"


@BOTH
def test_a_client_that_hangs_up_before_the_first_byte_pays_nothing(
    gateway: Gateway, world: World, mock: Mock, rich: EndUser, stream: bool
) -> None:
    """An end user would pay for an answer of which no byte was sent; or the provider would go on for nobody."""
    before, counted = mock.hung_up(), counter(gateway, "client_hang_ups")
    client = Hanging(gateway, rich.bearer, chat(stream=stream, mock={"delay_ms": 1500}))
    wait_for(lambda: world.open_holds(rich))
    wait_for(lambda: mock.last()["body"]["mock"]["delay_ms"] == 1500)
    client.hang_up()
    began = time.monotonic()
    check_released(world, rich, reason="client hung up")
    assert time.monotonic() - began < 1, "the hold waited for the provider"
    assert counter(gateway, "client_hang_ups") == counted + 1
    assert wait_for(lambda: mock.hung_up() == before + 1), "the provider works on"


def test_a_client_that_hangs_up_between_head_and_body_pays_nothing(
    gateway: Gateway, world: World, mock: Mock, rich: EndUser
) -> None:
    """As above, where the provider has begun to speak but said nothing yet."""
    client = Hanging(gateway, rich.bearer, chat(model="stall", stream=True))
    wait_for(lambda: world.open_holds(rich))
    time.sleep(0.2)
    client.hang_up()
    check_released(world, rich, reason="client hung up")


def test_a_client_that_hangs_up_while_it_waits_in_line_is_forgotten(gateway: Gateway, world: World, mock: Mock) -> None:
    """A provider would be asked, and a wallet held, for who has left long ago."""
    body = chat(mock={"delay_ms": 700})
    price = Charged(asked(body), 48).retail
    end_user, before = world.end_user(2 * price), mock.calls()
    first = Hanging(gateway, end_user.bearer, body)
    wait_for(lambda: world.open_holds(end_user))
    second = Hanging(gateway, end_user.bearer, body)
    time.sleep(0.2)
    second.hang_up()
    assert json.loads(first.connection.getresponse().read())["choices"]
    first.hang_up()
    time.sleep(0.3)
    assert wait_for(lambda: world.open_holds(end_user) == [])
    assert mock.calls() == before + 1 and len(world.events_of(end_user)) == 1


# ── the edges of a hold ──


@BOTH
def test_a_report_above_the_ceiling_takes_the_hold_and_not_more(
    gateway: Gateway, world: World, rich: EndUser, stream: bool
) -> None:
    """A provider that reports too much could empty a wallet, or its invoice would be missing in the books."""
    body = chat(model="lies-about-usage", max_tokens=10, stream=stream)
    alarms = counter(gateway, "settlements_above_hold")
    reply = ask(gateway, rich.bearer, body)
    assert reply.status == 200
    due = Charged(10 * asked(body), 100)
    event = world.event(hold_of(reply))
    assert event is not None and due.retail > event["held_e8"]
    assert (event["cost_e8"], event["channel_e8"]) == (due.cost, due.channel)
    assert event["retail_e8"] == event["held_e8"] and event["write_off_e8"] == due.retail - event["held_e8"]
    assert world.balance(rich) == (TEN - event["held_e8"], 0)
    moved = world.transfers(hold_of(reply))
    assert sum(moved.get(code, 0) for code in (1, 2, 3)) == event["held_e8"]
    assert sum(moved.get(code, 0) for code in (4, 5, 6)) == event["write_off_e8"]
    for paid, written_off, part in ((1, 4, due.cost), (2, 5, due.channel), (3, 6, due.margin - due.channel)):
        assert moved.get(paid, 0) + moved.get(written_off, 0) == part
    assert counter(gateway, "settlements_above_hold") == alarms + 1
    [line] = [line for line in gateway.log.read_text().splitlines() if str(hold_of(reply)) in line]
    assert json.loads(line)["event"] == "settle.above_hold" and json.loads(line)["level"] == "error"
    shown = json.loads(reply.body)["modelfaucet"] if not stream else {"price_usd": to_wire(event["held_e8"])}
    assert shown["price_usd"] == to_wire(event["held_e8"])


@BOTH
def test_an_answer_is_shortened_to_what_the_wallet_can_pay(
    gateway: Gateway, world: World, mock: Mock, stream: bool
) -> None:
    """A wallet with a fraction of a cent would be refused what it can pay, or be overdrawn by what it can't."""
    body = chat(stream=stream)
    credit = Charged(asked(body), 20).retail + 5
    poor = world.end_user(credit)
    reply = ask(gateway, poor.bearer, body)
    assert reply.status == 200 and mock.last()["body"]["max_tokens"] == 20
    reasons = (
        [c["finish_reason"] for e in reply.events[:-1] for c in e["choices"]]
        if stream
        else [reply.json["choices"][0]["finish_reason"]]
    )
    assert reasons[-1] == "length" and words(reply.text) == 20
    event = world.event(hold_of(reply))
    assert event is not None and event["output_tokens"] == 20 and event["write_off_e8"] == 0
    assert world.balance(poor) == (5, 0)
    again = ask(gateway, poor.bearer, body)
    assert (again.status, again.code) == (402, "insufficient_balance")
    assert again.json["error"]["details"]["available_usd"] == "0.00000005"


def test_an_app_may_want_whole_answers_or_none(gateway: Gateway, world: World, mock: Mock) -> None:
    """An app that can't use half an answer would pay for it."""
    tenant = world.books.tenant()
    world.books.rows("update feature set policy = '{\"fit_to_wallet\": false}' where id = %s", tenant.feature)
    poor, before = world.end_user(2000, app_of=tenant), mock.calls()
    refused = ask(gateway, poor.bearer, chat())
    assert (refused.status, refused.code) == (402, "insufficient_balance") and mock.calls() == before
    assert ask(gateway, poor.bearer, chat(max_tokens=10)).status == 200


@pytest.mark.parametrize("scope", ["app", "feature", "end_user", "session"])
def test_a_spend_limit_is_a_limit(gateway: Gateway, world: World, mock: Mock, scope: str) -> None:
    """A developer's or an end user's own limit could be passed, or what is left of it not be used."""
    tenant = world.books.tenant(0)
    end_user = world.end_user(app_of=tenant)
    body = chat(model="mock-small")
    # This app has no markup, so the price is the cost.
    price = Charged(asked(body), 48).cost
    scope_id = getattr(end_user.tenant, scope)
    world.books.limit(scope, scope_id, "total", price + 25)
    first = ask(gateway, end_user.bearer, body)
    assert first.status == 200 and words(first.text) == 48
    second = ask(gateway, end_user.bearer, body)
    assert (second.status, second.code) == (402, "budget_exceeded")
    assert world.books.counter(scope_id) == (price, 0) and world.balance(end_user) == (TEN - price, 0)


def test_the_worst_of_prices_is_what_is_held(gateway: Gateway, world: World, rich: EndUser) -> None:
    """The reserve would not be the most that a request can cost: `n` answers to the limit, and all of the prompt."""
    body = chat("x" * 3000, n=3, max_tokens=1000)
    reply = ask(gateway, rich.bearer, body)
    event = world.event(hold_of(reply))
    size = len(json.dumps(body).encode())
    most = Charged(size + 64, 3 * 1000)
    assert event is not None and event["held_e8"] == most.retail


def test_each_event_can_be_rated_again(gateway: Gateway, world: World, rich: EndUser) -> None:
    """Years later nobody could prove a charge from what was kept."""
    for model in ("mock-small", "mock-large", "mock-reasoner"):
        ask(gateway, rich.bearer, chat(model=model, mock={"cached_tokens": 3}))
    for event in world.events_of(rich):
        row = world.row("select * from price where id = %s", event["price_id"])
        assert row is not None
        usage = Usage(
            input_tokens=event["input_tokens"],
            cached_read_tokens=event["cached_read_tokens"],
            cached_write_tokens=event["cached_write_tokens"],
            output_tokens=event["output_tokens"],
            reasoning_tokens=event["reasoning_tokens"],
        )
        names = ("id", "provider", "model", "tokenizer", "context_window", "max_output_tokens", "input_e8_per_m",
                 "cached_read_e8_per_m", "cached_write_e8_per_m", "output_e8_per_m", "reasoning_e8_per_m", "request_e8",
                 "image_tokens_max", "effective_from", "source", "status")  # fmt: skip
        price = Price(**{name: row[name] for name in names})
        plan = PricePlan.parse_pricing({"mode": "usage_markup", "markup_percent": 30, "channel_share_bps": 4000})
        charge = rate(price, plan, Payer.PLATFORM, usage)
        assert (charge.cost_e8, charge.retail_e8) == (event["cost_e8"], event["retail_e8"])
        assert (charge.channel_e8, charge.platform_e8) == (event["channel_e8"], event["platform_e8"])
