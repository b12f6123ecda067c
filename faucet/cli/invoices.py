"""Commands for invoices of providers: import what they billed, to be held against the books."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from faucet.cli.remote import KeyOption, LimitOption, Remote, over_api
from faucet.kit.errors import FaucetError
from faucet.kit.money import to_wire

invoices_app = typer.Typer(
    name="invoices",
    help="What providers billed, to compare with the books.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

INVOICES = ("v1", "admin", "provider-invoices")
DayOption = Annotated[
    str | None, typer.Option(metavar="DAY", help="The first or last day of the invoice; else that of its lines.")
]


@over_api(
    invoices_app,
    "import",
    "faucet invoices import october.csv --provider openai --reference INV-2026-10",
    "faucet invoices import october.csv --provider openai --reference INV-1 --first-day 2026-10-01",
    operator=True,
)
def import_invoice(
    at: Remote,
    file: Annotated[Path, typer.Argument(help="CSV with the columns day, model and amount_usd.")],
    provider: Annotated[str, typer.Option(help="Whose invoice it is, as providers are called here.")],
    reference: Annotated[str, typer.Option(help="What the provider calls it.")],
    first_day: DayOption = None,
    last_day: DayOption = None,
    key: KeyOption = None,
) -> None:
    """Import what a provider billed, by day and model.

    `faucet reconcile` then compares it with what was booked, and names each day and model that differs by more than
    INVOICE_TOLERANCE_BPS.
    """
    from faucet.closing.invoices import SheetRefused, read_sheet

    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            found = read_sheet(lines)
    except (SheetRefused, UnicodeDecodeError) as error:
        raise FaucetError(f"{file}: {error}") from None
    body = {
        "provider": provider,
        "reference": reference,
        "first_day": first_day or str(min(line.day for line in found)),
        "last_day": last_day or str(max(line.day for line in found)),
        "lines": [{"day": str(line.day), "model": line.model, "amount_usd": to_wire(line.amount_e8)} for line in found],
    }
    at.show(at.post(*INVOICES, body=body, key=key))


@over_api(invoices_app, "list", "faucet invoices list", operator=True)
def list_invoices(at: Remote, limit: LimitOption = 1000) -> None:
    """List invoices, newest first."""
    rows = list(at.every(*INVOICES, limit=limit))
    columns = (
        ("Id", "id"),
        ("Provider", "provider"),
        ("Reference", "reference"),
        ("From", "first_day"),
        ("To", "last_day"),
        ("Total", "total_usd"),
        ("Withdrawn", "withdrawn_at"),
    )
    at.show_rows(rows, columns, none="There are none. `faucet invoices import` imports one.")


@over_api(invoices_app, "withdraw", "faucet invoices withdraw 01890000-0000-7000-8000-000000000000", operator=True)
def withdraw_invoice(at: Remote, invoice: Annotated[str, typer.Argument(help="Its id.")]) -> None:
    """Take an invoice that was wrong out of the comparison."""
    at.delete(*INVOICES, invoice)
    at.show({"withdrawn": invoice})
