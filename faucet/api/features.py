"""Features: what an app uses AI for, each with its policy and pricing, in versions."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request, Response

from faucet.api.apps import PublicAppId
from faucet.api.auth import DeveloperScope, require
from faucet.api.developer_wire import (
    FeatureActivation,
    FeatureAsk,
    FeatureItem,
    FeatureParts,
    FeaturePatch,
    FeatureVersionItem,
)
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.trail import Trail, changed
from faucet.api.wire import Identifier
from faucet.api.world import TheRequestId, TheWorld
from faucet.kit.errors import field_error
from faucet.tenants import apps, features
from faucet.tenants.features import Feature

router = APIRouter(tags=["developer: features"])

Reader = Annotated[DeveloperScope, Depends(require("developer:features:read"))]
Writer = Annotated[DeveloperScope, Depends(require("developer:features:write"))]
FeatureKey = Annotated[Identifier, Path()]
VERSION_MAX = 2**31 - 1


def feature_item(feature: Feature) -> FeatureItem:
    """The wire's view of a feature."""
    own = {name: getattr(feature, name) for name in FeatureItem.model_fields if hasattr(feature, name)}
    return FeatureItem.model_validate(own | feature.parts)


@router.get(
    "/v1/developer/apps/{public_app_id}/features",
    response_model=PageReply[FeatureItem],
    response_model_exclude_none=True,
)
async def list_features(
    public_app_id: PublicAppId, caller: Reader, world: TheWorld, page: ThePage
) -> PageReply[FeatureItem]:
    """An app's features, newest first, without archived ones."""
    async with tenant_tx(world, caller.developer_id) as t:
        app = await apps.find(t, public_app_id)
        rows = await features.page(t, app, after=page.after, limit=page.fetch)
    shown, cursor = page.cut(rows, lambda feature: (feature.created_at, feature.id))
    return page_reply([feature_item(feature) for feature in shown], cursor)


@router.post("/v1/developer/apps/{public_app_id}/features", status_code=201, response_model=FeatureItem)
async def create_feature(
    public_app_id: PublicAppId,
    body: FeatureAsk,
    request: Request,
    caller: Writer,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Make a feature. A word of its manifest that is not known, or not right, is refused with its path."""

    async def act(t: TenantTx) -> FeatureItem:
        app = await apps.find(t, public_app_id)
        feature = await features.create(
            t,
            app,
            feature_key=body.feature_key,
            display_name=body.display_name,
            policy=body.policy,
            pricing=body.pricing,
            parts={name: value for name, value in body.parts.items() if value is not None},
            by=str(caller.actor),
        )
        item = feature_item(feature)
        await _note(t, caller, rid, "feature.created", item, app.developer_id, {}, item.model_dump(mode="json"))
        return item

    return await idempotent(
        world, request, principal=str(caller.actor), developer_id=caller.developer_id, key=key, body=body, act=act
    )


@router.patch(
    "/v1/developer/apps/{public_app_id}/features/{feature_key}",
    response_model=FeatureItem,
    response_model_exclude_none=True,
)
async def change_feature(
    public_app_id: PublicAppId,
    feature_key: FeatureKey,
    body: FeaturePatch,
    caller: Writer,
    world: TheWorld,
    rid: TheRequestId,
) -> FeatureItem:
    """Make the feature's next version of what is given, and put it in force; requests use it within five seconds."""
    for name in sorted(body.model_fields_set - FeatureParts.model_fields.keys()):
        if getattr(body, name) is None:
            raise field_error(name, "may not be null")
    async with tenant_tx(world, caller.developer_id) as t:
        app = await apps.find(t, public_app_id)
        before = feature = await features.find(t, app, feature_key)
        if body.model_fields_set - {"status"}:
            before, feature = await features.change(
                t,
                app,
                feature_key,
                display_name=body.display_name,
                policy=body.policy,
                pricing=body.pricing,
                parts=body.parts,
                by=str(caller.actor),
            )
        if body.status is not None:
            feature = await features.set_status(t, app, feature_key, body.status)
        return await _changed(t, caller, rid, "feature.changed", app.developer_id, before, feature)


@router.delete(
    "/v1/developer/apps/{public_app_id}/features/{feature_key}",
    response_model=FeatureItem,
    response_model_exclude_none=True,
)
async def archive_feature(
    public_app_id: PublicAppId, feature_key: FeatureKey, caller: Writer, world: TheWorld, rid: TheRequestId
) -> FeatureItem:
    """Archive a feature: requests that name it are refused within five seconds. Harmless to repeat."""
    async with tenant_tx(world, caller.developer_id) as t:
        app = await apps.find(t, public_app_id)
        before = await features.find(t, app, feature_key)
        feature = await features.set_status(t, app, feature_key, "archived")
        return await _changed(t, caller, rid, "feature.archived", app.developer_id, before, feature)


@router.get(
    "/v1/developer/apps/{public_app_id}/features/{feature_key}/versions",
    response_model=PageReply[FeatureVersionItem],
    response_model_exclude_none=True,
)
async def list_feature_versions(
    public_app_id: PublicAppId, feature_key: FeatureKey, caller: Reader, world: TheWorld, page: ThePage
) -> PageReply[FeatureVersionItem]:
    """What the feature said before: its versions, newest first."""
    # Versions are numbered in the order in which they came; the cursor holds the number where others hold an id.
    before = None if page.after is None else min(page.after[1].int, VERSION_MAX)
    async with tenant_tx(world, caller.developer_id) as t:
        app = await apps.find(t, public_app_id)
        feature = await features.find(t, app, feature_key)
        rows = await features.versions(t, feature, before=before, limit=page.fetch)
    shown, cursor = page.cut(rows, lambda row: (row.created_at, UUID(int=row.version)))
    return page_reply(
        [
            FeatureVersionItem(
                version=row.version,
                is_active=row.version == feature.version,
                display_name=row.display_name,
                policy=row.policy,
                pricing=row.pricing,
                created_by=row.created_by,
                created_at=row.created_at,
                **row.parts,
            )
            for row in shown
        ],
        cursor,
    )


@router.post(
    "/v1/developer/apps/{public_app_id}/features/{feature_key}/activate",
    response_model=FeatureItem,
)
async def activate_feature_version(
    public_app_id: PublicAppId,
    feature_key: FeatureKey,
    body: FeatureActivation,
    request: Request,
    caller: Writer,
    world: TheWorld,
    rid: TheRequestId,
    key: TheIdempotencyKey = None,
) -> Response:
    """Put an earlier version in force again, all of it at once."""

    async def act(t: TenantTx) -> FeatureItem:
        app = await apps.find(t, public_app_id)
        before, feature = await features.activate(t, app, feature_key, body.version)
        return await _changed(t, caller, rid, "feature.activated", app.developer_id, before, feature)

    return await idempotent(
        world,
        request,
        principal=str(caller.actor),
        developer_id=caller.developer_id,
        key=key,
        body=body,
        act=act,
        status=200,
    )


async def _changed(
    t: TenantTx,
    caller: DeveloperScope,
    rid: str,
    action: str,
    developer_id: UUID,
    before: Feature,
    feature: Feature,
) -> FeatureItem:
    item = feature_item(feature)
    old, new = changed(feature_item(before).model_dump(mode="json"), item.model_dump(mode="json"))
    if new:
        await _note(t, caller, rid, action, item, developer_id, old, new)
    return item


async def _note(
    t: TenantTx,
    caller: DeveloperScope,
    rid: str,
    action: str,
    item: FeatureItem,
    developer_id: UUID,
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    name = f"{item.public_app_id}/{item.feature_key}"
    await Trail(caller.actor, rid).note(
        t, action, "feature", name, developer_id=developer_id, before=before or None, after=after
    )
