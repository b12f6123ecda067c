"""Statements as rows: written once, when their month is closed, from its sums; read ever after.

A developer's balance is earnings and what is on its way in payouts together: it is paid when it has left. Amounts in
e8 until they are in a statement's text.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from psycopg.rows import class_row

from faucet.closing.document import VERSION, Json, Signed, Signer
from faucet.closing.month import Month
from faucet.closing.usage_proof import Day, earned_of
from faucet.kit.clock import to_iso
from faucet.kit.db import Tx
from faucet.kit.errors import InvariantBroken
from faucet.kit.ids import uuid7
from faucet.kit.money import to_wire

BATCH = 500
"""Statements of end users that are written in one tx."""
SETTLED_CODES_BELOW = 10
TOP_UP_CODE = 10
GRANT_CODES = range(11, 20)
REFUND_CODES = range(20, 30)
PAYOUT_CODES = range(40, 50)


class UsageLine(NamedTuple):
    """One line of a usage export, with what it says."""

    text: str
    created_at: datetime
    public_app_id: str
    route_mode: str
    cost_e8: int
    channel_e8: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A statement's row."""

    id: UUID
    month: date
    developer_id: UUID
    end_user_id: UUID | None
    body: str
    hash: bytes
    signature: bytes
    public_key: bytes
    created_at: datetime

    @property
    def signed(self) -> Signed:
        return Signed(self.body, bytes(self.hash), bytes(self.signature), bytes(self.public_key))


@dataclass(frozen=True, slots=True)
class Subject:
    """A developer of whom there is to be a statement."""

    id: UUID
    name: str


# ── writing ──


async def keep_key(tx: Tx, signer: Signer) -> None:
    """Publish the key that signs."""
    await tx.execute(
        "insert into statement_key (key_id, public_key) values (%s, %s) on conflict do nothing",
        (signer.key_id, signer.public_key),
    )


async def unwritten_developers(tx: Tx, month: Month) -> list[Subject]:
    """Developers who were there in the month and have no statement of it yet."""
    async with tx.cursor(row_factory=class_row(Subject)) as cursor:
        await cursor.execute(
            """
            select d.id, d.name from developer d
             where (d.created_at < %(end)s or exists (select from period_sum s
                       where s.developer_id = d.id and s.month <= %(month)s))
               and not exists (select from statement s where s.developer_id = d.id and s.end_user_id is null
                       and s.month = %(month)s)
             order by d.id
            """,
            {"end": month.ends_at, "month": month.first_day},
        )
        return await cursor.fetchall()


async def write_developer(
    tx: Tx, signer: Signer, month: Month, developer: Subject, usage: AsyncIterator[list[UsageLine]], *, now: datetime
) -> None:
    """Write a developer's statement of a month whose sums were taken. `usage` is the month's export of theirs.

    Raises InvariantBroken where usage and transfers don't say the same.
    """
    days, apps = await _usage(usage)
    async with tx.cursor() as cursor:
        await cursor.execute(
            """
            select s.code, a.kind::text, coalesce(sum(s.amount_e8) filter (where s.month < %(month)s), 0)::bigint,
                   coalesce(sum(s.amount_e8) filter (where s.month = %(month)s), 0)::bigint
              from period_sum s join account a on a.id = s.account_id and a.kind in ('earnings', 'payout_clearing')
             where s.developer_id = %(developer)s and s.month <= %(month)s
             group by 1, 2
            """,
            {"month": month.first_day, "developer": developer.id},
        )
        sums = await cursor.fetchall()
    opening = sum(before for _, _, before, _ in sums)
    earned = sum(moved for code, _, _, moved in sums if code < SETTLED_CODES_BELOW)
    paid = -sum(moved for code, _, _, moved in sums if code in PAYOUT_CODES)
    closing = opening + sum(moved for _, _, _, moved in sums)
    used = sum(day.earned_e8 for day in days.values())
    if used != earned:
        raise InvariantBroken(f"in {month} usage of {developer.id} earned {used} e8 and transfers gave {earned}")
    says: Json = {
        "version": VERSION,
        "kind": "developer",
        "period": str(month),
        "currency": "USD",
        "developer_id": str(developer.id),
        "developer_name": developer.name,
        "opening_usd": to_wire(opening),
        "earned_usd": to_wire(earned),
        "adjusted_usd": to_wire(closing - opening - earned + paid),
        "paid_usd": to_wire(paid),
        "closing_usd": to_wire(closing),
        "in_payout_usd": to_wire(sum(b + m for _, kind, b, m in sums if kind == "payout_clearing")),
        "apps": [
            {"public_app_id": name, "calls": calls, "earned_usd": to_wire(earned_e8)}
            for name, (calls, earned_e8) in sorted(apps.items())
        ],
        "days": [day.as_json(at) for at, day in sorted(days.items())],
        "closed_at": to_iso(now),
    }
    await _keep(tx, signer, month, developer.id, None, says, await _last_hash(tx, developer.id, None))


async def _usage(usage: AsyncIterator[list[UsageLine]]) -> tuple[dict[str, Day], dict[str, tuple[int, int]]]:
    """The days of a month's usage, and calls and earnings by app."""
    days: dict[str, Day] = {}
    apps: dict[str, tuple[int, int]] = {}
    async for lines in usage:
        for text, created_at, app, route_mode, cost_e8, channel_e8 in lines:
            earned_e8 = earned_of(route_mode, cost_e8, channel_e8)
            day = to_iso(created_at)[:10]
            if day not in days:
                days[day] = Day()
            days[day].add(text.encode(), earned_e8)
            calls, sum_e8 = apps.get(app, (0, 0))
            apps[app] = (calls + 1, sum_e8 + earned_e8)
    return days, apps


async def write_end_users(tx: Tx, signer: Signer, month: Month, *, now: datetime) -> int:
    """Write the next statements of end users whose wallets moved in the month; gives how many there were."""
    async with tx.cursor() as cursor:
        await cursor.execute(
            """
            select a.id, a.public_id, a.developer_id, a.owner_id
              from (select distinct account_id from period_sum where month = %(month)s) s
              join account a on a.id = s.account_id and a.kind = 'wallet' and a.label = ''
             where not exists (select from statement t where t.end_user_id = a.owner_id
                       and t.developer_id = a.developer_id and t.month = %(month)s)
             order by a.id limit %(batch)s
            """,
            {"month": month.first_day, "batch": BATCH},
        )
        wallets = await cursor.fetchall()
        await cursor.execute(
            """
            select account_id, code, coalesce(sum(amount_e8) filter (where month < %(month)s), 0)::bigint,
                   coalesce(sum(amount_e8) filter (where month = %(month)s), 0)::bigint
              from period_sum where account_id = any (%(wallets)s) and month <= %(month)s group by 1, 2
            """,
            {"month": month.first_day, "wallets": [wallet[0] for wallet in wallets]},
        )
        sums: dict[int, list[tuple[int, int, int]]] = {}
        for account, code, before, moved in await cursor.fetchall():
            sums.setdefault(account, []).append((code, before, moved))
    for account, public_id, developer_id, end_user_id in wallets:
        says = {
            "version": VERSION,
            "kind": "end_user",
            "period": str(month),
            "currency": "USD",
            "developer_id": str(developer_id),
            "end_user_id": str(end_user_id),
            "wallet_id": str(public_id),
            "closed_at": to_iso(now),
            **{f"{name}_usd": to_wire(e8) for name, e8 in _wallet_figures(sums[account]).items()},
        }
        previous = await _last_hash(tx, developer_id, end_user_id)
        await _keep(tx, signer, month, developer_id, end_user_id, says, previous)
    return len(wallets)


def _wallet_figures(sums: list[tuple[int, int, int]]) -> Mapping[str, int]:
    """What a wallet's month comes to, in e8, of (code, before, moved)."""
    opening = sum(before for _, before, _ in sums)
    closing = opening + sum(moved for _, _, moved in sums)
    topped_up = sum(moved for code, _, moved in sums if code == TOP_UP_CODE)
    granted = sum(moved for code, _, moved in sums if code in GRANT_CODES)
    spent = -sum(moved for code, _, moved in sums if code < SETTLED_CODES_BELOW)
    refunded = -sum(moved for code, _, moved in sums if code in REFUND_CODES)
    return {
        "opening": opening,
        "topped_up": topped_up,
        "granted": granted,
        "spent": spent,
        "refunded": refunded,
        "adjusted": closing - opening - topped_up - granted + spent + refunded,
        "closing": closing,
    }


async def _last_hash(tx: Tx, developer_id: UUID, end_user_id: UUID | None) -> bytes | None:
    cursor = await tx.execute(
        """
        select hash from statement where developer_id = %s and end_user_id is not distinct from %s::uuid
         order by month desc limit 1
        """,
        (developer_id, end_user_id),
    )
    row = await cursor.fetchone()
    return None if row is None else bytes(row[0])


async def _keep(
    tx: Tx,
    signer: Signer,
    month: Month,
    developer_id: UUID,
    end_user_id: UUID | None,
    says: Json,
    previous: bytes | None,
) -> None:
    signed = signer.sign(says | ({} if previous is None else {"previous_sha256": previous.hex()}))
    await tx.execute(
        """
        insert into statement (id, month, developer_id, end_user_id, body, hash, signature, key_id)
        values (%s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            uuid7(),
            month.first_day,
            developer_id,
            end_user_id,
            signed.body,
            signed.hash,
            signed.signature,
            signer.key_id,
        ),
    )


# ── reading ──

_KEPT: LiteralString = """
select s.id, s.month, s.developer_id, s.end_user_id, s.body, s.hash, s.signature, k.public_key, s.created_at
  from statement s join statement_key k on k.key_id = s.key_id
"""


async def find(tx: Tx, month: Month, *, developer_id: UUID, end_user_id: UUID | None) -> Kept | None:
    """A developer's own statement of a month, or one of their end users'."""
    async with tx.cursor(row_factory=class_row(Kept)) as cursor:
        await cursor.execute(
            _KEPT + " where s.month = %s and s.developer_id = %s and s.end_user_id is not distinct from %s::uuid",
            (month.first_day, developer_id, end_user_id),
        )
        return await cursor.fetchone()


async def page(
    tx: Tx, *, developer_id: UUID | None, end_user_id: UUID | None, after: tuple[datetime, UUID] | None, limit: int
) -> list[Kept]:
    """Developers' own statements, or an end user's, those written last first."""
    async with tx.cursor(row_factory=class_row(Kept)) as cursor:
        await cursor.execute(
            _KEPT
            + """
             where s.end_user_id is not distinct from %(user)s::uuid
               and (%(developer)s::uuid is null or s.developer_id = %(developer)s::uuid)
               and (%(at)s::timestamptz is null or (s.created_at, s.id) < (%(at)s::timestamptz, %(id)s::uuid))
             order by s.created_at desc, s.id desc limit %(limit)s
            """,
            {
                "user": end_user_id,
                "developer": developer_id,
                "at": None if after is None else after[0],
                "id": None if after is None else after[1],
                "limit": limit,
            },
        )
        return await cursor.fetchall()


async def keys(tx: Tx) -> list[dict[str, Any]]:
    """Every key that ever signed, the newest first."""
    cursor = await tx.execute("select key_id, public_key, created_at from statement_key order by created_at desc")
    return [
        {"key_id": name, "public_key": bytes(public_key).hex(), "created_at": created_at}
        for name, public_key, created_at in await cursor.fetchall()
    ]
