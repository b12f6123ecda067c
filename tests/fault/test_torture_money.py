"""The torture's checks of money across the border: silent where all is well, and each finds what it is for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from api_world import ok
from books import Books
from payments_world import Double, PaymentsWorld, double, payments
from payout_world import PayoutWorld, payout_world

from bench import torture_money
from bench.torture_checks import Verdict
from bench.torture_money_checks import Record, check_record_of_double, record_of, under_way

__all__ = ["double", "payments"]
Faults = dict[str, int]


def faults_of(connection: psycopg.Connection[Any], record: Record) -> Faults:
    """What is found wrong with these books and this record of Stripe's."""
    verdict = Verdict()
    check_record_of_double(connection, record, verdict)
    return verdict.faults


@pytest.fixture
def paid(payments: PaymentsWorld, double: Double) -> tuple[PaymentsWorld, Record]:
    """Somebody paid, was refunded in part, spent, and denied the rest; and Stripe's record of it."""
    who = payments.end_user()
    top_up = payments.paid(who)
    ask = {"amount_usd": "2.00", "reason": "paid too much"}
    ok(payments.operator.post(f"/v1/admin/top-ups/{top_up['id']}/refunds", json=ask), 201)
    payments.spend(who, 100_000_000)
    double.control("disputes", payment_intent=payments.intent_of(top_up))
    double.settled()
    payments.jobs()
    return payments, record_of(torture_money.Double(double.url), [])


def test_a_record_that_agrees_has_no_faults(paid: tuple[PaymentsWorld, Record]) -> None:
    """Lost: the torture cries wolf."""
    world, record = paid
    assert len(record.intents) == len(record.refunds) == len(record.disputes) == 1
    assert faults_of(world.books_connection, record) == {}
    assert under_way(world.books_connection) == []


def test_a_payment_that_was_lost_or_credited_twice_is_found(paid: tuple[PaymentsWorld, Record]) -> None:
    """Lost: a person pays and gets nothing, or gets it twice, and the torture says that everything held."""
    world, record = paid
    (intent,) = record.intents
    lost = replace(record, intents=[intent, intent | {"id": "pi_lost"}])
    assert faults_of(world.books_connection, lost) == {"top-ups lost or doubled": 1}
    assert faults_of(world.books_connection, replace(record, intents=[]))["top-ups lost or doubled"] == 1
    world.books.rows("set session_replication_role = replica")
    world.books.rows(
        "insert into transfer_row (event_id, code, debit_id, credit_id, amount_e8)"
        " select gen_random_uuid(), 10, debit_id, credit_id, amount_e8 from transfer where code = 10"
    )
    assert faults_of(world.books_connection, record) == {"top-ups lost or doubled": 1}


def test_what_went_back_otherwise_than_booked_is_found(paid: tuple[PaymentsWorld, Record]) -> None:
    """Lost: a refund or dispute that Stripe made and nobody booked, or that was booked for another wallet's money."""
    world, record = paid
    (refund,) = record.refunds
    unheard = replace(record, refunds=[refund | {"status": "failed"}])
    assert faults_of(world.books_connection, unheard) == {
        "refunds and disputes lost or doubled": 1,
        "wallets that lack what was paid in": 1,
    }
    assert faults_of(world.books_connection, replace(record, disputes=[])) == {
        "refunds and disputes lost or doubled": 1,
        "wallets that lack what was paid in": 1,
    }
    movement = record.movements[0] | {"net": record.movements[0]["net"] + 7}
    assert faults_of(world.books_connection, replace(record, movements=[movement, *record.movements[1:]])) == {
        "cents that Stripe and the ledger differ by": 7
    }


@pytest.fixture
def payouts(dsn: str, books: Books, tmp_path: Path) -> Iterator[PayoutWorld]:
    with payout_world(dsn, books, tmp_path, PAYOUT_HOLD_BACK_DAYS="0") as world:
        yield world


def test_a_payout_that_left_twice_or_for_nobody_is_found(payouts: PayoutWorld, db: psycopg.Connection[Any]) -> None:
    """Lost: somebody is paid twice, or is told that they are and are not."""
    tenant = payouts.rich(20)
    payouts.later(60)
    payout_id = payouts.approved(tenant)
    assert under_way(db) == [f"payout {payout_id} approved"]
    payouts.send()
    payouts.told()
    double = torture_money.Double(payouts.stripe.url)
    account = str(payouts.stripe.of("account")[0]["id"])
    double.control("payouts", payout=payouts.stripe.of("payout")[0]["id"], status="paid")
    payouts.told()
    assert payouts.payout(payout_id)["status"] == "paid"
    record = record_of(double, [account])
    what = "payouts paid twice or lost"
    assert faults_of(db, record) == {}
    (transfer,), (bank,) = record.transfers, record.banks
    assert faults_of(db, replace(record, transfers=[transfer, transfer | {"id": "tr_2"}])) == {what: 1}
    assert faults_of(db, replace(record, banks=[bank, bank | {"id": "po_2"}])) == {what: 1}
    assert faults_of(db, replace(record, banks=[])) == {what: 1}
    assert faults_of(db, replace(record, transfers=[transfer | {"transfer_group": "other"}])) == {what: 2}


def test_a_payout_that_the_bank_gave_back_is_not_at_rest(payouts: PayoutWorld, db: psycopg.Connection[Any]) -> None:
    """Lost: the torture compares the books while money is on its way back, and finds it nowhere."""
    tenant = payouts.rich(20)
    payouts.later(60)
    payout_id = payouts.approved(tenant)
    payouts.send()
    double = torture_money.Double(payouts.stripe.url)
    for status in ("paid", "failed"):
        payouts.told()
        double.control("payouts", payout=payouts.stripe.of("payout")[0]["id"], status=status)
    payouts.told()
    assert payouts.payout(payout_id)["status"] == "paid"
    assert under_way(db) == [f"payout {payout_id} paid"]
    payouts.later(60)
    payouts.send()
    payouts.told()
    assert payouts.payout(payout_id)["status"] == "failed"
    assert under_way(db) == []
