"""Commands over the API for webhooks, and a receiver for a developer's own machine that checks what comes.

Not here: how anything is signed or delivered (`webhooks`, `jobs`).
"""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Annotated, Any

import typer
from rich.text import Text

from faucet.cli.developers import DeveloperOption
from faucet.cli.remote import KeyOption, LimitOption, Remote, over_api
from faucet.cli.terminal import complain, console, examples, write_line
from faucet.kit.secret import Secret
from faucet.webhooks.signing import SECRET_PREFIX, Unverified, verify

webhooks_app = typer.Typer(
    name="webhooks",
    help="Webhooks: endpoints, events, and a receiver to try them with.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
WEBHOOKS = ("v1", "developer", "webhooks")
EVENTS = ("v1", "developer", "webhook-events")
LISTEN_PORT = 4242
BODY_BYTES_MAX = 1 << 20

WebhookArgument = Annotated[str, typer.Argument(metavar="WEBHOOK", help="The endpoint's id, as in the list.")]
EventArgument = Annotated[str, typer.Argument(metavar="EVENT", help="The event's id: its `webhook-id`.")]


@over_api(webhooks_app, "list", "faucet webhooks list", "faucet webhooks list --token mf_dev_… --json")
def list_webhooks(at: Remote, limit: LimitOption = 1000) -> None:
    """List endpoints, newest first; never a secret."""
    rows = list(at.every(*WEBHOOKS, limit=limit))
    columns = (
        ("Id", "id"),
        ("URL", "url"),
        ("Told of", "event_types"),
        ("Status", "status"),
        ("Why", "disabled_reason"),
        ("Fails since", "failing_since"),
    )
    at.show_rows(rows, columns, none="There are none. `faucet webhooks create` makes one.")


@over_api(
    webhooks_app,
    "create",
    "faucet webhooks create https://hooks.acme.example/modelfaucet --token mf_dev_…",
    "faucet webhooks create http://127.0.0.1:4242/ --developer dev@example.com --event wallet.low --event ping",
)
def create_webhook(
    at: Remote,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where events go: https, and public.")],
    developer: DeveloperOption = None,
    event: Annotated[
        list[str] | None, typer.Option("--event", metavar="TYPE", help="Only this; may be repeated.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="What you call it.")] = None,
    key: KeyOption = None,
) -> None:
    """Add an endpoint; the secret that signs what it gets is shown this once."""
    body: dict[str, Any] = {"url": url, "event_types": event or []}
    if developer is not None:
        body["developer_id"] = at.developer_id(developer)
    if description is not None:
        body["description"] = description
    _show_once(at, at.post(*WEBHOOKS, body=body, key=key))


@over_api(
    webhooks_app,
    "rotate",
    "faucet webhooks rotate 0198a3c2-…",
    "faucet webhooks rotate 0198a3c2-… --overlap-hours 0",
)
def rotate_webhook(
    at: Remote,
    webhook: WebhookArgument,
    overlap_hours: Annotated[
        int, typer.Option(min=0, max=168, metavar="N", help="So long the secret before signs too.")
    ] = 24,
    key: KeyOption = None,
) -> None:
    """Make a new secret, shown this once."""
    _show_once(at, at.post(*WEBHOOKS, webhook, "rotate", body={"overlap_seconds": overlap_hours * 3600}, key=key))


def _show_once(at: Remote, made: dict[str, Any]) -> None:
    at.show(made if at.as_json else {"secret": made["secret"], **made["item"]})


@over_api(webhooks_app, "enable", "faucet webhooks enable 0198a3c2-…")
def enable_webhook(at: Remote, webhook: WebhookArgument) -> None:
    """Send to an endpoint again, also after it was switched off for failing."""
    at.show(at.patch(*WEBHOOKS, webhook, body={"status": "active"}))


@over_api(webhooks_app, "disable", "faucet webhooks disable 0198a3c2-…")
def disable_webhook(at: Remote, webhook: WebhookArgument) -> None:
    """Send nothing to an endpoint; what waits for it is given up and can be replayed."""
    at.show(at.patch(*WEBHOOKS, webhook, body={"status": "disabled"}))


@over_api(webhooks_app, "delete", "faucet webhooks delete 0198a3c2-…")
def delete_webhook(at: Remote, webhook: WebhookArgument) -> None:
    """Forget an endpoint with its secrets."""
    at.delete(*WEBHOOKS, webhook)
    write_line("Deleted.")


@over_api(webhooks_app, "ping", "faucet webhooks ping 0198a3c2-…")
def ping_webhook(at: Remote, webhook: WebhookArgument, key: KeyOption = None) -> None:
    """Send a test event to an endpoint; `faucet webhooks attempts` says how that went."""
    at.show(at.post(*WEBHOOKS, webhook, "ping", key=key))


@over_api(webhooks_app, "events", "faucet webhooks events", "faucet webhooks events --type wallet.low --limit 20")
def list_events(
    at: Remote,
    event_type: Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Only of this kind.")] = None,
    limit: LimitOption = 100,
) -> None:
    """List what happened, newest first, and how far it was delivered."""
    rows = list(at.every(*EVENTS, limit=limit, type=event_type))
    if not at.as_json:
        for row in rows:
            row["told"] = [f"{each['state']} ({each['tries']})" for each in row["deliveries"]]
    columns = (("Id", "id"), ("When", "created_at"), ("Type", "type"), ("Delivered (tries)", "told"), ("Data", "data"))
    at.show_rows(rows, columns, none="Nothing has happened yet. `faucet webhooks ping` sends a test event.")


@over_api(webhooks_app, "attempts", "faucet webhooks attempts 0198a3c2-…")
def list_attempts(at: Remote, event: EventArgument, limit: LimitOption = 100) -> None:
    """List every try to deliver an event, newest first."""
    rows = list(at.every(*EVENTS, event, "attempts", limit=limit))
    columns = (
        ("When", "created_at"),
        ("Endpoint", "webhook_id"),
        ("Try", "number"),
        ("Status", "status_code"),
        ("Failure", "failure"),
        ("ms", "duration_ms"),
    )
    at.show_rows(rows, columns, none="It was not tried yet.")


@over_api(
    webhooks_app, "replay", "faucet webhooks replay 0198a3c2-…", "faucet webhooks replay 0198a3c2-… --to 0198a3d0-…"
)
def replay_event(
    at: Remote,
    event: EventArgument,
    to: Annotated[str | None, typer.Option("--to", metavar="WEBHOOK", help="To this endpoint only.")] = None,
    key: KeyOption = None,
) -> None:
    """Deliver an event once more, with the id that it has."""
    at.show(at.post(*EVENTS, event, "replay", body={} if to is None else {"webhook_id": to}, key=key))


# ── a receiver ──


@webhooks_app.command(
    "listen",
    epilog=examples(
        "WEBHOOK_SECRET=whsec_… faucet webhooks listen",
        "faucet webhooks listen --port 4242 --secret whsec_… --json",
    ),
)
def listen(
    secret: Annotated[
        list[str],
        typer.Option(
            "--secret",
            metavar="SECRET",
            help="The endpoint's, as `create` or `rotate` showed it; may be repeated.",
            envvar="WEBHOOK_SECRET",
        ),
    ],
    port: Annotated[int, typer.Option(min=0, max=65_535, metavar="N", help="0 takes a free one.")] = LISTEN_PORT,
    count: Annotated[int | None, typer.Option(min=1, metavar="N", help="End after so many events.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line for each event.")] = False,
) -> None:
    """Receive webhooks on this machine, check their signatures, and print what comes, until Ctrl-C.

    A development stack delivers to http://127.0.0.1 where WEBHOOK_LOOPBACK is set, as `faucet up` does.
    """
    if not all(each.startswith(SECRET_PREFIX) for each in secret):
        raise typer.BadParameter("--secret: a secret begins with whsec_")
    receiver = Receiver([Secret(each) for each in secret], port, as_json)
    with receiver.server:
        console(stderr=True).print(Text(f"Listening at http://127.0.0.1:{receiver.server.server_port}/", style="dim"))
        while count is None or receiver.received < count:
            receiver.server.handle_request()


class Receiver:
    """An endpoint on loopback: accepts what is signed, prints it, and refuses all else with 401."""

    def __init__(self, secrets: list[Secret], port: int, as_json: bool) -> None:
        self._secrets = secrets
        self._as_json = as_json
        self._seen: set[str] = set()
        self.received = 0

        def post(request: BaseHTTPRequestHandler) -> None:
            size = request.headers.get("content-length", "")
            if not size.isdigit() or int(size) > BODY_BYTES_MAX:
                request.send_error(413)
                return
            status = self._receive({k.lower(): v for k, v in request.headers.items()}, request.rfile.read(int(size)))
            request.send_response(status)
            request.send_header("content-length", "0")
            request.end_headers()

        members = {"do_POST": post, "timeout": 10, "log_message": lambda *_: None}
        self.server = HTTPServer(("127.0.0.1", port), type("Answer", (BaseHTTPRequestHandler,), members))

    def _receive(self, headers: dict[str, str], body: bytes) -> int:
        try:
            verify(self._secrets, headers, body, now=time.time())
            event = json.loads(body)
        except (Unverified, ValueError) as error:
            complain(f"refused: {error}")
            return 401
        self.received += 1
        again = headers["webhook-id"] in self._seen
        self._seen.add(headers["webhook-id"])
        if self._as_json:
            write_line(json.dumps(event, ensure_ascii=False))
            return 204
        note = " (again)" if again else ""
        console().print(
            Text.assemble(("✓ ", "green"), f"{event['timestamp']}  {event['type']}{note}", (f"  {event['id']}", "dim"))
        )
        for name, value in event["data"].items():
            write_line(f"    {name}: {value}")
        return 204
