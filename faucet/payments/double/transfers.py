"""Transfers from the platform's balance to connected accounts, and taking them back: `/v1/transfers`."""

from __future__ import annotations

from typing import Any

from faucet.payments.double import balance
from faucet.payments.double.accounts import transferable
from faucet.payments.double.control import ControlAct, Knobs
from faucet.payments.double.params import Metadata, Text, Whole
from faucet.payments.double.problem import Problem
from faucet.payments.double.routes import PAGE, Call, Route, was_created
from faucet.payments.double.state import Object, State, page_of


def create(state: State, call: Call) -> Object:
    asked = call.params
    account = transferable(state, asked["destination"], param="destination")
    name, payment = state.new_id("tr"), state.new_id("py")
    movement = balance.move(state, None, -asked["amount"], kind="transfer", source=name)
    balance.move(state, account["id"], asked["amount"], kind="payment", source=payment)
    made = state.add(
        {
            "id": name,
            "object": "transfer",
            "amount": asked["amount"],
            "amount_reversed": 0,
            "balance_transaction": movement,
            "created": state.now(),
            "currency": asked["currency"],
            "description": asked.get("description"),
            "destination": account["id"],
            "destination_payment": payment,
            "livemode": False,
            "metadata": asked.get("metadata", {}),
            "reversals": {"object": "list", "data": [], "has_more": False, "url": f"/v1/transfers/{name}/reversals"},
            "reversed": False,
            "source_type": "card",
            "transfer_group": asked.get("transfer_group"),
        }
    )
    state.emit("transfer.created", made)
    return made


def retrieve(state: State, call: Call) -> Object:
    return state.get("transfer", call.path["id"])


def list_transfers(state: State, call: Call) -> Object:
    wanted = {name: call.params.get(name) for name in ("destination", "transfer_group")}
    rows = [row for row in state.all("transfer", **wanted) if was_created(row, call.params.get("created"))]
    return page_of(rows, call.params, "/v1/transfers")


def reverse(state: State, call: Call) -> Object:
    transfer = state.get("transfer", call.path["id"])
    left = transfer["amount"] - transfer["amount_reversed"]
    amount = call.params.get("amount", left)
    if amount > left or left == 0:
        raise Problem(400, f"Transfer {transfer['id']} has only {left} left to reverse.", param="amount")
    name = state.new_id("trr")
    balance.move(state, transfer["destination"], -amount, kind="payment_refund", source=name)
    movement = balance.move(state, None, amount, kind="transfer_refund", source=name)
    made = state.add(
        {
            "id": name,
            "object": "transfer_reversal",
            "amount": amount,
            "balance_transaction": movement,
            "created": state.now(),
            "currency": transfer["currency"],
            "metadata": call.params.get("metadata", {}),
            "transfer": transfer["id"],
        }
    )
    before = {"amount_reversed": transfer["amount_reversed"], "reversed": transfer["reversed"]}
    transfer["amount_reversed"] += amount
    transfer["reversed"] = transfer["amount_reversed"] == transfer["amount"]
    transfer["reversals"]["data"].insert(0, made)
    state.emit("transfer.reversed", transfer, previous=before)
    return made


async def control(knobs: Knobs, ask: dict[str, Any]) -> Object:
    """`POST /_control/transfers {"transfer", "amount"?}`: somebody takes it back on Stripe's own pages."""
    params = {"amount": int(ask["amount"])} if "amount" in ask else {}
    return reverse(knobs.state, Call(params, {"id": str(ask["transfer"])}))


ROUTES = (
    Route(
        "POST",
        "/v1/transfers",
        create,
        {
            "amount": Whole(required=True, least=1),
            "currency": Text(required=True, words=("usd",)),
            "destination": Text(required=True),
            "transfer_group": Text(longest=200),
            "description": Text(longest=1_000),
            "metadata": Metadata(),
        },
    ),
    Route("GET", "/v1/transfers", list_transfers, {**PAGE, "destination": Text(), "transfer_group": Text()}),
    Route("GET", "/v1/transfers/{id}", retrieve),
    Route(
        "POST",
        "/v1/transfers/{id}/reversals",
        reverse,
        {"amount": Whole(least=1), "description": Text(longest=1_000), "metadata": Metadata()},
    ),
)
CONTROLS: dict[tuple[str, str], ControlAct] = {("POST", "/_control/transfers"): control}
