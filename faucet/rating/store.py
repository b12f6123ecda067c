"""The SQL of the price table, one statement per function.

Here: reading price versions, adding drafts, deciding over drafts. A version is never edited: a decision is
taken once, and a new price is a new row. Not here: what a price means (`price`) and where drafts come from
(`seed`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import class_row, kwargs_row
from psycopg.types.json import Jsonb

from faucet.rating.price import Price, PriceStatus, Tier

Decision = Literal["confirmed", "rejected"]


@dataclass(frozen=True, slots=True)
class PriceRow:
    """A version with what was decided about it. Amounts in e8, per million tokens where they are for tokens."""

    id: int
    provider: str
    model: str
    tokenizer: str
    context_window: int
    max_output_tokens: int
    input_e8_per_m: int
    cached_read_e8_per_m: int
    cached_write_e8_per_m: int
    output_e8_per_m: int
    reasoning_e8_per_m: int | None
    request_e8: int
    image_tokens_max: int
    tiers: list[dict[str, int]]
    status: str
    effective_from: datetime
    source: str
    created_at: datetime
    decided_at: datetime | None
    decided_by: str | None


def _price(*, tiers: list[dict[str, int]], **columns: Any) -> Price:
    return Price(**columns, tiers=tuple(Tier(**tier) for tier in tiers))


def _columns(row: Price) -> dict[str, Any]:
    tiers = [{name: value for name, value in asdict(tier).items() if value is not None} for tier in row.tiers]
    return asdict(row) | {"tiers": Jsonb(tiers)}


async def load_confirmed(tx: AsyncConnection[Any]) -> list[Price]:
    """Every confirmed version, those that are not yet in force included: what a `PriceBook` is built from."""
    async with tx.cursor(row_factory=kwargs_row(_price)) as cursor:
        await cursor.execute(
            """
            select id, provider, model, tokenizer, context_window, max_output_tokens, input_e8_per_m,
                   cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m, reasoning_e8_per_m,
                   request_e8, image_tokens_max, tiers, effective_from, source, status
              from price
             where status = 'confirmed'
             order by provider, model, effective_from, id
            """
        )
        return await cursor.fetchall()


async def list_prices(
    tx: AsyncConnection[Any],
    *,
    status: PriceStatus | None = None,
    provider: str | None = None,
    limit: int,
    offset: int,
) -> list[Price]:
    """One page of versions, newest first within provider and model."""
    async with tx.cursor(row_factory=kwargs_row(_price)) as cursor:
        await cursor.execute(
            """
            select id, provider, model, tokenizer, context_window, max_output_tokens, input_e8_per_m,
                   cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m, reasoning_e8_per_m,
                   request_e8, image_tokens_max, tiers, effective_from, source, status
              from price
             where (%(status)s::text is null or status = %(status)s::text)
               and (%(provider)s::text is null or provider = %(provider)s::text)
             order by provider, model, effective_from desc, id desc
             limit %(limit)s offset %(offset)s
            """,
            {"status": status, "provider": provider, "limit": limit, "offset": offset},
        )
        return await cursor.fetchall()


_ROW: LiteralString = """
select id, provider, model, tokenizer, context_window, max_output_tokens, input_e8_per_m, cached_read_e8_per_m,
       cached_write_e8_per_m, output_e8_per_m, reasoning_e8_per_m, request_e8, image_tokens_max, tiers, status,
       effective_from, source, created_at, decided_at, decided_by
  from price
"""


async def page_prices(
    tx: AsyncConnection[Any],
    *,
    status: PriceStatus | None,
    provider: str | None,
    model: str | None,
    before_id: int | None,
    limit: int,
) -> list[PriceRow]:
    """Versions, newest first, older than the one with this id."""
    async with tx.cursor(row_factory=class_row(PriceRow)) as cursor:
        await cursor.execute(
            _ROW
            + """
             where (%(status)s::text is null or status = %(status)s::text)
               and (%(provider)s::text is null or provider = %(provider)s::text)
               and (%(model)s::text is null or model = %(model)s::text)
               and (%(before)s::bigint is null or id < %(before)s::bigint)
             order by id desc limit %(limit)s
            """,
            {"status": status, "provider": provider, "model": model, "before": before_id, "limit": limit},
        )
        return await cursor.fetchall()


async def find_price(tx: AsyncConnection[Any], price_id: int) -> PriceRow | None:
    """One version."""
    async with tx.cursor(row_factory=class_row(PriceRow)) as cursor:
        await cursor.execute(_ROW + " where id = %s", (price_id,))
        return await cursor.fetchone()


async def insert_drafts(tx: AsyncConnection[Any], rows: Iterable[Price]) -> int:
    """Add drafts and say how many were new.

    A row that says what the version before it already says, whatever was decided about that one, is not
    added: an import can be repeated, and a person is not asked twice. Nor is one for a moment that already
    has a version.
    """
    async with tx.cursor() as cursor:
        await cursor.executemany(
            """
            insert into price (provider, model, tokenizer, context_window, max_output_tokens, input_e8_per_m,
                               cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m,
                               reasoning_e8_per_m, request_e8, image_tokens_max, tiers, status,
                               effective_from, source)
            select %(provider)s::text, %(model)s::text, %(tokenizer)s::text, %(context_window)s::int,
                   %(max_output_tokens)s::int, %(input_e8_per_m)s::bigint, %(cached_read_e8_per_m)s::bigint,
                   %(cached_write_e8_per_m)s::bigint, %(output_e8_per_m)s::bigint,
                   %(reasoning_e8_per_m)s::bigint, %(request_e8)s::bigint, %(image_tokens_max)s::int,
                   %(tiers)s::jsonb, 'draft', %(effective_from)s::timestamptz, %(source)s::text
             where not exists (
                   select 1
                     from (select tokenizer, context_window, max_output_tokens, input_e8_per_m,
                                  cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m,
                                  reasoning_e8_per_m, request_e8, image_tokens_max, tiers
                             from price
                            where provider = %(provider)s::text
                              and model = %(model)s::text
                              and effective_from <= %(effective_from)s::timestamptz
                            order by effective_from desc, id desc
                            limit 1) as before
                    where before.tokenizer = %(tokenizer)s::text
                      and before.context_window = %(context_window)s::int
                      and before.max_output_tokens = %(max_output_tokens)s::int
                      and before.input_e8_per_m = %(input_e8_per_m)s::bigint
                      and before.cached_read_e8_per_m = %(cached_read_e8_per_m)s::bigint
                      and before.cached_write_e8_per_m = %(cached_write_e8_per_m)s::bigint
                      and before.output_e8_per_m = %(output_e8_per_m)s::bigint
                      and before.reasoning_e8_per_m is not distinct from %(reasoning_e8_per_m)s::bigint
                      and before.request_e8 = %(request_e8)s::bigint
                      and before.image_tokens_max = %(image_tokens_max)s::int
                      and before.tiers = %(tiers)s::jsonb)
            on conflict (provider, model, effective_from) do nothing
            """,
            # In order of time, so that each row sees the version before it.
            [_columns(row) for row in sorted(rows, key=lambda row: row.effective_from)],
        )
        return max(cursor.rowcount, 0)


async def decide(tx: AsyncConnection[Any], price_ids: Sequence[int], *, status: Decision, actor: str) -> int:
    """Confirm or reject these drafts and say how many were still drafts; a decision is never taken back."""
    async with tx.cursor() as cursor:
        await cursor.execute(
            """
            update price
               set status = %(status)s, decided_at = now(), decided_by = %(actor)s
             where id = any(%(price_ids)s::bigint[])
               and status = 'draft'
            """,
            {"status": status, "actor": actor, "price_ids": list(price_ids)},
        )
        return cursor.rowcount


async def decide_model(tx: AsyncConnection[Any], provider: str, model: str, *, status: Decision, actor: str) -> int:
    """Confirm or reject all drafts of one provider's model and say how many there were."""
    async with tx.cursor() as cursor:
        await cursor.execute(
            """
            update price
               set status = %(status)s, decided_at = now(), decided_by = %(actor)s
             where provider = %(provider)s
               and model = %(model)s
               and status = 'draft'
            """,
            {"status": status, "actor": actor, "provider": provider, "model": model},
        )
        return cursor.rowcount
