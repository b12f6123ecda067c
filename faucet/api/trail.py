"""The audit log's row for what a route does: who, from the caller; which request, from the request."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from faucet.api.auth import Actor
from faucet.kit.db import Tx
from faucet.tenants import audit


class Trail:
    """Writes the rows of one request."""

    def __init__(self, actor: Actor, request_id: str) -> None:
        self.actor = actor
        self._request_id = request_id

    async def note(
        self,
        tx: Tx,
        action: str,
        resource_type: str,
        resource_id: str | None,
        *,
        developer_id: UUID | None = None,
        before: dict[str, Any] | None = None,
        after: dict[str, Any] | None = None,
    ) -> None:
        """Write what happened to a resource, in the tx in which it happens."""
        await audit.record(
            tx,
            actor_scope=self.actor.scope,
            actor_id=self.actor.id,
            action=action,
            resource_type=resource_type,
            resource_id=resource_id,
            request_id=self._request_id,
            before=before,
            after=after,
            developer_id=developer_id,
        )


def changed(before: dict[str, Any], after: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Only what differs, of both."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name) and name != "updated_at"]
    return {n: before.get(n) for n in names}, {n: after.get(n) for n in names}
