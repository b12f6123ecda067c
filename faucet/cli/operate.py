"""Commands of an operator at the database: whether the books add up.

Not here: which figures are compared (`reports`), what goes over the API (`prices`, `limits`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.table import Table
from rich.text import Text

from faucet.cli.terminal import console, progress, write_line
from faucet.kit.errors import FaucetError

if TYPE_CHECKING:
    from faucet.kit.config import Config
    from faucet.kit.db import Tx
    from faucet.reports.finding import Finding
    from faucet.reports.reconciliation import WalletSummary

Got = TypeVar("Got")


DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="The data dir of the database.", envvar="FAUCET_DATA")
]
DatabaseOption = Annotated[
    str | None, typer.Option("--database-url", metavar="URL", help="Another database than the data dir's own.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]


def in_tx(
    data: Path | None,
    database_url: str | None,
    step: str,
    work: Callable[[Tx, Config], Awaitable[Got]],
) -> Got:
    """What `work` gives, done in one tx of the operator's database."""
    from faucet.stack.database import database, office
    from faucet.stack.settings import settings

    config = settings(data, database_url)

    async def run(dsn: str) -> Got:
        async with office(dsn) as tx:
            return await work(tx, config)

    with progress() as shown:
        shown.step(step)
        with database(config, shown.step) as dsn:
            return asyncio.run(run(dsn))


def reconcile(
    stripe_days: Annotated[
        int | None,
        typer.Option(
            "--stripe-days",
            min=1,
            max=400,
            metavar="N",
            help="Ask Stripe, too, what was transferred in so many days, and its balance.",
        ),
    ] = None,
    as_json: JsonOption = False,
    data: DataOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Check that the books add up; exit code 1 where they do not.

    Compares every balance, hold, counter and usage event with the transfers, what is final with what it was made of,
    top-ups and payouts with what Stripe told, and what providers billed with what was booked.
    """
    from faucet.reports import reconciliation

    async def work(tx: Tx, config: Config) -> tuple[list[Finding], WalletSummary]:
        await reconciliation.begin_snapshot(tx)
        findings = await reconciliation.reconcile(tx, tolerance_bps=config.invoice_tolerance_bps)
        return findings, await reconciliation.wallet_summary(tx)

    async def ask_stripe(tx: Tx, config: Config) -> list[Finding]:
        from faucet.jobs.reconcile import reconcile_balance, reconcile_stripe
        from faucet.payments.processor import line_of

        line = line_of(config)
        if line is None:
            raise FaucetError("Stripe is not set up here: STRIPE_SECRET_KEY is unset")
        now = datetime.now(UTC)
        found = await reconcile_stripe(tx, line, since=now - timedelta(days=stripe_days or 1), now=now)
        if config.stripe_foreign_e8 is not None:
            found += await reconcile_balance(tx, line, foreign_e8=config.stripe_foreign_e8)
        return found

    findings, summary = in_tx(data, database_url, "Comparing the books", work)
    if stripe_days is not None:
        findings += in_tx(data, database_url, "Asking Stripe", ask_stripe)
    if as_json:
        write_line(json.dumps({"ok": not findings, "summary": asdict(summary), "findings": [*map(asdict, findings)]}))
    else:
        _show(findings, summary)
    if findings:
        raise typer.Exit(1)


def _show(findings: list[Finding], summary: WalletSummary) -> None:
    out = console()
    balanced = f"{summary.balanced_count} of {summary.wallet_count} balances equal the sum of their transfers"
    if not findings:
        out.print(Text.assemble(("✓ ", "green"), f"The books add up: {balanced}; nothing differs."))
        return
    out.print(Text.assemble(("✗ ", "bold red"), f"{len(findings)} differences; {balanced}."))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("Check")
    table.add_column("Where", overflow="fold")
    table.add_column("Expected", justify="right")
    table.add_column("Is", justify="right")
    for finding in findings:
        table.add_row(finding.check, finding.subject, str(finding.expected), str(finding.actual))
    out.print(table)
