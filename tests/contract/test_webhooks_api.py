"""The routes of webhooks: endpoints, secrets that are shown once, events, replays, and what other routes tell of."""

from __future__ import annotations

from typing import Any

import pytest
from api_world import ok, refused
from books import Books
from fakes.receiver import Receiver
from webhook_world import EVENTS, WEBHOOKS, Hooks, config, hooks, receiver

__all__ = ["config", "hooks", "receiver"]

URL = "https://hooks.example.com/modelfaucet"


def test_an_endpoint_from_making_to_deleting(hooks: Hooks, books: Books) -> None:
    """Lost: a developer who can't keep their own endpoints; changes that leave no trace."""
    http = hooks.developer.http
    item, secret = hooks.endpoint(URL, description="production", event_types=["wallet.low", "ping", "ping"])
    assert secret.startswith("whsec_") and len(secret) == 50
    assert item["event_types"] == ["ping", "wallet.low"] and item["status"] == "active"
    assert hooks.read(item) == item
    path = f"{WEBHOOKS}/{item['id']}"
    changed = ok(http.patch(path, json={"event_types": [], "description": None, "url": URL + "/2?x=1"}))
    assert (changed["url"], changed["event_types"], "description" in changed) == (URL + "/2?x=1", [], False)
    off = ok(http.patch(path, json={"status": "disabled"}))
    assert (off["status"], off["disabled_reason"]) == ("disabled", "developer")
    assert http.delete(path).status_code == 204
    refused(http.get(path), 404, "not_found")
    refused(http.delete(path), 404, "not_found")
    assert books.one("select count(*) from webhook_secret") == 0
    for action in ("created", "changed", "deleted"):
        assert hooks.audited(f"webhook_endpoint.{action}"), action
    assert secret not in str(books.rows("select * from audit_log"))


def test_a_secret_is_shown_once_and_the_api_cannot_read_it(hooks: Hooks, books: Books) -> None:
    """Lost: who gets into the API gets everybody's secrets."""
    item, secret = hooks.endpoint(URL)
    text = "".join(hooks.developer.http.get(path).text for path in (WEBHOOKS, f"{WEBHOOKS}/{item['id']}", EVENTS))
    assert secret not in text and "whsec_" not in text
    (sealed,) = books.row("select sealed from webhook_secret") or ()
    assert secret.encode() not in bytes(sealed)
    with pytest.raises(Exception, match="permission denied"):
        books.rows("select sealed from webhook_secret", role="faucet_api")
    with pytest.raises(Exception, match="permission denied"):
        books.rows("select * from webhook_secret", role="faucet_gateway")


def test_a_key_makes_one_endpoint_one_rotation_one_ping_one_replay(hooks: Hooks, receiver: Receiver) -> None:
    """Lost: a retry after a lost answer makes a second endpoint, or loses the secret for good."""
    http = hooks.developer.http

    def twice(path: str, body: Any) -> Any:
        replies = [http.post(path, json=body, headers={"idempotency-key": f"key-of{path}"}) for _ in range(2)]
        assert replies[0].status_code == replies[1].status_code and replies[0].json() == replies[1].json()
        assert replies[1].headers["idempotent-replayed"] == "true"
        return replies[0].json()

    made = twice(WEBHOOKS, {"url": receiver.url})
    rotated = twice(f"{WEBHOOKS}/{made['item']['id']}/rotate", {})
    event = twice(f"{WEBHOOKS}/{made['item']['id']}/ping", None)
    hooks.deliver()
    twice(f"{EVENTS}/{event['id']}/replay", {"webhook_id": made["item"]["id"]})
    hooks.deliver()
    assert len(ok(http.get(WEBHOOKS))["items"]) == 1
    assert [message.id for message in receiver.got] == [event["id"]] * 2
    receiver.got[1].verified(rotated["secret"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": "http://hooks.example.com/"}, "url"),
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"url": "https://metadata.google.internal/"}, "url"),
        ({"url": "https://user:pw@hooks.example.com/"}, "url"),
        ({"url": "https://hooks.example.com:22/"}, "url"),
        ({"url": "x" * 3_000}, "url"),
        ({"url": URL, "event_types": ["everything"]}, "event_types.0"),
        ({"url": URL, "description": "\x00"}, "description"),
        ({"url": URL, "secret": "whsec_mine"}, "secret"),
    ],
)
def test_bad_input_is_refused_by_field(hooks: Hooks, body: Any, field: str) -> None:
    """Lost: an endpoint in our own network; a slip that nobody is told of."""
    error = refused(hooks.developer.http.post(WEBHOOKS, json=body), 400, "invalid_request")
    assert field in error["details"]["fieldErrors"], error


def test_a_change_to_a_bad_address_is_refused(hooks: Hooks) -> None:
    """Lost: what may not be made can be had by a change."""
    item, _ = hooks.endpoint(URL)
    path = f"{WEBHOOKS}/{item['id']}"
    for body in ({"url": "https://192.168.0.1/"}, {"url": None}, {"status": "deleted"}, {"event_types": None}):
        refused(hooks.developer.http.patch(path, json=body), 400, "invalid_request")
    assert hooks.read(item) == item


def test_scopes_and_owners(hooks: Hooks) -> None:
    """Lost: a token that may only read changes endpoints; a developer sees another's."""
    item, _ = hooks.endpoint(URL)
    event = hooks.ping(item)
    reader = hooks.world.developer(("developer:webhooks:read",)).http
    refused(reader.post(WEBHOOKS, json={"url": URL}), 403, "forbidden")
    refused(hooks.world.developer(("developer:apps:read",)).http.get(WEBHOOKS), 403, "forbidden")
    stranger = hooks.world.developer().http
    mine = ok(stranger.post(WEBHOOKS, json={"url": URL}), 201)["item"]
    assert [row["id"] for row in ok(stranger.get(WEBHOOKS))["items"]] == [mine["id"]]
    assert ok(stranger.get(EVENTS))["items"] == []
    for path in (f"{EVENTS}/{event['id']}/replay", f"{WEBHOOKS}/{item['id']}/rotate"):
        refused(stranger.post(path, json={}), 404, "not_found")
    own = ok(stranger.post(f"{WEBHOOKS}/{mine['id']}/ping"), 202)
    refused(stranger.post(f"{EVENTS}/{own['id']}/replay", json={"webhook_id": item["id"]}), 404, "not_found")
    # Staff sees all, and can't cross two developers either.
    staff = hooks.world.operator
    assert len(ok(staff.get(WEBHOOKS))["items"]) == 2
    refused(staff.post(f"{EVENTS}/{own['id']}/replay", json={"webhook_id": item["id"]}), 404, "not_found")
    refused(staff.post(WEBHOOKS, json={"url": URL}), 400, "invalid_request")
    made = ok(staff.post(WEBHOOKS, json={"url": URL, "developer_id": hooks.developer.id}), 201)["item"]
    assert made["developer_id"] == hooks.developer.id


def test_lists_come_in_pages(hooks: Hooks) -> None:
    """Lost: a list that shows a row twice, or leaves one out."""
    items = [hooks.endpoint(URL)[0]["id"] for _ in range(5)]
    events = [hooks.ping({"id": items[0]})["id"] for _ in range(5)]
    for path, wanted in ((WEBHOOKS, items), (EVENTS, events)):
        seen, cursor = [], None
        for _ in range(3):
            query = {"limit": "2"} | ({} if cursor is None else {"cursor": cursor})
            reply = ok(hooks.developer.http.get(path, params=query))
            seen += [row["id"] for row in reply["items"]]
            cursor = reply.get("next_cursor")
        assert seen == wanted[::-1] and cursor is None
    assert ok(hooks.developer.http.get(EVENTS, params={"type": "wallet.low"}))["items"] == []
    refused(hooks.developer.http.get(EVENTS, params={"type": "nothing"}), 400, "invalid_request")


def test_there_is_a_most_of_endpoints(hooks: Hooks) -> None:
    """Lost: one developer's thousand endpoints make a thousand deliveries of each event."""
    for _ in range(20):
        hooks.endpoint(URL)
    refused(hooks.developer.http.post(WEBHOOKS, json={"url": URL}), 409, "conflict")


def test_an_event_goes_where_it_is_wanted(hooks: Hooks) -> None:
    """Lost: an endpoint is told of what it didn't ask for; or the filter leaves out what it did."""
    everything, _ = hooks.endpoint(URL)
    apps, _ = hooks.endpoint(URL, event_types=["app.disabled"])
    hooks.endpoint(URL, event_types=["wallet.low"])
    off, _ = hooks.endpoint(URL)
    ok(hooks.developer.http.patch(f"{WEBHOOKS}/{off['id']}", json={"status": "disabled"}))
    app = hooks.developer.app()["public_app_id"]
    for body in ({"status": "disabled"}, {"name": "B"}, {"status": "disabled"}):
        ok(hooks.developer.http.patch(f"/v1/developer/apps/{app}", json=body))
    (event,) = hooks.events(type="app.disabled")
    assert {each["webhook_id"] for each in event["deliveries"]} == {everything["id"], apps["id"]}
    assert event["data"] == {"public_app_id": app, "status": "disabled", "by": "developer_token"}


def test_an_app_that_is_archived_or_switched_off_is_told_of(hooks: Hooks) -> None:
    """Lost: a developer learns from their users that the operator has stopped their app."""
    first, second = hooks.developer.app()["public_app_id"], hooks.developer.app()["public_app_id"]
    ok(hooks.developer.http.delete(f"/v1/developer/apps/{first}"))
    switch = {"target": "app", "target_id": second, "reason": "abuse"}
    for _ in range(2):
        ok(hooks.world.operator.post("/v1/admin/kill-switches", json=switch), 201)
    told = [event["data"] for event in hooks.events(type="app.disabled")]
    assert told == [
        {"public_app_id": second, "status": "switched_off", "by": "operator"},
        {"public_app_id": first, "status": "archived", "by": "developer_token"},
    ]


def test_what_is_refused_is_not_told(hooks: Hooks) -> None:
    """Lost: an event of something that was undone with its tx."""
    app = hooks.developer.app()["public_app_id"]
    refused(
        hooks.developer.http.patch(f"/v1/developer/apps/{app}", json={"status": "disabled", "name": None}),
        400,
        "invalid_request",
    )
    assert hooks.events() == []
