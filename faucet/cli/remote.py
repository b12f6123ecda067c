"""The control API as commands use it: where it is, who calls, whole lists, and how rows are shown.

Not here: any command, nor the HTTP (`client`).
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode, urlsplit
from uuid import UUID

import typer
from rich.table import Table
from rich.text import Text

from faucet.cli.client import Client
from faucet.cli.terminal import console, examples, write_line
from faucet.kit.errors import FaucetError

Command = Callable[..., None]
Row = dict[str, Any]
Columns = Sequence[tuple[str, str]]
"""Headings, each with the field that is below it."""
PAGE = 200
"""Rows per call; a list is read to its end unless told otherwise."""

DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The data dir of the stack to speak to.", envvar="FAUCET_DATA"),
]
ApiOption = Annotated[str | None, typer.Option("--api", metavar="URL", help="The API's address.")]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token", metavar="TOKEN", help="A developer's token, instead of the operator's.", envvar="MODELFAUCET_TOKEN"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
KeyOption = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="Repeated with the same key, it is done once.")
]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=100_000, metavar="N", help="So many at most.")]


@dataclass(frozen=True, slots=True)
class Remote:
    """A running API, and who calls it."""

    client: Client
    bearer: str
    as_json: bool = False

    def get(self, *path: str, **query: str | int | Sequence[str] | None) -> Row:
        """Raises Unreachable, Refused."""
        given = {name: value for name, value in query.items() if value is not None}
        asked = f"?{urlencode(given, doseq=True)}" if given else ""
        return self.client.call("GET", self._at(path) + asked, self.bearer)

    def download(self, file: Path, *path: str, **query: str | None) -> None:
        """Write what is at a path into a file, which is there only once it is whole. Raises Unreachable, Refused."""
        given = {name: value for name, value in query.items() if value is not None}
        address = self._at(path) + (f"?{urlencode(given)}" if given else "")
        draft = file.with_name(f".{file.name}.part")
        try:
            with draft.open("wb") as into:
                self.client.download(address, self.bearer, into)
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)

    def post(self, *path: str, body: Mapping[str, Any] | None = None, key: str | None = None) -> Row:
        """Raises Unreachable, Refused."""
        headers = {} if key is None else {"idempotency-key": key}
        return self.client.call("POST", self._at(path), self.bearer, body, headers)

    def patch(self, *path: str, body: Mapping[str, Any]) -> Row:
        """Raises Unreachable, Refused."""
        return self.client.call("PATCH", self._at(path), self.bearer, body)

    def delete(self, *path: str) -> Row:
        """Raises Unreachable, Refused."""
        return self.client.call("DELETE", self._at(path), self.bearer)

    def every(self, *path: str, limit: int | None = None, **query: str | Sequence[str] | None) -> Iterator[Row]:
        """The rows of a list, page by page. Raises Unreachable, Refused."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            reply = self.get(*path, limit=PAGE if left is None else min(left, PAGE), cursor=cursor, **query)
            yield from reply["items"]
            left = None if left is None else left - len(reply["items"])
            cursor = reply.get("next_cursor")
            if cursor is None:
                return

    def developer_id(self, named: str) -> str:
        """The id of a developer who is named by id or e-mail address. Raises FaucetError, Unreachable, Refused."""
        if "@" in named:
            found = next(self.every("v1", "developers", email=named), None)
            if found is None:
                raise FaucetError(f"there is no developer with the e-mail address {named}")
            return str(found["id"])
        try:
            return str(UUID(named))
        except ValueError:
            raise FaucetError(f"{named!r} is neither a developer's id nor an e-mail address") from None

    def show(self, row: Row) -> None:
        """One thing, as the command was told to show it."""
        show_row(row, self.as_json)

    def show_rows(self, rows: Sequence[Row], columns: Columns, *, none: str) -> None:
        """A list, as the command was told to show it; `none` is said where there is nothing."""
        show_rows(rows, columns, self.as_json, none=none)

    def _at(self, path: Sequence[str]) -> str:
        return "/".join([self.client.api, *(quote(part, safe=":") for part in path)])


def over_api(group: typer.Typer, name: str, *lines: str, operator: bool = False) -> Callable[[Command], Command]:
    """Make a function a command of `group` that speaks to the API, its first parameter: where that is, who calls and
    how things are shown are options that all such commands have. `operator`: nobody else may, so none takes a token.
    """

    def make(function: Command) -> Command:
        signature = inspect.signature(function, eval_str=True)
        own = list(signature.parameters.values())[1:]

        def command(
            *, as_json: bool, api: str | None, data: Path | None, token: str | None = None, **given: Any
        ) -> None:
            with remote(data, api, token, as_json=as_json) as at:
                function(at, **given)

        options = [("as_json", JsonOption, False), ("token", TokenOption, None), ("api", ApiOption, None)]
        shared = [
            inspect.Parameter(word, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for word, kind, default in [*options, ("data", DataOption, None)]
            if not (operator and word == "token")
        ]
        given = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
        vars(command)["__signature__"] = signature.replace(parameters=[*given, *shared])
        command.__annotations__ = {}
        command.__doc__ = function.__doc__
        command.__name__ = function.__name__
        group.command(name, epilog=examples(*lines))(command)
        return function

    return make


@contextmanager
def remote(data: Path | None, api: str | None, token: str | None, *, as_json: bool = False) -> Iterator[Remote]:
    """The API of the stack that runs with this data dir, else at its usual address; called by the operator unless
    there is a token.

    Raises FaucetError where nobody is named who could call.
    """
    from faucet.stack.settings import data_dir, operator_token
    from faucet.stack.supervisor import API_PORT

    bearer = token or operator_token(data)
    if bearer is None:
        raise FaucetError(
            "who calls? Set ADMIN_TOKEN, or name the stack's data dir with --data, or a developer's token with --token"
        )
    if api is not None and token is None and not os.environ.get("ADMIN_TOKEN") and not is_here(api):
        raise FaucetError(f"the token in {data_dir(data)} is this machine's: set ADMIN_TOKEN for {api}, or say --token")
    address = api or api_address(data) or f"http://127.0.0.1:{API_PORT}"
    with Client(address.rstrip("/"), "") as client:
        yield Remote(client, bearer, as_json)


def is_here(address: str) -> bool:
    """Whether an address is this very machine's."""
    try:
        return urlsplit(address).hostname in ("localhost", "127.0.0.1", "::1")
    except ValueError:
        return False


def api_address(data: Path | None) -> str | None:
    """Where the API of the stack of a data dir is, if one runs there."""
    from faucet.stack.settings import data_dir
    from faucet.stack.supervisor import read_record

    record = read_record(data_dir(data)) or {}
    return str(record["api"]) if "api" in record else None


def show_rows(rows: Sequence[Row], columns: Columns, as_json: bool, *, none: str) -> None:
    """A list: a table for people, or one JSON document. `none` is said where there is nothing."""
    if as_json:
        write_line(json.dumps({"items": list(rows)}, ensure_ascii=False))
        return
    if not rows:
        write_line(none)
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading, field in columns:
        table.add_column(heading, overflow="fold", justify="right" if field.endswith(("_usd", "_tokens")) else "left")
    for row in rows:
        table.add_row(*(_cell(field, row.get(field)) for _, field in columns))
    console().print(table)


def show_row(row: Row, as_json: bool) -> None:
    """One thing, all of it: a line for each field, or JSON."""
    if as_json:
        write_line(json.dumps(row, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for field, value in row.items():
        if value is not None:
            table.add_row(field, _cell(field, value))
    console().print(table)


_COLOURS = {"active": "green", "disabled": "red", "revoked": "red", "archived": "dim", "expired": "dim"}


def _cell(field: str, value: object) -> Text:
    if value is None:
        return Text("")
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return Text(", ".join(value))
    if isinstance(value, dict | list | bool):
        return Text(json.dumps(value, ensure_ascii=False))
    text = str(value)
    return Text(text, style=_COLOURS.get(text, "") if field == "status" else "")
