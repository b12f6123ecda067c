"""The control plane's transactions: each says whose rows it is about, and the database shows no others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NewType
from uuid import UUID

from faucet.api.world import World
from faucet.kit.db import Tx, tx
from faucet.tenants.tenancy import see_all, see_only

TenantTx = NewType("TenantTx", Tx)
"""An open tx that was told whose rows it may see."""


@asynccontextmanager
async def tenant_tx(world: World, developer_id: UUID | None) -> AsyncIterator[TenantTx]:
    """One transaction over this developer's rows; None is all developers', for operators and the platform's work."""
    async with tx(world.db) as t:
        if developer_id is None:
            await see_all(t)
        else:
            await see_only(t, developer_id)
        yield TenantTx(t)
