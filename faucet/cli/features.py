"""Commands over the API for features of apps: list, show, create, archive, and their versions.

Not here: a feature's manifest as a file (`manifest`).
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from faucet.cli.developers import APPS, AppArgument
from faucet.cli.remote import (
    ApiOption,
    DataOption,
    JsonOption,
    KeyOption,
    LimitOption,
    TokenOption,
    remote,
    show_row,
    show_rows,
)
from faucet.cli.terminal import examples
from faucet.kit.errors import FaucetError

features_app = typer.Typer(name="features", help="Features of apps.", no_args_is_help=True, rich_markup_mode=None)

FeatureArgument = Annotated[str, typer.Argument(metavar="FEATURE", help="The feature's key.")]


@features_app.command("list", epilog=examples("faucet features list app_pub_demo"))
def list_features(
    app_id: AppArgument,
    limit: LimitOption = 1000,
    as_json: JsonOption = False,
    token: TokenOption = None,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """List an app's features, newest first."""
    with remote(data, api, token) as at:
        rows = list(at.every(*APPS, app_id, "features", limit=limit))
    columns = (("Key", "feature_key"), ("Name", "display_name"), ("Version", "version"), ("Status", "status"))
    show_rows(rows, columns, as_json, none="There are none. `faucet manifest apply` makes one from a file.")


@features_app.command("show", epilog=examples("faucet features show app_pub_demo customer_reply"))
def show_feature(
    app_id: AppArgument,
    feature: FeatureArgument,
    as_json: JsonOption = False,
    token: TokenOption = None,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Show one feature, with its policy and pricing."""
    with remote(data, api, token) as at:
        rows = at.every(*APPS, app_id, "features")
        found = next((row for row in rows if row["feature_key"] == feature), None)
    if found is None:
        raise FaucetError(f"{app_id} has no feature {feature!r} in force")
    show_row(found, as_json)


@features_app.command(
    "create",
    epilog=examples(
        'faucet features create app_support reply --name "Reply" --pricing \'{"markup_percent":30}\'',
    ),
)
def create_feature(
    app_id: AppArgument,
    feature: FeatureArgument,
    name: Annotated[str, typer.Option(help="Its name, for people.")],
    policy: Annotated[str, typer.Option(metavar="JSON", help="Its policy.")] = "{}",
    pricing: Annotated[str, typer.Option(metavar="JSON", help="Its pricing.")] = "{}",
    key: KeyOption = None,
    as_json: JsonOption = False,
    token: TokenOption = None,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Make a feature from the command line. `faucet manifest apply` makes one from a file."""
    body = {
        "feature_key": feature,
        "display_name": name,
        "policy": _object(policy, "--policy"),
        "pricing": _object(pricing, "--pricing"),
    }
    with remote(data, api, token) as at:
        show_row(at.post(*APPS, app_id, "features", body=body, key=key), as_json)


def _object(text: str, option: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{option}: must be a JSON object")
    return value


@features_app.command("archive", epilog=examples("faucet features archive app_support reply"))
def archive_feature(
    app_id: AppArgument,
    feature: FeatureArgument,
    as_json: JsonOption = False,
    token: TokenOption = None,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Refuse requests for a feature within five seconds."""
    with remote(data, api, token) as at:
        show_row(at.delete(*APPS, app_id, "features", feature), as_json)


@features_app.command("restore", epilog=examples("faucet features restore app_support reply"))
def restore_feature(
    app_id: AppArgument,
    feature: FeatureArgument,
    as_json: JsonOption = False,
    token: TokenOption = None,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Bring an archived feature back."""
    with remote(data, api, token) as at:
        show_row(at.patch(*APPS, app_id, "features", feature, body={"status": "active"}), as_json)


@features_app.command("versions", epilog=examples("faucet features versions app_support reply"))
def list_versions(
    app_id: AppArgument,
    feature: FeatureArgument,
    as_json: JsonOption = False,
    token: TokenOption = None,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """List what a feature said before, newest first."""
    with remote(data, api, token) as at:
        rows = at.get(*APPS, app_id, "features", feature, "versions")["items"]
    columns = (
        ("Version", "version"),
        ("In force", "is_active"),
        ("Policy", "policy"),
        ("Pricing", "pricing"),
        ("By", "created_by"),
    )
    show_rows(rows, columns, as_json, none="There are none.")


@features_app.command("activate", epilog=examples("faucet features activate app_support reply 1"))
def activate_version(
    app_id: AppArgument,
    feature: FeatureArgument,
    version: Annotated[int, typer.Argument(min=1, help="The version to put in force again.")],
    as_json: JsonOption = False,
    token: TokenOption = None,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Put an earlier version in force again."""
    with remote(data, api, token) as at:
        show_row(at.post(*APPS, app_id, "features", feature, "activate", body={"version": version}), as_json)
