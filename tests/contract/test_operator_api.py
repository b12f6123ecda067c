"""The operator's routes: developers, corrections, prices, kill switches, the audit log, the reference page."""

from __future__ import annotations

import gzip
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx2
import psycopg
import pytest
from api_world import ApiWorld, Json, ok, refused, tenant_of
from books import E8, Books, Hold
from conftest import RunningApi


@pytest.fixture
def world(api: RunningApi) -> Iterator[ApiWorld]:
    world = ApiWorld(api)
    yield world
    world.close()


ROUTES: list[tuple[str, str, Json | None]] = [
    ("POST", "/v1/developers", {"name": "D", "email": "d@x.example"}),
    ("GET", "/v1/developers", None),
    ("GET", f"/v1/developers/{uuid4()}", None),
    ("PATCH", f"/v1/developers/{uuid4()}", {"name": "E"}),
    ("POST", f"/v1/admin/wallets/{uuid4()}/adjustments", {"kind": "refund", "direction": "debit", "amount_usd": "1"}),
    ("POST", "/v1/admin/spend-limits", {"scope": "app", "target": "a", "limit_usd": "1"}),
    ("POST", "/v1/admin/spend-limits/lift", {"scope": "app", "target": "a"}),
    ("GET", "/v1/admin/prices", None),
    ("POST", "/v1/admin/prices", {"provider": "p", "model": "m", "input_usd_per_m": "1", "output_usd_per_m": "1"}),
    ("POST", "/v1/admin/prices/import", {}),
    ("GET", "/v1/admin/prices/differences", None),
    ("POST", "/v1/admin/prices/sync", {}),
    ("POST", "/v1/admin/prices/1/confirm", None),
    ("POST", "/v1/admin/prices/1/reject", None),
    ("GET", "/v1/admin/kill-switches", None),
    ("POST", "/v1/admin/kill-switches", {"target": "everything", "reason": "r"}),
    ("DELETE", "/v1/admin/kill-switches/everything", None),
    ("DELETE", "/v1/admin/kill-switches/app/x", None),
    ("GET", "/v1/admin/audit", None),
    ("GET", "/v1/admin/payouts", None),
    ("GET", f"/v1/admin/payouts/{uuid4()}", None),
    ("POST", "/v1/admin/payouts/run", {}),
    ("POST", "/v1/admin/payouts/run-mock", {"threshold_usd": "1"}),
    ("POST", f"/v1/admin/payouts/{uuid4()}/approve", {}),
    ("POST", f"/v1/admin/payouts/{uuid4()}/mark-paid", {}),
    ("POST", f"/v1/admin/payouts/{uuid4()}/cancel", {}),
    ("POST", f"/v1/admin/payouts/{uuid4()}/fail", {"reason": "r"}),
    ("GET", "/v1/admin/provider-keys", None),
    ("POST", "/v1/admin/provider-keys", {"provider": "openai", "api_key": "sk-x-0123456789", "validate": False}),
    ("DELETE", f"/v1/admin/provider-keys/{uuid4()}", None),
]


def test_the_operator_s_routes_are_the_operator_s(world: ApiWorld, books: Books) -> None:
    """Lost: a developer gives themselves money, or switches everybody off."""
    developer = world.developer()
    before = books.one("select count(*) from audit_log")
    for method, path, body in ROUTES:
        refused(world.nobody.request(method, path, json=body), 401, "invalid_session")
        refused(developer.http.request(method, path, json=body), 403, "forbidden")
        refused(world.developer_admin.request(method, path, json=body), 403, "forbidden")
    assert books.one("select count(*) from audit_log") == before
    assert books.one("select count(*) from kill_switch") == 0


def test_developers(world: ApiWorld, books: Books) -> None:
    """Lost: a developer whose earnings have no account; two with one address; a disabled one's app still mints."""
    made = ok(world.operator.post("/v1/developers", json={"name": "Ada", "email": "Ada@x.example"}), 201)
    assert set(made) == {
        "id", "name", "email", "status", "free_quota_monthly_max_usd", "free_quota_granted_usd", "created_at",
        "updated_at",
    }  # fmt: skip
    kinds = books.rows("select kind::text from account where developer_id = %s order by 1", made["id"])
    assert {row[0] for row in kinds} == {"earnings", "payout_clearing", "platform_revenue"}
    again = world.operator.post("/v1/developers", json={"name": "A", "email": "ada@X.example"})
    refused(again, 409, "conflict")
    assert ok(world.operator.get(f"/v1/developers/{made['id']}")) == made
    assert ok(world.operator.get("/v1/developers", params={"email": "ada@x.example"}))["items"] == [made]
    assert ok(world.operator.get("/v1/developers", params={"email": "bob@x.example"}))["items"] == []
    refused(world.operator.get(f"/v1/developers/{uuid4()}"), 404, "not_found")
    refused(world.operator.patch(f"/v1/developers/{uuid4()}", json={"name": "x"}), 404, "not_found")
    for wrong in (
        {"name": "x"},
        {"name": "x", "email": "x"},
        {"name": "", "email": "a@b"},
        {"name": 1, "email": "a@b"},
    ):
        refused(world.operator.post("/v1/developers", json=wrong), 400, "invalid_request")
    developer = world.developer()
    app = developer.app()
    session = {"public_app_id": app["public_app_id"], "external_user_id": "u"}
    ok(world.nobody.post("/v1/sessions", json=session))
    assert (
        ok(world.operator.patch(f"/v1/developers/{developer.id}", json={"status": "disabled"}))["status"] == "disabled"
    )
    refused(world.nobody.post("/v1/sessions", json=session), 403, "disabled")


@pytest.mark.parametrize(("kind", "told"), [("refund", "refund"), ("chargeback", "dispute")])
def test_a_refund_by_hand_of_more_than_there_is(world: ApiWorld, books: Books, kind: str, told: str) -> None:
    """Lost: what a card's owner got back is refused by the books, or spent meanwhile, and nobody is told."""
    developer = world.developer()
    tenant = tenant_of(books, developer.app())
    wallet = books.one("select public_id from account where id = %s", tenant.wallet)
    path = f"/v1/admin/wallets/{wallet}/adjustments"
    held = books.held(tenant, 30 * E8)
    ask = {"kind": kind, "direction": "debit", "amount_usd": "60", "reason": "paid back at the bank"}
    made = ok(world.operator.post(path, json=ask), 201)
    assert (made["wallet_balance_usd"], made["written_off_usd"], made["frozen"]) == ("40.00000000", "0.00000000", False)
    keyed = ask | {"amount_usd": "25", "idempotency_key": "paid-back-once"}
    for _ in range(2):
        made = ok(world.operator.post(path, json=keyed), 201)
        assert (made["wallet_balance_usd"], made["written_off_usd"]) == ("30.00000000", "15.00000000")
        assert made["frozen"] is True and made["amount_usd"] == "25.00000000"
        books.rows("update api_idempotency set expires_at = now()")  # a day later the ledger's own key still holds
    assert books.balance(tenant.wallet) == (30 * E8, 30 * E8)
    assert books.posted(books.account("write_off")) == -15 * E8
    assert books.posted(books.account("adjustments")) == 85 * E8
    refused(world.operator.post(path, json=keyed | {"amount_usd": "26"}), 409, "idempotency_conflict")
    assert books.hold(Hold(tenant, 1))[0][0] == 3  # frozen
    assert books.release(held) == [0]
    (after,) = (
        row["metadata"]["after"]["adjustment"]
        for row in ok(world.operator.get("/v1/admin/audit", params={"action": "wallet.adjusted"}))["items"]
        if row["metadata"]["after"]["adjustment"].get("idempotency_key") == "paid-back-once"
    )
    assert after["written_off_usd"] == "15.00000000"
    assert books.rows("select data::json ->> 'reason' from webhook_event where type = 'wallet.frozen'") == [(told,)]
    books.assert_sound()
    earnings = books.one("select public_id from account where id = %s", tenant.earnings)
    refused(world.operator.post(f"/v1/admin/wallets/{earnings}/adjustments", json=ask), 402, "insufficient_balance")


def test_corrections_of_a_balance(world: ApiWorld, books: Books) -> None:
    """Lost: a correction is booked twice, takes what is held, or leaves no trace of who and why."""
    developer = world.developer()
    tenant = tenant_of(books, developer.app())
    wallet = books.one("select public_id from account where id = %s", tenant.wallet)
    path = f"/v1/admin/wallets/{wallet}/adjustments"
    ask = {"kind": "adjustment", "direction": "credit", "amount_usd": "2.5", "reason": "goodwill"}
    made = ok(world.operator.post(path, json=ask), 201)
    assert re.fullmatch(r"[0-9a-f-]{36}", made.pop("id"))
    assert made == ask | {
        "wallet_id": str(wallet), "amount_usd": "2.50000000", "status": "applied", "wallet_balance_usd": "102.50000000",
    }  # fmt: skip
    keyed = ask | {"idempotency_key": "adjust-once"}
    first = ok(world.operator.post(path, json=keyed), 201)
    assert first["idempotency_key"] == "adjust-once" and first["wallet_balance_usd"] == "105.00000000"
    repeats = [None] * 4

    def repeat(i: int) -> None:
        repeats[i] = ok(httpx2.post(world.api.base_url + path, json=keyed, headers=world.operator.headers), 201)

    threads = [threading.Thread(target=repeat, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert repeats == [first] * 4
    books.rows("update api_idempotency set expires_at = now()")  # a day later the ledger's own key still holds
    assert ok(world.operator.post(path, json=keyed), 201)["wallet_balance_usd"] == "105.00000000"
    refused(world.operator.post(path, json=keyed | {"amount_usd": "3"}), 409, "idempotency_conflict")
    books.held(tenant, 100 * E8)
    debit = ask | {"direction": "debit"}
    refused(world.operator.post(path, json=debit | {"amount_usd": "5.00000001"}), 402, "insufficient_balance")
    assert ok(world.operator.post(path, json=debit | {"amount_usd": "5"}), 201)["wallet_balance_usd"] == "100.00000000"
    earnings = books.one("select public_id from account where id = %s", tenant.earnings)
    assert (
        ok(world.operator.post(f"/v1/admin/wallets/{earnings}/adjustments", json=ask), 201)["wallet_balance_usd"]
        == "2.50000000"
    )
    revenue = books.one("select public_id from account where id = %s", tenant.revenue)
    for other in (revenue, uuid4()):
        refused(world.operator.post(f"/v1/admin/wallets/{other}/adjustments", json=ask), 404, "not_found")
    for wrong in ({"kind": "gift"}, {"direction": "up"}, {"amount_usd": "0"}, {"amount_usd": 1}, {"reason": "\x00"}):
        refused(world.operator.post(path, json=ask | wrong), 400, "invalid_request")
    memos = [row[0] for row in books.rows("select memo from transfer where code in (30, 31)")]
    assert all(re.fullmatch(r"(adjustment|chargeback) by the operator, request req_\w+: goodwill", m) for m in memos)
    assert books.one("select count(*) from audit_log where action = 'wallet.adjusted'") == len(memos) == 4
    books.assert_sound()


def _draft(books: Books, model: str) -> int:
    price: int = books.one(
        "insert into price (provider, model, tokenizer, context_window, max_output_tokens, input_e8_per_m,"
        " cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m, image_tokens_max, effective_from, source)"
        " values ('mock', %s, 'words', 1000, 100, 15000000, 1, 1, 60000000, 0, now(), 'test') returning id",
        model,
    )
    return price


def test_prices(world: ApiWorld, books: Books, dsn: str) -> None:
    """Lost: something is sold at a price that nobody confirmed, or gateways don't hear of it."""
    drafts = [_draft(books, f"m{i}") for i in range(5)]
    listed = ok(world.operator.get("/v1/admin/prices", params={"limit": 2}))
    assert [item["id"] for item in listed["items"]] == drafts[:2:-1]
    rest = ok(world.operator.get("/v1/admin/prices", params={"cursor": listed["next_cursor"]}))
    assert [item["id"] for item in rest["items"]] == drafts[2::-1] and "next_cursor" not in rest
    assert rest["items"][0]["input_usd_per_m"] == "0.15000000" and "decided_at" not in rest["items"][0]
    path = f"/v1/admin/prices/{drafts[0]}"
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute("listen faucet_changed")
        confirmed = ok(world.operator.post(f"{path}/confirm"))
        assert [n.channel for n in listener.notifies(timeout=5, stop_after=1)] == ["faucet_changed"]
    assert (confirmed["status"], confirmed["decided_by"]) == ("confirmed", "operator")
    assert ok(world.operator.post(f"{path}/confirm")) == confirmed
    refused(world.operator.post(f"{path}/reject"), 409, "conflict")
    assert ok(world.operator.post(f"/v1/admin/prices/{drafts[1]}/reject"))["status"] == "rejected"
    drafts_left = ok(world.operator.get("/v1/admin/prices", params={"status": "draft", "provider": "mock"}))["items"]
    assert [item["id"] for item in drafts_left] == drafts[:1:-1]
    assert [i["id"] for i in ok(world.operator.get("/v1/admin/prices", params={"model": "m3"}))["items"]] == [drafts[3]]
    refused(world.operator.post(f"/v1/admin/prices/{10**12}/confirm"), 404, "not_found")
    refused(world.operator.post(f"/v1/admin/prices/{2**63}/confirm"), 400, "invalid_request")
    assert books.one("select count(*) from audit_log where resource_type = 'price'") == 2


FIGURES = (
    "insert into price (provider, model, tokenizer, context_window, max_output_tokens, input_e8_per_m,"
    " cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m, image_tokens_max, effective_from, source, status)"
    " values ('gemini', %s, 'bytes', 9, 9, 9, 9, 9, 9, 9, now(), 'by hand', %s) returning id"
)


def test_prices_that_differ_from_the_catalogue(world: ApiWorld, books: Books) -> None:
    """Lost: a provider's new prices are noticed on its invoice; or a person is asked twice about the same figures."""
    path, gemini = "/v1/admin/prices", {"provider": "gemini"}

    def differing(limit: int = 200, **more: Any) -> list[Json]:
        found: list[Json] = []
        params: Json = gemini | {"limit": limit} | more
        while True:
            page = ok(world.operator.get(f"{path}/differences", params=params))
            assert len(page["items"]) <= limit
            found += page["items"]
            if "next_cursor" not in page:
                return found
            params["cursor"] = page["next_cursor"]

    added = differing()
    assert {each["change"] for each in added} == {"added"} and books.one("select count(*) from price") == 0
    assert [each["model"] for each in differing(limit=7)] == [each["model"] for each in added]
    pro = next(each for each in added if each["model"] == "gemini-2.5-pro")
    (tier,) = pro["after"]["tiers"]
    assert (tier["above_input_tokens"], tier["input_usd_per_m"]) == (200_000, "2.50000000") and "before" not in pro

    # Pages of one reading go on as they began, whatever is imported meanwhile.
    first = ok(world.operator.get(f"{path}/differences", params=gemini | {"limit": 5}))
    key = {"idempotency-key": "sync-gemini-1"}
    synced = ok(world.operator.post(f"{path}/sync", json={"providers": ["gemini"]}, headers=key))
    assert synced == ok(world.operator.post(f"{path}/sync", json={"providers": ["gemini"]}, headers=key))
    assert (synced["providers"], synced["added_count"]) == (["gemini"], len(added))
    drafted = ok(world.operator.get(path, params=gemini | {"status": "draft", "limit": 200}))["items"]
    assert synced["new_count"] == len(drafted) >= len(added)
    rest = differing(cursor=first["next_cursor"])
    assert [each["model"] for each in first["items"] + rest] == [each["model"] for each in added]
    again = ok(world.operator.post(f"{path}/sync", json={"providers": ["gemini"]}))
    assert (again["new_count"], again["added_count"], differing()) == (0, 0, [])
    assert books.one("select count(*) from audit_log where resource_type = 'price'") == 1

    for model, status in (("gemini-2.5-pro", "confirmed"), ("gemini-old", "confirmed"), ("gemini-older", "rejected")):
        books.rows(FIGURES, model, status)
    changed, removed = differing()
    assert (changed["change"], changed["model"]) == ("changed", "gemini-2.5-pro")
    assert {"input_usd_per_m", "tiers"} <= set(changed["differs_in"])
    assert (changed["before"]["input_usd_per_m"], changed["after"]["input_usd_per_m"]) == ("0.00000009", "1.25000000")
    assert (removed["change"], removed["model"]) == ("removed", "gemini-old") and "after" not in removed
    refused(world.operator.get(f"{path}/differences", params={"provider": "nobody"}), 400, "invalid_request")
    refused(world.operator.post(f"{path}/sync", json={"providers": ["nobody"]}), 400, "invalid_request")


def test_prices_of_the_providers_that_are_turned_on(world: ApiWorld) -> None:
    """Lost: an operator who names nobody imports the prices of every provider there is, or of none."""
    path = "/v1/admin/prices"
    assert ok(world.operator.get(f"{path}/differences")) == {"items": []}
    key = {"provider": "mistral", "api_key": "sk-x-0123456789", "validate": False}
    kept = ok(world.operator.post("/v1/admin/provider-keys", json=key), 201)
    found = ok(world.operator.get(f"{path}/differences", params={"limit": 200}))["items"]
    assert {each["provider"] for each in found} == {"mistral"}
    assert ok(world.operator.post(f"{path}/sync", json={}))["providers"] == ["mistral"]
    ok(world.operator.delete(f"/v1/admin/provider-keys/{kept['id']}"))
    assert ok(world.operator.post(f"{path}/sync", json={}))["providers"] == []


def test_kill_switches_of_the_api(world: ApiWorld, books: Books) -> None:
    """Lost: an app that was switched off mints sessions; a switch can't be released, or nobody knows who threw it."""
    developer = world.developer()
    app, other = developer.app(), developer.app()
    name = app["public_app_id"]
    path = "/v1/admin/kill-switches"

    def mint(of: Json) -> httpx2.Response:
        return world.nobody.post("/v1/sessions", json={"public_app_id": of["public_app_id"], "external_user_id": "u"})

    thrown = ok(world.operator.post(path, json={"target": "app", "target_id": name, "reason": "abuse"}), 201)
    assert {k: thrown[k] for k in ("target", "target_id", "reason", "thrown_by")} == {
        "target": "app", "target_id": name, "reason": "abuse", "thrown_by": "operator",
    }  # fmt: skip
    again = {"target": "app", "target_id": name, "reason": "another"}
    assert ok(world.operator.post(path, json=again), 201) == thrown
    refused(mint(app), 403, "disabled")
    assert mint(other).status_code == 200
    ok(world.operator.post(path, json={"target": "everything", "reason": "fire"}), 201)
    ok(world.operator.post(path, json={"target": "provider", "target_id": "mock", "reason": "down"}), 201)
    refused(mint(other), 403, "disabled")
    listed = ok(world.operator.get(path))["items"]
    assert [(item["target"], item.get("target_id")) for item in listed] == [
        ("provider", "mock"), ("everything", None), ("app", name),
    ]  # fmt: skip
    ok(world.operator.delete(f"{path}/everything"), 204)
    ok(world.operator.delete(f"{path}/app/{name}"), 204)
    ok(world.operator.delete(f"{path}/provider/mock"), 204)
    assert mint(app).status_code == 200 and ok(world.operator.get(path)) == {"items": []}
    refused(world.operator.delete(f"{path}/provider/mock"), 404, "not_found")
    refused(world.operator.delete(f"{path}/app/nobody"), 404, "invalid_app")
    for wrong in (
        {"target": "app", "reason": "r"},
        {"target": "everything", "target_id": "x", "reason": "r"},
        {"target": "provider", "target_id": "mock"},
        {"target": "world", "reason": "r"},
    ):
        refused(world.operator.post(path, json=wrong), 400, "invalid_request")
    actions = books.rows(
        "select action, count(*) from audit_log where resource_type = 'kill_switch' group by 1 order by 1"
    )
    assert actions == [("kill_switch.released", 3), ("kill_switch.thrown", 3)]


def test_the_audit_log_is_searched(world: ApiWorld) -> None:
    """Lost: nobody can find out who did it; or the log holds the secret that it is about."""
    developer = world.developer()
    app = developer.app()
    headers = {"x-request-id": "my-own-id"}
    ok(developer.http.patch(f"/v1/developer/apps/{app['public_app_id']}", json={"name": "N"}, headers=headers))
    path = "/v1/admin/audit"

    def actions(**wanted: Any) -> list[str]:
        return [item["action"] for item in ok(world.operator.get(path, params=wanted))["items"]]

    assert actions() == ["app.changed", "app.created", "token.created", "developer.created"]
    assert actions(developer_id=developer.id) == actions()
    assert actions(request_id="my-own-id") == ["app.changed"]
    assert actions(actor_scope="operator") == ["token.created", "developer.created"]
    assert actions(resource_type="app", resource_id=app["public_app_id"], action="app.created") == ["app.created"]
    assert actions(until=datetime(2020, 1, 1, tzinfo=UTC).isoformat()) == []
    assert actions(developer_id=str(uuid4())) == []
    item = ok(world.operator.get(path, params={"request_id": "my-own-id"}))["items"][0]
    assert item["metadata"] == {"request_id": "my-own-id", "before": {"name": "App"}, "after": {"name": "N"}}
    assert developer.token not in world.operator.get(path).text
    refused(world.operator.get(path, params={"actor_id": "\x00"}), 400, "invalid_request")


def test_the_reference_asks_no_other_host(world: ApiWorld) -> None:
    """Lost: who reads the reference is seen by others, and reads nothing without a network."""
    page = world.nobody.get("/docs")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"https?://", page.text)
    parts = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert {"/docs/swagger-ui-bundle.js", "/docs/page.js", "/docs/swagger-ui.css", "/openapi.json"} == set(parts)
    for part in parts:
        plain = world.nobody.get(part, headers={"accept-encoding": "identity"})
        packed = world.nobody.get(part, headers={"accept-encoding": "gzip"})
        assert plain.status_code == 200 and plain.content == packed.content
        assert plain.content[:2] != gzip.compress(b"")[:2]
    refused(world.nobody.get("/docs/other.js"), 404, "not_found")
