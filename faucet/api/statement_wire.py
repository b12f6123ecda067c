"""The shapes of months and statements on the wire."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints

from faucet.api.wire import Moment, Reply
from faucet.closing.document import key_id
from faucet.closing.month import month_of, parse_month
from faucet.closing.periods import Period
from faucet.closing.statements import Kept


def _month(text: str) -> str:
    return str(parse_month(text))


MonthText = Annotated[
    str,
    StringConstraints(pattern=r"^2[0-9]{3}-(0[1-9]|1[0-2])$"),
    AfterValidator(_month),
    Field(examples=["2026-10"]),
]


class PeriodItem(Reply):
    period: MonthText
    status: Literal["closing", "closed"]
    asked_by: str
    asked_at: Moment
    closed_at: Moment | None = None
    statements: int


class PeriodList(Reply):
    items: list[PeriodItem]
    next_cursor: str | None = None
    next_period: MonthText | None = None
    """The month that can be asked for next, whether or not it is over."""


class StatementItem(Reply):
    """A signed statement: its text as JSON, with the hash and the signature of that text."""

    period: MonthText
    kind: Literal["developer", "end_user"]
    developer_id: UUID
    statement: dict[str, Any]
    sha256: str
    signature: str
    key_id: str
    public_key: str
    created_at: Moment


class StatementKey(Reply):
    key_id: str
    public_key: str
    created_at: Moment


class StatementKeys(Reply):
    algorithm: Literal["Ed25519"] = "Ed25519"
    items: list[StatementKey]


def period_item(period: Period) -> PeriodItem:
    """The wire's view of a month."""
    return PeriodItem(
        period=str(month_of(period.month)),
        status="closing" if period.closed_at is None else "closed",
        asked_by=period.asked_by,
        asked_at=period.asked_at,
        closed_at=period.closed_at,
        statements=period.statements,
    )


def statement_item(kept: Kept) -> StatementItem:
    """The wire's view of a statement in a list; the file itself has its own route."""
    signed = kept.signed
    return StatementItem(
        period=str(month_of(kept.month)),
        kind="developer" if kept.end_user_id is None else "end_user",
        developer_id=kept.developer_id,
        statement=signed.says,
        sha256=signed.hash.hex(),
        signature=signed.signature.hex(),
        key_id=key_id(signed.public_key),
        public_key=signed.public_key.hex(),
        created_at=kept.created_at,
    )
