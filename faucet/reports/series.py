"""Usage over time: answers, tokens and amounts by day or hour, as one line or by app, feature, its version, or model.

Only what the tx may see is counted. Amounts in e8; input tokens are all input, cached or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from psycopg.rows import class_row

from faucet.kit.db import Tx

Interval = Literal["day", "hour"]
GroupBy = Literal["app", "feature", "feature_version", "model"]


@dataclass(frozen=True, slots=True)
class UsagePoint:
    """What was answered in one interval, of one group."""

    at: datetime
    public_app_id: str | None
    feature_key: str | None
    feature_version: int | None
    model: str | None
    calls: int
    input_tokens: int
    output_tokens: int
    retail_e8: int
    channel_e8: int


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
            """
            select date_trunc(%(interval)s, u.created_at, 'UTC') as at,
                   case when %(group)s in ('app', 'feature', 'feature_version') then a.public_app_id end
                       as public_app_id,
                   case when %(group)s in ('feature', 'feature_version') then f.feature_key end as feature_key,
                   case when %(group)s = 'feature_version' then u.feature_version end as feature_version,
                   case when %(group)s = 'model' then u.model end as model,
                   count(*) as calls,
                   sum(u.input_tokens + u.cached_read_tokens + u.cached_write_tokens)::bigint as input_tokens,
                   sum(u.output_tokens)::bigint as output_tokens,
                   sum(u.retail_e8)::bigint as retail_e8,
                   sum(u.channel_e8)::bigint as channel_e8
              from app a
              join usage_event u on u.app_id = a.id and u.created_at >= %(since)s and u.created_at < %(until)s
              left join feature f on f.id = u.feature_id and %(group)s in ('feature', 'feature_version')
             where (%(developer)s::uuid is null or a.developer_id = %(developer)s::uuid)
               and (%(app)s::uuid is null or a.id = %(app)s::uuid)
             group by 1, 2, 3, 4, 5
             order by 1, 2, 3, 4, 5
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
