"""Provider keys that end users and developers bring: shapes, refusals, who sees which, and what is stored of them."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from uuid import UUID, uuid4

import httpx2
import psycopg
import pytest
from books import Books
from fakes.keyed_provider import KeyedProvider
from keyed_world import (
    DEVELOPER_KEYS,
    GOOD,
    KEYS,
    client,
    config,
    demo,
    developer_bearer,
    me,
    operator,
    provider,
    session,
)

from faucet.kit.config import Config
from faucet.stack.keys import owner_tx
from faucet.tenants.demo import Demo
from faucet.vault.reveal.kek import keks_of
from faucet.vault.reveal.ring import Ring
from faucet.vault.reveal.rows import find_sealed
from faucet.vault.store import PER_OWNER_MAX

__all__ = ["client", "config", "demo", "me", "operator", "provider"]

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
READ, WRITE = "developer:provider_keys:read", "developer:provider_keys:write"


def added(client: httpx2.Client, headers: dict[str, str], **ask: Any) -> dict[str, Any]:
    """A key that was added."""
    body = {"provider": "openai", "api_key": GOOD, "validate": False} | ask
    response = client.post(KEYS, json=body, headers=headers)
    assert response.status_code == 201, response.text
    reply: dict[str, Any] = response.json()
    return reply


def refused(response: httpx2.Response, status: int, code: str, *fields: str) -> dict[str, Any]:
    """The error of a response with this status and code, which names these fields."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error["code"] == code
    assert set(fields) <= set(error.get("details", {}).get("fieldErrors", {})), error
    return error


def revealed(dsn: str, config: Config, key_id: str) -> str | None:
    """The secret that a gateway would find, or None where there is none."""

    async def reveal() -> str | None:
        async with owner_tx(dsn) as t:
            row = await find_sealed(t, UUID(key_id))
        return None if row is None else (await Ring(keks_of(config)).reveal(row)).reveal()

    return asyncio.run(reveal())


# ── the platform's ──

PLATFORM_KEYS = "/v1/admin/provider-keys"


def test_the_platforms_keys_are_sealed_masked_and_disabled(
    client: httpx2.Client, operator: dict[str, str], demo: Demo, dsn: str, config: Config
) -> None:
    """Lost: the operator keeps providers' keys in files; or a developer sees or ends one."""
    ask = {"provider": "openai", "api_key": GOOD, "validate": False, "weight": 3, "models_allowed": ["gpt-4.1-mini"]}
    named = operator | {"idempotency-key": "platform-key-once"}
    made = client.post(PLATFORM_KEYS, json=ask, headers=named)
    assert made.status_code == 201, made.text
    assert client.post(PLATFORM_KEYS, json=ask, headers=named).json() == made.json()
    key = made.json()
    assert GOOD not in made.text and key["masked"] == f"sk-...{GOOD[-4:]}" and key["weight"] == 3
    assert revealed(dsn, config, key["id"]) == GOOD
    developer = developer_bearer(dsn, demo.developer_id, READ, WRITE)
    assert client.get(DEVELOPER_KEYS, headers=developer).json()["items"] == []
    refused(client.get(PLATFORM_KEYS, headers=developer), 403, "forbidden")
    refused(client.delete(f"{DEVELOPER_KEYS}/{key['id']}", headers=developer), 404, "not_found")
    refused(client.delete(f"{DEVELOPER_KEYS}/{key['id']}", headers=operator), 404, "not_found")
    assert [one["id"] for one in client.get(PLATFORM_KEYS, headers=operator).json()["items"]] == [key["id"]]
    ended = client.delete(f"{PLATFORM_KEYS}/{key['id']}", headers=operator)
    assert ended.json()["status"] == "disabled" and revealed(dsn, config, key["id"]) is None
    refused(client.delete(f"{PLATFORM_KEYS}/{uuid4()}", headers=operator), 404, "not_found")
    refused(client.post(PLATFORM_KEYS, json=ask | {"provider": "nobody"}, headers=operator), 400, "invalid_request")


def test_a_session_offers_the_ways_that_there_are_keys_for(
    client: httpx2.Client, me: dict[str, str], demo: Demo, dsn: str
) -> None:
    """Lost: an app offers its users a way that ends in a refusal, or hides one that they have a key for."""

    def modes(name: str = "crm-demo-user") -> list[str]:
        ask = {"public_app_id": "app_pub_demo", "external_user_id": name}
        found: list[str] = client.post("/v1/sessions", json=ask).json()["available_modes"]
        return found

    assert modes() == ["local", "platform"]
    mine = added(client, me)
    assert modes() == ["local", "byok", "platform"] and modes("somebody-else") == ["local", "platform"]
    developer = developer_bearer(dsn, demo.developer_id, READ, WRITE)
    body = {"provider": "openai", "api_key": GOOD, "validate": False, "public_app_id": "app_pub_demo"}
    theirs = client.post(DEVELOPER_KEYS, json=body, headers=developer).json()
    assert modes() == ["local", "byok", "developer_key", "platform"]
    client.delete(f"{KEYS}/{mine['id']}", headers=me)
    assert modes() == ["local", "developer_key", "platform"]
    client.delete(f"{DEVELOPER_KEYS}/{theirs['id']}", headers=developer)
    assert modes() == ["local", "platform"]


# ── an end user's ──


def test_a_key_is_asked_about_and_kept(
    client: httpx2.Client, me: dict[str, str], provider: KeyedProvider, dsn: str, config: Config
) -> None:
    """Lost: a key with a slip in it is noticed by the app's user at the first chat, or never found again."""
    ask = {
        "provider": "openai_compatible",
        "api_key": GOOD,
        "base_url": provider.base_url,
        "models_allowed": ["gpt-4.1-mini", "meta/llama-3"],
        "budget_limit_usd": "12.5",
        "priority": 7,
        "fallback_to_platform": True,
    }
    response = client.post(KEYS, json=ask, headers=me)
    assert response.status_code == 201, response.text
    reply = response.json()
    assert MOMENT.fullmatch(reply.pop("last_validated_at"))
    assert str(UUID(reply.pop("id"))) in client.get(KEYS, headers=me).text
    assert reply == {
        "provider": "openai_compatible",
        "base_url": provider.base_url,
        "masked": "sk-...6789",
        "status": "active",
        "models_allowed": ["gpt-4.1-mini", "meta/llama-3"],
        "priority": 7,
        "budget_limit_usd": "12.50000000",
        "fallback_to_platform": True,
    }
    ((path, headers),) = provider.seen
    assert path == "/v1/models" and headers["authorization"] == f"Bearer {GOOD}"
    assert headers["host"] == f"llm.example.com:{provider.port}"
    assert revealed(dsn, config, response.json()["id"]) == GOOD


def test_what_is_not_said_has_defaults(client: httpx2.Client, me: dict[str, str], provider: KeyedProvider) -> None:
    """Lost: clients of the 1.2 line, which send a provider and a key."""
    reply = added(client, me, api_key="AIza-0123456789")
    assert set(reply) == {
        "id", "provider", "masked", "status", "models_allowed", "priority", "fallback_to_platform"
    }  # fmt: skip
    assert (reply["masked"], reply["models_allowed"], reply["priority"]) == ("AIz...6789", [], 100)
    assert reply["fallback_to_platform"] is False
    assert provider.seen == []


@pytest.mark.parametrize(
    ("name", "path", "header"),
    [
        ("openai", "/v1/models", "authorization"),
        ("openrouter", "/v1/key", "authorization"),
        ("anthropic", "/v1/models?limit=1", "x-api-key"),
        ("gemini", "/v1/models?pageSize=1", "x-goog-api-key"),
        ("google", "/v1/models?pageSize=1", "x-goog-api-key"),
        ("azure_openai", "/v1/openai/models?api-version=2024-10-21", "api-key"),
        ("groq", "/v1/models", "authorization"),
    ],
)
def test_each_provider_is_asked_in_its_own_way(
    client: httpx2.Client, me: dict[str, str], provider: KeyedProvider, name: str, path: str, header: str
) -> None:
    """Lost: a right key would be refused because it was shown in the wrong header."""
    reply = added(client, me, provider=name, base_url=provider.base_url, validate=True)
    assert reply["provider"] == name and "last_validated_at" in reply
    ((asked, headers),) = provider.seen
    assert asked == path and headers[header].endswith(GOOD)
    others = {"authorization", "x-api-key", "x-goog-api-key", "api-key"} - {header}
    assert not others & set(headers)


def test_azure_is_asked_at_its_root(client: httpx2.Client, me: dict[str, str], provider: KeyedProvider) -> None:
    """Lost: an address that names a deployment would be asked where nothing answers."""
    base_url = f"http://res.openai.azure.com:{provider.port}/openai/deployments/gpt-4o"
    assert added(client, me, provider="azure_openai", base_url=base_url, validate=True)["base_url"] == base_url
    assert [path for path, _ in provider.seen] == ["/openai/models?api-version=2024-10-21"]


@pytest.mark.parametrize(("word", "name"), [("wrong", "openai"), ("barred", "anthropic"), ("google", "gemini")])
def test_a_key_that_its_provider_refuses_is_not_kept(
    client: httpx2.Client, me: dict[str, str], provider: KeyedProvider, word: str, name: str
) -> None:
    """Lost: people find out later, from an app that doesn't answer."""
    ask = {"provider": name, "api_key": f"sk-{word}-0123456789", "base_url": provider.base_url}
    refused(client.post(KEYS, json=ask, headers=me), 400, "secret_validation_failed", "api_key")
    assert client.get(KEYS, headers=me).json() == {"items": []}
    assert added(client, me, **ask)["status"] == "active"  # `validate: false` takes it on trust


@pytest.mark.parametrize("word", ["limited", "broken", "moved", "silent", "nothing"])
def test_a_provider_that_does_not_judge_refuses_nothing(
    client: httpx2.Client, me: dict[str, str], provider: KeyedProvider, word: str
) -> None:
    """Lost: keys can't be added while a provider has a bad hour; or a redirect leads the key away."""
    reply = added(client, me, api_key=f"sk-{word}-0123456789", base_url=provider.base_url, validate=True)
    assert reply["status"] == "active" and "last_validated_at" not in reply
    assert len(provider.seen) == 1


def test_a_provider_out_of_reach_refuses_nothing(client: httpx2.Client, me: dict[str, str]) -> None:
    """Lost: keys can't be added from a network that the provider doesn't answer to."""
    reply = added(client, me, validate=True)
    assert reply["status"] == "active" and "last_validated_at" not in reply


UNSAFE = (
    "http://127.0.0.1:{port}/v1",
    "http://localhost:{port}/v1",
    "https://169.254.169.254/latest",
    "https://[::ffff:10.0.0.1]/v1",
    "https://2130706433/v1",
    "https://user:pass@llm.example.com/v1",
    "https://llm.example.com:8443/v1",
    "https://llm.example.com./v1",
    "ftp://llm.example.com/v1",
    "https://metadata.google.internal/v1",
    "http://inside.example.com:{port}/v1",
    "http://mixed.example.com:{port}/v1",
    "http://six.example.com:{port}/v1",
    "not an address",
)


@pytest.mark.parametrize("validate", [True, False])
def test_an_unsafe_address_is_refused(
    client: httpx2.Client, me: dict[str, str], provider: KeyedProvider, validate: bool
) -> None:
    """Lost: a tenant makes the platform's processes knock on the platform's own doors."""
    for address in UNSAFE:
        ask = {
            "provider": "openai_compatible",
            "api_key": GOOD,
            "base_url": address.format(port=provider.port),
            "validate": validate,
        }
        error = refused(client.post(KEYS, json=ask, headers=me), 400, "no_available_route", "base_url")
        assert not re.search(r"10\.1\.2\.3|7f00", error["message"]), "the text says what a name resolves to"
    assert provider.seen == [] and client.get(KEYS, headers=me).json() == {"items": []}


@pytest.mark.parametrize("name", ["openai_compatible", "azure_openai"])
def test_some_providers_need_an_address(client: httpx2.Client, me: dict[str, str], name: str) -> None:
    """Lost: a key is stored that can never be used."""
    ask = {"provider": name, "api_key": GOOD}
    refused(client.post(KEYS, json=ask, headers=me), 400, "no_available_route", "base_url")


BAD: tuple[tuple[dict[str, Any], str], ...] = (
    ({"provider": "nobody"}, "provider"),
    ({"provider": None}, "provider"),
    ({"api_key": "short"}, "api_key"),
    ({"api_key": "x" * 4097}, "api_key"),
    ({"api_key": "sk-good\r\nx-evil: 1"}, "api_key"),
    ({"api_key": "sk-good key-012345"}, "api_key"),
    ({"api_key": "sk-gööd-0123456789"}, "api_key"),
    ({"api_key": 12345678}, "api_key"),
    ({"base_url": ""}, "base_url"),
    ({"base_url": "https://a.example/" + "x" * 2048}, "base_url"),
    ({"models_allowed": "gpt-4o"}, "models_allowed"),
    ({"models_allowed": ["a"] * 101}, "models_allowed"),
    ({"models_allowed": ["a\u0000b"]}, "models_allowed.0"),
    ({"budget_limit_usd": 5}, "budget_limit_usd"),
    ({"budget_limit_usd": "-1"}, "budget_limit_usd"),
    ({"budget_limit_usd": "1.123456789"}, "budget_limit_usd"),
    ({"budget_limit_usd": "99999999999"}, "budget_limit_usd"),
    ({"priority": 0}, "priority"),
    ({"priority": 1001}, "priority"),
    ({"priority": "1"}, "priority"),
    ({"fallback_to_platform": "yes"}, "fallback_to_platform"),
    ({"validate": 1}, "validate"),
    ({"status": "active"}, "status"),
    ({"weight": 3}, "weight"),
)


def test_bad_input_names_its_field(client: httpx2.Client, me: dict[str, str]) -> None:
    """Lost: callers who err learn neither where nor that they did; or a key comes back in an error."""
    for change, field in BAD:
        ask = {"provider": "openai", "api_key": GOOD, "validate": False} | change
        response = client.post(KEYS, json=ask, headers=me)
        refused(response, 400, "invalid_request", field)
        assert str(ask["api_key"]) not in response.text, change


def test_keys_are_listed_in_pages(client: httpx2.Client, me: dict[str, str]) -> None:
    """Lost: the tenth key hides the first."""
    made = [added(client, me, priority=n + 1)["id"] for n in range(5)]
    listed: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = client.get(KEYS, headers=me, params=query).json()
        listed += [item["id"] for item in page["items"]]
        if "next_cursor" not in page:
            break
        query["cursor"] = page["next_cursor"]
    assert listed == made[::-1]


def test_terms_can_be_changed_and_taken_back(
    client: httpx2.Client, me: dict[str, str], dsn: str, config: Config
) -> None:
    """Lost: who wants a lower budget has to bring the key again."""
    key = added(client, me, budget_limit_usd="5", models_allowed=["a"])
    one = client.patch(f"{KEYS}/{key['id']}", headers=me, json={"priority": 3, "fallback_to_platform": True}).json()
    assert one == key | {"priority": 3, "fallback_to_platform": True}
    two = client.patch(f"{KEYS}/{key['id']}", headers=me, json={"budget_limit_usd": None, "models_allowed": []}).json()
    expected = one | {"models_allowed": []}
    del expected["budget_limit_usd"]
    assert two == expected
    for fixed in ({"provider": "groq"}, {"base_url": "https://evil.example.com"}, {"api_key": GOOD}):
        response = client.patch(f"{KEYS}/{key['id']}", headers=me, json=fixed)
        refused(response, 400, "invalid_request", *fixed)
    assert revealed(dsn, config, key["id"]) == GOOD


def test_a_deleted_key_is_erased(
    client: httpx2.Client, me: dict[str, str], books: Books, dsn: str, config: Config
) -> None:
    """Lost: what people delete is still there for whoever gets a copy."""
    key = added(client, me)
    for _ in range(2):
        response = client.delete(f"{KEYS}/{key['id']}", headers=me)
        assert response.status_code == 200
        assert response.json() == key | {"status": "disabled"}
    assert books.row("select sealed, key_id, status from credential") == (None, None, "disabled")
    assert revealed(dsn, config, key["id"]) is None
    assert [item["status"] for item in client.get(KEYS, headers=me).json()["items"]] == ["disabled"]
    for path, body in (("", {"priority": 3}), ("/rotate", {"api_key": GOOD, "validate": False})):
        call = client.patch if path == "" else client.post
        refused(call(f"{KEYS}/{key['id']}{path}", headers=me, json=body), 409, "conflict")
    refused(client.post(f"{KEYS}/{key['id']}/validate", headers=me), 409, "conflict")


def test_a_rotated_key_is_another(
    client: httpx2.Client, me: dict[str, str], provider: KeyedProvider, dsn: str, config: Config
) -> None:
    """Lost: a leaked key can't be replaced without losing its budget and its place."""
    key = added(client, me, provider="openai_compatible", base_url=provider.base_url)
    path = f"{KEYS}/{key['id']}/rotate"
    refused(
        client.post(path, headers=me, json={"api_key": "sk-wrong-0123456789"}),
        400,
        "secret_validation_failed",
        "api_key",
    )
    assert revealed(dsn, config, key["id"]) == GOOD
    reply = client.post(path, headers=me, json={"api_key": "gsk-good-new-98765432"})
    assert reply.status_code == 200
    shown = reply.json()
    assert MOMENT.fullmatch(shown.pop("last_validated_at"))
    assert shown == key | {"masked": "gsk...5432"}
    assert revealed(dsn, config, key["id"]) == "gsk-good-new-98765432"


def test_a_repeat_adds_nothing(client: httpx2.Client, me: dict[str, str], provider: KeyedProvider) -> None:
    """Lost: a client that lost the answer adds a key twice; or is told otherwise because the provider changed its
    mind."""
    ask = {"provider": "openai_compatible", "api_key": GOOD, "base_url": provider.base_url}
    headers = me | {"idempotency-key": "repeat-0001"}
    first = client.post(KEYS, json=ask, headers=headers)
    provider.answers["good"] = 401
    again = client.post(KEYS, json=ask, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json() and again.headers["idempotent-replayed"] == "true"
    other = client.post(KEYS, json=ask | {"priority": 2}, headers=headers)
    refused(other, 409, "idempotency_conflict")
    assert len(client.get(KEYS, headers=me).json()["items"]) == 1


def test_others_keys_are_not_there(client: httpx2.Client, me: dict[str, str]) -> None:
    """Lost: one end user disables, reads or replaces another's key by its id."""
    key = added(client, me)
    stranger = session(client, "somebody-else")
    missing = client.delete(f"{KEYS}/{uuid4()}", headers=stranger).json()["error"]["message"]
    for method, path, body in (
        ("PATCH", "", {"priority": 1}),
        ("DELETE", "", None),
        ("POST", "/rotate", {"api_key": GOOD, "validate": False}),
        ("POST", "/validate", None),
    ):
        response = client.request(method, f"{KEYS}/{key['id']}{path}", headers=stranger, json=body)
        assert refused(response, 404, "not_found")["message"] == missing
    assert client.get(KEYS, headers=stranger).json() == {"items": []}
    assert client.get(KEYS, headers=me).json()["items"] == [key]
    for path in (KEYS, f"{KEYS}/{key['id']}"):
        assert client.request("GET" if path == KEYS else "DELETE", path).status_code == 401


def test_keys_have_a_number(client: httpx2.Client, me: dict[str, str], books: Books) -> None:
    """Lost: one end user fills the database, and every request of theirs gets slow."""
    key = added(client, me)
    books.rows(
        "insert into credential (id, owner, developer_id, app_id, end_user_id, provider, sealed, key_id, mask)"
        " select gen_random_uuid(), owner, developer_id, app_id, end_user_id, provider, sealed, key_id, mask"
        " from credential, generate_series(2, %s)",
        PER_OWNER_MAX,
    )
    ask = {"provider": "openai", "api_key": GOOD, "validate": False}
    refused(client.post(KEYS, json=ask, headers=me), 409, "conflict")
    client.delete(f"{KEYS}/{key['id']}", headers=me)
    added(client, me)
    added(client, session(client, "somebody-else"))


def test_changes_are_in_the_audit_log(client: httpx2.Client, me: dict[str, str], books: Books) -> None:
    """Lost: nobody can say who took a key away."""
    key = added(client, me)
    client.patch(f"{KEYS}/{key['id']}", headers=me, json={"priority": 9})
    client.post(f"{KEYS}/{key['id']}/rotate", headers=me, json={"api_key": GOOD, "validate": False})
    client.delete(f"{KEYS}/{key['id']}", headers=me)
    log = books.rows(
        "select action, actor_scope, resource_id, before ->> 'priority', after ->> 'priority', developer_id is null"
        " from audit_log where resource_type = 'provider_key' order by id"
    )
    assert log == [
        ("provider_key.created", "end_user", key["id"], None, "100", False),
        ("provider_key.changed", "end_user", key["id"], "100", "9", False),
        ("provider_key.rotated", "end_user", key["id"], "9", "9", False),
        ("provider_key.disabled", "end_user", key["id"], "9", "9", False),
    ]


def test_a_vault_without_a_key_says_so(client: httpx2.Client, me: dict[str, str], books: Books) -> None:
    """Lost: a fresh installation answers 500, or keeps secrets in the clear."""
    books.rows("delete from vault_key")
    ask = {"provider": "openai", "api_key": GOOD, "validate": False}
    assert "faucet reseal" in refused(client.post(KEYS, json=ask, headers=me), 503, "unavailable")["message"]


def test_a_moved_row_is_of_no_use(
    client: httpx2.Client, me: dict[str, str], books: Books, dsn: str, config: Config
) -> None:
    """Lost: whoever can write rows sends a user's key to a server of theirs, or spends it for another user."""
    key = added(client, me)
    for change in (
        "base_url = 'https://evil.example.com/v1'",
        "provider = 'openrouter'",
        "owner = 'developer', end_user_id = null",
        "id = gen_random_uuid()",
    ):
        books.rows(f"update credential set {change}")
        moved = str(books.one("select id from credential"))
        with pytest.raises(Exception, match="does not open"):
            revealed(dsn, config, moved)
        books.rows(
            "update credential set id = %s, base_url = null, provider = 'openai', owner = 'end_user',"
            " end_user_id = (select id from end_user limit 1)",
            key["id"],
        )
    assert revealed(dsn, config, key["id"]) == GOOD


def test_the_api_can_not_read_what_it_sealed(books: Books) -> None:
    """Lost: whoever breaks into the door that takes keys gets all of them."""
    books.rows("select set_config('faucet.developer_id', '*', false)")
    for query in ("select sealed from credential", "select * from credential", "select wrapped from vault_key"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            books.rows(query, role="faucet_api")
    for table in ("credential", "vault_key"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            books.rows(f"select id from {table}", role="faucet_jobs")


# ── a developer's ──


def test_a_developers_key_is_for_one_app_or_all(
    client: httpx2.Client, demo: Demo, dsn: str, operator: dict[str, str], config: Config
) -> None:
    """Lost: a developer can't bring keys, or sees another's."""
    mine = developer_bearer(dsn, demo.developer_id, READ, WRITE)
    ask = {"provider": "openai", "api_key": GOOD, "validate": False}
    every = client.post(DEVELOPER_KEYS, json=ask, headers=mine)
    assert every.status_code == 201, every.text
    assert "public_app_id" not in every.json() and every.json()["developer_id"] == str(demo.developer_id)
    one = client.post(
        DEVELOPER_KEYS, json=ask | {"public_app_id": "app_pub_demo", "weight": 3}, headers=operator
    ).json()
    assert (one["public_app_id"], one["weight"], one["masked"]) == ("app_pub_demo", 3, "sk-...6789")
    assert MOMENT.fullmatch(one["created_at"]) and one["created_at"] == one["updated_at"]
    assert client.get(DEVELOPER_KEYS, headers=mine).json() == {"items": [one, every.json()]}
    filtered = client.get(DEVELOPER_KEYS, headers=mine, params={"public_app_id": "app_pub_demo"})
    assert filtered.json() == {"items": [one]}
    assert revealed(dsn, config, one["id"]) == revealed(dsn, config, every.json()["id"]) == GOOD
    gone = client.delete(f"{DEVELOPER_KEYS}/{one['id']}", headers=mine)
    assert gone.status_code == 200 and gone.json()["status"] == "disabled"
    assert revealed(dsn, config, one["id"]) is None


def test_a_developers_routes_need_their_scope(client: httpx2.Client, demo: Demo, dsn: str, books: Books) -> None:
    """Lost: a token that may only read adds keys; a developer meets another's rows."""
    ask = {"provider": "openai", "api_key": GOOD, "validate": False, "public_app_id": "app_pub_demo"}
    reader = developer_bearer(dsn, demo.developer_id, READ)
    writer = developer_bearer(dsn, demo.developer_id, WRITE)
    key = client.post(DEVELOPER_KEYS, json=ask, headers=writer).json()
    refused(client.post(DEVELOPER_KEYS, json=ask, headers=reader), 403, "forbidden")
    refused(client.delete(f"{DEVELOPER_KEYS}/{key['id']}", headers=reader), 403, "forbidden")
    refused(client.get(DEVELOPER_KEYS, headers=writer), 403, "forbidden")
    other = books.tenant(0)
    stranger = developer_bearer(dsn, other.developer, READ, WRITE)
    assert client.get(DEVELOPER_KEYS, headers=stranger).json() == {"items": []}
    refused(client.post(DEVELOPER_KEYS, json=ask, headers=stranger), 404, "invalid_app")
    refused(client.get(DEVELOPER_KEYS, params={"public_app_id": "app_pub_demo"}, headers=stranger), 404, "invalid_app")
    theirs = client.delete(f"{DEVELOPER_KEYS}/{key['id']}", headers=stranger)
    missing = client.delete(f"{DEVELOPER_KEYS}/{uuid4()}", headers=stranger)
    assert refused(theirs, 404, "not_found")["message"] == refused(missing, 404, "not_found")["message"]
    assert client.get(DEVELOPER_KEYS, headers=reader).json() == {"items": [key]}


def test_who_acts_for_all_names_an_app(client: httpx2.Client, operator: dict[str, str], me: dict[str, str]) -> None:
    """Lost: an operator's key belongs to nobody; an end user's key can be disabled by way of the developer's route."""
    ask = {"provider": "openai", "api_key": GOOD, "validate": False}
    refused(client.post(DEVELOPER_KEYS, json=ask, headers=operator), 400, "invalid_request", "public_app_id")
    own = added(client, me)
    refused(client.delete(f"{DEVELOPER_KEYS}/{own['id']}", headers=operator), 404, "not_found")
    assert client.get(DEVELOPER_KEYS, headers=operator).json() == {"items": []}


@pytest.mark.parametrize("base_url", [None, "https://llm.example.com/v1"])
def test_the_mock_provider_takes_keys_only_where_the_operator_runs_one(
    client: httpx2.Client, me: dict[str, str], base_url: str | None
) -> None:
    """Lost: by the mock provider's name a key is sent where a tenant likes, or somewhere that isn't there."""
    ask = {"provider": "mock", "api_key": GOOD} | ({} if base_url is None else {"base_url": base_url})
    reply = client.post(KEYS, json=ask, headers=me)
    assert reply.status_code == 400 and reply.json()["error"]["code"] == "no_available_route"
    assert "mock" not in str(client.get("/openapi.json").json()["components"]["schemas"]["ProviderKeyAsk"])
