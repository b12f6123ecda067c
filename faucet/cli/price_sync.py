"""`faucet prices sync`: what the packaged catalogue says of the providers in use, against what is known; as drafts.

Not here: deciding over drafts (`operate`, or the API), and what a price means (`rating`).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from faucet.cli.client import usd
from faucet.cli.operate import DatabaseOption, DataOption, JsonOption, in_tx
from faucet.cli.terminal import console, write_line
from faucet.rating.diff import Difference, Kind, differences
from faucet.rating.price import Price

if TYPE_CHECKING:
    from faucet.kit.config import Config
    from faucet.kit.db import Tx

PAGE = 500
COLOURS = {Kind.ADDED: "green", Kind.CHANGED: "yellow", Kind.REMOVED: "red"}


def sync(
    providers: Annotated[list[str] | None, typer.Argument(help="Only these; else those that are turned on.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the differences.")] = False,
    as_json: JsonOption = False,
    data: DataOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Compare prices with the packaged catalogue, and make drafts of what is new or differs.

    Works at the database, for whoever runs the installation.
    """
    now = datetime.now(UTC)

    async def work(tx: Tx, config: Config) -> tuple[list[Difference], int]:
        return await _compared(tx, config, providers or [], now, insert=not dry_run)

    found, new = in_tx(data, database_url, "Comparing prices", work)
    if as_json:
        write_line(json.dumps({"drafts": new, "items": [_shown(each) for each in found]}))
        return
    if found:
        console().print(_table(found))
    counts = ", ".join(f"{sum(each.kind is kind for each in found)} {kind}" for kind in Kind)
    write_line(f"{counts}; {new} new drafts." + (" Nothing was written." if dry_run else ""))
    if new:
        write_line("A draft counts only when you have confirmed it: `faucet prices confirm <provider> <model>`.")


async def _compared(
    tx: Tx, config: Config, providers: list[str], now: datetime, *, insert: bool
) -> tuple[list[Difference], int]:
    from faucet.providers.catalog import CATALOG
    from faucet.providers.platform import platform_providers
    from faucet.rating.seed import seed_rows
    from faucet.rating.store import insert_drafts, list_prices

    wanted = providers or [provider.name for provider in platform_providers(config)]
    unknown = [name for name in wanted if name not in CATALOG and name != "mock"]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: not in the catalogue of providers", param_hint="PROVIDERS")
    names = {entry.prices: entry.name for entry in CATALOG.values() if entry.prices is not None}
    rows = [row for row in seed_rows(effective_from=now, providers=wanted, names=names).rows if row.provider in wanted]
    known: list[Price] = []
    for name in wanted:
        while page := await list_prices(tx, provider=name, limit=PAGE, offset=sum(p.provider == name for p in known)):
            known += page
    return differences(known, rows, at=now), await insert_drafts(tx, rows) if insert else 0


def _table(found: list[Difference]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("", "Provider", "Model", "Input $/M", "Output $/M", "Differs in"):
        table.add_column(heading, justify="right" if "$" in heading else "left", overflow="fold")
    for each in found:
        price = each.price
        figures = [_both(each, name) for name in ("input_e8_per_m", "output_e8_per_m")]
        differs = ", ".join(name.removesuffix("_e8_per_m").replace("_", " ") for name in each.figures)
        kind = Text(each.kind, style=COLOURS[each.kind])
        table.add_row(kind, price.provider, price.model, *figures, differs)
    return table


def _both(each: Difference, name: str) -> str:
    """A figure, or how it changes."""
    values = [usd(getattr(price, name)) for price in (each.before, each.after) if price is not None]
    return " → ".join(dict.fromkeys(values))


def _shown(each: Difference) -> dict[str, Any]:
    shown: dict[str, Any] = {"kind": each.kind, "provider": each.price.provider, "model": each.price.model}
    for name, price in (("before", each.before), ("after", each.after)):
        if price is not None:
            shown[name] = asdict(price) | {"effective_from": price.effective_from.isoformat()}
    return shown | {"differs_in": list(each.figures)}
