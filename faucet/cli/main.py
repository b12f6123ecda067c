"""The command `faucet`: names, options and examples of everything that can be run, and what an expected fault looks
like. What the commands do is in the files that they import when they are called, so that help is quick.

Exit codes: 0 it worked · 1 it did not, and one line says why · 2 the command line was wrong · 130 interrupted.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from faucet.cli.developers import apps_app, developers_app, tokens_app
from faucet.cli.doctor import doctor
from faucet.cli.exports import export_app
from faucet.cli.features import features_app
from faucet.cli.invoices import invoices_app
from faucet.cli.levers import credentials_app, switches_app
from faucet.cli.limits import limits_app
from faucet.cli.manifest import manifest_app
from faucet.cli.operate import reconcile
from faucet.cli.payouts import payouts_app
from faucet.cli.prices import prices_app
from faucet.cli.promos import promos_app
from faucet.cli.purse import sessions_app, signing_keys_app, wallets_app
from faucet.cli.reseal import reseal
from faucet.cli.statements import periods_app, statement_app
from faucet.cli.terminal import complain, examples, progress, write_line
from faucet.cli.top_ups import stripe_app, top_ups_app
from faucet.cli.webhooks import webhooks_app

if TYPE_CHECKING:
    pass

SECTIONS = {
    "Try": ("demo", "up", "chat", "smoke", "story", "mock-provider", "mock-stripe"),
    "Run": ("serve", "jobs", "migrate", "doctor"),
    "Keep": ("developers", "apps", "features", "manifest", "tokens", "wallets", "sessions", "signing-keys", "webhooks"),
    "Operate": (
        "prices",
        "credentials",
        "switches",
        "limits",
        "promos",
        "top-ups",
        "payouts",
        "stripe",
        "export",
        "periods",
        "statement",
        "invoices",
        "reconcile",
        "reseal",
    ),  # fmt: skip
    "Look": ("openapi", "schema", "version"),
}


class Sections(TyperGroup):
    """The commands in groups, in the order in which somebody meets them."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, names in SECTIONS.items():
            found = [(name, self.get_command(ctx, name)) for name in names]
            with formatter.section(title):
                formatter.write_dl([(name, one.get_short_help_str(66)) for name, one in found if one is not None])


app = typer.Typer(
    name="faucet",
    cls=Sections,
    help="ModelFaucet: an OpenAI-compatible gateway with exact, prepaid money.",
    epilog="Start with: faucet demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
serve_app = typer.Typer(
    name="serve", help="Run one process by itself, as in production.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(serve_app)
app.add_typer(prices_app)
app.add_typer(limits_app)
app.add_typer(payouts_app)
for group in (
    developers_app,
    apps_app,
    features_app,
    manifest_app,
    tokens_app,
    wallets_app,
    sessions_app,
    signing_keys_app,
    top_ups_app,
    stripe_app,
    periods_app,
    statement_app,
    invoices_app,
    export_app,
    webhooks_app,
    promos_app,
):
    app.add_typer(group)
app.add_typer(credentials_app)
app.add_typer(switches_app)
app.command(
    epilog=examples("faucet reconcile", "faucet reconcile --json | jq '.findings'"),
)(reconcile)
app.command(
    epilog=examples("faucet reseal", "faucet reseal --same-key --batch 50"),
)(reseal)
app.command(
    epilog=examples("faucet doctor", "faucet doctor --data /tmp/faucet-demo", "faucet doctor --json | jq '.checks'"),
)(doctor)

DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Where the database, secrets and logs live.", envvar="FAUCET_DATA"),
]
ApiPortOption = Annotated[
    int | None, typer.Option("--api-port", min=0, max=65_535, metavar="N", help="3001; 0 takes a free one.")
]
GatewayPortOption = Annotated[
    int | None, typer.Option("--gateway-port", min=0, max=65_535, metavar="N", help="3002; 0 takes a free one.")
]
MockPortOption = Annotated[
    int | None, typer.Option("--mock-port", min=0, max=65_535, metavar="N", help="4010; 0 takes a free one.")
]
StripePortOption = Annotated[
    int | None,
    typer.Option("--stripe-port", min=0, max=65_535, metavar="N", help="4242, or a free one with --mock-port 0."),
]
WorkersOption = Annotated[
    int, typer.Option("--gateway-workers", min=1, max=64, metavar="N", help="Gateway processes that share the port.")
]
DatabaseOption = Annotated[
    str | None,
    typer.Option("--database-url", metavar="URL", help="Another PostgreSQL than the one that comes along."),
]


@app.command(
    epilog=examples(
        "faucet up",
        "faucet up --api-port 0 --gateway-port 0 --mock-port 0",
        "faucet up --gateway-workers 2 --database-url postgresql://me@localhost/faucet",
    ),
)
def up(
    data: DataOption = None,
    api_port: ApiPortOption = None,
    gateway_port: GatewayPortOption = None,
    mock_port: MockPortOption = None,
    stripe_port: StripePortOption = None,
    gateway_workers: WorkersOption = 1,
    database_url: DatabaseOption = None,
) -> None:
    """Run everything on this machine, until Ctrl-C.

    Database, mock provider, Stripe double, API, gateways and jobs, with the demo's data in it. When all is ready, one
    JSON line on standard output has the addresses, tokens and processes. For development.
    """
    from faucet.stack.supervisor import Stack, Wish, run_stack

    wish = Wish(
        data=data,
        api_port=api_port,
        gateway_port=gateway_port,
        mock_port=mock_port,
        stripe_port=stripe_port,
        gateway_workers=gateway_workers,
        database_url=database_url,
    )

    with progress() as shown:

        async def work(stack: Stack) -> int:
            shown.done()
            write_line(json.dumps(stack.card()))
            shown.note("Ready. Ctrl-C stops everything.")
            await asyncio.Event().wait()
            return 0

        raise typer.Exit(asyncio.run(run_stack(Stack(wish, shown), work)))


@app.command(
    epilog=examples("faucet demo", "faucet demo --once --data /tmp/faucet-demo", "OPENAI_API_KEY=sk-… faucet demo"),
)
def demo(
    data: DataOption = None,
    api_port: ApiPortOption = None,
    gateway_port: GatewayPortOption = None,
    mock_port: MockPortOption = None,
    stripe_port: StripePortOption = None,
    gateway_workers: WorkersOption = 1,
    database_url: DatabaseOption = None,
    once: Annotated[bool, typer.Option("--once", help="End after the show.")] = False,
) -> None:
    """Show what it does: an answer, its price, and who got what.

    Starts everything as `up` does and leaves it running for you to try. Uses your own provider where OPENAI_API_KEY
    (with OPENAI_BASE_URL, OPENAI_MODELS) or LITELLM_BASE_URL is set, and the mock provider where not.
    """
    from faucet.cli.demo import run_demo
    from faucet.stack.supervisor import Wish

    wish = Wish(
        data=data,
        api_port=api_port,
        gateway_port=gateway_port,
        mock_port=mock_port,
        stripe_port=stripe_port,
        gateway_workers=gateway_workers,
        database_url=database_url,
    )
    raise typer.Exit(run_demo(wish, once=once))


@app.command(
    epilog=examples("faucet chat", 'faucet chat "Where is my parcel?"', "cat letter.txt | faucet chat"),
)
def chat(
    message: Annotated[str | None, typer.Argument(help="Ask this and end; without it, talk.")] = None,
    data: DataOption = None,
    api: Annotated[str | None, typer.Option(metavar="URL", help="The API's address.")] = None,
    gateway: Annotated[str | None, typer.Option(metavar="URL", help="The gateway's address.")] = None,
    app_id: Annotated[str, typer.Option("--app", metavar="ID", help="The app to be a user of.")] = "app_pub_demo",
    user: Annotated[str, typer.Option(metavar="ID", help="The user to be.")] = "crm-demo-user",
    model: Annotated[str, typer.Option(metavar="NAME", help="A model, or `auto`.")] = "auto",
) -> None:
    """Talk to the running stack; see what each answer costs.

    You are an end user of its demo app. Addresses are those of the stack that runs with the same data dir, else the
    default ones.
    """
    from faucet.cli.chat import run_chat

    raise typer.Exit(run_chat(message, data, api, gateway, app_id, user, model))


@app.command(
    epilog=examples("faucet smoke", "faucet smoke --api http://127.0.0.1:3001 --gateway http://127.0.0.1:3002"),
)
def smoke(
    data: DataOption = None,
    api: Annotated[str | None, typer.Option(metavar="URL", help="Try a running API instead of one of its own.")] = None,
    gateway: Annotated[str | None, typer.Option(metavar="URL", help="… and its gateway.")] = None,
    database_url: DatabaseOption = None,
) -> None:
    """Check over HTTP that a whole request adds up, exactly.

    Starts a stack of its own on free ports, unless it is told the addresses of a running one (then ADMIN_TOKEN, or
    the data dir of that one, says who the operator is). Can be run any number of times on the same data.
    """
    from faucet.cli.smoke import run_smoke

    raise typer.Exit(run_smoke(data, api, gateway, database_url))


@app.command(
    epilog=examples("faucet story", "faucet story --data /tmp/faucet-story"),
)
def story(
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="A new data dir, which is kept; else one that is not.")
    ] = None,
) -> None:
    """Onboard a developer before your eyes, from nothing to revenue.

    On a fresh stack of its own: developer, token, app, a feature from a manifest, a session from an app's backend, an
    answer, what it cost and who earned what. Every step is a command that you can type yourself.
    """
    from faucet.cli.story import run_story

    raise typer.Exit(run_story(data))


@app.command(
    epilog=examples("faucet mock-provider", "faucet mock-provider --port 0 --delay-ms 300 --chunk-delay-ms 20"),
)
def mock_provider(
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, metavar="N", help="0 takes a free one.")] = 4010,
    api_key: Annotated[str | None, typer.Option(help="Refuse every other bearer.")] = None,
    delay_ms: Annotated[int, typer.Option(min=0, help="Before the first byte of an answer.")] = 0,
    chunk_delay_ms: Annotated[int, typer.Option(min=0, help="Between the events of a stream.")] = 0,
) -> None:
    """Run the mock provider, for tests and trials.

    An OpenAI-compatible service whose answers are always the same. Prints one JSON line with its address when it
    listens.
    """
    from faucet.stack.child import under_supervision
    from faucet.stack.serve import run_mock_provider

    run_mock_provider(
        host,
        port,
        api_key=api_key,
        delay_ms=delay_ms,
        chunk_delay_ms=chunk_delay_ms,
        on_ready=under_supervision(),
    )


@app.command(
    epilog=examples(
        "faucet mock-stripe",
        "faucet mock-stripe --port 0",
        "faucet mock-stripe --webhook-url http://127.0.0.1:3001/v1/stripe/webhook --webhook-secret whsec_…",
    ),
)
def mock_stripe(
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, metavar="N", help="0 takes a free one.")] = 4242,
    webhook_url: Annotated[str | None, typer.Option(metavar="URL", help="Who is told of events.")] = None,
    webhook_secret: Annotated[
        str | None, typer.Option(help="What events are signed with.", envvar="STRIPE_WEBHOOK_SECRET")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep everything there, and go on from it.")
    ] = None,
) -> None:
    """Run the Stripe double, for tests and trials.

    As much of Stripe's API as this project uses, just as strict, with a checkout page for a browser, signed webhooks,
    and knobs under /_control. Prints one JSON line with its address when it listens.
    """
    from faucet.stack.child import under_supervision
    from faucet.stack.serve import run_mock_stripe

    run_mock_stripe(
        host,
        port,
        webhook_url=webhook_url,
        webhook_secret=webhook_secret,
        state=state,
        on_ready=under_supervision(),
    )


@serve_app.command("gateway", epilog=examples("PORT_GATEWAY=3002 DATABASE_URL=… faucet serve gateway"))
def serve_gateway() -> None:
    """Run one gateway. Several may share a port. Settings come from the environment."""
    _serve("gateway")


@serve_app.command("api", epilog=examples("PORT_API=3001 DATABASE_URL=… faucet serve api"))
def serve_api() -> None:
    """Run the control API. Settings come from the environment."""
    _serve("api")


@app.command(epilog=examples("DATABASE_URL=… faucet jobs"))
def jobs() -> None:
    """Run the work that nobody waits for.

    Holds that ran out, reconciliation, clean-up. Settings come from the environment.
    """
    _serve("jobs")


def _serve(name: str) -> None:
    from faucet.stack.child import under_supervision

    ready = under_supervision()
    from faucet.stack.serve import run_process

    run_process(name, on_ready=ready)


@app.command(
    epilog=examples("faucet migrate", "DATABASE_URL=postgresql://owner@db/faucet faucet migrate"),
)
def migrate(data: DataOption = None, database_url: DatabaseOption = None) -> None:
    """Bring the database to the newest schema.

    Also makes the vault's first key. Harmless to repeat, and from several places at once.
    """
    from faucet.kit.migrate import newest_revision
    from faucet.stack.database import database
    from faucet.stack.keys import ensure_vault_key
    from faucet.stack.settings import settings

    config = settings(data, database_url)
    with progress() as shown:
        shown.step("Bringing the database up to date")
        with database(config, shown.step, up_to_date=True) as dsn:
            asyncio.run(ensure_vault_key(dsn, config))
            shown.done()
    write_line(f"The database is at {newest_revision()}.")


@app.command(
    epilog=examples("faucet openapi > openapi.json", "faucet openapi --check openapi.json"),
)
def openapi(
    check: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Only say whether this file is up to date.")
    ] = None,
) -> None:
    """Print the control API's OpenAPI document."""
    from faucet.api.app import openapi_document

    _print_or_check(json.dumps(openapi_document(), indent=2, ensure_ascii=False), check, "make openapi")


@app.command(
    epilog=examples("faucet schema > migrations/schema.sql", "faucet schema --check migrations/schema.sql"),
)
def schema(
    check: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Only say whether this file is up to date.")
    ] = None,
) -> None:
    """Print the database's schema as one file to read.

    It is made from all migrations, in a database of its own.
    """
    from faucet.kit.schema import current_schema

    with progress() as shown:
        shown.step("Making a database of its own")
        text = current_schema()
    _print_or_check(text, check, "make schema")


def _print_or_check(text: str, check: Path | None, command: str) -> None:
    if check is None:
        write_line(text)
        return
    if not check.is_file() or check.read_text(encoding="utf-8").strip() != text.strip():
        complain(f"{check} is not what the code says; run `{command}` and commit the result")
        raise typer.Exit(1)
    write_line(f"{check} is up to date.")


@app.command(epilog=examples("faucet version"))
def version() -> None:
    """Print the version."""
    from faucet.stack.settings import project_version

    write_line(f"modelfaucet {project_version()}")


def expected(error: BaseException) -> str | None:
    """The text of a fault that is no bug of ours, and None for one that is."""
    from faucet.kit.config import ConfigRefused
    from faucet.kit.errors import FaucetError, InvariantBroken

    if isinstance(error, ConfigRefused) and len(error.problems) == 1:
        return f"settings refused: {error.problems[0]}"
    if isinstance(error, FaucetError) and not isinstance(error, InvariantBroken):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    import psycopg

    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedFunction):
        return "the database has no schema yet, or an older one: run `faucet migrate` first"
    if isinstance(error, psycopg.OperationalError):
        return f"the database does not answer: {str(error).splitlines()[0]}"
    return None


def main(command: Callable[..., Any] = app) -> None:
    """Run the command line. An expected fault is one line and exit code 1; a bug shows its traceback."""
    try:
        command(prog_name="faucet")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        text = expected(error)
        if text is None:
            raise
        complain(text)
        sys.exit(1)
