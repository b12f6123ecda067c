"""Commands over the API for features of apps: list, show, create, archive, and their versions.

Not here: a feature's manifest as a file (`manifest`).
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from faucet.cli.developers import APPS, AppArgument
from faucet.cli.remote import (
    KeyOption,
    LimitOption,
    Remote,
    over_api,
)
from faucet.kit.errors import FaucetError

features_app = typer.Typer(name="features", help="Features of apps.", no_args_is_help=True, rich_markup_mode=None)

FeatureArgument = Annotated[str, typer.Argument(metavar="FEATURE", help="The feature's key.")]


@over_api(features_app, "list", "faucet features list app_pub_demo")
def list_features(
    at: Remote,
    app_id: AppArgument,
    limit: LimitOption = 1000,
) -> None:
    """List an app's features, newest first."""
    rows = list(at.every(*APPS, app_id, "features", limit=limit))
    columns = (("Key", "feature_key"), ("Name", "display_name"), ("Version", "version"), ("Status", "status"))
    at.show_rows(rows, columns, none="There are none. `faucet manifest apply` makes one from a file.")


@over_api(features_app, "show", "faucet features show app_pub_demo customer_reply")
def show_feature(
    at: Remote,
    app_id: AppArgument,
    feature: FeatureArgument,
) -> None:
    """Show one feature, with its policy and pricing."""
    rows = at.every(*APPS, app_id, "features")
    found = next((row for row in rows if row["feature_key"] == feature), None)
    if found is None:
        raise FaucetError(f"{app_id} has no feature {feature!r} in force")
    at.show(found)


@over_api(
    features_app,
    "create",
    'faucet features create app_support reply --name "Reply" --pricing \'{"markup_percent":30}\'',
)
def create_feature(
    at: Remote,
    app_id: AppArgument,
    feature: FeatureArgument,
    name: Annotated[str, typer.Option(help="Its name, for people.")],
    policy: Annotated[str, typer.Option(metavar="JSON", help="Its policy.")] = "{}",
    pricing: Annotated[str, typer.Option(metavar="JSON", help="Its pricing.")] = "{}",
    key: KeyOption = None,
) -> None:
    """Make a feature from the command line. `faucet manifest apply` makes one from a file."""
    body = {
        "feature_key": feature,
        "display_name": name,
        "policy": _object(policy, "--policy"),
        "pricing": _object(pricing, "--pricing"),
    }
    at.show(at.post(*APPS, app_id, "features", body=body, key=key))


def _object(text: str, option: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{option}: must be a JSON object")
    return value


@over_api(features_app, "archive", "faucet features archive app_support reply")
def archive_feature(
    at: Remote,
    app_id: AppArgument,
    feature: FeatureArgument,
) -> None:
    """Refuse requests for a feature within five seconds."""
    at.show(at.delete(*APPS, app_id, "features", feature))


@over_api(features_app, "restore", "faucet features restore app_support reply")
def restore_feature(
    at: Remote,
    app_id: AppArgument,
    feature: FeatureArgument,
) -> None:
    """Bring an archived feature back."""
    at.show(at.patch(*APPS, app_id, "features", feature, body={"status": "active"}))


@over_api(features_app, "versions", "faucet features versions app_support reply")
def list_versions(
    at: Remote,
    app_id: AppArgument,
    feature: FeatureArgument,
) -> None:
    """List what a feature said before, newest first."""
    rows = list(at.every(*APPS, app_id, "features", feature, "versions"))
    columns = (
        ("Version", "version"),
        ("In force", "is_active"),
        ("Policy", "policy"),
        ("Pricing", "pricing"),
        ("By", "created_by"),
    )
    at.show_rows(rows, columns, none="There are none.")


@over_api(features_app, "activate", "faucet features activate app_support reply 1")
def activate_version(
    at: Remote,
    app_id: AppArgument,
    feature: FeatureArgument,
    version: Annotated[int, typer.Argument(min=1, help="The version to put in force again.")],
) -> None:
    """Put an earlier version in force again."""
    at.show(at.post(*APPS, app_id, "features", feature, "activate", body={"version": version}))
