"""Whatever order the processor's events come in, and however often, the books end up the same.

Every order of a history of six events is applied, each event twice, by the office itself on one connection: a tree of
savepoints, in which orders that begin alike share their beginning. What can't be applied yet waits in the inbox, as it
does in the jobs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from books import Books, Tenant

from faucet.kit.ids import uuid7
from faucet.ledger import moves
from faucet.payments import inbox, store
from faucet.payments.appliers import TOP_UPS
from faucet.payments.inbox import Event, Outcome
from faucet.tenants.tenancy import see_all
from faucet.terms import AccountId

Json = dict[str, Any]
CENT = 1_000_000
PAID = 1_000
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
SESSION, INTENT, DISPUTE = "cs_test_1", "pi_1", "du_1"


def _event(kind: str, about: Json) -> Event:
    name = f"evt_{kind}_{about['id']}_{about.get('status')}"
    body = {"id": name, "object": "event", "type": kind, "created": 1, "livemode": False, "data": {"object": about}}
    return Event(name, kind, None, NOW, False, json.dumps(body).encode())


def _completed(top_up: UUID) -> Event:
    session = {
        "id": SESSION, "status": "complete", "payment_status": "paid", "mode": "payment", "amount_total": PAID,
        "currency": "usd", "payment_intent": INTENT, "client_reference_id": str(top_up),
        "metadata": {"top_up": str(top_up)},
    }  # fmt: skip
    return _event("checkout.session.completed", session)


def _refund(cents: int, status: str = "succeeded", name: str = "re_1") -> Json:
    return {"id": name, "status": status, "amount": cents, "currency": "usd", "payment_intent": INTENT, "metadata": {}}


def _dispute(cents: int, status: str) -> Json:
    rows = [{"id": "txn_out", "amount": -cents, "fee": 1_500}]
    if status == "won":
        rows.append({"id": "txn_in", "amount": cents, "fee": 0})
    return {
        "id": DISPUTE, "status": status, "amount": cents, "currency": "usd", "payment_intent": INTENT,
        "balance_transactions": rows,
    }  # fmt: skip


_BOOKS = """
select json_build_object(
    'balances', (select json_object_agg(kind, posted_e8 order by kind) from account where posted_e8 <> 0),
    'top-ups', (select json_agg(json_build_array(status, amount_e8, payment_intent_id) order by id) from top_up),
    'went back', (select json_agg(json_build_array(id, kind, amount_e8, state) order by id) from top_up_reversal),
    'owed', (select sum(written_off_e8 - healed_e8) from top_up_reversal),
    'waiting', (select count(*) from stripe_event where settled_at is null),
    'sum', (select sum(posted_e8) from account))
"""
"""Everything that must not depend on the order."""


@dataclass(frozen=True)
class History:
    """What happened at the processor, and what the wallet had besides."""

    name: str
    events: list[Event]
    wallet_cents: int
    """In the end, of what the wallet had and was paid."""
    written_off_cents: int
    had_cents: int = 0
    debt_cents: int = 0
    """Of an earlier top-up that was taken back after it was spent."""
    fee_cents: int = 1_500
    """A dispute's, once."""


def _histories(top_up: UUID) -> list[History]:
    paid = _completed(top_up)
    lost = [_dispute(800, "needs_response"), _dispute(800, "under_review"), _dispute(800, "lost")]
    won = [_dispute(800, "needs_response"), _dispute(800, "won")]
    opened, asked = "charge.dispute.created", "charge.dispute.updated"
    closed, back, out = "charge.dispute.closed", "charge.dispute.funds_reinstated", "charge.dispute.funds_withdrawn"
    return [
        History(
            "lost, with a refund, more than is there",
            [paid, _event("refund.created", _refund(300)), _event(opened, lost[0]), _event(out, lost[0]),
             _event(asked, lost[1]), _event(closed, lost[2])],
            wallet_cents=0, written_off_cents=100,
        ),
        History(
            "won, with a refund, more than is there in between",
            [paid, _event("refund.created", _refund(300)), _event(opened, won[0]), _event(out, won[0]),
             _event(closed, won[1]), _event(back, won[1])],
            wallet_cents=700, written_off_cents=0,
        ),
        History(
            "won, while an older loss of the wallet is open",
            [paid, _event("refund.created", _refund(300)), _event(opened, won[0]), _event(out, won[0]),
             _event(closed, won[1]), _event(back, won[1])],
            wallet_cents=500, written_off_cents=0, debt_cents=200,
        ),
        History(
            "two refunds, of which one is sent back, and a dispute that is lost",
            [paid, _event("refund.created", _refund(300)), _event("refund.failed", _refund(300, "failed")),
             _event("refund.created", _refund(400, name="re_2")), _event(opened, lost[0]), _event(closed, lost[2])],
            wallet_cents=0, written_off_cents=200 - 50, had_cents=50,
        ),
        History(
            "a refund that is sent back, and then one of more than it had left",
            [paid, _event("refund.created", _refund(600)), _event("refund.failed", _refund(600, "failed")),
             _event("charge.refund.updated", _refund(600, "failed")),
             _event("refund.created", _refund(900, name="re_2")), _event("refund.updated", _refund(900, name="re_2"))],
            wallet_cents=100, written_off_cents=0, fee_cents=0,
        ),
    ]  # fmt: skip


@dataclass
class Tree:
    """All orders of a history, applied to one wallet."""

    tx: psycopg.AsyncConnection[Any]
    tenant: Tenant
    history: History
    ends: Counter[str] = field(default_factory=Counter)
    applied: int = 0

    async def grow(self, left: list[Event]) -> None:
        """Apply what is left in every order."""
        if not left:
            self.ends[await self._books()] += 1
            return
        for place, event in enumerate(left):
            async with self._undone():
                await self._take(event)
                assert not await inbox.store(self.tx, event)  # a duplicate
                await self._apply(event.id)
                await self.grow(left[:place] + left[place + 1 :])

    async def _take(self, event: Event) -> None:
        """As the webhook and the jobs do it: keep, apply, and try again what waits."""
        await inbox.store(self.tx, event)
        pending = [event.id]
        while pending:
            outcomes = [await self._apply(name) for name in pending]
            if Outcome.APPLIED not in outcomes or not await self._has_waiting():
                break
            await inbox.wake(self.tx, now=NOW)
            pending = await inbox.due(self.tx, now=NOW)

    async def _has_waiting(self) -> bool:
        cursor = await self.tx.execute("select exists (select from stripe_event where settled_at is null)")
        row = await cursor.fetchone()
        return row is not None and bool(row[0])

    async def _apply(self, name: str) -> Outcome:
        kept = await inbox.claim(self.tx, name)
        assert kept is not None
        was_settled = kept.settled_at is not None
        verdict = await inbox.apply(self.tx, kept, TOP_UPS, now=NOW)
        assert verdict.outcome is not Outcome.REFUSED, (name, verdict.reason)
        self.applied += not was_settled
        return Outcome.IGNORED if was_settled else verdict.outcome

    @asynccontextmanager
    async def _undone(self) -> AsyncIterator[None]:
        await self.tx.execute("savepoint branch")
        yield
        await self.tx.execute("rollback to savepoint branch")
        await self.tx.execute("release savepoint branch")

    async def _books(self) -> str:
        """Everything that must not depend on the order, as text."""
        cursor = await self.tx.execute(_BOOKS)
        row = await cursor.fetchone()
        assert row is not None
        return json.dumps(row[0], sort_keys=True)


async def _open(tx: psycopg.AsyncConnection[Any], tenant: Tenant, top_up: UUID, session: str, cents: int) -> None:
    await store.insert_checkout(
        tx,
        top_up_id=top_up,
        developer_id=tenant.developer,
        app_id=tenant.app,
        end_user_id=tenant.end_user,
        wallet_id=AccountId(tenant.wallet),
        amount_e8=cents * CENT,
        session_id=session,
        url="https://checkout.example/",
        saves_card=False,
        now=NOW,
        expires_at=NOW,
    )


async def _owe(tx: psycopg.AsyncConnection[Any], tenant: Tenant, cents: int) -> None:
    """Let an earlier top-up be paid, spent, and taken back."""
    earlier = uuid7()
    await _open(tx, tenant, earlier, "cs_test_0", cents)
    await moves.top_up(tx, AccountId(tenant.wallet), cents * CENT, key="earlier", memo="earlier")
    await store.mark_credited(tx, earlier, payment_intent_id="pi_0", receipt_number="MF-0")
    await moves.adjust(tx, AccountId(tenant.wallet), cents * CENT, direction="debit", key=None, memo="spent")
    known = await store.find(tx, earlier)
    assert known is not None
    taken, lost, _ = await moves.take_back(
        tx, known.wallet_id, cents * CENT, why="charge_back", key="dispute:du_0", memo="earlier"
    )
    await store.insert_reversal(tx, known, reversal_id="du_0", kind="dispute", taken_e8=taken, written_off_e8=lost)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", range(5))
async def test_every_order_of_six_events_gives_the_same_books(dsn: str, number: int) -> None:
    """Lost: who is owed what depends on how the network felt that day."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        tenant = Books(connection).tenant()
    top_up = uuid7()
    history = _histories(top_up)[number]
    async with await psycopg.AsyncConnection.connect(dsn) as tx:
        await _open(tx, tenant, top_up, SESSION, PAID)
        if history.had_cents:
            await moves.grant(tx, AccountId(tenant.wallet), history.had_cents * CENT, key=None, memo="had")
        if history.debt_cents:
            await _owe(tx, tenant, history.debt_cents)
        await tx.execute("set local role faucet_api")
        await see_all(tx)
        tree = Tree(tx, tenant, history)
        await tree.grow(history.events)
        await tx.rollback()
    assert sum(tree.ends.values()) == 720
    assert len(tree.ends) == 1, f"{history.name}: {len(tree.ends)} different ends\n" + "\n".join(tree.ends)
    (end,) = (json.loads(text) for text in tree.ends)
    balances = end["balances"]
    assert balances.get("wallet", 0) == history.wallet_cents * CENT, history.name
    assert balances.get("write_off", 0) == -history.written_off_cents * CENT, history.name
    assert end["waiting"] == end["sum"] == 0
    assert balances.get("processor_fees", 0) == -history.fee_cents * CENT
    assert tree.applied > 720
