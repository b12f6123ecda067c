"""Signatures of webhooks, checked by the specification's own library and by our command's check."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from uuid import UUID

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from faucet.kit.ids import uuid7
from faucet.kit.secret import Secret
from faucet.webhooks import outbox, signing
from faucet.webhooks.outbox import Event
from faucet.webhooks.signing import Unverified, new_secret, signed_headers, verify
from faucet.webhooks.target import Rules, target_of

BODY = '{"type": "ping", "data": {"name": "né"}}'.encode()
LOCAL = Rules(allow_loopback=True)


def _now() -> int:
    return int(time.time())


def test_the_library_accepts_what_we_sign() -> None:
    """Lost: developers who check with the specification's libraries refuse everything."""
    secret = new_secret()
    headers = signed_headers([secret], "id-1", _now(), BODY)
    assert Webhook(secret.reveal()).verify(BODY, headers) == json.loads(BODY)
    verify([secret], headers, BODY, now=time.time())


def test_we_accept_what_the_library_signs() -> None:
    """Lost: our own receiver knows another specification than everybody."""
    secret, at = new_secret(), _now()
    signature = Webhook(secret.reveal()).sign("id-1", datetime.fromtimestamp(at, UTC), BODY.decode())
    headers = {"webhook-id": "id-1", "webhook-timestamp": str(at), "webhook-signature": signature}
    assert headers == signed_headers([secret], "id-1", at, BODY)
    verify([secret], headers, BODY, now=time.time())


def test_the_published_example_is_reproduced() -> None:
    """Lost: a slip that both of our sides share."""
    secret = Secret("whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    headers = signed_headers([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "forged",
    [
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": "v2,g0hM9SsE"},
        {"webhook-id": "id-2"},
        {"webhook-timestamp": str(_now() + 1)},
    ],
)
def test_a_forged_message_is_refused_by_both(forged: dict[str, str]) -> None:
    """Lost: anybody can tell a developer's server that a top-up was credited."""
    secret = new_secret()
    headers = signed_headers([secret], "id-1", _now(), BODY) | forged
    with pytest.raises((WebhookVerificationError, ValueError)):
        Webhook(secret.reveal()).verify(BODY, headers)
    with pytest.raises(Unverified):
        verify([secret], headers, BODY, now=time.time())


def test_a_changed_body_or_another_secret_is_refused_by_both() -> None:
    """Lost: an amount can be changed on its way."""
    secret, other = new_secret(), new_secret()
    headers = signed_headers([secret], "id-1", _now(), BODY)
    for key, body in ((secret, BODY + b" "), (other, BODY)):
        with pytest.raises(WebhookVerificationError):
            Webhook(key.reveal()).verify(body, headers)
        with pytest.raises(Unverified):
            verify([key], headers, body, now=time.time())


@pytest.mark.parametrize("age", [-301, 301, 86_400])
def test_an_old_message_is_refused_by_both(age: int) -> None:
    """Lost: a message that somebody recorded is believed for ever."""
    secret = new_secret()
    headers = signed_headers([secret], "id-1", _now() - age, BODY)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret.reveal()).verify(BODY, headers)
    with pytest.raises(Unverified, match="just now"):
        verify([secret], headers, BODY, now=time.time())


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_message_without_a_header_is_refused(missing: str) -> None:
    """Lost: who leaves the signature away is believed."""
    secret = new_secret()
    headers = signed_headers([secret], "id-1", _now(), BODY)
    del headers[missing]
    with pytest.raises(Unverified, match=missing):
        verify([secret], headers, BODY, now=time.time())


def test_both_secrets_of_a_rotation_are_accepted() -> None:
    """Lost: a rotation is an outage until the developer's server has the new secret."""
    old, new = new_secret(), new_secret()
    headers = signed_headers([new, old], "id-1", _now(), BODY)
    for secret in (old, new):
        assert Webhook(secret.reveal()).verify(BODY, headers) == json.loads(BODY)
        verify([secret], headers, BODY, now=time.time())


def test_a_secret_opens_in_its_own_row_only() -> None:
    """Lost: who can write rows makes another's endpoint sign with a secret that they know."""
    secret, key, row, endpoint = new_secret(), b"k" * 32, uuid7(), uuid7()
    sealed = signing.seal_secret(secret, key, row_id=row, endpoint_id=endpoint)
    opened = signing.open_secret(sealed, key, row_id=row, endpoint_id=endpoint)
    assert opened.reveal() == secret.reveal()
    places: list[tuple[bytes, UUID, UUID]] = [
        (key, uuid7(), endpoint), (key, row, uuid7()), (b"x" * 32, row, endpoint)
    ]  # fmt: skip
    for other_key, row_id, endpoint_id in places:
        with pytest.raises(ValueError):
            signing.open_secret(sealed, other_key, row_id=row_id, endpoint_id=endpoint_id)


def test_an_event_is_the_same_bytes_each_time() -> None:
    """Lost: a receiver that compares bodies sees two events in one."""
    event = Event(uuid7(), uuid7(), "ping", '{"a": "b"}', datetime(2026, 1, 1, tzinfo=UTC))
    assert outbox.body_of(event) == outbox.body_of(event)
    assert json.loads(outbox.body_of(event)) == {
        "id": str(event.id),
        "type": "ping",
        "timestamp": "2026-01-01T00:00:00.000Z",
        "data": {"a": "b"},
    }


def test_the_path_and_query_of_a_url_are_kept() -> None:
    """Lost: a slash at the end, or a parameter, that a receiver's router needs."""
    for url, path in (
        ("https://a.example.com", b"/"),
        ("https://a.example.com/hook/", b"/hook/"),
        ("https://a.example.com/h?x=1&y=%20", b"/h?x=1&y=%20"),
    ):
        target = target_of(url, Rules())
        assert (target.endpoint.host, target.endpoint.trusted, target.path) == ("a.example.com", False, path)


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example.com/",
        "https://a.example.com:8443/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://10.0.0.1/",
        "https://[::1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://metadata.google.internal/",
        "https://127.1/",
        "https://user:pw@a.example.com/",
        "https://a.example.com/#x",
        "https://a.example.com/ x",
        "https://a.example.com\\@10.0.0.1/",
        "ftp://a.example.com/",
        "https://",
        "hallo, hallo",
        "https://exämple.com/",
        "https://a.example.com/" + "x" * 2_048,
    ],
)
def test_an_address_that_may_not_be_reached_is_refused(url: str) -> None:
    """Lost: a tenant makes our jobs call our own network."""
    with pytest.raises(ValueError):
        target_of(url, Rules())


def test_loopback_is_this_machine_and_nothing_else() -> None:
    """Lost: the setting for one's own machine opens the network that it is in."""
    for host in ("127.0.0.1:4242", "localhost:4242", "[::1]:4242"):
        assert target_of(f"http://{host}/", LOCAL).endpoint.trusted
    for host in ("10.0.0.1", "192.168.1.1:4242", "127.0.0.1.nip.example:4242", "127.0.0.2:4242", "metadata"):
        with pytest.raises(ValueError):
            target_of(f"http://{host}/", LOCAL)
