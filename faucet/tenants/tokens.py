"""Developers' tokens `mf_dev_…`: what a developer's programs show to the control API, with the scopes of each.

A token is shown once and stored as its SHA-256 (it has 256 random bits, so a plain hash can't be guessed back).
None can make one that may do more than itself.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import LiteralString
from uuid import UUID

from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.kit.errors import Refusal, field_error
from faucet.kit.ids import uuid7
from faucet.kit.secret import Secret

TOKEN_PREFIX = "mf_dev_"
SHOWN_CHARACTERS = 15
"""So much of a token stays readable, to tell one from another."""
LAST_USED_COARSE = timedelta(seconds=60)

SCOPES = (
    "developer:apps:read",
    "developer:apps:write",
    "developer:features:read",
    "developer:features:write",
    "developer:provider_keys:read",
    "developer:provider_keys:write",
    "developer:tokens:read",
    "developer:tokens:write",
    "developer:operations:read",
    "developer:usage:read",
    "developer:payouts:write",
    "developer:webhooks:read",
    "developer:webhooks:write",
)
"""Everything that a token may be allowed."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token as its row has it, with its developer's name."""

    id: UUID
    developer_id: UUID
    developer_name: str
    developer_email: str
    developer_status: str
    name: str
    token_prefix: str
    scopes: list[str]
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None

    def status(self, now: datetime) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


_TOKEN: LiteralString = """
select t.id, t.developer_id, d.name as developer_name, d.email as developer_email, d.status as developer_status,
       t.name, t.token_prefix, t.scopes, t.created_at, t.updated_at, t.last_used_at, t.expires_at, t.revoked_at
  from developer_token t join developer d on d.id = t.developer_id
"""


def token_hash(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).digest()


async def mint(
    tx: Tx,
    *,
    developer_id: UUID,
    name: str,
    scopes: Sequence[str],
    allowed: Collection[str] | None,
    expires_at: datetime | None,
    ends_by: datetime | None = None,
    created_by: str,
    now: datetime,
) -> tuple[Secret, Token]:
    """A new token, and the only time that it is known. `allowed` are its maker's scopes, None for staff.

    `ends_by` is when its maker ends; unless sooner, the new one ends then, too. Raises Refusal `forbidden` for a scope
    that the maker lacks or a later end, and `invalid_request` for an expiry that is past.
    """
    lacking = [] if allowed is None else [scope for scope in scopes if scope not in allowed]
    if lacking:
        raise Refusal("forbidden", f"a token can't give scopes that it lacks: {', '.join(lacking)}")
    if expires_at is not None and expires_at <= now:
        raise field_error("expires_at", "must be in the future")
    if ends_by is not None and expires_at is not None and expires_at > ends_by:
        raise Refusal("forbidden", "a token can't give more time than it has itself")
    text = TOKEN_PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    token_id = uuid7()
    await tx.execute(
        """
        insert into developer_token (id, developer_id, name, token_hash, token_prefix, scopes, created_by,
                                     created_at, updated_at, expires_at)
        values (%(id)s, %(developer)s, %(name)s, %(hash)s, %(prefix)s, %(scopes)s, %(by)s, %(now)s, %(now)s, %(end)s)
        """,
        {
            "id": token_id,
            "developer": developer_id,
            "name": name,
            "hash": token_hash(text),
            "prefix": text[:SHOWN_CHARACTERS],
            "scopes": [scope for scope in SCOPES if scope in scopes],
            "by": created_by,
            "now": now,
            "end": expires_at or ends_by,
        },
    )
    token = await find(tx, token_id)
    assert token is not None  # this tx has just added it
    return Secret(text), token


async def makers(tx: Tx, token_id: UUID) -> frozenset[str]:
    """Who made a token, and who made the tokens that it was made with."""
    cursor = await tx.execute(
        """
        with recursive made as (
            select created_by from developer_token where id = %s
            union select t.created_by from made join developer_token t on made.created_by = 'developer_token:' || t.id
        ) select created_by from made
        """,
        (token_id,),
    )
    return frozenset(row[0] for row in await cursor.fetchall())


async def resolve(tx: Tx, text: str, *, now: datetime) -> Token:
    """The token that this text is, in force. Raises Refusal `invalid_session`, `expired_session`, `disabled`."""
    wanted = token_hash(text)
    cursor = await tx.execute("select id, token_hash from developer_token where token_hash = %s", (wanted,))
    row = await cursor.fetchone()
    token = None if row is None or not hmac.compare_digest(bytes(row[1]), wanted) else await find(tx, row[0])
    if token is None:
        raise Refusal("invalid_session", "the developer token is not known")
    match token.status(now):
        case "revoked":
            raise Refusal("invalid_session", "the developer token was revoked")
        case "expired":
            raise Refusal("expired_session", "the developer token has expired")
    if token.developer_status != "active":
        raise Refusal("disabled", "this developer is switched off")
    return token


async def touch(tx: Tx, token: Token, *, now: datetime) -> None:
    """Remember that the token was used, to the minute, so that most requests write nothing."""
    if token.last_used_at is not None and token.last_used_at > now - LAST_USED_COARSE:
        return
    await tx.execute(
        "update developer_token set last_used_at = %(now)s where id = %(id)s"
        " and (last_used_at is null or last_used_at <= %(old)s)",
        {"now": now, "id": token.id, "old": now - LAST_USED_COARSE},
    )


async def find(tx: Tx, token_id: UUID) -> Token | None:
    """The token with this id, whatever its state."""
    async with tx.cursor(row_factory=class_row(Token)) as cursor:
        await cursor.execute(_TOKEN + " where t.id = %s", (token_id,))
        return await cursor.fetchone()


async def page(tx: Tx, *, developer_id: UUID | None, after: tuple[datetime, UUID] | None, limit: int) -> list[Token]:
    """Tokens of one developer or of all, newest first, from a place in the list."""
    at, after_id = after or (None, None)
    async with tx.cursor(row_factory=class_row(Token)) as cursor:
        await cursor.execute(
            _TOKEN
            + """
             where (%(developer)s::uuid is null or t.developer_id = %(developer)s::uuid)
               and (%(at)s::timestamptz is null or (t.created_at, t.id) < (%(at)s::timestamptz, %(id)s::uuid))
             order by t.created_at desc, t.id desc limit %(limit)s
            """,
            {"developer": developer_id, "at": at, "id": after_id, "limit": limit},
        )
        return await cursor.fetchall()


async def revoke(tx: Tx, token_id: UUID, *, now: datetime) -> bool:
    """End a token for good and say whether it was still running."""
    cursor = await tx.execute(
        "update developer_token set revoked_at = %(now)s, updated_at = %(now)s"
        " where id = %(id)s and revoked_at is null",
        {"now": now, "id": token_id},
    )
    return cursor.rowcount == 1
