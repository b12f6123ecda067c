"""The command `faucet reseal`: rotation of the vault's keys, while everything runs.

What rotation is: `vault.reveal.rotation`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from faucet.cli.operate import DatabaseOption, DataOption, JsonOption
from faucet.cli.terminal import complain, progress, write_line


def reseal(
    same_key: Annotated[
        bool, typer.Option("--same-key", help="Make no new key, only bring everything to the newest.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="Credentials per step.")] = 200,
    as_json: JsonOption = False,
    data: DataOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Seal every stored provider key to a new key; forget the old one.

    Runs beside everything else, in small steps; if it is cut off, run it again with --same-key and it goes on. Also
    wraps the keys anew where KEK_PROVIDER or its key has changed. Exit code 1 where something did not open.
    """
    from faucet.stack.database import database
    from faucet.stack.keys import rotate_vault
    from faucet.stack.settings import settings

    config = settings(data, database_url)
    with progress() as shown:

        def say(done: int, total: int) -> None:
            shown.step(f"Sealing: {done} of {total}")

        with database(config, shown.step) as dsn:
            report = asyncio.run(rotate_vault(dsn, config, new_key=not same_key, batch=batch, say=say))
    if as_json:
        figures = {
            "key_id": str(report.key_id),
            "resealed": report.resealed,
            "rewrapped": report.rewrapped,
            "forgotten": report.forgotten,
            "unopenable": [str(each) for each in report.unopenable],
        }
        write_line(json.dumps(figures))
    else:
        write_line(
            f"Key {report.key_id}: {report.resealed} sealed anew, {report.rewrapped} keys wrapped anew, "
            f"{report.forgotten} old keys forgotten."
        )
    if report.unopenable:
        complain(
            f"{len(report.unopenable)} do not open and were left as they are: "
            + ", ".join(str(each) for each in report.unopenable[:5])
        )
        raise typer.Exit(1)
