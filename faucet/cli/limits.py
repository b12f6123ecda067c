"""Commands over the API for spend limits. Not here: what a limit stops (`ledger`)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from faucet.cli.remote import KeyOption, Remote, over_api
from faucet.cli.terminal import write_line
from faucet.kit.money import from_wire

limits_app = typer.Typer(
    name="limits",
    help="Spend limits of apps, features, end users and sessions.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_LIMITS = ("v1", "admin", "spend-limits")


class Scope(StrEnum):
    """What a spend limit is over."""

    APP = "app"
    FEATURE = "feature"
    END_USER = "end_user"
    SESSION = "session"


class Period(StrEnum):
    """How long a spend limit counts."""

    MONTH = "month"
    TOTAL = "total"


ScopeArgument = Annotated[Scope, typer.Argument(help="What the limit is over.")]
TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="Its id. Also an app's public id, a feature as APP/FEATURE, an end user as APP/USER.",
    ),
]
PeriodOption = Annotated[Period, typer.Option(help="What counts: the calendar month in UTC, or all time.")]
_WORDS = {Period.MONTH: "a month", Period.TOTAL: "in all"}


@over_api(
    limits_app,
    "set",
    "faucet limits set app app_pub_demo --period month --usd 50",
    "faucet limits set end_user app_pub_demo/crm-demo-user --period total --usd 5",
    operator=True,
)
def set_limit(
    at: Remote,
    scope: ScopeArgument,
    target: TargetArgument,
    amount: Annotated[str, typer.Option("--usd", metavar="USD", help="The limit; 0 stops everything.")],
    period: PeriodOption = Period.MONTH,
    key: KeyOption = None,
) -> None:
    """Set or change a spend limit. It counts what was spent in its period before, too."""
    try:
        from_wire(amount)
    except ValueError as error:
        raise typer.BadParameter(f"--usd: {error}") from None
    body = {"scope": scope.value, "target": target, "period": period.value, "limit_usd": amount}
    done = at.post(*_LIMITS, body=body, key=key)
    if at.as_json:
        at.show(done)
    else:
        write_line(f"{scope.value} {target} may spend ${done['limit_usd']} {_WORDS[period]}.")


@over_api(limits_app, "lift", "faucet limits lift app app_pub_demo --period month", operator=True)
def lift_limit(
    at: Remote,
    scope: ScopeArgument,
    target: TargetArgument,
    period: PeriodOption = Period.MONTH,
    key: KeyOption = None,
) -> None:
    """Lift a spend limit."""
    body = {"scope": scope.value, "target": target, "period": period.value}
    done = at.post(*_LIMITS, "lift", body=body, key=key)
    if at.as_json:
        at.show(done)
    else:
        write_line(f"{scope.value} {target} has no limit {_WORDS[period]} any more.")
