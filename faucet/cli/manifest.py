"""Commands over manifests as files: check one, compare it with what is in force, put it in force, write one down.

Not here: how a document is read (`tenants.manifest_file`), nor what its words mean (`tenants.manifest`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faucet.cli.client import Refused
from faucet.cli.developers import APPS, AppArgument
from faucet.cli.remote import ApiOption, DataOption, JsonOption, Remote, Row, TokenOption, remote
from faucet.cli.terminal import examples, write_line
from faucet.kit.errors import FaucetError

if TYPE_CHECKING:
    from faucet.tenants.manifest_file import Document

manifest_app = typer.Typer(
    name="manifest",
    help="Features as files in YAML or JSON: validate, diff, apply, export.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="YAML or JSON; `-` reads standard input.")]
AppOption = Annotated[
    str | None, typer.Option("--app", metavar="APP", help="The app, where the file names none or another.")
]


@manifest_app.command(
    "validate", epilog=examples("faucet manifest validate reply.yaml", "cat reply.json | faucet manifest validate -")
)
def validate(file: FileArgument, as_json: JsonOption = False) -> None:
    """Say everything that is wrong with a file; exit code 1 where anything is. Asks no server."""
    from faucet.tenants.manifest_file import ManifestRefused

    try:
        documents = _read(file)
    except ManifestRefused as refused:
        if not as_json:
            raise
        write_line(json.dumps({"ok": False, "problems": refused.problems}, ensure_ascii=False))
        raise typer.Exit(1) from None
    if as_json:
        write_line(json.dumps({"ok": True, "features": [document.feature for document in documents]}))
    else:
        write_line(f"{file} is well: {', '.join(document.feature for document in documents)}.")


@manifest_app.command("diff", epilog=examples("faucet manifest diff reply.yaml --app app_support"))
def diff(
    file: FileArgument,
    app_id: AppOption = None,
    as_json: JsonOption = False,
    token: TokenOption = None,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Show what applying a file would change; exit code 1 where it would change anything."""
    from faucet.tenants.manifest_file import differences

    documents = _read(file)
    shown: list[Row] = []
    with remote(data, api, token) as at:
        for document in documents:
            app = _app_of(document, app_id)
            before = _in_force(at, app).get(document.feature)
            shown.append({"app": app, "feature": document.feature, "changes": differences(before, document)})
    if as_json:
        write_line(json.dumps({"items": shown}, ensure_ascii=False))
    else:
        for each in shown:
            write_line("\n".join([f"{each['app']}/{each['feature']}", *(f"  {line}" for line in each["changes"])]))
            if not each["changes"]:
                write_line("  as in force")
    if any(each["changes"] for each in shown):
        raise typer.Exit(1)


@manifest_app.command(
    "apply",
    epilog=examples("faucet manifest apply reply.yaml", "faucet manifest apply reply.yaml --app app_support"),
)
def apply(
    file: FileArgument,
    app_id: AppOption = None,
    as_json: JsonOption = False,
    token: TokenOption = None,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Put a file's features in force: made where they are missing, else their next version. Harmless to repeat.

    Nothing is applied unless all of the file is well. Features that the file doesn't name stay as they are.
    """
    documents = _read(file)
    results: list[Row] = []
    with remote(data, api, token) as at:
        targets = [(_app_of(document, app_id), document) for document in documents]
        for app, document in targets:
            outcome, row = _apply(at, app, document)
            results.append({"app": app, "feature": document.feature, "outcome": outcome, "version": row["version"]})
            if not as_json:
                write_line(f"{app}/{document.feature}: {outcome}, version {row['version']}.")
    if as_json:
        write_line(json.dumps({"items": results}, ensure_ascii=False))


@manifest_app.command(
    "export",
    epilog=examples(
        "faucet manifest export app_pub_demo customer_reply > reply.yaml", "faucet manifest export app_pub_demo --json"
    ),
)
def export(
    app_id: AppArgument,
    feature: Annotated[str | None, typer.Argument(metavar="FEATURE", help="Only this one.")] = None,
    as_json: JsonOption = False,
    token: TokenOption = None,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Write down what is in force, so that applying it changes nothing."""
    from faucet.tenants.manifest_file import write_documents

    with remote(data, api, token) as at:
        found = _in_force(at, app_id)
    if feature is not None and feature not in found:
        raise FaucetError(f"{app_id} has no feature {feature!r} in force")
    chosen = [found[feature]] if feature is not None else [found[key] for key in sorted(found)]
    if not chosen:
        raise FaucetError(f"{app_id} has no features")
    write_line(write_documents(chosen, as_json=as_json).rstrip("\n"))


def _read(file: Path) -> list[Document]:
    """Raises ManifestRefused, OSError, FaucetError."""
    from faucet.tenants.manifest_file import CHARACTERS_MAX, read_documents

    try:
        if str(file) == "-":
            return read_documents(sys.stdin.read(CHARACTERS_MAX + 1), "standard input")
        with file.open(encoding="utf-8") as opened:
            return read_documents(opened.read(CHARACTERS_MAX + 1), str(file))
    except UnicodeDecodeError:
        raise FaucetError(f"{file} is not text in UTF-8") from None


def _app_of(document: Document, named: str | None) -> str:
    app = named or document.app
    if app is None:
        raise FaucetError(f"which app is the feature {document.feature!r} of? Say `app:` in the file, or --app")
    return app


def _in_force(at: Remote, app: str) -> dict[str, Document]:
    """An app's features by their keys. Raises Unreachable, Refused."""
    return {row["feature_key"]: _document(app, row) for row in at.every(*APPS, app, "features")}


def _document(app: str, row: Row) -> Document:
    from faucet.tenants.manifest_file import Document
    from faucet.tenants.parts import PARTS_WORDS

    parts = {word: row[word] for word in PARTS_WORDS if row.get(word) is not None}
    return Document(app, row["feature_key"], row["display_name"], row["policy"], row["pricing"], parts)


def _apply(at: Remote, app: str, document: Document) -> tuple[str, Row]:
    """What was done with one feature, and its row. Raises Unreachable, Refused."""
    from faucet.tenants.manifest_file import differences
    from faucet.tenants.parts import PARTS_WORDS

    body = {"display_name": document.display_name, "policy": document.policy, "pricing": document.pricing}
    body |= document.parts
    rows = {row["feature_key"]: row for row in at.every(*APPS, app, "features")}
    found = rows.get(document.feature)
    if found is not None:
        if not differences(_document(app, found), document):
            return "as it was", found
        gone = dict.fromkeys(word for word in PARTS_WORDS if found.get(word) is not None)
        return "changed", at.patch(*APPS, app, "features", document.feature, body=gone | body)
    try:
        return "made", at.post(*APPS, app, "features", body={"feature_key": document.feature, **body})
    except Refused as refused:
        if refused.code != "conflict":
            raise
    # Its key is taken and it is not among those in force: it is archived, and this brings it back.
    # What the file doesn't say is gone, although we can't see what there was.
    restored = at.patch(
        *APPS, app, "features", document.feature, body=dict.fromkeys(PARTS_WORDS) | body | {"status": "active"}
    )
    return "brought back", restored
