"""The command that fetches a report into a file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from faucet.cli.remote import Remote, over_api
from faucet.tenants.tokens import TOKEN_PREFIX

export_app = typer.Typer(
    name="export", help="Whole reports as files, of any length.", no_args_is_help=True, rich_markup_mode=None
)


class Form(StrEnum):
    """What a report is written as."""

    CSV = "csv"
    PARQUET = "parquet"


FromOption = Annotated[str | None, typer.Option("--from", metavar="DAY", help="The first day, in UTC, or a moment.")]
ToOption = Annotated[str | None, typer.Option("--to", metavar="DAY", help="The day after the last, or a moment.")]
FormOption = Annotated[Form, typer.Option("--as", help="What to write it as.")]
OutOption = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to; else its usual name, here.")]


def _fetch(at: Remote, name: str, since: str | None, until: str | None, form: Form, out: Path | None) -> None:
    own = at.bearer.startswith(TOKEN_PREFIX)
    place = ("v1", "developer", "exports") if own else ("v1", "admin", "reports")
    path = out or Path(f"{name}.{form}")
    at.download(path, *place, f"{name}.csv", **{"from": since, "to": until, "format": str(form)})
    at.show({"file": str(path), "bytes": path.stat().st_size})


@over_api(
    export_app, "usage", "faucet export usage --from 2026-10-01 --to 2026-11-01", "faucet export usage --as parquet"
)
def export_usage(
    at: Remote, since: FromOption = None, until: ToOption = None, form: FormOption = Form.CSV, out: OutOption = None
) -> None:
    """Fetch every answer, one line each; a developer's own with their token."""
    _fetch(at, "usage", since, until, form, out)


@over_api(export_app, "revenue", "faucet export revenue --from 2026-10-01 --to 2026-11-01")
def export_revenue(
    at: Remote, since: FromOption = None, until: ToOption = None, form: FormOption = Form.CSV, out: OutOption = None
) -> None:
    """Fetch what each app's answers add up to."""
    _fetch(at, "revenue", since, until, form, out)


@over_api(export_app, "payouts", "faucet export payouts --out payouts.csv")
def export_payouts(
    at: Remote, since: FromOption = None, until: ToOption = None, form: FormOption = Form.CSV, out: OutOption = None
) -> None:
    """Fetch every payout that was opened."""
    _fetch(at, "payouts", since, until, form, out)
