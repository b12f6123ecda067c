"""Whose rows a tx may see. The database's row-level security holds to it; without either call it shows none."""

from __future__ import annotations

from uuid import UUID

from faucet.kit.db import Tx

EVERYBODY = "*"


async def see_only(tx: Tx, developer_id: UUID) -> None:
    """From here to its end the tx sees and writes this developer's rows alone."""
    await _set(tx, str(developer_id))


async def see_all(tx: Tx) -> None:
    """From here to its end the tx sees all developers' rows: for the platform's own work, such as an operator's."""
    await _set(tx, EVERYBODY)


async def _set(tx: Tx, value: str) -> None:
    await tx.execute("select set_config('faucet.developer_id', %s, true)", (value,))
