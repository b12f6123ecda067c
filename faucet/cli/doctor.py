"""The command `faucet doctor`: what is wrong with a set-up, and what to do about it. It looks and changes nothing.

Not here: whether the books add up (`faucet reconcile`), nor whether requests do (`faucet smoke`).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, LiteralString

import typer
from rich.table import Table
from rich.text import Text

from faucet.cli.remote import JsonOption
from faucet.cli.terminal import console, progress, write_line
from faucet.kit.errors import FaucetError

if TYPE_CHECKING:
    from faucet.kit.config import Config

DISK_BYTES_LOW = 2 << 30
DISK_BYTES_MIN = 256 << 20
CLOCK_SECONDS_LOW = 2.0
CLOCK_SECONDS_MAX = 30.0
"""So much may a signed token's clock differ from ours."""
BUILT = datetime(2026, 1, 1, tzinfo=UTC)
"""No clock that is right shows an earlier time."""
LATE_SECONDS = 120
"""The jobs look every five seconds: a hold that ran out this long ago was seen by nobody."""
CALL_SECONDS = 3.0
WELL, ODD, WRONG = "ok", "warning", "error"

DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="The data dir to look at.", envvar="FAUCET_DATA")
]
DatabaseOption = Annotated[
    str | None, typer.Option("--database-url", metavar="URL", help="Another database than the settings name.")
]


@dataclass(frozen=True, slots=True)
class Check:
    """What was found in one place."""

    name: str
    status: str
    found: str
    remedy: str | None = None


@dataclass(slots=True)
class Findings:
    """What was found so far."""

    checks: list[Check] = field(default_factory=list)

    def note(self, name: str, status: str, found: str, remedy: str | None = None) -> None:
        """Add what was found."""
        self.checks.append(Check(name, status, found, remedy))

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong; what is only odd doesn't count."""
        return all(check.status != WRONG for check in self.checks)


def doctor(as_json: JsonOption = False, data: DataOption = None, database_url: DatabaseOption = None) -> None:
    """Explain a broken set-up, and say what to do about it.

    Looks at settings, keys, clock, disk, database, schema, roles, prices, jobs, ports and what runs. Exit code 1 where
    something keeps it from working. Changes nothing.
    """
    findings = Findings()
    with progress() as shown:
        _examine(findings, data, database_url, shown.step)
    if as_json:
        write_line(json.dumps({"ok": findings.is_well, "checks": [asdict(check) for check in findings.checks]}))
    else:
        _show(findings)
    if not findings.is_well:
        raise typer.Exit(1)


def _examine(findings: Findings, data: Path | None, database_url: str | None, step: Callable[[str], None]) -> None:
    from faucet.kit.config import ConfigRefused
    from faucet.stack.settings import data_dir, settings

    step("Looking at the settings")
    folder = data_dir(data)
    check_clock(findings, datetime.now(UTC))
    check_folder(findings, folder)
    try:
        config = settings(data, database_url)
    except ConfigRefused as refused:
        for problem in refused.problems:
            name, _, text = problem.partition(": ")
            findings.note(
                "settings", WRONG, problem, _SETTING_REMEDIES.get(name, "docs/settings.md says what it may be")
            )
        return
    check_keys(findings, config)
    step("Looking at the database")
    with _dsn(findings, config, step) as dsn:
        if dsn is not None:
            asyncio.run(check_database(findings, dsn))
    step("Looking at ports and processes")
    check_ports(findings, config)


_SETTING_REMEDIES = {
    name: "make one with `openssl rand -base64 48`, and keep it where the other processes get it, too"
    for name in (
        "SECRET_ENCRYPTION_KEY",
        "ADMIN_TOKEN",
        "DEVELOPER_ADMIN_TOKEN",
        "METRICS_TOKEN",
        "KEK_LOCAL_KEY",
        "STATEMENT_SIGNING_KEY",
    )
} | {
    "API_CORS_ORIGINS": "list the origins of the pages that call the API, such as https://console.example.com",
    "GATEWAY_CORS_ORIGINS": "list the origins of the pages that call the gateway, such as https://app.example.com",
    "MOCK_PROVIDER_URL": "unset it",
    "TENANT_UPSTREAM_HTTP": "unset it",
}

# ── this machine ──


def check_clock(findings: Findings, now: datetime) -> None:
    """Whether the time can be right."""
    if now < BUILT:
        findings.note(
            "clock", WRONG, f"it shows {now:%Y-%m-%d %H:%M} UTC, which is long ago", "set it, for example with chrony"
        )
    elif time.gmtime(now.timestamp()).tm_year > BUILT.year + 20:
        findings.note("clock", ODD, f"it shows {now:%Y-%m-%d %H:%M} UTC", "set it, for example with chrony")
    else:
        findings.note("clock", WELL, f"{now:%Y-%m-%d %H:%M:%S} UTC")


def check_folder(findings: Findings, folder: Path) -> None:
    """Whether the data dir can be written, is private where it must be, and has room."""
    place = next(each for each in (folder, *folder.parents) if each.exists())
    if not place.is_dir():
        findings.note("data dir", WRONG, f"{place} is no folder", "name another with --data or FAUCET_DATA")
        return
    if not os.access(place, os.W_OK | os.X_OK):
        remedy = "give this account the right to write there, or name another with --data or FAUCET_DATA"
        findings.note("data dir", WRONG, f"{place} can't be written by this account", remedy)
        return
    told = str(folder) if folder == place else f"{folder} is not there yet; it is made when something starts"
    findings.note("data dir", WELL, told)
    kept = folder / "secrets.json"
    if kept.exists() and stat.S_IMODE(kept.stat().st_mode) & 0o077:
        findings.note("secrets", WRONG, f"others may read {kept}", f"chmod 600 {kept}, then make new tokens")
    free = shutil.disk_usage(place).free
    told = f"{free >> 20} MiB are free at {place}"
    if free < DISK_BYTES_MIN:
        findings.note(
            "disk", WRONG, told, "make room: the database and the gateway's spool need it to keep money exact"
        )
    elif free < DISK_BYTES_LOW:
        findings.note("disk", ODD, told, "make room before the database needs it")
    else:
        findings.note("disk", WELL, told)


def check_keys(findings: Findings, config: Config) -> None:
    """Where the keys come from. What production refuses is refused by the settings already."""
    if config.is_production:
        findings.note("keys", WELL, "production: set, long, and each another")
        return
    given = [name for name in ("SECRET_ENCRYPTION_KEY", "ADMIN_TOKEN", "DEVELOPER_ADMIN_TOKEN") if _is_set(name)]
    if len(given) == 3:
        findings.note("keys", WELL, "development: from the environment")
    else:
        findings.note("keys", WELL, f"development: made up, kept in {config.faucet_data / 'secrets.json'}")


def _is_set(name: str) -> bool:
    return bool(os.environ.get(name, "").strip() or os.environ.get(f"{name}_FILE", "").strip())


# ── the database ──


@contextmanager
def _dsn(findings: Findings, config: Config, step: Callable[[str], None]) -> Iterator[str | None]:
    """The address of the database; the embedded one runs while the block does. None where there is none."""
    from faucet.kit.embedded_postgres import DatabaseUnavailable, EmbeddedPostgres
    from faucet.stack.database import checked

    if config.database_url is not None:
        dsn = None
        try:
            dsn = checked(config.database_url.reveal())
        except FaucetError as error:
            findings.note("database", WRONG, str(error), "correct DATABASE_URL")
        yield dsn
        return
    if not any((config.faucet_data / name).exists() for name in ("pg", "place.json")):
        findings.note("database", WELL, "the embedded one is not made yet; `faucet up` or `faucet migrate` makes it")
        yield None
        return
    try:
        running = EmbeddedPostgres.start(config.faucet_data, progress=step)
    except DatabaseUnavailable as error:
        first, _, rest = str(error).partition("\n")
        findings.note("database", WRONG, first, rest or None)
        yield None
        return
    try:
        yield running.dsn
    finally:
        running.close()


async def check_database(findings: Findings, dsn: str) -> None:
    """Whether it answers, is new enough, migrated, on time, and whether anybody does the jobs."""
    import psycopg

    from faucet.kit.db import without_secret
    from faucet.kit.migrate import MINIMUM_VERSION
    from faucet.stack.database import CONNECT_SECONDS

    try:
        connection = await psycopg.AsyncConnection.connect(
            dsn, connect_timeout=CONNECT_SECONDS, application_name="faucet-doctor", autocommit=True
        )
    except psycopg.Error as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        findings.note("database", WRONG, f"{without_secret(dsn)} can't be reached: {lines[0]}", _reach_remedy(lines[0]))
        return
    async with connection:
        before = time.time()
        cursor = await connection.execute(
            "select current_setting('server_version_num')::int, current_setting('server_version'),"
            " extract(epoch from clock_timestamp())::float8"
        )
        row = await cursor.fetchone()
        assert row is not None  # a select without from has one row
        number, version, clock = row
        if number < MINIMUM_VERSION:
            findings.note("database", WRONG, f"PostgreSQL {version} is too old", "use PostgreSQL 15 or newer")
            return
        findings.note("database", WELL, f"PostgreSQL {version} at {without_secret(dsn)}")
        _check_database_clock(findings, clock - (before + time.time()) / 2)
        try:
            if await _check_schema(findings, connection):
                await _check_work(findings, connection)
        except psycopg.Error as error:
            remedy = "run `faucet migrate` as the database's owner; if it stays, tell us"
            findings.note("database", WRONG, f"it refuses: {str(error).splitlines()[0]}", remedy)


def _reach_remedy(reason: str) -> str:
    text = reason.lower()
    if "password" in text or "authentication" in text:
        return "correct the account and password in DATABASE_URL"
    if "does not exist" in text:
        return "make that database or role, or correct DATABASE_URL"
    if "too many" in text:
        return "raise max_connections, or run fewer processes"
    return "start PostgreSQL, or correct host and port in DATABASE_URL; without DATABASE_URL an embedded one is used"


def _check_database_clock(findings: Findings, ahead: float) -> None:
    told = f"the database's is {abs(ahead):.1f} seconds {'ahead of' if ahead > 0 else 'behind'} ours"
    if abs(ahead) > CLOCK_SECONDS_MAX:
        findings.note("clock", WRONG, told, "set both, for example with chrony: sessions and leases end by them")
    elif abs(ahead) > CLOCK_SECONDS_LOW:
        findings.note("clock", ODD, told, "set both, for example with chrony")


async def _check_schema(findings: Findings, connection: Any) -> bool:
    """Whether the schema is the one that this program needs, or a newer one."""
    import psycopg

    from faucet.kit.migrate import newest_revision

    wanted = newest_revision()
    try:
        cursor = await connection.execute("select version_num from alembic_version")
        row = await cursor.fetchone()
    except psycopg.errors.UndefinedTable:
        findings.note("schema", WRONG, "nothing was migrated yet", "run `faucet migrate`")
        return False
    except psycopg.errors.InsufficientPrivilege:
        findings.note("schema", WRONG, "this account may not read it", "run `faucet migrate` as the database's owner")
        return False
    if row is None or row[0] < wanted:
        had = "none" if row is None else row[0]
        findings.note("schema", WRONG, f"it is at {had}, and {wanted} is needed", "run `faucet migrate`")
        return False
    findings.note("schema", WELL, f"at {row[0]}" + ("" if row[0] == wanted else f", newer than our {wanted}"))
    return True


async def _check_work(findings: Findings, connection: Any) -> None:
    """Whether each door's role can be taken, something is for sale, provider keys can be sealed, and jobs run."""
    import psycopg

    from faucet.kit.db import ROLES

    for role in ROLES:
        try:
            await connection.execute(f"set role {role}".encode())
        except psycopg.Error as error:
            remedy = f"grant it: `grant {role} to` the account of DATABASE_URL"
            findings.note("roles", WRONG, f"{role} can't be taken: {str(error).splitlines()[0]}", remedy)
            return
    prices = await _count(connection, "faucet_api", "select count(*) from price where status = 'confirmed'")
    if prices:
        findings.note("prices", WELL, f"{prices} confirmed")
    else:
        remedy = "import drafts with `faucet prices seed` and confirm some with `faucet prices confirm`"
        findings.note("prices", ODD, "no price is confirmed, so nothing is for sale", remedy)
    if not await _count(connection, "faucet_gateway", "select count(*) from vault_key"):
        findings.note("vault", ODD, "it has no key, so no provider key can be stored", "run `faucet migrate`")
    late = await _count(
        connection,
        "faucet_api",
        "select count(*) from hold where lease_expires_at < now() - make_interval(secs => %s)",
        LATE_SECONDS,
    )
    if late:
        told = f"{late} {'hold' if late == 1 else 'holds'} ran out and still bind money"
        findings.note("jobs", WRONG, told, "run `faucet jobs`, at least one per database")


async def _count(connection: Any, role: str, query: LiteralString, *values: object) -> int:
    """What a door's role counts, over all developers' rows."""
    await connection.execute(f"set role {role}".encode())
    await connection.execute("set faucet.developer_id = '*'")
    cursor = await connection.execute(query, values)
    row = await cursor.fetchone()
    return int(row[0])


# ── ports and processes ──

_SERVICES = {"mock": "mock-provider", "stripe": "stripe-double"}
"""What plays others' services in development, by the names that they give themselves."""


def check_ports(findings: Findings, config: Config) -> None:
    """Whether our ports are free, or ours already; and whether what runs is ready."""
    from faucet.stack.ports import listener_on
    from faucet.stack.supervisor import MOCK_PORT, STRIPE_PORT, read_record

    record = read_record(config.faucet_data) or {}
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.bind_address, config.bind_address)
    wanted = (
        ("api", config.port_api, "PORT_API or --api-port"),
        ("gateway", config.port_gateway, "PORT_GATEWAY or --gateway-port"),
        ("mock", MOCK_PORT, "--mock-port"),
        ("stripe", STRIPE_PORT, "--stripe-port"),
    )
    for name, port, option in wanted:
        if name in _SERVICES and config.is_production or name == "stripe" and config.stripe_secret_key is not None:
            continue
        address = str(record.get(name) or f"http://{host}:{port}")
        told = _ready(address, name)
        if told is not None:
            is_ready, text = told
            remedy = None if is_ready else f"look into {config.faucet_data / 'logs'}, or what the process wrote"
            findings.note(name, WELL if is_ready else WRONG, f"{address} {text}", remedy)
            continue
        if name in record:
            findings.note(name, WRONG, f"{address} should answer and does not", "stop the stack and start it again")
        elif owner := _owner(port, listener_on):
            remedy = f"stop that, or choose another port with {option}"
            findings.note("ports", WRONG, f"{port}, wanted for the {name}, is taken by {owner}", remedy)
        else:
            findings.note("ports", WELL, f"{port} is free for the {name}; it does not run")


def _owner(port: int, listener_on: Callable[[int], str | None]) -> str | None:
    """Who listens on a port, as far as can be told."""
    import socket

    owner = listener_on(port)
    if owner is not None:
        return owner
    with socket.socket() as probe:
        probe.settimeout(CALL_SECONDS)
        return "another program" if probe.connect_ex(("127.0.0.1", port)) == 0 else None


def _ready(address: str, name: str) -> tuple[bool, str] | None:
    """Whether our process at this address is ready, with what it says; None where none of ours answers."""
    import httpx2

    try:
        with httpx2.Client(trust_env=False, timeout=CALL_SECONDS) as client:
            alive = client.get(f"{address}/health").json()
            if name in _SERVICES:
                is_ours = isinstance(alive, dict) and alive.get("service") == _SERVICES[name]
                return (True, "answers") if is_ours else None
            if not isinstance(alive, dict) or alive.get("service") != f"@modelfaucet/{name}":
                return None
            reply = client.get(f"{address}/ready")
            checks = reply.json().get("checks", {})
    except (httpx2.HTTPError, ValueError, AttributeError):
        return None
    failed = [str(check) for check, held in checks.items() if not held]
    return (True, "is ready") if reply.status_code == 200 else (False, f"is not ready: {', '.join(failed) or '503'}")


def _show(findings: Findings) -> None:
    out = console()
    marks = {WELL: Text("✓", style="green"), ODD: Text("!", style="yellow"), WRONG: Text("✗", style="bold red")}
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in findings.checks:
        text = Text(check.found)
        if check.remedy:
            text.append(f"\n→ {check.remedy}", style="dim")
        table.add_row(marks[check.status], check.name, text)
    out.print(table)
    wrong = sum(1 for check in findings.checks if check.status == WRONG)
    odd = sum(1 for check in findings.checks if check.status == ODD)
    out.print()
    if wrong:
        out.print(Text(f"{wrong} {'thing keeps' if wrong == 1 else 'things keep'} it from working.", style="bold red"))
    else:
        out.print(Text("Nothing is wrong" + (f"; {odd} to look at." if odd else "."), style="green"))
