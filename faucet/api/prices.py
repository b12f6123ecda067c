"""The price book, as the operator decides over it. A decision is taken once; a new price is a new version."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response

from faucet.api.auth import OPERATOR, TheOperator
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.operator_wire import PriceItem, ProviderName
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.trail import Trail
from faucet.api.world import TheRequestId, TheWorld, World
from faucet.kit.errors import Refusal
from faucet.rating import store as price_book
from faucet.rating.store import Decision, PriceRow
from faucet.tenants.store import announce_change

router = APIRouter(tags=["operator: prices"])

ID_MAX = 2**63 - 1
PriceId = Annotated[int, Path(ge=1, le=ID_MAX)]

_RENAMED = {
    "input_usd_per_m": "input_e8_per_m",
    "cached_read_usd_per_m": "cached_read_e8_per_m",
    "cached_write_usd_per_m": "cached_write_e8_per_m",
    "output_usd_per_m": "output_e8_per_m",
    "reasoning_usd_per_m": "reasoning_e8_per_m",
    "request_usd": "request_e8",
}


def price_item(row: PriceRow) -> PriceItem:
    """The wire's view of a version."""
    shown = {name: getattr(row, _RENAMED.get(name, name)) for name in PriceItem.model_fields}
    ours = {column: name for name, column in _RENAMED.items()}
    tiers = [{ours.get(name, name): value for name, value in tier.items()} for tier in row.tiers]
    return PriceItem.model_validate(shown | {"tiers": tiers})


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
    return await _decide(world, request, rid, key, price_id, "confirmed")


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
    return await _decide(world, request, rid, key, price_id, "rejected")


async def _decide(
    world: World, request: Request, rid: str, key: str | None, price_id: int, decision: Decision
) -> Response:
    async def act(t: TenantTx) -> PriceItem:
        done = await price_book.decide(t, [price_id], status=decision, actor=str(OPERATOR))
        row = await price_book.find_price(t, price_id)
        if row is None:
            raise Refusal("not_found", "there is no such price")
        if row.status != decision:
            raise Refusal("conflict", f"this price is {row.status} already; add a new version")
        if done:
            await announce_change(t)
            await Trail(OPERATOR, rid).note(
                t,
                f"price.{decision}",
                "price",
                str(price_id),
                after={"provider": row.provider, "model": row.model, "effective_from": row.effective_from},
            )
        return price_item(row)

    return await idempotent(
        world, request, principal=str(OPERATOR), developer_id=None, key=key, body=None, act=act, status=200
    )
