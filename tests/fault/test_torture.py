"""The torture itself: that a short one holds, and that its checks find what they are for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from books import Books, Hold, Settlement, Tenant

from bench.torture_checks import MUST_BE_ZERO, Verdict, check_books, check_grants, check_record
from bench.torture_clients import Try
from bench.torture_killer import KINDS

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 15
LEAST_REQUESTS_PER_SECOND = 15
"""The tests share their machine; by itself it does a multiple of that."""


@pytest.mark.timeout(330)
def test_a_short_torture_holds() -> None:
    """Lost: gateways, jobs, an API and a database that are killed under load overdraw, forget, or bill or pay twice."""
    command = [sys.executable, "-m", "bench.torture", "--seconds", str(SECONDS), "--clients", "60"]
    command += ["--least-requests", str(LEAST_REQUESTS_PER_SECOND), "--least-money", "0.3"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=320)
    assert told.returncode == 0, told.stdout + told.stderr
    figures = dict(line.rsplit(maxsplit=1) for line in told.stdout.splitlines() if line.strip()[-1:].isdigit())
    figures = {name.strip(): int(count) for name, count in figures.items()}
    assert {what: figures[what] for what in MUST_BE_ZERO} == dict.fromkeys(MUST_BE_ZERO, 0)
    assert figures["kills"] >= 2 and figures["served"] > 0 and figures["refused 402"] > 0
    # By chance, few of so few kills are gateways'.
    gateways = sum(figures.get(kind, 0) for kind in KINDS if "gateway" in kind)
    assert figures["lost"] > 0 or gateways < 2
    assert figures["top-ups credited"] > 0 and figures["webhooks taken"] > 0 and figures["payouts"] > 0


# ── the checks bite ──


def whole(own_id: str, **more: Any) -> Try:
    """A try whose client got its answer."""
    return Try(own_id=own_id, answered_id=own_id, body_id=own_id, status=200, whole=True, ending="whole", **more)


def bill(books: Books, tenant: Tenant, own_id: str, cost: int = 40) -> None:
    """An answer that is booked."""
    hold = Hold(tenant, 100, request_id=own_id)
    assert books.hold(hold)[0][0] == 0
    assert books.settle(Settlement(tenant, hold.id, cost=cost)) == [0]


def faults_of(db: psycopg.Connection[Any], *tries: Try) -> dict[str, int]:
    """What is found wrong with this record and these books."""
    verdict = Verdict()
    check_books(db, verdict)
    check_record(db, tries, verdict)
    assert all(verdict.examples[what] for what in verdict.faults)
    return verdict.faults


def test_a_record_that_agrees_has_no_faults(books: Books, db: psycopg.Connection[Any]) -> None:
    """Lost: the torture cries wolf, and nobody believes it any more."""
    tenant = books.tenant(10_000)
    bill(books, tenant, "t-1")
    bill(books, tenant, "t-2")
    refused = Try(own_id="t-3", answered_id="t-3", status=402, code="insufficient_balance", ending="whole")
    again = Try(
        own_id="t-4", answered_id="t-4", body_id="t-2", key="k", status=200, whole=True, digest="d", replayed=True
    )
    tries = [whole("t-1", price_e8=40), whole("t-2", key="k", digest="d"), again, refused]
    assert faults_of(db, *tries, Try(own_id="t-5", ending="lost")) == {}


def test_what_clients_saw_is_held_against_the_books(books: Books, db: psycopg.Connection[Any]) -> None:
    """Lost: an answer that nobody paid for, or that was paid for twice, goes unnoticed."""
    tenant = books.tenant(10_000)
    for own_id in ("t-1", "t-2", "t-2", "t-3", "t-4", "t-5", "t-6"):
        bill(books, tenant, own_id)
    tries = [
        whole("t-0"),
        whole("t-1", price_e8=41),
        whole("t-2"),
        Try(own_id="t-3", key="k", ending="lost"),
        whole("t-4", key="k", digest="d"),
        Try(
            own_id="t-7",
            answered_id="t-7",
            body_id="t-4",
            key="k",
            status=200,
            whole=True,
            digest="other",
            replayed=True,
        ),
        Try(own_id="t-5", answered_id="t-5", status=402, code="insufficient_balance", ending="whole"),
    ]
    assert faults_of(db, *tries) == {
        "full answers unbilled": 1,
        "price told is not what was booked": 1,
        "billed twice": 3,
        "kept replies that differ": 1,
        "refused but billed": 1,
        "billed without a request": 1,
    }


def test_the_books_are_held_against_themselves(books: Books, db: psycopg.Connection[Any]) -> None:
    """Lost: a balance without transfers, a hold that stays, a counter that drifts or a grant too many is overlooked."""
    tenant = books.tenant(10_000)
    books.limit("app", tenant.app, "total", 5_000)
    books.held(tenant, 100)
    assert faults_of(db) == {"holds left after their lease": 3}
    db.execute("update account set posted_e8 = posted_e8 - 1, held_e8 = 0 where id = %s", (tenant.wallet,))
    db.execute("update spend_counter set spent_e8 = 7, held_e8 = 0")
    db.execute("alter table hold disable trigger all")
    db.execute("delete from hold")
    assert faults_of(db) == {"unbalanced": 2, "counters that disagree": 1}
    verdict = Verdict()
    check_grants(db, {tenant.wallet: 10_001}, 0, verdict)
    assert verdict.faults == {"grants lost or doubled": 1}
