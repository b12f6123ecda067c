"""Features as their developers keep them. Each change is a new version; the row of `feature` is the one in force.

A version that was in force stays readable and can be made the one in force again. What a manifest's words mean is
`manifest`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from psycopg.rows import class_row
from psycopg.types.json import Json, Jsonb

from faucet.kit.db import Tx
from faucet.kit.errors import Refusal, field_error
from faucet.kit.ids import uuid7
from faucet.tenants import store
from faucet.tenants.apps import App
from faucet.tenants.manifest import FeatureManifest, parse_manifest
from faucet.tenants.parts import PARTS_WORDS, Limits, parse_limits

FEATURES_MAX = 1_000
"""Per app: sessions and gateways read all of an app's features."""


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature as it is in force."""

    id: UUID
    public_app_id: str
    feature_key: str
    display_name: str
    policy: dict[str, Any]
    pricing: dict[str, Any]
    parts: dict[str, Any]
    """`input_schema`, `prompt`, `output_schema` and `limits`, those that it has."""
    version: int
    status: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Version:
    """What a feature said once."""

    version: int
    display_name: str
    policy: dict[str, Any]
    pricing: dict[str, Any]
    parts: dict[str, Any]
    created_by: str
    created_at: datetime


_FEATURE: LiteralString = """
select f.id, a.public_app_id, f.feature_key, f.display_name, f.policy, f.pricing, f.parts, f.version, f.status,
       f.created_at, f.updated_at
  from feature f join app a on a.id = f.app_id
"""


def checked(
    app: App, policy: Mapping[str, Any], pricing: Mapping[str, Any], parts: Mapping[str, Any]
) -> FeatureManifest:
    """The manifest. Raises Refusal `invalid_request`, which names the path of the word that is wrong."""
    try:
        return parse_manifest(policy, pricing, parts, default_share_bps=app.default_revenue_share_bps)
    except ValueError as error:
        path, _, text = str(error).partition(": ")
        raise field_error(path, text) from None


async def find(tx: Tx, app: App, feature_key: str) -> Feature:
    """The app's feature with this key, archived or not. Raises Refusal `feature_not_found`."""
    async with tx.cursor(row_factory=class_row(Feature)) as cursor:
        await cursor.execute(_FEATURE + " where f.app_id = %s and f.feature_key = %s", (app.id, feature_key))
        feature = await cursor.fetchone()
    if feature is None:
        raise Refusal("feature_not_found", f"this app has no feature {feature_key!r}")
    return feature


async def page(tx: Tx, app: App, *, after: tuple[datetime, UUID] | None, limit: int) -> list[Feature]:
    """The app's features that are not archived, newest first, from a place in the list."""
    at, after_id = after or (None, None)
    async with tx.cursor(row_factory=class_row(Feature)) as cursor:
        await cursor.execute(
            _FEATURE
            + """
             where f.app_id = %(app)s and f.status = 'active'
               and (%(at)s::timestamptz is null or (f.created_at, f.id) < (%(at)s::timestamptz, %(id)s::uuid))
             order by f.created_at desc, f.id desc limit %(limit)s
            """,
            {"app": app.id, "at": at, "id": after_id, "limit": limit},
        )
        return await cursor.fetchall()


async def create(
    tx: Tx,
    app: App,
    *,
    feature_key: str,
    display_name: str,
    policy: Mapping[str, Any],
    pricing: Mapping[str, Any],
    parts: Mapping[str, Any] | None = None,
    by: str,
) -> Feature:
    """A new feature at version 1. Raises Refusal `conflict`, and `invalid_request` for a manifest that is wrong."""
    parts = parts or {}
    manifest = checked(app, policy, pricing, parts)
    await _give_away(tx, app, manifest)
    cursor = await tx.execute("select count(*) from feature where app_id = %s", (app.id,))
    row = await cursor.fetchone()
    if row is not None and row[0] >= FEATURES_MAX:
        raise Refusal("conflict", f"an app has at most {FEATURES_MAX} features, archived ones included")
    cursor = await tx.execute(
        """
        insert into feature (id, developer_id, app_id, feature_key, display_name, policy, pricing, parts, free_quota_e8)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict (app_id, feature_key) do nothing
        """,
        (
            uuid7(),
            app.developer_id,
            app.id,
            feature_key,
            display_name,
            Jsonb(policy),
            Jsonb(pricing),
            Json(parts),
            manifest.pricing.free_quota_e8,
        ),
    )
    if cursor.rowcount == 0:
        raise Refusal("conflict", f"this app has a feature {feature_key!r} already", param="feature_key")
    feature = await find(tx, app, feature_key)
    await _limit(tx, feature.id, Limits(), manifest.parts.limits)
    await _keep(tx, app, feature, by)
    await store.announce_change(tx)
    return feature


async def change(
    tx: Tx,
    app: App,
    feature_key: str,
    *,
    display_name: str | None = None,
    policy: Mapping[str, Any] | None = None,
    pricing: Mapping[str, Any] | None = None,
    parts: Mapping[str, Any] | None = None,
    by: str,
) -> tuple[Feature, Feature]:
    """The feature before and after: what is given becomes its next version, in force when the tx commits.

    Of `parts`, those that are named are changed, and taken away where they are None.

    Raises Refusal `feature_not_found`, and `invalid_request` for a manifest that is wrong.
    """
    before = await _locked(tx, app, feature_key)
    new_policy = before.policy if policy is None else policy
    new_pricing = before.pricing if pricing is None else pricing
    merged = before.parts | dict(parts or {})
    new_parts = {word: merged[word] for word in PARTS_WORDS if merged.get(word) is not None}
    manifest = checked(app, new_policy, new_pricing, new_parts)
    await _give_away(tx, app, manifest)
    await _keep(tx, app, before, by)  # a feature that was made by hand may lack the version that it is at
    await tx.execute(
        """
        update feature set display_name = %s, policy = %s, pricing = %s, parts = %s, free_quota_e8 = %s,
               updated_at = now(),
               version = (select max(v.version) + 1 from feature_version v where v.feature_id = feature.id)
         where id = %s
        """,
        (
            display_name or before.display_name,
            Jsonb(new_policy),
            Jsonb(new_pricing),
            Json(new_parts),
            manifest.pricing.free_quota_e8,
            before.id,
        ),
    )
    await _limit(tx, before.id, limits_of(before.parts), manifest.parts.limits)
    after = await find(tx, app, feature_key)
    await _keep(tx, app, after, by)
    await store.announce_change(tx)
    return before, after


async def activate(tx: Tx, app: App, feature_key: str, version: int) -> tuple[Feature, Feature]:
    """The feature before and after an earlier version was put in force again, all of it at once.

    Raises Refusal `feature_not_found`, `not_found` for the version, and `invalid_request` where its words are no
    longer understood.
    """
    before = await _locked(tx, app, feature_key)
    wanted = next((v for v in await versions(tx, before, at=version)), None)
    if wanted is None:
        raise Refusal("not_found", f"this feature has no version {version}")
    manifest = checked(app, wanted.policy, wanted.pricing, wanted.parts)
    await _give_away(tx, app, manifest)
    await tx.execute(
        "update feature set display_name = %s, policy = %s, pricing = %s, parts = %s, free_quota_e8 = %s,"
        " version = %s, updated_at = now() where id = %s",
        (
            wanted.display_name,
            Jsonb(wanted.policy),
            Jsonb(wanted.pricing),
            Json(wanted.parts),
            manifest.pricing.free_quota_e8,
            version,
            before.id,
        ),
    )
    await _limit(tx, before.id, limits_of(before.parts), manifest.parts.limits)
    await store.announce_change(tx)
    return before, await find(tx, app, feature_key)


async def set_status(tx: Tx, app: App, feature_key: str, status: str) -> Feature:
    """The feature, archived or active. Raises Refusal `feature_not_found`."""
    feature = await _locked(tx, app, feature_key)
    await tx.execute("update feature set status = %s, updated_at = now() where id = %s", (status, feature.id))
    await store.announce_change(tx)
    return await find(tx, app, feature_key)


async def versions(
    tx: Tx, feature: Feature, *, at: int | None = None, before: int | None = None, limit: int = 1
) -> list[Version]:
    """The versions of a feature, newest first, from below a number; or the one with this number."""
    async with tx.cursor(row_factory=class_row(Version)) as cursor:
        await cursor.execute(
            """
            select version, display_name, policy, pricing, parts, created_by, created_at from feature_version
             where feature_id = %(id)s and (%(at)s::integer is null or version = %(at)s::integer)
               and (%(before)s::integer is null or version < %(before)s::integer)
             order by version desc limit %(limit)s
            """,
            {"id": feature.id, "at": at, "before": before, "limit": limit},
        )
        return await cursor.fetchall()


async def _give_away(tx: Tx, app: App, manifest: FeatureManifest) -> None:
    """Raises Refusal `invalid_request` where a free quota would never be paid: the platform gives nothing away."""
    if not manifest.pricing.free_quota_e8:
        return
    cursor = await tx.execute("select free_quota_month_max_e8 from developer where id = %s", (app.developer_id,))
    row = await cursor.fetchone()
    if row is None or row[0] < manifest.pricing.free_quota_e8:
        raise field_error(
            "pricing.free_quota", "is more than the operator gives away for this developer's features in a month"
        )


def limits_of(parts: Mapping[str, Any]) -> Limits:
    """The limits of a manifest that is stored."""
    return parse_limits(parts["limits"]) if "limits" in parts else Limits()


async def _limit(tx: Tx, feature_id: UUID, before: Limits, after: Limits) -> None:
    """Set and lift the spend limits of a feature; they bind from the ledger's next commit on."""
    for scope, old, new in (
        ("feature", before.feature_month_e8, after.feature_month_e8),
        ("feature_end_user", before.end_user_month_e8, after.end_user_month_e8),
    ):
        if old != new:  # setting one stops all holds for a moment, so it isn't done for nothing
            await tx.execute("select spend_limit_set_v1(%s, %s, 'month', %s)", (scope, feature_id, new))


async def _locked(tx: Tx, app: App, feature_key: str) -> Feature:
    """The feature, which nobody else changes until the tx ends. Raises Refusal `feature_not_found`."""
    await tx.execute("select 1 from feature where app_id = %s and feature_key = %s for update", (app.id, feature_key))
    return await find(tx, app, feature_key)


async def _keep(tx: Tx, app: App, feature: Feature, by: str) -> None:
    """Write the version in force down, if it is not yet."""
    await tx.execute(
        """
        insert into feature_version
            (feature_id, version, developer_id, display_name, policy, pricing, parts, created_by)
        values (%s, %s, %s, %s, %s, %s, %s, %s) on conflict (feature_id, version) do nothing
        """,
        (
            feature.id,
            feature.version,
            app.developer_id,
            feature.display_name,
            Jsonb(feature.policy),
            Jsonb(feature.pricing),
            Json(feature.parts),
            by,
        ),
    )
