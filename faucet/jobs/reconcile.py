"""Compare the books with each other, now and then; a difference is an alarm."""

from __future__ import annotations

from datetime import datetime

from faucet.kit.db import Tx
from faucet.kit.log import logger
from faucet.reports.finding import Finding
from faucet.reports.reconciliation import TOLERANCE_BPS, begin_snapshot, reconcile

LOGGED_MAX = 20


async def reconcile_books(
    connection: Tx, *, since: datetime | None = None, tolerance_bps: int = TOLERANCE_BPS
) -> list[Finding]:
    """Every difference, each logged as an alarm, on a connection without an open tx.

    With `since`, answers before it are taken as compared already.
    """
    async with connection.transaction():
        await begin_snapshot(connection)
        findings = await reconcile(connection, since=since, tolerance_bps=tolerance_bps)
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
    return findings
