"""A calendar month in UTC, as `2026-10`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime

_TEXT = re.compile(r"(2[0-9]{3})-(0[1-9]|1[0-2])")


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """One month."""

    year: int
    number: int

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.number:02d}"

    @property
    def first_day(self) -> date:
        return date(self.year, self.number, 1)

    @property
    def starts_at(self) -> datetime:
        return datetime(self.year, self.number, 1, tzinfo=UTC)

    @property
    def ends_at(self) -> datetime:
        """The first moment that is no longer in it."""
        return self.next.starts_at

    @property
    def next(self) -> Month:
        return Month(self.year + self.number // 12, self.number % 12 + 1)


def month_of(moment: date) -> Month:
    """The month of a day, or of a moment in UTC."""
    return Month(moment.year, moment.month)


def parse_month(text: str) -> Month:
    """The month that a text such as `2026-10` names. Raises ValueError."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError("a month is written such as 2026-10")
    return Month(int(match[1]), int(match[2]))
