"""Balance transactions: every change of a balance, of the platform's or a connected account's."""

from __future__ import annotations

from faucet.payments.double.params import Text
from faucet.payments.double.routes import PAGE, Call, Route, was_created
from faucet.payments.double.state import Object, State, page_of

AVAILABLE_SECONDS = 2 * 86_400


def record(
    state: State,
    kind: str,
    *,
    amount: int,
    source: str,
    fee: int = 0,
    account: str | None = None,
    waits_seconds: int = 0,
    description: str | None = None,
) -> Object:
    """Change a balance by `amount` less `fee`, in cents; what waits is pending until then."""
    now = state.now()
    return state.add(
        {
            "id": state.new_id("txn"),
            "object": "balance_transaction",
            "amount": amount,
            "available_on": now + waits_seconds,
            "balance_type": "payments",
            "created": now,
            "currency": "usd",
            "description": description,
            "exchange_rate": None,
            "fee": fee,
            "fee_details": [
                {
                    "amount": fee,
                    "application": None,
                    "currency": "usd",
                    "description": "Stripe fees",
                    "type": "stripe_fee",
                }
            ]
            if fee
            else [],
            "net": amount - fee,
            "reporting_category": kind,
            "source": source,
            "status": "pending" if waits_seconds else "available",
            "type": kind,
        },
        account=account,
    )


def tick(state: State) -> None:
    """What has waited long enough is available."""
    now = state.now()
    for row in list(state.objects.values()):
        if row["object"] == "balance_transaction" and row["status"] == "pending" and row["available_on"] <= now:
            row["status"] = "available"


def retrieve(state: State, call: Call) -> Object:
    return state.get("balance_transaction", call.path["id"], account=call.account)


def list_rows(state: State, call: Call) -> Object:
    params = call.params
    rows = [
        row
        for row in state.all(
            "balance_transaction", account=call.account, type=params.get("type"), source=params.get("source")
        )
        if was_created(row, params.get("created"))
    ]
    return page_of(rows, params, "/v1/balance_transactions")


ROUTES = (
    Route(
        "GET",
        "/v1/balance_transactions",
        list_rows,
        {**PAGE, "type": Text(), "source": Text(), "payout": Text(), "currency": Text()},
    ),
    Route("GET", "/v1/balance_transactions/{id}", retrieve),
)
