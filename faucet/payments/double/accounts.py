"""Connected accounts: `/v1/accounts`, `/v1/account_links`, and the page on which their owners say who they are.

An account can't get or pay out anything before its owner has been on that page. A link opens once and for five
minutes; afterwards the browser is sent to its `refresh_url`.

    POST /_control/accounts  {"account", "ready": true|false}     as if its owner had been there, or Stripe had doubts
"""

from __future__ import annotations

import html
from typing import Any

from faucet.payments.double.control import ControlAct, Knobs
from faucet.payments.double.pages import Page, PageRoute, framed
from faucet.payments.double.params import Flag, Group, Metadata, Text
from faucet.payments.double.problem import Problem
from faucet.payments.double.routes import PAGE, Call, Route
from faucet.payments.double.state import Object, State, page_of

LINK_SECONDS = 300
_URL = Text(required=True, pattern=r"https?://\S+")


def create(state: State, call: Call) -> Object:
    asked = call.params
    schedule = asked.get("settings", {}).get("payouts", {}).get("schedule", {"interval": "daily"})
    made = state.add(
        {
            "id": state.new_id("acct")[:21],
            "object": "account",
            "type": asked["type"],
            "country": asked.get("country", "US"),
            "default_currency": "usd",
            "email": asked.get("email"),
            "created": state.now(),
            "capabilities": {name: "inactive" for name in asked.get("capabilities", {})},
            "charges_enabled": False,
            "payouts_enabled": False,
            "details_submitted": False,
            "metadata": asked.get("metadata", {}),
            "requirements": {"currently_due": ["external_account"], "disabled_reason": "requirements.past_due"},
            "settings": {"payouts": {"schedule": schedule}},
        }
    )
    return made


def retrieve(state: State, call: Call) -> Object:
    return state.get("account", call.path["id"])


def list_accounts(state: State, call: Call) -> Object:
    return page_of(state.all("account"), call.params, "/v1/accounts")


def link(state: State, call: Call) -> Object:
    account = state.get("account", call.params["account"], param="account")
    name = state.new_id("link")
    expires_at = state.now() + LINK_SECONDS
    state.hidden[f"link:{name}"] = {**call.params, "account": account["id"], "expires_at": expires_at}
    return {
        "object": "account_link",
        "created": state.now(),
        "expires_at": expires_at,
        "url": f"{state.base_url}/connect/{name}",
    }


def set_ready(state: State, account: Object, ready: bool) -> None:
    """What Stripe thinks of an account, and that it tells the platform."""
    capabilities = {name: "active" if ready else "inactive" for name in account["capabilities"]}
    fields = {
        "payouts_enabled": ready,
        "charges_enabled": ready and "card_payments" in capabilities,
        "details_submitted": account["details_submitted"] or ready,
        "capabilities": capabilities,
        "requirements": {
            "currently_due": [] if ready else ["external_account"],
            "disabled_reason": None if ready else "requirements.past_due",
        },
    }
    before = {name: account[name] for name, value in fields.items() if account[name] != value}
    account |= fields
    if before:
        state.emit("account.updated", account, account=account["id"], previous=before)


def transferable(state: State, name: str, *, param: str) -> Object:
    """The account with this id, if it can get transfers. Raises Problem."""
    account = state.get("account", name, param=param)
    if account["capabilities"].get("transfers") != "active":
        raise Problem(
            400,
            "Your destination account needs to have at least one of the following capabilities enabled: transfers,"
            " crypto_transfers, legacy_payments",
            code="insufficient_capabilities_for_transfer",
        )
    return account


# ── the page ──


def show(state: State, call: Call) -> Page:
    asked = _open(state, call)
    if isinstance(asked, Page):
        return asked
    account = state.objects[asked["account"]]
    return framed(
        "Connect your bank",
        f"""<h1>Connect your bank</h1>
<p>For the account <b>{html.escape(account["id"])}</b> ({html.escape(account["email"] or "no e-mail")}).</p>
<form method="post">
<label for="account">Account number</label>
<input id="account" name="account_number" inputmode="numeric" value="000123456789" required>
<label for="routing">Routing number</label>
<input id="routing" name="routing_number" inputmode="numeric" value="110000000" required>
<button type="submit">Agree and submit</button></form>
<p><small>No money moves here, and any numbers do.</small></p>""",
    )


def submit(state: State, call: Call) -> Page:
    asked = _open(state, call)
    if isinstance(asked, Page):
        return asked
    asked["expires_at"] = 0
    set_ready(state, state.objects[asked["account"]], True)
    return Page(status=303, location=asked["return_url"])


def _open(state: State, call: Call) -> dict[str, Any] | Page:
    """What the link is for, or where the browser is sent instead."""
    asked: dict[str, Any] | None = state.hidden.get(f"link:{call.path['link']}")
    if asked is None:
        return framed("Gone", "<h1>There is no such link.</h1>", 404)
    if asked["expires_at"] <= state.now():
        return Page(status=303, location=asked["refresh_url"])
    return asked


async def control(knobs: Knobs, ask: dict[str, Any]) -> Object:
    account = knobs.state.get("account", str(ask["account"]))
    set_ready(knobs.state, account, bool(ask["ready"]))
    return account


_CAPABILITY = Group({"requested": Flag()})
_SCHEDULE = Group({"interval": Text(words=("manual", "daily", "weekly", "monthly"))})
ROUTES = (
    Route(
        "POST",
        "/v1/accounts",
        create,
        {
            "type": Text(required=True, words=("express", "standard", "custom")),
            "country": Text(pattern=r"[A-Z]{2}"),
            "email": Text(longest=800),
            "capabilities": Group({"transfers": _CAPABILITY, "card_payments": _CAPABILITY}),
            "settings": Group({"payouts": Group({"schedule": _SCHEDULE})}),
            "metadata": Metadata(),
        },
    ),
    Route("GET", "/v1/accounts", list_accounts, PAGE),
    Route("GET", "/v1/accounts/{id}", retrieve),
    Route(
        "POST",
        "/v1/account_links",
        link,
        {
            "account": Text(required=True),
            "type": Text(required=True, words=("account_onboarding", "account_update")),
            "return_url": _URL,
            "refresh_url": _URL,
        },
    ),
)
PAGES = (PageRoute("GET", "/connect/{link}", show), PageRoute("POST", "/connect/{link}", submit))
CONTROLS: dict[tuple[str, str], ControlAct] = {("POST", "/_control/accounts"): control}
