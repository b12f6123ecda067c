"""What the jobs do with the outbox: take what is due, write down how a try ended, switch off what fails, forget.

A try is claimed in one tx and marked in another; between them is the network. Whoever dies there leaves a claim that
runs out, and the event is sent again with the same id: at least once, never lost.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from faucet.kit.db import Tx
from faucet.kit.ids import uuid7
from faucet.kit.log import logger
from faucet.kit.secret import Secret
from faucet.webhooks.endpoints import give_up
from faucet.webhooks.outbox import Event
from faucet.webhooks.schedule import FAILING_DAYS, pause_seconds
from faucet.webhooks.signing import open_secret

CLAIM_SECONDS = 60
"""How long a try may take before another process may think that its process died."""
PER_ENDPOINT = 5
"""Of one endpoint at a time, so that one that is slow doesn't hold up the others; of one that fails only one."""
EVENT_DAYS = 30
"""How long events are kept for replays."""
GONE_STATUS = 410
"""By the specification: whoever answers so wants no more events."""


@dataclass(frozen=True, slots=True)
class Due:
    """One try to make."""

    event: Event
    endpoint_id: UUID
    url: str
    number: int
    secrets: list[Secret] = field(repr=False)
    """The newest first; empty where none opens any more."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a try ended: a status, or why there was none."""

    status_code: int | None
    failure: str | None
    duration_ms: int

    @property
    def is_accepted(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300


# The lateral part reads a few index entries of each endpoint, however much waits for one that is down.
_CLAIM: LiteralString = """
with due as (
    select d.event_id, d.endpoint_id from webhook_endpoint e cross join lateral (
        select w.event_id, w.endpoint_id, w.due_at from webhook_delivery w
         where w.endpoint_id = e.id and w.state = 'pending' and w.due_at <= now()
         order by w.due_at, w.event_id
         limit case when e.failing_since is null then %(per_endpoint)s::integer else 1 end
           for no key update skip locked
    ) d where e.status = 'active' and e.id <> all(%(busy)s::uuid[]) order by d.due_at limit %(batch)s
), claimed as (
    update webhook_delivery w set tries = w.tries + 1, due_at = now() + make_interval(secs => %(claim)s),
           updated_at = now()
      from due where w.event_id = due.event_id and w.endpoint_id = due.endpoint_id
    returning w.event_id, w.endpoint_id, w.tries
)
select c.endpoint_id, c.tries, e.url, v.id, v.developer_id, v.type, v.data, v.created_at,
       array(select s.id from webhook_secret s where s.endpoint_id = c.endpoint_id
              and (s.expires_at is null or s.expires_at > %(now)s) order by s.id desc) as secret_ids,
       array(select s.sealed from webhook_secret s where s.endpoint_id = c.endpoint_id
              and (s.expires_at is null or s.expires_at > %(now)s) order by s.id desc) as sealed
  from claimed c join webhook_endpoint e on e.id = c.endpoint_id join webhook_event v on v.id = c.event_id
"""


async def claim(tx: Tx, *, batch: int, now: datetime, sealing_key: bytes, busy: Collection[UUID] = ()) -> list[Due]:
    """Tries that are due, for this process alone until CLAIM_SECONDS from now. Commit before making them.

    None of endpoints that are `busy`.
    """
    cursor = await tx.execute(
        _CLAIM,
        {"per_endpoint": PER_ENDPOINT, "batch": batch, "claim": CLAIM_SECONDS, "now": now, "busy": list(busy)},
    )
    found = []
    for endpoint_id, tries, url, *event, secret_ids, sealed in await cursor.fetchall():
        secrets = []
        for row_id, each in zip(secret_ids, sealed, strict=True):
            try:
                secrets.append(open_secret(bytes(each), sealing_key, row_id=row_id, endpoint_id=endpoint_id))
            except ValueError as error:
                # SECRET_ENCRYPTION_KEY has changed since, or somebody moved the row: the developer rotates.
                logger.error("webhook_secret.not_opened", endpoint=str(endpoint_id), error=repr(error))
        found.append(Due(Event(*event), endpoint_id, url, tries, secrets))
    return found


async def mark(tx: Tx, due: Due, outcome: Outcome) -> str | None:
    """Write down how a try ended, and when the next one is. Gives why the endpoint was switched off, if it was now."""
    await tx.execute(
        """
        insert into webhook_attempt (id, event_id, endpoint_id, developer_id, number, status_code, failure, duration_ms)
        select %s, d.event_id, d.endpoint_id, d.developer_id, %s, %s, %s, %s from webhook_delivery d
         where d.event_id = %s and d.endpoint_id = %s for key share of d
        """,
        (uuid7(), due.number, outcome.status_code, outcome.failure, outcome.duration_ms, due.event.id, due.endpoint_id),
    )
    pause = None if outcome.is_accepted else pause_seconds(due.number, random.randint(0, 1000))
    state = "delivered" if outcome.is_accepted else "failed" if pause is None else "pending"
    # Not where it was replayed or claimed again meanwhile: that try has an end of its own.
    await tx.execute(
        """
        update webhook_delivery set state = %s, due_at = now() + make_interval(secs => %s), updated_at = now()
         where event_id = %s and endpoint_id = %s and tries = %s and state = 'pending'
        """,
        (state, pause or 0, due.event.id, due.endpoint_id, due.number),
    )
    if outcome.is_accepted:
        await tx.execute(
            "update webhook_endpoint set failing_since = null where id = %s and failing_since is not null",
            (due.endpoint_id,),
        )
        return None
    return await _count_failure(tx, due.endpoint_id, gone=outcome.status_code == GONE_STATUS)


async def _count_failure(tx: Tx, endpoint_id: UUID, *, gone: bool) -> str | None:
    """Note since when an endpoint fails; switch it off after a long time, or where it says that it is gone."""
    cursor = await tx.execute(
        """
        update webhook_endpoint e set failing_since = coalesce(e.failing_since, now()),
               status = case when o.off is null then e.status else 'disabled' end, disabled_reason = o.off,
               updated_at = case when o.off is null then e.updated_at else now() end
          from (select n.id, case when %(gone)s then 'gone'
                       when n.failing_since < now() - make_interval(days => %(days)s) then 'failing' end as off
                  from webhook_endpoint n where n.id = %(id)s) o
         where e.id = o.id and e.status = 'active' returning e.disabled_reason
        """,
        {"gone": gone, "days": FAILING_DAYS, "id": endpoint_id},
    )
    row = await cursor.fetchone()
    reason: str | None = None if row is None else row[0]
    if reason is not None:
        await give_up(tx, endpoint_id)
    return reason


async def forget_old(tx: Tx, *, batch: int) -> int:
    """Delete events of a month ago with all that was noted about them, and secrets that have run out."""
    await tx.execute(
        "delete from webhook_secret where id in (select id from webhook_secret where expires_at < now() limit %s)",
        (batch,),
    )
    cursor = await tx.execute(
        "delete from webhook_event where id in"
        " (select id from webhook_event where created_at < now() - make_interval(days => %s) limit %s)",
        (EVENT_DAYS, batch),
    )
    return cursor.rowcount
