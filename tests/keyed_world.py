"""A running API with the demo's data, a vault that has a key, and a provider that judges keys: shared by tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx2
import pytest
from conftest import serve
from fakes.keyed_provider import KeyedProvider, Rerouted

from faucet.kit.clock import Clock
from faucet.kit.config import Config, load_config
from faucet.kit.db import open_pool, tx
from faucet.stack.keys import ensure_vault_key
from faucet.tenants import tokens
from faucet.tenants.demo import Demo, seed_demo
from faucet.tenants.tenancy import see_all

KEYS = "/v1/user/provider-keys"
DEVELOPER_KEYS = "/v1/developer/provider-keys"
GOOD = "sk-good-key-0123456789"


@pytest.fixture
def provider() -> Iterator[KeyedProvider]:
    """A provider that judges keys."""
    with KeyedProvider() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, provider: KeyedProvider) -> Config:
    """Settings of a development machine on which tenants' addresses may have the provider's port."""
    return load_config(
        {
            "FAUCET_DATA": str(tmp_path / "data"),
            "TENANT_UPSTREAM_PORTS": str(provider.port),
            "TENANT_UPSTREAM_HTTP": "true",
        }
    )


@pytest.fixture
def demo(config: Config, dsn: str) -> Demo:
    """The demo's data, in a database whose vault has a key."""

    async def seed() -> Demo:
        await ensure_vault_key(dsn, config)
        pool = await open_pool(dsn, "faucet_api", size=1)
        try:
            async with tx(pool) as t:
                return await seed_demo(t, config)
        finally:
            await pool.close()

    return asyncio.run(seed())


@pytest.fixture
def client(config: Config, dsn: str, demo: Demo) -> Iterator[httpx2.Client]:
    """A client of an API that asks providers through the rerouted pool."""
    with serve(config, dsn, upstream=Rerouted()) as base_url, httpx2.Client(base_url=base_url, timeout=20) as client:
        yield client


def session(client: httpx2.Client, name: str = "crm-demo-user") -> dict[str, str]:
    """The headers of a session of this end user."""
    ask = {"public_app_id": "app_pub_demo", "external_user_id": name}
    reply = client.post("/v1/sessions", json=ask)
    assert reply.status_code == 200, reply.text
    return {"authorization": f"Bearer {reply.json()['session_token']}"}


@pytest.fixture
def me(client: httpx2.Client) -> dict[str, str]:
    """The headers of the demo's end user."""
    return session(client)


@pytest.fixture
def operator(config: Config) -> dict[str, str]:
    """The headers of the operator."""
    return {"authorization": f"Bearer {config.admin_token.reveal()}"}


def developer_bearer(dsn: str, developer_id: UUID, *scopes: str) -> dict[str, str]:
    """The headers of a new token of this developer with these scopes."""

    async def make() -> str:
        pool = await open_pool(dsn, "faucet_api", size=1)
        try:
            async with tx(pool) as t:
                await see_all(t)
                secret, _ = await tokens.mint(
                    t,
                    developer_id=developer_id,
                    name="test",
                    scopes=scopes,
                    allowed=None,
                    expires_at=None,
                    created_by="test",
                    now=Clock().now(),
                )
                return secret.reveal()
        finally:
            await pool.close()

    return {"authorization": f"Bearer {asyncio.run(make())}"}
