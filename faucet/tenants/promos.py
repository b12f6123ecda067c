"""Promo codes: made by operators, redeemed by end users for credit in their wallets, each once, up to a cap in all.

The row of a code is the lock: redemptions of one code come one after another, so the cap holds whatever the race. An
answer doesn't tell a code that isn't there from one that has expired, is used up, is switched off or is another app's.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from psycopg.errors import UniqueViolation
from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.kit.errors import InvariantBroken, Refusal
from faucet.kit.ids import uuid7
from faucet.ledger import moves, statement
from faucet.ledger.statement import Wallet

CODE = re.compile(r"[A-Z0-9-]{4,40}")
MADE_UP_CHARACTERS = 16
_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""Without what looks alike; 16 of these are 80 bits."""


@dataclass(frozen=True, slots=True)
class Promo:
    """A code, with how often it was redeemed."""

    id: UUID
    code: str
    amount_e8: int
    redemptions: int
    redemptions_max: int
    public_app_id: str | None
    """The app whose end users may redeem it; None: everybody's."""
    expires_at: datetime | None
    disabled_at: datetime | None
    created_by: str
    created_at: datetime

    def status(self, now: datetime) -> str:
        """`disabled`, `expired`, `used_up` or `active`."""
        if self.disabled_at is not None:
            return "disabled"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "used_up" if self.redemptions >= self.redemptions_max else "active"


_PROMO: LiteralString = """
select p.id, p.code, p.amount_e8, p.redemptions, p.redemptions_max, a.public_app_id, p.expires_at, p.disabled_at,
       p.created_by, p.created_at
  from promo_code p left join app a on a.id = p.app_id
"""


def made_up_code() -> str:
    """A code that nobody guesses, in four groups."""
    letters = "".join(secrets.choice(_ALPHABET) for _ in range(MADE_UP_CHARACTERS))
    return "-".join(letters[place : place + 4] for place in range(0, MADE_UP_CHARACTERS, 4))


async def create(
    tx: Tx,
    *,
    code: str,
    amount_e8: int,
    redemptions_max: int,
    public_app_id: str | None,
    expires_at: datetime | None,
    created_by: str,
) -> Promo:
    """A new code. Raises Refusal `conflict` for one that was there before, `invalid_app`."""
    promo_id = uuid7()
    app_id, developer_id = None, None
    if public_app_id is not None:
        cursor = await tx.execute("select id, developer_id from app where public_app_id = %s", (public_app_id,))
        row = await cursor.fetchone()
        if row is None:
            raise Refusal("invalid_app", "there is no app with this public_app_id")
        app_id, developer_id = row
    try:
        await tx.execute(
            "insert into promo_code (id, code, amount_e8, redemptions_max, app_id, developer_id, expires_at,"
            " created_by) values (%s, %s, %s, %s, %s, %s, %s, %s)",
            (promo_id, code, amount_e8, redemptions_max, app_id, developer_id, expires_at, created_by),
        )
    except UniqueViolation:
        raise Refusal("conflict", "there is a promo code with these letters already", param="code") from None
    return await find(tx, promo_id)


async def find(tx: Tx, promo_id: UUID) -> Promo:
    """One code. Raises Refusal `not_found`."""
    async with tx.cursor(row_factory=class_row(Promo)) as cursor:
        await cursor.execute(_PROMO + " where p.id = %s", (promo_id,))
        promo = await cursor.fetchone()
    if promo is None:
        raise Refusal("not_found", "there is no such promo code")
    return promo


async def page(tx: Tx, *, after: tuple[datetime, UUID] | None, limit: int) -> list[Promo]:
    """Codes, newest first."""
    at, after_id = after or (None, None)
    async with tx.cursor(row_factory=class_row(Promo)) as cursor:
        await cursor.execute(
            _PROMO
            + """
             where %(at)s::timestamptz is null or (p.created_at, p.id) < (%(at)s::timestamptz, %(id)s::uuid)
             order by p.created_at desc, p.id desc limit %(limit)s
            """,
            {"at": at, "id": after_id, "limit": limit},
        )
        return await cursor.fetchall()


async def disable(tx: Tx, promo_id: UUID, *, now: datetime) -> bool:
    """End a code; what it gave stays. Says whether it was on."""
    cursor = await tx.execute(
        "update promo_code set disabled_at = %s where id = %s and disabled_at is null", (now, promo_id)
    )
    return cursor.rowcount == 1


@dataclass(frozen=True, slots=True)
class Redeemed:
    """What a redemption gave, and the wallet after it."""

    promo_id: UUID
    code: str
    amount_e8: int
    wallet: Wallet


async def redeem(tx: Tx, code: str, *, end_user_id: UUID, app_id: UUID, developer_id: UUID, now: datetime) -> Redeemed:
    """Credit an end user's wallet with what a code is worth.

    Raises Refusal `not_found` for a code that isn't good for this end user, in the same words whatever the reason, and
    `conflict` where they have redeemed it before.
    """
    code = code.strip().upper()
    if not CODE.fullmatch(code):
        raise _unknown()
    # A look without the lock first: a wrong guess makes nobody wait.
    cursor = await tx.execute(
        "select id from promo_code where code = %s and (app_id is null or app_id = %s) and disabled_at is null"
        " and (expires_at is null or expires_at > %s)",
        (code, app_id, now),
    )
    found = await cursor.fetchone()
    if found is None:
        raise _unknown()
    cursor = await tx.execute(
        "select 1 from promo_redemption where promo_code_id = %s and end_user_id = %s", (found[0], end_user_id)
    )
    if await cursor.fetchone() is not None:
        raise _redeemed_before()
    cursor = await tx.execute(
        "update promo_code set redemptions = redemptions + 1"
        " where id = %s and disabled_at is null and redemptions < redemptions_max returning amount_e8, code",
        (found[0],),
    )
    row = await cursor.fetchone()
    if row is None:
        raise _unknown()
    return await _credit(
        tx, found[0], row[1], row[0], end_user_id=end_user_id, app_id=app_id, developer_id=developer_id
    )


async def _credit(
    tx: Tx, promo_id: UUID, code: str, amount_e8: int, *, end_user_id: UUID, app_id: UUID, developer_id: UUID
) -> Redeemed:
    wallet = await statement.wallet_of_end_user(tx, end_user_id)
    if wallet is None:
        raise InvariantBroken(f"the end user {end_user_id} has a session but no wallet")
    cursor = await tx.execute(
        "insert into promo_redemption (promo_code_id, end_user_id, developer_id, app_id, wallet_id, amount_e8)"
        " values (%s, %s, %s, %s, %s, %s) on conflict do nothing",
        (promo_id, end_user_id, developer_id, app_id, wallet.id, amount_e8),
    )
    if cursor.rowcount == 0:
        raise _redeemed_before()  # at the same moment; the count goes back with this tx
    await moves.grant(
        tx, wallet.id, amount_e8, key=f"promo:{promo_id}:{end_user_id}", memo=f"Promo code {code}; {promo_id}"
    )
    after = await statement.wallet(tx, wallet.id)
    assert after is not None  # accounts are never deleted
    return Redeemed(promo_id, code, amount_e8, after)


def _unknown() -> Refusal:
    return Refusal("not_found", "this code can't be redeemed", param="code")


def _redeemed_before() -> Refusal:
    return Refusal("conflict", "you have redeemed this code already", param="code")
