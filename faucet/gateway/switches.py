"""What the operator has switched off, as a gateway remembers it between two looks at the database."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from faucet.kit.db import Tx


@dataclass(frozen=True, slots=True)
class Switches:
    """The kill switches that are thrown."""

    everything: bool = False
    apps: frozenset[UUID] = frozenset()
    providers: frozenset[str] = frozenset()

    def stop(self, app_id: UUID) -> bool:
        """Whether requests of this app are refused."""
        return self.everything or app_id in self.apps


async def load_switches(connection: Tx) -> Switches:
    """The switches that are thrown now."""
    cursor = await connection.execute("select target, target_id from kill_switch")
    rows = await cursor.fetchall()
    return Switches(
        everything=any(target == "everything" for target, _ in rows),
        apps=frozenset(UUID(target_id) for target, target_id in rows if target == "app"),
        providers=frozenset(target_id for target, target_id in rows if target == "provider"),
    )
