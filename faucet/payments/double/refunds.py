"""Refunds: money back to a card, in whole or in part; on demand, one that fails afterwards."""

from __future__ import annotations

from typing import Any

from faucet.payments.double import charges, movements
from faucet.payments.double.control import ControlAct, Knobs
from faucet.payments.double.params import Metadata, Text, Whole
from faucet.payments.double.problem import Problem
from faucet.payments.double.routes import PAGE, Call, Route, was_created
from faucet.payments.double.state import Object, State, dollars, page_of


def create(state: State, call: Call) -> Object:
    charge = charges.named(state, call.params)
    if charge["status"] != "succeeded":
        raise Problem(400, "This charge did not succeed.", code="charge_not_refundable")
    left = charge["amount"] - charge["amount_refunded"]
    amount = call.params.get("amount", left)
    if left == 0:
        raise Problem(400, f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    if charge["disputed"] and not _was_won(state, charge):
        raise Problem(400, f"Charge {charge['id']} has been charged back.", code="charge_disputed")
    if amount > left:
        raise Problem(
            400,
            f"Refund amount ({dollars(amount)}) is greater than unrefunded amount on charge ({dollars(left)})",
            param="amount",
        )
    name = state.new_id("re")
    taken = movements.record(state, "refund", amount=-amount, source=name)
    refund = state.add(
        {
            "id": name,
            "object": "refund",
            "amount": amount,
            "balance_transaction": taken["id"],
            "charge": charge["id"],
            "created": state.now(),
            "currency": charge["currency"],
            "failure_balance_transaction": None,
            "failure_reason": None,
            "metadata": call.params.get("metadata", {}),
            "payment_intent": charge["payment_intent"],
            "reason": call.params.get("reason"),
            "receipt_number": None,
            "status": "succeeded",
        }
    )
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    state.emit("refund.created", refund)
    state.emit("charge.refunded", charge, previous={"amount_refunded": charge["amount_refunded"] - amount})
    return refund


def _was_won(state: State, charge: Object) -> bool:
    return all(row["status"] == "won" for row in state.all("dispute", charge=charge["id"]))


def retrieve(state: State, call: Call) -> Object:
    return state.get("refund", call.path["id"])


def list_refunds(state: State, call: Call) -> Object:
    params = call.params
    rows = state.all("refund", payment_intent=params.get("payment_intent"), charge=params.get("charge"))
    return page_of([row for row in rows if was_created(row, params.get("created"))], params, "/v1/refunds")


async def fail(knobs: Knobs, ask: dict[str, Any]) -> Object:
    """The card's bank sends a refund back, as happens days later to cards that were closed."""
    state = knobs.state
    refund = state.get("refund", str(ask.get("refund")))
    if refund["status"] != "succeeded":
        raise Problem(400, f"The refund's status is {refund['status']}.")
    charge = state.get("charge", refund["charge"])
    back = movements.record(state, "refund_failure", amount=refund["amount"], source=refund["id"])
    refund |= {
        "status": "failed",
        "failure_reason": str(ask.get("reason", "lost_or_stolen_card")),
        "failure_balance_transaction": back["id"],
    }
    charge["amount_refunded"] -= refund["amount"]
    charge["refunded"] = False
    state.emit("refund.updated", refund, previous={"status": "succeeded"})
    state.emit("refund.failed", refund)
    return refund


ROUTES = (
    Route(
        "POST",
        "/v1/refunds",
        create,
        {
            "charge": Text(),
            "payment_intent": Text(),
            "amount": Whole(least=1),
            "reason": Text(words=("duplicate", "fraudulent", "requested_by_customer")),
            "metadata": Metadata(),
        },
    ),
    Route("GET", "/v1/refunds", list_refunds, {**PAGE, "charge": Text(), "payment_intent": Text()}),
    Route("GET", "/v1/refunds/{id}", retrieve),
)
CONTROLS: dict[tuple[str, str], ControlAct] = {("POST", "/_control/refunds/fail"): fail}
