"""Commands over the API for money that comes in: top-ups and refunds, Stripe's events. For the operator.

Not here: what is booked (`payments`, `ledger`).
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from faucet.cli.client import Client
from faucet.cli.remote import (
    ApiOption,
    DataOption,
    JsonOption,
    KeyOption,
    LimitOption,
    Remote,
    api_address,
    is_here,
    over_api,
    show_row,
)
from faucet.cli.terminal import examples
from faucet.kit.errors import FaucetError

API_PORT = 3001

top_ups_app = typer.Typer(
    name="top-ups", help="What people paid in, and refunds of it.", no_args_is_help=True, rich_markup_mode=None
)
stripe_app = typer.Typer(name="stripe", help="What Stripe told.", no_args_is_help=True, rich_markup_mode=None)
events_app = typer.Typer(
    name="events", help="The inbox of Stripe's events.", no_args_is_help=True, rich_markup_mode=None
)
stripe_app.add_typer(events_app)

TopUpArgument = Annotated[str, typer.Argument(metavar="TOPUP", help="The top-up's id, as in the list.")]
_TOP_UPS = ("v1", "admin", "top-ups")
_EVENTS = ("v1", "admin", "stripe", "events")


@top_ups_app.command("open", epilog=examples("faucet top-ups open 10.00", "faucet top-ups open 5.00 --save-card"))
def open_top_up(
    amount: Annotated[str, typer.Argument(metavar="USD", help="Dollars, in whole cents.")],
    app_id: Annotated[str, typer.Option("--app", metavar="ID", help="The app to be a user of.")] = "app_pub_demo",
    user: Annotated[str, typer.Option(metavar="ID", help="The user to be.")] = "crm-demo-user",
    save_card: Annotated[bool, typer.Option("--save-card", help="Keep the card for automatic top-ups.")] = False,
    as_json: JsonOption = False,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Begin a top-up as an end user, and print the page to pay on.

    Of the stack that runs with this data dir; its Stripe double says on the page which cards there are. The browser
    comes back to the API's own reference.
    """
    address = (api or api_address(data) or f"http://127.0.0.1:{API_PORT}").rstrip("/")
    with Client(address, "") as client:
        token = client.session(app_id, user).token
        place = f"{address}/docs"
        ask = {"amount_usd": amount, "success_url": place, "cancel_url": place, "save_card": save_card}
        show_row(client.call("POST", f"{address}/v1/user/stripe/checkout-sessions", token, ask), as_json)


@over_api(top_ups_app, "list", "faucet top-ups list", "faucet top-ups list --developer dev@acme.example", operator=True)
def list_top_ups(
    at: Remote,
    developer: Annotated[
        str | None, typer.Option(metavar="DEVELOPER", help="Of their apps only: id or e-mail.")
    ] = None,
    limit: LimitOption = 50,
) -> None:
    """List what people paid in, newest first."""
    owner = None if developer is None else at.developer_id(developer)
    columns = (
        ("Top-up", "id"),
        ("Wallet", "wallet_id"),
        ("By", "kind"),
        ("Paid $", "amount_usd"),
        ("Refunded $", "refunded_usd"),
        ("Disputed $", "disputed_usd"),
        ("Status", "status"),
        ("Asked for", "created_at"),
    )
    rows = list(at.every(*_TOP_UPS, limit=limit, developer_id=owner))
    at.show_rows(rows, columns, none="Nobody has asked to pay in yet.")


@over_api(top_ups_app, "show", "faucet top-ups show 0198a3c2-…", operator=True)
def show_top_up(at: Remote, top_up: TopUpArgument) -> None:
    """Show one, with what of it can still be refunded."""
    at.show(at.get(*_TOP_UPS, top_up))


@over_api(
    top_ups_app,
    "refund",
    'faucet top-ups refund 0198a3c2-… --amount 2.50 --reason "paid twice" --key ticket-4711',
    'faucet top-ups refund 0198a3c2-… --reason "changed their mind"',
    operator=True,
)
def refund_top_up(
    at: Remote,
    top_up: TopUpArgument,
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")],
    amount: Annotated[
        str | None, typer.Option(metavar="USD", help="Whole cents; without it, all that is left.")
    ] = None,
    key: KeyOption = None,
) -> None:
    """Give money back to the card that paid. What the wallet lacks is written off, and the wallet is frozen."""
    body: dict[str, Any] = {"reason": reason} | ({} if amount is None else {"amount_usd": amount})
    at.show(at.post(*_TOP_UPS, top_up, "refunds", body=body, key=key))


@over_api(
    events_app,
    "list",
    "faucet stripe events list",
    "faucet stripe events list --outcome refused --json",
    operator=True,
)
def list_events(
    at: Remote,
    outcome: Annotated[
        str | None, typer.Option(metavar="WORD", help="Only waiting, applied, ignored or refused ones.")
    ] = None,
    kind: Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Only these, as refund.created.")] = None,
    limit: LimitOption = 50,
) -> None:
    """List Stripe's events, newest first, and what became of each."""
    columns = (
        ("Event", "id"),
        ("Type", "type"),
        ("Outcome", "outcome"),
        ("Why", "reason"),
        ("Tries", "attempts"),
        ("Came", "received_at"),
    )
    rows = list(at.every(*_EVENTS, limit=limit, outcome=outcome, type=kind))
    at.show_rows(rows, columns, none="None came. Is the webhook's address known to Stripe?")


@over_api(
    events_app,
    "replay",
    "faucet stripe events replay",
    "faucet stripe events replay --hours 72",
    "faucet stripe events replay evt_1PxY… --api https://api.example.com --remote",
    operator=True,
)
def replay_events(
    at: Remote,
    events: Annotated[list[str] | None, typer.Argument(metavar="[EVENT]...", help="These only.")] = None,
    hours: Annotated[int, typer.Option(min=1, max=720, help="Those of so many hours.")] = 24,
    is_remote: Annotated[
        bool, typer.Option("--remote", help="The API is on another machine, and that is meant.")
    ] = False,
    key: KeyOption = None,
) -> None:
    """Ask Stripe for events again, and apply those that never came here.

    After the webhook was away. Each is applied once, however often this is repeated. Only for an API on this machine,
    unless it is told otherwise.
    """
    if not is_here(at.client.api) and not is_remote:
        raise FaucetError(f"the API at {at.client.api} is not on this machine: say --remote if that one is meant")
    body: dict[str, Any] = {"event_ids": events} if events else {"hours": hours}
    at.show(at.post(*_EVENTS, "replay", body=body, key=key))
