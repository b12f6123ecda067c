"""Which resources the double has: each module's routes, pages, knobs and what it does as time passes. One line each."""

from __future__ import annotations

from collections.abc import Callable

from faucet.payments.double import accounts, balance, events, payouts, transfers
from faucet.payments.double.control import ControlAct
from faucet.payments.double.pages import PageRoute
from faucet.payments.double.routes import Route
from faucet.payments.double.state import State

ROUTES: tuple[Route, ...] = (
    *events.ROUTES,
    *accounts.ROUTES,
    *balance.ROUTES,
    *transfers.ROUTES,
    *payouts.ROUTES,
)
PAGES: tuple[PageRoute, ...] = (*accounts.PAGES,)
CONTROLS_OF_RESOURCES: dict[tuple[str, str], ControlAct] = {
    **accounts.CONTROLS,
    **transfers.CONTROLS,
    **payouts.CONTROLS,
}
TICKS: tuple[Callable[[State], None], ...] = (*payouts.TICKS,)
