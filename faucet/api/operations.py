"""What developers look at first: the newest wallets and changes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BeforeValidator, WithJsonSchema

from faucet.api.auth import DeveloperScope, require
from faucet.api.developer_wire import (
    AuditItem,
    OperationsReply,
    WalletItem,
    moment_of,
)
from faucet.api.payout_wire import payout_item
from faucet.api.tenant import tenant_tx
from faucet.api.wire_top_ups import topup_item
from faucet.api.world import TheWorld
from faucet.payments import payout_store
from faucet.payments import store as top_ups
from faucet.payments.payout_store import PayoutFilter
from faucet.reports import operations
from faucet.reports.operations import AuditFilter, AuditRow

router = APIRouter(tags=["developer: reports"])

ROWS_MAX = 100

Reader = Annotated[DeveloperScope, Depends(require("developer:operations:read"))]
AtQuery = Annotated[
    datetime | None,
    BeforeValidator(lambda value: None if value is None else moment_of(value)),
    WithJsonSchema({"type": "string", "format": "date-time"}),
    Query(),
]


def audit_item(row: AuditRow) -> AuditItem:
    """The wire's view of a row of the audit log."""
    metadata = {"request_id": row.request_id, "before": row.before, "after": row.after}
    return AuditItem(
        id=row.id,
        developer_id=row.developer_id,
        actor_scope=row.actor_scope,
        actor_id=row.actor_id,
        action=row.action,
        resource_type=row.resource_type,
        resource_id=row.resource_id,
        metadata={name: value for name, value in metadata.items() if value is not None},
        created_at=row.created_at,
    )


@router.get("/v1/developer/operations", response_model=OperationsReply, response_model_exclude_none=True)
async def read_operations(caller: Reader, world: TheWorld) -> OperationsReply:
    """The hundred wallets that changed last, and the hundred newest top-ups, payouts and changes."""
    async with tenant_tx(world, caller.developer_id) as t:
        wallets = await operations.newest_wallets(t, developer_id=caller.developer_id, limit=ROWS_MAX)
        paid = await top_ups.newest(t, developer_id=caller.developer_id, limit=ROWS_MAX)
        wanted = AuditFilter(developer_id=caller.developer_id)
        rows = await operations.search_audit(t, wanted, after=None, limit=ROWS_MAX)
        of_caller = PayoutFilter(developer_id=caller.developer_id)
        payouts = await payout_store.page(t, of_caller, after=None, limit=ROWS_MAX)
    return OperationsReply(
        wallets=[
            WalletItem(
                id=wallet.id,
                owner_scope="end_user" if wallet.owner_scope == "end_user" else "developer",
                owner_id=wallet.owner_id,
                owner_name=wallet.owner_name,
                balance_usd=wallet.posted_e8,
                updated_at=wallet.updated_at,
            )
            for wallet in wallets
        ],
        topups=[topup_item(row) for row in paid],
        payouts=[payout_item(payout) for payout in payouts],
        audit_logs=[audit_item(row) for row in rows],
    )
