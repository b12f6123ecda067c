"""Disputes: a card's owner denies a charge; the money goes, and comes back where we win.

In Stripe's test mode the evidence `winning_evidence` or `losing_evidence` decides; so it does here.
"""

from __future__ import annotations

from typing import Any

from faucet.payments.double import charges, movements
from faucet.payments.double.control import ControlAct, Knobs
from faucet.payments.double.params import Flag, Group, Metadata, Text
from faucet.payments.double.problem import Problem
from faucet.payments.double.routes import PAGE, Call, Route, was_created
from faucet.payments.double.state import Object, State, page_of

FEE = 1_500
"""Cents that a dispute costs, whoever wins; the rule `dispute_fee` sets another."""
_DAY = 86_400


def open_dispute(state: State, charge: Object, *, amount: int | None = None, reason: str = "fraudulent") -> Object:
    """The charge is denied and its money taken. Raises Problem for one that can't be."""
    left = charge["amount"] - charge["amount_refunded"]
    amount = left if amount is None else amount
    if charge["status"] != "succeeded" or charge["disputed"] or not 0 < amount <= charge["amount"]:
        raise Problem(400, f"Charge {charge['id']} can't be disputed for {amount}.")
    name = state.new_id("du")
    fee = state.rules.get("dispute_fee", FEE)
    taken = movements.record(
        state,
        "adjustment",
        amount=-amount,
        fee=fee,
        source=name,
        description=f"Chargeback withdrawal for {charge['id']}",
    )
    dispute = state.add(
        {
            "id": name,
            "object": "dispute",
            "amount": amount,
            "balance_transactions": [dict(taken)],
            "charge": charge["id"],
            "created": state.now(),
            "currency": charge["currency"],
            "evidence": {},
            "evidence_details": {
                "due_by": state.now() + 7 * _DAY,
                "has_evidence": False,
                "past_due": False,
                "submission_count": 0,
            },
            "is_charge_refundable": False,
            "livemode": False,
            "metadata": {},
            "payment_intent": charge["payment_intent"],
            "reason": reason,
            "status": "needs_response",
        }
    )
    charge["disputed"] = True
    state.emit("charge.dispute.created", dispute)
    state.emit("charge.dispute.funds_withdrawn", dispute)
    return dispute


def close_dispute(state: State, dispute: Object, status: str) -> Object:
    """The bank decides. Raises Problem where it has."""
    if dispute["status"] in ("won", "lost"):
        raise Problem(400, f"This dispute is already {dispute['status']}.")
    dispute["status"] = status
    if status == "won":
        back = movements.record(
            state,
            "adjustment",
            amount=dispute["amount"],
            source=dispute["id"],
            description=f"Chargeback reversal for {dispute['charge']}",
        )
        dispute["balance_transactions"].append(dict(back))
    state.emit("charge.dispute.closed", dispute)
    if status == "won":
        state.emit("charge.dispute.funds_reinstated", dispute)
    return dispute


def retrieve(state: State, call: Call) -> Object:
    return state.get("dispute", call.path["id"])


def list_disputes(state: State, call: Call) -> Object:
    params = call.params
    rows = state.all("dispute", payment_intent=params.get("payment_intent"), charge=params.get("charge"))
    return page_of([row for row in rows if was_created(row, params.get("created"))], params, "/v1/disputes")


def update(state: State, call: Call) -> Object:
    dispute = state.get("dispute", call.path["id"])
    if dispute["status"] in ("won", "lost"):
        raise Problem(400, f"This dispute is already {dispute['status']}.")
    evidence = call.params.get("evidence", {})
    dispute["evidence"] |= evidence
    dispute["metadata"] |= call.params.get("metadata", {})
    dispute["evidence_details"]["has_evidence"] = bool(dispute["evidence"])
    if call.params.get("submit"):
        dispute["evidence_details"]["submission_count"] += 1
        dispute["status"] = "under_review"
    state.emit("charge.dispute.updated", dispute)
    said = dispute["evidence"].get("uncategorized_text")
    if call.params.get("submit") and said in ("winning_evidence", "losing_evidence"):
        close_dispute(state, dispute, "won" if said == "winning_evidence" else "lost")
    return dispute


def give_in(state: State, call: Call) -> Object:
    return close_dispute(state, state.get("dispute", call.path["id"]), "lost")


async def open_on_demand(knobs: Knobs, ask: dict[str, Any]) -> Object:
    amount = ask.get("amount")
    charge = charges.named(knobs.state, ask)
    return open_dispute(
        knobs.state, charge, amount=None if amount is None else int(amount), reason=ask.get("reason", "fraudulent")
    )


async def close_on_demand(knobs: Knobs, ask: dict[str, Any]) -> Object:
    if ask.get("status") not in ("won", "lost"):
        raise Problem(400, "status is won or lost")
    return close_dispute(knobs.state, knobs.state.get("dispute", str(ask.get("dispute"))), ask["status"])


ROUTES = (
    Route("GET", "/v1/disputes", list_disputes, {**PAGE, "charge": Text(), "payment_intent": Text()}),
    Route("GET", "/v1/disputes/{id}", retrieve),
    Route(
        "POST",
        "/v1/disputes/{id}",
        update,
        {"evidence": Group({"uncategorized_text": Text()}), "submit": Flag(), "metadata": Metadata()},
    ),
    Route("POST", "/v1/disputes/{id}/close", give_in),
)
CONTROLS: dict[tuple[str, str], ControlAct] = {
    ("POST", "/_control/disputes"): open_on_demand,
    ("POST", "/_control/disputes/close"): close_on_demand,
}


def tick(state: State) -> None:
    """Owners of the test card for it deny their charges."""
    for charge in state.all("charge", status="succeeded", disputed=False):
        if charges.is_disputed_soon(state, charge["payment_method"]) and not charge["amount_refunded"]:
            open_dispute(state, charge)
