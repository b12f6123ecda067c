"""What binds a statement to the usage export of its month: for each day the sums, a hash, and what finds a fault.

A day's `sha256` is over its lines of the export. Two sums over the lines' own hashes, one plain and one weighted by
position, tell which line it is when one was changed, is missing or was added; the hash alone only tells that the day
is another. Pure; lines are those of `reports/exports.py`.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from faucet.closing.document import NotProved
from faucet.closing.month import Month
from faucet.kit.money import from_wire, to_wire

Json = dict[str, Any]
HEADER = (
    "created_at,request_id,public_app_id,feature_key,route_mode,provider,model,input_tokens,output_tokens,"
    "upstream_cost_usd,retail_price_usd,channel_revenue_usd,platform_revenue_usd"
)
_PRIME = (1 << 127) - 1
_COLUMNS = HEADER.split(",")
_MODE, _COST, _CHANNEL = (_COLUMNS.index(n) for n in ("route_mode", "upstream_cost_usd", "channel_revenue_usd"))


class UsageDiffers(NotProved):
    """A usage export that is not the one that a statement is about; `faults` says where."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(slots=True)
class Day:
    """One day's lines, added up."""

    count: int = 0
    earned_e8: int = 0
    plain: int = 0
    weighted: int = 0
    _hash: Any = field(default_factory=hashlib.sha256)

    def add(self, line: bytes, earned_e8: int) -> int:
        """Take the next line, its end included; gives the number that it counts as."""
        self.count += 1
        self.earned_e8 += earned_e8
        self._hash.update(line)
        number = _number(line)
        self.plain = (self.plain + number) % _PRIME
        self.weighted = (self.weighted + self.count * number) % _PRIME
        return number

    def as_json(self, day: str) -> Json:
        """The day as a statement shows it."""
        return {
            "day": day,
            "calls": self.count,
            "earned_usd": to_wire(self.earned_e8),
            "sha256": self._hash.hexdigest(),
            "line_sums": [f"{self.plain:032x}", f"{self.weighted:032x}"],
        }


def earned_of(route_mode: str, cost_e8: int, channel_e8: int) -> int:
    """What an answer brings its developer: the share, and the cost where the developer's own key paid it."""
    return channel_e8 + (cost_e8 if route_mode == "developer_key" else 0)


def _number(line: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(line, digest_size=15).digest(), "big")


@dataclass(frozen=True, slots=True)
class _Line:
    """Where a line stands in the file, and what it counts as."""

    position: int
    number: int


def check_usage(days: list[Json], month: Month, lines: Iterable[str]) -> int:
    """Compare a usage export with a statement's days; gives how many lines there were.

    Raises UsageDiffers with every line or day that is not as it was.
    """
    faults: list[str] = []
    found: dict[str, Day] = {}
    placed: dict[str, list[_Line]] = {}
    count = 0
    for position, line, cells in _read(lines, faults):
        count += 1
        day = cells[0][:10]
        if not day.startswith(f"{month}-"):
            faults.append(f"line {position} is of {day}, which is not in {month}")
            continue
        try:
            earned = earned_of(cells[_MODE], from_wire(cells[_COST]), from_wire(cells[_CHANNEL]))
        except ValueError:
            faults.append(f"line {position} has no amounts")
            earned = 0
        added = found.setdefault(day, Day())
        placed.setdefault(day, []).append(_Line(position, added.add(line.encode(), earned)))
    said = {each["day"]: each for each in days}
    for day in sorted(found.keys() | said.keys()):
        shown = found.get(day, Day())
        if day not in said:
            faults.append(f"{_lines(placed[day])} of {day}, a day without usage in the statement")
        elif shown.as_json(day) != said[day]:
            faults.append(_fault(day, said[day], shown, placed.get(day, [])))
    if faults:
        raise UsageDiffers(faults)
    return count


def _read(lines: Iterable[str], faults: list[str]) -> Iterator[tuple[int, str, list[str]]]:
    """The export's lines with their positions, the head being line 1."""
    for position, line in enumerate(lines, start=1):
        if position == 1:
            if line.rstrip("\r\n") != HEADER:
                raise UsageDiffers(["line 1 is not the head of a usage export"])
            continue
        try:
            cells = next(csv.reader([line.rstrip("\r\n")]), [])
        except csv.Error as error:
            faults.append(f"line {position} can't be read: {error}")
            continue
        if len(cells) != len(_COLUMNS):
            faults.append(f"line {position} has {len(cells)} columns, and a usage export has {len(_COLUMNS)}")
            continue
        yield position, line, cells


def _lines(placed: list[_Line]) -> str:
    first, last = placed[0].position, placed[-1].position
    return f"line {first} is" if first == last else f"lines {first} to {last} are"


def _fault(day: str, said: Json, shown: Day, placed: list[_Line]) -> str:
    """What is wrong with a day, as exactly as can be told."""
    plain, weighted = (int(each, 16) for each in said["line_sums"])
    missing = said["calls"] - shown.count
    by_plain, by_weighted = (shown.plain - plain) % _PRIME, (shown.weighted - weighted) % _PRIME
    if missing == 0 and by_plain:
        at = by_weighted * pow(by_plain, -1, _PRIME) % _PRIME
        if 1 <= at <= len(placed):
            return f"line {placed[at - 1].position} ({day}) was changed"
    if missing == 0 and not by_plain and by_weighted:
        return f"the lines of {day} are in another order"
    if missing == -1:
        extra = [line for line in placed if line.number == by_plain]
        if extra:
            return f"line {extra[-1].position} ({day}) is not in the statement"
    if missing == 1:
        before = _gap(plain, weighted, shown, placed)
        if before is not None:
            return f"a line of {day} is missing: {before}"
    return (
        f"{day} differs: {shown.count} lines that earned {to_wire(shown.earned_e8)}, where the statement has"
        f" {said['calls']} that earned {said['earned_usd']}"
    )


def _gap(plain: int, weighted: int, shown: Day, placed: list[_Line]) -> str | None:
    """Where one line is missing: with it there, and those behind it one further, the sums are the statement's."""
    number = (plain - shown.plain) % _PRIME
    behind = shown.plain
    for at in range(len(placed) + 1):
        if (shown.weighted + behind + (at + 1) * number - weighted) % _PRIME == 0:
            return f"it comes after line {placed[at - 1].position}" if at else f"it comes before {_first(placed)}"
        if at < len(placed):
            behind -= placed[at].number
    return None


def _first(placed: list[_Line]) -> str:
    return f"line {placed[0].position}" if placed else "all others"
