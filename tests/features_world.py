"""Features with prompts, limits and quotas for tests of the gateway, and a plain way to run one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from gateway_world import EndUser, Gateway, Reply, World, request, wait_for
from psycopg.types.json import Json, Jsonb

from faucet.kit.ids import uuid7
from faucet.rating.price import PricePlan

Fields = dict[str, Any]
MARKUP: Fields = {"mode": "usage_markup", "markup_percent": 30, "channel_share_bps": 4000}


class Features:
    """Features of the world's app, made as the API makes them."""

    def __init__(self, world: World) -> None:
        self.world = world

    def add(self, policy: Fields | None = None, pricing: Fields | None = None, **parts: Any) -> str:
        """The key of a new feature."""
        feature = uuid7()
        key = f"run_{feature.hex[-12:]}"
        plan = PricePlan.parse_pricing(pricing or MARKUP)
        self.world.books.rows(
            "insert into feature (id, developer_id, app_id, feature_key, display_name, policy, pricing, parts,"
            " free_quota_e8, version) values (%s, %s, %s, %s, 'F', %s, %s, %s, %s, 3)",
            feature,
            self.world.tenant.developer,
            self.world.tenant.app,
            key,
            Jsonb({"models": ["mock-small"]} | (policy or {})),
            Jsonb(pricing or MARKUP),
            Json(parts),
            plan.free_quota_e8,
        )
        self.world.announce()
        return key


@pytest.fixture
def features(world: World) -> Iterator[Features]:
    """Features beside the app's own, archived after the test: the app's other tests name none."""
    made = Features(world)
    yield made
    world.books.rows("update feature set status = 'archived' where feature_key like 'run\\_%%'")
    world.announce()


def run(
    gateway: Gateway, end_user: EndUser, key: str, body: Any, headers: dict[str, str] | None = None, seconds: float = 30
) -> Reply:
    """One run, repeated until the gateway knows of the feature."""

    def answered() -> Reply | None:
        named = {"authorization": f"Bearer {end_user.bearer}", "content-type": "application/json", **(headers or {})}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = request(gateway, "POST", f"/v1/features/{key}/run", content, named, seconds=seconds)
        unknown = reply.status == 404 and reply.code == "feature_not_found"
        return None if unknown else reply

    reply: Reply = wait_for(answered)
    return reply
