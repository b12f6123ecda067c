"""Commands over the API for promo codes: made and watched by the operator, redeemed by end users."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from faucet.cli.remote import ApiOption, DataOption, JsonOption, KeyOption, LimitOption, Remote, over_api, remote
from faucet.cli.terminal import examples

promos_app = typer.Typer(
    name="promos", help="Promo codes that give end users credit.", no_args_is_help=True, rich_markup_mode=None
)
PROMOS = ("v1", "admin", "promo-codes")
PromoArgument = Annotated[str, typer.Argument(metavar="PROMO", help="The code's id, as in the list.")]


@over_api(promos_app, "list", "faucet promos list", operator=True)
def list_promos(at: Remote, limit: LimitOption = 1000) -> None:
    """List codes, newest first, with how often each was redeemed."""
    rows = list(at.every(*PROMOS, limit=limit))
    columns = (
        ("Id", "id"),
        ("Code", "code"),
        ("Amount $", "amount_usd"),
        ("Redeemed", "redemptions"),
        ("Of", "redemptions_max"),
        ("App", "public_app_id"),
        ("Until", "expires_at"),
        ("Status", "status"),
    )
    at.show_rows(rows, columns, none="There are none. `faucet promos create` makes one.")


@over_api(promos_app, "show", "faucet promos show 0198a3c2-…", operator=True)
def show_promo(at: Remote, promo: PromoArgument) -> None:
    """Show one code."""
    at.show(at.get(*PROMOS, promo))


@over_api(
    promos_app,
    "create",
    "faucet promos create 5.00 --redemptions 100",
    "faucet promos create 2.50 --code WELCOME-2027 --redemptions 1000 --app app_support --expires 2027-01-31T00:00:00Z",
    operator=True,
)
def create_promo(
    at: Remote,
    amount: Annotated[str, typer.Argument(metavar="USD", help="What each redemption gives.")],
    redemptions: Annotated[int, typer.Option(min=1, metavar="N", help="How many end users may redeem it in all.")],
    code: Annotated[str | None, typer.Option(help="Its letters; else one is made up that nobody guesses.")] = None,
    app_id: Annotated[str | None, typer.Option("--app", metavar="APP", help="Only for end users of this app.")] = None,
    expires: Annotated[str | None, typer.Option(metavar="TIME", help="Until when, such as 2027-01-31T00:00:00Z.")] = (
        None
    ),
    key: KeyOption = None,
) -> None:
    """Make a code that end users redeem for credit, each once."""
    body: dict[str, Any] = {"amount_usd": amount, "redemptions_max": redemptions}
    for name, value in (("code", code), ("public_app_id", app_id), ("expires_at", expires)):
        if value is not None:
            body[name] = value
    at.show(at.post(*PROMOS, body=body, key=key))


@over_api(promos_app, "disable", "faucet promos disable 0198a3c2-…", operator=True)
def disable_promo(at: Remote, promo: PromoArgument) -> None:
    """End a code for good; what it gave stays."""
    at.show(at.delete(*PROMOS, promo))


@promos_app.command("redeem", epilog=examples("faucet promos redeem WELCOME-2027 --session mf_sess_…"))
def redeem_promo(
    code: Annotated[str, typer.Argument(metavar="CODE", help="The code.")],
    session: Annotated[str, typer.Option("--session", metavar="TOKEN", help="A session of the end user.")],
    as_json: JsonOption = False,
    api: ApiOption = None,
    data: DataOption = None,
    key: KeyOption = None,
) -> None:
    """Redeem a code for credit, as the end user of a session."""
    with remote(data, api, session, as_json=as_json) as at:
        at.show(at.post("v1", "user", "promo-codes", "redeem", body={"code": code}, key=key))
