"""Model servers on end users' own machines, as notes: no process of ours ever connects to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit
from uuid import UUID

from psycopg.errors import UniqueViolation
from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.kit.errors import Refusal
from faucet.kit.ids import uuid7

MODELS_MAX = 200
PER_END_USER_MAX = 50


@dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """One note."""

    id: UUID
    name: str
    kind: str
    base_url: str
    models: list[str]
    created_at: datetime


def checked_base_url(text: str) -> str:
    """An address that a bridge could use, without a secret in it. Raises ValueError.

    Loopback and private addresses are what these are for: the Local Bridge reaches them, the cloud does not.
    """
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("holds characters that an address may not")
    try:
        parts = urlsplit(text)
        has_host = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        has_host = False
    if not has_host or parts.scheme not in ("http", "https"):
        raise ValueError("must be an address such as http://127.0.0.1:11434/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("may not hold a user name, password, query or fragment: it is shown again")
    return text


async def note(
    tx: Tx,
    *,
    developer_id: UUID,
    app_id: UUID,
    end_user_id: UUID,
    name: str,
    kind: str,
    base_url: str,
    models: Sequence[str],
) -> LocalEndpoint:
    """Note an endpoint. Raises Refusal `conflict` for a name that is taken, and where there are too many."""
    # One at a time for each person, or a burst could pass the limit.
    await tx.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"local_endpoint:{end_user_id}",))
    cursor = await tx.execute("select count(*) from local_endpoint where end_user_id = %s", (end_user_id,))
    row = await cursor.fetchone()
    if row is not None and row[0] >= PER_END_USER_MAX:
        raise Refusal("conflict", f"there are {PER_END_USER_MAX} local endpoints already; forget one first")
    try:
        async with tx.cursor(row_factory=class_row(LocalEndpoint)) as rows:
            await rows.execute(
                """
                insert into local_endpoint (id, developer_id, app_id, end_user_id, name, kind, base_url, models)
                values (%s, %s, %s, %s, %s, %s, %s, %s) returning id, name, kind, base_url, models, created_at
                """,
                (uuid7(), developer_id, app_id, end_user_id, name, kind, base_url, list(models)),
            )
            noted = await rows.fetchone()
    except UniqueViolation:
        raise Refusal("conflict", "there is a local endpoint with this name already") from None
    assert noted is not None
    return noted


async def page_of(tx: Tx, end_user_id: UUID, *, limit: int, after: tuple[datetime, UUID] | None) -> list[LocalEndpoint]:
    """An end user's endpoints, newest first."""
    async with tx.cursor(row_factory=class_row(LocalEndpoint)) as cursor:
        await cursor.execute(
            """
            select id, name, kind, base_url, models, created_at from local_endpoint
             where end_user_id = %(user)s
               and (%(at)s::timestamptz is null or (created_at, id) < (%(at)s, %(id)s))
             order by created_at desc, id desc limit %(limit)s
            """,
            {
                "user": end_user_id,
                "at": None if after is None else after[0],
                "id": None if after is None else after[1],
                "limit": limit,
            },
        )
        return await cursor.fetchall()


async def forget(tx: Tx, end_user_id: UUID, endpoint_id: UUID) -> bool:
    """Delete an end user's endpoint; False where there is none with this id."""
    cursor = await tx.execute(
        "delete from local_endpoint where id = %s and end_user_id = %s", (endpoint_id, end_user_id)
    )
    return cursor.rowcount == 1
