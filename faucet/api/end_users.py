"""What an end user sees of themselves, by their session: answers, the statement of their wallet, local endpoints."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response

from faucet.api.auth import TheEndUser
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.reports import ROUTE_MODES
from faucet.api.statement_wire import MonthText, statement_item
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.wire_end_users import LocalEndpointAsk, LocalEndpointReply, OwnUsageReply, StatementLine, StatementReply
from faucet.api.world import TheWorld
from faucet.closing import statements
from faucet.closing.month import parse_month
from faucet.kit.errors import InvariantBroken, Refusal
from faucet.kit.ids import request_id
from faucet.ledger import statement
from faucet.reports import usage
from faucet.tenants import local_endpoints
from faucet.tenants.local_endpoints import LocalEndpoint

router = APIRouter(tags=["end user"])

PeriodQuery = Annotated[MonthText | None, Query(description="A month in UTC, such as `2026-10`.")]

_SOURCES = ("reported", "counted", "self_reported")
_OUTCOMES = ("complete", "client_hung_up", "provider_failed")


@router.get("/v1/user/usage", response_model=PageReply[OwnUsageReply], response_model_exclude_none=True)
async def list_own_usage(caller: TheEndUser, world: TheWorld, page: ThePage) -> PageReply[OwnUsageReply]:
    """The end user's own answers, newest first: what each used and what it cost them."""
    session = caller.session
    async with tenant_tx(world, session.developer_id) as t:
        rows = await usage.end_user_page(t, session.end_user_id, limit=page.fetch, after=page.after)
    shown, cursor = page.cut(rows, lambda row: (row.created_at, row.id))
    return page_reply(
        [
            OwnUsageReply(
                request_id=row.request_id or request_id(row.id),
                feature_key=row.feature_key,
                route_mode=ROUTE_MODES[row.payer],
                provider=row.provider,
                model=row.model,
                input_tokens=row.input_tokens,
                output_tokens=row.output_tokens,
                price_usd=row.retail_e8,
                paid_by="free_quota" if row.is_free else None,
                usage_source=_SOURCES[row.usage_source],
                outcome=_OUTCOMES[row.outcome],
                created_at=row.created_at,
            )
            for row in shown
        ],
        cursor,
    )


@router.get("/v1/user/statement", response_model=StatementReply, response_model_exclude_none=True)
async def read_own_statement(
    caller: TheEndUser, world: TheWorld, page: ThePage, period: PeriodQuery = None
) -> StatementReply:
    """Everything that moved the end user's wallet, newest first, and what is in it now.

    With `period` only what moved it in that month, and the month's signed statement once there is one.
    """
    session = caller.session
    month = None if period is None else parse_month(period)
    async with tenant_tx(world, session.developer_id) as t:
        wallet = await statement.wallet_of_end_user(t, session.end_user_id)
        if wallet is None:
            raise InvariantBroken(f"the end user {session.end_user_id} has a session but no wallet")
        rows = await statement.movements_of(
            t,
            wallet,
            limit=page.fetch,
            after=page.after,
            since=None if month is None else month.starts_at,
            until=None if month is None else month.ends_at,
        )
        kept = None
        if month is not None:
            kept = await statements.find(t, month, developer_id=session.developer_id, end_user_id=session.end_user_id)
    shown, cursor = page.cut(rows, lambda row: (row.created_at, row.id))
    return StatementReply(
        wallet_id=wallet.public_id,
        balance_usd=wallet.posted_e8,
        held_usd=wallet.held_e8,
        available_usd=wallet.available_e8,
        items=[
            StatementLine(
                id=row.id,
                kind=row.kind,
                amount_usd=row.amount_e8,
                description=row.description,
                request_id=request_id(row.id) if row.kind == "usage" else None,
                created_at=row.created_at,
            )
            for row in shown
        ],
        next_cursor=cursor,
        period=period,
        statement=None if kept is None else statement_item(kept),
    )


def _endpoint(found: LocalEndpoint) -> LocalEndpointReply:
    return LocalEndpointReply(
        id=found.id,
        name=found.name,
        kind=found.kind,
        base_url=found.base_url,
        models=found.models,
        created_at=found.created_at,
    )


@router.post("/v1/local/endpoints", status_code=201, response_model=LocalEndpointReply)
async def note_local_endpoint(
    body: LocalEndpointAsk,
    caller: TheEndUser,
    world: TheWorld,
    request: Request,
    idempotency_key: TheIdempotencyKey = None,
) -> Response:
    """Note a model server on the end user's own machine. The cloud never connects to it: the Local Bridge does."""
    session = caller.session

    async def act(t: TenantTx) -> LocalEndpointReply:
        noted = await local_endpoints.note(
            t,
            developer_id=session.developer_id,
            app_id=session.app_id,
            end_user_id=session.end_user_id,
            name=body.name,
            kind=body.kind,
            base_url=body.base_url,
            models=body.models,
        )
        return _endpoint(noted)

    return await idempotent(
        world,
        request,
        principal=f"end_user:{session.end_user_id}",
        developer_id=session.developer_id,
        key=idempotency_key,
        body=body,
        act=act,
    )


@router.get("/v1/local/endpoints", response_model=PageReply[LocalEndpointReply], response_model_exclude_none=True)
async def list_local_endpoints(caller: TheEndUser, world: TheWorld, page: ThePage) -> PageReply[LocalEndpointReply]:
    """The end user's local endpoints, newest first."""
    session = caller.session
    async with tenant_tx(world, session.developer_id) as t:
        rows = await local_endpoints.page_of(t, session.end_user_id, limit=page.fetch, after=page.after)
    shown, cursor = page.cut(rows, lambda row: (row.created_at, row.id))
    return page_reply([_endpoint(row) for row in shown], cursor)


@router.delete("/v1/local/endpoints/{endpoint_id}", status_code=204, response_class=Response)
async def forget_local_endpoint(endpoint_id: Annotated[UUID, Path()], caller: TheEndUser, world: TheWorld) -> Response:
    """Forget a local endpoint."""
    session = caller.session
    async with tenant_tx(world, session.developer_id) as t:
        if not await local_endpoints.forget(t, session.end_user_id, endpoint_id):
            raise Refusal("not_found", "there is no such local endpoint")
    return Response(status_code=204)
