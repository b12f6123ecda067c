"""Usage between two moments, from hours that were added up and from events where those don't reach.

An hour that is added up is final: no usage event comes into it any more. So whole hours before `rolled_until` come
from `usage_hour` and the rest from `usage_event`, in one statement, which sees one moment of both.
"""

from __future__ import annotations

from typing import LiteralString

USAGE_SPAN: LiteralString = """
    bound as (
        select case when r.upper > r.lower then r.lower else %(until)s::timestamptz end as lower,
               case when r.upper > r.lower then r.upper else %(until)s::timestamptz end as upper
          from (select date_trunc('hour', %(since)s::timestamptz + interval '1 hour' - interval '1 microsecond', 'UTC')
                           as lower,
                       least(date_trunc('hour', %(until)s::timestamptz, 'UTC'), rolled_until) as upper
                  from usage_rolled) r
    ), span as (
        select h.hour, h.developer_id, h.app_id, h.feature_id, h.feature_version, h.provider, h.model, h.payer,
               h.calls, h.input_tokens, h.output_tokens, h.cost_e8, h.retail_e8, h.channel_e8, h.platform_e8
          from usage_hour h
         where h.hour >= (select lower from bound) and h.hour < (select upper from bound)
        union all
        select u.created_at, u.developer_id, u.app_id, u.feature_id, u.feature_version, u.provider, u.model, u.payer,
               1, u.input_tokens::bigint + u.cached_read_tokens + u.cached_write_tokens, u.output_tokens,
               u.cost_e8, u.retail_e8, u.channel_e8, u.platform_e8
          from usage_event u
         where u.created_at >= %(since)s::timestamptz and u.created_at < (select lower from bound)
        union all
        select u.created_at, u.developer_id, u.app_id, u.feature_id, u.feature_version, u.provider, u.model, u.payer,
               1, u.input_tokens::bigint + u.cached_read_tokens + u.cached_write_tokens, u.output_tokens,
               u.cost_e8, u.retail_e8, u.channel_e8, u.platform_e8
          from usage_event u
         where u.created_at >= (select upper from bound) and u.created_at < %(until)s::timestamptz
    )
"""
"""The CTEs `bound` and `span`, with the parameters `since` (included) and `until` (excluded)."""
