"""Every SQL statement over top-ups and what went back of them, one function each.

All take an open tx. What a row means, and who may have it, is decided by the callers.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.terms import AccountId


@dataclass(frozen=True, slots=True)
class TopUp:
    """Money that a person paid, or was asked to pay, into a wallet. Amounts in e8."""

    id: UUID
    developer_id: UUID
    app_id: UUID
    end_user_id: UUID
    wallet_id: AccountId
    wallet_public_id: UUID
    kind: str
    amount_e8: int
    status: str
    reason: str | None
    attempt: int | None
    checkout_session_id: str | None
    checkout_url: str | None
    payment_intent_id: str | None
    saves_card: bool
    fee_e8: int | None
    receipt_number: str | None
    receipt_url: str | None
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    credited_at: datetime | None
    refunded_e8: int
    """Given back by refunds that stand."""
    disputed_e8: int
    """Taken back by disputes that are open or lost."""
    asked_back_e8: int
    """Refunds that an operator asked for and that the processor doesn't know of yet."""

    @property
    def rest_e8(self) -> int:
        """What can still be refunded."""
        return max(0, self.amount_e8 - self.refunded_e8 - self.disputed_e8 - self.asked_back_e8)


_TOP_UP: LiteralString = """
select t.id, t.developer_id, t.app_id, t.end_user_id, t.wallet_id, w.public_id as wallet_public_id, t.kind,
       t.amount_e8, t.status, t.reason, t.attempt, t.checkout_session_id, t.checkout_url, t.payment_intent_id,
       t.saves_card, t.fee_e8, t.receipt_number, t.receipt_url, t.created_at, t.updated_at, t.expires_at, t.credited_at,
       back.refunded_e8, back.disputed_e8, asked.asked_back_e8
  from top_up t join account w on w.id = t.wallet_id
       cross join lateral (
           select coalesce(sum(r.amount_e8) filter (where r.kind = 'refund'), 0)::bigint as refunded_e8,
                  coalesce(sum(r.amount_e8) filter (where r.kind = 'dispute'), 0)::bigint as disputed_e8
             from top_up_reversal r where r.top_up_id = t.id and r.state <> 'returned') back
       cross join lateral (
           select coalesce(sum(a.amount_e8), 0)::bigint as asked_back_e8
             from top_up_refund a where a.top_up_id = t.id and a.status = 'requested') asked
"""


async def _one(tx: Tx, where: LiteralString, value: UUID | str) -> TopUp | None:
    async with tx.cursor(row_factory=class_row(TopUp)) as cursor:
        await cursor.execute(_TOP_UP + where, (value,))
        return await cursor.fetchone()


async def find(tx: Tx, top_up_id: UUID) -> TopUp | None:
    """The top-up with this id."""
    return await _one(tx, " where t.id = %s", top_up_id)


async def find_by_session(tx: Tx, checkout_session_id: str) -> TopUp | None:
    """The top-up of a checkout session."""
    return await _one(tx, " where t.checkout_session_id = %s", checkout_session_id)


async def find_by_intent(tx: Tx, payment_intent_id: str) -> TopUp | None:
    """The top-up that was paid by this payment intent."""
    return await _one(tx, " where t.payment_intent_id = %s", payment_intent_id)


async def page_of_end_user(
    tx: Tx, end_user_id: UUID, *, limit: int, after: tuple[datetime, UUID] | None
) -> list[TopUp]:
    """An end user's top-ups, newest first, from a place in the list."""
    at, after_id = after or (None, None)
    async with tx.cursor(row_factory=class_row(TopUp)) as cursor:
        await cursor.execute(
            _TOP_UP
            + """
             where t.end_user_id = %(owner)s
               and (%(at)s::timestamptz is null or (t.created_at, t.id) < (%(at)s::timestamptz, %(id)s::uuid))
             order by t.created_at desc, t.id desc limit %(limit)s
            """,
            {"owner": end_user_id, "at": at, "id": after_id, "limit": limit},
        )
        return await cursor.fetchall()


async def newest(
    tx: Tx, *, developer_id: UUID | None, limit: int, after: tuple[datetime, UUID] | None = None
) -> list[TopUp]:
    """The newest top-ups of a developer's apps, or (None) of all."""
    at, after_id = after or (None, None)
    async with tx.cursor(row_factory=class_row(TopUp)) as cursor:
        await cursor.execute(
            _TOP_UP
            + """
             where (%(developer)s::uuid is null or t.developer_id = %(developer)s::uuid)
               and (%(at)s::timestamptz is null or (t.created_at, t.id) < (%(at)s::timestamptz, %(id)s::uuid))
             order by t.created_at desc, t.id desc limit %(limit)s
            """,
            {"developer": developer_id, "at": at, "id": after_id, "limit": limit},
        )
        return await cursor.fetchall()


async def insert_checkout(
    tx: Tx,
    *,
    top_up_id: UUID,
    developer_id: UUID,
    app_id: UUID,
    end_user_id: UUID,
    wallet_id: AccountId,
    amount_e8: int,
    session_id: str,
    url: str,
    saves_card: bool,
    now: datetime,
    expires_at: datetime,
) -> bool:
    """Add a pending top-up; False where it was there already."""
    cursor = await tx.execute(
        """
        insert into top_up (id, developer_id, app_id, end_user_id, wallet_id, kind, amount_e8, checkout_session_id,
                            checkout_url, saves_card, created_at, updated_at, expires_at)
        values (%s, %s, %s, %s, %s, 'checkout', %s, %s, %s, %s, %s, %s, %s)
        on conflict (id) do nothing
        """,
        (
            top_up_id, developer_id, app_id, end_user_id, wallet_id, amount_e8, session_id, url, saves_card, now, now,
            expires_at,
        ),
    )  # fmt: skip
    return cursor.rowcount == 1


async def count_pending(tx: Tx, wallet_id: AccountId) -> int:
    """How many checkout pages of a wallet are open."""
    cursor = await tx.execute(
        "select count(*) from top_up where wallet_id = %s and status = 'pending' and kind = 'checkout'", (wallet_id,)
    )
    row = await cursor.fetchone()
    return 0 if row is None else int(row[0])


async def mark_credited(tx: Tx, top_up_id: UUID, *, payment_intent_id: str | None, receipt_number: str) -> None:
    """Note that a top-up's money is in its wallet."""
    await tx.execute(
        """
        update top_up set status = 'credited', reason = null, payment_intent_id = %s, receipt_number = %s,
               checkout_url = null, credited_at = now(), updated_at = now()
         where id = %s and status <> 'credited'
        """,
        (payment_intent_id, receipt_number, top_up_id),
    )


async def forget_failures(tx: Tx, wallet_id: AccountId) -> None:
    """An automatic top-up was credited: those that failed before it don't count any more."""
    await tx.execute("update auto_top_up set failures = 0, updated_at = now() where wallet_id = %s", (wallet_id,))


async def mark(tx: Tx, top_up_id: UUID, status: str, *, reason: str | None) -> bool:
    """Give a pending top-up its end; False where it had one."""
    cursor = await tx.execute(
        "update top_up set status = %s, reason = %s, checkout_url = null, updated_at = now()"
        " where id = %s and status = 'pending'",
        (status, None if reason is None else reason[:500], top_up_id),
    )
    return cursor.rowcount == 1


async def end_unvouched_sessions(tx: Tx, end_user_id: UUID) -> None:
    """End the sessions that may not spend paid money, of somebody into whose wallet some was just paid."""
    await tx.execute("select sessions_end_unvouched_v1(%s)", (end_user_id,))


async def overdue_checkouts(tx: Tx, *, before: datetime, limit: int) -> list[TopUp]:
    """Pending checkouts whose page must be over, and of which we were told nothing."""
    async with tx.cursor(row_factory=class_row(TopUp)) as cursor:
        await cursor.execute(
            _TOP_UP + " where t.status = 'pending' and t.kind = 'checkout' and t.expires_at < %s"
            " order by t.updated_at limit %s",
            (before, limit),
        )
        return await cursor.fetchall()


async def without_fee(tx: Tx, *, since: datetime, limit: int) -> list[TopUp]:
    """Credited top-ups of which we don't know yet what the processor kept."""
    async with tx.cursor(row_factory=class_row(TopUp)) as cursor:
        await cursor.execute(
            _TOP_UP + " where t.status = 'credited' and t.fee_e8 is null and t.payment_intent_id is not null"
            " and t.credited_at > %s"
            " order by t.credited_at limit %s",
            (since, limit),
        )
        return await cursor.fetchall()


async def set_receipt(
    tx: Tx, top_up_id: UUID, *, fee_e8: int, receipt_url: str | None, receipt_number: str | None
) -> bool:
    """Note what the processor told afterwards; False where it was known."""
    cursor = await tx.execute(
        """
        update top_up set fee_e8 = %s, receipt_url = %s, receipt_number = coalesce(%s, receipt_number),
               updated_at = now()
         where id = %s and fee_e8 is null
        """,
        (fee_e8, receipt_url, receipt_number, top_up_id),
    )
    return cursor.rowcount == 1


# ── what went back ──


@dataclass(frozen=True, slots=True)
class Reversal:
    """A refund or dispute of a top-up, by the processor's id. Amounts in e8."""

    id: str
    top_up_id: UUID
    kind: str
    amount_e8: int
    taken_e8: int
    written_off_e8: int
    healed_e8: int
    state: str


async def find_reversal(tx: Tx, reversal_id: str) -> Reversal | None:
    """The refund or dispute with this id."""
    async with tx.cursor(row_factory=class_row(Reversal)) as cursor:
        await cursor.execute(
            "select id, top_up_id, kind, amount_e8, taken_e8, written_off_e8, healed_e8, state from top_up_reversal"
            " where id = %s",
            (reversal_id,),
        )
        return await cursor.fetchone()


async def insert_reversal(
    tx: Tx, top_up: TopUp, *, reversal_id: str, kind: str, taken_e8: int, written_off_e8: int
) -> None:
    """Note that money of a top-up went back."""
    await tx.execute(
        """
        insert into top_up_reversal (id, developer_id, top_up_id, wallet_id, kind, amount_e8, taken_e8, written_off_e8,
                                     state)
        values (%s, %s, %s, %s, %s, %s, %s, %s, 'gone')
        """,
        (
            reversal_id, top_up.developer_id, top_up.id, top_up.wallet_id, kind, taken_e8 + written_off_e8, taken_e8,
            written_off_e8,
        ),
    )  # fmt: skip


async def mark_reversal(tx: Tx, reversal_id: str, state: str, *, healed_e8: int = 0) -> None:
    """Note that what went back is lost, or came back."""
    await tx.execute(
        "update top_up_reversal set state = %s, healed_e8 = %s, updated_at = now() where id = %s",
        (state, healed_e8, reversal_id),
    )


async def written_off(tx: Tx, wallet_id: AccountId) -> int:
    """What was written off for a wallet and not made good since, in e8."""
    cursor = await tx.execute(
        "select coalesce(sum(written_off_e8 - healed_e8), 0)::bigint from top_up_reversal where wallet_id = %s",
        (wallet_id,),
    )
    row = await cursor.fetchone()
    return 0 if row is None else int(row[0])
