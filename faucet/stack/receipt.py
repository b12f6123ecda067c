"""What the books say of one answer: its usage event, the price it was rated with, and its transfers. Reads only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.kit.errors import FaucetError

_OURS = re.compile(r"req_([0-9a-f]{32})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One answer, paid. Amounts in e8."""

    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    is_counted: bool
    """The provider did not say how many tokens there were."""
    input_e8_per_m: int
    output_e8_per_m: int
    retail_e8: int
    cost_e8: int
    channel_e8: int
    platform_e8: int
    transfers: int


async def receipt_of(tx: Tx, request_id: str) -> Receipt:
    """The receipt of a request that has one of our own ids. Raises FaucetError where nothing was booked for it."""
    match = _OURS.fullmatch(request_id)
    async with tx.cursor(row_factory=class_row(Receipt)) as cursor:
        await cursor.execute(
            """
            select u.provider, u.model, u.input_tokens + u.cached_read_tokens + u.cached_write_tokens as input_tokens,
                   u.output_tokens, u.usage_source = 1 as is_counted, p.input_e8_per_m, p.output_e8_per_m,
                   u.retail_e8, u.cost_e8, u.channel_e8, u.platform_e8,
                   (select count(*) from transfer t where t.event_id = u.id) as transfers
              from usage_event u join price p on p.id = u.price_id
             where u.id = %s
            """,
            (UUID(match[1]) if match else None,),
        )
        found = await cursor.fetchone()
    if found is None:
        raise FaucetError(f"nothing was booked for the request {request_id}")
    return found
