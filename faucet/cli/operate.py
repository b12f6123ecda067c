"""Commands of an operator: prices, spend limits, and whether the books add up. They speak to the database directly.

Not here: what a price or a limit means (`rating`, `ledger`), nor which figures are compared (`reports`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar
from uuid import UUID

import typer
from rich.table import Table
from rich.text import Text

from faucet.cli.client import usd
from faucet.cli.terminal import complain, console, examples, progress, write_line

if TYPE_CHECKING:
    from faucet.kit.config import Config
    from faucet.kit.db import Tx
    from faucet.rating.price import Price
    from faucet.rating.store import Decision
    from faucet.reports.reconciliation import Finding, WalletSummary

ACTOR = "operator, by command"
PAGE = 500
CONTEXT_WINDOW = 128_000
MAX_OUTPUT = 4_096
IMAGE_TOKENS = 50_000
"""More than any provider documents for one image: a bound that is too high only holds too much for a moment."""

prices_app = typer.Typer(
    name="prices",
    help="Prices of models: import, decide over, set.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
limits_app = typer.Typer(
    name="limits",
    help="Spend limits of apps, features, end users and sessions.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Got = TypeVar("Got")


class Tokens(StrEnum):
    """How tokens are counted where a provider does not say how many there were."""

    O200K = "o200k"
    WORDS = "words"
    BYTES = "bytes"


class Status(StrEnum):
    """What may be asked for of a price version."""

    DRAFT = "draft"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"


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
ProviderArgument = Annotated[str, typer.Argument(help="A provider, such as `openai`.")]
ModelsArgument = Annotated[list[str] | None, typer.Argument(help="Its models.")]
EveryOption = Annotated[bool, typer.Option("--all", help="All drafts of the provider.")]
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


# ── prices ──


@prices_app.command("seed", epilog=examples("faucet prices seed", "faucet prices seed --provider openai"))
def seed(
    provider: Annotated[list[str] | None, typer.Option(help="Only of this one; may be repeated.")] = None,
    data: DataOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Import draft prices from the packaged catalogue. A draft counts only when you have confirmed it."""
    from faucet.providers.catalog import CATALOG
    from faucet.rating.seed import SEED_EFFECTIVE_FROM, seed_rows
    from faucet.rating.store import insert_drafts

    async def work(tx: Tx, _: Config) -> str:
        names = {entry.prices: entry.name for entry in CATALOG.values() if entry.prices is not None}
        report = seed_rows(providers=provider or None, effective_from=SEED_EFFECTIVE_FROM, names=names)
        new = await insert_drafts(tx, report.rows)
        left_out = len(report.skipped)
        return f"{new} new drafts of {len(report.rows)} prices; {left_out} models are left out, not priced by tokens."

    write_line(in_tx(data, database_url, "Reading the catalogue", work))


@prices_app.command("list", epilog=examples("faucet prices list", "faucet prices list openai --status draft"))
def list_versions(
    provider: Annotated[str | None, typer.Argument(help="Only of this provider.")] = None,
    status: Annotated[Status | None, typer.Option(help="Only of this status.")] = None,
    as_json: JsonOption = False,
    data: DataOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """List price versions: what is confirmed is what is charged."""
    from faucet.rating.store import list_prices

    async def work(tx: Tx, _: Config) -> list[Price]:
        rows: list[Price] = []
        while True:
            page = await list_prices(
                tx, status=status.value if status else None, provider=provider, limit=PAGE, offset=len(rows)
            )
            rows += page
            if len(page) < PAGE:
                return rows

    rows = in_tx(data, database_url, "Reading prices", work)
    if as_json:
        write_line(json.dumps({"items": [shown_price(row) for row in rows]}))
        return
    if not rows:
        write_line("There are none. `faucet prices seed` imports drafts; `faucet prices set` makes one of your own.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("Provider", "Model"):
        table.add_column(heading, overflow="fold")
    for heading in ("Input $/M", "Output $/M"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("Status", "From", "Source"):
        table.add_column(heading, no_wrap=heading != "Source")
    colours = {"draft": "yellow", "confirmed": "green", "rejected": "dim"}
    for row in rows:
        table.add_row(
            row.provider,
            row.model,
            usd(row.input_e8_per_m) + ("*" if row.tiers else ""),
            usd(row.output_e8_per_m) + ("*" if row.tiers else ""),
            Text(row.status, style=colours[row.status]),
            f"{row.effective_from.astimezone(UTC):%Y-%m-%d}",
            row.source,
        )
    console().print(table)
    if any(row.tiers for row in rows):
        write_line("* In tiers, of size or of hours; --json shows them.")


def shown_price(row: Price) -> dict[str, Any]:
    """A price as one JSON object."""
    return asdict(row) | {"effective_from": row.effective_from.isoformat()}


@prices_app.command(
    "confirm", epilog=examples("faucet prices confirm openai gpt-4.1-mini", "faucet prices confirm mock --all")
)
def confirm(
    provider: ProviderArgument,
    models: ModelsArgument = None,
    every: EveryOption = False,
    data: DataOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Confirm drafts: from now on these models are for sale at these prices."""
    _decide(provider, models or [], every, "confirmed", data, database_url)


@prices_app.command("reject", epilog=examples("faucet prices reject openai gpt-4"))
def reject(
    provider: ProviderArgument,
    models: ModelsArgument = None,
    every: EveryOption = False,
    data: DataOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Reject drafts: they are kept, and the same figures are not offered again."""
    _decide(provider, models or [], every, "rejected", data, database_url)


def _decide(
    provider: str,
    models: Sequence[str],
    every: bool,
    decision: Decision,
    data: Path | None,
    database_url: str | None,
) -> None:
    from faucet.rating.store import decide_model, list_prices
    from faucet.tenants.store import announce_change

    if every == bool(models):
        raise typer.BadParameter("name models, or say --all")

    async def work(tx: Tx, _: Config) -> tuple[int, list[str]]:
        chosen = list(models)
        if every:
            drafts = await list_prices(tx, status="draft", provider=provider, limit=100_000, offset=0)
            chosen = sorted({draft.model for draft in drafts})
        counts = {name: await decide_model(tx, provider, name, status=decision, actor=ACTOR) for name in chosen}
        await announce_change(tx)
        return sum(counts.values()), [name for name, count in counts.items() if count == 0]

    count, without = in_tx(data, database_url, "Deciding", work)
    write_line(f"{count} {'price' if count == 1 else 'prices'} {decision}.")
    if without:
        complain(
            f"{provider} has no draft of {', '.join(without)}; `faucet prices list {provider}` shows what there is"
        )
        raise typer.Exit(1)


@prices_app.command(
    "set",
    epilog=examples("faucet prices set litellm my-model --input 0.15 --output 0.60 --max-output 8192"),
)
def set_price(
    provider: ProviderArgument,
    model: Annotated[str, typer.Argument(help="The model's name as the provider knows it.")],
    price_in: Annotated[str, typer.Option("--input", metavar="USD", help="Per million input tokens.")],
    price_out: Annotated[str, typer.Option("--output", metavar="USD", help="Per million output tokens.")],
    cached: Annotated[
        str | None, typer.Option("--cached-input", metavar="USD", help="Per million tokens read from a cache.")
    ] = None,
    tokenizer: Annotated[Tokens, typer.Option(help="How to count where the provider does not.")] = Tokens.BYTES,
    context_window: Annotated[int, typer.Option(min=1, help="Tokens.")] = CONTEXT_WINDOW,
    max_output: Annotated[int, typer.Option(min=1, help="Tokens of one answer, at most.")] = MAX_OUTPUT,
    data: DataOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Price a model yourself, in dollars per million tokens, from now on."""
    from faucet.rating.price import Price
    from faucet.rating.store import decide_model, insert_drafts
    from faucet.tenants.store import announce_change

    try:
        input_e8 = _e8(price_in, "--input")
        cached_e8 = input_e8 if cached is None else _e8(cached, "--cached-input")
        price = Price(
            id=0,
            provider=provider,
            model=model,
            tokenizer=_TOKENIZERS[tokenizer],
            context_window=context_window,
            max_output_tokens=max_output,
            input_e8_per_m=input_e8,
            cached_read_e8_per_m=cached_e8,
            cached_write_e8_per_m=input_e8,
            output_e8_per_m=_e8(price_out, "--output"),
            image_tokens_max=IMAGE_TOKENS,
            effective_from=datetime.now(UTC),
            source="set by the operator",
            status="draft",
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

    async def work(tx: Tx, _: Config) -> int:
        new = await insert_drafts(tx, [price])
        await decide_model(tx, provider, model, status="confirmed", actor=ACTOR)
        await announce_change(tx)
        return new

    new = in_tx(data, database_url, "Setting the price", work)
    figures = f"{usd(price.input_e8_per_m)} in, {usd(price.output_e8_per_m)} out per million tokens"
    write_line(f"{provider} {model}: {figures}{'' if new else ' (as before)'}.")


_TOKENIZERS: dict[Tokens, Literal["o200k", "words", "bytes"]] = {
    Tokens.O200K: "o200k",
    Tokens.WORDS: "words",
    Tokens.BYTES: "bytes",
}


def _e8(text: str, option: str) -> int:
    """A dollar price as e8. Raises ValueError, naming the option."""
    from faucet.rating.seed import e8

    try:
        price = Decimal(text)
        if not price.is_finite() or price < 0:
            raise ValueError
        return e8(price)
    except (InvalidOperation, ValueError):
        raise ValueError(f"{option}: {text!r} is not a price in dollars with at most 8 places") from None


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


def reconcile(as_json: JsonOption = False, data: DataOption = None, database_url: DatabaseOption = None) -> None:
    """Check that the books add up; exit code 1 where they do not.

    Compares every balance, hold, counter and usage event with the transfers.
    """
    from faucet.reports import reconciliation

    async def work(tx: Tx, _: Config) -> tuple[list[Finding], WalletSummary]:
        await reconciliation.begin_snapshot(tx)
        return await reconciliation.reconcile(tx), await reconciliation.wallet_summary(tx)

    findings, summary = in_tx(data, database_url, "Comparing the books", work)
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
