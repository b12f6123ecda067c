"""Compare the books with each other, now and then; a difference is an alarm."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

from faucet.kit.db import Tx
from faucet.kit.log import logger
from faucet.payments.listed import balance_cents, listed_transfers
from faucet.payments.processor import ProcessorRefused, ProcessorUnsure, StripeLine
from faucet.reports.finding import Finding
from faucet.reports.reconciliation import TOLERANCE_BPS, begin_snapshot, reconcile
from faucet.reports.reconciliation_processor import CENT_E8, Listed, clearing_e8, transfer_findings

LOGGED_MAX = 20
MARGIN = timedelta(hours=1)
"""So long a transfer may be under way, and so far may Stripe's clock be from ours."""
LOOKS, LOOK_AGAIN_SECONDS = 3, 20
"""How often, and how far apart, the balance at Stripe is looked at before a difference is one."""


async def reconcile_books(
    connection: Tx, *, since: datetime | None = None, tolerance_bps: int = TOLERANCE_BPS
) -> list[Finding]:
    """Every difference, each logged as an alarm, on a connection without an open tx.

    With `since`, answers before it are taken as compared already.
    """
    async with connection.transaction():
        await begin_snapshot(connection)
        findings = await reconcile(connection, since=since, tolerance_bps=tolerance_bps)
    _log(findings)
    return findings


async def reconcile_stripe(connection: Tx, line: StripeLine, *, since: datetime, now: datetime) -> list[Finding]:
    """Every difference between payouts that were sent since then and what Stripe itself lists, each logged as an alarm.

    Where Stripe doesn't answer there is nothing to compare, which is logged too. On a connection without an open tx.
    """
    try:
        found = await listed_transfers(line, since=since - MARGIN, until=now + MARGIN)
    except (ProcessorUnsure, ProcessorRefused) as error:
        logger.warning("books.stripe_not_compared", error=str(error))
        return []
    listed = [Listed(each.id, each.payout, each.amount_cents, each.is_reversed) for each in found]
    async with connection.transaction():
        findings = await transfer_findings(connection, listed, since=since, until=now - MARGIN)
    _log(findings)
    return findings


async def reconcile_balance(
    connection: Tx, line: StripeLine, *, foreign_e8: int, pause_seconds: float = LOOK_AGAIN_SECONDS
) -> list[Finding]:
    """Whether what the ledger has at Stripe, with what is there and not from here, is Stripe's own balance.

    Looked at several times: what differs by one amount each time is a difference, what changes is under way. Where
    Stripe doesn't answer there is nothing to compare, which is logged. On a connection without an open tx.
    """
    finding: Finding | None = None
    for look in range(LOOKS):
        if look:
            await asyncio.sleep(pause_seconds)
        try:
            there = await balance_cents(line) * CENT_E8
        except (ProcessorUnsure, ProcessorRefused) as error:
            logger.warning("books.stripe_not_compared", error=str(error))
            return []
        async with connection.transaction():
            here = await clearing_e8(connection) + foreign_e8
        if there == here or (finding is not None and finding.expected - finding.actual != there - here):
            return []
        finding = Finding("stripe_balance", "the balance at Stripe", there, here)
    findings = [] if finding is None else [finding]
    _log(findings)
    return findings


def _log(findings: Sequence[Finding]) -> None:
    for finding in findings[:LOGGED_MAX]:
        logger.error(
            "books.differ",
            check=finding.check,
            subject=finding.subject,
            expected=finding.expected,
            actual=finding.actual,
        )
    if findings:
        logger.error("books.do_not_add_up", findings=len(findings))
