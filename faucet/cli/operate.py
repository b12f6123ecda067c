"""Commands of an operator: spend limits, and whether the books add up. They speak to the database directly.

Not here: what a limit means (`ledger`), which figures are compared (`reports`), what goes over the API (`prices`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar
from uuid import UUID

import typer
from rich.table import Table
from rich.text import Text

from faucet.cli.client import usd
from faucet.cli.terminal import console, examples, progress, write_line
from faucet.kit.errors import FaucetError

if TYPE_CHECKING:
    from faucet.kit.config import Config
    from faucet.kit.db import Tx
    from faucet.reports.finding import Finding
    from faucet.reports.reconciliation import WalletSummary

limits_app = typer.Typer(
    name="limits",
    help="Spend limits of apps, features, end users and sessions.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Got = TypeVar("Got")


class Scope(StrEnum):
    """What a spend limit is over."""

    APP = "app"
    FEATURE = "feature"
    END_USER = "end_user"
    SESSION = "session"


class Period(StrEnum):
    """How long a spend limit counts."""

    MONTH = "month"
    TOTAL = "total"


DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="The data dir of the database.", envvar="FAUCET_DATA")
]
DatabaseOption = Annotated[
    str | None, typer.Option("--database-url", metavar="URL", help="Another database than the data dir's own.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]
PeriodOption = Annotated[Period, typer.Option(help="What counts: the calendar month in UTC, or all time.")]
TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="Its id. Also an app's public id, a feature as APP/FEATURE, an end user as APP/USER.",
    ),
]


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


# ── limits ──


@limits_app.command(
    "set",
    epilog=examples(
        "faucet limits set app app_pub_demo --period month --usd 50",
        "faucet limits set end_user app_pub_demo/crm-demo-user --period total --usd 5",
    ),
)
def set_limit(
    scope: Annotated[Scope, typer.Argument(help="What the limit is over.")],
    target: TargetArgument,
    amount: Annotated[str, typer.Option("--usd", metavar="USD", help="The limit; 0 stops everything.")],
    period: PeriodOption = Period.MONTH,
    data: DataOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Set or change a spend limit. It counts what was spent in its period before, too."""
    from faucet.kit.money import from_wire

    try:
        limit_e8 = from_wire(amount)
    except ValueError as error:
        raise typer.BadParameter(f"--usd: {error}") from None
    _limit(scope, target, period, limit_e8, data, database_url)
    write_line(f"{scope.value} {target} may spend {usd(limit_e8)} {_WORDS[period]}.")


@limits_app.command("lift", epilog=examples("faucet limits lift app app_pub_demo --period month"))
def lift_limit(
    scope: Annotated[Scope, typer.Argument(help="What the limit is over.")],
    target: TargetArgument,
    period: PeriodOption = Period.MONTH,
    data: DataOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Lift a spend limit."""
    _limit(scope, target, period, None, data, database_url)
    write_line(f"{scope.value} {target} has no limit {_WORDS[period]} any more.")


_WORDS = {Period.MONTH: "a month", Period.TOTAL: "in all"}


def _limit(
    scope: Scope, target: str, period: Period, limit_e8: int | None, data: Path | None, database_url: str | None
) -> None:
    async def work(tx: Tx, config: Config) -> None:
        found = await _find(tx, config, scope, target)
        await tx.execute("select spend_limit_set_v1(%s, %s, %s, %s)", (scope.value, found, period.value, limit_e8))

    in_tx(data, database_url, "Setting the limit", work)


async def _find(tx: Tx, config: Config, scope: Scope, target: str) -> UUID:
    """The row id of what a limit is over. Raises FaucetError where there is no such thing."""
    from faucet.kit.errors import FaucetError

    table = {Scope.APP: "app", Scope.FEATURE: "feature", Scope.END_USER: "end_user", Scope.SESSION: "session"}[scope]
    found = await _by_name(tx, config, scope, target)
    if found is None:
        try:
            found = UUID(target)
        except ValueError:
            raise FaucetError(f"there is no {table} {target!r}") from None
        cursor = await tx.execute(f"select 1 from {table} where id = %s".encode(), (found,))
        if await cursor.fetchone() is None:
            raise FaucetError(f"there is no {table} {target}")
    return found


async def _by_name(tx: Tx, config: Config, scope: Scope, target: str) -> UUID | None:
    from faucet.tenants import store
    from faucet.tenants.sessions import external_id_hash

    public_app_id, _, name = target.partition("/")
    app = None if scope is Scope.SESSION else await store.find_app(tx, public_app_id)
    if app is None:
        return None
    if scope is Scope.APP:
        return app.id if not name else None
    if scope is Scope.FEATURE:
        return next((f.id for f in await store.list_features(tx, app.id) if f.feature_key == name), None)
    hashed = external_id_hash(config.external_id_key, app.id, name)
    cursor = await tx.execute("select id from end_user where app_id = %s and external_id_hash = %s", (app.id, hashed))
    row = await cursor.fetchone()
    return None if row is None else row[0]


# ── the books ──


def reconcile(
    stripe_days: Annotated[
        int | None,
        typer.Option(
            "--stripe-days", min=1, max=400, metavar="N", help="Ask Stripe, too, what was transferred in so many days."
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
        from faucet.jobs.reconcile import reconcile_stripe
        from faucet.payments.processor import line_of

        line = line_of(config)
        if line is None:
            raise FaucetError("Stripe is not set up here: STRIPE_SECRET_KEY is unset")
        now = datetime.now(UTC)
        return await reconcile_stripe(tx, line, since=now - timedelta(days=stripe_days or 1), now=now)

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
