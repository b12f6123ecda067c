"""Balance: `GET /v1/balance`, of the platform or of a connected account; and the only way in which one changes.

The platform begins with the rule `platform_balance_cents`, a million dollars unless set.
"""

from __future__ import annotations

from faucet.payments.double.problem import Problem
from faucet.payments.double.routes import Call, Route
from faucet.payments.double.state import Object, State

PLATFORM_CENTS = 100_000_000


def available(state: State, account: str | None) -> int:
    """What an account can transfer or pay out, in cents."""
    moved = int(state.hidden.get(f"balance:{account or ''}", 0))
    return moved + (state.rules.get("platform_balance_cents", PLATFORM_CENTS) if account is None else 0)


def change(state: State, account: str | None, cents: int) -> None:
    """Add to a balance, or take from it. Raises Problem for more than there is."""
    if available(state, account) + cents < 0:
        raise Problem(
            400,
            "You have insufficient available funds in your Stripe account.",
            code="balance_insufficient",
        )
    state.hidden[f"balance:{account or ''}"] = int(state.hidden.get(f"balance:{account or ''}", 0)) + cents


def retrieve(state: State, call: Call) -> Object:
    cents = available(state, call.account)
    line = {"amount": cents, "currency": "usd", "source_types": {"card": cents}}
    nothing = {"amount": 0, "currency": "usd", "source_types": {"card": 0}}
    return {"object": "balance", "available": [line], "pending": [nothing], "livemode": False}


ROUTES = (Route("GET", "/v1/balance", retrieve),)
