"""Usage over time: answers, tokens and amounts by day or hour, as one line or by what they were for.

Only what the tx may see is counted. Amounts in e8; input tokens are all input, cached or not; the cost is that of
answers which the platform or the developer paid a provider for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.reports.spans import USAGE_SPAN

Interval = Literal["day", "hour"]
GroupBy = Literal["app", "feature", "feature_version", "model", "provider", "developer"]


@dataclass(frozen=True, slots=True)
class UsagePoint:
    """What was answered in one interval, of one group."""

    at: datetime
    developer_id: UUID | None
    public_app_id: str | None
    feature_key: str | None
    feature_version: int | None
    provider: str | None
    model: str | None
    calls: int
    input_tokens: int
    output_tokens: int
    cost_e8: int
    retail_e8: int
    channel_e8: int
    platform_e8: int


async def usage_series(
    tx: Tx,
    *,
    developer_id: UUID | None,
    app_id: UUID | None,
    since: datetime,
    until: datetime,
    interval: Interval,
    group_by: GroupBy | None,
    limit: int,
) -> list[UsagePoint]:
    """The intervals in which there was an answer, oldest first; at most `limit` of them.

    `app` groups name their app; `feature` groups their app and feature, none for answers without one;
    `feature_version` groups also which version of the feature answered.
    """
    async with tx.cursor(row_factory=class_row(UsagePoint)) as cursor:
        await cursor.execute(
            "with"
            + USAGE_SPAN
            + """
            select date_trunc(%(interval)s, s.hour, 'UTC') as at,
                   case when %(group)s = 'developer' then a.developer_id end as developer_id,
                   case when %(group)s in ('app', 'feature', 'feature_version') then a.public_app_id end
                       as public_app_id,
                   case when %(group)s in ('feature', 'feature_version') then f.feature_key end as feature_key,
                   case when %(group)s = 'feature_version' then s.feature_version end as feature_version,
                   case when %(group)s = 'provider' then s.provider end as provider,
                   case when %(group)s = 'model' then s.model end as model,
                   sum(s.calls)::bigint as calls, sum(s.input_tokens)::bigint as input_tokens,
                   sum(s.output_tokens)::bigint as output_tokens,
                   coalesce(sum(s.cost_e8) filter (where s.payer in (0, 1)), 0)::bigint as cost_e8,
                   sum(s.retail_e8)::bigint as retail_e8, sum(s.channel_e8)::bigint as channel_e8,
                   sum(s.platform_e8)::bigint as platform_e8
              from app a
              join span s on s.app_id = a.id
              left join feature f on f.id = s.feature_id and %(group)s in ('feature', 'feature_version')
             where (%(developer)s::uuid is null or a.developer_id = %(developer)s::uuid)
               and (%(app)s::uuid is null or a.id = %(app)s::uuid)
             group by 1, 2, 3, 4, 5, 6, 7
             order by 1, 2, 3, 4, 5, 6, 7
             limit %(limit)s
            """,
            {
                "interval": interval,
                "group": group_by or "",
                "developer": developer_id,
                "app": app_id,
                "since": since,
                "until": until,
                "limit": limit,
            },
        )
        return await cursor.fetchall()
