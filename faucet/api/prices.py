"""The price book, as the operator decides over it. A decision is taken once; a new price is a new version."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response

from faucet.api.auth import Actor, TheOperator
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.operator_wire import PriceAsk, PriceImportAsk, PriceImportReply, PriceItem, ProviderName
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.trail import Trail
from faucet.api.world import TheRequestId, TheWorld, World
from faucet.kit.errors import Refusal
from faucet.providers.catalog import CATALOG
from faucet.rating import store as price_book
from faucet.rating.price import Price
from faucet.rating.seed import seed_rows
from faucet.rating.store import Decision, PriceRow
from faucet.tenants.store import announce_change

router = APIRouter(tags=["operator: prices"])

ID_MAX = 2**63 - 1
VERSIONS_MAX = 10_000
PriceId = Annotated[int, Path(ge=1, le=ID_MAX)]

_RENAMED = {
    "input_usd_per_m": "input_e8_per_m",
    "cached_read_usd_per_m": "cached_read_e8_per_m",
    "cached_write_usd_per_m": "cached_write_e8_per_m",
    "output_usd_per_m": "output_e8_per_m",
    "reasoning_usd_per_m": "reasoning_e8_per_m",
    "request_usd": "request_e8",
}


WIRE_NAMES = {column: name for name, column in _RENAMED.items()}
"""What the wire calls a column of a price, where it calls it otherwise."""


def price_item(row: PriceRow) -> PriceItem:
    """The wire's view of a version."""
    shown = {name: getattr(row, _RENAMED.get(name, name)) for name in PriceItem.model_fields}
    return PriceItem.model_validate(shown | {"tiers": [renamed(tier) for tier in row.tiers]})


def renamed(columns: Mapping[str, object]) -> dict[str, object]:
    """A price's columns under the wire's names."""
    return {WIRE_NAMES.get(name, name): value for name, value in columns.items()}


@router.get("/v1/admin/prices", response_model=PageReply[PriceItem], response_model_exclude_none=True)
async def list_prices(
    caller: TheOperator,
    world: TheWorld,
    page: ThePage,
    status: Literal["draft", "confirmed", "rejected"] | None = None,
    provider: Annotated[ProviderName | None, Query()] = None,
    model: Annotated[ProviderName | None, Query()] = None,
) -> PageReply[PriceItem]:
    """Price versions, newest first."""
    # Versions are numbered in the order in which they came; the cursor holds the number where others hold an id.
    before_id = None if page.after is None else min(page.after[1].int, ID_MAX)
    async with tenant_tx(world, None) as t:
        rows = await price_book.page_prices(
            t, status=status, provider=provider, model=model, before_id=before_id, limit=page.fetch
        )
    shown, cursor = page.cut(rows, lambda row: (row.created_at, UUID(int=row.id)))
    return page_reply([price_item(row) for row in shown], cursor)


@router.post("/v1/admin/prices", status_code=201, response_model=PriceItem)
async def add_price(
    body: PriceAsk,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Price a model yourself from now on: a draft, or with `confirm` up for sale. The same figures as before add no
    version: the one that there is answers."""
    now = world.clock.now()
    try:
        price = Price(
            id=0,
            provider=body.provider,
            model=body.model,
            tokenizer=body.tokenizer,
            context_window=body.context_window,
            max_output_tokens=body.max_output_tokens,
            input_e8_per_m=body.input_usd_per_m,
            cached_read_e8_per_m=_or(body.cached_read_usd_per_m, body.input_usd_per_m),
            cached_write_e8_per_m=_or(body.cached_write_usd_per_m, body.input_usd_per_m),
            output_e8_per_m=body.output_usd_per_m,
            request_e8=body.request_usd,
            image_tokens_max=body.image_tokens_max,
            effective_from=now,
            source="set by the operator",
            status="draft",
        )
    except ValueError as error:
        raise Refusal("invalid_request", str(error)) from None

    async def act(t: TenantTx) -> PriceItem:
        new = await price_book.insert_drafts(t, [price])
        rows = await price_book.page_prices(
            t, status=None, provider=body.provider, model=body.model, before_id=None, limit=VERSIONS_MAX
        )
        # The one that was just added, or the one that says the same and is in force.
        row = max((row for row in rows if row.effective_from <= now), key=lambda row: (row.effective_from, row.id))
        if body.confirm and await price_book.decide(t, [row.id], status="confirmed", actor=str(caller.actor)):
            await announce_change(t)
        after = await price_book.find_price(t, row.id)
        assert after is not None  # versions are never deleted
        if new or after.status != row.status:
            await Trail(caller.actor, rid).note(
                t, "price.added", "price", str(row.id), after=price_item(after).model_dump(mode="json")
            )
        return price_item(after)

    return await idempotent(world, request, principal=str(caller.actor), developer_id=None, key=key, body=body, act=act)


def _or(given: int | None, else_: int) -> int:
    return else_ if given is None else given


@router.post("/v1/admin/prices/import", response_model=PriceImportReply)
async def import_prices(
    body: PriceImportAsk,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Import drafts from the packaged catalogue. A draft counts only when somebody has confirmed it."""
    names = {entry.prices: entry.name for entry in CATALOG.values() if entry.prices is not None}
    report = await asyncio.to_thread(seed_rows, providers=body.providers or None, names=names)
    rows = report.rows

    async def act(t: TenantTx) -> PriceImportReply:
        new = await price_book.insert_drafts(t, rows)
        if new:
            await Trail(caller.actor, rid).note(
                t, "price.imported", "price", None, after={"providers": body.providers, "new_count": new}
            )
        return PriceImportReply(new_count=new, price_count=len(rows), left_out_count=len(report.skipped))

    return await idempotent(
        world, request, principal=str(caller.actor), developer_id=None, key=key, body=body, act=act, status=200
    )


@router.post("/v1/admin/prices/{price_id}/confirm", response_model=PriceItem)
async def confirm_price(
    price_id: PriceId,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Put a draft up for sale, from its `effective_from` on. Harmless to repeat."""
    return await _decide(world, request, caller.actor, rid, key, price_id, "confirmed")


@router.post("/v1/admin/prices/{price_id}/reject", response_model=PriceItem)
async def reject_price(
    price_id: PriceId,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Turn a draft down; an import of the same figures doesn't bring it back. Harmless to repeat."""
    return await _decide(world, request, caller.actor, rid, key, price_id, "rejected")


async def _decide(
    world: World, request: Request, actor: Actor, rid: str, key: str | None, price_id: int, decision: Decision
) -> Response:
    async def act(t: TenantTx) -> PriceItem:
        done = await price_book.decide(t, [price_id], status=decision, actor=str(actor))
        row = await price_book.find_price(t, price_id)
        if row is None:
            raise Refusal("not_found", "there is no such price")
        if row.status != decision:
            raise Refusal("conflict", f"this price is {row.status} already; add a new version")
        if done:
            await announce_change(t)
            await Trail(actor, rid).note(
                t,
                f"price.{decision}",
                "price",
                str(price_id),
                after={"provider": row.provider, "model": row.model, "effective_from": row.effective_from},
            )
        return price_item(row)

    return await idempotent(
        world, request, principal=str(actor), developer_id=None, key=key, body=None, act=act, status=200
    )
