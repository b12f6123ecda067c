"""The demo's data: one developer, one app with one feature, one end user with test credits.

Seeding twice, or from several processes at once, changes nothing. Never in production. Prices and providers are
not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from faucet.kit.config import Config
from faucet.kit.db import Tx
from faucet.kit.errors import Refusal
from faucet.kit.ids import uuid7
from faucet.kit.money import E8_PER_USD
from faucet.ledger import moves
from faucet.tenants import store
from faucet.tenants.manifest import parse_manifest
from faucet.tenants.sessions import external_id_hash
from faucet.tenants.tenancy import see_all
from faucet.terms import AccountId

PUBLIC_APP_ID = "app_pub_demo"
FEATURE_KEY = "customer_reply"
EXTERNAL_USER_ID = "crm-demo-user"
TEST_CREDITS_E8 = 10 * E8_PER_USD

_SHARE_BPS = 4000
_POLICY = {
    "route_preference": ["local", "end_user_byok", "developer_key", "platform_pool"],
    "privacy": "redact_pii_before_cloud",
    "model_policy": "cheapest_sufficient",
}
_PRICING = {"mode": "usage_markup", "markup_percent": 30, "channel_share_bps": _SHARE_BPS}
_LOCK = 7_219_002


@dataclass(frozen=True, slots=True)
class Demo:
    """Where the demo's rows are."""

    developer_id: UUID
    app_id: UUID
    end_user_id: UUID
    wallet_id: AccountId


async def seed_demo(tx: Tx, config: Config) -> Demo:
    """Make the demo's rows where they are missing; what is there stays as it is.

    Raises Refusal `forbidden` in production.
    """
    if config.is_production:
        raise Refusal("forbidden", "demo data is never made in production")
    parse_manifest(_POLICY, _PRICING, default_share_bps=_SHARE_BPS)
    await see_all(tx)
    # One seeder at a time: two would wait for each other's rows in different orders.
    await tx.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
    developer_id = await store.ensure_developer(tx, new_id=uuid7(), name="Demo Developer", email="dev@example.com")
    await moves.open_developer_accounts(tx, developer_id)
    app = await store.ensure_app(
        tx,
        new_id=uuid7(),
        developer_id=developer_id,
        public_app_id=PUBLIC_APP_ID,
        name="CRM Demo",
        vertical="crm",
        default_revenue_share_bps=_SHARE_BPS,
        is_public_demo=True,
    )
    await store.ensure_feature(
        tx,
        new_id=uuid7(),
        app=app,
        feature_key=FEATURE_KEY,
        display_name="客户回复生成",
        policy=_POLICY,
        pricing=_PRICING,
    )
    end_user_id = await store.ensure_end_user(
        tx,
        new_id=uuid7(),
        app=app,
        external_id_hash=external_id_hash(config.external_id_key, app.id, EXTERNAL_USER_ID),
    )
    wallet_id = await moves.open_wallet(tx, developer_id=app.developer_id, end_user_id=end_user_id)
    await moves.grant(tx, wallet_id, TEST_CREDITS_E8, key=f"demo:{end_user_id}", memo="Test credits; of the demo")
    await store.announce_change(tx)
    return Demo(app.developer_id, app.id, end_user_id, wallet_id)
