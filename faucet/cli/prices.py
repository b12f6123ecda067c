"""Commands over the API for prices of models: import drafts, list, decide over them, set one of your own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from faucet.cli.client import usd
from faucet.cli.remote import KeyOption, Remote, Row, over_api
from faucet.cli.terminal import complain, console, write_line
from faucet.kit.money import from_wire

CONTEXT_WINDOW = 128_000
MAX_OUTPUT = 4_096
_PRICES = ("v1", "admin", "prices")
_COLOURS = {"added": "green", "changed": "yellow", "removed": "red"}

prices_app = typer.Typer(
    name="prices",
    help="Prices of models: import, decide over, set.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


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


ProviderArgument = Annotated[str, typer.Argument(help="A provider, such as `openai`.")]
ModelsArgument = Annotated[list[str] | None, typer.Argument(help="Its models.")]
EveryOption = Annotated[bool, typer.Option("--all", help="All drafts of the provider.")]


@over_api(prices_app, "seed", "faucet prices seed", "faucet prices seed --provider openai", operator=True)
def seed(
    at: Remote,
    provider: Annotated[list[str] | None, typer.Option(help="Only of this one; may be repeated.")] = None,
    key: KeyOption = None,
) -> None:
    """Import draft prices from the packaged catalogue. A draft counts only when you have confirmed it."""
    body = {} if not provider else {"providers": provider}
    done = at.post(*_PRICES, "import", body=body, key=key)
    if at.as_json:
        at.show(done)
        return
    write_line(
        f"{done['new_count']} new drafts of {done['price_count']} prices; {done['left_out_count']} models are left out,"
        " not plainly priced."
    )


@over_api(prices_app, "sync", "faucet prices sync --dry-run", "faucet prices sync anthropic gemini", operator=True)
def sync(
    at: Remote,
    providers: Annotated[list[str] | None, typer.Argument(help="Only these; else those that are turned on.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the differences.")] = False,
    key: KeyOption = None,
) -> None:
    """Compare prices with the packaged catalogue, and make drafts of what is new or differs."""
    from faucet.providers.catalog import CATALOG

    unknown = [name for name in providers or () if name not in CATALOG and name != "mock"]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: not in the catalogue of providers", param_hint="PROVIDERS")
    found = list(at.every(*_PRICES, "differences", provider=providers or None))
    new = 0
    if not dry_run:
        new = at.post(*_PRICES, "sync", body={"providers": providers} if providers else {}, key=key)["new_count"]
    if at.as_json:
        write_line(json.dumps({"drafts": new, "items": found}, ensure_ascii=False))
        return
    if found:
        console().print(_table(found))
    kinds = Counter(each["change"] for each in found)
    counts = ", ".join(f"{kinds[kind]} {kind}" for kind in _COLOURS)
    write_line(f"{counts}; {new} new drafts." + (" Nothing was written." if dry_run else ""))
    if new:
        write_line("A draft counts only when you have confirmed it: `faucet prices confirm <provider> <model>`.")


def _table(found: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("", "Provider", "Model", "Input $/M", "Output $/M", "Differs in"):
        table.add_column(heading, justify="right" if "$" in heading else "left", overflow="fold")
    for each in found:
        figures = [_both(each, name) for name in ("input_usd_per_m", "output_usd_per_m")]
        differs = ", ".join(name.removesuffix("_usd_per_m").replace("_", " ") for name in each["differs_in"])
        change = Text(each["change"], style=_COLOURS[each["change"]])
        table.add_row(change, each["provider"], each["model"], *figures, differs)
    return table


def _both(each: Row, name: str) -> str:
    """A figure, or how it changes."""
    values = [usd(from_wire(each[side][name])) for side in ("before", "after") if side in each]
    return " → ".join(dict.fromkeys(values))


@over_api(prices_app, "list", "faucet prices list", "faucet prices list openai --status draft", operator=True)
def list_versions(
    at: Remote,
    provider: Annotated[str | None, typer.Argument(help="Only of this provider.")] = None,
    status: Annotated[Status | None, typer.Option(help="Only of this status.")] = None,
) -> None:
    """List price versions: what is confirmed is what is charged."""
    rows = sorted(
        at.every(*_PRICES, provider=provider, status=None if status is None else status.value),
        key=lambda row: (row["provider"], row["model"], -row["id"]),
    )
    columns = (
        ("Provider", "provider"),
        ("Model", "model"),
        ("Input $/M", "input_usd_per_m"),
        ("Output $/M", "output_usd_per_m"),
        ("Status", "status"),
        ("From", "effective_from"),
        ("Source", "source"),
    )
    at.show_rows(
        rows,
        columns,
        none="There are none. `faucet prices seed` imports drafts; `faucet prices set` makes one of your own.",
    )


@over_api(
    prices_app,
    "confirm",
    "faucet prices confirm openai gpt-4.1-mini",
    "faucet prices confirm mock --all",
    operator=True,
)
def confirm(at: Remote, provider: ProviderArgument, models: ModelsArgument = None, every: EveryOption = False) -> None:
    """Confirm drafts: from now on these models are for sale at these prices."""
    _decide(at, provider, models or [], every, "confirm")


@over_api(prices_app, "reject", "faucet prices reject openai gpt-4", operator=True)
def reject(at: Remote, provider: ProviderArgument, models: ModelsArgument = None, every: EveryOption = False) -> None:
    """Reject drafts: they are kept, and the same figures are not offered again."""
    _decide(at, provider, models or [], every, "reject")


def _decide(at: Remote, provider: str, models: Sequence[str], every: bool, decision: str) -> None:
    """Raises Unreachable, Refused."""
    if every == bool(models):
        raise typer.BadParameter("name models, or say --all")
    drafts = list(at.every(*_PRICES, provider=provider, status="draft"))
    chosen = [draft for draft in drafts if every or draft["model"] in models]
    decided: list[Row] = [at.post(*_PRICES, str(draft["id"]), decision) for draft in chosen]
    without = sorted(set(models) - {draft["model"] for draft in chosen})
    if at.as_json:
        at.show_rows(decided, (), none="")
    else:
        done = {"confirm": "confirmed", "reject": "rejected"}[decision]
        write_line(f"{len(decided)} {'price' if len(decided) == 1 else 'prices'} {done}.")
    if without:
        complain(
            f"{provider} has no draft of {', '.join(without)}; `faucet prices list {provider}` shows what there is"
        )
        raise typer.Exit(1)


@over_api(
    prices_app,
    "set",
    "faucet prices set litellm my-model --input 0.15 --output 0.60 --max-output 8192",
    operator=True,
)
def set_price(
    at: Remote,
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
    key: KeyOption = None,
) -> None:
    """Price a model yourself, in dollars per million tokens, from now on."""
    body = {
        "provider": provider,
        "model": model,
        "input_usd_per_m": _price(price_in, "--input"),
        "output_usd_per_m": _price(price_out, "--output"),
        "tokenizer": tokenizer.value,
        "context_window": context_window,
        "max_output_tokens": max_output,
        "confirm": True,
    }
    if cached is not None:
        body["cached_read_usd_per_m"] = _price(cached, "--cached-input")
    row = at.post(*_PRICES, body=body, key=key)
    if at.as_json:
        at.show(row)
        return
    write_line(
        f"{row['provider']} {row['model']}: ${row['input_usd_per_m']} in, ${row['output_usd_per_m']} out per million"
        f" tokens, version {row['id']}."
    )


def _price(text: str, option: str) -> str:
    """Raises BadParameter."""
    try:
        from_wire(text)
    except ValueError:
        raise typer.BadParameter(f"{option}: {text!r} is not a price in dollars with at most 8 places") from None
    return text
