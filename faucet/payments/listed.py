"""What the processor itself lists, page by page, to be compared with what we know.

Only reads. Not here: the comparison (`reports`), when it is made (`jobs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from faucet.kit.errors import Fault
from faucet.payments.connect import OURS
from faucet.payments.processor import StripeLine

PAGE = 100
PAGES_MAX = 1_000


@dataclass(frozen=True, slots=True)
class ListedTransfer:
    """A transfer from the platform's balance, with the payout of ours that it names."""

    id: str
    payout: str | None
    amount_cents: int
    is_reversed: bool


async def balance_cents(line: StripeLine) -> int:
    """What Stripe has for the platform, in dollars' cents: available, pending, and kept back for connected accounts.

    Raises ProcessorRefused, ProcessorUnsure.
    """
    shown = (await line.call(lambda client: client.v1.balance.retrieve())).to_dict()
    parts = [row for name in ("available", "pending", "connect_reserved") for row in shown.get(name) or ()]
    return sum(int(row["amount"]) for row in parts if row["currency"] == "usd")


async def listed_transfers(line: StripeLine, *, since: datetime, until: datetime) -> list[ListedTransfer]:
    """Every transfer that was made between two moments. Raises ProcessorRefused, ProcessorUnsure, and Fault where
    there are more than can be looked through."""
    found: list[ListedTransfer] = []
    params: dict[str, Any] = {
        "limit": PAGE,
        "created": {"gte": int(since.timestamp()), "lt": int(until.timestamp())},
    }
    for _ in range(PAGES_MAX):
        page = await line.call(lambda client, asked=dict(params): client.v1.transfers.list(params=asked))  # type: ignore[misc]
        for row in page.data:
            shown = row.to_dict()
            named = (shown.get("metadata") or {}).get(OURS)
            found.append(ListedTransfer(row.id, named or None, row.amount, bool(row.reversed)))
        if not page.has_more or not page.data:
            return found
        params["starting_after"] = page.data[-1].id
    raise Fault(f"more than {PAGE * PAGES_MAX} transfers in the time that is compared")
