"""Statements of closed months, as they were signed: for developers, for end users, and the keys to check them with."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from faucet.api.auth import DeveloperScope, EndUser, TheEndUser, UsageReader
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.periods import PeriodPath
from faucet.api.statement_wire import StatementItem, StatementKey, StatementKeys, statement_item
from faucet.api.tenant import tenant_tx
from faucet.api.world import TheWorld, World
from faucet.closing import statements
from faucet.closing.month import parse_month
from faucet.closing.pdf import statement_pdf, usual_font
from faucet.closing.sheet import statement_csv
from faucet.closing.statements import Kept
from faucet.kit.errors import Refusal

router = APIRouter()

_FILE: dict[int | str, dict[str, Any]] = {200: {"description": "The file.", "content": {"application/json": {}}}}
_SHEET: dict[int | str, dict[str, Any]] = {200: {"description": "The file.", "content": {"text/csv": {}}}}
_PRINT: dict[int | str, dict[str, Any]] = {200: {"description": "The file.", "content": {"application/pdf": {}}}}
DeveloperQuery = Annotated[UUID | None, Query(description="Whose, where the caller is staff.")]


@router.get(
    "/v1/developer/statements",
    tags=["developer: reports"],
    response_model=PageReply[StatementItem],
    response_model_exclude_none=True,
)
async def list_statements(
    caller: UsageReader, world: TheWorld, page: ThePage, developer_id: DeveloperQuery = None
) -> PageReply[StatementItem]:
    """The developer's statements, the newest first; all developers' for staff who name none."""
    whose = caller.developer_id if caller.developer_id is not None else developer_id
    async with tenant_tx(world, caller.developer_id) as t:
        rows = await statements.page(t, developer_id=whose, end_user_id=None, after=page.after, limit=page.fetch)
    shown, cursor = page.cut(rows, lambda row: (row.created_at, row.id))
    return page_reply([statement_item(row) for row in shown], cursor)


@router.get(
    "/v1/developer/statements/{period}.json", tags=["developer: reports"], response_class=Response, responses=_FILE
)
async def download_statement(
    period: PeriodPath, caller: UsageReader, world: TheWorld, developer_id: DeveloperQuery = None
) -> Response:
    """The statement as the file that was signed: keep it as it is, and check it with `faucet statement verify`."""
    kept = await _own(world, caller, period, developer_id)
    return _file(kept.signed.file, "application/json", f"statement-{period}.json")


@router.get(
    "/v1/developer/statements/{period}.csv", tags=["developer: reports"], response_class=Response, responses=_SHEET
)
async def download_statement_sheet(
    period: PeriodPath, caller: UsageReader, world: TheWorld, developer_id: DeveloperQuery = None
) -> Response:
    """The statement's lines as CSV."""
    kept = await _own(world, caller, period, developer_id)
    return _sheet(kept, period)


@router.get(
    "/v1/developer/statements/{period}.pdf", tags=["developer: reports"], response_class=Response, responses=_PRINT
)
async def download_statement_print(
    period: PeriodPath, caller: UsageReader, world: TheWorld, developer_id: DeveloperQuery = None
) -> Response:
    """The statement for print. What counts is the signed file; this shows what it says and its hash."""
    kept = await _own(world, caller, period, developer_id)
    return await _print(world, kept, period)


@router.get("/v1/developer/statements/{period}", tags=["developer: reports"], response_model=StatementItem)
async def read_statement(
    period: PeriodPath, caller: UsageReader, world: TheWorld, developer_id: DeveloperQuery = None
) -> StatementItem:
    """The statement of one month."""
    return statement_item(await _own(world, caller, period, developer_id))


@router.get(
    "/v1/user/statements", tags=["end user"], response_model=PageReply[StatementItem], response_model_exclude_none=True
)
async def list_own_statements(caller: TheEndUser, world: TheWorld, page: ThePage) -> PageReply[StatementItem]:
    """The end user's signed statements of closed months in which their wallet moved, the newest first."""
    session = caller.session
    async with tenant_tx(world, session.developer_id) as t:
        rows = await statements.page(
            t,
            developer_id=session.developer_id,
            end_user_id=session.end_user_id,
            after=page.after,
            limit=page.fetch,
        )
    shown, cursor = page.cut(rows, lambda row: (row.created_at, row.id))
    return page_reply([statement_item(row) for row in shown], cursor)


@router.get("/v1/user/statements/{period}.json", tags=["end user"], response_class=Response, responses=_FILE)
async def download_own_statement(period: PeriodPath, caller: TheEndUser, world: TheWorld) -> Response:
    """The end user's statement of a month as the file that was signed."""
    kept = await _end_users(world, caller, period)
    return _file(kept.signed.file, "application/json", f"statement-{period}.json")


@router.get("/v1/user/statements/{period}.csv", tags=["end user"], response_class=Response, responses=_SHEET)
async def download_own_statement_sheet(period: PeriodPath, caller: TheEndUser, world: TheWorld) -> Response:
    """Its lines as CSV."""
    return _sheet(await _end_users(world, caller, period), period)


@router.get("/v1/user/statements/{period}.pdf", tags=["end user"], response_class=Response, responses=_PRINT)
async def download_own_statement_print(period: PeriodPath, caller: TheEndUser, world: TheWorld) -> Response:
    """The statement for print."""
    return await _print(world, await _end_users(world, caller, period), period)


@router.get("/.well-known/modelfaucet/statement-keys.json", tags=["public"], response_model=StatementKeys)
async def read_statement_keys(world: TheWorld) -> StatementKeys:
    """The public halves of all keys that statements were ever signed with, the newest first."""
    async with tenant_tx(world, None) as t:
        return StatementKeys(items=[StatementKey(**each) for each in await statements.keys(t)])


async def _own(world: World, caller: DeveloperScope, period: str, named: UUID | None) -> Kept:
    """Raises Refusal `invalid_request` where staff names nobody, `not_found`."""
    developer_id = caller.owner(named)
    async with tenant_tx(world, caller.developer_id) as t:
        kept = await statements.find(t, parse_month(period), developer_id=developer_id, end_user_id=None)
    return _found(kept)


async def _end_users(world: World, caller: EndUser, period: str) -> Kept:
    """The statement of who calls. Raises Refusal `not_found`."""
    session = caller.session
    async with tenant_tx(world, session.developer_id) as t:
        kept = await statements.find(
            t, parse_month(period), developer_id=session.developer_id, end_user_id=session.end_user_id
        )
    return _found(kept)


def _found(kept: Kept | None) -> Kept:
    if kept is None:
        raise Refusal("not_found", "there is no statement of this month; it may not be closed yet")
    return kept


def _sheet(kept: Kept, period: str) -> Response:
    return _file(statement_csv(kept.signed).encode(), "text/csv; charset=utf-8", f"statement-{period}.csv")


async def _print(world: World, kept: Kept, period: str) -> Response:
    content = await run_in_threadpool(statement_pdf, kept.signed, font=world.config.statement_font or usual_font())
    return _file(content, "application/pdf", f"statement-{period}.pdf")


def _file(content: bytes, kind: str, name: str) -> Response:
    return Response(content, media_type=kind, headers={"content-disposition": f'attachment; filename="{name}"'})
