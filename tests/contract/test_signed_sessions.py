"""Sessions of apps whose backend vouches for its users, and of those where nobody does."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import jwt
import pytest
from api_world import ApiWorld, Developer, Json, bearer, ok, refused
from books import Books
from conftest import RunningApi, serve
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from faucet.kit.config import load_config


@pytest.fixture
def world(api: RunningApi) -> Iterator[ApiWorld]:
    world = ApiWorld(api)
    yield world
    world.close()


class Backend:
    """An app in signed mode, with its developer's keys."""

    def __init__(self, world: ApiWorld) -> None:
        self.world = world
        self.developer: Developer = world.developer()
        self.app = self.developer.app(identity_mode="signed")
        self.id: str = self.app["public_app_id"]
        self.developer.feature(self.app)

    @property
    def keys_path(self) -> str:
        return f"/v1/developer/apps/{self.id}/signing-keys"

    def hs256(self) -> tuple[str, str]:
        """A new key's id and secret."""
        made = ok(self.developer.http.post(self.keys_path, json={"name": "K", "kind": "HS256"}), 201)
        return made["item"]["key_id"], made["secret"]

    def eddsa(self) -> tuple[str, Ed25519PrivateKey]:
        private = Ed25519PrivateKey.generate()
        pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        ask = {"name": "E", "kind": "EdDSA", "public_key": pem}
        made = ok(self.developer.http.post(self.keys_path, json=ask), 201)
        assert "secret" not in made
        return made["item"]["key_id"], private

    def claims(self, **changes: Any) -> Json:
        now = time.time()
        claims = {"sub": "ada", "aud": self.id, "iat": now, "exp": now + 300, "jti": str(uuid4())} | changes
        return {name: value for name, value in claims.items() if value is not None}

    def mint(self, user_token: str | None, user: str = "ada", **more: Any) -> httpx2.Response:
        body = {"public_app_id": self.id, "external_user_id": user, **more}
        return self.world.nobody.post(
            "/v1/sessions", json=body if user_token is None else body | {"user_token": user_token}
        )


@pytest.fixture
def backend(world: ApiWorld) -> Backend:
    return Backend(world)


def signed(claims: Json, key: Any, algorithm: str = "HS256", kid: str | None = None) -> str:
    return jwt.encode(claims, key, algorithm=algorithm, headers={} if kid is None else {"kid": kid})


def test_both_kinds_of_keys_vouch_and_can_be_rotated(backend: Backend) -> None:
    """Lost: signed identity, or a change of keys without an hour of refusals."""
    first, secret = backend.hs256()
    session = ok(backend.mint(signed(backend.claims(), secret)))
    wallet = ok(backend.world.nobody.get("/v1/user/wallet", headers=bearer(session["session_token"])))
    assert wallet["balance_usd"] == "0.00000000"
    second, private = backend.eddsa()
    ok(backend.mint(signed(backend.claims(), private, "EdDSA", second)))
    ok(backend.mint(signed(backend.claims(), secret, kid=first)))
    error = refused(backend.mint(signed(backend.claims(), secret)), 403, "forbidden")
    assert "kid" in error["message"]
    assert set(ok(backend.developer.http.get(f"/v1/developer/apps/{backend.id}"))["signing_keys"]) == {first, second}
    gone = ok(backend.developer.http.delete(f"{backend.keys_path}/{first}"))
    assert gone["status"] == "revoked" and "revoked_at" in gone
    assert ok(backend.developer.http.delete(f"{backend.keys_path}/{first}")) == gone
    refused(backend.mint(signed(backend.claims(), secret, kid=first)), 403, "forbidden")
    ok(backend.mint(signed(backend.claims(), private, "EdDSA")))
    listed = ok(backend.developer.http.get(backend.keys_path))["items"]
    assert [(key["key_id"], key["status"]) for key in listed] == [(second, "active"), (first, "revoked")]
    assert secret not in str(listed)


def test_words_that_vouch_for_nobody(backend: Backend) -> None:
    """Lost: anybody who can say a name spends that person's money."""
    _, secret = backend.hs256()
    now = time.time()
    wrong: dict[str, Json] = {
        "another user": {"sub": "eve"},
        "a number": {"sub": 7},
        "another app": {"aud": "app_of_another"},
        "several apps": {"aud": [backend.id, "app_of_another"]},
        "expired": {"exp": now - 31},
        "too long": {"exp": now + 700},
        "for ever": {"exp": float("inf")},
        "no number": {"exp": float("nan")},
        "true": {"exp": True},
        "a text": {"exp": "soon"},
        "from the future": {"iat": now + 60},
        "not yet": {"nbf": now + 60},
        "empty jti": {"jti": ""},
        "long jti": {"jti": "j" * 257},
    } | {f"no {name}": {name: None} for name in ("sub", "aud", "exp", "iat", "jti")}
    for what, change in wrong.items():
        # Written by hand, because the library refuses to make some of them.
        token = by_hand(backend.claims(**change), secret)
        error = refused(backend.mint(token), 403, "forbidden")
        assert "user_token" in error["message"], what
    refused(backend.mint(None), 403, "forbidden")
    ok(backend.mint(by_hand(backend.claims(exp=int(now) - 25, iat=int(now) + 25), secret)))


def by_hand(claims: Json, secret: str, header: Json | None = None) -> str:
    """A JWT of any claims, signed with HS256."""
    import hashlib
    import hmac
    import json

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    head = header or {"alg": "HS256", "typ": "JWT"}
    said = part(json.dumps(head).encode()) + "." + part(json.dumps(claims).encode())
    return said + "." + part(hmac.new(secret.encode(), said.encode(), hashlib.sha256).digest())


def test_a_signature_is_the_named_key_s_own(backend: Backend) -> None:
    """Lost: `none`, a public key taken for a secret, or another app's key opens a wallet."""
    kid, private = backend.eddsa()
    raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    claims = backend.claims()
    stranger, stranger_secret = Backend(backend.world).hs256()
    forged = [
        jwt.encode(claims, None, algorithm="none"),
        by_hand(claims, pem),
        by_hand(claims, raw.decode("latin-1")),
        by_hand(claims, pem, {"alg": "HS256", "kid": kid}),
        by_hand(claims, "x", {"alg": "EdDSA", "kid": kid}),
        by_hand(claims, "x", {"alg": "EdDSA", "kid": [kid]}),
        by_hand(claims, "x", {"alg": "EdDSA", "crit": ["b64"], "b64": False}),
        signed(claims, stranger_secret, kid=stranger),
        signed(claims, Ed25519PrivateKey.generate(), "EdDSA", kid),
        signed(claims, private, "EdDSA", kid)[:-2],
        "a.b.c",
        "...",
        "é",
        "[" * 4_000,
    ]
    for token in forged:
        refused(backend.mint(token), 403, "forbidden")
    ok(backend.mint(signed(claims, private, "EdDSA", kid)))


def test_a_word_is_good_once_whoever_comes_first(backend: Backend, books: Books) -> None:
    """Lost: a word that somebody overheard makes sessions of their own; a refused try spends the word."""
    _, secret = backend.hs256()
    token = signed(backend.claims(), secret)
    refused(backend.mint(token, feature_key="nothing"), 404, "feature_not_found")
    with ThreadPoolExecutor(6) as pool:
        codes = sorted(reply.status_code for reply in pool.map(lambda _: backend.mint(token), range(6)))
    assert codes == [200, 403, 403, 403, 403, 403]
    refused(backend.mint(token), 403, "forbidden")
    assert books.one("select count(*) from session") == 1


def test_a_lost_answer_is_given_again(backend: Backend, books: Books) -> None:
    """Lost: a backend whose connection broke has spent its word and gets no session; or a page of another origin,
    or another word, is given the one that was minted."""
    _, secret = backend.hs256()
    word = signed(backend.claims(), secret)
    body = {"public_app_id": backend.id, "external_user_id": "ada", "user_token": word}
    key = {"idempotency-key": "session-of-ada"}
    nobody = backend.world.nobody
    first = nobody.post("/v1/sessions", json=body, headers=key)
    again = nobody.post("/v1/sessions", json=body, headers=key)
    assert ok(first) == ok(again) and again.headers["idempotent-replayed"] == "true"
    assert books.one("select count(*) from session") == 1
    assert first.json()["session_token"] not in repr(books.rows("select i::text from api_idempotency i"))
    elsewhere = nobody.post("/v1/sessions", json=body, headers=key | {"origin": "https://evil.example"})
    refused(elsewhere, 403, "forbidden")
    other = body | {"user_token": signed(backend.claims(), secret)}
    refused(nobody.post("/v1/sessions", json=other, headers=key), 409, "idempotency_conflict")
    refused(nobody.post("/v1/sessions", json=body), 403, "forbidden")


def test_keys_are_checked_kept_sealed_and_their_app_s(backend: Backend, books: Books) -> None:
    """Lost: a bad key is found out at the first login; a copy of the database signs for everybody."""
    http = backend.developer.http
    raw = base64.urlsafe_b64encode(
        Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    )
    for ask in (
        {"kind": "EdDSA"},
        {"kind": "EdDSA", "public_key": "nonsense"},
        {"kind": "EdDSA", "public_key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"},
        {"kind": "EdDSA", "public_key": "é" * 43},
        {"kind": "HS256", "public_key": raw.decode()},
        {"kind": "RS256"},
        {"kind": "HS256", "secret": "mine"},
    ):
        refused(http.post(backend.keys_path, json={"name": "K"} | ask), 400, "invalid_request")
    ok(http.post(backend.keys_path, json={"name": "K", "kind": "EdDSA", "public_key": raw.decode()}), 201)
    ask = {"name": "once", "kind": "HS256"}
    made = http.post(backend.keys_path, json=ask, headers={"idempotency-key": "signing-key-1"})
    again = http.post(backend.keys_path, json=ask, headers={"idempotency-key": "signing-key-1"})
    assert ok(made, 201) == ok(again, 201) and again.headers["idempotent-replayed"] == "true"
    secret = made.json()["secret"]
    for table in ("app_signing_key", "audit_log", "api_idempotency"):
        assert secret not in repr(books.rows(f"select t::text from {table} t"))
        assert secret.encode().hex() not in repr(books.rows(f"select t::text from {table} t"))
    other = backend.world.developer()
    refused(other.http.get(backend.keys_path), 404, "invalid_app")
    refused(other.http.delete(f"{backend.keys_path}/{made.json()['item']['key_id']}"), 404, "invalid_app")
    refused(http.delete(f"{backend.keys_path}/sk_nobodys_key"), 404, "not_found")
    reader = backend.world.developer(("developer:apps:read",))
    refused(reader.http.post(backend.keys_path, json=ask), 403, "forbidden")
    for _ in range(8):
        backend.hs256()
    refused(http.post(backend.keys_path, json=ask), 409, "conflict")
    # A row that was moved to another app can't be opened there.
    there = Backend(backend.world)
    kid, _ = there.hs256()
    books.rows(
        "update app_signing_key set sealed_secret = (select sealed_secret from app_signing_key where key_id = %s)"
        " where key_id = %s",
        made.json()["item"]["key_id"],
        kid,
    )
    refused(there.mint(signed(there.claims(), secret, kid=kid)), 403, "forbidden")


def test_nobody_s_word_gets_little_and_no_paid_money(tmp_path: Path, dsn: str, books: Books) -> None:
    """Lost: an app that signs nothing lets any visitor spend what another one paid in."""
    config = load_config(
        {
            "FAUCET_DATA": str(tmp_path / "data"),
            "OPEN_SESSIONS_SPEND_PAID_MONEY": "false",
            "OPEN_SESSION_SPEND_LIMIT_USD": "0.50",
            "SESSION_RATE_LIMIT_MAX_REQUESTS": "5",
        }
    )
    with serve(config, dsn) as base_url:
        world = ApiWorld(RunningApi(base_url, config, dsn))
        developer = world.developer()
        app, quiet = developer.app(session_spend_limit_usd="0.75"), developer.app()
        ask = {"public_app_id": app["public_app_id"], "external_user_id": "ada"}
        ok(world.nobody.post("/v1/sessions", json=ask))
        assert books.one("select limit_e8 from spend_limit where scope = 'session'") == 50_000_000
        wallet = books.one("select id from account where kind = 'wallet'")
        stripe = books.one("select id from account where kind = 'stripe_clearing'")
        grants = books.one("select id from account where kind = 'grants'")
        assert books.transfer(12, grants, wallet, 500) == 0
        ok(world.nobody.post("/v1/sessions", json=ask))
        assert books.transfer(10, stripe, wallet, 500) == 0
        refused(world.nobody.post("/v1/sessions", json=ask), 403, "forbidden")
        ok(world.nobody.post("/v1/sessions", json=ask | {"external_user_id": "eve"}))
        # The app's sixth in its window, where five may come; another app isn't held up.
        refused(world.nobody.post("/v1/sessions", json=ask), 403, "forbidden")
        slow = world.nobody.post("/v1/sessions", json=ask)
        refused(slow, 429, "rate_limited")
        assert int(slow.headers["retry-after"]) >= 1
        ok(world.nobody.post("/v1/sessions", json=ask | {"public_app_id": quiet["public_app_id"]}))
        world.close()


def test_a_disabled_app_s_sessions_end_in_every_process(world: ApiWorld, api: RunningApi) -> None:
    """Lost: the lever that stops an app, in a process that had not heard of it."""
    developer = world.developer()
    app = developer.app()
    session = ok(
        world.nobody.post("/v1/sessions", json={"public_app_id": app["public_app_id"], "external_user_id": "u"})
    )
    headers = bearer(session["session_token"])
    with serve(api.config, api.dsn) as second, httpx2.Client(base_url=second) as other:
        ok(other.get("/v1/user/wallet", headers=headers))
        ok(developer.http.patch(f"/v1/developer/apps/{app['public_app_id']}", json={"status": "disabled"}))
        refused(other.get("/v1/user/wallet", headers=headers), 403, "disabled")
        refused(world.nobody.get("/v1/user/wallet", headers=headers), 403, "disabled")
