"""The audit log: who changed what, written by the tx that makes the change and never changed itself.

A change whose row can't be written doesn't happen. What is written has no secrets in it. Reading the log is
`reports`'.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from faucet.kit.clock import to_iso
from faucet.kit.db import Tx
from faucet.kit.ids import uuid7
from faucet.kit.log import REDACTED, redact

TEXT_CHARACTERS_MAX = 2_000
ITEMS_MAX = 200
DEPTH_MAX = 6
_SECRET_NAME = re.compile(r"secret|password|api_?key|authorization|bearer|sealed|private|cookie|(?:^|_)token$", re.I)


async def record(
    tx: Tx,
    *,
    actor_scope: str,
    actor_id: str | None,
    action: str,
    resource_type: str,
    resource_id: str | None,
    request_id: str | None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    developer_id: UUID | None = None,
) -> None:
    """Add a row to the log.

    It belongs to the developer named, else to the one whose tx this is; an operator's tx has none.
    """
    await tx.execute(
        """
        insert into audit_log (id, developer_id, actor_scope, actor_id, action, resource_type, resource_id,
                               request_id, before, after)
        values (%s, coalesce(%s, nullif(nullif(current_setting('faucet.developer_id', true), '*'), '')::uuid),
                %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            uuid7(),
            developer_id,
            actor_scope,
            actor_id,
            action,
            resource_type,
            resource_id,
            request_id,
            None if before is None else Jsonb(clean(before)),
            None if after is None else Jsonb(clean(after)),
        ),
    )


async def actors_of(tx: Tx, resource_type: str, resource_id: str) -> frozenset[tuple[str, str | None]]:
    """Who did anything to a resource, by scope and id, as far as this tx sees."""
    cursor = await tx.execute(
        "select distinct actor_scope, actor_id from audit_log where resource_type = %s and resource_id = %s",
        (resource_type, resource_id),
    )
    return frozenset((scope, name) for scope, name in await cursor.fetchall())


def clean(value: Any, depth: int = 0) -> Any:
    """The value as JSON can hold it: without secrets, by their names and by their looks, and bounded."""
    if value is None or isinstance(value, bool | int):
        return value
    if depth >= DEPTH_MAX:
        return "…"
    if isinstance(value, Mapping):
        return {
            str(name)[:200]: REDACTED if _is_secret(str(name), item) else clean(item, depth + 1)
            for name, item in list(value.items())[:ITEMS_MAX]
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [clean(item, depth + 1) for item in list(value)[:ITEMS_MAX]]
    if hasattr(value, "isoformat"):
        return to_iso(value) if hasattr(value, "tzinfo") else value.isoformat()
    # PostgreSQL's text can't hold NUL.
    return redact(str(value)[:TEXT_CHARACTERS_MAX]).replace("\x00", "")


def _is_secret(name: str, value: Any) -> bool:
    return value is not None and _SECRET_NAME.search(name) is not None
