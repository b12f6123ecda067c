"""Commands over the API for the operator's levers: kill switches, and the platform's own provider keys."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from faucet.cli.remote import KeyOption, LimitOption, Remote, over_api
from faucet.cli.terminal import write_line

_SWITCHES = ("v1", "admin", "kill-switches")
_CREDENTIALS = ("v1", "admin", "provider-keys")

switches_app = typer.Typer(
    name="switches",
    help="Kill switches of apps, providers and everything.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
credentials_app = typer.Typer(
    name="credentials",
    help="The platform's own provider keys, sealed in the vault.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Target(StrEnum):
    """What a kill switch is over."""

    APP = "app"
    PROVIDER = "provider"
    EVERYTHING = "everything"


TargetArgument = Annotated[Target, typer.Argument(help="What is switched.")]
NameArgument = Annotated[
    str | None, typer.Argument(metavar="NAME", help="The app's public id, or the provider; none for everything.")
]


@over_api(switches_app, "list", "faucet switches list", operator=True)
def list_switches(at: Remote) -> None:
    """List what is switched off."""
    columns = (("What", "target"), ("Name", "target_id"), ("Why", "reason"), ("By", "thrown_by"), ("At", "thrown_at"))
    at.show_rows(list(at.every(*_SWITCHES)), columns, none="Nothing is switched off.")


@over_api(
    switches_app,
    "set",
    'faucet switches set app app_support --reason "stolen token"',
    'faucet switches set provider openai --reason "outage"',
    'faucet switches set everything --reason "maintenance"',
    operator=True,
)
def set_switch(
    at: Remote,
    target: TargetArgument,
    reason: Annotated[str, typer.Option(help="Why, for whoever looks later.")],
    name: NameArgument = None,
    key: KeyOption = None,
) -> None:
    """Switch something off. What has begun ends as it would."""
    body = {"target": target.value, "reason": reason}
    if name is not None:
        body["target_id"] = name
    at.show(at.post(*_SWITCHES, body=body, key=key))


@over_api(
    switches_app, "clear", "faucet switches clear app app_support", "faucet switches clear everything", operator=True
)
def clear_switch(at: Remote, target: TargetArgument, name: NameArgument = None) -> None:
    """Switch something on again."""
    if (target is Target.EVERYTHING) != (name is None):
        raise typer.BadParameter("name the app or provider; everything has no name")
    at.delete(*_SWITCHES, target.value, *([] if name is None else [name]))
    if at.as_json:
        at.show({"target": target.value, "target_id": name, "cleared": True})
    else:
        write_line(f"{target.value if name is None else name} is on again.")


# ── provider keys ──


@over_api(credentials_app, "list", "faucet credentials list", operator=True)
def list_credentials(at: Remote, limit: LimitOption = 1000) -> None:
    """List the platform's provider keys, newest first, disabled ones too; masked."""
    columns = (
        ("Id", "id"),
        ("Provider", "provider"),
        ("Key", "masked"),
        ("Status", "status"),
        ("Models", "models_allowed"),
        ("Priority", "priority"),
        ("Weight", "weight"),
    )
    at.show_rows(list(at.every(*_CREDENTIALS, limit=limit)), columns, none="There are none.")


@over_api(
    credentials_app,
    "add",
    "faucet credentials add openai",
    "faucet credentials add openai --secret-file key.txt --model gpt-4.1-mini",
    operator=True,
)
def add_credential(
    at: Remote,
    provider: Annotated[str, typer.Argument(help="A provider, such as `openai`.")],
    secret_file: Annotated[
        Path | None,
        typer.Option(
            "--secret-file", metavar="FILE", help="Where the key is; `-` reads standard input. Else asked for."
        ),
    ] = None,
    base_url: Annotated[str | None, typer.Option("--base-url", metavar="URL", help="Another address.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only for this model; may be repeated.")] = None,
    priority: Annotated[int, typer.Option(min=1, max=1000, help="Lower ones are used first.")] = 100,
    weight: Annotated[int, typer.Option(min=1, max=1000, help="How much of the traffic among equals.")] = 1,
    validate: Annotated[bool, typer.Option(help="Ask the provider whether it takes the key.")] = True,
    key: KeyOption = None,
) -> None:
    """Keep a provider's key of the platform. It is sealed at once, and nobody can read it back."""
    body = {
        "provider": provider,
        "api_key": _secret(secret_file),
        "models_allowed": model or [],
        "priority": priority,
        "weight": weight,
        "validate": validate,
    }
    if base_url is not None:
        body["base_url"] = base_url
    at.show(at.post(*_CREDENTIALS, body=body, key=key))


@over_api(credentials_app, "disable", "faucet credentials disable 0198a000-0000-7000-8000-000000000000", operator=True)
def disable_credential(
    at: Remote, credential: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as in the list.")]
) -> None:
    """Disable a key for good and erase its secret."""
    at.show(at.delete(*_CREDENTIALS, credential))


def _secret(file: Path | None) -> str:
    """A key that is never on the command line, where others could see it. Raises OSError."""
    if file is None:
        return str(typer.prompt("Key", hide_input=True, err=True)).strip()
    text = sys.stdin.readline() if str(file) == "-" else file.read_text(encoding="utf-8")
    return text.strip()
