"""Payouts to banks: `/v1/payouts`, from a connected account with the header Stripe-Account, else from the platform.

One is paid, or fails, some time after it was made: the rule `payout_seconds`, two days unless set; with the rule
`payouts_fail` it fails then.

    POST /_control/payouts  {"payout", "status": "in_transit"|"paid"|"failed", "failure_code"?}     now
"""

from __future__ import annotations

from typing import Any

from faucet.payments.double import balance
from faucet.payments.double.control import ControlAct, Knobs
from faucet.payments.double.params import Metadata, Text, Whole
from faucet.payments.double.problem import Problem
from faucet.payments.double.routes import PAGE, Call, Route, was_created
from faucet.payments.double.state import Object, State, page_of

ARRIVES_SECONDS = 2 * 86_400
FAILURES = {
    "account_closed": "The bank account has been closed.",
    "no_account": "The bank account could not be located.",
    "could_not_process": "The bank could not process this payout.",
}
NEXT = {"pending": ("in_transit", "paid", "failed"), "in_transit": ("paid", "failed"), "paid": ("failed",)}


def create(state: State, call: Call) -> Object:
    account = _account(state, call)
    if account is not None and not state.get("account", account, param="account")["payouts_enabled"]:
        raise Problem(400, "Cannot create payouts; your account needs more information.", code="payouts_not_allowed")
    name = state.new_id("po")
    movement = balance.move(state, account, -call.params["amount"], kind="payout", source=name)
    made = state.add(
        {
            "id": name,
            "object": "payout",
            "amount": call.params["amount"],
            "arrival_date": state.now() + state.rules.get("payout_seconds", ARRIVES_SECONDS),
            "automatic": False,
            "balance_transaction": movement,
            "created": state.now(),
            "currency": call.params["currency"],
            "description": call.params.get("description"),
            "failure_code": None,
            "failure_message": None,
            "livemode": False,
            "metadata": call.params.get("metadata", {}),
            "method": "standard",
            "status": "pending",
            "type": "bank_account",
        },
        account=account,
    )
    state.emit("payout.created", made, account=account)
    return made


def retrieve(state: State, call: Call) -> Object:
    return state.get("payout", call.path["id"], account=_account(state, call))


def list_payouts(state: State, call: Call) -> Object:
    rows = [
        row
        for row in state.all("payout", account=_account(state, call), status=call.params.get("status"))
        if was_created(row, call.params.get("created"))
    ]
    return page_of(rows, call.params, "/v1/payouts")


def cancel(state: State, call: Call) -> Object:
    payout = retrieve(state, call)
    if payout["status"] != "pending":
        raise Problem(400, f"Payouts that are {payout['status']} can't be canceled.")
    return _become(state, payout, "canceled")


def _become(state: State, payout: Object, status: str, failure_code: str | None = None) -> Object:
    before = {"status": payout["status"]}
    account = state.account_of(payout["id"])
    payout["status"] = status
    if status == "failed":
        code = failure_code or "account_closed"
        payout |= {"failure_code": code, "failure_message": FAILURES.get(code, code)}
    if status in ("failed", "canceled"):
        ended = "payout_failure" if status == "failed" else "payout_cancel"
        balance.move(state, account, payout["amount"], kind=ended, source=payout["id"])
    kind = "payout.updated" if status == "in_transit" else f"payout.{status}"
    state.emit(kind, payout, account=account, previous=before)
    return payout


def _account(state: State, call: Call) -> str | None:
    """The account that is asked for; None is the platform. Raises Problem where there is no such."""
    if call.account is not None:
        state.get("account", call.account, param="account")
    return call.account


def tick(state: State) -> None:
    """Pay, or fail, what has had its time."""
    for row in list(state.objects.values()):
        if row["object"] == "payout" and row["status"] in ("pending", "in_transit"):
            if row["arrival_date"] <= state.now():
                _become(state, row, "failed" if state.rules.get("payouts_fail") else "paid")


async def control(knobs: Knobs, ask: dict[str, Any]) -> Object:
    payout, status = knobs.state.objects[str(ask["payout"])], str(ask["status"])
    if status not in NEXT.get(payout["status"], ()):
        raise Problem(400, f"A payout that is {payout['status']} does not become {status}.")
    return _become(knobs.state, payout, status, ask.get("failure_code"))


ROUTES = (
    Route(
        "POST",
        "/v1/payouts",
        create,
        {
            "amount": Whole(required=True, least=1),
            "currency": Text(required=True, words=("usd",)),
            "description": Text(longest=1_000),
            "metadata": Metadata(),
        },
    ),
    Route("GET", "/v1/payouts", list_payouts, {**PAGE, "status": Text()}),
    Route("GET", "/v1/payouts/{id}", retrieve),
    Route("POST", "/v1/payouts/{id}/cancel", cancel),
)
CONTROLS: dict[tuple[str, str], ControlAct] = {("POST", "/_control/payouts"): control}
TICKS = (tick,)
