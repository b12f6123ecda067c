"""Saved cards, and wallets that are topped up by themselves: only where their end user said so, within a monthly cap,
one at a time, each attempt once.

An attempt is a row before anything is charged (`claim`), so a crash leaves something to go on from: the processor is
asked again with the same id, and charges once. Not here: the calls themselves and when they are made (doors), crediting
(`top_ups`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import LiteralString
from uuid import UUID

from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.kit.errors import Refusal
from faucet.kit.ids import uuid7
from faucet.ledger import moves
from faucet.payments import store
from faucet.payments.processor import SavedCard
from faucet.payments.store import TopUp
from faucet.terms import AccountId

FAILURES_MAX = 3
"""In a row; then it is paused until its end user says so again."""
PAUSE_MINUTES = 10
"""After the first failure; twice as long after the second."""
NEEDS_OWNER = "authentication_required"
"""The decline that no repeat mends: the card's owner has to be there."""


@dataclass(frozen=True, slots=True)
class AutoTopUp:
    """What an end user wished. Amounts in e8."""

    wallet_id: AccountId
    developer_id: UUID
    end_user_id: UUID
    status: str
    threshold_e8: int
    amount_e8: int
    monthly_cap_e8: int
    failures: int
    pause_reason: str | None
    consented_at: datetime
    updated_at: datetime
    card_brand: str | None
    card_last4: str | None
    used_e8: int
    """What of this month's cap is used, attempts under way included."""


@dataclass(frozen=True, slots=True)
class Customer:
    """Whom the processor knows an end user as, and the card that it keeps."""

    end_user_id: UUID
    customer_id: str
    payment_method_id: str | None
    card_brand: str | None
    card_last4: str | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """An automatic top-up that is to be charged."""

    top_up: TopUp
    customer_id: str
    payment_method_id: str | None
    """None where the card was forgotten meanwhile."""


# ── saved cards ──


async def customer_of(tx: Tx, end_user_id: UUID) -> Customer | None:
    """The customer that an end user is at the processor, if it knows them."""
    async with tx.cursor(row_factory=class_row(Customer)) as cursor:
        await cursor.execute(
            "select end_user_id, customer_id, payment_method_id, card_brand, card_last4 from payment_customer"
            " where end_user_id = %s",
            (end_user_id,),
        )
        return await cursor.fetchone()


async def keep_customer(tx: Tx, *, developer_id: UUID, end_user_id: UUID, customer_id: str) -> None:
    """Note the customer of an end user, if none was."""
    await tx.execute(
        "insert into payment_customer (end_user_id, developer_id, customer_id) values (%s, %s, %s)"
        " on conflict (end_user_id) do nothing",
        (end_user_id, developer_id, customer_id),
    )


async def keep_card(tx: Tx, end_user_id: UUID, card: SavedCard) -> None:
    """Note the card that is to be charged from now on."""
    await tx.execute(
        "update payment_customer set payment_method_id = %s, card_brand = %s, card_last4 = %s, updated_at = now()"
        " where end_user_id = %s",
        (card.id, card.brand, card.last4, end_user_id),
    )


async def drop_card(tx: Tx, end_user_id: UUID) -> str | None:
    """Forget the card, end automatic top-ups with it, and give the processor's name of the card, if there was one."""
    known = await customer_of(tx, end_user_id)
    if known is None or known.payment_method_id is None:
        return None
    await tx.execute(
        "update payment_customer set payment_method_id = null, card_brand = null, card_last4 = null, updated_at = now()"
        " where end_user_id = %s",
        (end_user_id,),
    )
    await switch_off(tx, end_user_id)
    return known.payment_method_id


# ── the wish ──

_WISH: LiteralString = """
select a.wallet_id, a.developer_id, a.end_user_id, a.status, a.threshold_e8, a.amount_e8, a.monthly_cap_e8, a.failures,
       a.pause_reason, a.consented_at, a.updated_at, c.card_brand, c.card_last4,
       coalesce((select sum(t.amount_e8) from top_up t where t.wallet_id = a.wallet_id and t.kind = 'auto'
           and t.status in ('pending', 'credited') and t.created_at >= %(month)s), 0)::bigint as used_e8
  from auto_top_up a left join payment_customer c on c.end_user_id = a.end_user_id
"""


def _month(now: datetime) -> datetime:
    return now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


async def find(tx: Tx, end_user_id: UUID, *, now: datetime) -> AutoTopUp | None:
    """What an end user wished, if they ever did."""
    async with tx.cursor(row_factory=class_row(AutoTopUp)) as cursor:
        await cursor.execute(_WISH + " where a.end_user_id = %(owner)s", {"month": _month(now), "owner": end_user_id})
        return await cursor.fetchone()


async def switch_on(
    tx: Tx,
    *,
    developer_id: UUID,
    app_id: UUID,
    end_user_id: UUID,
    wallet_id: AccountId,
    threshold_e8: int,
    amount_e8: int,
    monthly_cap_e8: int,
    now: datetime,
) -> AutoTopUp:
    """Top the wallet up from now on whenever less than the threshold is available. A pause ends with it.

    Raises Refusal `conflict` where no card is saved.
    """
    known = await customer_of(tx, end_user_id)
    if known is None or known.payment_method_id is None:
        raise Refusal("conflict", "there is no saved card: pay once with save_card first")
    await tx.execute(
        """
        insert into auto_top_up (wallet_id, developer_id, app_id, end_user_id, status, threshold_e8, amount_e8,
                                 monthly_cap_e8, consented_at)
        values (%(wallet)s, %(developer)s, %(app)s, %(owner)s, 'on', %(threshold)s, %(amount)s, %(cap)s, %(now)s)
        on conflict (wallet_id) do update
           set status = 'on', threshold_e8 = excluded.threshold_e8, amount_e8 = excluded.amount_e8,
               monthly_cap_e8 = excluded.monthly_cap_e8, failures = 0, pause_reason = null,
               consented_at = excluded.consented_at, updated_at = now()
        """,
        {
            "wallet": wallet_id,
            "developer": developer_id,
            "app": app_id,
            "owner": end_user_id,
            "threshold": threshold_e8,
            "amount": amount_e8,
            "cap": monthly_cap_e8,
            "now": now,
        },
    )
    found = await find(tx, end_user_id, now=now)
    assert found is not None
    return found


async def switch_off(tx: Tx, end_user_id: UUID) -> bool:
    """Top up no more; False where it was off. An attempt that is under way ends as it ends."""
    cursor = await tx.execute(
        "update auto_top_up set status = 'off', updated_at = now() where end_user_id = %s and status <> 'off'",
        (end_user_id,),
    )
    return cursor.rowcount == 1


# ── attempts ──

_DUE: LiteralString = """
select a.wallet_id
  from auto_top_up a
  join account w on w.id = a.wallet_id and w.frozen_at is null and w.posted_e8 - w.held_e8 < a.threshold_e8
  join payment_customer c on c.end_user_id = a.end_user_id and c.payment_method_id is not null
  join app p on p.id = a.app_id and p.status = 'active'
  join developer d on d.id = a.developer_id and d.status = 'active'
 where a.status = 'on'
   and not exists (select from top_up t where t.wallet_id = a.wallet_id and t.kind = 'auto' and t.status = 'pending')
   and (a.failures = 0 or not exists (
       select from top_up t where t.wallet_id = a.wallet_id and t.kind = 'auto' and t.status = 'failed'
          and t.updated_at > %(now)s - make_interval(mins => %(pause)s * a.failures)))
   and a.amount_e8 + coalesce((select sum(t.amount_e8) from top_up t where t.wallet_id = a.wallet_id
       and t.kind = 'auto' and t.status in ('pending', 'credited') and t.created_at >= %(month)s), 0)
       <= a.monthly_cap_e8
"""


async def due(tx: Tx, *, now: datetime, limit: int) -> list[AccountId]:
    """The wallets that are to be topped up now."""
    cursor = await tx.execute(
        _DUE + " order by a.updated_at limit %(limit)s",
        {"now": now, "month": _month(now), "pause": PAUSE_MINUTES, "limit": limit},
    )
    return [AccountId(row[0]) for row in await cursor.fetchall()]


async def claim(tx: Tx, wallet_id: AccountId, *, now: datetime) -> Attempt | None:
    """Begin a wallet's next attempt; None where there is nothing to do any more."""
    await moves.one_at_a_time(tx, wallet_id)
    cursor = await tx.execute(
        _DUE + " and a.wallet_id = %(wallet)s",
        {"now": now, "month": _month(now), "pause": PAUSE_MINUTES, "wallet": wallet_id},
    )
    if await cursor.fetchone() is None:
        return None
    row_id = uuid7()
    await tx.execute(
        """
        insert into top_up (id, developer_id, app_id, end_user_id, wallet_id, kind, amount_e8, attempt, created_at,
                            updated_at)
        select %(id)s, a.developer_id, a.app_id, a.end_user_id, a.wallet_id, 'auto', a.amount_e8,
               coalesce((select max(t.attempt) from top_up t where t.wallet_id = a.wallet_id), 0) + 1, %(now)s, %(now)s
          from auto_top_up a where a.wallet_id = %(wallet)s
        """,
        {"id": row_id, "wallet": wallet_id, "now": now},
    )
    return await _attempt(tx, row_id)


async def unresolved(tx: Tx, *, before: datetime, limit: int) -> list[Attempt]:
    """Attempts that began before then and of which nobody knows how they ended."""
    cursor = await tx.execute(
        "select id from top_up where kind = 'auto' and status = 'pending' and updated_at < %s"
        " order by updated_at limit %s",
        (before, limit),
    )
    found = [await _attempt(tx, row[0]) for row in await cursor.fetchall()]
    return [attempt for attempt in found if attempt is not None]


async def touch(tx: Tx, attempt: Attempt, *, now: datetime) -> None:
    """Note that an attempt was asked about again, so that the next turn waits for the next time."""
    await tx.execute("update top_up set updated_at = %s where id = %s and status = 'pending'", (now, attempt.top_up.id))


async def _attempt(tx: Tx, top_up_id: UUID) -> Attempt | None:
    top_up = await store.find(tx, top_up_id)
    known = None if top_up is None else await customer_of(tx, top_up.end_user_id)
    if top_up is None or known is None:
        return None
    return Attempt(top_up, known.customer_id, known.payment_method_id)


async def note_failure(tx: Tx, top_up: TopUp, reason: str, *, is_final: bool) -> str | None:
    """End an attempt that failed; pause the wish after too many, or at once where a repeat can't help.

    Gives what it is paused for, if it is.
    """
    await moves.one_at_a_time(tx, top_up.wallet_id)
    if not await store.mark(tx, top_up.id, "failed", reason=reason):
        return None
    cursor = await tx.execute(
        """
        update auto_top_up
           set failures = failures + 1, updated_at = now(),
               status = case when status = 'on' and (%(final)s or failures + 1 >= %(most)s) then 'paused'
                   else status end,
               pause_reason = case when status = 'on' and (%(final)s or failures + 1 >= %(most)s) then %(reason)s
                   else pause_reason end
         where wallet_id = %(wallet)s returning status, pause_reason
        """,
        {"final": is_final, "most": FAILURES_MAX, "reason": reason[:500], "wallet": top_up.wallet_id},
    )
    row = await cursor.fetchone()
    return row[1] if row is not None and row[0] == "paused" else None


def may_repeat(attempt: Attempt, now: datetime) -> bool:
    """Whether asking again can't charge twice: the processor keeps an idempotency key for a day."""
    return attempt.payment_method_id is not None and now - attempt.top_up.created_at < timedelta(hours=20)
