"""Reports: what an app used, what a developer earned, whether the books add up."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request

from faucet.api.auth import DeveloperBearer, DeveloperScope, TheOperator, UsageReader, principal, scope_of
from faucet.api.tenant import tenant_tx
from faucet.api.wire import (
    Identifier,
    ReconciliationFinding,
    ReconciliationLine,
    ReconciliationReply,
    ReconciliationSummary,
    RevenueReply,
    UsageLine,
    UsageReply,
)
from faucet.api.world import TheWorld, World
from faucet.kit.db import tx
from faucet.kit.errors import Refusal
from faucet.kit.ids import request_id
from faucet.reports import reconciliation, revenue, usage
from faucet.tenants import store
from faucet.tenants.tenancy import see_all, see_only

RECONCILIATION_ITEMS_MAX = 1_000
ROUTE_MODES = ("platform", "developer_key", "byok", "local")
"""By the number that a usage event keeps of its payer."""

router = APIRouter()


@router.get(
    "/v1/apps/{public_app_id}/usage",
    tags=["reports"],
    response_model=UsageReply,
    dependencies=[DeveloperBearer],
)
async def read_app_usage(public_app_id: Annotated[Identifier, Path()], request: Request, world: TheWorld) -> UsageReply:
    """An app's totals and its last 100 answers. Without a token only for an app that is a public demo."""
    caller = await _usage_reader(request, world)
    async with tenant_tx(world, None) as t:
        app = await store.find_app(t, public_app_id)
        if app is None or not app.is_public_demo:
            if caller is None:
                raise Refusal("invalid_session", "this needs a developer's token with the scope developer:usage:read")
            if app is None or caller.developer_id not in (None, app.developer_id):
                raise Refusal("invalid_app", "there is no app with this public_app_id")
        await see_only(t, app.developer_id)
        totals = await usage.app_totals(t, app.id)
        newest = await usage.app_newest(t, app.id)
    return UsageReply(
        public_app_id=app.public_app_id,
        app_name=app.name,
        total_calls=totals.calls,
        total_input_tokens=totals.input_tokens,
        total_output_tokens=totals.output_tokens,
        total_retail_price_usd=totals.retail_e8,
        total_developer_revenue_usd=totals.channel_e8,
        usage=[
            UsageLine(
                request_id=row.request_id or request_id(row.id),
                feature_key=row.feature_key,
                route_mode=ROUTE_MODES[row.payer],
                provider=row.provider,
                model=row.model,
                input_tokens=row.input_tokens,
                output_tokens=row.output_tokens,
                retail_price_usd=row.retail_e8,
                channel_revenue_usd=row.channel_e8,
                created_at=row.created_at,
            )
            for row in newest
        ],
    )


async def _usage_reader(request: Request, world: World) -> DeveloperScope | None:
    """Whose usage the caller may read; None for somebody without a bearer of ours, who may see demos.

    Raises Refusal `forbidden`, `expired_session`, `disabled`.
    """
    try:
        caller = await principal(request, world)
    except Refusal as refusal:
        if refusal.code == "invalid_session":
            return None
        raise
    return scope_of(caller, "developer:usage:read")


@router.get("/v1/developers/{developer_id}/revenue", tags=["reports"], response_model=RevenueReply)
async def read_developer_revenue(developer_id: UUID, caller: UsageReader, world: TheWorld) -> RevenueReply:
    """What a developer has earned, what of it is being paid out, and what it was in all."""
    async with tenant_tx(world, caller.developer_id) as t:
        if not await store.developer_exists(t, developer_id):
            raise Refusal("not_found", "there is no such developer")
        figures = await revenue.developer_revenue(t, developer_id)
    return RevenueReply(
        developer_id=developer_id,
        wallet_balance_usd=figures.earnings_e8,
        pending_payout_usd=figures.pending_payout_e8,
        lifetime_revenue_usd=figures.lifetime_e8,
    )


@router.get("/v1/admin/reconciliation/ledger", tags=["operator"], response_model=ReconciliationReply)
async def reconcile_ledger(caller: TheOperator, world: TheWorld) -> ReconciliationReply:
    """Every wallet beside the sum of its transfers, those that differ first, and whatever else doesn't add up."""
    async with tx(world.db) as t:
        await reconciliation.begin_snapshot(t)
        await see_all(t)
        summary = await reconciliation.wallet_summary(t)
        lines = await reconciliation.wallet_lines(t, limit=RECONCILIATION_ITEMS_MAX)
        findings = await reconciliation.reconcile(t, tolerance_bps=world.config.invoice_tolerance_bps)
    return ReconciliationReply(
        generated_at=world.clock.now(),
        summary=ReconciliationSummary(
            wallet_count=summary.wallet_count,
            balanced_count=summary.balanced_count,
            mismatch_count=summary.wallet_count - summary.balanced_count,
        ),
        items=[
            ReconciliationLine(
                wallet_id=line.wallet_id,
                owner_scope="end_user" if line.kind == "wallet" else "developer",
                owner_id=line.owner_id,
                wallet_balance_usd=line.wallet_e8,
                ledger_balance_usd=line.ledger_e8,
                delta_usd=line.wallet_e8 - line.ledger_e8,
                status="balanced" if line.wallet_e8 == line.ledger_e8 else "mismatch",
            )
            for line in lines
        ],
        findings=[
            ReconciliationFinding(
                check=finding.check,
                subject=finding.subject,
                expected=finding.expected,
                actual=finding.actual,
            )
            for finding in findings
        ],
    )
