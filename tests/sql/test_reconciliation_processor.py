"""Top-ups and payouts are held against the processor and the ledger; each difference is named, with its amount."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from books import E8, Books, Tenant
from past import as_jobs

from faucet.jobs.reconcile import reconcile_books
from faucet.kit.db import Tx
from faucet.kit.ids import uuid7
from faucet.reports.finding import Finding
from faucet.reports.reconciliation_processor import Listed, transfer_findings

CENT = 1_000_000
TOP_UP, AUTO, PAYOUT = 10 * E8, 5 * E8, 3 * E8


@dataclass(frozen=True)
class Business:
    """A checkout and an automatic top-up that were credited, and a payout that was paid."""

    books: Books
    tenant: Tenant
    checkout: UUID
    auto: UUID
    payout: UUID


def event(books: Books, name: str, kind: str, about: dict[str, Any], outcome: str = "applied") -> None:
    """An event in the inbox, settled."""
    books.rows(
        "insert into stripe_event (id, type, created_at, is_live, body, outcome, settled_at)"
        " values (%s, %s, now(), false, %s, %s, now())",
        name,
        kind,
        json.dumps({"id": name, "type": kind, "data": {"object": about}}).encode(),
        outcome,
    )


def session(name: str, top_up: UUID, amount: int = TOP_UP, **more: Any) -> dict[str, Any]:
    """A checkout session that was paid."""
    return {
        "id": name, "payment_status": "paid", "amount_total": amount // CENT, "payment_intent": f"pi_of_{name}",
        "metadata": {"top_up": str(top_up)},
    } | more  # fmt: skip


def transferred(name: str, payout: UUID, amount: int = PAYOUT) -> dict[str, Any]:
    """A transfer at Stripe for a payout."""
    return {"id": name, "amount": amount // CENT, "metadata": {"payout_id": str(payout)}}


def credit(books: Books, tenant: Tenant, top_up: UUID, kind: str, amount: int, **ids: Any) -> None:
    """A top-up that was credited."""
    row = {
        "id": top_up, "developer_id": tenant.developer, "app_id": tenant.app, "end_user_id": tenant.end_user,
        "wallet_id": tenant.wallet, "kind": kind, "amount_e8": amount, "status": "credited",
        "credited_at": datetime.now(UTC), **ids,
    }  # fmt: skip
    columns, places = ", ".join(row), ", ".join(["%s"] * len(row))
    books.rows(f"insert into top_up ({columns}) values ({places})", *row.values())
    clearing = books.account("stripe_clearing")
    assert books.transfer(10, clearing, tenant.wallet, amount, key=f"top-up:{top_up}") == 0


@pytest.fixture
def business(books: Books) -> Business:
    tenant = books.tenant()
    made = Business(books, tenant, uuid7(), uuid7(), uuid7())
    credit(books, tenant, made.checkout, "checkout", TOP_UP, checkout_session_id="cs_1", payment_intent_id="pi_of_cs_1")
    event(books, "evt_1", "checkout.session.completed", session("cs_1", made.checkout))
    credit(books, tenant, made.auto, "auto", AUTO, payment_intent_id="pi_2", attempt=1)
    about = {"id": "pi_2", "amount_received": AUTO // CENT, "metadata": {"top_up": str(made.auto)}}
    event(books, "evt_2", "payment_intent.succeeded", about)
    event(books, "evt_3", "payment_intent.succeeded", {"id": "pi_of_cs_1", "amount_received": 1, "metadata": {}})
    event(books, "evt_4", "payment_intent.succeeded", {"id": "pi_else", "amount_received": 1}, "ignored")
    clearing = books.open_account("payout_clearing", tenant.developer)
    assert books.transfer(30, books.account("adjustments"), tenant.earnings, 4 * E8) == 0
    assert books.transfer(40, tenant.earnings, clearing, PAYOUT, event=made.payout) == 0
    assert books.transfer(41, clearing, books.account("stripe_clearing"), PAYOUT, event=made.payout) == 0
    books.rows(
        "insert into payout (id, developer_id, amount_e8, status, provider, provider_account_id, requested_by,"
        " approved_by, provider_transfer_id, sent_at, paid_at, ended_at)"
        " values (%s, %s, %s, 'paid', 'stripe', 'acct_1', 'alice', 'bob', 'tr_1', now(), now(), now())",
        made.payout,
        tenant.developer,
        PAYOUT,
    )
    event(books, "evt_5", "transfer.created", transferred("tr_1", made.payout))
    return made


def found(dsn: str, since: datetime | None = None) -> list[Finding]:
    return as_jobs(dsn, lambda c: reconcile_books(c, since=since))


def test_business_as_usual_has_no_findings(business: Business, dsn: str) -> None:
    """Lost: alarms that mean nothing."""
    assert found(dsn) == []
    assert found(dsn, datetime.now(UTC) - timedelta(hours=1)) == []


Break = Callable[[Business], None]


def _gone(name: str, days: int = 0) -> Break:
    def run(b: Business) -> None:
        b.books.rows("delete from stripe_event where id = %s", name)
        b.books.rows("set session_replication_role = replica")
        for table, column in (("top_up", "credited_at"), ("payout", "sent_at")):
            b.books.rows(f"update {table} set {column} = {column} - make_interval(days => %s)", days)
        b.books.rows("reset session_replication_role")

    return run


def _unprotected(statement: str) -> Break:
    def run(b: Business) -> None:
        b.books.rows("set session_replication_role = replica")
        b.books.rows(statement)
        b.books.rows("reset session_replication_role")

    return run


FAULTS: dict[str, tuple[Break, Callable[[Business], Finding]]] = {
    "a top-up that no event paid": (
        _gone("evt_1", days=2),
        lambda b: Finding("top_up_event", f"top-up {b.checkout}", TOP_UP, 0),
    ),
    "an automatic top-up that no event paid": (
        _gone("evt_2", days=2),
        lambda b: Finding("top_up_event", f"top-up {b.auto}", AUTO, 0),
    ),
    "a top-up that two events paid": (
        lambda b: event(b.books, "evt_9", "checkout.session.async_payment_succeeded", session("cs_1", b.checkout)),
        lambda b: Finding("top_up_event", f"top-up {b.checkout}", TOP_UP, 2 * TOP_UP),
    ),
    "a payment that credited nothing": (
        lambda b: event(b.books, "evt_9", "checkout.session.completed", session("cs_9", uuid7())),
        lambda b: Finding("event_top_up", "event evt_9", TOP_UP, 0),
    ),
    "a payment that was refused and is still at Stripe": (
        lambda b: event(b.books, "evt_9", "checkout.session.completed", session("cs_9", uuid7(), E8), "refused"),
        lambda b: Finding("event_top_up", "event evt_9", E8, 0),
    ),
    "a top-up's transfer of another amount": (
        _unprotected(
            f"update transfer_row set amount_e8 = amount_e8 + {CENT} where key like 'top-up:%%' and amount_e8 = {AUTO};"
            f"update account set posted_e8 = posted_e8 + {CENT} where kind = 'wallet';"
            f"update account set posted_e8 = posted_e8 - {CENT} where kind = 'stripe_clearing'"
        ),
        lambda b: Finding("top_up_transfer", f"top-up {b.auto}", AUTO, AUTO + CENT),
    ),
    "a payout whose transfer at Stripe nobody told of": (
        _gone("evt_5", days=2),
        lambda b: Finding("payout_event", f"payout {b.payout}", PAYOUT, 0),
    ),
    "a payout that was transferred twice": (
        lambda b: event(b.books, "evt_9", "transfer.created", transferred("tr_9", b.payout)),
        lambda b: Finding("payout_event", f"payout {b.payout}", PAYOUT, 2 * PAYOUT),
    ),
    "a transfer at Stripe for a payout that is none": (
        lambda b: event(b.books, "evt_9", "transfer.created", transferred("tr_9", UUID(int=7), 2 * E8)),
        lambda b: Finding("event_payout", "transfer tr_9 at Stripe", 2 * E8, 0),
    ),
    "a payout that says failed and did not come back": (
        _unprotected("update payout set status = 'failed'"),
        lambda b: Finding("payout_moved_43", f"{b.payout} failed", PAYOUT, 0),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_row_and_amount(business: Business, dsn: str, fault: str) -> None:
    """Lost: money that one side has and the other doesn't know of."""
    damage, finding = FAULTS[fault]
    damage(business)
    assert finding(business) in found(dsn)


def test_what_was_refused_and_went_back_is_well(business: Business, dsn: str) -> None:
    """Lost: a mistake that was put right is an alarm for ever."""
    event(business.books, "evt_9", "checkout.session.completed", session("cs_9", uuid7(), E8), "refused")
    event(business.books, "evt_10", "charge.refunded", {"id": "ch_9", "payment_intent": "pi_of_cs_9"})
    assert found(dsn) == []


def test_movements_that_no_row_is_about_are_named(business: Business, dsn: str) -> None:
    """Lost: somebody moves money out by the ledger's functions, past top-ups and payouts."""
    books, tenant = business.books, business.tenant
    first, second = uuid7(), uuid7()
    assert books.transfer(10, books.account("stripe_clearing"), tenant.wallet, 5, event=first) == 0
    clearing = books.open_account("payout_clearing", tenant.developer)
    assert books.transfer(40, tenant.earnings, clearing, 6, event=second) == 0
    assert set(found(dsn)) == {
        Finding("transfer_top_up", f"transfer {first}", 0, 5),
        Finding("transfer_payout", f"transfer {second} code 40", 0, 6),
        Finding("payout_clearing", f"developer {tenant.developer}", 0, 6),
    }


def test_what_stripe_lists_is_compared(business: Business, dsn: str) -> None:
    """Lost: a transfer at Stripe of which no event ever came."""
    cents = PAYOUT // CENT
    since = datetime.now(UTC) - timedelta(hours=1)

    def compared(*listed: Listed) -> list[Finding]:
        async def work(connection: Tx) -> list[Finding]:
            async with connection.transaction():
                return await transfer_findings(
                    connection, listed, since=since, until=datetime.now(UTC) + timedelta(hours=1)
                )

        return as_jobs(dsn, work)

    ours = str(business.payout)
    assert compared(Listed("tr_1", ours, cents, False), Listed("tr_0", None, 7, False)) == []
    assert compared() == [Finding("stripe_payout", f"payout {ours}", PAYOUT, 0)]
    assert compared(Listed("tr_1", ours, cents, True)) == [Finding("stripe_payout", f"payout {ours}", PAYOUT, 0)]
    twice = (Listed("tr_1", ours, cents, False), Listed("tr_2", ours, cents, False))
    assert compared(*twice) == [Finding("stripe_payout", f"payout {ours}", PAYOUT, 2 * PAYOUT)]
    stray = Listed("tr_3", str(UUID(int=9)), 100, False)
    assert compared(Listed("tr_1", ours, cents, False), stray) == [
        Finding("stripe_transfer", "transfer tr_3 at Stripe", E8, 0)
    ]
