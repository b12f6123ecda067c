"""The checkout page: what a person pays, a card to pay with, and a way back. Plain HTML, no script."""

from __future__ import annotations

import html

from faucet.payments.double import cards, checkout
from faucet.payments.double.pages import Page, PageRoute, framed
from faucet.payments.double.problem import Problem
from faucet.payments.double.routes import Call
from faucet.payments.double.state import Object, State, dollars


def _form(state: State, session: Object, error: str | None = None, status: int = 200) -> Page:
    names = html.escape(state.hidden[f"checkout:{session['id']}"]["names"])
    amount = dollars(session["amount_total"])
    said = "" if error is None else f'<p class="error" role="alert" id="error">{html.escape(error)}</p>'
    back = session["cancel_url"]
    leave = (
        ""
        if back is None
        else f'<p><a id="cancel" href="{html.escape(checkout.place_after(session, "cancel_url"))}">Back</a></p>'
    )
    return framed(
        "Checkout",
        f"""<h1>{names}</h1><div class="amount" id="amount">{amount}</div>{said}
<form method="post">
<label for="email">E-mail</label><input id="email" name="email" type="email" autocomplete="email" required>
<label for="number">Card number</label>
<input id="number" name="number" inputmode="numeric" autocomplete="cc-number" required>
<div class="row"><div><label for="expiry">Expires</label>
<input id="expiry" name="expiry" autocomplete="cc-exp" placeholder="12 / 34" required></div>
<div><label for="cvc">CVC</label>
<input id="cvc" name="cvc" inputmode="numeric" autocomplete="cc-csc" required></div></div>
<button id="pay" type="submit">Pay {amount}</button></form>{leave}
<p><small>No money moves here. <code>4242 4242 4242 4242</code> pays, <code>4000 0000 0000 0002</code> is declined,
<code>4000 0000 0000 0259</code> is disputed a moment later.</small></p>""",
        status,
    )


def show(state: State, call: Call) -> Page:
    """The page of a session that is open; a short word for one that is not."""
    session = state.get("checkout.session", call.path["id"])
    if session["status"] == "complete":
        return Page(status=303, location=checkout.place_after(session, "success_url"))
    if session["status"] != "open":
        return framed("Checkout", "<h1>This checkout page has expired.</h1>", 410)
    return _form(state, session)


def submit(state: State, call: Call) -> Page:
    """Pay with the card that was typed in; back to the shop, or the page again with what the bank said."""
    session = state.get("checkout.session", call.path["id"])
    if session["status"] != "open":
        return show(state, call)
    typed = {name: value for name, value in call.params.items() if isinstance(value, str)}
    try:
        if (
            "@" not in typed.get("email", "")
            or not typed.get("cvc", "").isdigit()
            or "/" not in typed.get("expiry", "")
        ):
            raise Problem(400, "Your card's details are incomplete.")
        checkout.pay(state, session, cards.number_of(typed.get("number", "")), typed["email"])
    except Problem as problem:
        return _form(state, session, str(problem), 402)
    return Page(status=303, location=checkout.place_after(session, "success_url"))


PAGES = (PageRoute("GET", "/c/pay/{id}", show), PageRoute("POST", "/c/pay/{id}", submit))
