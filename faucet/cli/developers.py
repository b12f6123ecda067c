"""Commands over the API for developers, their apps and tokens: list, show, create, change, switch off.

Not here: features (`features`, `manifest`), wallets and sessions (`purse`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from faucet.cli.remote import (
    KeyOption,
    LimitOption,
    Remote,
    over_api,
)

developers_app = typer.Typer(
    name="developers", help="Developers: who owns apps and earns.", no_args_is_help=True, rich_markup_mode=None
)
apps_app = typer.Typer(name="apps", help="Apps of developers.", no_args_is_help=True, rich_markup_mode=None)
tokens_app = typer.Typer(
    name="tokens", help="Tokens of developers' programs.", no_args_is_help=True, rich_markup_mode=None
)

DeveloperArgument = Annotated[str, typer.Argument(metavar="DEVELOPER", help="An id or an e-mail address.")]
DeveloperOption = Annotated[
    str | None, typer.Option("--developer", metavar="DEVELOPER", help="Whose; an id or an e-mail address.")
]
AppArgument = Annotated[str, typer.Argument(metavar="APP", help="The app's public id.")]

DEVELOPERS = ("v1", "developers")
APPS = ("v1", "developer", "apps")
TOKENS = ("v1", "developer", "tokens")


class IdentityMode(StrEnum):
    """How an app says who its end user is."""

    OPEN = "open"
    SIGNED = "signed"


# ── developers ──


@over_api(developers_app, "list", "faucet developers list", "faucet developers list --json", operator=True)
def list_developers(
    at: Remote,
    email: Annotated[str | None, typer.Option(help="Only who has this address.")] = None,
    limit: LimitOption = 1000,
) -> None:
    """List developers, newest first."""
    rows = list(at.every(*DEVELOPERS, limit=limit, email=email))
    columns = (("Id", "id"), ("Name", "name"), ("E-mail", "email"), ("Status", "status"))
    at.show_rows(rows, columns, none="There are none. `faucet developers create` makes one.")


@over_api(developers_app, "show", "faucet developers show dev@example.com", operator=True)
def show_developer(
    at: Remote,
    developer: DeveloperArgument,
) -> None:
    """Show one developer."""
    at.show(at.get(*DEVELOPERS, at.developer_id(developer)))


@over_api(developers_app, "create", 'faucet developers create --name "Acme" --email dev@acme.example', operator=True)
def create_developer(
    at: Remote,
    name: Annotated[str, typer.Option(help="Their name.")],
    email: Annotated[str, typer.Option(help="Their address, which nobody else has.")],
    key: KeyOption = None,
) -> None:
    """Make a developer, with accounts for what they will earn."""
    at.show(at.post(*DEVELOPERS, body={"name": name, "email": email}, key=key))


@over_api(developers_app, "rename", 'faucet developers rename dev@acme.example "Acme Ltd"', operator=True)
def rename_developer(
    at: Remote,
    developer: DeveloperArgument,
    name: Annotated[str, typer.Argument(help="The new name.")],
) -> None:
    """Give a developer another name."""
    at.show(at.patch(*DEVELOPERS, at.developer_id(developer), body={"name": name}))


@over_api(developers_app, "disable", "faucet developers disable dev@acme.example", operator=True)
def disable_developer(
    at: Remote,
    developer: DeveloperArgument,
) -> None:
    """Refuse all of a developer's tokens, apps and sessions, within five seconds. What they earned stays."""
    at.show(at.patch(*DEVELOPERS, at.developer_id(developer), body={"status": "disabled"}))


@over_api(developers_app, "enable", "faucet developers enable dev@acme.example", operator=True)
def enable_developer(
    at: Remote,
    developer: DeveloperArgument,
) -> None:
    """Let a disabled developer work again."""
    at.show(at.patch(*DEVELOPERS, at.developer_id(developer), body={"status": "active"}))


@over_api(developers_app, "free-quota", "faucet developers free-quota dev@acme.example 100", operator=True)
def limit_free_quota(
    at: Remote,
    developer: DeveloperArgument,
    amount: Annotated[str, typer.Argument(metavar="USD", help="The most in a month; 0 is nothing.")],
) -> None:
    """Say what the platform gives away for the free quotas of a developer's features in a month."""
    at.show(at.patch(*DEVELOPERS, at.developer_id(developer), body={"free_quota_monthly_max_usd": amount}))


@over_api(developers_app, "revenue", "faucet developers revenue dev@example.com")
def show_revenue(
    at: Remote,
    developer: DeveloperArgument,
) -> None:
    """Show what a developer has earned: now, being paid out, and in all."""
    at.show(at.get(*DEVELOPERS, at.developer_id(developer), "revenue"))


# ── apps ──


@over_api(apps_app, "list", "faucet apps list", "faucet apps list --token mf_dev_… --json")
def list_apps(
    at: Remote,
    limit: LimitOption = 1000,
) -> None:
    """List apps, newest first, archived ones included."""
    rows = list(at.every(*APPS, limit=limit))
    columns = (
        ("Public id", "public_app_id"),
        ("Name", "name"),
        ("Developer", "developer_email"),
        ("Identity", "identity_mode"),
        ("Status", "status"),
    )
    at.show_rows(rows, columns, none="There are none. `faucet apps create` makes one.")


@over_api(apps_app, "show", "faucet apps show app_pub_demo")
def show_app(
    at: Remote,
    app_id: AppArgument,
) -> None:
    """Show one app."""
    at.show(at.get(*APPS, app_id))


ShareOption = Annotated[
    int | None, typer.Option("--share-bps", min=0, max=10_000, metavar="BPS", help="The developer's usual share.")
]
IdentityOption = Annotated[IdentityMode | None, typer.Option("--identity", help="How end users are named.")]
OriginOption = Annotated[
    list[str] | None, typer.Option("--origin", metavar="ORIGIN", help="A web origin that may call; may be repeated.")
]
MonthlyOption = Annotated[
    str | None, typer.Option("--monthly-limit", metavar="USD", help="What all its users may spend; `none` lifts it.")
]
SessionLimitOption = Annotated[
    str | None, typer.Option("--session-limit", metavar="USD", help="What one session may spend; `none` lifts it.")
]

WalletLowOption = Annotated[
    str | None,
    typer.Option("--wallet-low", metavar="USD", help="Below this `wallet.low` is told; `none`: as installed."),
]


def _settings(
    share_bps: int | None,
    identity: IdentityMode | None,
    origins: list[str] | None,
    monthly_limit: str | None,
    session_limit: str | None,
    wallet_low: str | None,
) -> dict[str, Any]:
    """What of an app's settings was said."""
    body: dict[str, Any] = {}
    if share_bps is not None:
        body["default_revenue_share_bps"] = share_bps
    if identity is not None:
        body["identity_mode"] = identity.value
    if origins:
        body["allowed_origins"] = [origin for origin in origins if origin != "none"]
    for field, text in (
        ("monthly_spend_limit_usd", monthly_limit),
        ("session_spend_limit_usd", session_limit),
        ("wallet_low_usd", wallet_low),
    ):
        if text is not None:
            body[field] = None if text == "none" else text
    return body


@over_api(
    apps_app,
    "create",
    'faucet apps create app_support --name "Support desk" --developer dev@acme.example',
    'faucet apps create app_support --name "Support desk" --token mf_dev_… --origin https://acme.example',
)
def create_app(
    at: Remote,
    app_id: AppArgument,
    name: Annotated[str, typer.Option(help="Its name.")],
    developer: DeveloperOption = None,
    share_bps: ShareOption = None,
    identity: IdentityOption = None,
    origins: OriginOption = None,
    monthly_limit: MonthlyOption = None,
    session_limit: SessionLimitOption = None,
    wallet_low: WalletLowOption = None,
    key: KeyOption = None,
) -> None:
    """Make an app. Its public id is taken for good. The operator says whose it is with --developer."""
    body = _settings(share_bps, identity, origins, monthly_limit, session_limit, wallet_low)
    body |= {"public_app_id": app_id, "name": name}
    if developer is not None:
        body["developer_id"] = at.developer_id(developer)
    at.show(at.post(*APPS, body=body, key=key))


@over_api(
    apps_app,
    "change",
    "faucet apps change app_support --monthly-limit 50 --identity signed",
    "faucet apps change app_support --monthly-limit none",
)
def change_app(
    at: Remote,
    app_id: AppArgument,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    share_bps: ShareOption = None,
    identity: IdentityOption = None,
    origins: OriginOption = None,
    monthly_limit: MonthlyOption = None,
    session_limit: SessionLimitOption = None,
    wallet_low: WalletLowOption = None,
) -> None:
    """Change what is said; the rest stays. `--origin none` takes all origins away."""
    body = _settings(share_bps, identity, origins, monthly_limit, session_limit, wallet_low)
    if name is not None:
        body["name"] = name
    if not body:
        raise typer.BadParameter("say what to change")
    at.show(at.patch(*APPS, app_id, body=body))


@over_api(apps_app, "disable", "faucet apps disable app_support")
def disable_app(
    at: Remote,
    app_id: AppArgument,
) -> None:
    """Refuse an app's sessions within five seconds, until it is enabled again."""
    at.show(at.patch(*APPS, app_id, body={"status": "disabled"}))


@over_api(apps_app, "enable", "faucet apps enable app_support")
def enable_app(
    at: Remote,
    app_id: AppArgument,
) -> None:
    """Let a disabled or archived app work again."""
    at.show(at.patch(*APPS, app_id, body={"status": "active"}))


@over_api(apps_app, "archive", "faucet apps archive app_support")
def archive_app(
    at: Remote,
    app_id: AppArgument,
) -> None:
    """Archive an app: its sessions end, its books stay."""
    at.show(at.delete(*APPS, app_id))


@over_api(apps_app, "usage", "faucet apps usage app_pub_demo", "faucet apps usage app_pub_demo --json")
def show_usage(
    at: Remote,
    app_id: AppArgument,
) -> None:
    """Show an app's totals and its last hundred answers."""
    got = at.get("v1", "apps", app_id, "usage")
    if at.as_json:
        at.show(got)
        return
    newest = got.pop("usage")
    at.show(got)
    columns = (
        ("At", "created_at"),
        ("Feature", "feature_key"),
        ("Route", "route_mode"),
        ("Model", "model"),
        ("In", "input_tokens"),
        ("Out", "output_tokens"),
        ("Price $", "retail_price_usd"),
        ("Share $", "channel_revenue_usd"),
    )
    if newest:
        at.show_rows(newest, columns, none="")


# ── tokens ──


@over_api(tokens_app, "list", "faucet tokens list")
def list_tokens(
    at: Remote,
    limit: LimitOption = 1000,
) -> None:
    """List tokens, newest first, revoked ones included; never the secrets."""
    rows = list(at.every(*TOKENS, limit=limit))
    columns = (
        ("Id", "id"),
        ("Token", "token_prefix"),
        ("Name", "name"),
        ("Developer", "developer_email"),
        ("Status", "status"),
        ("Last used", "last_used_at"),
    )
    at.show_rows(rows, columns, none="There are none. `faucet tokens create` makes one.")


@over_api(
    tokens_app,
    "create",
    "faucet tokens create --name ci --developer dev@acme.example",
    "faucet tokens create --name reader --developer dev@acme.example --scope developer:usage:read",
)
def create_token(
    at: Remote,
    name: Annotated[str, typer.Option(help="What it is for.")],
    developer: DeveloperOption = None,
    scopes: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="SCOPE", help="What it may; may be repeated. All unless said."),
    ] = None,
    expires: Annotated[
        datetime | None, typer.Option("--expires", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="When it ends, UTC.")
    ] = None,
    key: KeyOption = None,
) -> None:
    """Make a token. It is shown this once, alone on standard output with --json."""
    from faucet.tenants.tokens import SCOPES

    unknown = sorted(set(scopes or ()) - set(SCOPES))
    if unknown:
        raise typer.BadParameter(f"--scope: there is no {unknown[0]!r}; there are {', '.join(SCOPES)}")
    body: dict[str, Any] = {"name": name, "scopes": scopes or list(SCOPES)}
    if expires is not None:
        body["expires_at"] = expires.replace(tzinfo=UTC).isoformat()
    if developer is not None:
        body["developer_id"] = at.developer_id(developer)
    made = at.post(*TOKENS, body=body, key=key)
    at.show(made if at.as_json else {"token": made["token"], **made["item"]})


@over_api(tokens_app, "revoke", "faucet tokens revoke 0198a3c2-…")
def revoke_token(
    at: Remote,
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's id, as in the list.")],
) -> None:
    """End a token for good, at once."""
    at.show(at.delete(*TOKENS, token_id))
