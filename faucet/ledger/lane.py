"""Group commit: holds, settlements, releases and renewals of all requests in flight share one commit.

There is no timer. A group is whatever arrived while the previous one committed, first come first served. An item
that the ledger refuses gets its own answer; its neighbours go through. When the database goes away, holds fail
at once (nothing has been promised yet), while settlements and releases stay here and are repeated with the same
ids until they are durable. What a settlement means is in `moves.py`; this file only carries it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from faucet.kit.db import REPEATABLE, is_lost
from faucet.kit.errors import FaucetError, InvariantBroken
from faucet.kit.log import logger
from faucet.ledger import budgets
from faucet.ledger.budgets import Spent, Taken, Wanted

GROUP_MAX = 512
QUEUE_MAX = 20_000
STATEMENT_SECONDS = 10.0
RECONNECT_SECONDS = 0.1

DONE, INSUFFICIENT, BUDGET, FROZEN, RESOLVED, CONFLICT, UNFIT, NO_HOLD, UNEVEN = range(9)


class LedgerUnavailable(FaucetError):
    """The ledger can't be reached or is too far behind; nothing was promised."""


class SettleRefused(InvariantBroken):
    """The ledger found a settlement impossible; `status` says why (see migrations/0005)."""

    def __init__(self, hold_id: UUID, status: int) -> None:
        super().__init__(f"settlement of {hold_id} refused with status {status}")
        self.status = status


class HoldItem(NamedTuple):
    """One hold, in the order of `hold_v1`'s parameters."""

    id: UUID
    wallet_id: int
    amount_e8: int
    developer_id: UUID
    app_id: UUID
    feature_id: UUID | None
    end_user_id: UUID
    session_id: UUID
    request_id: str | None
    budgets: tuple[tuple[UUID, int], ...] = ()  # reserved besides: credentials, and the most that each may have to pay


class SettleItem(NamedTuple):
    """One settlement, in the order of `settle_v2`'s parameters. Amounts in e8, durations in milliseconds."""

    id: UUID
    wallet_id: int
    cost_e8: int
    rated_e8: int
    channel_e8: int
    platform_e8: int
    cost_account: int
    earnings_account: int
    revenue_account: int
    price_id: int
    input_tokens: int
    cached_read_tokens: int
    cached_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    first_byte_ms: int
    duration_ms: int
    payer: int
    source: int
    outcome: int
    provider: str
    model: str
    raw_usage: str | None
    feature_version: int | None = None
    """None in the spools of an older gateway."""
    budget: tuple[UUID | None, int] | None = None  # where the hold reserved on some: whose, and what it cost them


class HoldAnswer(msgspec.Struct, frozen=True):
    """What the ledger said to a hold. `room_e8` is what is posted (or left of a limit), `busy_e8` what others hold."""

    status: int
    room_e8: int
    busy_e8: int
    spent: frozenset[UUID] = frozenset()  # credentials whose budgets had no room; the hold stands without them


_HOLD = (
    "hold_v1($1::uuid[], $2::bigint[], $3::bigint[], $4::uuid[], $5::uuid[], $6::uuid[], $7::uuid[], $8::uuid[],"
    " $9::text[], $10::int)"
)
_SETTLE_TYPES = (
    ["uuid[]"] + ["bigint[]"] * 9 + ["int[]"] * 7 + ["smallint[]"] * 3 + ["text[]"] * 3 + ["int[]"]
)  # in the order of SettleItem


def _settle_call(first: int) -> str:
    return "settle_v2(" + ", ".join(f"${first + i}::{kind}" for i, kind in enumerate(_SETTLE_TYPES)) + ")"


HOLD_SQL = f"select h.status, h.posted, h.held from {_HOLD} h"
SETTLE_SQL = f"select s.status, s.posted from {_settle_call(1)} s"
# Everything at once: holds $1-$9, lease $10, settlements $11-$34, releases $35-$37, replies $38-$39, renewals $40.
GROUP_SQL = (
    "select g.hold_status, g.hold_posted, g.hold_held, g.settle_status, g.settle_posted, g.release_status"
    " from group_v2("
    + ", ".join(
        f"${i}::{kind}"
        for i, kind in enumerate(
            [
                *("uuid[]", "bigint[]", "bigint[]", "uuid[]", "uuid[]", "uuid[]", "uuid[]", "uuid[]", "text[]", "int"),
                *_SETTLE_TYPES,
                *("uuid[]", "text[]", "text[]", "uuid[]", "bytea[]", "uuid[]"),
            ],
            start=1,
        )
    )
    + ") g"
)


_HELD = HoldAnswer(DONE, 0, 0)


class _Pending(NamedTuple):
    item: Any
    answer: asyncio.Future[Any]


class Lane:
    """One connection to the ledger and the queues that wait for it. Belongs to one event loop."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        *,
        lease_seconds: int,
        patience_seconds: float = 10.0,
        on_at_risk: Callable[[Sequence[SettleItem]], None] = lambda items: None,
        on_safe: Callable[[UUID], None] = lambda hold_id: None,
    ) -> None:
        self._connect = connect
        self._lease_seconds = lease_seconds
        self._patience_seconds = patience_seconds
        self._on_at_risk = on_at_risk
        self._on_safe = on_safe
        self._at_risk: set[UUID] = set()
        self._holds: deque[_Pending] = deque()
        self._settles: deque[_Pending] = deque()
        self._releases: deque[_Pending] = deque()
        self._renewals: list[UUID] = []
        self._replies: dict[UUID, bytes] = {}
        self._budgeted: set[UUID] = set()  # requests in flight that have to do with budgets; as a rule none
        self._wake: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._connection: asyncpg.Connection | None = None
        self._closing = False
        self._busy = False
        self.connected = False
        self.groups = 0
        self.items = 0

    async def start(self) -> None:
        """Connect and begin. Raises LedgerUnavailable when the database can't be reached now."""
        try:
            await self._open()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
            raise LedgerUnavailable(str(error)) from error
        self.connected = True
        self._task = asyncio.create_task(self._run(), name="ledger-lane")

    async def close(self, *, patience_seconds: float = 5.0) -> None:
        """Commit what is queued, for a while, then stop. What is left is in the spool or ends with its lease."""
        deadline = time.monotonic() + patience_seconds
        while (self._busy or self._settles or self._releases or self._holds) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        self._closing = True
        self._poke()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._connection is not None:
            self._connection.terminate()

    async def _open(self) -> None:
        connection = await self._connect()
        # Wakes the loop, which looks: a connection that dies while nothing is asked is replaced at once.
        connection.add_termination_listener(lambda _: self._poke())
        self._connection = connection

    # ── what the moves call ──

    def hold(self, item: HoldItem) -> asyncio.Future[HoldAnswer]:
        """Queue a hold. Raises LedgerUnavailable at once when the ledger is away or too far behind."""
        if not self.connected or self._closing:
            raise LedgerUnavailable("the ledger is not connected")
        if len(self._holds) >= QUEUE_MAX:
            raise LedgerUnavailable("too many requests wait for the ledger")
        if item.budgets:
            self._budgeted.add(item.id)
        return self._queue(self._holds, item)

    def settle(self, item: SettleItem, reply: bytes | None = None) -> asyncio.Future[int]:
        """Queue a settlement; the future gives the wallet's balance in e8 once it is durable.

        It is repeated until the database has it, even when nobody waits any more: the future raises
        LedgerUnavailable once patience ends, and SettleRefused where the ledger says no for good.
        """
        if reply is not None:
            self._replies[item.id] = reply
        if item.budget is not None:
            self._budgeted.add(item.id)
        if not self.connected:
            self._warn((item,))
        return self._queue(self._settles, item)

    def _warn(self, items: Sequence[SettleItem]) -> None:
        """The database is away: whoever keeps a spool should write these down."""
        fresh = [item for item in items if item.id not in self._at_risk]
        if fresh:
            try:
                self._on_at_risk(fresh)
            except OSError as error:
                # They stay in the queue all the same, and are written down with the next ones if that works.
                logger.error("ledger.not_spooled", count=len(fresh), error=repr(error))
            else:
                self._at_risk.update(item.id for item in fresh)

    def release(self, hold_id: UUID, reason: str) -> asyncio.Future[int]:
        """Queue a release, repeated until the database has it."""
        return self._queue(self._releases, (hold_id, "released", reason))

    def renew(self, hold_ids: Iterable[UUID]) -> None:
        """Renew leases with the next group."""
        self._renewals = list(hold_ids)
        self._poke()

    def _queue(self, queue: deque[_Pending], item: Any) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        queue.append(_Pending(item, answer))
        wake = self._wake
        if wake is not None and not wake.done():
            wake.set_result(None)
        return answer

    def _poke(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # ── the loop ──

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closing:
            if self._connection is not None and self._connection.is_closed():
                await self._lost((), (), (), ConnectionResetError())
            if not (self._holds or self._settles or self._releases or self._renewals):
                self._wake = loop.create_future()
                await self._wake
                self._wake = None
                # Let everything that became ready in this turn of the loop join the group.
                await asyncio.sleep(0)
                continue
            holds = _take(self._holds)
            settles = _take(self._settles)
            releases = _take(self._releases)
            renewals, self._renewals = self._renewals, []
            self._busy = True
            self.groups += 1
            self.items += len(holds) + len(settles) + len(releases)
            try:
                await self._commit(holds, settles, releases, renewals)
            except Exception as error:  # whatever it is, the lane lives on and every waiter hears of it
                if isinstance(error, REPEATABLE):
                    self._put_back(holds, settles, releases)
                elif is_lost(error):
                    await self._lost(holds, settles, releases, error)
                else:
                    await self._one_by_one(holds, settles, releases, error)
            self._busy = False

    async def _commit(
        self,
        holds: Sequence[_Pending],
        settles: Sequence[_Pending],
        releases: Sequence[_Pending],
        renewals: Sequence[UUID],
    ) -> None:
        connection = self._connection
        assert connection is not None
        spent: Spent = {}
        if self._budgeted:
            async with connection.transaction():
                held, settled, released = await self._book(connection, holds, settles, releases, renewals)
                spent = await self._book_budgets(connection, holds, held, settles, settled, releases)
        else:
            held, settled, released = await self._book(connection, holds, settles, releases, renewals)
        if holds:
            self._answer_holds(holds, held, spent)
        if settles:
            self._answer_settles(settles, settled)
        if releases:
            for (item, answer), status in zip(releases, released, strict=True):
                self._budgeted.discard(item[0])
                if not answer.done():
                    answer.set_result(status)

    async def _book(
        self,
        connection: asyncpg.Connection,
        holds: Sequence[_Pending],
        settles: Sequence[_Pending],
        releases: Sequence[_Pending],
        renewals: Sequence[UUID],
    ) -> tuple[Sequence[Sequence[int]], Sequence[Sequence[int]], Sequence[int]]:
        """What the ledger says to holds, settlements and releases."""
        keep = [(p.item.id, self._replies[p.item.id]) for p in settles if p.item.id in self._replies]
        if holds and not (settles or releases or renewals):
            held = await connection.fetchrow(
                HOLD_SQL, *_columns(holds, 9), self._lease_seconds, timeout=STATEMENT_SECONDS
            )
            return held, (), ()
        if settles and not (holds or releases or renewals or keep):
            settled = await connection.fetchrow(
                SETTLE_SQL, *_columns(settles, len(_SETTLE_TYPES)), timeout=STATEMENT_SECONDS
            )
            return (), settled, ()
        row = await connection.fetchrow(
            GROUP_SQL,
            *_columns(holds, 9),
            self._lease_seconds,
            *_columns(settles, len(_SETTLE_TYPES)),
            *_columns(releases, 3),
            [k[0] for k in keep],
            [k[1] for k in keep],
            renewals,
            timeout=STATEMENT_SECONDS,
        )
        return row[0:3], row[3:5], row[5]

    async def _book_budgets(
        self,
        connection: asyncpg.Connection,
        holds: Sequence[_Pending],
        held: Sequence[Sequence[int]],
        settles: Sequence[_Pending],
        settled: Sequence[Sequence[int]],
        releases: Sequence[_Pending],
    ) -> Spent:
        """The budgets' part of the same commit."""
        settle_status, hold_status = settled[0] if settles else (), held[0] if holds else ()
        booked = [p.item for p, status in zip(settles, settle_status, strict=True) if status in (DONE, RESOLVED)]
        ended = [item.id for item in booked] + [p.item[0] for p in releases]
        return await budgets.book(
            connection,
            freed=[hold_id for hold_id in ended if hold_id in self._budgeted],
            taken=[Taken(item.id, *item.budget) for item in booked if item.budget and item.budget[0] is not None],
            wanted=[
                Wanted(p.item.id, credential, most_e8)
                for p, status in zip(holds, hold_status, strict=True)
                if status == DONE
                for credential, most_e8 in p.item.budgets
            ],
            timeout_seconds=STATEMENT_SECONDS,
        )

    def _answer_holds(self, holds: Sequence[_Pending], columns: Sequence[Sequence[int]], spent: Spent) -> None:
        for (item, answer), status, room, busy in zip(holds, *columns, strict=True):
            if status != DONE and item.budgets:
                self._budgeted.discard(item.id)
            if not answer.done():
                held = HoldAnswer(DONE, 0, 0, spent[item.id]) if item.id in spent else _HELD
                answer.set_result(held if status == DONE else HoldAnswer(status, room, busy))
            elif status == DONE:
                # Whoever asked is gone; nobody else will give this hold back.
                self.release(item.id, "nobody waited for the hold").add_done_callback(_forget)

    def _answer_settles(self, settles: Sequence[_Pending], columns: Sequence[Sequence[int]]) -> None:
        for (item, answer), status, balance in zip(settles, *columns, strict=True):
            self._replies.pop(item.id, None)
            if item.budget is not None:
                self._budgeted.discard(item.id)
            if item.id in self._at_risk:
                self._at_risk.discard(item.id)
                self._on_safe(item.id)
            if answer.done():
                if status not in (DONE, RESOLVED):
                    logger.error("ledger.settle_refused", hold_id=str(item.id), status=status)
            elif status in (DONE, RESOLVED):
                answer.set_result(balance)
            else:
                answer.set_exception(SettleRefused(item.id, status))

    def _put_back(self, *groups: Sequence[_Pending]) -> None:
        for queue, group in zip((self._holds, self._settles, self._releases), groups, strict=True):
            queue.extendleft(reversed(group))

    async def _lost(
        self,
        holds: Sequence[_Pending],
        settles: Sequence[_Pending],
        releases: Sequence[_Pending],
        error: Exception,
    ) -> None:
        """The connection is gone: refuse holds, keep the rest, reconnect. Returns when connected again."""
        logger.warning("ledger.lost", error=type(error).__name__)
        self.connected = False
        if self._connection is not None:
            self._connection.terminate()
        self._put_back((), settles, releases)
        self._warn([pending.item for pending in self._settles])
        for item, answer in [*holds, *self._holds]:
            if not answer.done():
                answer.set_exception(LedgerUnavailable("the ledger went away"))
                # The commit may have happened although its answer was lost: give it back when we can.
                abandoned = self.release(item.id, "hold was never confirmed")
                abandoned.add_done_callback(_forget)
        self._holds.clear()
        since = time.monotonic()
        while not self._closing:
            try:
                await self._open()
                break
            except Exception:  # a connection that dies while it is made raises nearly anything
                await asyncio.sleep(RECONNECT_SECONDS)
            if time.monotonic() - since > self._patience_seconds:
                for pending in self._settles:
                    if not pending.answer.done():
                        pending.answer.set_exception(LedgerUnavailable("the ledger stayed away too long"))
        self.connected = True
        logger.info("ledger.back")

    async def _one_by_one(
        self,
        holds: Sequence[_Pending],
        settles: Sequence[_Pending],
        releases: Sequence[_Pending],
        error: Exception,
    ) -> None:
        """One item made the statement fail: run each alone, so that only that one learns of it."""
        if len(holds) + len(settles) + len(releases) == 1:
            logger.error("ledger.item_failed", error=repr(error))
            for pending in (*holds, *settles, *releases):
                if not pending.answer.done():
                    pending.answer.set_exception(InvariantBroken(repr(error)))
            return
        alone: list[tuple[list[_Pending], list[_Pending], list[_Pending]]] = []
        alone += [([p], [], []) for p in holds]
        alone += [([], [p], []) for p in settles]
        alone += [([], [], [p]) for p in releases]
        for position, parts in enumerate(alone):
            try:
                await self._commit(*parts, [])
            except Exception as failure:
                if is_lost(failure) or isinstance(failure, REPEATABLE):
                    rest = alone[position:]
                    self._put_back(
                        [p for h, _, _ in rest for p in h],
                        [p for _, s, _ in rest for p in s],
                        [p for _, _, r in rest for p in r],
                    )
                    if is_lost(failure):
                        await self._lost((), (), (), failure)
                    return
                await self._one_by_one(*parts, failure)


def _take(queue: deque[_Pending]) -> list[_Pending]:
    if len(queue) <= GROUP_MAX:
        taken = list(queue)
        queue.clear()
        return taken
    return [queue.popleft() for _ in range(GROUP_MAX)]


def _columns(group: Sequence[_Pending], width: int) -> Sequence[Sequence[Any]]:
    if not group:
        return ((),) * width
    # What an item has beyond these is of budgets, which are booked apart.
    return list(zip(*[pending.item for pending in group], strict=True))[:width]


def _forget(future: asyncio.Future[int]) -> None:
    if not future.cancelled():
        future.exception()
