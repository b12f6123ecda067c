"""One gateway process of a benchmark: the product's own, or (`--without-books`) the same with nothing booked.

Without books the ledger's lane is replaced, here and not by a switch in the product, by one that says yes at
once: the difference between the two is what durable books cost. The database's address is in BENCH_DSN.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from typing import Any
from uuid import UUID

from faucet.gateway import world
from faucet.gateway.main import main as serve
from faucet.kit.config import load_config
from faucet.ledger.lane import DONE, HoldAnswer, HoldItem, Lane, SettleItem

_PR_SET_PTRACER = 0x59616D61
_HELD = HoldAnswer(DONE, 0, 0)


class BooklessLane(Lane):
    """Grants every hold and forgets every settlement. Nothing is durable; for comparison only."""

    async def start(self) -> None:
        self.connected = True

    async def close(self, *, patience_seconds: float = 5.0) -> None:
        self.connected = False

    def hold(self, item: HoldItem) -> asyncio.Future[HoldAnswer]:
        return _answered(_HELD)

    def settle(self, item: SettleItem, reply: bytes | None = None) -> asyncio.Future[int]:
        return _answered(0)

    def release(self, hold_id: UUID, reason: str) -> asyncio.Future[int]:
        return _answered(DONE)

    def renew(self, hold_ids: Any) -> None:
        return None


def _answered(value: Any) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future


def main() -> None:
    """Serve until told to stop."""
    if "--without-books" in sys.argv:
        vars(world)["Lane"] = BooklessLane
    if "--may-be-traced" in sys.argv and sys.platform == "linux":
        # Where only ancestors may trace a process, this lets py-spy in without root.
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    serve(load_config(), os.environ["BENCH_DSN"])


if __name__ == "__main__":
    main()
