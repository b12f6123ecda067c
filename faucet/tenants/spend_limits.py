"""Spend limits by the names that people know: of an app, a feature as APP/FEATURE, an end user as APP/USER, a session.

Not here: what a limit stops (`ledger`, within the hold).
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from faucet.kit.db import Tx
from faucet.kit.errors import Refusal
from faucet.tenants import store
from faucet.tenants.sessions import external_id_hash

Scope = Literal["app", "feature", "end_user", "session"]
Period = Literal["month", "total"]


async def set_limit(tx: Tx, scope: Scope, row_id: UUID, period: Period, limit_e8: int | None) -> None:
    """Set or change a limit; None lifts it. It counts what was spent in its period before, too."""
    await tx.execute("select spend_limit_set_v1(%s, %s, %s, %s)", (scope, row_id, period, limit_e8))


async def find(tx: Tx, scope: Scope, target: str, *, external_id_key: bytes) -> tuple[UUID, UUID]:
    """The row that a limit is over, and whose it is, by its name or its id. Raises Refusal `not_found`."""
    row_id = await _by_name(tx, scope, target, external_id_key)
    if row_id is None:
        try:
            row_id = UUID(target)
        except ValueError:
            raise _none(scope) from None
    table = {"app": "app", "feature": "feature", "end_user": "end_user", "session": "session"}[scope]
    cursor = await tx.execute(f"select developer_id from {table} where id = %s".encode(), (row_id,))
    row = await cursor.fetchone()
    if row is None:
        raise _none(scope)
    return row_id, row[0]


def _none(scope: Scope) -> Refusal:
    return Refusal("not_found", f"there is no such {scope.replace('_', ' ')}")


async def _by_name(tx: Tx, scope: Scope, target: str, external_id_key: bytes) -> UUID | None:
    public_app_id, _, name = target.partition("/")
    app = None if scope == "session" else await store.find_app(tx, public_app_id)
    if app is None:
        return None
    if scope == "app":
        return None if name else app.id
    if scope == "feature":
        return next((f.id for f in await store.list_features(tx, app.id) if f.feature_key == name), None)
    hashed = external_id_hash(external_id_key, app.id, name)
    cursor = await tx.execute("select id from end_user where app_id = %s and external_id_hash = %s", (app.id, hashed))
    row = await cursor.fetchone()
    return None if row is None else row[0]
