"""GET /v1/generations/{request_id}: what one request used and cost, told to the end user whose it was.

The id is ours, as replies and `x-request-id` show it, with or without the prefix of a reply's `id`; or the one that
the caller sent along, which finds the newest answer of that name that was charged.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import PoolTimeout

from faucet.gateway.exchange import Exchange, bearer_of
from faucet.gateway.world import World
from faucet.kit.clock import to_iso
from faucet.kit.db import in_time
from faucet.kit.errors import Refusal
from faucet.kit.ids import is_request_id, request_id
from faucet.kit.money import to_wire
from faucet.terms import Outcome, UsageSource

PATH = "/v1/generations/"
_ROUTE_MODES = ("platform", "developer_key", "byok", "local")
_PREFIXES = ("chatcmpl_mf_", "msg_mf_", "resp_mf_")


async def show_generation(world: World, exchange: Exchange) -> None:
    """What the request of this path came to. Raises Refusal `not_found`, also where it was somebody else's."""
    bearer = bearer_of(exchange.authorization)
    caller = world.admission.recall(bearer) or await world.admission.find(bearer)
    world.limit(exchange, caller)
    wanted = exchange.path[len(PATH) :]
    for prefix in _PREFIXES:
        wanted = wanted.removeprefix(prefix)
    row = None
    if is_request_id(wanted):
        try:
            row = await in_time(_row(world, caller.end_user_id, _ours(wanted), wanted))
        except (psycopg.OperationalError, PoolTimeout, TimeoutError) as error:
            raise Refusal("unavailable", "the ledger can't be reached", retry_after_seconds=1) from error
    if row is None:
        raise Refusal("not_found", f"no request {wanted[:100]!r} of yours is known here")
    await exchange.reply(200, json.dumps(_shown(row)).encode())


def _ours(text: str) -> UUID | None:
    """The hold's id in one of our own request ids."""
    try:
        return UUID(hex=text[4:]) if text.startswith("req_") and len(text) == 36 else None
    except ValueError:
        return None


async def _row(world: World, end_user_id: UUID, own: UUID | None, wanted: str) -> dict[str, Any] | None:
    async with world.db.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute("select * from generation_v1(%s, %s, %s)", (end_user_id, own, wanted))
        return await cursor.fetchone()


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "request_id": row["request_id"] or request_id(row["id"]),
        "object": "generation",
        "state": row["state"],
        "created_at": to_iso(row["created_at"]),
        "held_usd": to_wire(row["held_e8"]),
    }
    if row["feature_key"] is not None:
        shown["feature_key"] = row["feature_key"]
    if row["feature_version"] is not None:
        shown["feature_version"] = row["feature_version"]
    if row["retail_e8"] is not None:
        shown["price_usd"] = to_wire(row["retail_e8"])
    if row["reason"] is not None:
        shown["reason"] = row["reason"]
    if row["state"] == "settled":
        shown |= {
            "route_mode": _ROUTE_MODES[row["payer"]],
            "provider": row["provider"],
            "model": row["model"],
            "outcome": Outcome(row["outcome"]).name.lower(),
            "usage_source": UsageSource(row["usage_source"]).name.lower(),
            "usage": {
                "input_tokens": row["input_tokens"],
                "cached_read_tokens": row["cached_read_tokens"],
                "cached_write_tokens": row["cached_write_tokens"],
                "output_tokens": row["output_tokens"],
                "reasoning_tokens": row["reasoning_tokens"],
            },
            "duration_ms": row["duration_ms"],
        }
        if row["first_byte_ms"] is not None:
            shown["first_byte_ms"] = row["first_byte_ms"]
    return shown
