"""The inbox: the processor's events, verified on their raw bytes, stored once by their ids, applied once, in any order.

`verified` turns a webhook's bytes into an event or refuses it; `store` keeps it; `apply` lets whoever understands its
type act on it, in the same tx that marks it as done. An event that tells of something not known yet waits in the inbox
and is tried again later, so the order in which events come doesn't matter. Not here: what an event means (`topups`,
`disputes`, payouts), which process applies when.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, LiteralString
from uuid import UUID

import stripe
from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.kit.errors import field_error
from faucet.kit.log import logger
from faucet.kit.secret import Secret

TOLERANCE_SECONDS = 300
EVENT_BYTES_MAX = 512 << 10
WAITS_DAYS = 7
"""So long an event may wait for what it refers to; after that a person has to look."""
RETRY_SECONDS = (2, 5, 15, 60, 300, 1_800, 3_600)
BATCH = 100
OF_ACCOUNTS = ("payout.", "account.")
"""What is told of connected accounts here; all else that happens there is their owners' own business."""
MARKS = ("top_up", "payout_id", "refund")
"""The words of metadata that are ours."""


class Outcome(StrEnum):
    """What became of an event."""

    APPLIED = "applied"
    IGNORED = "ignored"
    REFUSED = "refused"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What the audit log is to say of it; doors write it, in the same tx."""

    action: str
    resource_type: str
    resource_id: str
    developer_id: UUID | None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What whoever understands an event did with it, and why."""

    outcome: Outcome
    reason: str = ""
    resource: Any = None
    """What it was about, for who wants to show it: a top-up's id, a payout's change."""
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the processor."""

    id: str
    type: str
    account: str | None
    """The connected account that it is about; None is the platform."""
    created_at: datetime
    is_live: bool
    body: bytes
    """As it came."""

    @property
    def about(self) -> dict[str, Any]:
        """The object that it tells of, as it was then."""
        found: dict[str, Any] = json.loads(self.body)["data"]["object"]
        return found


Applier = Callable[[Tx, Event], Awaitable[Verdict]]


def verified(body: bytes, header: str | None, *secrets: Secret) -> Event:
    """The event in a webhook's raw bytes, signed with one of the secrets.

    Raises Refusal `invalid_request` for a signature that is missing, false or older than five minutes, and for a body
    that is no event.
    """
    if len(body) > EVENT_BYTES_MAX:
        raise field_error("body", "is larger than an event can be")
    if not any(_is_signed(body, header, secret) for secret in secrets):
        raise field_error("stripe-signature", "is not Stripe's over this body within the last five minutes")
    return read(body)


def _is_signed(body: bytes, header: str | None, secret: Secret) -> bool:
    try:
        stripe.WebhookSignature.verify_header(body, header, secret.reveal(), tolerance=TOLERANCE_SECONDS)
    except (stripe.SignatureVerificationError, UnicodeDecodeError):
        return False
    return True


def read(body: bytes) -> Event:
    """The event in these bytes, which are known to be the processor's. Raises Refusal `invalid_request`."""
    try:
        # As strict as PostgreSQL, which has to read it too.
        told = json.loads(body.decode(), parse_constant=_no_number)
        event = Event(
            id=told["id"],
            type=told["type"],
            account=told.get("account"),
            created_at=datetime.fromtimestamp(told["created"], UTC),
            is_live=bool(told["livemode"]),
            body=body,
        )
        whole = isinstance(told["data"]["object"], dict) and told["object"] == "event"
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        whole = False
    if not whole or not _is_sound(event):
        raise field_error("body", "is not an event of Stripe's")
    return event


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _is_sound(event: Event) -> bool:
    names = (event.id, event.type, "-" if event.account is None else event.account)
    return all(
        isinstance(name, str) and 0 < len(name) <= 255 and name.isascii() and "\x00" not in name for name in names
    )


async def store(tx: Tx, event: Event) -> bool:
    """Keep an event; False where it had been kept before."""
    cursor = await tx.execute(
        """
        insert into stripe_event (id, type, account, created_at, is_live, body) values (%s, %s, %s, %s, %s, %s)
        on conflict (id) do nothing
        """,
        (event.id, event.type, event.account, event.created_at, event.is_live, event.body),
    )
    return cursor.rowcount == 1


@dataclass(frozen=True, slots=True)
class Kept:
    """An event's row in the inbox."""

    id: str
    row_id: UUID
    type: str
    account: str | None
    created_at: datetime
    is_live: bool
    body: bytes
    received_at: datetime
    outcome: str
    reason: str
    attempts: int
    settled_at: datetime | None

    @property
    def event(self) -> Event:
        """The event itself."""
        return Event(self.id, self.type, self.account, self.created_at, self.is_live, bytes(self.body))


_KEPT: LiteralString = """
select id, row_id, type, account, created_at, is_live, body, received_at, outcome, reason, attempts, settled_at
  from stripe_event
"""


async def claim(tx: Tx, event_id: str) -> Kept | None:
    """The event's row, ours until the tx ends; who else wants it waits."""
    async with tx.cursor(row_factory=class_row(Kept)) as cursor:
        await cursor.execute(_KEPT + " where id = %s for update", (event_id,))
        return await cursor.fetchone()


async def apply(
    tx: Tx, kept: Kept, appliers: Mapping[str, Applier], *, now: datetime, is_live: bool | None = None
) -> Verdict:
    """Let the applier of the event's type act, and note what became of it; nothing where that was settled before.

    An event of another mode than `is_live` (None: either) is refused, and what happened at a connected account is none
    of ours but for payouts from there. What is refused has a row for the audit log. What an applier raises undoes the
    tx, and the event is tried again.
    """
    if kept.settled_at is not None:
        return Verdict(Outcome(kept.outcome), kept.reason)
    applier = applier_of(kept.type, appliers)
    verdict = _not_ours(kept, is_live=is_live)
    if verdict is None:
        verdict = _UNKNOWN if applier is None else await applier(tx, kept.event)
    if verdict.outcome is Outcome.WAITING and now - kept.received_at > timedelta(days=WAITS_DAYS):
        reason = f"given up after {WAITS_DAYS} days: {verdict.reason}"
        verdict = Verdict(Outcome.REFUSED, reason, verdict.resource, (_note(kept, "stripe_event.given_up", reason),))
    elif verdict.outcome is Outcome.REFUSED and not verdict.notes:
        notes = (_note(kept, "stripe_event.refused", verdict.reason),)
        verdict = Verdict(Outcome.REFUSED, verdict.reason, verdict.resource, notes)
    is_settled = verdict.outcome is not Outcome.WAITING
    pause = RETRY_SECONDS[min(kept.attempts, len(RETRY_SECONDS) - 1)]
    await tx.execute(
        """
        update stripe_event set outcome = %s, reason = %s, attempts = attempts + 1, settled_at = %s, next_at = %s
         where id = %s
        """,
        (verdict.outcome, verdict.reason[:500], now if is_settled else None, now + timedelta(seconds=pause), kept.id),
    )
    if verdict.outcome is Outcome.REFUSED:
        logger.error("stripe.event_refused", event_id=kept.id, type=kept.type, reason=verdict.reason)
    return verdict


_UNKNOWN = Verdict(Outcome.IGNORED, "nothing here is about it")


def _not_ours(kept: Kept, *, is_live: bool | None) -> Verdict | None:
    """Why nothing may follow from an event, whatever it says."""
    if is_live is not None and kept.is_live != is_live:
        came, here = ("live", "test") if kept.is_live else ("test", "live")
        return Verdict(Outcome.REFUSED, f"it is of Stripe's {came} mode, and the key here is of its {here} mode")
    if kept.account is not None and not kept.type.startswith(OF_ACCOUNTS):
        reason = f"it is of the connected account {kept.account}, not the platform's"
        marks = kept.event.about.get("metadata")
        is_marked = isinstance(marks, dict) and any(mark in marks for mark in MARKS)
        return Verdict(Outcome.REFUSED if is_marked else Outcome.IGNORED, reason)
    return None


def _note(kept: Kept, action: str, reason: str) -> Note:
    return Note(
        action=action,
        resource_type="stripe_event",
        resource_id=kept.id,
        developer_id=None,
        after={"type": kept.type, "account": kept.account, "reason": reason},
    )


def applier_of(kind: str, appliers: Mapping[str, Applier]) -> Applier | None:
    """Who understands this type: the applier of the type itself, else of the longest `prefix.` that it begins with."""
    if kind in appliers:
        return appliers[kind]
    fitting = [prefix for prefix in appliers if prefix.endswith(".") and kind.startswith(prefix)]
    return appliers[max(fitting, key=len)] if fitting else None


async def postpone(tx: Tx, event_id: str, reason: str, *, now: datetime) -> None:
    """Note, in a tx of its own, that applying an event went wrong; it is tried again, later each time."""
    await tx.execute(
        """
        update stripe_event set reason = %s, attempts = attempts + 1,
               next_at = %s + make_interval(secs => (%s::integer[])[least(attempts + 1, %s)])
         where id = %s and settled_at is null
        """,
        (reason[:500], now, list(RETRY_SECONDS), len(RETRY_SECONDS), event_id),
    )


async def due(tx: Tx, *, now: datetime, limit: int = BATCH) -> list[str]:
    """The events that are to be tried now, oldest first."""
    cursor = await tx.execute(
        "select id from stripe_event where settled_at is null and next_at <= %s order by received_at limit %s",
        (now, limit),
    )
    return [row[0] for row in await cursor.fetchall()]


async def wake(tx: Tx, *, now: datetime) -> None:
    """Something came that others may wait for: try them at the next turn.

    In a tx of its own, for who has one of them in hand may want what the tx of an event has locked.
    """
    await tx.execute(
        """
        update stripe_event set next_at = %(now)s where id in (
            select id from stripe_event where settled_at is null and next_at > %(now)s order by id for update)
        """,
        {"now": now},
    )


async def page(
    tx: Tx, *, outcome: str | None, kind: str | None, after: tuple[datetime, UUID] | None, limit: int
) -> list[Kept]:
    """The inbox, newest first, from a place in the list."""
    at, after_id = after or (None, None)
    async with tx.cursor(row_factory=class_row(Kept)) as cursor:
        await cursor.execute(
            _KEPT
            + """
             where (%(outcome)s::text is null or outcome = %(outcome)s::text)
               and (%(kind)s::text is null or type = %(kind)s::text)
               and (%(at)s::timestamptz is null or (received_at, row_id) < (%(at)s::timestamptz, %(id)s::uuid))
             order by received_at desc, row_id desc limit %(limit)s
            """,
            {"outcome": outcome, "kind": kind, "at": at, "id": after_id, "limit": limit},
        )
        return await cursor.fetchall()
