"""A statement's lines as CSV: the figures of the month, then each app, then each day."""

from __future__ import annotations

from faucet.closing.document import Signed
from faucet.closing.verify import ADDED, TAKEN
from faucet.kit.spreadsheet import line, text_cell

HEADER = ("section", "period", "name", "calls", "amount_usd")


def figures(kind: str) -> tuple[str, ...]:
    """The names of the amounts of this kind of statement, from its opening to its closing."""
    return (*ADDED[kind], *TAKEN[kind], "closing_usd")


def statement_csv(signed: Signed) -> str:
    """The lines of a statement."""
    says = signed.says
    period = says["period"]
    rows = [("total", period, name.removesuffix("_usd"), "", says[name]) for name in figures(says["kind"])]
    rows += [
        ("app", period, text_cell(app["public_app_id"]), str(app["calls"]), app["earned_usd"])
        for app in says.get("apps", ())
    ]
    rows += [("day", period, day["day"], str(day["calls"]), day["earned_usd"]) for day in says.get("days", ())]
    return line(HEADER) + "".join(line(row) for row in rows)
