"""Idempotency-Keys in the database: who may run under a key, and that a key is never charged twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg
from books import Books, Settlement, Tenant

from faucet.kit.ids import uuid7

BODY, OTHER_BODY = os.urandom(32), os.urandom(32)
LEASE_SECONDS = 60


class Claims:
    """Claims of one end user's keys."""

    def __init__(self, books: Books, like: Claims | None = None) -> None:
        self.books = books
        self.tenant: Tenant = books.tenant(10_000) if like is None else like.tenant
        self.key = os.urandom(32) if like is None else like.key

    def claim(self, hold: UUID, body: bytes = BODY) -> str:
        """What a request with this hold's id is told about the key."""
        outcome: str = self.books.one(
            "select outcome from reply_claim_v1(%s, %s, %s, %s, %s)",
            self.tenant.end_user,
            self.key,
            body,
            hold,
            LEASE_SECONDS,
            role="faucet_gateway",
        )
        return outcome

    def claimed_hold(self) -> UUID:
        """A hold under the key."""
        hold = self.books.held(self.tenant, 100)
        assert self.claim(hold) == "claimed"
        return hold

    def keep(self, hold: UUID, sealed: bytes = b"a sealed reply") -> None:
        self.books.rows("select reply_keep_v1(%s::uuid[], %s::bytea[])", [hold], [sealed], role="faucet_gateway")

    def run_out(self, hold: UUID) -> None:
        """The leases of hold and claim are over, and the sweep has been there."""
        self.books.run_out(hold)
        self.books.rows("update idempotent_reply set claimed_until = now() - interval '1 second'")
        assert self.books.expire() == [hold]

    def settle(self, hold: UUID) -> int:
        (status,) = self.books.settle(Settlement(self.tenant, hold, cost=40))
        return status


def test_a_key_belongs_to_one_request_at_a_time(books: Books) -> None:
    """Lost: two requests with one key run at once and are both charged."""
    claims = Claims(books)
    hold = claims.claimed_hold()
    assert claims.claim(uuid7()) == "running"
    assert claims.claim(hold) == "claimed"
    assert claims.claim(uuid7(), OTHER_BODY) == "mismatch"


def test_a_settled_reply_is_kept(books: Books) -> None:
    """Lost: asking again after the answer runs, and charges, a second time."""
    claims = Claims(books)
    hold = claims.claimed_hold()
    claims.keep(hold)
    assert claims.settle(hold) == 0
    assert claims.claim(uuid7()) == "stored"
    assert claims.claim(uuid7(), OTHER_BODY) == "mismatch"


def test_a_released_request_frees_its_key(books: Books) -> None:
    """Lost: a request that was never answered blocks its key for a day."""
    claims = Claims(books)
    books.release(claims.claimed_hold())
    assert claims.claim(uuid7(), OTHER_BODY) == "claimed"


def test_a_key_whose_request_died_is_free_after_its_lease(books: Books) -> None:
    """Lost: after a crash the client can't ask again; or it can while the first may still be answered."""
    claims = Claims(books)
    hold = claims.claimed_hold()
    assert claims.claim(uuid7()) == "running"
    claims.run_out(hold)
    assert claims.claim(uuid7()) == "claimed"


def test_an_answer_found_after_its_key_was_used_again_is_not_charged(books: Books) -> None:
    """Lost: a settlement from a spool is booked although the same key has been charged since."""
    claims = Claims(books)
    hold = claims.claimed_hold()
    claims.run_out(hold)
    again = books.held(claims.tenant, 100)
    assert claims.claim(again) == "claimed"
    assert claims.settle(hold) == 7
    assert claims.settle(again) == 0
    assert books.posted(claims.tenant.wallet) == 10_000 - 40
    books.assert_sound()


def test_a_key_whose_answer_was_settled_late_is_not_run_again(books: Books) -> None:
    """Lost: the hold ran out, the spool was settled, and the same key is charged once more."""
    claims = Claims(books)
    hold = claims.claimed_hold()
    claims.run_out(hold)
    claims.keep(hold)
    assert claims.settle(hold) == 0
    assert claims.claim(uuid7()) == "stored"


def test_a_late_settlement_and_the_key_used_again_at_once_charge_once(books: Books, dsn: str) -> None:
    """Lost: of a spool that is being settled and a client that asks again, both are charged."""
    for _ in range(12):
        claims = Claims(books)
        first, again = claims.claimed_hold(), books.held(claims.tenant, 100)
        claims.run_out(first)
        told = at_once(dsn, claims, lambda own, hold=first: own.settle(hold), lambda own, hold=again: own.claim(hold))
        assert tuple(told) in ((0, "running"), (0, "booked"), (7, "claimed"))
        books.release(again)
    books.assert_sound()


def at_once(dsn: str, claims: Claims, *work: Callable[[Claims], object]) -> list[object]:
    """Do all of it at once, each over a connection of its own."""

    def run(task: Callable[[Claims], object]) -> object:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("set statement_timeout = '10s'")
            return task(Claims(Books(connection), claims))

    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result(30) for future in [pool.submit(run, task) for task in work]]
