"""What an operator or developer looks at first: wallets as they changed last, and the audit log.

Only what the tx may see is read. Amounts in e8.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from faucet.kit.db import Tx


@dataclass(frozen=True, slots=True)
class WalletRow:
    """A wallet of an end user, or the earnings of a developer."""

    id: UUID
    owner_scope: str
    owner_id: UUID
    owner_name: str | None
    """The developer's; end users have none."""
    posted_e8: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One thing that somebody did."""

    id: UUID
    developer_id: UUID | None
    actor_scope: str
    actor_id: str | None
    action: str
    resource_type: str
    resource_id: str | None
    request_id: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """What rows of the log are wanted; None does not matter."""

    developer_id: UUID | None = None
    actor_scope: str | None = None
    actor_id: str | None = None
    action: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def newest_wallets(tx: Tx, *, developer_id: UUID | None, limit: int) -> list[WalletRow]:
    """The wallets and earnings that changed last."""
    async with tx.cursor(row_factory=class_row(WalletRow)) as cursor:
        await cursor.execute(
            """
            select a.public_id as id, case a.kind when 'wallet' then 'end_user' else 'developer' end as owner_scope,
                   coalesce(a.owner_id, a.developer_id) as owner_id,
                   case a.kind when 'earnings' then d.name end as owner_name, a.posted_e8, a.updated_at
              from account a join developer d on d.id = a.developer_id
             where a.kind in ('wallet', 'earnings') and a.label = ''
               and (%(developer)s::uuid is null or a.developer_id = %(developer)s::uuid)
             order by a.updated_at desc, a.id desc limit %(limit)s
            """,
            {"developer": developer_id, "limit": limit},
        )
        return await cursor.fetchall()


async def search_audit(
    tx: Tx, wanted: AuditFilter, *, after: tuple[datetime, UUID] | None, limit: int
) -> list[AuditRow]:
    """The log's rows that fit, newest first, from a place in the list."""
    at, after_id = after or (None, None)
    async with tx.cursor(row_factory=class_row(AuditRow)) as cursor:
        await cursor.execute(
            """
            select id, developer_id, actor_scope, actor_id, action, resource_type, resource_id, request_id,
                   before, after, created_at
              from audit_log
             where (%(developer_id)s::uuid is null or developer_id = %(developer_id)s::uuid)
               and (%(actor_scope)s::text is null or actor_scope = %(actor_scope)s::text)
               and (%(actor_id)s::text is null or actor_id = %(actor_id)s::text)
               and (%(action)s::text is null or action = %(action)s::text)
               and (%(resource_type)s::text is null or resource_type = %(resource_type)s::text)
               and (%(resource_id)s::text is null or resource_id = %(resource_id)s::text)
               and (%(request_id)s::text is null or request_id = %(request_id)s::text)
               and (%(since)s::timestamptz is null or created_at >= %(since)s::timestamptz)
               and (%(until)s::timestamptz is null or created_at < %(until)s::timestamptz)
               and (%(at)s::timestamptz is null or (created_at, id) < (%(at)s::timestamptz, %(id)s::uuid))
             order by created_at desc, id desc limit %(limit)s
            """,
            {
                "developer_id": wanted.developer_id,
                "actor_scope": wanted.actor_scope,
                "actor_id": wanted.actor_id,
                "action": wanted.action,
                "resource_type": wanted.resource_type,
                "resource_id": wanted.resource_id,
                "request_id": wanted.request_id,
                "since": wanted.since,
                "until": wanted.until,
                "at": at,
                "id": after_id,
                "limit": limit,
            },
        )
        return await cursor.fetchall()
