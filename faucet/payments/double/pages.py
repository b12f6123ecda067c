"""Pages of the double: what a browser is shown, and the routes that show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from faucet.payments.double.routes import Call
from faucet.payments.double.state import State


@dataclass(frozen=True, slots=True)
class Page:
    """An HTML page, or where the browser is sent instead."""

    body: str = ""
    status: int = 200
    location: str | None = None


@dataclass(frozen=True, slots=True)
class PageRoute:
    """A page's method and path; `call.params` are the form's fields, unchecked texts."""

    method: str
    path: str
    act: Callable[[State, Call], Page]
