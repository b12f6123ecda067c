"""The SQL that reads what is sealed, with the key that it is sealed to, in one statement.

One statement, because a rotation may replace both between two. Not here: what may be asked without a private key
(`vault.store`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from faucet.kit.db import Tx
from faucet.vault.reveal.ring import Sealed, WrappedKey
from faucet.vault.seal import Place
from faucet.vault.store import SEALING_LOCK

CREDENTIALS_MAX = 500

_READ: LiteralString = """
select c.id, c.owner, c.developer_id, c.app_id, c.end_user_id, c.provider, c.base_url, c.sealed, k.id, k.wrapped, k.kek
  from credential c join vault_key k on k.id = c.key_id
"""


@dataclass(frozen=True, slots=True)
class Counts:
    """How far a rotation is."""

    left: int
    total: int


def _sealed(row: tuple[Any, ...]) -> Sealed:
    row_id, owner, developer_id, app_id, end_user_id, provider, base_url, sealed, key_id, wrapped, kek = row
    place = Place(
        row_id=row_id,
        owner=owner,
        developer_id=developer_id,
        app_id=app_id,
        end_user_id=end_user_id,
        provider=provider,
        base_url=base_url,
    )
    return Sealed(place, bytes(sealed), WrappedKey(key_id, bytes(wrapped), kek))


async def find_sealed(tx: Tx, row_id: UUID) -> Sealed | None:
    """An active credential, sealed."""
    cursor = await tx.execute(_READ + " where c.id = %s", (row_id,))
    row = await cursor.fetchone()
    return None if row is None else _sealed(row)


async def usable_sealed(tx: Tx, *, developer_id: UUID, app_id: UUID, end_user_id: UUID) -> list[Sealed]:
    """What a request of this end user of this app may be sent with, sealed: first the user's own, then the
    developer's, each by priority."""
    cursor = await tx.execute(
        _READ
        + """
         where (c.owner = 'end_user' and c.end_user_id = %s)
            or (c.owner = 'developer' and c.developer_id = %s and (c.app_id is null or c.app_id = %s))
         order by c.owner desc, c.priority, c.created_at, c.id limit %s
        """,
        (end_user_id, developer_id, app_id, CREDENTIALS_MAX),
    )
    return [_sealed(row) for row in await cursor.fetchall()]


async def insert_key(tx: Tx, key: WrappedKey, public_key: bytes) -> None:
    """Add a key; from when this commits, everything new is sealed to it."""
    await tx.execute(
        "insert into vault_key (id, public_key, wrapped, kek) values (%s, %s, %s, %s)",
        (key.id, public_key, key.wrapped, key.kek),
    )


async def lock_keys(tx: Tx) -> list[tuple[WrappedKey, bytes]]:
    """All keys with their public halves, newest first; whoever else rotates waits until this tx ends."""
    await tx.execute("lock table vault_key in share row exclusive mode")
    cursor = await tx.execute("select id, wrapped, kek, public_key from vault_key order by id desc")
    return [(WrappedKey(row[0], bytes(row[1]), row[2]), bytes(row[3])) for row in await cursor.fetchall()]


async def rewrap_key(tx: Tx, key: WrappedKey) -> None:
    """Keep a private key under another key-encryption key."""
    await tx.execute("update vault_key set wrapped = %s, kek = %s where id = %s", (key.wrapped, key.kek, key.id))


async def lock_stale(tx: Tx, newest: UUID, *, limit: int, but: Iterable[UUID]) -> list[Sealed]:
    """Some credentials that are sealed to an older key, locked; those that others work on are passed over."""
    cursor = await tx.execute(
        _READ + " where c.key_id < %s and c.id <> all(%s) order by c.id limit %s for update of c skip locked",
        (newest, list(but), limit),
    )
    return [_sealed(row) for row in await cursor.fetchall()]


async def replace_sealed(tx: Tx, row_id: UUID, *, sealed: bytes, key_id: UUID) -> None:
    """Keep a credential under another key."""
    await tx.execute("update credential set sealed = %s, key_id = %s where id = %s", (sealed, key_id, row_id))


async def count_stale(tx: Tx, newest: UUID) -> Counts:
    """How many credentials are sealed to an older key, and how many there are."""
    cursor = await tx.execute(
        "select count(*) filter (where key_id < %s), count(*) from credential where key_id is not null", (newest,)
    )
    row = await cursor.fetchone()
    assert row is not None
    return Counts(row[0], row[1])


async def delete_unused_keys(tx: Tx, newest: UUID) -> int:
    """Forget every older key that nothing is sealed to, once nobody is sealing any more."""
    await tx.execute("select pg_advisory_xact_lock(%s)", (SEALING_LOCK,))
    cursor = await tx.execute(
        """
        delete from vault_key k
         where k.id < %s and not exists (select from credential c where c.key_id = k.id)
        """,
        (newest,),
    )
    return cursor.rowcount


async def claim_validation(tx: Tx, *, since: datetime) -> Sealed | None:
    """A credential that somebody wants tried, locked until this tx ends; one that another gateway has is left to it."""
    cursor = await tx.execute(
        _READ
        + """
         where c.validation_asked_at >= %s
         order by c.validation_asked_at limit 1 for update of c skip locked
        """,
        (since,),
    )
    row = await cursor.fetchone()
    return None if row is None else _sealed(row)


async def answer_validation(tx: Tx, row_id: UUID, answer: str, *, now: datetime) -> None:
    """Say what the provider said of a secret."""
    await tx.execute(
        """
        update credential set validation_asked_at = null, validation_answer = %(answer)s,
               last_validated_at = case when %(answer)s = 'accepted' then %(now)s else last_validated_at end
         where id = %(id)s
        """,
        {"answer": answer, "now": now, "id": row_id},
    )
