"""Commands over the API for wallets and sessions: what end users and developers have, and how an end user comes in.

Not here: what books a correction (`ledger`), nor the money of a request.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from faucet.cli.developers import APPS, AppArgument
from faucet.cli.remote import (
    ApiOption,
    DataOption,
    JsonOption,
    KeyOption,
    LimitOption,
    Remote,
    TokenOption,
    api_address,
    over_api,
    remote,
    show_row,
)
from faucet.cli.terminal import examples, write_line

wallets_app = typer.Typer(
    name="wallets", help="Wallets of end users, earnings of developers.", no_args_is_help=True, rich_markup_mode=None
)
signing_keys_app = typer.Typer(
    name="signing-keys",
    help="Keys with which apps' backends vouch for their users.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
sessions_app = typer.Typer(name="sessions", help="Sessions of end users.", no_args_is_help=True, rich_markup_mode=None)

WalletArgument = Annotated[str, typer.Argument(metavar="WALLET", help="The wallet's id, as in the list.")]
AmountArgument = Annotated[str, typer.Argument(metavar="USD", help="Dollars, at most eight places.")]
_WALLETS = ("v1", "admin", "wallets")


class Algorithm(StrEnum):
    """How a backend signs."""

    HS256 = "HS256"
    EDDSA = "EdDSA"


class Kind(StrEnum):
    """Why a balance is corrected."""

    ADJUSTMENT = "adjustment"
    REFUND = "refund"
    CHARGEBACK = "chargeback"


# ── wallets ──


@over_api(wallets_app, "list", "faucet wallets list", "faucet wallets list --token mf_dev_…")
def list_wallets(
    at: Remote,
) -> None:
    """List the hundred wallets that changed last: end users' and developers' earnings."""
    rows = at.get("v1", "developer", "operations")["wallets"]
    columns = (
        ("Wallet", "id"),
        ("Whose", "owner_scope"),
        ("Name", "owner_name"),
        ("Balance $", "balance_usd"),
        ("Changed", "updated_at"),
    )
    at.show_rows(rows, columns, none="There are none yet: an end user gets one with the first session.")


@wallets_app.command("show", epilog=examples("faucet wallets show --session mf_sess_…"))
def show_wallet(
    session: Annotated[str, typer.Option("--session", metavar="TOKEN", help="A session of its end user.")],
    as_json: JsonOption = False,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Show the wallet of a session's end user, with what requests in flight hold of it."""
    with remote(data, api, session) as at:
        show_row(at.get("v1", "user", "wallet"), as_json)


ReasonOption = Annotated[str, typer.Option(help="Why, for the audit log.")]


@over_api(
    wallets_app, "freeze", 'faucet wallets freeze 0198a3c2-… --reason "card stolen, says its owner"', operator=True
)
def freeze_wallet(at: Remote, wallet: WalletArgument, reason: ReasonOption, key: KeyOption = None) -> None:
    """Let nothing new be spent from a wallet. Requests that have begun end as they would."""
    at.show(at.post(*_WALLETS, wallet, "freeze", body={"reason": reason}, key=key))


@over_api(wallets_app, "unfreeze", 'faucet wallets unfreeze 0198a3c2-… --reason "paid by transfer"', operator=True)
def unfreeze_wallet(at: Remote, wallet: WalletArgument, reason: ReasonOption, key: KeyOption = None) -> None:
    """Let a frozen wallet be spent again, as one that a refund or dispute found too empty."""
    at.show(at.post(*_WALLETS, wallet, "unfreeze", body={"reason": reason}, key=key))


@over_api(wallets_app, "credit", "faucet wallets credit 0198a3c2-… 5.00", operator=True)
def credit_wallet(
    at: Remote,
    wallet: WalletArgument,
    amount: AmountArgument,
    key: KeyOption = None,
) -> None:
    """Give a wallet test credits that nobody paid for. Development only."""
    at.show(at.post(*_WALLETS, wallet, "credit-test-balance", body={"amount_usd": amount}, key=key))


@over_api(
    wallets_app,
    "grant",
    'faucet wallets grant 0198a3c2-… 5.00 --reason "sorry for Monday" --key ticket-4711',
    operator=True,
)
def grant_credit(
    at: Remote,
    wallet: WalletArgument,
    amount: AmountArgument,
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")],
    key: KeyOption = None,
) -> None:
    """Give a wallet promotional credit, at the platform's expense."""
    at.show(at.post(*_WALLETS, wallet, "grants", body={"amount_usd": amount, "reason": reason}, key=key))


@over_api(
    wallets_app,
    "adjust",
    'faucet wallets adjust 0198a3c2-… --credit 2.50 --reason "outage on Monday" --key ticket-4711',
    "faucet wallets adjust 0198a3c2-… --debit 1.00 --kind refund",
    operator=True,
)
def adjust_wallet(
    at: Remote,
    wallet: WalletArgument,
    credit: Annotated[str | None, typer.Option(metavar="USD", help="Add this.")] = None,
    debit: Annotated[str | None, typer.Option(metavar="USD", help="Take this.")] = None,
    kind: Annotated[Kind, typer.Option(help="What it is called in the audit log.")] = Kind.ADJUSTMENT,
    reason: Annotated[str | None, typer.Option(help="Why, for the audit log.")] = None,
    key: KeyOption = None,
) -> None:
    """Correct a wallet or a developer's earnings by hand, within what no request holds."""
    if (credit is None) == (debit is None):
        raise typer.BadParameter("say either --credit or --debit")
    body: dict[str, Any] = {
        "kind": kind.value,
        "direction": "credit" if debit is None else "debit",
        "amount_usd": credit if debit is None else debit,
    }
    if reason is not None:
        body["reason"] = reason
    at.show(at.post(*_WALLETS, wallet, "adjustments", body=body, key=key))


# ── sessions ──


@over_api(sessions_app, "list", "faucet sessions list app_support", "faucet sessions list app_support --running")
def list_sessions(
    at: Remote,
    app_id: AppArgument,
    running: Annotated[bool, typer.Option("--running", help="Only those that are neither over nor revoked.")] = False,
    limit: LimitOption = 1000,
) -> None:
    """List an app's sessions, newest first; never their tokens."""
    rows = list(at.every(*APPS, app_id, "sessions", limit=limit, running="true" if running else None))
    columns = (
        ("Id", "id"),
        ("Feature", "feature_key"),
        ("End user", "end_user_id"),
        ("Status", "status"),
        ("From", "created_at"),
        ("Until", "expires_at"),
    )
    at.show_rows(rows, columns, none="There are none.")


@sessions_app.command(
    "create",
    epilog=examples(
        "faucet sessions create app_pub_demo crm-demo-user",
        "faucet sessions create app_pub_demo crm-demo-user --feature customer_reply --json",
    ),
)
def create_session(
    app_id: AppArgument,
    user: Annotated[str, typer.Argument(metavar="USER", help="The end user's id in the app.")],
    feature: Annotated[str | None, typer.Option(metavar="KEY", help="For this feature alone.")] = None,
    user_token: Annotated[
        str | None, typer.Option(metavar="JWT", help="Who the end user is, signed; where the app asks for it.")
    ] = None,
    as_json: JsonOption = False,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """Mint a session for an end user, as an app's backend does."""
    from faucet.cli.client import Client
    from faucet.stack.supervisor import API_PORT

    body = {"public_app_id": app_id, "external_user_id": user}
    if feature is not None:
        body["feature_key"] = feature
    if user_token is not None:
        body["user_token"] = user_token
    address = (api or api_address(data) or f"http://127.0.0.1:{API_PORT}").rstrip("/")
    with Client(address, "") as client:
        show_row(client.call("POST", f"{address}/v1/sessions", body=body), as_json)


@sessions_app.command(
    "revoke",
    epilog=examples(
        "faucet sessions revoke mf_sess_…",
        "faucet sessions revoke - < token.txt",
        "faucet sessions revoke 0198a000-0000-7000-8000-000000000000 --app app_support",
    ),
)
def revoke_session(
    session: Annotated[
        str,
        typer.Argument(
            metavar="SESSION", help="The session's token, or `-` for standard input; with --app, its id in the list."
        ),
    ],
    app_id: Annotated[str | None, typer.Option("--app", metavar="APP", help="Whose session it is.")] = None,
    token: TokenOption = None,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """End a session; gateways refuse it within five seconds."""
    if app_id is not None:
        with remote(data, api, token) as at:
            at.delete(*APPS, app_id, "sessions", session)
    else:
        with remote(data, api, sys.stdin.readline().strip() if session == "-" else session) as at:
            at.delete("v1", "sessions", "current")
    write_line("Revoked.")


# ── signing keys ──


@over_api(signing_keys_app, "list", "faucet signing-keys list app_support")
def list_signing_keys(
    at: Remote,
    app_id: AppArgument,
) -> None:
    """List an app's signing keys, revoked ones included; never the secrets."""
    rows = list(at.every(*APPS, app_id, "signing-keys"))
    columns = (("Id", "key_id"), ("Name", "name"), ("Kind", "kind"), ("Status", "status"), ("Made", "created_at"))
    at.show_rows(rows, columns, none="There are none. `faucet signing-keys create` makes one.")


@over_api(
    signing_keys_app,
    "create",
    "faucet signing-keys create app_support",
    "faucet signing-keys create app_support --kind EdDSA --public-key key.pub.pem",
)
def create_signing_key(
    at: Remote,
    app_id: AppArgument,
    name: Annotated[str, typer.Option(help="What you call it.")] = "backend",
    kind: Annotated[Algorithm, typer.Option(help="HS256: the secret is made here; EdDSA: you keep it.")] = (
        Algorithm.HS256
    ),
    public_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For EdDSA: the Ed25519 public key, as PEM.")
    ] = None,
    key: KeyOption = None,
) -> None:
    """Make a key; the secret of HS256 is shown this once. Several may be active, so that they can be rotated."""
    if (public_key is not None) != (kind is Algorithm.EDDSA):
        raise typer.BadParameter("--public-key: belongs to --kind EdDSA, which needs it")
    body = {"name": name, "kind": kind.value}
    if public_key is not None:
        body["public_key"] = public_key.read_text(encoding="utf-8", errors="replace").strip()
    made = at.post(*APPS, app_id, "signing-keys", body=body, key=key)
    shown = {name: value for name, value in made.items() if name != "item"}
    at.show(made if at.as_json else {**shown, **made["item"]})


@over_api(signing_keys_app, "revoke", "faucet signing-keys revoke app_support sk_7Qx…")
def revoke_signing_key(
    at: Remote,
    app_id: AppArgument,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as in the list.")],
) -> None:
    """Believe nothing any more that this key signs."""
    at.show(at.delete(*APPS, app_id, "signing-keys", key_id))
