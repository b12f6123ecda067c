"""Whole reports, row by row: usage, revenue and payouts between two moments, as batches of bounded size.

Rows come from a cursor of the server, so that a report of any length takes as much memory as one batch; all of them
are from one moment. The columns and their order are part of the wire. Amounts in e8 until they become text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, LiteralString
from uuid import UUID

from psycopg.rows import tuple_row

from faucet.kit.clock import to_iso
from faucet.kit.db import Tx
from faucet.kit.money import to_wire
from faucet.kit.spreadsheet import line, text_cell
from faucet.reports.spans import USAGE_SPAN

BATCH = 2_000

Kind = Literal["time", "text", "count", "money"]
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name on the wire and what is in it."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Export:
    """One report: its columns and the query that gives them in that order."""

    name: str
    columns: tuple[Column, ...]
    query: LiteralString

    @property
    def header(self) -> str:
        """The first line of its CSV."""
        return line(column.name for column in self.columns)


def _columns(**kinds: Kind) -> tuple[Column, ...]:
    return tuple(Column(name, kind) for name, kind in kinds.items())


USAGE = Export(
    "usage",
    _columns(
        created_at="time",
        request_id="text",
        public_app_id="text",
        feature_key="text",
        route_mode="text",
        provider="text",
        model="text",
        input_tokens="count",
        output_tokens="count",
        upstream_cost_usd="money",
        retail_price_usd="money",
        channel_revenue_usd="money",
        platform_revenue_usd="money",
    ),
    """
    select u.created_at, coalesce(u.request_id, 'req_' || replace(u.id::text, '-', '')), a.public_app_id,
           f.feature_key, (array['platform', 'developer_key', 'byok', 'local'])[u.payer + 1], u.provider, u.model,
           u.input_tokens::bigint + u.cached_read_tokens + u.cached_write_tokens, u.output_tokens,
           case when u.payer in (0, 1) then u.cost_e8 else 0 end, u.retail_e8, u.channel_e8, u.platform_e8
      from app a
      join usage_event u on u.app_id = a.id
      left join feature f on f.id = u.feature_id
     where (%(developer)s::uuid is null or a.developer_id = %(developer)s::uuid)
       and u.created_at >= %(since)s::timestamptz and u.created_at < %(until)s::timestamptz
     order by u.created_at, u.id
    """,
)
REVENUE = Export(
    "revenue",
    _columns(
        public_app_id="text",
        developer_id="text",
        developer_email="text",
        total_calls="count",
        upstream_cost_usd="money",
        retail_price_usd="money",
        channel_revenue_usd="money",
        platform_revenue_usd="money",
    ),
    "with"
    + USAGE_SPAN
    + """
    select a.public_app_id, d.id::text, d.email, sum(s.calls)::bigint,
           coalesce(sum(s.cost_e8) filter (where s.payer in (0, 1)), 0)::bigint, sum(s.retail_e8)::bigint,
           sum(s.channel_e8)::bigint, sum(s.platform_e8)::bigint
      from span s
      join app a on a.id = s.app_id
      join developer d on d.id = a.developer_id
     where %(developer)s::uuid is null or a.developer_id = %(developer)s::uuid
     group by a.id, d.id
     order by a.public_app_id
    """,
)
PAYOUTS = Export(
    "payouts",
    _columns(
        created_at="time",
        updated_at="time",
        payout_id="text",
        developer_id="text",
        developer_email="text",
        amount_usd="money",
        status="text",
        provider="text",
        provider_payout_id="text",
    ),
    """
    select p.created_at, p.updated_at, p.id::text, p.developer_id::text, d.email, p.amount_e8, p.status, p.provider,
           p.provider_payout_id
      from payout p join developer d on d.id = p.developer_id
     where (%(developer)s::uuid is null or p.developer_id = %(developer)s::uuid)
       and p.created_at >= %(since)s::timestamptz and p.created_at < %(until)s::timestamptz
     order by p.created_at, p.id
    """,
)


async def batches(
    tx: Tx, export: Export, *, developer_id: UUID | None, since: datetime | None, until: datetime | None
) -> AsyncGenerator[list[Row]]:
    """The rows of a report from `since`, included, to `until`, excluded; of all time where neither is given."""
    async with tx.cursor(name="export", row_factory=tuple_row) as cursor:
        await cursor.execute(
            export.query,
            {"developer": developer_id, "since": since or "-infinity", "until": until or "infinity"},
        )
        while rows := await cursor.fetchmany(BATCH):
            yield rows


def csv_lines(export: Export, rows: Sequence[Row]) -> list[str]:
    """The rows as lines of CSV."""
    shown = [_SHOWN[column.kind] for column in export.columns]
    return [line(show(value) for show, value in zip(shown, row, strict=True)) for row in rows]


_SHOWN: dict[Kind, Any] = {"time": to_iso, "text": text_cell, "count": str, "money": to_wire}
