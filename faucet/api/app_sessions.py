"""Sessions of an app, for whoever keeps the app: which there are, and an end to any of them. Never their bearers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query

from faucet.api.apps import PublicAppId
from faucet.api.auth import DeveloperScope, require
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.tenant import tenant_tx
from faucet.api.trail import Trail
from faucet.api.wire import Moment, Reply
from faucet.api.world import TheRequestId, TheWorld
from faucet.kit.errors import Refusal
from faucet.tenants import apps, sessions
from faucet.tenants.sessions import Listed

router = APIRouter(tags=["developer: sessions"])

Reader = Annotated[DeveloperScope, Depends(require("developer:apps:read"))]
Writer = Annotated[DeveloperScope, Depends(require("developer:apps:write"))]


class SessionItem(Reply):
    id: UUID
    feature_key: str | None = None
    end_user_id: UUID
    status: Literal["active", "expired", "revoked"]
    created_at: Moment
    expires_at: Moment
    revoked_at: Moment | None = None


def _item(row: Listed, now: datetime) -> SessionItem:
    running: Literal["active", "expired"] = "active" if row.expires_at > now else "expired"
    return SessionItem(
        id=row.id,
        feature_key=row.feature_key,
        end_user_id=row.end_user_id,
        status="revoked" if row.revoked_at is not None else running,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


@router.get(
    "/v1/developer/apps/{public_app_id}/sessions",
    response_model=PageReply[SessionItem],
    response_model_exclude_none=True,
)
async def list_app_sessions(
    public_app_id: PublicAppId,
    caller: Reader,
    world: TheWorld,
    page: ThePage,
    running: Annotated[bool, Query(description="Only those that are neither over nor revoked.")] = False,
) -> PageReply[SessionItem]:
    """An app's sessions, newest first. One is forgotten a week after it ended."""
    now = world.clock.now()
    async with tenant_tx(world, caller.developer_id) as t:
        app = await apps.find(t, public_app_id)
        rows = await sessions.page(t, app.id, is_running=running, now=now, after=page.after, limit=page.fetch)
    shown, cursor = page.cut(rows, lambda row: (row.created_at, row.id))
    return page_reply([_item(row, now) for row in shown], cursor)


@router.delete(
    "/v1/developer/apps/{public_app_id}/sessions/{session_id}",
    response_model=SessionItem,
    response_model_exclude_none=True,
)
async def revoke_app_session(
    public_app_id: PublicAppId, session_id: UUID, caller: Writer, world: TheWorld, rid: TheRequestId
) -> SessionItem:
    """End a session for good; gateways refuse it within five seconds. Harmless to repeat."""
    now = world.clock.now()
    async with tenant_tx(world, caller.developer_id) as t:
        app = await apps.find(t, public_app_id)
        if await sessions.find_listed(t, app.id, session_id) is None:
            raise Refusal("not_found", "this app has no such session")
        if await sessions.revoke_by_id(t, session_id, now=now):
            await Trail(caller.actor, rid).note(
                t,
                "session.revoked",
                "session",
                str(session_id),
                developer_id=app.developer_id,
                after={"public_app_id": public_app_id},
            )
        row = await sessions.find_listed(t, app.id, session_id)
    if row is None:
        raise Refusal("not_found", "this app has no such session")
    return _item(row, now)
