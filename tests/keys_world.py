"""Stored provider keys for the gateway's tests: a vault in a test's database, and keys of end users, developers and the
operator, sealed as the API seals them. Those of the mock provider are treated by their words (see `fake_server`)."""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
from typing import Any
from uuid import UUID

from books import E8, Tenant
from gateway_world import MARKUP_PERCENT, SHARE_BPS, EndUser, World

from faucet.kit.config import Config, load_config
from faucet.kit.ids import uuid7
from faucet.kit.secret import Secret
from faucet.stack.keys import ensure_vault_key
from faucet.vault.seal import Place, PublicKey, mask, seal

ENCRYPTION_KEY = "a-key-of-the-tests-" + "0123456789abcdef" * 2
SETTINGS = {"SECRET_ENCRYPTION_KEY": ENCRYPTION_KEY}
"""What a gateway needs to open these keys."""
ALL_ROUTES = ["local", "end_user_byok", "developer_key", "platform_pool"]


def tests_config(**settings: str) -> Config:
    """Settings that wrap the vault's key as the gateways' do."""
    return load_config({"FAUCET_DATA": tempfile.mkdtemp(), **SETTINGS, **settings})


class KeysWorld:
    """A world whose vault has a key."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.books = world.books
        asyncio.run(ensure_vault_key(world.dsn, tests_config()))

    def app(self, *, routes: object = ALL_ROUTES, fee: str = "0", **policy: Any) -> Tenant:
        """Another developer with an app of one feature."""
        tenant = self.books.tenant()
        pricing = {"mode": "usage_markup", "markup_percent": MARKUP_PERCENT, "channel_share_bps": SHARE_BPS}
        self.books.rows(
            "update feature set policy = %s, pricing = %s where id = %s",
            json.dumps({"route_preference": routes, **policy}),
            json.dumps(pricing | {"explicit_gateway_fee_usd": fee}),
            tenant.feature,
        )
        self.world.announce()
        return tenant

    def end_user(self, app: Tenant, credit_e8: int = 10 * E8) -> EndUser:
        """An end user of that app with a session."""
        return self.world.end_user(credit_e8, app_of=app)

    def key(
        self,
        owner: EndUser | Tenant | None,
        word: str = "good",
        *,
        secret: str | None = None,
        provider: str = "mock",
        base_url: str | None = None,
        models: tuple[str, ...] = (),
        lets_go: bool = False,
        priority: int = 100,
        weight: int = 1,
        budget_e8: int | None = None,
        any_app: bool = False,
    ) -> UUID:
        """A key of an end user, of a developer for an app of theirs, or (None) of the operator."""
        tenant = owner.tenant if isinstance(owner, EndUser) else owner
        kind = "end_user" if isinstance(owner, EndUser) else "platform" if owner is None else "developer"
        place = Place(
            row_id=uuid7(),
            owner=kind,
            developer_id=None if tenant is None else tenant.developer,
            app_id=None if tenant is None or any_app else tenant.app,
            end_user_id=tenant.end_user if isinstance(owner, EndUser) and tenant is not None else None,
            provider=provider,
            base_url=base_url,
        )
        value = Secret(secret or f"sk-{word}-{secrets.token_hex(12)}")
        key_id, public = self.books.row("select id, public_key from vault_key order by id desc limit 1") or ()
        self.books.rows(
            "insert into credential (id, owner, developer_id, app_id, end_user_id, provider, base_url, sealed, key_id,"
            " mask, models_allowed, priority, weight, budget_limit_e8, fallback_to_platform)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            place.row_id, kind, place.developer_id, place.app_id, place.end_user_id, provider, base_url,
            seal(value, PublicKey(key_id, bytes(public)), place), key_id, mask(value), list(models), priority, weight,
            budget_e8, lets_go,
        )  # fmt: skip
        self.world.announce()
        return place.row_id

    def forget(self, credential: UUID) -> None:
        """Disable a key."""
        self.books.rows(
            "update credential set status = 'disabled', sealed = null, key_id = null where id = %s", credential
        )
        self.world.announce()

    def told(self, credential: UUID) -> tuple[int, str | None, bool]:
        """How often a key was used, how it was refused last, and whether it is failing."""
        row = self.books.row(
            "select use_count, last_error_code, failing_since is not null from credential where id = %s", credential
        )
        assert row is not None
        return row[0], row[1], row[2]

    def budget(self, credential: UUID) -> tuple[int, int]:
        """Spent and held of a key's budget."""
        row = self.books.row("select spent_e8, held_e8 from credential_budget where credential_id = %s", credential)
        return (0, 0) if row is None else (row[0], row[1])
