"""The SQL of payouts and of the accounts that they go to, one function each. Amounts in e8; times from the caller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from psycopg.rows import class_row, scalar_row

from faucet.kit.db import Tx
from faucet.payments import told


@dataclass(frozen=True, slots=True)
class Payout:
    """A payout as its row has it, with its developer's name."""

    id: UUID
    developer_id: UUID
    developer_name: str
    amount_e8: int
    status: str
    provider: str
    provider_account_id: str | None
    run: str | None
    requested_by: str
    approved_by: str | None
    operator_note: str | None
    reason: str | None
    attempts: int
    key_number: int
    next_attempt_at: datetime | None
    last_error: str | None
    provider_transfer_id: str | None
    provider_payout_id: str | None
    provider_reversal_id: str | None
    created_at: datetime
    approved_at: datetime | None
    sent_at: datetime | None
    paid_at: datetime | None
    stop_asked_at: datetime | None
    ended_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class PayoutAccount:
    """A developer's account at the processor."""

    developer_id: UUID
    provider_account_id: str
    is_ready: bool
    """The processor would pay it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayoutFilter:
    """Which payouts are wanted; None does not matter."""

    developer_id: UUID | None = None
    status: str | None = None


_SELECT: LiteralString = """
select p.id, p.developer_id, d.name as developer_name, p.amount_e8, p.status, p.provider, p.provider_account_id, p.run,
       p.requested_by, p.approved_by, p.operator_note, p.reason, p.attempts, p.key_number, p.next_attempt_at,
       p.last_error, p.provider_transfer_id, p.provider_payout_id, p.provider_reversal_id, p.created_at,
       p.approved_at, p.sent_at, p.paid_at, p.stop_asked_at, p.ended_at, p.updated_at
  from payout p join developer d on d.id = p.developer_id
"""


async def find(tx: Tx, payout_id: UUID) -> Payout | None:
    """The payout with this id."""
    return await _one(tx, _SELECT + " where p.id = %s", payout_id)


async def lock(tx: Tx, payout_id: UUID) -> Payout | None:
    """The payout with this id, which nobody else may change until this tx ends."""
    return await _one(tx, _SELECT + " where p.id = %s for update of p", payout_id)


async def find_by_payout(tx: Tx, provider_payout_id: str) -> UUID | None:
    """The id of the payout that is this payout at the processor."""
    return await _id(
        tx, "select id from payout where provider = 'stripe' and provider_payout_id = %s", provider_payout_id
    )


async def find_by_transfer(tx: Tx, provider_transfer_id: str) -> UUID | None:
    """The id of the payout that is this transfer at the processor."""
    return await _id(tx, "select id from payout where provider_transfer_id = %s", provider_transfer_id)


async def find_by_key(tx: Tx, key: str) -> UUID | None:
    """The id of the payout that was opened under this key of the ledger."""
    return await _id(tx, "select event_id from transfer where key = %s and code = 40", key)


async def page(tx: Tx, wanted: PayoutFilter, *, after: tuple[datetime, UUID] | None, limit: int) -> list[Payout]:
    """Payouts, newest first, from a place in the list."""
    at, after_id = after or (None, None)
    async with tx.cursor(row_factory=class_row(Payout)) as cursor:
        await cursor.execute(
            _SELECT
            + """
             where (%(developer)s::uuid is null or p.developer_id = %(developer)s::uuid)
               and (%(status)s::text is null or p.status = %(status)s::text)
               and (%(at)s::timestamptz is null or (p.created_at, p.id) < (%(at)s::timestamptz, %(id)s::uuid))
             order by p.created_at desc, p.id desc limit %(limit)s
            """,
            {
                "developer": wanted.developer_id,
                "status": wanted.status,
                "at": at,
                "id": after_id,
                "limit": limit,
            },
        )
        return await cursor.fetchall()


async def insert(
    tx: Tx,
    payout_id: UUID,
    *,
    developer_id: UUID,
    amount_e8: int,
    account: PayoutAccount | None,
    requested_by: str,
    run: str | None,
    now: datetime,
) -> None:
    """A payout that was just opened, to this account at the processor, else by hand."""
    await tx.execute(
        """
        insert into payout (id, developer_id, amount_e8, provider, provider_account_id, requested_by, run,
                            created_at, updated_at)
        values (%(id)s, %(developer)s, %(amount)s, %(provider)s, %(account)s, %(by)s, %(run)s, %(now)s, %(now)s)
        """,
        {
            "id": payout_id,
            "developer": developer_id,
            "amount": amount_e8,
            "provider": "manual" if account is None else "stripe",
            "account": None if account is None else account.provider_account_id,
            "by": requested_by,
            "run": run,
            "now": now,
        },
    )
    await told.of_payout(tx, payout_id=payout_id, developer_id=developer_id, amount_e8=amount_e8, status="requested")


async def mark(tx: Tx, payout_id: UUID, *, now: datetime, **fields: Any) -> Payout:
    """Change a payout's columns, by name; the row as it is then. The database refuses what may not become of it."""
    await tx.execute(_update(tuple(fields)), [*fields.values(), now, payout_id])
    changed = await find(tx, payout_id)
    assert changed is not None  # its caller has locked it
    if "status" in fields:
        await told.of_payout(
            tx,
            payout_id=payout_id,
            developer_id=changed.developer_id,
            amount_e8=changed.amount_e8,
            status=changed.status,
        )
    return changed


_COLUMNS: dict[str, LiteralString] = {
    "status": "status = %s, ",
    "approved_by": "approved_by = %s, ",
    "operator_note": "operator_note = %s, ",
    "reason": "reason = %s, ",
    "attempts": "attempts = %s, ",
    "key_number": "key_number = %s, ",
    "next_attempt_at": "next_attempt_at = %s, ",
    "last_error": "last_error = %s, ",
    "provider_transfer_id": "provider_transfer_id = %s, ",
    "provider_payout_id": "provider_payout_id = %s, ",
    "provider_reversal_id": "provider_reversal_id = %s, ",
    "approved_at": "approved_at = %s, ",
    "sent_at": "sent_at = %s, ",
    "paid_at": "paid_at = %s, ",
    "stop_asked_at": "stop_asked_at = %s, ",
    "ended_at": "ended_at = %s, ",
}


def _update(names: Sequence[str]) -> LiteralString:
    changes: LiteralString = ""
    for name in names:
        changes += _COLUMNS[name]
    return "update payout set " + changes + "updated_at = %s where id = %s"


async def due(tx: Tx, *, now: datetime) -> Payout | None:
    """A payout for which something is to be asked of the processor, and that nobody else has taken. Locked.

    What a developer who is switched off would get, and has not begun to leave, waits.
    """
    return await _one(
        tx,
        _SELECT
        + """
         where p.next_attempt_at <= %s and p.provider = 'stripe' and p.status in ('approved', 'sent', 'paid')
           and (p.status <> 'approved' or d.status = 'active')
         order by p.next_attempt_at, p.id limit 1 for update of p skip locked
        """,
        now,
    )


async def opened_since(tx: Tx, developer_id: UUID, moment: datetime) -> int:
    """How much a developer's payouts since a moment come to, without those that came to nothing."""
    async with tx.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(
            "select coalesce(sum(amount_e8), 0)::bigint from payout"
            " where developer_id = %s and created_at >= %s and status not in ('failed', 'cancelled')",
            (developer_id, moment),
        )
        total = await cursor.fetchone()
    return int(total or 0)


async def candidates(
    tx: Tx, *, least_e8: int, earned_by: datetime, run: str | None, after: UUID | None, limit: int
) -> list[UUID]:
    """Active developers of whose earnings so much is old enough, and whom this run has not served, by id from a place
    on."""
    async with tx.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(
            """
            select d.id from account a join developer d on d.id = a.developer_id
             where a.kind = 'earnings' and a.label = '' and a.posted_e8 >= %(least)s and d.status = 'active'
               and (%(after)s::uuid is null or d.id > %(after)s::uuid)
               and not exists (select from payout p where p.developer_id = d.id and p.run = %(run)s::text)
               and earnings_mature_v1(d.id, %(earned_by)s) >= %(least)s
             order by d.id limit %(limit)s
            """,
            {"least": least_e8, "earned_by": earned_by, "after": after, "run": run, "limit": limit},
        )
        return await cursor.fetchall()


async def mature(tx: Tx, developer_id: UUID, earned_by: datetime) -> int:
    """What of a developer's earnings is old enough to be paid out, at this moment."""
    async with tx.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute("select earnings_mature_v1(%s, %s)", (developer_id, earned_by))
        found = await cursor.fetchone()
    return int(found or 0)


# ── accounts at the processor ──


async def account_of(tx: Tx, developer_id: UUID) -> PayoutAccount | None:
    """A developer's account at the processor."""
    async with tx.cursor(row_factory=class_row(PayoutAccount)) as cursor:
        await cursor.execute(
            "select developer_id, provider_account_id, is_ready from payout_account where developer_id = %s",
            (developer_id,),
        )
        return await cursor.fetchone()


async def keep_account(tx: Tx, account: PayoutAccount) -> PayoutAccount:
    """Remember a developer's first account; the one that is kept, if another came first."""
    await tx.execute(
        "insert into payout_account (developer_id, provider_account_id, is_ready) values (%s, %s, %s)"
        " on conflict (developer_id) do nothing",
        (account.developer_id, account.provider_account_id, account.is_ready),
    )
    kept = await account_of(tx, account.developer_id)
    assert kept is not None  # it is there, whoever was first
    return kept


async def set_ready(tx: Tx, provider_account_id: str, *, is_ready: bool, now: datetime) -> UUID | None:
    """Note whether the processor would pay an account; whose it is, where that is news."""
    return await _id(
        tx,
        "update payout_account set is_ready = %s, updated_at = %s"
        " where provider_account_id = %s and is_ready <> %s returning developer_id",
        is_ready,
        now,
        provider_account_id,
        is_ready,
    )


async def _one(tx: Tx, query: LiteralString, value: object) -> Payout | None:
    async with tx.cursor(row_factory=class_row(Payout)) as cursor:
        await cursor.execute(query, (value,))
        return await cursor.fetchone()


async def _id(tx: Tx, query: LiteralString, *values: object) -> UUID | None:
    async with tx.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(query, values)
        found: UUID | None = await cursor.fetchone()
    return found
