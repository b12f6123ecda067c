"""Invoices of providers, as the operator imports them, to be held against the books."""

from __future__ import annotations

from datetime import date
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema

from faucet.api.auth import TheOperator
from faucet.api.developer_wire import stored_text
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.operator_wire import ProviderName
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.trail import Trail
from faucet.api.wire import Ask, Moment, Reply, Usd
from faucet.api.world import TheRequestId, TheWorld
from faucet.closing import invoices
from faucet.closing.invoices import DAYS_MAX, LINES_MAX, Invoice, InvoiceLine
from faucet.kit.errors import Refusal, field_error
from faucet.kit.money import from_wire

router = APIRouter(tags=["operator: invoices"])


def _day(value: object) -> date:
    if not isinstance(value, str) or len(value) != len("2026-10-31"):
        raise ValueError("must be a day such as 2026-10-31")
    try:
        day = date.fromisoformat(value)
    except ValueError:
        raise ValueError("must be a day such as 2026-10-31") from None
    if not 2000 <= day.year < 3000:
        raise ValueError("must be in the years 2000 to 2999")
    return day


def _billed(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return from_wire(value)


Day = Annotated[date, BeforeValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]
Billed = Annotated[
    int,
    BeforeValidator(_billed),
    WithJsonSchema({"type": "string", "pattern": r"^(0|[1-9]\d*)(\.\d{1,8})?$", "examples": ["12.34"]}),
]
Short = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(stored_text)]


class InvoiceLineAsk(Ask):
    day: Day
    model: Annotated[Short, Field(examples=["gpt-4.1-mini"])]
    amount_usd: Billed


class InvoiceAsk(Ask):
    """What a provider billed, by day and model. Days without a line were billed nothing."""

    provider: ProviderName
    reference: Annotated[Short, Field(examples=["INV-2026-10"])]
    first_day: Day
    last_day: Day
    lines: Annotated[list[InvoiceLineAsk], Field(max_length=LINES_MAX)]


class InvoiceItem(Reply):
    id: UUID
    provider: str
    reference: str
    first_day: date
    last_day: date
    lines: int
    total_usd: Usd
    imported_by: str
    imported_at: Moment
    withdrawn_at: Moment | None = None


def _item(invoice: Invoice) -> InvoiceItem:
    return InvoiceItem(
        id=invoice.id,
        provider=invoice.provider,
        reference=invoice.reference,
        first_day=invoice.first_day,
        last_day=invoice.last_day,
        lines=invoice.lines,
        total_usd=invoice.total_e8,
        imported_by=invoice.imported_by,
        imported_at=invoice.imported_at,
        withdrawn_at=invoice.withdrawn_at,
    )


@router.post("/v1/admin/provider-invoices", status_code=201, response_model=InvoiceItem)
async def import_invoice(
    body: InvoiceAsk,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Import what a provider billed the platform, to be compared with what was booked, by day and model.

    All answers of the days between `first_day` and `last_day`, in UTC, that the platform paid the provider for should
    be in it.
    """
    if not body.first_day <= body.last_day:
        raise field_error("last_day", "must not be before first_day")
    if (body.last_day - body.first_day).days >= DAYS_MAX:
        raise field_error("last_day", f"is more than {DAYS_MAX} days after first_day")
    for number, line in enumerate(body.lines):
        if not body.first_day <= line.day <= body.last_day:
            raise field_error(f"lines.{number}.day", "is not between first_day and last_day")

    async def act(t: TenantTx) -> InvoiceItem:
        kept = await invoices.keep(
            t,
            provider=body.provider,
            reference=body.reference,
            first_day=body.first_day,
            last_day=body.last_day,
            lines=[InvoiceLine(line.day, line.model, line.amount_usd) for line in body.lines],
            by=str(caller.actor),
        )
        item = _item(kept)
        after = item.model_dump(mode="json", exclude_none=True)
        await Trail(caller.actor, rid).note(t, "invoice.imported", "provider_invoice", str(kept.id), after=after)
        return item

    return await idempotent(world, request, principal=str(caller.actor), developer_id=None, key=key, body=body, act=act)


@router.get("/v1/admin/provider-invoices", response_model=PageReply[InvoiceItem], response_model_exclude_none=True)
async def list_invoices(caller: TheOperator, world: TheWorld, page: ThePage) -> PageReply[InvoiceItem]:
    """Invoices that were imported, the newest first, those that were withdrawn included."""
    async with tenant_tx(world, None) as t:
        rows = await invoices.page(t, after=page.after, limit=page.fetch)
    shown, cursor = page.cut(rows, lambda row: (row.imported_at, row.id))
    return page_reply([_item(row) for row in shown], cursor)


@router.delete("/v1/admin/provider-invoices/{invoice_id}", status_code=204, response_class=Response)
async def withdraw_invoice(
    invoice_id: Annotated[UUID, Path()], caller: TheOperator, world: TheWorld, rid: TheRequestId
) -> Response:
    """Take an invoice out of the comparison, because it was wrong. It stays in the list."""
    async with tenant_tx(world, None) as t:
        withdrawn = await invoices.withdraw(t, invoice_id, now=world.clock.now())
        if withdrawn is None:
            raise Refusal("not_found", "there is no such invoice, or it was withdrawn")
        await Trail(caller.actor, rid).note(t, "invoice.withdrawn", "provider_invoice", str(invoice_id))
    return Response(status_code=204)
