"""The packaged catalogue against the price book: what differs, and drafts of it. Decisions over them: `prices`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from faucet.api.auth import TheOperator
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.operator_wire import PriceDifference, PriceFigures, PriceSyncAsk, PriceSyncReply, ProviderName
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.prices import WIRE_NAMES, renamed
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.trail import Trail
from faucet.api.world import TheRequestId, TheWorld, World
from faucet.kit.errors import field_error
from faucet.providers.catalog import CATALOG
from faucet.providers.keyed import MOCK
from faucet.providers.platform import platform_providers
from faucet.rating.diff import Difference, Kind, differences
from faucet.rating.price import Price
from faucet.rating.seed import seed_rows
from faucet.rating.store import insert_drafts, list_prices
from faucet.vault.store import providers_of_platform

router = APIRouter(tags=["operator: prices"])

VERSIONS_A_READ = 500


@router.get("/v1/admin/prices/differences", response_model=PageReply[PriceDifference], response_model_exclude_none=True)
async def list_price_differences(
    caller: TheOperator,
    world: TheWorld,
    page: ThePage,
    provider: Annotated[list[ProviderName] | None, Query(max_length=100)] = None,
) -> PageReply[PriceDifference]:
    """What the packaged catalogue adds, changes and no longer has of the providers that are turned on, or of those
    named, by provider and model. Nothing is written."""
    # All pages show the same comparison, whatever is imported meanwhile: the cursor holds its time, and how many of
    # its rows were shown, where others hold a row's.
    at, shown_before = (world.clock.now(), 0) if page.after is None else (page.after[0], page.after[1].int)
    wanted = await _wanted(world, provider)
    offered = await _offered(wanted, at)
    async with tenant_tx(world, None) as t:
        found = differences(await _known(t, wanted), offered, at=at)
    rows = list(enumerate(found, 1))[shown_before : shown_before + page.fetch]
    shown, cursor = page.cut(rows, lambda row: (at, UUID(int=row[0])))
    return page_reply([_item(each) for _, each in shown], cursor)


@router.post("/v1/admin/prices/sync", response_model=PriceSyncReply)
async def sync_prices(
    body: PriceSyncAsk,
    request: Request,
    caller: TheOperator,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Make drafts of what the packaged catalogue adds or changes, from now on. Repeated, it adds nothing; a draft
    counts only when somebody has confirmed it."""
    now = world.clock.now()
    wanted = await _wanted(world, body.providers)
    offered = await _offered(wanted, now)

    async def act(t: TenantTx) -> PriceSyncReply:
        kinds = Counter(each.kind for each in differences(await _known(t, wanted), offered, at=now))
        new = await insert_drafts(t, offered)
        if new:
            after = {"providers": wanted, "new_count": new}
            await Trail(caller.actor, rid).note(t, "price.imported", "price", None, after=after)
        return PriceSyncReply(
            providers=wanted,
            added_count=kinds[Kind.ADDED],
            changed_count=kinds[Kind.CHANGED],
            removed_count=kinds[Kind.REMOVED],
            new_count=new,
        )

    return await idempotent(
        world, request, principal=str(caller.actor), developer_id=None, key=key, body=body, act=act, status=200
    )


async def _wanted(world: World, named: Sequence[str] | None) -> list[str]:
    """The providers to compare. Raises Refusal `invalid_request` for one that nobody knows."""
    if named:
        unknown = [name for name in named if name not in CATALOG and name != MOCK.name]
        if unknown:
            raise field_error("provider", f"{', '.join(unknown)[:200]}: not in the catalogue of providers")
        return sorted(set(named))
    async with tenant_tx(world, None) as t:
        stored = await providers_of_platform(t)
    return sorted({provider.name for provider in platform_providers(world.config)} | set(stored))


async def _offered(wanted: Collection[str], at: datetime) -> list[Price]:
    """What the packaged catalogue says of these providers."""
    names = {entry.prices: entry.name for entry in CATALOG.values() if entry.prices is not None}
    report = await asyncio.to_thread(seed_rows, effective_from=at, providers=wanted, names=names)
    return [row for row in report.rows if row.provider in wanted]


async def _known(t: TenantTx, wanted: Collection[str]) -> list[Price]:
    """All versions of these providers' prices."""
    known: list[Price] = []
    for name in wanted:
        offset = 0
        while rows := await list_prices(t, provider=name, limit=VERSIONS_A_READ, offset=offset):
            known += rows
            offset += len(rows)
    return known


def _item(each: Difference) -> PriceDifference:
    return PriceDifference(
        change=each.kind.value,
        provider=each.price.provider,
        model=each.price.model,
        before=_figures(each.before),
        after=_figures(each.after),
        differs_in=[WIRE_NAMES.get(name, name) for name in each.figures],
    )


def _figures(price: Price | None) -> PriceFigures | None:
    if price is None:
        return None
    columns = renamed(asdict(price)) | {"tiers": [renamed(asdict(tier)) for tier in price.tiers]}
    return PriceFigures.model_validate({name: columns[name] for name in PriceFigures.model_fields})
