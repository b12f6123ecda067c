"""The chart of accounts and the list of moves, as data: what the table `move` and the constraints of `account` say.

Read it to know which kinds of account there are, whose they are and between which of them a transfer may go. A
test proves that it equals the database. Not here: moving anything (`moves`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Kind(StrEnum):
    """The kinds of account."""

    WALLET = "wallet"
    EARNINGS = "earnings"
    PAYOUT_CLEARING = "payout_clearing"
    PROVIDER_COST = "provider_cost"
    PLATFORM_REVENUE = "platform_revenue"
    STRIPE_CLEARING = "stripe_clearing"
    BANK = "bank"
    GRANTS = "grants"
    ADJUSTMENTS = "adjustments"
    PROCESSOR_FEES = "processor_fees"
    WRITE_OFF = "write_off"


class Owner(StrEnum):
    """Whose an account is."""

    END_USER = "end_user"
    DEVELOPER = "developer"
    DEVELOPER_AND_PROVIDER = "developer_and_provider"
    PLATFORM = "platform"


@dataclass(frozen=True, slots=True)
class Line:
    """One kind of account: its owner, and whether its balance may be below zero."""

    kind: Kind
    owner: Owner
    may_be_negative: bool


CHART = (
    Line(Kind.WALLET, Owner.END_USER, False),  # holds included
    Line(Kind.EARNINGS, Owner.DEVELOPER, False),
    Line(Kind.PAYOUT_CLEARING, Owner.DEVELOPER, False),
    Line(Kind.PROVIDER_COST, Owner.DEVELOPER_AND_PROVIDER, True),  # an invoice may be paid before it is earned
    Line(Kind.PLATFORM_REVENUE, Owner.DEVELOPER, True),
    Line(Kind.STRIPE_CLEARING, Owner.PLATFORM, True),
    Line(Kind.BANK, Owner.PLATFORM, True),
    Line(Kind.GRANTS, Owner.PLATFORM, True),
    Line(Kind.ADJUSTMENTS, Owner.PLATFORM, True),
    Line(Kind.PROCESSOR_FEES, Owner.PLATFORM, True),
    Line(Kind.WRITE_OFF, Owner.PLATFORM, True),
)


class Code(IntEnum):
    """A transfer's code: the move that it is part of. Below 10 only the settlement of a request books."""

    SETTLE_COST = 1
    SETTLE_CHANNEL = 2
    SETTLE_PLATFORM = 3
    WRITE_OFF_COST = 4
    WRITE_OFF_CHANNEL = 5
    WRITE_OFF_PLATFORM = 6
    TOP_UP = 10
    PROCESSOR_FEE = 11
    GRANT = 12
    GRANT_RETURN = 13
    REFUND = 20
    REFUND_WRITE_OFF = 21
    CHARGE_BACK = 22
    CHARGE_BACK_WRITE_OFF = 23
    CHARGE_BACK_RETURNED = 24
    REFUND_RETURNED = 25
    ADJUST_CREDIT = 30
    ADJUST_DEBIT = 31
    ADJUST_WRITE_OFF = 32
    PAYOUT_OPEN = 40
    PAYOUT_PAID = 41
    PAYOUT_FAILED = 42
    PAYOUT_RETURNED = 43
    COLLECT = 50
    PAY_PROVIDER = 51
    COLLECT_RETURNED = 52


@dataclass(frozen=True, slots=True)
class Move:
    """One permitted direction of a transfer."""

    code: Code
    debit: Kind
    credit: Kind

    @property
    def name(self) -> str:
        return self.code.name.lower()


MOVES = (
    Move(Code.SETTLE_COST, Kind.WALLET, Kind.PROVIDER_COST),
    Move(Code.SETTLE_COST, Kind.WALLET, Kind.EARNINGS),  # the developer's own key paid the provider
    Move(Code.SETTLE_CHANNEL, Kind.WALLET, Kind.EARNINGS),
    Move(Code.SETTLE_PLATFORM, Kind.WALLET, Kind.PLATFORM_REVENUE),
    Move(Code.WRITE_OFF_COST, Kind.WRITE_OFF, Kind.PROVIDER_COST),
    Move(Code.WRITE_OFF_COST, Kind.WRITE_OFF, Kind.EARNINGS),
    Move(Code.WRITE_OFF_CHANNEL, Kind.WRITE_OFF, Kind.EARNINGS),
    Move(Code.WRITE_OFF_PLATFORM, Kind.WRITE_OFF, Kind.PLATFORM_REVENUE),
    Move(Code.TOP_UP, Kind.STRIPE_CLEARING, Kind.WALLET),
    Move(Code.PROCESSOR_FEE, Kind.PROCESSOR_FEES, Kind.STRIPE_CLEARING),
    Move(Code.GRANT, Kind.GRANTS, Kind.WALLET),
    Move(Code.GRANT_RETURN, Kind.WALLET, Kind.GRANTS),
    Move(Code.REFUND, Kind.WALLET, Kind.STRIPE_CLEARING),
    Move(Code.REFUND_WRITE_OFF, Kind.WRITE_OFF, Kind.STRIPE_CLEARING),
    Move(Code.CHARGE_BACK, Kind.WALLET, Kind.STRIPE_CLEARING),
    Move(Code.CHARGE_BACK_WRITE_OFF, Kind.WRITE_OFF, Kind.STRIPE_CLEARING),
    Move(Code.CHARGE_BACK_RETURNED, Kind.STRIPE_CLEARING, Kind.WALLET),
    Move(Code.CHARGE_BACK_RETURNED, Kind.STRIPE_CLEARING, Kind.WRITE_OFF),  # what had been written off, first
    Move(Code.REFUND_RETURNED, Kind.STRIPE_CLEARING, Kind.WALLET),
    Move(Code.REFUND_RETURNED, Kind.STRIPE_CLEARING, Kind.WRITE_OFF),
    Move(Code.ADJUST_CREDIT, Kind.ADJUSTMENTS, Kind.WALLET),
    Move(Code.ADJUST_CREDIT, Kind.ADJUSTMENTS, Kind.EARNINGS),
    Move(Code.ADJUST_DEBIT, Kind.WALLET, Kind.ADJUSTMENTS),
    Move(Code.ADJUST_DEBIT, Kind.EARNINGS, Kind.ADJUSTMENTS),
    Move(Code.ADJUST_WRITE_OFF, Kind.WRITE_OFF, Kind.ADJUSTMENTS),  # what a refund by hand found missing
    Move(Code.PAYOUT_OPEN, Kind.EARNINGS, Kind.PAYOUT_CLEARING),
    Move(Code.PAYOUT_PAID, Kind.PAYOUT_CLEARING, Kind.STRIPE_CLEARING),
    Move(Code.PAYOUT_PAID, Kind.PAYOUT_CLEARING, Kind.BANK),  # by hand
    Move(Code.PAYOUT_FAILED, Kind.PAYOUT_CLEARING, Kind.EARNINGS),
    Move(Code.PAYOUT_RETURNED, Kind.STRIPE_CLEARING, Kind.EARNINGS),
    Move(Code.PAYOUT_RETURNED, Kind.BANK, Kind.EARNINGS),
    Move(Code.COLLECT, Kind.BANK, Kind.STRIPE_CLEARING),
    Move(Code.PAY_PROVIDER, Kind.PROVIDER_COST, Kind.BANK),
    Move(Code.COLLECT_RETURNED, Kind.STRIPE_CLEARING, Kind.BANK),
)
