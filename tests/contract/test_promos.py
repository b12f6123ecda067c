"""Promo codes and grants: caps that hold in any race, answers that tell a guesser nothing, credit that is accounted."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from api_world import ApiWorld, Developer, Json, ok, refused
from books import E8, Books
from conftest import RunningApi
from past import as_jobs

from faucet.jobs.reconcile import reconcile_books
from faucet.reports.finding import Finding

PROMOS = "/v1/admin/promo-codes"
REDEEM = "/v1/user/promo-codes/redeem"


@pytest.fixture
def world(api: RunningApi) -> Iterator[ApiWorld]:
    world = ApiWorld(api)
    yield world
    world.close()


@pytest.fixture
def developer(world: ApiWorld) -> Developer:
    return world.developer()


def promo(world: ApiWorld, **fields: Any) -> Json:
    """A new code."""
    made: Json = ok(world.operator.post(PROMOS, json={"amount_usd": "1.50", "redemptions_max": 10} | fields), 201)
    return made


def end_user(world: ApiWorld, app: Json, name: str = "u") -> httpx2.Client:
    """A client with a session of an end user of an app."""
    body = {"public_app_id": app["public_app_id"], "external_user_id": name}
    return world.client(ok(world.nobody.post("/v1/sessions", json=body))["session_token"])


def granted(books: Books) -> int:
    return int(books.one("select coalesce(sum(amount_e8), 0)::bigint from transfer where code = 12"))


def test_a_code_gives_credit_once(world: ApiWorld, developer: Developer, books: Books) -> None:
    """Lost: credit that isn't booked, isn't named in the statement, or is given twice to one person."""
    app = developer.app()
    made = promo(world, code="welcome-2027")
    assert (made["code"], made["status"], made["redemptions"]) == ("WELCOME-2027", "active", 0)
    me = end_user(world, app)
    assert ok(me.post(REDEEM, json={"code": " Welcome-2027 "}), 201) == {
        "amount_usd": "1.50000000", "wallet_balance_usd": "1.50000000",
    }  # fmt: skip
    refused(me.post(REDEEM, json={"code": "WELCOME-2027"}), 409, "conflict")
    # Another session of the same person is the same person.
    refused(end_user(world, app).post(REDEEM, json={"code": "WELCOME-2027"}), 409, "conflict")
    statement = ok(me.get("/v1/user/statement"))
    (line,) = statement["items"]
    assert (line["kind"], line["description"], line["amount_usd"]) == (
        "grant", "Promo code WELCOME-2027", "1.50000000",
    )  # fmt: skip
    now = ok(world.operator.get(f"{PROMOS}/{made['id']}"))
    assert (now["redemptions"], now["granted_usd"]) == (1, "1.50000000")
    assert granted(books) == 150_000_000
    assert books.one("select actor_scope from audit_log where action = 'promo_code.redeemed'") == "end_user"


def test_a_cap_holds_in_a_race(world: ApiWorld, developer: Developer, books: Books) -> None:
    """Lost: a code for ten is worth two hundred, to whoever is quick."""
    app = developer.app()
    made = promo(world, code="RACE")
    everyone = [end_user(world, app, f"u{number}") for number in range(200)]
    with ThreadPoolExecutor(200) as pool:
        statuses = list(pool.map(lambda http: http.post(REDEEM, json={"code": "RACE"}).status_code, everyone))
    assert statuses.count(201) == 10 and set(statuses) <= {201, 404, 429, 503}, sorted(set(statuses))
    now = ok(world.operator.get(f"{PROMOS}/{made['id']}"))
    assert (now["redemptions"], now["status"], now["granted_usd"]) == (10, "used_up", "15.00000000")
    given = books.row("select count(*), sum(amount_e8)::bigint from promo_redemption")
    assert given == (10, granted(books)) == (10, 10 * 150_000_000)
    assert books.one("select sum(posted_e8)::bigint from account where kind = 'wallet'") == 15 * E8


def test_one_person_in_a_race_gets_it_once(world: ApiWorld, developer: Developer, books: Books) -> None:
    """Lost: twenty requests of one person at once are twenty credits, or use up what is others'."""
    app = developer.app()
    made = promo(world, code="ONCE")
    me = [end_user(world, app) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda http: http.post(REDEEM, json={"code": "ONCE"}).status_code, me))
    assert sorted(statuses) == [201] + [409] * 7
    assert ok(world.operator.get(f"{PROMOS}/{made['id']}"))["redemptions"] == 1
    assert granted(books) == 150_000_000


def test_a_code_that_is_not_good_looks_like_one_that_is_not_there(world: ApiWorld, developer: Developer) -> None:
    """Lost: a guesser learns which codes there are."""
    app, other = developer.app(), developer.app()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    promo(world, code="OTHER-APP", public_app_id=other["public_app_id"])
    promo(world, code="EXPIRED", expires_at="2020-01-01T00:00:00Z")
    used = promo(world, code="USED-UP", redemptions_max=1, expires_at=tomorrow.isoformat())
    off = promo(world, code="DISABLED")
    assert ok(world.operator.delete(f"{PROMOS}/{off['id']}"))["status"] == "disabled"
    ok(end_user(world, app, "first").post(REDEEM, json={"code": "USED-UP"}), 201)
    assert ok(world.operator.get(f"{PROMOS}/{used['id']}"))["status"] == "used_up"
    me = end_user(world, app)
    seen = [
        {**refused(me.post(REDEEM, json={"code": code}), 404, "not_found"), "request_id": ""}
        for code in ("NOT-THERE", "OTHER-APP", "EXPIRED", "USED-UP", "DISABLED", "' or 1=1 --", "\x00", "ß" * 50)
    ]
    assert all(error == seen[0] for error in seen)
    ok(end_user(world, other).post(REDEEM, json={"code": "OTHER-APP"}), 201)


def test_codes_and_the_ledger_are_compared(world: ApiWorld, developer: Developer, books: Books, dsn: str) -> None:
    """Lost: credit that a code gave to nobody, or that nobody counted, and the books say that all is well."""

    def found() -> list[Finding]:
        return as_jobs(dsn, lambda connection: reconcile_books(connection))

    app = developer.app()
    promo_id = promo(world, code="COMPARED")["id"]
    for name in "ab":
        ok(end_user(world, app, name).post(REDEEM, json={"code": "COMPARED"}), 201)
    assert found() == []
    books.rows("update promo_code set redemptions = 3")
    assert found() == [Finding("promo_count", f"promo code {promo_id}", 2, 3)]
    books.rows("update promo_redemption set amount_e8 = amount_e8 + 1")
    assert [(one.check, one.expected, one.actual) for one in found()] == [
        ("promo_count", 2, 3), ("promo_grant", 150_000_001, 150_000_000), ("promo_grant", 150_000_001, 150_000_000),
    ]  # fmt: skip
    books.rows("delete from promo_redemption")
    assert [(one.check, one.expected, one.actual) for one in found()] == [
        ("promo_count", 0, 3), ("grant_promo", 0, 150_000_000), ("grant_promo", 0, 150_000_000),
    ]  # fmt: skip


def test_guessing_is_slowed_down(world: ApiWorld, developer: Developer) -> None:
    """Lost: a program tries all codes there can be."""
    me = end_user(world, developer.app())
    statuses = [me.post(REDEEM, json={"code": f"GUESS-{number}"}).status_code for number in range(12)]
    assert statuses == [404] * 10 + [429] * 2
    last = me.post(REDEEM, json={"code": "GUESS"})
    assert int(last.headers["retry-after"]) >= 1


def test_a_new_person_for_each_guess_is_slowed_down_too(world: ApiWorld, developer: Developer) -> None:
    """Lost: in an app that signs nothing, a guesser is another person each time."""
    app, other = developer.app(), developer.app()
    promo(world, code="GOOD")
    everyone = [end_user(world, app, f"u{number}") for number in range(30)]
    statuses = []
    for http in (http for http in everyone[1:] for _ in range(10)):
        statuses.append(http.post(REDEEM, json={"code": "WRONG"}).status_code)
        if statuses[-1] == 429:
            break
    assert statuses.index(429) >= 200
    refused(everyone[0].post(REDEEM, json={"code": "GOOD"}), 429, "rate_limited")
    ok(end_user(world, other).post(REDEEM, json={"code": "GOOD"}), 201)


def test_a_repeated_redemption_with_its_key_is_the_same_answer(
    world: ApiWorld, developer: Developer, books: Books
) -> None:
    """Lost: after a lost answer a person is told that they have redeemed it already, and sees no credit."""
    promo(world, code="KEYED")
    me = end_user(world, developer.app())
    replies = [me.post(REDEEM, json={"code": "KEYED"}, headers={"idempotency-key": "redeem-1"}) for _ in range(2)]
    assert [reply.status_code for reply in replies] == [201, 201] and replies[0].json() == replies[1].json()
    assert granted(books) == 150_000_000


def test_codes_are_made_listed_and_switched_off_by_the_operator(world: ApiWorld, developer: Developer) -> None:
    """Lost: anybody makes money; or a code is made twice."""
    made_up = promo(world)
    assert len(made_up["code"]) == 19 and made_up["code"] != promo(world)["code"]
    named = promo(world, code="TAKEN", public_app_id=developer.app()["public_app_id"])
    refused(
        world.operator.post(PROMOS, json={"code": "taken", "amount_usd": "1", "redemptions_max": 1}), 409, "conflict"
    )
    first = ok(world.operator.get(PROMOS, params={"limit": 2}))
    assert first["items"][0] == named and len(first["items"]) == 2
    rest = ok(world.operator.get(PROMOS, params={"limit": 2, "cursor": first["next_cursor"]}))
    assert [row["id"] for row in rest["items"]] == [made_up["id"]]
    for _ in range(2):
        assert ok(world.operator.delete(f"{PROMOS}/{named['id']}"))["status"] == "disabled"
    for http in (developer.http, world.developer_admin):
        refused(http.get(PROMOS), 403, "forbidden")
        refused(http.post(PROMOS, json={"amount_usd": "1", "redemptions_max": 1}), 403, "forbidden")
    actions = [row["action"] for row in ok(world.operator.get("/v1/admin/audit"))["items"]]
    assert actions.count("promo_code.created") == 3 and actions.count("promo_code.disabled") == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"code": "no spaces"}, {"code": "abc"}, {"amount_usd": "0"}, {"amount_usd": "-1"}, {"redemptions_max": 0},
        {"redemptions_max": 10**9}, {"expires_at": "tomorrow"}, {"public_app_id": "no/slash"},
    ],
)  # fmt: skip
def test_bad_codes_are_refused_by_field(world: ApiWorld, fields: Json) -> None:
    """Lost: a code that is worth nothing, or everything."""
    body = {"amount_usd": "1", "redemptions_max": 1} | fields
    error = refused(world.operator.post(PROMOS, json=body), 400, "invalid_request")
    assert set(fields) & set(error["details"]["fieldErrors"]), error


def test_a_code_of_an_app_that_is_not_there_is_refused(world: ApiWorld) -> None:
    """Lost: a code that nobody can redeem, after a slip of the pen."""
    body = {"amount_usd": "1", "redemptions_max": 1, "public_app_id": "none_such"}
    refused(world.operator.post(PROMOS, json=body), 404, "invalid_app")


# ── grants ──


def test_a_grant_is_booked_noted_and_named(world: ApiWorld, developer: Developer, books: Books) -> None:
    """Lost: credit from nowhere; or the operator's reason in the end user's statement."""
    me = end_user(world, developer.app())
    wallet = ok(me.get("/v1/user/wallet"))["id"]
    path, body = f"/v1/admin/wallets/{wallet}/grants", {"amount_usd": "2.00", "reason": "a sorry; for Monday"}
    replies = [world.operator.post(path, json=body, headers={"idempotency-key": "ticket-4711"}) for _ in range(2)]
    assert [ok(reply, 201) for reply in replies] == [
        {"wallet_id": wallet, "amount_usd": "2.00000000", "reason": "a sorry; for Monday",
         "wallet_balance_usd": "2.00000000"}
    ] * 2  # fmt: skip
    ok(world.operator.post(f"/v1/admin/wallets/{wallet}/credit-test-balance", json={"amount_usd": "1.00"}))
    statement = ok(me.get("/v1/user/statement"))
    assert [(line["kind"], line["description"]) for line in statement["items"]] == [
        ("grant", "Test credits"), ("grant", "Promotional credit"),
    ]  # fmt: skip
    assert "Monday" not in str(statement)
    assert granted(books) == 3 * E8
    (noted,) = books.rows("select after, developer_id::text from audit_log where action = 'wallet.granted'")
    assert noted == ({"amount_usd": "2.00000000", "reason": "a sorry; for Monday"}, developer.id)
    other = {"amount_usd": "3.00", "reason": "another"}
    conflict = world.operator.post(path, json=other, headers={"idempotency-key": "ticket-4711"})
    refused(conflict, 409, "idempotency_conflict")


def test_only_the_operator_grants(world: ApiWorld, developer: Developer) -> None:
    """Lost: a developer pays their users from the platform's pocket."""
    me = end_user(world, developer.app())
    wallet = ok(me.get("/v1/user/wallet"))["id"]
    path, body = f"/v1/admin/wallets/{wallet}/grants", {"amount_usd": "2.00", "reason": "r"}
    for http in (developer.http, world.developer_admin):
        refused(http.post(path, json=body), 403, "forbidden")
    refused(me.post(path, json=body), 401, "invalid_session")
    gone = path.replace(wallet, "01890000-0000-7000-8000-000000000000")
    refused(world.operator.post(gone, json=body), 404, "not_found")
    refused(world.operator.post(path, json={"amount_usd": "2.00"}), 400, "invalid_request")
