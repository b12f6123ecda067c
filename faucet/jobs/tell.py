"""Write down what developers are to be told of without anybody having done it; `webhooks` delivers it."""

from __future__ import annotations

from faucet.kit.db import Tx
from faucet.kit.log import logger
from faucet.tenants import notices

BATCHES_MAX = 100
"""A sweep ends after so many and leaves the rest to the next one."""


async def tell_developers(connection: Tx, *, wallet_low_e8: int, batch: int = notices.BATCH) -> int:
    """Tell of wallets that ran low and of spend limits that were reached, on a connection without an open tx.

    Gives how many wallets there were.
    """
    low = 0
    for _ in range(BATCHES_MAX):
        async with connection.transaction():
            told = await notices.tell_low_wallets(connection, default_e8=wallet_low_e8, batch=batch)
        low += told
        if told < batch:
            break
    for _ in range(BATCHES_MAX):
        async with connection.transaction():
            if await notices.tell_reached_limits(connection, batch=batch) < batch:
                break
    if low:
        logger.info("wallets.low", count=low)
    return low
