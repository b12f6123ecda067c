"""What providers say that the platform used, as rows: by day and model, to be held against what we booked.

An invoice is imported once under its reference; one that was wrong is withdrawn and stays to be seen. What of it
differs from the books is for the reconciliation (`reports`) to say.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import LiteralString, NamedTuple
from uuid import UUID

from psycopg.errors import UniqueViolation
from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.kit.errors import Refusal
from faucet.kit.ids import uuid7
from faucet.kit.money import from_wire

COLUMNS = ("day", "model", "amount_usd")
LINES_MAX = 10_000
DAYS_MAX = 400


class InvoiceLine(NamedTuple):
    """What one model cost on one day, in UTC."""

    day: date
    model: str
    amount_e8: int


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice that was imported. Amounts in e8."""

    id: UUID
    provider: str
    reference: str
    first_day: date
    last_day: date
    imported_by: str
    imported_at: datetime
    withdrawn_at: datetime | None
    lines: int
    total_e8: int


class SheetRefused(ValueError):
    """A file that is no invoice; the text names the line."""


def read_sheet(lines: Iterable[str]) -> list[InvoiceLine]:
    """The lines of a CSV with the columns `day`, `model` and `amount_usd`; others are passed over.

    Raises SheetRefused.
    """
    reader = csv.DictReader(lines)
    try:
        return _read_rows(reader)
    except csv.Error as error:
        raise SheetRefused(f"line {reader.line_num or 1}: {error}") from None


def _read_rows(reader: csv.DictReader[str]) -> list[InvoiceLine]:
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise SheetRefused(f"line 1 lacks the columns {', '.join(missing)}")
    found = []
    for row in reader:
        day, model, amount = (row[name] for name in COLUMNS)
        try:
            if not model or not model.strip():
                raise ValueError("names no model")
            found.append(InvoiceLine(date.fromisoformat(day or ""), model.strip(), from_wire((amount or "").strip())))
        except ValueError as error:
            raise SheetRefused(f"line {reader.line_num}: {error}") from None
    if not found:
        raise SheetRefused("there is no line")
    return found


_INVOICES: LiteralString = """
select i.id, i.provider, i.reference, i.first_day, i.last_day, i.imported_by, i.imported_at, i.withdrawn_at,
       (select count(*) from provider_invoice_line l where l.invoice_id = i.id) as lines,
       (select coalesce(sum(l.amount_e8), 0)::bigint from provider_invoice_line l where l.invoice_id = i.id) as total_e8
  from provider_invoice i
"""


async def find(tx: Tx, invoice_id: UUID) -> Invoice | None:
    """One invoice."""
    async with tx.cursor(row_factory=class_row(Invoice)) as cursor:
        await cursor.execute(_INVOICES + " where i.id = %s", (invoice_id,))
        return await cursor.fetchone()


async def page(tx: Tx, *, after: tuple[datetime, UUID] | None, limit: int) -> list[Invoice]:
    """Invoices, those that were imported last first."""
    at, after_id = after or (None, None)
    async with tx.cursor(row_factory=class_row(Invoice)) as cursor:
        await cursor.execute(
            _INVOICES
            + """
             where %(at)s::timestamptz is null or (i.imported_at, i.id) < (%(at)s::timestamptz, %(id)s::uuid)
             order by i.imported_at desc, i.id desc limit %(limit)s
            """,
            {"at": at, "id": after_id, "limit": limit},
        )
        return await cursor.fetchall()


async def keep(
    tx: Tx,
    *,
    provider: str,
    reference: str,
    first_day: date,
    last_day: date,
    lines: Sequence[InvoiceLine],
    by: str,
) -> Invoice:
    """Import an invoice over these days. Lines of the same day and model are added up.

    Raises Refusal `conflict` where the provider has one of this reference already.
    """
    invoice_id = uuid7()
    sums: dict[tuple[date, str], int] = {}
    for day, model, amount_e8 in lines:
        sums[day, model] = sums.get((day, model), 0) + amount_e8
    try:
        await tx.execute(
            """
            insert into provider_invoice (id, provider, reference, first_day, last_day, imported_by)
            values (%s, %s, %s, %s, %s, %s)
            """,
            (invoice_id, provider, reference, first_day, last_day, by),
        )
    except UniqueViolation:
        raise Refusal("conflict", "this invoice was imported already; withdraw it to import it anew") from None
    async with tx.cursor() as cursor:
        await cursor.executemany(
            "insert into provider_invoice_line (invoice_id, day, model, amount_e8) values (%s, %s, %s, %s)",
            [(invoice_id, day, model, amount_e8) for (day, model), amount_e8 in sums.items()],
        )
    kept = await find(tx, invoice_id)
    assert kept is not None  # it was inserted in this tx
    return kept


async def withdraw(tx: Tx, invoice_id: UUID, *, now: datetime) -> Invoice | None:
    """Take an invoice out of the comparison; None where there is none that is in it."""
    cursor = await tx.execute(
        "update provider_invoice set withdrawn_at = %s where id = %s and withdrawn_at is null", (now, invoice_id)
    )
    return None if cursor.rowcount == 0 else await find(tx, invoice_id)
