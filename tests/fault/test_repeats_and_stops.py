"""The same Idempotency-Key again, an operator who stops an app, and a gateway that is told to end."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from books import E8
from gateway_world import (
    CHAT,
    EndUser,
    Gateway,
    Hanging,
    Mock,
    StartGateway,
    World,
    ask,
    chat,
    posted,
    request,
    text_of,
    wait_for,
)

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
TEN = 10 * E8
KEY = {"Idempotency-Key": "the same again"}


# ── repeats ──


@BOTH
def test_a_repeat_gets_the_stored_reply_for_nothing(
    gateway: Gateway, world: World, mock: Mock, rich: EndUser, stream: bool
) -> None:
    """A client that asks again because it is not sure would pay twice, or get another answer."""
    body = chat("A secret word: rhubarb.", stream=stream, stream_options={"include_usage": True}, n=2)
    if not stream:
        del body["stream_options"]
    before = mock.calls()
    first = ask(gateway, rich.bearer, body, KEY)
    balance = world.balance(rich)
    assert first.status == 200 and "idempotent-replayed" not in first.headers and balance[0] < TEN
    for _ in range(2):
        again = ask(gateway, rich.bearer, body, KEY)
        assert again.status == 200 and again.headers["idempotent-replayed"] == "true"
        assert again.headers["content-type"] == first.headers["content-type"]
        assert again.text == first.text and again.request_id != first.request_id
        told = (again.events[-2], first.events[-2]) if stream else (again.json, first.json)
        assert told[1]["modelfaucet"].pop("wallet_balance_usd"), "the balance of then would mislead now"
        assert told[0] == told[1]
    assert mock.calls() == before + 1 and world.balance(rich) == balance and len(world.events_of(rich)) == 1
    kept = world.row("select * from idempotent_reply where end_user_id = %s", rich.tenant.end_user)
    assert kept is not None and first.text.split()[0].encode() not in bytes(kept["sealed"])
    assert 23 < (kept["expires_at"] - kept["created_at"]).total_seconds() / 3600 <= 24


@BOTH
def test_a_repeat_while_the_first_runs_is_told_to_wait(
    gateway: Gateway, world: World, mock: Mock, rich: EndUser, stream: bool
) -> None:
    """Both would be answered and paid."""
    body = chat(stream=stream, mock={"delay_ms": 700})
    before = mock.calls()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(ask, gateway, rich.bearer, body, KEY)
        wait_for(lambda: world.open_holds(rich))
        for _ in range(3):
            early = ask(gateway, rich.bearer, body, KEY)
            assert (early.status, early.code) == (409, "idempotency_conflict")
            assert int(early.headers["retry-after"]) >= 1
        assert first.result().status == 200
    late = ask(gateway, rich.bearer, body, KEY)
    assert late.text == first.result().text and late.headers["idempotent-replayed"] == "true"
    assert mock.calls() == before + 1 and len(world.events_of(rich)) == 1


def test_a_key_belongs_to_one_body_and_one_end_user(gateway: Gateway, world: World, rich: EndUser) -> None:
    """A client that reuses a key by mistake would get the answer to another question, or somebody else's."""
    assert ask(gateway, rich.bearer, chat("one"), KEY).status == 200
    other_body = ask(gateway, rich.bearer, chat("two"), KEY)
    assert (other_body.status, other_body.code) == (409, "idempotency_conflict")
    assert "retry-after" not in other_body.headers, "waiting would not help"
    other = world.end_user()
    theirs = ask(gateway, other.bearer, chat("two"), KEY)
    assert theirs.status == 200 and "idempotent-replayed" not in theirs.headers
    assert len(world.events_of(rich)) == 1 == len(world.events_of(other))


def test_a_key_is_free_again_where_nothing_was_charged(gateway: Gateway, world: World, mock: Mock) -> None:
    """A client whose request was refused, or failed, could never succeed with its key."""
    poor = world.end_user(0)
    body = chat("free the key", model="flaky", mock={"fail_times": 2})
    assert ask(gateway, poor.bearer, body, KEY).status == 402
    world.books.credit(poor.wallet, TEN)
    assert ask(gateway, poor.bearer, body, KEY).status == 502, "both tries fail"
    reply = wait_for(lambda: (again := ask(gateway, poor.bearer, body, KEY)).status == 200 and again)
    assert "idempotent-replayed" not in reply.headers
    assert ask(gateway, poor.bearer, body, KEY).headers["idempotent-replayed"] == "true"
    assert len(world.events_of(poor)) == 1


def test_two_gateways_know_each_others_keys(
    gateway: Gateway, start_gateway: StartGateway, world: World, mock: Mock, rich: EndUser
) -> None:
    """A retry that reaches another process would be paid again."""
    one, two = gateway, start_gateway(data_dir=gateway.data_dir)
    before = mock.calls()
    with ThreadPoolExecutor(16) as threads:
        asking = [threads.submit(ask, (one, two)[place % 2], rich.bearer, chat(), KEY) for place in range(16)]
        statuses = {one.result().status for one in asking}
    assert statuses <= {200, 409} and 200 in statuses
    assert ask(two, rich.bearer, chat(), KEY).text == ask(one, rich.bearer, chat(), KEY).text
    assert mock.calls() == before + 1 and len(world.events_of(rich)) == 1


@pytest.mark.parametrize("hangs_up", [False, True], ids=["provider", "client"])
def test_an_answer_that_was_cut_short_is_not_charged_again(
    gateway: Gateway, world: World, mock: Mock, rich: EndUser, hangs_up: bool
) -> None:
    """Half an answer was paid: its key may neither buy another nor pass the half for a whole."""
    body = chat(model="mock-small" if hangs_up else "cut-mid-stream", stream=True, mock={"chunk_delay_ms": 40})
    if hangs_up:
        client = Hanging(gateway, rich.bearer, body, KEY)
        delivered = text_of(client.first_events(6))
        client.hang_up()
    else:
        first = ask(gateway, rich.bearer, body, KEY)
        delivered = first.text
        assert first.events[-1]["error"]["code"] == "provider_error"
    [event] = wait_for(lambda: world.events_of(rich))
    before = mock.calls()
    again = ask(gateway, rich.bearer, body, KEY)
    assert again.status == 200 and again.headers["idempotent-replayed"] == "true"
    assert again.text.startswith(delivered) and len(again.text.split()) == event["output_tokens"] < 48
    assert again.events[-1]["error"]["code"] == "provider_error" and b"[DONE]" not in again.body
    assert again.events[-2]["choices"][0]["finish_reason"] == "error"
    assert mock.calls() == before and len(world.events_of(rich)) == 1


# ── stops ──


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("table", ["app", "developer"])
def test_a_disabled_app_is_refused_everywhere_soon(
    gateway: Gateway, world: World, mock: Mock, announced: bool, table: str
) -> None:
    """An operator could not stop an app that does harm; or its running requests would go unpaid."""
    tenant = world.books.tenant()
    end_user = world.end_user(app_of=tenant)
    assert ask(gateway, end_user.bearer, chat()).status == 200
    running = Hanging(gateway, end_user.bearer, chat(stream=True, mock={"chunk_delay_ms": 30}))
    running.first_events(2)
    stopped = time.monotonic()
    key = {"app": tenant.app, "developer": tenant.developer}[table]
    world.books.rows(f"update {table} set status = 'disabled' where id = %s", key)
    if announced:
        world.announce()
    reply = wait_for(lambda: (one := ask(gateway, end_user.bearer, chat())).status != 200 and one, 8)
    assert time.monotonic() - stopped < (1.5 if announced else 6)
    assert (reply.status, reply.code) == (403, "disabled")
    assert running.response.read().endswith(b"data: [DONE]\n\n")
    running.hang_up()
    holds, before = world.open_holds(end_user), mock.calls()
    assert holds == [] and ask(gateway, end_user.bearer, chat()).status == 403 and mock.calls() == before
    assert all(event["outcome"] == 0 for event in world.events_of(end_user))


def test_a_frozen_wallet_is_refused_at_once(gateway: Gateway, world: World, rich: EndUser) -> None:
    """A wallet under suspicion would be spent while somebody looks at it."""
    assert ask(gateway, rich.bearer, chat()).status == 200
    world.books.rows("update account set frozen_at = now() where id = %s", rich.wallet)
    reply = ask(gateway, rich.bearer, chat())
    assert (reply.status, reply.code) == (403, "disabled") and len(world.events_of(rich)) == 1


def test_a_session_that_is_revoked_or_expires_ends_soon(gateway: Gateway, world: World) -> None:
    """A bearer that leaked could be used on."""
    revoked, brief = world.end_user(), world.end_user(expires="2 seconds")
    for end_user in (revoked, brief):
        assert ask(gateway, end_user.bearer, chat()).status == 200
    world.books.rows("update session set revoked_at = now() where id = %s", revoked.tenant.session)
    world.announce()
    assert wait_for(lambda: ask(gateway, revoked.bearer, chat()).status == 401, 6)
    assert ask(gateway, revoked.bearer, chat()).code == "invalid_session"
    assert wait_for(lambda: ask(gateway, brief.bearer, chat()).status == 401, 4)
    assert ask(gateway, brief.bearer, chat()).code == "expired_session"


# ── the end of a process ──


def test_a_gateway_that_is_told_to_end_ends_its_requests_first(
    start_gateway: StartGateway, world: World, mock: Mock
) -> None:
    """Every deployment would cost end users answers, and us money."""
    gateway = start_gateway()
    end_users = [world.end_user() for _ in range(50)]
    before = mock.calls()
    bodies = [chat(stream=True, mock={"chunk_delay_ms": 60}), chat(mock={"delay_ms": 1500})]
    idle = socket.create_connection(("127.0.0.1", gateway.port))
    with ThreadPoolExecutor(50) as threads:
        asking = [
            threads.submit(ask, gateway, end_user.bearer, bodies[place % 2]) for place, end_user in enumerate(end_users)
        ]
        wait_for(lambda: mock.calls() == before + 50)
        gateway.terminate()
        wait_for(lambda: refuses(gateway), 2)
        assert not any(one.done() for one in asking)
        replies = [one.result() for one in asking]
    with idle:
        assert idle.recv(1) == b"", "an idle connection is let go"
    assert gateway.ended(10) == 0
    assert [reply.status for reply in replies] == [200] * 50
    assert all(reply.headers.get("connection") == "close" for reply in replies[1::2])
    assert all(reply.body.endswith(b"data: [DONE]\n\n") for reply in replies[::2])
    for end_user in end_users:
        [event] = world.events_of(end_user)
        assert event["outcome"] == 0 and world.balance(end_user) == (TEN - event["retail_e8"], 0)
    told = gateway.log.read_text()
    assert "Traceback" not in told and "gateway.draining" in told


def refuses(gateway: Gateway) -> bool:
    """Whether a gateway takes no new connection."""
    try:
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=1):
            return False
    except ConnectionRefusedError:
        return True


def test_what_does_not_end_in_time_is_cut_and_billed(start_gateway: StartGateway, world: World) -> None:
    """A deployment would wait for ever for one slow stream, or give away what was delivered until then."""
    gateway = start_gateway(DRAIN_SECONDS=1)
    streaming, silent = world.end_user(), world.end_user()
    stream = Hanging(gateway, streaming.bearer, chat(stream=True, mock={"chunk_delay_ms": 200}))
    delivered = len(text_of(stream.first_events(3)).split())
    json_only = Hanging(gateway, silent.bearer, chat(mock={"delay_ms": 30_000}))
    wait_for(lambda: world.open_holds(silent))
    began = time.monotonic()
    gateway.terminate()
    assert gateway.ended(10) == 0 and time.monotonic() - began < 8
    [event] = world.events_of(streaming)
    assert event["outcome"] == 2 and delivered <= event["output_tokens"] < 48
    assert world.balance(streaming) == (TEN - event["retail_e8"], 0)
    assert world.events_of(silent) == [] and world.balance(silent) == (TEN, 0)
    for left in (stream, json_only):
        left.hang_up()


def test_a_keep_alive_connection_is_told_to_close(start_gateway: StartGateway, world: World, rich: EndUser) -> None:
    """A client would send its next request into a connection that is about to end."""
    gateway = start_gateway()
    body, headers = posted(rich.bearer, chat(mock={"delay_ms": 500}))
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as line:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        line.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{lines}\r\n".encode() + body)
        wait_for(lambda: world.open_holds(rich))
        gateway.terminate()
        got = b""
        while piece := line.recv(65_536):
            got += piece
    head, _, content = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and b"connection: close" in head
    assert json.loads(content)["choices"] and gateway.ended(10) == 0


def test_a_second_gateway_takes_over_the_port(start_gateway: StartGateway, world: World, rich: EndUser) -> None:
    """An update would mean a moment in which nobody listens."""
    gateway = start_gateway()
    assert ask(gateway, rich.bearer, chat()).status == 200
    other = start_gateway(PORT_GATEWAY=gateway.port)
    gateway.terminate()
    assert gateway.process.wait(15) == 0
    connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=5)
    connection.close()
    assert request(gateway, "GET", "/health").status == 200 and other.process.poll() is None
