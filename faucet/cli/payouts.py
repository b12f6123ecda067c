"""Commands over the API for payouts: what waits, what becomes of it, and opening them for everybody.

Who asked for a payout doesn't approve it: `--token` is where another operator, of OPERATOR_TOKENS, says who they are.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from faucet.cli.remote import KeyOption, LimitOption, Remote, over_api

payouts_app = typer.Typer(
    name="payouts", help="Earnings on their way to developers.", no_args_is_help=True, rich_markup_mode=None
)

PAYOUTS = ("v1", "admin", "payouts")
COLUMNS = (
    ("Id", "id"),
    ("Developer", "developer_name"),
    ("Amount $", "amount_usd"),
    ("Status", "status"),
    ("By", "provider"),
    ("Reason", "reason"),
    ("Asked for", "created_at"),
)

PayoutArgument = Annotated[str, typer.Argument(metavar="PAYOUT", help="The payout's id, as in the list.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="Why; the developer sees it.")]


class Status(StrEnum):
    """Where a payout is."""

    REQUESTED = "requested"
    APPROVED = "approved"
    SENT = "sent"
    PAID = "paid"
    FAILED = "failed"
    CANCELLED = "cancelled"


@over_api(payouts_app, "list", "faucet payouts list", "faucet payouts list --status requested --json")
def list_payouts(
    at: Remote,
    status: Annotated[Status | None, typer.Option(help="Only those that are.")] = None,
    developer: Annotated[
        str | None, typer.Option("--developer", metavar="DEVELOPER", help="Only whose; an id or an e-mail address.")
    ] = None,
    limit: LimitOption = 100,
) -> None:
    """List payouts, newest first."""
    wanted = None if developer is None else at.developer_id(developer)
    rows = list(at.every(*PAYOUTS, limit=limit, status=None if status is None else status.value, developer_id=wanted))
    at.show_rows(rows, COLUMNS, none="There are none. `faucet payouts run` opens them for who has earned enough.")


@over_api(payouts_app, "show", "faucet payouts show 0198a3c2-…")
def show_payout(at: Remote, payout: PayoutArgument) -> None:
    """Show one payout: who decided what, and how it stands at Stripe."""
    at.show(at.get(*PAYOUTS, payout))


@over_api(
    payouts_app,
    "request",
    "faucet payouts request --token mf_dev_…",
    "faucet payouts request --amount 25.00 --developer dev@acme.example",
)
def request_payout(
    at: Remote,
    amount: Annotated[
        str | None, typer.Option("--amount", metavar="USD", help="Whole cents; all that is old enough unless said.")
    ] = None,
    developer: Annotated[
        str | None, typer.Option("--developer", metavar="DEVELOPER", help="Whose; an id or an e-mail address.")
    ] = None,
    key: KeyOption = None,
) -> None:
    """Ask for earnings to be paid out, as a developer or for one."""
    body: dict[str, Any] = {} if amount is None else {"amount_usd": amount}
    if developer is not None:
        body["developer_id"] = at.developer_id(developer)
    at.show(at.post("v1", "developer", "payouts", body=body, key=key))


@over_api(payouts_app, "run", "faucet payouts run", "faucet payouts run --threshold 50")
def run_payouts(
    at: Remote,
    threshold: Annotated[
        str | None, typer.Option("--threshold", metavar="USD", help="The least that is paid out in this run.")
    ] = None,
    key: KeyOption = None,
) -> None:
    """Open a payout for everybody who has earned enough. Somebody else approves each."""
    body = {} if threshold is None else {"threshold_usd": threshold}
    rows = at.post(*PAYOUTS, "run", body=body, key=key)["items"]
    at.show_rows(rows, COLUMNS, none="Nobody has earned enough that is old enough.")


@over_api(
    payouts_app,
    "approve",
    "faucet payouts approve 0198a3c2-…",
    "faucet payouts approve 0198a3c2-… --note 'checked the books' --token …",
)
def approve_payout(
    at: Remote,
    payout: PayoutArgument,
    note: Annotated[str | None, typer.Option("--note", help="For other operators.")] = None,
    key: KeyOption = None,
) -> None:
    """Let a payout go. Not for who asked for it."""
    at.show(at.post(*PAYOUTS, payout, "approve", body={} if note is None else {"operator_note": note}, key=key))


@over_api(payouts_app, "mark-paid", "faucet payouts mark-paid 0198a3c2-… --reference 'SEPA 2026-11-27/4'")
def mark_paid(
    at: Remote,
    payout: PayoutArgument,
    reference: Annotated[str | None, typer.Option("--reference", help="The bank's own word for it.")] = None,
    key: KeyOption = None,
) -> None:
    """Note that an approved payout was paid by hand."""
    body = {} if reference is None else {"provider_payout_id": reference}
    at.show(at.post(*PAYOUTS, payout, "mark-paid", body=body, key=key))


@over_api(payouts_app, "cancel", "faucet payouts cancel 0198a3c2-… --reason 'wrong month'")
def cancel_payout(at: Remote, payout: PayoutArgument, reason: ReasonOption = None, key: KeyOption = None) -> None:
    """Call a payout off that hasn't begun to leave."""
    at.show(at.post(*PAYOUTS, payout, "cancel", body={} if reason is None else {"reason": reason}, key=key))


@over_api(payouts_app, "fail", "faucet payouts fail 0198a3c2-… --reason 'the bank knows no such account'")
def fail_payout(
    at: Remote,
    payout: PayoutArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; the developer sees it.")],
    key: KeyOption = None,
) -> None:
    """Note that a payout could not be paid or came back; one that was sent is taken back first."""
    at.show(at.post(*PAYOUTS, payout, "fail", body={"reason": reason}, key=key))
