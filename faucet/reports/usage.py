"""What answers used and cost: an app's totals of all time and newest rows, and a person's own list.

Amounts in e8. Input tokens are all input, cached or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.reports.spans import USAGE_SPAN

ROWS_MAX = 100


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """Sums over all answers of an app."""

    calls: int
    input_tokens: int
    output_tokens: int
    retail_e8: int
    channel_e8: int


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One answer."""

    id: UUID
    request_id: str | None
    """The caller's own, where one was sent."""
    feature_key: str | None
    payer: int
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    retail_e8: int
    channel_e8: int
    created_at: datetime


async def app_totals(tx: Tx, app_id: UUID) -> UsageTotals:
    """What an app's answers add up to."""
    async with tx.cursor(row_factory=class_row(UsageTotals)) as cursor:
        await cursor.execute(
            "with"
            + USAGE_SPAN
            + """
            select coalesce(sum(calls), 0)::bigint as calls, coalesce(sum(input_tokens), 0)::bigint as input_tokens,
                   coalesce(sum(output_tokens), 0)::bigint as output_tokens,
                   coalesce(sum(retail_e8), 0)::bigint as retail_e8,
                   coalesce(sum(channel_e8), 0)::bigint as channel_e8
              from span where app_id = %(app)s
            """,
            {"app": app_id, "since": "-infinity", "until": "infinity"},
        )
        totals = await cursor.fetchone()
    assert totals is not None  # an aggregate always has its one row
    return totals


async def app_newest(tx: Tx, app_id: UUID, *, limit: int = ROWS_MAX) -> list[UsageRow]:
    """The newest answers of an app, newest first."""
    async with tx.cursor(row_factory=class_row(UsageRow)) as cursor:
        await cursor.execute(
            """
            select u.id, u.request_id, f.feature_key, u.payer, u.provider, u.model,
                   u.input_tokens + u.cached_read_tokens + u.cached_write_tokens as input_tokens, u.output_tokens,
                   u.retail_e8, u.channel_e8, u.created_at
              from usage_event u left join feature f on f.id = u.feature_id
             where u.app_id = %s order by u.created_at desc, u.id desc limit %s
            """,
            (app_id, min(limit, ROWS_MAX)),
        )
        return await cursor.fetchall()


@dataclass(frozen=True, slots=True)
class OwnUsageRow:
    """One answer, as the end user who asked sees it: what it cost them, and not what others earned."""

    id: UUID
    request_id: str | None
    feature_key: str | None
    payer: int
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    retail_e8: int
    usage_source: int
    outcome: int
    is_free: bool
    """Paid by the feature's free quota, and not by the wallet."""
    created_at: datetime


async def end_user_page(
    tx: Tx, end_user_id: UUID, *, limit: int, after: tuple[datetime, UUID] | None = None
) -> list[OwnUsageRow]:
    """The newest answers that an end user got, or those before the one that a caller has seen. Newest first."""
    async with tx.cursor(row_factory=class_row(OwnUsageRow)) as cursor:
        await cursor.execute(
            """
            select u.id, u.request_id, f.feature_key, u.payer, u.provider, u.model,
                   u.input_tokens + u.cached_read_tokens + u.cached_write_tokens as input_tokens, u.output_tokens,
                   u.retail_e8, u.usage_source, u.outcome, coalesce(a.label <> '', false) as is_free, u.created_at
              from usage_event u left join feature f on f.id = u.feature_id left join account a on a.id = u.wallet_id
             where u.end_user_id = %(user)s and (%(id)s::uuid is null or u.id < %(id)s)
             order by u.id desc limit %(limit)s
            """,
            {"user": end_user_id, "id": None if after is None else after[1], "limit": limit},
        )
        return await cursor.fetchall()
