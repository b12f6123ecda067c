"""The outbox: events, written by the tx of what they report, and the deliveries that follow from them.

`emit` is the one call that others need. Delivering is `deliveries`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, LiteralString
from uuid import UUID

from psycopg.rows import class_row

from faucet.kit.clock import to_iso
from faucet.kit.db import Tx
from faucet.kit.errors import InvariantBroken, Refusal
from faucet.kit.ids import uuid7

EventType = Literal[
    "topup.credited",
    "wallet.low",
    "wallet.frozen",
    "payout.requested",
    "payout.approved",
    "payout.sent",
    "payout.paid",
    "payout.failed",
    "payout.cancelled",
    "usage.limit_reached",
    "app.disabled",
    "ping",
]
EVENT_TYPES: tuple[EventType, ...] = EventType.__args__  # type: ignore[attr-defined]
DATA_CHARACTERS_MAX = 16_384


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, as it is told."""

    id: UUID
    developer_id: UUID
    type: EventType
    data: str
    """JSON, byte for byte as it is sent."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event's way to one endpoint."""

    event_id: UUID
    endpoint_id: UUID
    state: str
    tries: int
    due_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to deliver."""

    id: UUID
    event_id: UUID
    endpoint_id: UUID
    number: int
    status_code: int | None
    failure: str | None
    duration_ms: int
    created_at: datetime


def body_of(event: Event) -> bytes:
    """What is sent of an event; the same bytes whenever it is sent."""
    head = json.dumps({"id": str(event.id), "type": event.type, "timestamp": to_iso(event.created_at)})
    return f'{head[:-1]}, "data": {event.data}}}'.encode()


_EMIT: LiteralString = """
with event as (
    insert into webhook_event (id, developer_id, type, data, key)
    values (%(id)s, %(developer_id)s, %(type)s, %(data)s, %(key)s)
    on conflict (developer_id, key) do nothing returning id, developer_id, type
), delivery as (
    insert into webhook_delivery (event_id, endpoint_id, developer_id)
    select event.id, e.id, e.developer_id from event join webhook_endpoint e on e.developer_id = event.developer_id
     where e.status = 'active' and case when %(only)s::uuid is null
               then e.event_types = '{}' or event.type = any(e.event_types) else e.id = %(only)s::uuid end
       -- One that is just being deleted is left out, instead of failing the tx of what is told.
       for key share of e
)
select id from event
"""


async def emit(
    tx: Tx,
    developer_id: UUID,
    event_type: EventType,
    data: Mapping[str, Any],
    *,
    key: str | None = None,
    only: UUID | None = None,
) -> UUID | None:
    """Tell a developer, once this tx commits, that something happened; gives the event's id.

    Amounts in `data` are the wire's strings; ids and times may be as they are. With a `key` it is told once for
    this developer, as long as events are kept: None where it had been. `only` sends it to one endpoint, whatever that
    subscribes to.
    """
    text = json.dumps(data, allow_nan=False, default=_plain)
    if len(text) > DATA_CHARACTERS_MAX:
        raise InvariantBroken(f"the data of {event_type} has {len(text)} characters")
    cursor = await tx.execute(
        _EMIT,
        {"id": uuid7(), "developer_id": developer_id, "type": event_type, "data": text, "key": key, "only": only},
    )
    row = await cursor.fetchone()
    return None if row is None else row[0]


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return to_iso(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"an event can't tell of a {type(value).__name__}")


# ── reading ──

_EVENT: LiteralString = "select id, developer_id, type, data, created_at from webhook_event"


async def page(
    tx: Tx,
    *,
    developer_id: UUID | None,
    event_type: str | None,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[Event]:
    """The newest events that this tx may see, or those before the one that a caller has seen."""
    at, after_id = after or (None, None)
    async with tx.cursor(row_factory=class_row(Event)) as cursor:
        await cursor.execute(
            _EVENT
            + """
             where (%(developer)s::uuid is null or developer_id = %(developer)s::uuid)
               and (%(type)s::text is null or type = %(type)s::text)
               and (%(at)s::timestamptz is null or (created_at, id) < (%(at)s::timestamptz, %(id)s::uuid))
             order by created_at desc, id desc limit %(limit)s
            """,
            {"developer": developer_id, "type": event_type, "at": at, "id": after_id, "limit": limit},
        )
        return await cursor.fetchall()


async def find(tx: Tx, event_id: UUID) -> Event:
    """One event. Raises Refusal `not_found` where this tx sees none."""
    async with tx.cursor(row_factory=class_row(Event)) as cursor:
        await cursor.execute(_EVENT + " where id = %s", (event_id,))
        event = await cursor.fetchone()
    if event is None:
        raise Refusal("not_found", "there is no such event")
    return event


async def deliveries_of(tx: Tx, event_ids: Sequence[UUID]) -> dict[UUID, list[Delivery]]:
    """Where these events go, and how far each delivery is."""
    found: dict[UUID, list[Delivery]] = {}
    async with tx.cursor(row_factory=class_row(Delivery)) as cursor:
        await cursor.execute(
            """
            select event_id, endpoint_id, state, tries, due_at, updated_at from webhook_delivery
             where event_id = any(%s) order by endpoint_id
            """,
            (list(event_ids),),
        )
        for delivery in await cursor.fetchall():
            found.setdefault(delivery.event_id, []).append(delivery)
    return found


async def attempts_of(tx: Tx, event_id: UUID, *, after: tuple[datetime, UUID] | None, limit: int) -> list[Attempt]:
    """The tries of an event, newest first."""
    at, after_id = after or (None, None)
    async with tx.cursor(row_factory=class_row(Attempt)) as cursor:
        await cursor.execute(
            """
            select id, event_id, endpoint_id, number, status_code, failure, duration_ms, created_at
              from webhook_attempt
             where event_id = %(event)s
               and (%(at)s::timestamptz is null or (created_at, id) < (%(at)s::timestamptz, %(id)s::uuid))
             order by created_at desc, id desc limit %(limit)s
            """,
            {"event": event_id, "at": at, "id": after_id, "limit": limit},
        )
        return await cursor.fetchall()


_REPLAY: LiteralString = """
insert into webhook_delivery as kept (event_id, endpoint_id, developer_id)
select event.id, e.id, e.developer_id from webhook_event event
  join webhook_endpoint e on e.developer_id = event.developer_id
 where event.id = %(event)s and e.status = 'active' and case when %(only)s::uuid is not null then e.id = %(only)s::uuid
       else e.event_types = '{}' or event.type = any(e.event_types)
            or exists (select from webhook_delivery d where d.event_id = event.id and d.endpoint_id = e.id) end
   for key share of e
on conflict (event_id, endpoint_id) do update set state = 'pending', tries = 0, due_at = now(), updated_at = now()
"""


async def replay(tx: Tx, event: Event, *, only: UUID | None) -> int:
    """Deliver an event once more, with the same id, to one endpoint or to all that want it; gives how many.

    Raises Refusal `conflict` where no active endpoint is there for it.
    """
    cursor = await tx.execute(_REPLAY, {"event": event.id, "only": only})
    if cursor.rowcount == 0:
        raise Refusal("conflict", "no active endpoint is there to send this event to")
    return cursor.rowcount
