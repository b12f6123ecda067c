"""Commands over a running control API: developers, apps, features, tokens, wallets, and features as manifest files.

The bearer is `--token` or FAUCET_TOKEN, which may be a developer's; without one the operator's of the environment or
the data dir. Not here: what may be done with it, which is the API's to say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer
from rich.table import Table

from faucet.cli.client import Client
from faucet.cli.terminal import complain, console, examples, write_line

if TYPE_CHECKING:
    from faucet.tenants.manifest_file import ManifestFile

API_PORT = 3001
PAGE = 200


def _group(name: str, text: str) -> typer.Typer:
    return typer.Typer(name=name, help=text, no_args_is_help=True, rich_markup_mode=None)


developers_app = _group("developers", "Developers of this installation.")
apps_app = _group("apps", "Developers' apps.")
features_app = _group("features", "Features of an app.")
tokens_app = _group("tokens", "Developers' tokens.")
wallets_app = _group("wallets", "Wallets of end users and developers.")
manifest_app = _group("manifest", "Features of an app as a file, YAML or JSON.")
GROUPS = (developers_app, apps_app, features_app, tokens_app, wallets_app, manifest_app)

ApiOption = Annotated[str | None, typer.Option("--api", metavar="URL", help="The API's address.")]
TokenOption = Annotated[
    str | None,
    typer.Option("--token", metavar="TOKEN", help="Who you are; else the operator.", envvar="FAUCET_TOKEN"),
]
DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="The data dir of the running stack.", envvar="FAUCET_DATA")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]
AppArgument = Annotated[str, typer.Argument(metavar="APP", help="The app's public id.")]
FeatureArgument = Annotated[str, typer.Argument(metavar="FEATURE", help="The feature's key.")]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A manifest; - reads standard input.")]


class Remote:
    """The API with a bearer."""

    def __init__(self, api: str | None, token: str | None, data: Path | None) -> None:
        from faucet.stack.settings import data_dir, operator_token
        from faucet.stack.supervisor import read_record

        record = (read_record(data_dir(data)) or {}) if api is None else {}
        self.base = (api or str(record.get("api", f"http://127.0.0.1:{API_PORT}"))).rstrip("/")
        self._token = token or operator_token(data)
        self._client = Client(self.base, "")

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One call. Raises Unreachable, Refused."""
        with self._client as client:
            got = client.call(method, self.base + path, self._token, body)
        self._client = Client(self.base, "")
        return got

    def items(self, path: str) -> Iterator[dict[str, Any]]:
        """Every item of a list, page after page. Raises Unreachable, Refused."""
        cursor = ""
        while True:
            got = self.call("GET", f"{path}?limit={PAGE}{cursor}")
            yield from got["items"]
            if "next_cursor" not in got:
                return
            cursor = f"&cursor={quote(got['next_cursor'])}"


def _app_path(app: str) -> str:
    return f"/v1/developer/apps/{quote(app, safe='')}"


def _feature_path(app: str, feature: str = "") -> str:
    return f"{_app_path(app)}/features" + (f"/{quote(feature, safe='')}" if feature else "")


def _show(items: Sequence[Mapping[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    """Rows as a table of these columns, or all of them as JSON."""
    if as_json:
        write_line(json.dumps({"items": list(items)}, default=str, ensure_ascii=False))
        return
    if not items:
        write_line("There are none.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column.replace("_", " ").capitalize(), overflow="fold")
    for item in items:
        table.add_row(*[_cell(item.get(column)) for column in columns])
    console().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _show_one(item: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        write_line(json.dumps(item, default=str, ensure_ascii=False))
        return
    width = max(len(name) for name in item)
    for name, value in item.items():
        told = json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, dict) else _cell(value)
        write_line(f"{name.ljust(width)}  {told}")


# ── developers ──


@developers_app.command("list", epilog=examples("faucet developers list", "faucet developers list --json"))
def list_developers(
    as_json: JsonOption = False, api: ApiOption = None, token: TokenOption = None, data: DataOption = None
) -> None:
    """List developers, newest first."""
    items = list(Remote(api, token, data).items("/v1/developers"))
    _show(items, ("id", "name", "email", "status", "created_at"), as_json)


@developers_app.command("create", epilog=examples('faucet developers create "Ada Ltd" ada@example.com'))
def create_developer(
    name: str,
    email: str,
    as_json: JsonOption = False,
    api: ApiOption = None,
    token: TokenOption = None,
    data: DataOption = None,
) -> None:
    """Take in a developer, with the accounts that their earnings go to."""
    _show_one(Remote(api, token, data).call("POST", "/v1/developers", {"name": name, "email": email}), as_json)


@developers_app.command("disable", epilog=examples("faucet developers disable 01a2…"))
def disable_developer(
    developer_id: str,
    as_json: JsonOption = False,
    api: ApiOption = None,
    token: TokenOption = None,
    data: DataOption = None,
) -> None:
    """Stop a developer: their tokens and all their apps' sessions are refused within five seconds."""
    path = f"/v1/developers/{quote(developer_id, safe='')}"
    _show_one(Remote(api, token, data).call("PATCH", path, {"status": "disabled"}), as_json)


# ── apps ──


@apps_app.command("list", epilog=examples("faucet apps list"))
def list_apps(
    as_json: JsonOption = False, api: ApiOption = None, token: TokenOption = None, data: DataOption = None
) -> None:
    """List apps, newest first."""
    items = list(Remote(api, token, data).items("/v1/developer/apps"))
    _show(items, ("public_app_id", "name", "status", "identity_mode", "developer_name"), as_json)


@apps_app.command("show", epilog=examples("faucet apps show app_pub_demo"))
def show_app(
    app: AppArgument,
    as_json: JsonOption = False,
    api: ApiOption = None,
    token: TokenOption = None,
    data: DataOption = None,
) -> None:
    """Show one app."""
    _show_one(Remote(api, token, data).call("GET", _app_path(app)), as_json)


@apps_app.command("create", epilog=examples('faucet apps create my_app "My app" --signed --developer 01a2…'))
def create_app(
    app: AppArgument,
    name: str,
    signed: Annotated[bool, typer.Option("--signed", help="Its backend signs its users' ids.")] = False,
    developer: Annotated[str | None, typer.Option(metavar="ID", help="Whose, if you are the operator.")] = None,
    origin: Annotated[list[str] | None, typer.Option(metavar="URL", help="A page's origin; may be repeated.")] = None,
    as_json: JsonOption = False,
    api: ApiOption = None,
    token: TokenOption = None,
    data: DataOption = None,
) -> None:
    """Make an app."""
    body: dict[str, Any] = {"public_app_id": app, "name": name, "identity_mode": "signed" if signed else "open"}
    if developer is not None:
        body["developer_id"] = developer
    if origin:
        body["allowed_origins"] = origin
    _show_one(Remote(api, token, data).call("POST", "/v1/developer/apps", body), as_json)


@apps_app.command("disable", epilog=examples("faucet apps disable my_app"))
def disable_app(
    app: AppArgument,
    as_json: JsonOption = False,
    api: ApiOption = None,
    token: TokenOption = None,
    data: DataOption = None,
) -> None:
    """Stop an app: its sessions are refused within five seconds."""
    _show_one(Remote(api, token, data).call("PATCH", _app_path(app), {"status": "disabled"}), as_json)


# ── features, tokens, wallets ──


@features_app.command("list", epilog=examples("faucet features list app_pub_demo"))
def list_features(
    app: AppArgument,
    as_json: JsonOption = False,
    api: ApiOption = None,
    token: TokenOption = None,
    data: DataOption = None,
) -> None:
    """List an app's features."""
    items = list(Remote(api, token, data).items(_feature_path(app)))
    _show(items, ("feature_key", "display_name", "version", "status", "updated_at"), as_json)


@features_app.command("archive", epilog=examples("faucet features archive my_app customer_reply"))
def archive_feature(
    app: AppArgument,
    feature: FeatureArgument,
    as_json: JsonOption = False,
    api: ApiOption = None,
    token: TokenOption = None,
    data: DataOption = None,
) -> None:
    """Archive a feature: requests that name it are refused within five seconds."""
    _show_one(Remote(api, token, data).call("DELETE", _feature_path(app, feature)), as_json)


@tokens_app.command("list", epilog=examples("faucet tokens list"))
def list_tokens(
    as_json: JsonOption = False, api: ApiOption = None, token: TokenOption = None, data: DataOption = None
) -> None:
    """List developers' tokens; never what they are."""
    items = list(Remote(api, token, data).items("/v1/developer/tokens"))
    _show(items, ("id", "developer_name", "name", "token_prefix", "status", "scopes"), as_json)


@tokens_app.command("create", epilog=examples("faucet tokens create ci --scope developer:apps:read --developer 01a2…"))
def create_token(
    name: str,
    scope: Annotated[list[str], typer.Option(metavar="SCOPE", help="What it may do; may be repeated.")],
    developer: Annotated[str | None, typer.Option(metavar="ID", help="Whose, if you are the operator.")] = None,
    api: ApiOption = None,
    token: TokenOption = None,
    data: DataOption = None,
) -> None:
    """Make a token and print it. It is shown this once."""
    body: dict[str, Any] = {"name": name, "scopes": scope}
    if developer is not None:
        body["developer_id"] = developer
    write_line(str(Remote(api, token, data).call("POST", "/v1/developer/tokens", body)["token"]))


@tokens_app.command("revoke", epilog=examples("faucet tokens revoke 01a2…"))
def revoke_token(token_id: str, api: ApiOption = None, token: TokenOption = None, data: DataOption = None) -> None:
    """Revoke a token at once."""
    Remote(api, token, data).call("DELETE", f"/v1/developer/tokens/{quote(token_id, safe='')}")
    write_line(f"{token_id} is revoked.")


@wallets_app.command("list", epilog=examples("faucet wallets list"))
def list_wallets(
    as_json: JsonOption = False, api: ApiOption = None, token: TokenOption = None, data: DataOption = None
) -> None:
    """List the newest wallets."""
    items = Remote(api, token, data).call("GET", "/v1/developer/operations")["wallets"]
    _show(items, ("id", "owner_scope", "owner_name", "balance_usd", "updated_at"), as_json)


# ── manifests ──


def _read(path: Path) -> ManifestFile:
    """The manifest of a file. Ends the command with every problem where it can't be used."""
    import sys

    from faucet.tenants.manifest_file import ManifestRefused, read_manifest

    try:
        return read_manifest(sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        complain(f"{path}: is not UTF-8")
    except ManifestRefused as refused:
        for problem in refused.problems:
            complain(f"{path}: {problem}")
    raise typer.Exit(1)


def _there(remote: Remote, app: str) -> dict[str, dict[str, Any]]:
    """An app's features as they are, without what a manifest doesn't say."""
    words = ("feature_key", "display_name", "policy", "pricing")
    items = {item["feature_key"]: item for item in remote.items(_feature_path(app))}
    return {
        key: json.loads(json.dumps({word: item[word] for word in words}, default=float)) for key, item in items.items()
    }


@manifest_app.command("validate", epilog=examples("faucet manifest validate features.yaml"))
def validate_manifest(file: FileArgument) -> None:
    """Check a manifest. Every problem is one line with its path; exit code 1 where there is one."""
    manifest = _read(file)
    count = len(manifest.features)
    write_line(f"{file} is fine: {count} {'feature' if count == 1 else 'features'} of {manifest.app}.")


@manifest_app.command("diff", epilog=examples("faucet manifest diff features.yaml"))
def diff_manifest(
    file: FileArgument, api: ApiOption = None, token: TokenOption = None, data: DataOption = None
) -> None:
    """Show what `apply` would change; exit code 1 where it would."""
    manifest = _read(file)
    there = _there(Remote(api, token, data), manifest.app)
    if _report(manifest, there):
        raise typer.Exit(1)
    write_line("Nothing differs.")


def _report(manifest: ManifestFile, there: Mapping[str, dict[str, Any]]) -> list[str]:
    """Print what differs, and give the keys of the features that do."""
    from faucet.tenants.manifest_file import differences

    changed = []
    for feature in manifest.features:
        found = differences(there.get(feature.feature_key), feature.body())
        if found:
            changed.append(feature.feature_key)
            write_line(f"{feature.feature_key}: {'changes' if feature.feature_key in there else 'new'}")
        for path, before, after in found:
            if path != "feature_key":
                write_line(f"  {path}: {_told(before)} → {_told(after)}")
    return changed


def _told(value: Any) -> str:
    return "(not there)" if value is None else json.dumps(value, ensure_ascii=False)


@manifest_app.command("apply", epilog=examples("faucet manifest apply features.yaml"))
def apply_manifest(
    file: FileArgument, api: ApiOption = None, token: TokenOption = None, data: DataOption = None
) -> None:
    """Make the app's features what the file says. Features that it doesn't name stay as they are."""
    manifest = _read(file)
    remote = Remote(api, token, data)
    there = _there(remote, manifest.app)
    changed = _report(manifest, there)
    for feature in manifest.features:
        if feature.feature_key not in changed:
            continue
        body = feature.body()
        if feature.feature_key in there:
            key = body.pop("feature_key")
            remote.call("PATCH", _feature_path(manifest.app, key), body)
        else:
            remote.call("POST", _feature_path(manifest.app), body)
    write_line(f"{len(changed)} of {len(manifest.features)} changed; in force within five seconds.")


@manifest_app.command("export", epilog=examples("faucet manifest export my_app > features.yaml"))
def export_manifest(
    app: AppArgument,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of YAML.")] = False,
    api: ApiOption = None,
    token: TokenOption = None,
    data: DataOption = None,
) -> None:
    """Print an app's features as a manifest."""
    from faucet.tenants.manifest_file import FeatureFile, ManifestFile, write_manifest

    there = _there(Remote(api, token, data), app)
    features = tuple(FeatureFile(**feature) for _, feature in sorted(there.items()))
    write_line(write_manifest(ManifestFile(app, features), as_json=as_json).rstrip("\n"))
