"""Payouts over HTTP: who may ask for what, who lets it go, and what each refusal says; nothing of one is booked."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest
from api_world import Json, bearer, ok, refused
from books import Books
from payout_world import ALICE, BOB, USD, WEBHOOK_SECRET, PayoutWorld, payout_world

from faucet.payments.double.webhooks import body_of, signature

KEYS = {"id", "developer_id", "developer_name", "amount_usd", "status", "provider", "created_at", "updated_at"}
ASK = "/v1/developer/payouts"
DESK = "/v1/admin/payouts"


@pytest.fixture
def world(dsn: str, books: Books, tmp_path: Path) -> Iterator[PayoutWorld]:
    with payout_world(dsn, books, tmp_path) as world:
        yield world
        world.check()


def test_only_earnings_that_are_old_enough(world: PayoutWorld) -> None:
    """Lost: earnings leave before the charge-back of what they were earned with comes."""
    tenant = world.rich(30)
    developer = world.developer_of(tenant)
    young = refused(developer.post(ASK, json={"amount_usd": "5.00"}), 402, "insufficient_balance")
    assert young["details"] == {"mature_usd": "0.00000000"}
    world.clock.advance(14 * 86_400 - 60)
    refused(developer.post(ASK, json={"amount_usd": "5.00"}), 402, "insufficient_balance")
    world.clock.advance(120)
    made = ok(developer.post(ASK, json={"amount_usd": "5.00"}), 201)
    assert set(made) == KEYS
    assert (made["amount_usd"], made["status"], made["provider"]) == ("5.00000000", "requested", "stripe")
    assert (world.earnings(tenant), world.clearing(tenant)) == (25 * USD, 5 * USD)
    world.earn(tenant, 7 * USD)  # by the database's clock two weeks ago: old enough at once
    world.earn(tenant, 12_345)
    rest = ok(developer.post(ASK, json={}), 201)
    assert rest["amount_usd"] == "32.00000000"
    assert world.earnings(tenant) == 12_345, "what is less than a cent stays"


def test_what_left_is_taken_from_the_oldest(world: PayoutWorld) -> None:
    """Lost: a correction is taken from young earnings, so that the old ones can still leave."""
    tenant = world.rich(30)
    wallet = world.books.one("select public_id from account where id = %s", tenant.earnings)
    debit = {"kind": "chargeback", "direction": "debit", "amount_usd": "12.00", "reason": "fraud"}
    ok(world.alice.post(f"/v1/admin/wallets/{wallet}/adjustments", json=debit), 201)
    world.grow_old()
    developer = world.developer_of(tenant)
    refused(developer.post(ASK, json={"amount_usd": "18.01"}), 402, "insufficient_balance")
    assert ok(developer.post(ASK, json={"amount_usd": "18.00"}), 201)["status"] == "requested"


def test_bad_asks_are_refused_and_book_nothing(world: PayoutWorld) -> None:
    """Lost: a payout of part of a cent, below the least or above the most; a refusal that doesn't say why."""
    tenant = world.rich(50_000)
    world.grow_old()
    developer = world.developer_of(tenant)
    for amount, why in (
        ("0.99", "at least 1.00000000"),
        ("1.005", "whole cents"),
        ("10000.01", "at most 10000.00000000"),
        ("0", "more than 0"),
        ("1e3", "decimal string"),
        (5, "must be a string"),
        ("-5", "decimal string"),
    ):
        error = refused(developer.post(ASK, json={"amount_usd": amount}), 400, "invalid_request")
        assert why in str(error["details"]["fieldErrors"]["amount_usd"]), error
    refused(developer.post(ASK, json={"amount_usd": "5.00", "to": "me"}), 400, "invalid_request")
    refused(world.operator.post(ASK, json={"amount_usd": "5.00"}), 400, "invalid_request")
    refused(world.operator.post(ASK, json={"developer_id": str(uuid4())}), 404, "not_found")
    refused(world.client("mf_dev_nobody").post(ASK, json={}), 401, "invalid_session")
    assert world.books.one("select count(*) from payout") == 0
    assert world.books.one("select count(*) from transfer where code = 40") == 0
    for _ in range(2):
        ok(developer.post(ASK, json={"amount_usd": "10000.00"}), 201)
    day = refused(developer.post(ASK, json={"amount_usd": "1.00"}), 400, "invalid_request")
    assert "a day may have" in day["message"]
    refused(developer.post(ASK, json={}), 400, "invalid_request")
    assert world.earnings(tenant) == 30_000 * USD
    world.clock.advance(86_400)
    assert ok(developer.post(ASK, json={}), 201)["amount_usd"] == "10000.00000000"


def test_scopes_and_tenants(world: PayoutWorld) -> None:
    """Lost: a token that may not moves earnings; a developer sees another's payouts."""
    tenant, other = world.rich(10), world.rich(10)
    world.grow_old()
    mine = world.requested(tenant)
    ask = {"developer_id": str(tenant.developer), "name": "R", "scopes": ["developer:operations:read"]}
    reader = world.client(ok(world.operator.post("/v1/developer/tokens", json=ask), 201)["token"])
    refused(reader.post(ASK, json={}), 403, "forbidden")
    assert [row["id"] for row in ok(reader.get(ASK))["items"]] == [mine]
    assert ok(reader.get(f"{ASK}/{mine}"))["id"] == mine
    stranger = world.developer_of(other)
    refused(stranger.get(f"{ASK}/{mine}"), 404, "not_found")
    refused(stranger.post(ASK, json={"developer_id": str(tenant.developer)}), 404, "not_found")
    assert ok(stranger.get(ASK))["items"] == []
    for path in (DESK, f"{DESK}/{mine}"):
        refused(stranger.get(path), 403, "forbidden")
    refused(stranger.post(f"{DESK}/{mine}/approve"), 403, "forbidden")
    operations = ok(reader.get("/v1/developer/operations"))
    assert [row["id"] for row in operations["payouts"]] == [mine] and set(operations["payouts"][0]) == KEYS


def test_a_key_opens_one(world: PayoutWorld) -> None:
    """Lost: a request that is repeated after a time-out takes the earnings twice."""
    tenant = world.rich(30)
    world.grow_old()
    developer = world.developer_of(tenant)
    key = {"idempotency-key": "payout-once"}
    first = ok(developer.post(ASK, json={"amount_usd": "5.00"}, headers=key), 201)
    again = developer.post(ASK, json={"amount_usd": "5.00"}, headers=key)
    assert ok(again, 201) == first and again.headers["idempotent-replayed"] == "true"
    refused(developer.post(ASK, json={"amount_usd": "6.00"}, headers=key), 409, "idempotency_conflict")
    world.books.rows("update api_idempotency set expires_at = '2000-01-01'")  # a day later the ledger's key still holds
    assert ok(developer.post(ASK, json={"amount_usd": "5.00"}, headers=key), 201)["id"] == first["id"]
    world.books.rows("update api_idempotency set expires_at = '2000-01-01'")
    refused(developer.post(ASK, json={"amount_usd": "6.00"}, headers=key), 409, "idempotency_conflict")
    assert world.earnings(tenant) == 25 * USD


def test_four_eyes(world: PayoutWorld) -> None:
    """Lost: one person alone moves money out."""
    tenant = world.rich(30, account=False)
    world.grow_old()
    ask = {"developer_id": str(tenant.developer), "amount_usd": "5.00"}
    made = ok(world.alice.post(ASK, json=ask), 201)
    own = refused(world.alice.post(f"{DESK}/{made['id']}/approve"), 403, "forbidden")
    assert "somebody else" in own["message"]
    refused(world.alice.post(f"{DESK}/{made['id']}/mark-paid"), 409, "conflict")
    note = {"operator_note": "checked the invoice"}
    assert ok(world.bob.post(f"{DESK}/{made['id']}/approve", json=note))["status"] == "approved"
    detail = world.payout(made["id"])
    assert (detail["requested_by"], detail["approved_by"]) == ("operator:alice", "operator:bob")
    assert detail["operator_note"] == "checked the invoice"
    (item,) = ok(world.alice.post(f"{DESK}/run", json={"threshold_usd": "2.00"}))["items"]
    world.earn(tenant, 5 * USD)
    refused(world.alice.post(f"{DESK}/{item['id']}/approve"), 403, "forbidden")
    assert ok(world.operator.post(f"{DESK}/{item['id']}/approve"))["status"] == "approved"
    assert ok(world.alice.post(f"{DESK}/{item['id']}/mark-paid"))["status"] == "paid"
    log = ok(world.operator.get("/v1/admin/audit", params={"resource_type": "payout"}))["items"]
    told = [(row["action"], row["actor_scope"], row.get("actor_id")) for row in log][::-1]
    assert told == [
        ("payout.requested", "operator", "alice"),
        ("payout.approved", "operator", "bob"),
        ("payout.requested", "operator", "alice"),
        ("payout.approved", "operator", None),
        ("payout.paid", "operator", "alice"),
    ]
    assert log[0]["metadata"]["before"] == {"status": "approved"}
    assert log[0]["metadata"]["after"] == {"status": "paid"}
    waiting = world.requested(tenant, "1.00")
    with pytest.raises(psycopg.errors.CheckViolation, match="four_eyes"):
        world.books.rows("update payout set status = 'approved', approved_by = requested_by where id = %s", waiting)


def test_a_token_of_one_s_own_making_is_no_second_pair_of_eyes(world: PayoutWorld) -> None:
    """Lost: one operator makes a developer's token, asks with it, and lets go themselves what it asked for."""
    tenant = world.rich(30, account=False)
    world.grow_old()
    scopes = ["developer:payouts:write", "developer:tokens:write"]
    mint = {"developer_id": str(tenant.developer), "name": "T", "scopes": scopes}
    first = world.client(ok(world.alice.post("/v1/developer/tokens", json=mint), 201)["token"])
    second = world.client(ok(first.post("/v1/developer/tokens", json={"name": "U", "scopes": scopes}), 201)["token"])
    for asker in (first, second):
        made = ok(asker.post(ASK, json={"amount_usd": "5.00"}), 201)
        own = refused(world.alice.post(f"{DESK}/{made['id']}/approve"), 403, "forbidden")
        assert "token" in own["message"] and "somebody else" in own["message"]
        assert world.payout(made["id"])["status"] == "requested"
        ok(world.bob.post(f"{DESK}/{made['id']}/approve"))


def test_one_operator_on_a_development_machine(dsn: str, books: Books, tmp_path: Path) -> None:
    """Lost: clients of the line before can't run, approve and pay with the one token that there is."""
    with payout_world(dsn, books, tmp_path, OPERATOR_TOKENS="") as world:
        tenant = world.rich(30, account=False)
        poor = world.rich(1, account=False)
        world.grow_old()
        operator = world.operator
        (item,) = ok(operator.post(f"{DESK}/run-mock", json={"threshold_usd": "10.00"}))["items"]
        assert set(item) == KEYS and item["developer_id"] == str(tenant.developer)
        assert (item["amount_usd"], item["status"], item["provider"]) == ("30.00000000", "requested", "manual")
        revenue = f"/v1/developers/{tenant.developer}/revenue"
        assert ok(operator.get(revenue))["pending_payout_usd"] == "30.00000000"
        refused(operator.post(f"{DESK}/{item['id']}/mark-paid"), 409, "conflict")
        ok(operator.post(f"{DESK}/{item['id']}/approve", json={"operator_note": "ok"}))
        paid = ok(operator.post(f"{DESK}/{item['id']}/mark-paid", json={"provider_payout_id": "SEPA 12"}))
        assert (paid["status"], paid["provider_payout_id"]) == ("paid", "SEPA 12")
        assert ok(operator.get(revenue)) | {"developer_id": ""} == {
            "developer_id": "", "wallet_balance_usd": "0.00000000", "pending_payout_usd": "0.00000000",
            "lifetime_revenue_usd": "30.00000000",
        }  # fmt: skip
        assert ok(operator.post(f"{DESK}/run-mock"))["items"][0]["developer_id"] == str(poor.developer)
        assert ok(operator.post(f"{DESK}/run-mock", json={}))["items"] == []
        world.earn(tenant, 5 * USD)
        own = ok(operator.post(ASK, json={"developer_id": str(tenant.developer)}), 201)
        refused(operator.post(f"{DESK}/{own['id']}/approve"), 403, "forbidden")
        world.check()


def _at_once(calls: list[Any]) -> list[httpx2.Response]:
    """What each call gets, all begun together."""
    replies: list[Any] = [None] * len(calls)
    gate = threading.Barrier(len(calls))

    def run(i: int) -> None:
        gate.wait()
        replies[i] = calls[i]()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return replies


def test_approving_twice_at_once(world: PayoutWorld) -> None:
    """Lost: two operators each believe that they have let it go; it is sent twice."""
    tenant = world.rich(30)
    world.grow_old()
    payout = world.requested(tenant)
    calls = [
        lambda token=token: httpx2.post(f"{world.base_url}{DESK}/{payout}/approve", headers=bearer(token), timeout=30)
        for token in (ALICE, BOB) * 4
    ]
    replies = _at_once(calls)
    assert sorted(reply.status_code for reply in replies) == [200] + [409] * 7
    for reply in replies:
        if reply.status_code == 409:
            assert "is approved" in refused(reply, 409, "conflict")["message"]
    assert world.books.one("select count(*) from audit_log where action = 'payout.approved'") == 1


def test_cancelling_and_failing(world: PayoutWorld) -> None:
    """Lost: earnings that were set apart stay nowhere when their payout comes to nothing."""
    tenant = world.rich(40, account=False)
    world.grow_old()
    first, second, third, fourth = (world.requested(tenant, "10.00") for _ in range(4))
    assert world.earnings(tenant) == 0
    cancelled = ok(world.alice.post(f"{DESK}/{first}/cancel", json={"reason": "wrong month"}))
    assert (cancelled["status"], cancelled["reason"]) == ("cancelled", "wrong month")
    ok(world.bob.post(f"{DESK}/{second}/approve"))
    assert ok(world.alice.post(f"{DESK}/{second}/cancel"))["reason"] == "cancelled by operator:alice"
    assert world.earnings(tenant) == 20 * USD
    refused(world.alice.post(f"{DESK}/{third}/fail", json={"reason": "no such bank"}), 409, "conflict")
    ok(world.bob.post(f"{DESK}/{third}/approve"))
    refused(world.alice.post(f"{DESK}/{third}/fail", json={}), 400, "invalid_request")
    failed = ok(world.alice.post(f"{DESK}/{third}/fail", json={"reason": "no such bank"}))
    assert (failed["status"], failed["reason"]) == ("failed", "no such bank")
    ok(world.bob.post(f"{DESK}/{fourth}/approve"))
    ok(world.bob.post(f"{DESK}/{fourth}/mark-paid"))
    assert world.earnings(tenant) == 30 * USD
    assert ok(world.bob.post(f"{DESK}/{fourth}/fail", json={"reason": "came back"}))["status"] == "failed"
    assert (world.earnings(tenant), world.clearing(tenant)) == (40 * USD, 0)
    for payout in (first, second, third, fourth):
        for verb, body in (("approve", {}), ("cancel", {}), ("mark-paid", {}), ("fail", {"reason": "r"})):
            refused(world.alice.post(f"{DESK}/{payout}/{verb}", json=body), 409, "conflict")
    refused(world.alice.post(f"{DESK}/{uuid4()}/approve"), 404, "not_found")
    refused(world.alice.post(f"{DESK}/x/approve"), 400, "invalid_request")
    assert world.requested(tenant), "what came back is as old as it was"


def test_lists(world: PayoutWorld) -> None:
    """Lost: an operator who can't find what waits."""
    tenant, other = world.rich(30), world.rich(30)
    world.grow_old()
    payouts = [world.requested(tenant, "2.00") for _ in range(3)] + [world.requested(other, "2.00")]
    ok(world.bob.post(f"{DESK}/{payouts[0]}/approve"))

    def listed(**params: Any) -> list[str]:
        return [row["id"] for row in ok(world.alice.get(DESK, params=params))["items"]]

    assert set(listed()) == set(payouts)
    assert listed(status="approved") == [payouts[0]]
    assert set(listed(developer_id=str(tenant.developer))) == set(payouts[:3])
    page = ok(world.alice.get(DESK, params={"limit": 3}))
    rest = ok(world.alice.get(DESK, params={"limit": 3, "cursor": page["next_cursor"]}))
    assert {row["id"] for row in page["items"] + rest["items"]} == set(payouts) and "next_cursor" not in rest
    refused(world.alice.get(DESK, params={"status": "lost"}), 400, "invalid_request")


def test_runs(world: PayoutWorld) -> None:
    """Lost: a run that is repeated or interrupted pays somebody twice, or leaves somebody out."""
    rich = [world.rich(20) for _ in range(5)]
    world.rich(3)
    world.grow_old()
    key = {"idempotency-key": "run-of-november"}
    body = {"threshold_usd": "5.00"}
    first = ok(world.alice.post(f"{DESK}/run", json=body, headers=key))["items"]
    assert {row["developer_id"] for row in first} == {str(t.developer) for t in rich}
    assert ok(world.alice.post(f"{DESK}/run", json=body, headers=key))["items"] == first
    refused(world.alice.post(f"{DESK}/run", json={}, headers=key), 409, "idempotency_conflict")
    assert ok(world.alice.post(f"{DESK}/run", json=body))["items"] == []
    bob = world.bob
    replies = _at_once([lambda: bob.post(f"{DESK}/run", json={"threshold_usd": "1.00"}) for _ in range(4)])
    opened = [row for reply in replies if reply.status_code == 200 for row in reply.json()["items"]]
    assert len(opened) == 1 and {reply.status_code for reply in replies} <= {200, 409}


def test_the_run_of_the_calendar(world: PayoutWorld) -> None:
    """Lost: the monthly run pays on every tick of its day, or for a developer who was switched off."""
    tenant, off = world.rich(20), world.rich(20)
    world.books.rows("update developer set status = 'disabled' where id = %s", off.developer)
    world.grow_old()
    today = world.clock.now().day
    assert world.run(0) == [] and world.run(today % 28 + 1 if today != 28 else 1) == []
    (payout,) = world.run(today)
    assert world.payout(str(payout))["requested_by"] == "schedule"
    world.earn(tenant, 20 * USD)
    assert world.run(today) == []
    assert ok(world.alice.post(f"{DESK}/{payout}/approve"))["status"] == "approved"


def test_onboarding(world: PayoutWorld) -> None:
    """Lost: a developer has no way to say where their money goes, or it goes there before Stripe knows them."""
    tenant = world.rich(30, account=False)
    world.grow_old()
    developer = world.developer_of(tenant)
    pages = {"return_url": "https://acme.example/done", "refresh_url": "https://acme.example/again"}
    first: Json = ok(developer.post(f"{ASK}/onboarding", json=pages), 201)
    assert set(first) == {"url", "expires_at", "provider", "provider_account_id", "is_ready"}
    assert first["url"].startswith(f"{world.stripe.url}/connect/") and first["is_ready"] is False
    assert ok(developer.post(ASK, json={"amount_usd": "5.00"}), 201)["provider"] == "manual"
    with httpx2.Client() as browser:
        assert "Connect your bank" in ok_page(browser.get(first["url"]))
        done = browser.post(first["url"], data={"account_number": "000123456789"})
        assert (done.status_code, done.headers["location"]) == (303, pages["return_url"])
        assert browser.get(first["url"]).headers["location"] == pages["refresh_url"]
    assert "account.updated: applied" in world.told()
    assert ok(developer.post(ASK, json={"amount_usd": "5.00"}), 201)["provider"] == "stripe"
    again = ok(developer.post(f"{ASK}/onboarding", json=pages), 201)
    assert again["provider_account_id"] == first["provider_account_id"] and again["is_ready"] is True
    assert again["url"] != first["url"]
    for wrong in ({}, pages | {"return_url": "javascript:alert(1)"}, pages | {"refresh_url": "https://a@b.example/"}):
        refused(developer.post(f"{ASK}/onboarding", json=wrong), 400, "invalid_request")
    world.stripe.fails("POST", "/v1/account_links", "refuse", status=500, times=9)
    refused(developer.post(f"{ASK}/onboarding", json=pages), 503, "unavailable")


def test_who_had_a_link_to_name_the_bank_doesn_t_let_go_what_goes_there(world: PayoutWorld) -> None:
    """Lost: an operator names a bank of their own for a developer, waits until they ask, and lets it go alone."""
    pages = {"return_url": "https://acme.example/done", "refresh_url": "https://acme.example/again"}
    for by_token in (False, True):
        tenant = world.rich(30, account=False)
        world.grow_old()
        whose = {"developer_id": str(tenant.developer)}
        asker = world.alice
        if by_token:
            mint = whose | {"name": "T", "scopes": ["developer:payouts:write"]}
            asker = world.client(ok(world.alice.post("/v1/developer/tokens", json=mint), 201)["token"])
        for _ in range(2):
            link = ok(asker.post(f"{ASK}/onboarding", json=pages | ({} if by_token else whose)), 201)
        with httpx2.Client() as browser:
            assert browser.post(link["url"], data={"account_number": "000123456789"}).status_code == 303
        world.told()
        made = ok(world.developer_of(tenant).post(ASK, json={"amount_usd": "5.00"}), 201)
        assert made["provider"] == "stripe"
        own = refused(world.alice.post(f"{DESK}/{made['id']}/approve"), 403, "forbidden")
        assert "bank" in own["message"] and "somebody else" in own["message"]
        assert ok(world.bob.post(f"{DESK}/{made['id']}/approve"))["status"] == "approved"
        rows = ok(world.operator.get("/v1/admin/audit", params={"resource_type": "payout_account"}))["items"]
        told = [row["action"] for row in rows if row["resource_id"] == str(tenant.developer)][::-1]
        assert told == ["payout_account.created", "payout_account.link_given"], "each link"


def ok_page(reply: httpx2.Response) -> str:
    assert reply.status_code == 200
    return reply.text


def test_without_stripe_payouts_are_by_hand(dsn: str, books: Books, tmp_path: Path) -> None:
    """Lost: an installation without Stripe can't pay anybody, or fails in the middle of it."""
    with payout_world(dsn, books, tmp_path, STRIPE_SECRET_KEY="") as world:
        tenant = world.rich(30)
        world.grow_old()
        pages = {"return_url": "https://acme.example/done", "refresh_url": "https://acme.example/again"}
        error = refused(world.developer_of(tenant).post(f"{ASK}/onboarding", json=pages), 503, "unavailable")
        assert "STRIPE_SECRET_KEY" in error["message"]
        payout = world.approved(tenant, "5.00")
        assert world.payout(payout)["provider"] == "manual"


def test_events_of_connected_accounts_have_a_secret_of_their_own(dsn: str, books: Books, tmp_path: Path) -> None:
    """Lost: Stripe's second endpoint is refused, and nobody hears what the banks say."""
    with payout_world(dsn, books, tmp_path, STRIPE_CONNECT_WEBHOOK_SECRET="whsec_of_connect") as world:
        world.account_of(world.rich(0, account=False))
        body = body_of(world.stripe.events()[-1])
        for secret, status in (("whsec_of_connect", 200), (WEBHOOK_SECRET, 200), ("whsec_of_nobody", 400)):
            signed = signature(body, secret, at=int(time.time()))
            headers = {"stripe-signature": signed, "content-type": "application/json"}
            reply = httpx2.post(f"{world.base_url}/v1/stripe/webhook", content=body, headers=headers)
            assert reply.status_code == status, reply.text
        assert books.one("select count(*) from stripe_event where type = 'account.updated'") == 1


@pytest.mark.parametrize("kind", ["transfer.created", "payout.paid", "payout.failed"])
def test_a_payout_by_hand_is_not_told_of_by_stripe(world: PayoutWorld, kind: str) -> None:
    """Lost: who pays on Stripe's pages and marks it with a payout by hand makes the sweep take that back."""
    tenant = world.rich(30, account=False)
    world.grow_old()
    payout_id = world.approved(tenant, "5.00")
    ok(world.alice.post(f"{DESK}/{payout_id}/mark-paid", json={"provider_payout_id": "SEPA 12"}))
    about = {"id": "po_theirs", "amount": 500, "currency": "usd", "metadata": {"payout_id": payout_id}}
    event = {"id": "evt_hand", "object": "event", "type": kind, "created": int(time.time()), "livemode": False}
    status = kind.partition(".")[2]
    assert world.told([event | {"data": {"object": about | {"status": status}}}]) == [f"{kind}: refused"]
    after = world.payout(payout_id)
    assert (after["status"], after["provider_payout_id"]) == ("paid", "SEPA 12")
    assert world.send() == 0


def test_a_transfer_of_a_connected_account_s_is_not_ours(world: PayoutWorld) -> None:
    """Lost: who has a platform of their own at Stripe marks a transfer with a payout of ours, and it looks sent."""
    tenant = world.rich(30)
    world.grow_old()
    payout_id = world.approved(tenant, "5.00")
    account = world.payout(payout_id)["provider_account_id"]
    about = {"id": "tr_theirs", "amount": 500, "destination": account, "metadata": {"payout_id": payout_id}}
    event = {"id": "evt_theirs", "object": "event", "type": "transfer.created", "created": int(time.time())}
    world.send()
    told = event | {"livemode": False, "account": "acct_theirs", "data": {"object": about}}
    assert world.told([told]) == ["transfer.created: refused"]
    world.told()
    assert world.payout(payout_id)["status"] == "sent"
