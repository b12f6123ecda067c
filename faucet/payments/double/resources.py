"""Which resources the double has: each module's routes, pages, knobs and what it does as time passes. One line each."""

from __future__ import annotations

from collections.abc import Callable

from faucet.payments.double import events
from faucet.payments.double.control import ControlAct
from faucet.payments.double.pages import PageRoute
from faucet.payments.double.routes import Route
from faucet.payments.double.state import State

ROUTES: tuple[Route, ...] = (*events.ROUTES,)
PAGES: tuple[PageRoute, ...] = ()
CONTROLS_OF_RESOURCES: dict[tuple[str, str], ControlAct] = {}
TICKS: tuple[Callable[[State], None], ...] = ()
