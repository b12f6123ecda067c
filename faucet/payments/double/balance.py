"""Balance: `GET /v1/balance`, of the platform or of a connected account: the sum of its balance transactions.

The platform begins with the rule `platform_balance_cents`, a million dollars unless set.
"""

from __future__ import annotations

from faucet.payments.double.movements import record
from faucet.payments.double.problem import Problem
from faucet.payments.double.routes import Call, Route
from faucet.payments.double.state import Object, State

PLATFORM_CENTS = 100_000_000


def held(state: State, account: str | None, status: str = "available") -> int:
    """What an account has, in cents: `available` to transfer or pay out, or `pending`."""
    total: int = sum(row["net"] for row in state.all("balance_transaction", account=account, status=status))
    begins = account is None and status == "available"
    return total + (state.rules.get("platform_balance_cents", PLATFORM_CENTS) if begins else 0)


def move(state: State, account: str | None, cents: int, *, kind: str, source: str) -> str:
    """Add to a balance, or take from it; the id of its transaction. Raises Problem for more than is available."""
    if cents < 0 and held(state, account) + cents < 0:
        raise Problem(
            400,
            "You have insufficient available funds in your Stripe account.",
            code="balance_insufficient",
        )
    name: str = record(state, kind, amount=cents, source=source, account=account)["id"]
    return name


def retrieve(state: State, call: Call) -> Object:
    shown = {
        status: [{"amount": cents, "currency": "usd", "source_types": {"card": cents}}]
        for status in ("available", "pending")
        for cents in [held(state, call.account, status)]
    }
    return {"object": "balance", **shown, "livemode": False}


ROUTES = (Route("GET", "/v1/balance", retrieve),)
