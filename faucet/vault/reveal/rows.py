"""The SQL that reads what is sealed, with the key that it is sealed to, in one statement.

One statement, because a rotation may replace both between two. Not here: what may be asked without a private key
(`vault.store`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from faucet.kit.db import Tx
from faucet.vault.reveal.ring import Sealed, WrappedKey
from faucet.vault.seal import Place
from faucet.vault.store import SEALING_LOCK

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


@dataclass(frozen=True, slots=True)
class Usable:
    """A sealed credential with what its owner lets it be used for. Amounts in e8."""

    sealed: Sealed
    models_allowed: tuple[str, ...]
    priority: int
    weight: int
    budget_e8: int | None
    budget_taken_e8: int
    """Spent, and reserved by requests in flight."""
    fallback_to_platform: bool


_USABLE: LiteralString = """
select c.id, c.owner, c.developer_id, c.app_id, c.end_user_id, c.provider, c.base_url, c.sealed, k.id, k.wrapped, k.kek,
       c.models_allowed, c.priority, c.weight, c.budget_limit_e8, coalesce(b.spent_e8 + b.held_e8, 0),
       c.fallback_to_platform
  from credential c join vault_key k on k.id = c.key_id left join credential_budget b on b.credential_id = c.id
"""
_IN_ORDER: LiteralString = " order by c.priority, c.created_at, c.id"


def _usable(row: tuple[Any, ...]) -> Usable:
    return Usable(_sealed(row[:11]), tuple(row[11]), *row[12:])


async def usable_of(tx: Tx, *, end_user_ids: Collection[UUID], developer_ids: Collection[UUID]) -> list[Usable]:
    """What requests of these end users of these developers may be sent with, by priority.

    Whose a credential is, and of which app, is in its place; each caller gets only what is theirs.
    """
    cursor = await tx.execute(
        _USABLE
        + """
         where (c.owner = 'end_user' and c.end_user_id = any(%s))
            or (c.owner = 'developer' and c.developer_id = any(%s))
        """
        + _IN_ORDER,
        (list(end_user_ids), list(developer_ids)),
    )
    return [_usable(row) for row in await cursor.fetchall()]


async def usable_of_platform(tx: Tx) -> list[Usable]:
    """The operator's own stored credentials, by priority."""
    cursor = await tx.execute(_USABLE + " where c.owner = 'platform'" + _IN_ORDER)
    return [_usable(row) for row in await cursor.fetchall()]


@dataclass(frozen=True, slots=True)
class Told:
    """What gateways saw of a credential since they last told."""

    credential_id: UUID
    uses: int
    last_used_at: datetime | None
    error_code: str | None
    """How the provider refused it last; None where it answered since."""


async def tell_uses(tx: Tx, told: Sequence[Told], *, now: datetime) -> None:
    """Add up what was seen of credentials, one row each."""
    await tx.execute(
        """
        update credential c
           set use_count = c.use_count + t.uses, last_used_at = greatest(c.last_used_at, t.used_at),
               failing_since = case when t.error is not null then coalesce(c.failing_since, %s::timestamptz)
                   when t.uses > 0 then null else c.failing_since end,
               last_error_code = case when t.error is not null then t.error
                   when t.uses > 0 then null else c.last_error_code end
          from (select * from unnest(%s::uuid[], %s::bigint[], %s::timestamptz[], %s::text[])
                as u (id, uses, used_at, error) order by id) t
         where c.id = t.id and c.status = 'active'
        """,
        (
            now,
            [each.credential_id for each in told],
            [each.uses for each in told],
            [each.last_used_at for each in told],
            [each.error_code for each in told],
        ),
    )


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
               last_validated_at = case when %(answer)s = 'accepted' then %(now)s else last_validated_at end,
               failing_since = case when %(answer)s = 'accepted' then null else failing_since end,
               last_error_code = case when %(answer)s = 'accepted' then null else last_error_code end
         where id = %(id)s
        """,
        {"answer": answer, "now": now, "id": row_id},
    )
