"""Every SQL statement over credentials that a door without private keys may make. What is sealed is only written here.

All take an open tx that was told whose rows it may see. Reading what is sealed: `vault.reveal.rows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from psycopg.rows import class_row

from faucet.kit.db import Tx
from faucet.kit.errors import Refusal
from faucet.vault.seal import Place, PublicKey

VALIDATION_ASKED = "faucet_validation"
"""The channel on which gateways hear that somebody wants a secret tried."""
SEALING_LOCK = 7_219_008
PER_OWNER_MAX = 100
"""Active credentials of one end user, or of one developer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A credential without its secret."""

    id: UUID
    owner: str
    developer_id: UUID | None
    app_id: UUID | None
    end_user_id: UUID | None
    provider: str
    base_url: str | None
    mask: str
    models_allowed: list[str]
    priority: int
    weight: int
    budget_limit_e8: int | None
    fallback_to_platform: bool
    status: str
    use_count: int
    failing_since: datetime | None
    last_error_code: str | None
    last_used_at: datetime | None
    last_validated_at: datetime | None
    validation_asked_at: datetime | None
    validation_answer: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def place(self) -> Place:
        """Where its secret belongs."""
        return Place(
            row_id=self.id,
            owner=self.owner,
            developer_id=self.developer_id,
            app_id=self.app_id,
            end_user_id=self.end_user_id,
            provider=self.provider,
            base_url=self.base_url,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What its owner may change of a credential at any time."""

    models_allowed: Sequence[str]
    priority: int
    weight: int
    budget_limit_e8: int | None
    fallback_to_platform: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """A secret as it is stored, with what may be shown of it."""

    key_id: UUID
    sealed: bytes = field(repr=False)
    mask: str


_READ: LiteralString = """
select c.id, c.owner, c.developer_id, c.app_id, c.end_user_id, c.provider, c.base_url, c.mask, c.models_allowed,
       c.priority, c.weight, c.budget_limit_e8, c.fallback_to_platform, c.status, c.use_count, c.failing_since,
       c.last_error_code, c.last_used_at, c.last_validated_at, c.validation_asked_at, c.validation_answer,
       c.created_at, c.updated_at
  from credential c
"""
_AFTER: LiteralString = """
   and (%(at)s::timestamptz is null or (c.created_at, c.id) < (%(at)s::timestamptz, %(id)s::uuid))
 order by c.created_at desc, c.id desc limit %(limit)s
"""


async def newest_key(tx: Tx) -> PublicKey:
    """The key to seal to, which stays until this tx ends. Raises Refusal `unavailable` where the vault has none yet."""
    # Runner one: we seal to this key. Runner two: a rotation finds nothing sealed to it and forgets it.
    await tx.execute("select pg_advisory_xact_lock_shared(%s)", (SEALING_LOCK,))
    cursor = await tx.execute("select id, public_key from vault_key order by id desc limit 1")
    row = await cursor.fetchone()
    if row is None:
        raise Refusal(
            "unavailable", "this installation can't keep secrets yet: its operator has to run `faucet reseal`"
        )
    return PublicKey(row[0], bytes(row[1]))


async def insert(tx: Tx, place: Place, terms: Terms, sealing: Sealing, *, now: datetime, validated: bool) -> None:
    """Add a credential. Raises Refusal `conflict` where its owner has as many as one may have."""
    cursor = await tx.execute(
        """
        select count(*) from credential
         where owner = %s and status = 'active' and developer_id is not distinct from %s
           and end_user_id is not distinct from %s
        """,
        (place.owner, place.developer_id, place.end_user_id),
    )
    row = await cursor.fetchone()
    if row is not None and row[0] >= PER_OWNER_MAX:
        raise Refusal("conflict", f"there may be at most {PER_OWNER_MAX} active keys; delete one first")
    await tx.execute(
        """
        insert into credential (id, owner, developer_id, app_id, end_user_id, provider, base_url, sealed, key_id, mask,
                                models_allowed, priority, weight, budget_limit_e8, fallback_to_platform,
                                last_validated_at, created_at, updated_at)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            place.row_id,
            place.owner,
            place.developer_id,
            place.app_id,
            place.end_user_id,
            place.provider,
            place.base_url,
            sealing.sealed,
            sealing.key_id,
            sealing.mask,
            list(terms.models_allowed),
            terms.priority,
            terms.weight,
            terms.budget_limit_e8,
            terms.fallback_to_platform,
            now if validated else None,
            now,
            now,
        ),
    )


async def list_of_end_user(
    tx: Tx, end_user_id: UUID, *, limit: int, after: tuple[datetime, UUID] | None
) -> list[Credential]:
    """An end user's credentials, newest first, disabled ones too."""
    at, row_id = after or (None, None)
    async with tx.cursor(row_factory=class_row(Credential)) as cursor:
        await cursor.execute(
            _READ + " where c.owner = 'end_user' and c.end_user_id = %(end_user_id)s " + _AFTER,
            {"end_user_id": end_user_id, "at": at, "id": row_id, "limit": limit},
        )
        return await cursor.fetchall()


async def list_of_developers(
    tx: Tx, *, app_id: UUID | None, limit: int, after: tuple[datetime, UUID] | None
) -> list[Credential]:
    """Developers' own credentials that this tx may see, newest first; of one app where that is said."""
    at, row_id = after or (None, None)
    async with tx.cursor(row_factory=class_row(Credential)) as cursor:
        await cursor.execute(
            _READ
            + " where c.owner = 'developer' and (%(app_id)s::uuid is null or c.app_id = %(app_id)s::uuid) "
            + _AFTER,
            {"app_id": app_id, "at": at, "id": row_id, "limit": limit},
        )
        return await cursor.fetchall()


async def list_of_platform(tx: Tx, *, limit: int, after: tuple[datetime, UUID] | None) -> list[Credential]:
    """The platform's own credentials, newest first, disabled ones too."""
    at, row_id = after or (None, None)
    async with tx.cursor(row_factory=class_row(Credential)) as cursor:
        await cursor.execute(_READ + " where c.owner = 'platform' " + _AFTER, {"at": at, "id": row_id, "limit": limit})
        return await cursor.fetchall()


async def providers_of_platform(tx: Tx) -> list[str]:
    """The providers that the platform has an active credential for."""
    cursor = await tx.execute(
        "select distinct provider from credential where owner = 'platform' and status = 'active' order by provider"
    )
    return [row[0] for row in await cursor.fetchall()]


async def find(tx: Tx, row_id: UUID, *, end_user_id: UUID | None, owner: str | None = None) -> Credential | None:
    """A credential of this end user; None: of a developer whose rows this tx may see, or of another `owner`."""
    async with tx.cursor(row_factory=class_row(Credential)) as cursor:
        await cursor.execute(
            _READ + " where c.id = %s and c.owner = %s and c.end_user_id is not distinct from %s",
            (row_id, owner or ("developer" if end_user_id is None else "end_user"), end_user_id),
        )
        return await cursor.fetchone()


async def keys_of_app(tx: Tx, *, app_id: UUID, end_user_id: UUID) -> tuple[bool, bool]:
    """Whether an app's end user has an active credential, and whether its developer has one for the app."""
    cursor = await tx.execute(
        """
        select exists (select from credential c
                        where c.owner = 'end_user' and c.end_user_id = %(end_user)s and c.status = 'active'),
               exists (select from credential c join app a on a.developer_id = c.developer_id
                        where a.id = %(app)s and c.owner = 'developer' and c.status = 'active'
                          and (c.app_id is null or c.app_id = a.id))
        """,
        {"end_user": end_user_id, "app": app_id},
    )
    row = await cursor.fetchone()
    assert row is not None
    return row[0], row[1]


async def change_terms(tx: Tx, row_id: UUID, terms: Terms, *, now: datetime) -> None:
    """Set what a credential's owner may change of it."""
    await tx.execute(
        """
        update credential set models_allowed = %s, priority = %s, weight = %s, budget_limit_e8 = %s,
               fallback_to_platform = %s, updated_at = %s
         where id = %s
        """,
        (
            list(terms.models_allowed),
            terms.priority,
            terms.weight,
            terms.budget_limit_e8,
            terms.fallback_to_platform,
            now,
            row_id,
        ),
    )


async def replace(tx: Tx, row_id: UUID, sealing: Sealing, *, now: datetime, validated: bool) -> bool:
    """Put another secret in the place of an active credential's, and say whether there was one."""
    cursor = await tx.execute(
        """
        update credential set sealed = %s, key_id = %s, mask = %s, last_validated_at = %s, updated_at = %s,
               failing_since = null, last_error_code = null
         where id = %s and status = 'active'
        """,
        (sealing.sealed, sealing.key_id, sealing.mask, now if validated else None, now, row_id),
    )
    return cursor.rowcount == 1


async def disable(tx: Tx, row_id: UUID, *, now: datetime) -> bool:
    """End a credential for good and erase its secret. Says whether it was active."""
    cursor = await tx.execute(
        """
        update credential set status = 'disabled', sealed = null, key_id = null, validation_asked_at = null,
               failing_since = null, updated_at = %s
         where id = %s and status = 'active'
        """,
        (now, row_id),
    )
    return cursor.rowcount == 1


async def ask_validation(tx: Tx, row_id: UUID, *, now: datetime) -> None:
    """Ask gateways, when this tx commits, to try an active credential's secret."""
    await tx.execute(
        """
        update credential set validation_asked_at = %s, validation_answer = null where id = %s and status = 'active'
        """,
        (now, row_id),
    )
    await tx.execute("select pg_notify(%s, '')", (VALIDATION_ASKED,))


async def public_app_ids(tx: Tx, app_ids: Sequence[UUID]) -> dict[UUID | None, str]:
    """What the world calls these apps."""
    cursor = await tx.execute("select id, public_app_id from app where id = any(%s)", (list(app_ids),))
    return {row[0]: row[1] for row in await cursor.fetchall()}
