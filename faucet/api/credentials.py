"""What the routes of stored provider keys have in common, whoever owns them: judging, sealing, storing, noting.

A key's address is judged before it is stored, and the provider is asked whether it takes the key, outside of any
tx. Keys are sealed here and can't be opened here. Not here: the routes (`end_user_keys`, `developer_keys`), what a
key is used for (`gateway`), how it is sealed (`vault`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from faucet.api.auth import Actor
from faucet.api.credential_wire import ProviderKeyAsk, ProviderKeyReply
from faucet.api.tenant import TenantTx
from faucet.api.trail import Trail
from faucet.api.world import World
from faucet.kit.errors import InvariantBroken, Refusal, field_error
from faucet.kit.secret import Secret
from faucet.kit.upstream import Endpoint
from faucet.providers import keyed
from faucet.providers.probe import Verdict
from faucet.tenants.store import announce_change
from faucet.vault import store
from faucet.vault.seal import Place, mask, seal
from faucet.vault.store import Credential, Sealing, Terms


def unsafe(text: str) -> Refusal:
    """The refusal of an address that may not be reached."""
    return field_error("base_url", text, code="no_available_route")


def endpoint_of(world: World, provider: str, base_url: str | None) -> Endpoint:
    """Where a key will be sent. Raises Refusal `no_available_route` for an address that may not be reached."""
    try:
        return keyed.endpoint_of(world.config, provider, base_url)
    except ValueError as problem:
        raise unsafe(str(problem)) from None


async def ask_provider(world: World, provider: str, base_url: str | None, secret: Secret, *, ask: bool) -> Verdict:
    """What the provider says of the key; only its address is judged where nobody wants it asked.

    Raises Refusal `no_available_route`.
    """
    endpoint = endpoint_of(world, provider, base_url)
    if ask:
        verdict = await world.prober.ask(keyed.entry_of(provider), endpoint, secret)
    else:
        verdict = Verdict.UNKNOWN if base_url is None else await world.prober.judge(endpoint)
    if verdict is Verdict.UNSAFE:
        raise unsafe("the host is not one that may be reached")
    return verdict


def raise_if_refused(verdict: Verdict, field: str | None = "api_key") -> None:
    """Raises Refusal `secret_validation_failed`, naming the field, where the provider said that the key is wrong."""
    if verdict is not Verdict.REFUSED:
        return
    text = "the provider does not accept this key"
    details = None if field is None else {"formErrors": [], "fieldErrors": {field: [text]}}
    raise Refusal("secret_validation_failed", text, details=details)


async def sealing_of(tx: TenantTx, secret: Secret, place: Place) -> Sealing:
    """The secret as it is stored in this place. Raises Refusal `unavailable` where the vault has no key."""
    key = await store.newest_key(tx)
    return Sealing(key_id=key.id, sealed=seal(secret, key, place), mask=mask(secret))


def _shown(row: Credential) -> dict[str, Any]:
    """What the audit log keeps of a credential."""
    return {
        "provider": row.provider,
        "base_url": row.base_url,
        "masked": row.mask,
        "status": row.status,
        "models_allowed": row.models_allowed,
        "priority": row.priority,
        "weight": row.weight,
        "budget_limit_e8": row.budget_limit_e8,
        "fallback_to_platform": row.fallback_to_platform,
    }


async def note_change(
    tx: TenantTx, actor: Actor, rid: str, action: str, *, before: Credential | None, after: Credential
) -> None:
    """Write a change into the audit log, and tell gateways."""
    await Trail(actor, rid).note(
        tx,
        f"provider_key.{action}",
        "provider_key",
        str(after.id),
        developer_id=after.developer_id,
        before=None if before is None else _shown(before),
        after=_shown(after),
    )
    await announce_change(tx)


async def read_again(tx: TenantTx, row_id: UUID, end_user_id: UUID | None, owner: str | None = None) -> Credential:
    """A row that was just written."""
    row = await store.find(tx, row_id, end_user_id=end_user_id, owner=owner)
    if row is None:
        raise InvariantBroken(f"the credential {row_id} is gone within its own tx")
    return row


async def create(
    world: World,
    tx: TenantTx,
    place: Place,
    body: ProviderKeyAsk,
    verdict: Verdict,
    *,
    weight: int,
    actor: Actor,
    rid: str,
) -> Credential:
    """Seal a key and store it. Raises Refusal `secret_validation_failed`, `conflict`, `unavailable`."""
    raise_if_refused(verdict)
    terms = Terms(
        models_allowed=body.models_allowed,
        priority=body.priority,
        weight=weight,
        budget_limit_e8=body.budget_limit_usd,
        fallback_to_platform=body.fallback_to_platform,
    )
    sealing = await sealing_of(tx, Secret(body.api_key), place)
    await store.insert(tx, place, terms, sealing, now=world.clock.now(), validated=verdict is Verdict.ACCEPTED)
    row = await read_again(tx, place.row_id, place.end_user_id, place.owner)
    await note_change(tx, actor, rid, "created", before=None, after=row)
    return row


async def disable(tx: TenantTx, row: Credential, *, now: datetime, actor: Actor, rid: str) -> Credential:
    """Disable a key and erase its secret; one that is disabled stays as it is."""
    if not await store.disable(tx, row.id, now=now):
        return row  # it was before
    after = await read_again(tx, row.id, row.end_user_id, row.owner)
    await note_change(tx, actor, rid, "disabled", before=row, after=after)
    return after


def no_such_key() -> Refusal:
    """The refusal of a key that isn't there, or is somebody else's."""
    return Refusal("not_found", "there is no such provider key")


def reply_of(row: Credential) -> ProviderKeyReply:
    """What its owner sees of a key."""
    return ProviderKeyReply(
        id=row.id,
        provider=row.provider,
        base_url=row.base_url,
        masked=row.mask,
        status="failing" if row.failing_since is not None else row.status,
        last_error_code=row.last_error_code,
        use_count=row.use_count or None,
        models_allowed=row.models_allowed,
        priority=row.priority,
        budget_limit_usd=row.budget_limit_e8,
        fallback_to_platform=row.fallback_to_platform,
        last_validated_at=row.last_validated_at,
        last_used_at=row.last_used_at,
    )
