"""Webhooks are delivered by the jobs: signed, at least once, again after failures and crashes, and nowhere else."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from api_world import ok, refused
from books import Books
from fakes.keyed_provider import PUBLIC, Rerouted
from fakes.receiver import Message, Receiver
from gateway_world import wait_for
from standardwebhooks.webhooks import WebhookVerificationError
from webhook_world import EVENTS, WEBHOOKS, Hooks, config, hooks, receiver

from faucet.jobs.webhooks import Courier
from faucet.kit.config import load_config
from faucet.kit.db import Tx
from faucet.kit.upstream import Pool
from faucet.webhooks.deliveries import PER_ENDPOINT, claim
from faucet.webhooks.schedule import FAILING_DAYS, TRIES_MAX

__all__ = ["config", "hooks", "receiver"]

_JOBS = """
import asyncio, os
from faucet.jobs.app import run
from faucet.kit.config import load_config
from faucet.kit.db import Tx
asyncio.run(run(load_config(), os.environ["TEST_DSN"], on_ready=lambda: print("ready", flush=True)))
"""


def test_an_event_arrives_signed(hooks: Hooks, receiver: Receiver) -> None:
    """Lost: a developer's server is told nothing, or can't know by whom."""
    endpoint, secret = hooks.endpoint(receiver.url)
    event = hooks.ping(endpoint)
    done = hooks.deliver()
    assert (done.tries, done.accepted) == (1, 1)
    (message,) = receiver.got
    assert (message.path, message.headers["content-type"]) == ("/hooks", "application/json")
    told = message.verified(secret)
    assert told == {
        "id": event["id"], "type": "ping", "timestamp": event["created_at"], "data": {"webhook_id": endpoint["id"]},
    }  # fmt: skip
    assert message.id == event["id"]
    after = hooks.event(event["id"])["deliveries"]
    assert after == [{"webhook_id": endpoint["id"], "state": "delivered", "tries": 1}]
    (attempt,) = hooks.attempts(event["id"])
    assert (attempt["status_code"], attempt["number"], "failure" in attempt) == (204, 1, False)
    assert hooks.deliver().tries == 0 and len(receiver.got) == 1


def test_what_arrives_is_not_believed_when_it_was_changed(hooks: Hooks, receiver: Receiver) -> None:
    """Lost: a signature that signs nothing: with another body, id or time it would pass too."""
    endpoint, secret = hooks.endpoint(receiver.url)
    hooks.ping(endpoint)
    hooks.deliver()
    (message,) = receiver.got
    past = {"webhook-timestamp": str(int(message.headers["webhook-timestamp"]) - 301)}
    for changed in (
        Message("/", message.headers, message.body.replace(b"ping", b"pong")),
        Message("/", message.headers | {"webhook-id": "another"}, message.body),
        Message("/", message.headers | past, message.body),
    ):
        with pytest.raises(WebhookVerificationError):
            changed.verified(secret)


def test_a_try_that_fails_is_made_again_with_the_same_id(hooks: Hooks, receiver: Receiver) -> None:
    """Lost: an event is lost with the first restart of a developer's server; or it looks like another each time."""
    endpoint, secret = hooks.endpoint(receiver.url)
    event = hooks.ping(endpoint)
    receiver.status = 500
    hooks.deliver()
    assert hooks.deliver().tries == 0  # its pause is not over
    (delivery,) = hooks.event(event["id"])["deliveries"]
    due = datetime.fromisoformat(delivery["next_try_at"]) - datetime.fromisoformat(event["created_at"])
    assert delivery["state"] == "pending" and timedelta(seconds=40) < due < timedelta(seconds=120)
    assert hooks.read(endpoint)["failing_since"]
    receiver.status = 200
    hooks.let_time_pass()
    assert hooks.deliver().accepted == 1
    first, second = receiver.got
    assert first.id == second.id == event["id"] and first.body == second.body
    second.verified(secret)
    assert [(row["number"], row["status_code"]) for row in hooks.attempts(event["id"])] == [(2, 200), (1, 500)]
    assert "failing_since" not in hooks.read(endpoint)


def test_after_the_last_try_it_is_given_up_and_can_be_replayed(hooks: Hooks, receiver: Receiver) -> None:
    """Lost: tries without end; or an outage of a week loses its events for good."""
    endpoint, secret = hooks.endpoint(receiver.url)
    event = hooks.ping(endpoint)
    receiver.status = 503
    for _ in range(TRIES_MAX + 3):
        hooks.deliver()
        hooks.let_time_pass()
    assert len(receiver.got) == TRIES_MAX
    assert hooks.event(event["id"])["deliveries"][0]["state"] == "failed"
    receiver.status = 200
    reply = hooks.developer.http.post(f"{EVENTS}/{event['id']}/replay", json={})
    assert ok(reply, 202) == {"event_id": event["id"], "deliveries": 1}
    assert hooks.deliver().accepted == 1
    assert receiver.got[-1].id == event["id"]
    receiver.got[-1].verified(secret)
    assert hooks.audited("webhook_event.replayed")


def test_a_process_that_dies_before_it_wrote_down_the_end_sends_again(
    hooks: Hooks, receiver: Receiver, tmp_path: Path
) -> None:
    """Lost: at least once. A jobs' process is killed after an event arrived and before that was written down."""
    endpoint, secret = hooks.endpoint(receiver.url)
    event = hooks.ping(endpoint)
    arrived, may_answer = threading.Event(), threading.Event()

    def wait(message: Message) -> None:
        arrived.set()
        assert may_answer.wait(30)

    receiver.before_answer = wait
    process = _jobs(hooks, tmp_path)
    try:
        assert arrived.wait(30), "the jobs delivered nothing"
        process.send_signal(signal.SIGKILL)
        process.wait()
    finally:
        may_answer.set()
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    receiver.before_answer = None
    assert hooks.attempts(event["id"]) == []
    assert hooks.deliver().tries == 0  # the dead one's claim is still good
    hooks.let_time_pass()
    assert hooks.deliver().accepted == 1
    first, second = receiver.got
    assert first.id == second.id == event["id"]
    assert first.verified(secret) == second.verified(secret)
    assert hooks.event(event["id"])["deliveries"][0]["state"] == "delivered"


def test_the_jobs_process_delivers(hooks: Hooks, receiver: Receiver, tmp_path: Path) -> None:
    """Lost: a function that works, and a process that doesn't call it."""
    endpoint, secret = hooks.endpoint(receiver.url)
    event = hooks.ping(endpoint)
    process = _jobs(hooks, tmp_path)
    try:
        wait_for(lambda: hooks.event(event["id"])["deliveries"][0]["state"] == "delivered", 40)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    receiver.got[0].verified(secret)


def _jobs(hooks: Hooks, folder: Path) -> subprocess.Popen[str]:
    """A real jobs' process that is ready."""
    env = os.environ | {
        "TEST_DSN": hooks.world.api.dsn,
        "FAUCET_DATA": str(hooks.config.faucet_data),
        "WEBHOOK_LOOPBACK": "true",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with open(folder / "jobs.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _JOBS], env=env, stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 30)[0], (folder / "jobs.log").read_text()
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_send_each_event_once(hooks: Hooks, receiver: Receiver) -> None:
    """Lost: as many copies as there are jobs' processes."""
    endpoint, _ = hooks.endpoint(receiver.url)
    sent = {hooks.ping(endpoint)["id"] for _ in range(30)}

    async def both(courier: Courier) -> None:
        other = Courier(hooks.config, courier._db, hooks.clock, courier._upstream)
        await asyncio.gather(courier.deliver_due(), other.deliver_due())

    hooks.with_courier(both)
    assert sorted(message.id for message in receiver.got) == sorted(sent)


def test_one_sweep_at_a_time_in_a_process(hooks: Hooks, receiver: Receiver) -> None:
    """Lost: a few slow endpoints take up every place of the queue, and holds don't expire."""
    hooks.ping(hooks.endpoint(receiver.url)[0])

    async def twice(courier: Courier) -> list[int]:
        return [done.tries for done in await asyncio.gather(courier.deliver_due(), courier.deliver_due())]

    assert hooks.with_courier(twice) == [1, 0]


def test_a_slow_endpoint_does_not_hold_up_the_others(hooks: Hooks, receiver: Receiver) -> None:
    """Lost: one developer's server that hangs is everybody's delay."""
    with Receiver() as slow:
        backlog, _ = hooks.endpoint(slow.url)
        for _ in range(20):
            hooks.ping(backlog)
        quick, _ = hooks.endpoint(receiver.url)
        sent = [hooks.ping(quick)["id"] for _ in range(30)]
        all_quick = threading.Event()
        slow_at_once: list[int] = []

        def hang(message: Message) -> None:
            slow_at_once.append(len(slow.got))
            assert all_quick.wait(30), "the quick endpoint waits for the slow one"

        def note(message: Message) -> None:
            if len(receiver.got) == len(sent):
                all_quick.set()

        slow.before_answer, receiver.before_answer = hang, note
        done = hooks.deliver()
        assert (done.tries, done.accepted) == (50, 50)
        assert sorted(message.id for message in receiver.got) == sorted(sent)
        assert max(slow_at_once[:PER_ENDPOINT]) <= PER_ENDPOINT and len(slow.got) == 20


def test_an_endpoint_that_fails_is_tried_with_one_at_a_time(hooks: Hooks, receiver: Receiver, books: Books) -> None:
    """Lost: servers that are down take up the places of those that are up."""
    endpoint, _ = hooks.endpoint(receiver.url)
    for _ in range(5):
        hooks.ping(endpoint)
    books.rows("update webhook_endpoint set failing_since = now()")

    async def one_claim(connection: Tx) -> list[int]:
        claimed = []
        for busy in ((), (UUID(endpoint["id"]),)):
            async with connection.transaction():
                found = await claim(
                    connection, batch=50, now=hooks.clock.now(), sealing_key=hooks.config.webhook_key, busy=busy
                )
            claimed.append(len(found))
        return claimed

    assert hooks.in_jobs_role(one_claim) == [1, 0]


# ── rotation ──


def test_a_rotation_signs_with_both_until_the_overlap_is_over(hooks: Hooks, receiver: Receiver) -> None:
    """Lost: a rotation is an outage; or a secret that leaked signs for ever."""
    endpoint, old = hooks.endpoint(receiver.url)
    rotated = ok(hooks.developer.http.post(f"{WEBHOOKS}/{endpoint['id']}/rotate", json={"overlap_seconds": 600}), 201)
    new = rotated["secret"]
    assert new != old and rotated["item"]["previous_secret_until"]
    hooks.ping(endpoint)
    hooks.deliver()
    assert receiver.got[0].headers["webhook-signature"].count("v1,") == 2
    receiver.got[0].verified(old)
    receiver.got[0].verified(new)
    hooks.books.rows("update webhook_secret set expires_at = now() - interval '1 second' where expires_at is not null")
    hooks.ping(endpoint)
    hooks.deliver()
    assert receiver.got[1].headers["webhook-signature"].count("v1,") == 1
    receiver.got[1].verified(new)
    with pytest.raises(WebhookVerificationError):
        receiver.got[1].verified(old)
    assert "previous_secret_until" not in hooks.read(endpoint)


def test_a_second_rotation_ends_the_oldest_secret(hooks: Hooks, receiver: Receiver) -> None:
    """Lost: each rotation adds a secret that signs on."""
    endpoint, first = hooks.endpoint(receiver.url)
    path = f"{WEBHOOKS}/{endpoint['id']}/rotate"
    second, third = (ok(hooks.developer.http.post(path, json={}), 201)["secret"] for _ in range(2))
    hooks.ping(endpoint)
    hooks.deliver()
    (message,) = receiver.got
    message.verified(second)
    message.verified(third)
    with pytest.raises(WebhookVerificationError):
        message.verified(first)


def test_a_secret_that_does_not_open_sends_nothing(hooks: Hooks, receiver: Receiver, tmp_path: Path) -> None:
    """Lost: after a change of SECRET_ENCRYPTION_KEY events leave unsigned, or one row stops all deliveries."""
    endpoint, _ = hooks.endpoint(receiver.url)
    event = hooks.ping(endpoint)
    other = load_config({"FAUCET_DATA": str(tmp_path / "other"), "WEBHOOK_LOOPBACK": "true"})
    assert hooks.deliver(config=other).accepted == 0
    assert receiver.got == []
    assert hooks.attempts(event["id"])[0]["failure"] == "secret_not_opened"


# ── endpoints that fail ──


def test_an_endpoint_that_has_failed_for_days_is_switched_off(hooks: Hooks, receiver: Receiver, books: Books) -> None:
    """Lost: events for a server that is gone are tried for years, and nobody learns of it."""
    endpoint, _ = hooks.endpoint(receiver.url)
    event, waiting = hooks.ping(endpoint), hooks.ping(endpoint)
    receiver.status = 500
    hooks.deliver()
    books.rows(
        "update webhook_endpoint set failing_since = now() - make_interval(days => %s, mins => -1)", FAILING_DAYS
    )
    hooks.let_time_pass()
    hooks.deliver()
    assert hooks.read(endpoint)["status"] == "active"
    books.rows("update webhook_endpoint set failing_since = now() - make_interval(days => %s, mins => 1)", FAILING_DAYS)
    hooks.let_time_pass()
    hooks.deliver()
    off = hooks.read(endpoint)
    assert (off["status"], off["disabled_reason"]) == ("disabled", "failing")
    (audited,) = hooks.audited("webhook_endpoint.disabled")
    assert (audited[0], audited[1]["reason"], audited[1]["status_code"]) == ("jobs", "failing", 500)
    for each in (event, waiting):
        assert hooks.event(each["id"])["deliveries"][0]["state"] == "failed"
    refused(hooks.developer.http.post(f"{WEBHOOKS}/{endpoint['id']}/ping"), 409, "conflict")
    on = ok(hooks.developer.http.patch(f"{WEBHOOKS}/{endpoint['id']}", json={"status": "active"}))
    assert on["status"] == "active" and "failing_since" not in on and "disabled_reason" not in on


def test_an_endpoint_that_says_gone_is_switched_off_at_once(hooks: Hooks, receiver: Receiver) -> None:
    """Lost: the one way that the specification gives a receiver to say stop."""
    endpoint, _ = hooks.endpoint(receiver.url)
    hooks.ping(endpoint)
    receiver.status = 410
    hooks.deliver()
    assert hooks.read(endpoint)["disabled_reason"] == "gone"
    assert hooks.audited("webhook_endpoint.disabled")[0][1]["reason"] == "gone"


def test_an_endpoint_without_a_server_is_a_failure_with_a_name(hooks: Hooks, receiver: Receiver) -> None:
    """Lost: a developer can't tell a wrong port from a wrong answer."""
    endpoint, _ = hooks.endpoint("http://127.0.0.1:1/")
    event = hooks.ping(endpoint)
    hooks.deliver()
    (attempt,) = hooks.attempts(event["id"])
    assert attempt["failure"] == "connect" and "status_code" not in attempt


# ── only to where it may go ──


def _names(**names: Sequence[str]) -> Any:
    """A resolver that knows these names; a list of lists is a name that answers otherwise each time."""
    asked: dict[str, int] = {}

    async def resolve(host: str, port: int) -> Sequence[str]:
        answers = names[host.partition(".")[0]]
        if answers and isinstance(answers[0], list):
            place = asked[host] = asked.get(host, -1) + 1
            return answers[min(place, len(answers) - 1)]
        return answers

    return resolve


def _stored(hooks: Hooks, url: str) -> str:
    """An event on its way to an address that its endpoint got when the settings allowed it, or around the API."""
    endpoint, _ = hooks.endpoint("https://hooks.example.com/")
    hooks.books.rows("update webhook_endpoint set url = %s where id = %s", url, endpoint["id"])
    return str(hooks.ping(endpoint)["id"])


@pytest.mark.parametrize(
    "answers", [["10.1.2.3"], ["127.0.0.1"], [PUBLIC, "169.254.169.254"], ["64:ff9b::7f00:1"], ["fd00::1"]]
)
def test_a_name_of_a_private_address_is_refused(hooks: Hooks, receiver: Receiver, answers: list[str]) -> None:
    """Lost: a tenant's name makes our jobs call our own network."""
    event = _stored(hooks, "https://inside.example.com/")
    assert hooks.deliver(lambda: Pool(resolve=_names(inside=answers))).accepted == 0
    assert hooks.attempts(event)[0]["failure"] == "refused_address"
    assert receiver.got == []


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "http://169.254.169.254/x", "http://[::ffff:127.0.0.1]:9/"])
def test_a_stored_private_address_is_judged_again(hooks: Hooks, receiver: Receiver, url: str) -> None:
    """Lost: what was stored once is believed for ever."""
    event = _stored(hooks, url)
    assert hooks.deliver().accepted == 0
    assert hooks.attempts(event)[0]["failure"] == "refused_address"


def test_a_name_that_changes_its_address_is_caught(hooks: Hooks, receiver: Receiver, tmp_path: Path) -> None:
    """Lost: DNS rebinding: public when it is looked at, private when it is called."""
    ports = {"TENANT_UPSTREAM_PORTS": str(receiver.port), "TENANT_UPSTREAM_HTTP": "true"}
    config = load_config({"FAUCET_DATA": str(hooks.config.faucet_data)} | ports)
    event = _stored(hooks, f"http://rebinding.example.com:{receiver.port}/")

    class Changing(Rerouted):
        """A pool that really connects to loopback after the guard has judged what the name says now."""

        def __init__(self) -> None:
            Pool.__init__(self, resolve=_names(rebinding=[[PUBLIC], ["127.0.0.1"]]))

    async def two_tries(courier: Courier) -> list[int]:
        accepted = []
        receiver.status = 500
        for _ in range(2):
            accepted.append((await courier.deliver_due()).accepted)
            await asyncio.to_thread(hooks.let_time_pass)
        return accepted

    assert hooks.with_courier(two_tries, Changing, config=config) == [0, 0]
    assert len(receiver.got) == 1
    second, first = hooks.attempts(event)
    assert (first["status_code"], second["failure"]) == (500, "refused_address")


def test_a_redirect_is_not_followed(hooks: Hooks, receiver: Receiver) -> None:
    """Lost: a public server sends our jobs on to a private one."""
    with Receiver() as private:
        receiver.status, receiver.location = 307, private.url
        event = hooks.ping(hooks.endpoint(receiver.url)[0])
        assert hooks.deliver().accepted == 0
        assert private.got == []
    assert hooks.attempts(event["id"])[0]["status_code"] == 307


def test_loopback_is_refused_without_its_setting(hooks: Hooks, receiver: Receiver) -> None:
    """Lost: a stored endpoint on this machine is called by a production that took over the database."""
    event = hooks.ping(hooks.endpoint(receiver.url)[0])
    strict = load_config({"FAUCET_DATA": str(hooks.config.faucet_data)})
    assert hooks.deliver(config=strict).accepted == 0
    assert receiver.got == []
    assert hooks.attempts(event["id"])[0]["failure"] == "refused_address"
