"""The pages that may call the gateway because an active app names their origin."""

from __future__ import annotations

from faucet.kit.db import Tx

ORIGINS_MAX = 100_000


async def load_origins(connection: Tx) -> frozenset[str]:
    """The origins of all active apps of active developers."""
    cursor = await connection.execute(
        """
        select distinct o from app a join developer d on d.id = a.developer_id, unnest(a.allowed_origins) o
         where a.status = 'active' and d.status = 'active' limit %s
        """,
        (ORIGINS_MAX,),
    )
    return frozenset(row[0] for row in await cursor.fetchall())
