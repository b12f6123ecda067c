"""What models on end users' own machines answered: usage events that move no money, as a bridge reports them.

Nobody but the end user can vouch for a report, so it is marked as theirs and never charged. A report's id makes sending
it again harmless. Not here: what a bridge is, and who may report.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import LiteralString
from uuid import UUID

from faucet.kit.db import Tx
from faucet.kit.errors import InvariantBroken
from faucet.kit.ids import uuid7


class Noted(Enum):
    """What became of a report."""

    NOW = "noted"
    BEFORE = "known"
    OTHERWISE = "conflict"
    """Its id was used for another report; the first stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalReport:
    """One answer that a model on the end user's machine gave."""

    request_id: str
    feature_id: UUID | None
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    duration_ms: int
    happened_at: datetime

    @property
    def fingerprint(self) -> bytes:
        """What must be the same in a repeat."""
        said = (self.feature_id, self.provider, self.model, self.input_tokens, self.output_tokens, self.duration_ms)
        return hashlib.sha256(repr((*said, self.happened_at.isoformat())).encode()).digest()


_NOTE: LiteralString = """
select local_usage_v1(%s, %s::uuid[], %s::text[], %s::bytea[], %s::uuid[], %s::text[], %s::text[], %s::int[], %s::int[],
                      %s::int[], %s::timestamptz[])
"""
_BY_STATUS = {0: Noted.NOW, 4: Noted.BEFORE, 5: Noted.OTHERWISE}


async def note(tx: Tx, session_id: UUID, reports: Sequence[LocalReport]) -> list[Noted]:
    """Note reports of a session's end user, and say what became of each, in order."""
    cursor = await tx.execute(
        _NOTE,
        (
            session_id,
            [uuid7() for _ in reports],
            [report.request_id for report in reports],
            [report.fingerprint for report in reports],
            [report.feature_id for report in reports],
            [report.provider for report in reports],
            [report.model for report in reports],
            [report.input_tokens for report in reports],
            [report.output_tokens for report in reports],
            [report.duration_ms for report in reports],
            [report.happened_at for report in reports],
        ),
    )
    row = await cursor.fetchone()
    if row is None or len(row[0]) != len(reports):
        raise InvariantBroken("local_usage_v1 did not answer for every report")
    return [_BY_STATUS[status] for status in row[0]]
