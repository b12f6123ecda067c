"""Who waits for a wallet: first come, first served, for holds that fit only once others have ended.

A wallet that pays for ten small answers must serve ten of them although each hold reserves more than its answer
will cost. A request whose hold doesn't fit waits here until a hold on the same wallet is settled or released in
this process, or a moment passes (other processes free wallets too).
"""

from __future__ import annotations

import asyncio
from collections import deque

POLL_SECONDS = 0.05
WAITERS_PER_WALLET = 1024


class WalletQueues:
    """The queues of one process, by wallet."""

    def __init__(self) -> None:
        self._waiting: dict[int, deque[asyncio.Future[None]]] = {}

    def is_busy(self, wallet_id: int) -> bool:
        """Whether others wait for this wallet already; a newcomer then goes behind them."""
        return wallet_id in self._waiting

    def join(self, wallet_id: int) -> asyncio.Future[None] | None:
        """A place at the end; its future is done when it is first. None when the queue is full."""
        queue = self._waiting.setdefault(wallet_id, deque())
        if len(queue) >= WAITERS_PER_WALLET:
            return None
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(place)
        if queue[0] is place:
            place.set_result(None)
        return place

    def leave(self, wallet_id: int, place: asyncio.Future[None]) -> None:
        """Give a place up, served or not; the next one is first."""
        queue = self._waiting[wallet_id]
        was_first = queue[0] is place
        queue.remove(place)
        if not queue:
            del self._waiting[wallet_id]
        elif was_first and not queue[0].done():
            queue[0].set_result(None)


class Freed:
    """Tells the first in a wallet's queue that a hold ended, without polling."""

    def __init__(self) -> None:
        self._listeners: dict[int, asyncio.Future[None]] = {}

    async def wait(self, wallet_id: int, seconds: float) -> None:
        """Return when a hold on the wallet ends here, or after `seconds`."""
        listener: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listeners[wallet_id] = listener
        try:
            async with asyncio.timeout(min(seconds, POLL_SECONDS)):
                await listener
        except TimeoutError:
            pass
        finally:
            if self._listeners.get(wallet_id) is listener:
                del self._listeners[wallet_id]

    def notify(self, wallet_id: int) -> None:
        """A hold on this wallet was settled or released."""
        if self._listeners:
            listener = self._listeners.get(wallet_id)
            if listener is not None and not listener.done():
                listener.set_result(None)
