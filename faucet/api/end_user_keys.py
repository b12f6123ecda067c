"""An end user's own provider keys: add, list, change, disable, rotate, validate."""

from __future__ import annotations

import asyncio
from uuid import UUID

from fastapi import APIRouter, Request, Response

from faucet.api.auth import Actor, EndUser, TheEndUser
from faucet.api.credential_wire import ProviderKeyAsk, ProviderKeyChange, ProviderKeyReply, RotationAsk
from faucet.api.credentials import (
    ask_provider,
    create,
    disable,
    endpoint_of,
    no_such_key,
    note_change,
    raise_if_refused,
    read_again,
    reply_of,
    sealing_of,
    unsafe,
)
from faucet.api.idempotency import TheIdempotencyKey, idempotent
from faucet.api.paging import PageReply, ThePage, page_reply
from faucet.api.tenant import TenantTx, tenant_tx
from faucet.api.world import TheRequestId, TheWorld
from faucet.kit.errors import Refusal
from faucet.kit.ids import uuid7
from faucet.kit.secret import Secret
from faucet.providers.probe import Verdict
from faucet.vault import store
from faucet.vault.seal import Place
from faucet.vault.store import Credential, Terms

ANSWER_SECONDS = 12.0
"""How long a validation waits for a gateway's answer; a provider that does not answer takes eight."""
LOOK_SECONDS = 0.1

router = APIRouter()


def _actor(caller: EndUser) -> Actor:
    return Actor("end_user", str(caller.session.end_user_id))


async def _own(tx: TenantTx, caller: EndUser, key_id: UUID) -> Credential:
    """A key of the caller's. Raises Refusal `not_found`."""
    row = await store.find(tx, key_id, end_user_id=caller.session.end_user_id)
    if row is None:
        raise no_such_key()
    return row


async def _own_active(tx: TenantTx, caller: EndUser, key_id: UUID) -> Credential:
    """An active key of the caller's. Raises Refusal `not_found`, `conflict`."""
    row = await _own(tx, caller, key_id)
    if row.status != "active":
        raise Refusal("conflict", "this provider key is disabled; add it anew")
    return row


@router.post(
    "/v1/user/provider-keys",
    tags=["end user"],
    status_code=201,
    response_model=ProviderKeyReply,
    response_model_exclude_none=True,
)
async def add_own_provider_key(
    body: ProviderKeyAsk,
    request: Request,
    caller: TheEndUser,
    world: TheWorld,
    rid: TheRequestId,
    idempotency_key: TheIdempotencyKey = None,
) -> Response:
    """Keep a provider's key of the session's end user, sealed. The provider is asked first whether it takes it."""
    session = caller.session
    verdict = await ask_provider(world, body.provider, body.base_url, Secret(body.api_key), ask=body.validate_)

    async def act(tx: TenantTx) -> ProviderKeyReply:
        place = Place(
            row_id=uuid7(),
            owner="end_user",
            developer_id=session.developer_id,
            app_id=session.app_id,
            end_user_id=session.end_user_id,
            provider=body.provider,
            base_url=body.base_url,
        )
        return reply_of(await create(world, tx, place, body, verdict, weight=1, actor=_actor(caller), rid=rid))

    return await idempotent(
        world,
        request,
        principal=f"end_user:{session.end_user_id}",
        developer_id=session.developer_id,
        key=idempotency_key,
        body=body,
        act=act,
    )


@router.get(
    "/v1/user/provider-keys",
    tags=["end user"],
    response_model=PageReply[ProviderKeyReply],
    response_model_exclude_none=True,
)
async def list_own_provider_keys(caller: TheEndUser, world: TheWorld, page: ThePage) -> PageReply[ProviderKeyReply]:
    """The end user's keys, newest first, disabled ones too; masked."""
    async with tenant_tx(world, caller.session.developer_id) as t:
        found = await store.list_of_end_user(t, caller.session.end_user_id, limit=page.fetch, after=page.after)
    rows, cursor = page.cut(found, lambda row: (row.created_at, row.id))
    return page_reply([reply_of(row) for row in rows], cursor)


@router.patch(
    "/v1/user/provider-keys/{key_id}",
    tags=["end user"],
    response_model=ProviderKeyReply,
    response_model_exclude_none=True,
)
async def change_own_provider_key(
    key_id: UUID, body: ProviderKeyChange, caller: TheEndUser, world: TheWorld, rid: TheRequestId
) -> ProviderKeyReply:
    """Change what a key may be used for. Its provider and address stay: a key is bound to where it is sent."""
    given = body.model_fields_set
    async with tenant_tx(world, caller.session.developer_id) as t:
        row = await _own_active(t, caller, key_id)
        terms = Terms(
            models_allowed=row.models_allowed if body.models_allowed is None else body.models_allowed,
            priority=row.priority if body.priority is None else body.priority,
            weight=row.weight,
            budget_limit_e8=body.budget_limit_usd if "budget_limit_usd" in given else row.budget_limit_e8,
            fallback_to_platform=(
                row.fallback_to_platform if body.fallback_to_platform is None else body.fallback_to_platform
            ),
        )
        await store.change_terms(t, row.id, terms, now=world.clock.now())
        after = await read_again(t, row.id, row.end_user_id)
        await note_change(t, _actor(caller), rid, "changed", before=row, after=after)
    return reply_of(after)


@router.delete(
    "/v1/user/provider-keys/{key_id}",
    tags=["end user"],
    response_model=ProviderKeyReply,
    response_model_exclude_none=True,
)
async def disable_own_provider_key(
    key_id: UUID, caller: TheEndUser, world: TheWorld, rid: TheRequestId
) -> ProviderKeyReply:
    """Disable a key for good and erase its secret. Harmless to repeat."""
    async with tenant_tx(world, caller.session.developer_id) as t:
        row = await _own(t, caller, key_id)
        return reply_of(await disable(t, row, now=world.clock.now(), actor=_actor(caller), rid=rid))


@router.post(
    "/v1/user/provider-keys/{key_id}/rotate",
    tags=["end user"],
    response_model=ProviderKeyReply,
    response_model_exclude_none=True,
)
async def rotate_own_provider_key(
    key_id: UUID,
    body: RotationAsk,
    request: Request,
    caller: TheEndUser,
    world: TheWorld,
    rid: TheRequestId,
    idempotency_key: TheIdempotencyKey = None,
) -> Response:
    """Put a new secret in the place of a key's; the old one is erased."""
    session = caller.session
    async with tenant_tx(world, session.developer_id) as t:
        row = await _own_active(t, caller, key_id)
    secret = Secret(body.api_key)
    verdict = await ask_provider(world, row.provider, row.base_url, secret, ask=body.validate_)

    async def act(tx: TenantTx) -> ProviderKeyReply:
        raise_if_refused(verdict)
        before = await _own_active(tx, caller, key_id)
        sealing = await sealing_of(tx, secret, before.place)
        accepted = verdict is Verdict.ACCEPTED
        if not await store.replace(tx, before.id, sealing, now=world.clock.now(), validated=accepted):
            raise Refusal("conflict", "this provider key is disabled; add it anew")
        after = await read_again(tx, before.id, before.end_user_id)
        await note_change(tx, _actor(caller), rid, "rotated", before=before, after=after)
        return reply_of(after)

    return await idempotent(
        world,
        request,
        principal=f"end_user:{session.end_user_id}",
        developer_id=session.developer_id,
        key=idempotency_key,
        body=body,
        act=act,
        status=200,
    )


@router.post(
    "/v1/user/provider-keys/{key_id}/validate",
    tags=["end user"],
    response_model=ProviderKeyReply,
    response_model_exclude_none=True,
)
async def validate_own_provider_key(key_id: UUID, caller: TheEndUser, world: TheWorld) -> ProviderKeyReply:
    """Ask the provider whether it still takes a stored key: `last_validated_at` says when it last did.

    A gateway asks, for only gateways can open a key. Where none answers in time, nothing changes.
    """
    developer_id = caller.session.developer_id
    async with tenant_tx(world, developer_id) as t:
        row = await _own_active(t, caller, key_id)
        endpoint_of(world, row.provider, row.base_url)
        await store.ask_validation(t, row.id, now=world.clock.now())
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                async with tenant_tx(world, developer_id) as t:
                    row = await _own(t, caller, key_id)
                if row.validation_asked_at is None:
                    break
    except TimeoutError:
        return reply_of(row)
    if row.validation_answer == Verdict.UNSAFE:
        raise unsafe("the host is not one that may be reached")
    raise_if_refused(Verdict(row.validation_answer or Verdict.UNKNOWN), None)
    return reply_of(row)
