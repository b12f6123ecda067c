"""Which resources the double has: each module's routes, pages, knobs and what it does as time passes. One line each."""

from __future__ import annotations

from collections.abc import Callable

from faucet.payments.double import (
    accounts,
    balance,
    charges,
    checkout,
    checkout_page,
    customers,
    disputes,
    events,
    movements,
    payment_intents,
    payment_methods,
    payouts,
    refunds,
    transfers,
)
from faucet.payments.double.control import ControlAct
from faucet.payments.double.pages import PageRoute
from faucet.payments.double.routes import Route
from faucet.payments.double.state import State

ROUTES: tuple[Route, ...] = (
    *accounts.ROUTES,
    *balance.ROUTES,
    *movements.ROUTES,
    *charges.ROUTES,
    *checkout.ROUTES,
    *customers.ROUTES,
    *disputes.ROUTES,
    *events.ROUTES,
    *payment_intents.ROUTES,
    *payment_methods.ROUTES,
    *payouts.ROUTES,
    *refunds.ROUTES,
    *transfers.ROUTES,
)
PAGES: tuple[PageRoute, ...] = (
    *accounts.PAGES,
    *charges.PAGES,
    *checkout_page.PAGES,
)
CONTROLS_OF_RESOURCES: dict[tuple[str, str], ControlAct] = {
    **accounts.CONTROLS,
    **disputes.CONTROLS,
    **payouts.CONTROLS,
    **refunds.CONTROLS,
    **transfers.CONTROLS,
}
TICKS: tuple[Callable[[State], None], ...] = (
    movements.tick,
    checkout.tick,
    disputes.tick,
    payouts.tick,
)
