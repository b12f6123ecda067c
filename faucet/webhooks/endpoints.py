"""Endpoints: where a developer wants to be told, of what, and the secrets that sign what is sent there.

A secret is sealed under a key that the database doesn't have. Nothing here reads one; that is `deliveries`' alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.kit.errors import Refusal
from faucet.kit.ids import uuid7
from faucet.kit.secret import Secret
from faucet.webhooks.signing import new_secret, seal_secret

PER_DEVELOPER_MAX = 20
OVERLAP_SECONDS = 86_400
OVERLAP_SECONDS_MAX = 7 * 86_400


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """An endpoint without its secrets."""

    id: UUID
    developer_id: UUID
    url: str
    description: str | None
    event_types: list[str]
    """What it wants to be told of; empty: everything."""
    status: str
    disabled_reason: str | None
    failing_since: datetime | None
    previous_secret_until: datetime | None
    """Until when the secret before the last rotation signs too."""
    created_at: datetime
    updated_at: datetime


_ENDPOINT: LiteralString = """
select e.id, e.developer_id, e.url, e.description, e.event_types, e.status, e.disabled_reason, e.failing_since,
       (select max(s.expires_at) from webhook_secret s where s.endpoint_id = e.id and s.expires_at > now())
           as previous_secret_until,
       e.created_at, e.updated_at
  from webhook_endpoint e
"""


async def create(
    tx: Tx,
    *,
    developer_id: UUID,
    url: str,
    description: str | None,
    event_types: Sequence[str],
    created_by: str,
    sealing_key: bytes,
) -> tuple[WebhookEndpoint, Secret]:
    """A new endpoint, and the secret that is shown once. Raises Refusal `conflict` where there are enough."""
    # One at a time for each developer, or a burst could pass the limit.
    await tx.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"webhook_endpoint:{developer_id}",))
    cursor = await tx.execute("select count(*) from webhook_endpoint where developer_id = %s", (developer_id,))
    row = await cursor.fetchone()
    if row is not None and row[0] >= PER_DEVELOPER_MAX:
        raise Refusal("conflict", f"there may be at most {PER_DEVELOPER_MAX} webhook endpoints; delete one first")
    endpoint_id = uuid7()
    await tx.execute(
        "insert into webhook_endpoint (id, developer_id, url, description, event_types, created_by)"
        " values (%s, %s, %s, %s, %s, %s)",
        (endpoint_id, developer_id, url, description, _distinct(event_types), created_by),
    )
    secret = await _add_secret(tx, endpoint_id, developer_id, sealing_key)
    return await find(tx, endpoint_id), secret


async def find(tx: Tx, endpoint_id: UUID, *, lock: bool = False) -> WebhookEndpoint:
    """One endpoint. Raises Refusal `not_found` where this tx sees none."""
    async with tx.cursor(row_factory=class_row(WebhookEndpoint)) as cursor:
        await cursor.execute(
            _ENDPOINT + (" where e.id = %s for no key update of e" if lock else " where e.id = %s"), (endpoint_id,)
        )
        endpoint = await cursor.fetchone()
    if endpoint is None:
        raise Refusal("not_found", "there is no such webhook endpoint")
    return endpoint


async def page(
    tx: Tx, *, developer_id: UUID | None, after: tuple[datetime, UUID] | None, limit: int
) -> list[WebhookEndpoint]:
    """Endpoints that this tx may see, newest first."""
    at, after_id = after or (None, None)
    async with tx.cursor(row_factory=class_row(WebhookEndpoint)) as cursor:
        await cursor.execute(
            _ENDPOINT
            + """
             where (%(developer)s::uuid is null or e.developer_id = %(developer)s::uuid)
               and (%(at)s::timestamptz is null or (e.created_at, e.id) < (%(at)s::timestamptz, %(id)s::uuid))
             order by e.created_at desc, e.id desc limit %(limit)s
            """,
            {"developer": developer_id, "at": at, "id": after_id, "limit": limit},
        )
        return await cursor.fetchall()


async def change(tx: Tx, endpoint: WebhookEndpoint, settings: Mapping[str, Any]) -> WebhookEndpoint:
    """The endpoint with these settings: `url`, `description`, `event_types`, `status`.

    Switched off, what was still to be delivered is given up; it can be replayed. Switched on, it begins anew.
    """
    after = {name: settings.get(name, getattr(endpoint, name)) for name in _CHANGEABLE}
    switched = after["status"] != endpoint.status
    await tx.execute(
        """
        update webhook_endpoint set url = %(url)s, description = %(description)s, event_types = %(event_types)s,
               status = %(status)s,
               disabled_reason = case when %(switched)s then %(reason)s else disabled_reason end,
               failing_since = case when %(switched)s then null else failing_since end, updated_at = now()
         where id = %(id)s
        """,
        after
        | {
            "event_types": _distinct(after["event_types"]),
            "switched": switched,
            "reason": "developer" if after["status"] == "disabled" else None,
            "id": endpoint.id,
        },
    )
    if switched and after["status"] == "disabled":
        await give_up(tx, endpoint.id)
    return await find(tx, endpoint.id)


_CHANGEABLE = ("url", "description", "event_types", "status")


async def give_up(tx: Tx, endpoint_id: UUID) -> None:
    """Don't try any more what an endpoint has not accepted yet."""
    await tx.execute(
        "update webhook_delivery set state = 'failed', updated_at = now() where endpoint_id = %s and state = 'pending'",
        (endpoint_id,),
    )


async def delete(tx: Tx, endpoint_id: UUID) -> None:
    """Forget an endpoint with its secrets and deliveries; events stay. Raises Refusal `not_found`."""
    cursor = await tx.execute("delete from webhook_endpoint where id = %s", (endpoint_id,))
    if cursor.rowcount == 0:
        raise Refusal("not_found", "there is no such webhook endpoint")


async def rotate(
    tx: Tx, endpoint: WebhookEndpoint, *, overlap_seconds: int, now: datetime, sealing_key: bytes
) -> tuple[WebhookEndpoint, Secret]:
    """A new secret for an endpoint that `find` has locked. The one before it signs too until the overlap is over; one
    that had been replaced already ends at once."""
    await tx.execute(
        "update webhook_secret set expires_at = %s where endpoint_id = %s and expires_at > %s",
        (now, endpoint.id, now),
    )
    await tx.execute(
        "update webhook_secret set expires_at = %s where endpoint_id = %s and expires_at is null",
        (now + timedelta(seconds=overlap_seconds), endpoint.id),
    )
    secret = await _add_secret(tx, endpoint.id, endpoint.developer_id, sealing_key)
    return await find(tx, endpoint.id), secret


async def _add_secret(tx: Tx, endpoint_id: UUID, developer_id: UUID, sealing_key: bytes) -> Secret:
    row_id, secret = uuid7(), new_secret()
    await tx.execute(
        "insert into webhook_secret (id, endpoint_id, developer_id, sealed) values (%s, %s, %s, %s)",
        (row_id, endpoint_id, developer_id, seal_secret(secret, sealing_key, row_id=row_id, endpoint_id=endpoint_id)),
    )
    return secret


def _distinct(event_types: Sequence[str]) -> list[str]:
    return sorted(set(event_types))
