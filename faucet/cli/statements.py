"""Commands for months: close them, fetch signed statements and the usage behind them, and check both offline.

`verify` reads files alone; the others speak to the API.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from faucet.cli.remote import JsonOption, KeyOption, LimitOption, Remote, over_api
from faucet.cli.terminal import complain, examples, write_line
from faucet.kit.errors import FaucetError

periods_app = typer.Typer(
    name="periods", help="Months: close them, and see which are closed.", no_args_is_help=True, rich_markup_mode=None
)
statement_app = typer.Typer(
    name="statement", help="Signed statements of closed months.", no_args_is_help=True, rich_markup_mode=None
)

PeriodArgument = Annotated[str, typer.Argument(metavar="MONTH", help="A month in UTC, such as 2026-10.")]
DeveloperOption = Annotated[
    str | None, typer.Option("--developer", metavar="DEVELOPER", help="Whose; an id or an e-mail address.")
]
OutOption = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to; else its usual name, here.")]

PERIODS = ("v1", "admin", "periods")
STATEMENTS = ("v1", "developer", "statements")
KEYS = (".well-known", "modelfaucet", "statement-keys.json")


class Form(StrEnum):
    """What a statement is written as."""

    JSON = "json"
    CSV = "csv"
    PDF = "pdf"


# ── months ──


@over_api(periods_app, "list", "faucet periods list", operator=True)
def list_periods(at: Remote, limit: LimitOption = 1000) -> None:
    """List the months that are closed or being closed, newest first."""
    rows = list(at.every(*PERIODS, limit=limit))
    columns = (("Month", "period"), ("Status", "status"), ("Statements", "statements"), ("Closed", "closed_at"))
    at.show_rows(rows, columns, none="No month is closed. `faucet periods close 2026-10` closes one.")


@over_api(periods_app, "close", "faucet periods close 2026-10", operator=True)
def close_period(at: Remote, month: PeriodArgument, key: KeyOption = None) -> None:
    """Close a month for good.

    The jobs take its sums, write and sign its statements, within a minute or as long as it takes; ask again to see
    how far it is. Months are closed in order, some days after their end.
    """
    at.show(at.post(*PERIODS, month, "close", key=key))


# ── statements ──


@over_api(statement_app, "list", "faucet statement list --developer dev@acme.example")
def list_statements(at: Remote, developer: DeveloperOption = None, limit: LimitOption = 1000) -> None:
    """List developers' statements, newest first."""
    found = at.every(*STATEMENTS, limit=limit, developer_id=None if developer is None else at.developer_id(developer))
    rows = [{**row, **row["statement"]} for row in found]
    columns = (
        ("Month", "period"),
        ("Developer", "developer_name"),
        ("Opening", "opening_usd"),
        ("Earned", "earned_usd"),
        ("Paid", "paid_usd"),
        ("Closing", "closing_usd"),
    )
    at.show_rows(rows, columns, none="There are none: no month is closed.")


@over_api(
    statement_app,
    "get",
    "faucet statement get 2026-10",
    "faucet statement get 2026-10 --as pdf --developer dev@acme.example",
)
def fetch_statement(
    at: Remote,
    month: PeriodArgument,
    form: Annotated[Form, typer.Option("--as", help="What to write it as; `json` is the signed file.")] = Form.JSON,
    developer: DeveloperOption = None,
    out: OutOption = None,
) -> None:
    """Fetch a statement into a file."""
    path = out or Path(f"statement-{month}.{form}")
    at.download(path, *STATEMENTS, f"{month}.{form}", developer_id=_whose(at, developer))
    at.show({"file": str(path), "bytes": path.stat().st_size})


@over_api(statement_app, "usage", "faucet statement usage 2026-10 --out usage.csv")
def fetch_usage(at: Remote, month: PeriodArgument, out: OutOption = None) -> None:
    """Fetch the usage that a statement of yours is about, as CSV. Takes a developer's token."""
    from faucet.closing.month import parse_month

    try:
        wanted = parse_month(month)
    except ValueError as error:
        raise FaucetError(str(error)) from None
    path = out or Path(f"usage-{month}.csv")
    bounds = {"from": str(wanted.first_day), "to": str(wanted.next.first_day)}
    at.download(path, "v1", "developer", "exports", "usage.csv", **bounds)
    at.show({"file": str(path), "bytes": path.stat().st_size})


@over_api(statement_app, "keys", "faucet statement keys --json > keys.json")
def show_keys(at: Remote) -> None:
    """Show the public keys that statements were ever signed with."""
    rows = at.get(*KEYS)["items"]
    columns = (("Key", "key_id"), ("Public key", "public_key"), ("Since", "created_at"))
    at.show_rows(rows, columns, none="There are none: no month is closed.")


def _whose(at: Remote, developer: str | None) -> str | None:
    return None if developer is None else at.developer_id(developer)


# ── offline ──


@statement_app.command(
    "verify",
    epilog=examples(
        "faucet statement verify statement-2026-10.json --key keys.json",
        "faucet statement verify statement-2026-10.json --usage usage-2026-10.csv",
        "faucet statement verify statement-2026-09.json statement-2026-10.json",
    ),
)
def verify(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Statements, the oldest first.")],
    usage: Annotated[
        Path | None, typer.Option("--usage", metavar="FILE", help="The usage export of the last statement's month.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY", help="The public key to trust: in hexadecimal, or a file of keys."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check statements without any server; exit code 1 where one isn't genuine.

    Each is unchanged, signed and adds up, and each follows the one before it; the last one's usage is that of the
    export, line by line. Without --key anybody's signature will do: compare the key with the published one.
    """
    from faucet.closing.document import NotProved
    from faucet.closing.usage_proof import UsageDiffers
    from faucet.closing.verify import prove, prove_usage

    contents = [path.read_bytes() for path in files]
    try:
        proved = prove(contents, trusted=None if key is None else _trusted(key))
        lines = None
        if usage is not None:
            with usage.open(encoding="utf-8", newline="") as export:
                lines = prove_usage(contents[-1], export)
    except (NotProved, UnicodeDecodeError) as error:
        reasons = error.faults if isinstance(error, UsageDiffers) else [str(error)]
        if as_json:
            write_line(json.dumps({"ok": False, "reasons": reasons}, ensure_ascii=False))
        else:
            complain("\n".join(["not genuine: " + reasons[0], *reasons[1:]]))
        raise typer.Exit(1) from None
    if as_json:
        shown = {"ok": True, "key_trusted": key is not None, "usage_lines": lines}
        write_line(json.dumps(shown | {"statements": [asdict(each) for each in proved]}, ensure_ascii=False))
        return
    for each in proved:
        write_line(f"✓ {each.period} of {each.kind.replace('_', ' ')} {each.subject}: closing {each.closing_usd} USD")
    if lines is not None:
        write_line(f"✓ {lines} lines of usage, each as it was")
    if key is None:
        for name in dict.fromkeys(each.key_id for each in proved):
            write_line(f"Signed by the key {name}. Trust it if it is published: `faucet statement keys`.")


def _trusted(key: str) -> frozenset[bytes]:
    """The keys that --key names. Raises FaucetError."""
    try:
        text = key if len(key) == 64 and not Path(key).exists() else Path(key).read_text(encoding="utf-8").strip()
        if text.startswith("{"):
            return frozenset(bytes.fromhex(item["public_key"]) for item in json.loads(text)["items"])
        return frozenset((bytes.fromhex(text),))
    except (ValueError, KeyError, TypeError):
        raise FaucetError("--key is neither a key in hexadecimal nor a file of keys") from None
