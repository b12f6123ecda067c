"""Money as one integer, in units of 1e-8 USD, and its two text forms.

The unit is the wire's eight decimal places, so that every export adds up to the balances exactly. There is no
float anywhere near it; division happens only through the named rounding functions below.
"""

from __future__ import annotations

import re
from typing import NewType

E8 = NewType("E8", int)
"""An amount in units of 1e-8 USD."""

E8_PER_USD = 100_000_000
E8_MAX = 9_000_000_000_000_000_000
"""Below 2**63: amounts live in PostgreSQL `bigint` columns."""

_WIRE = re.compile(r"(0|[1-9][0-9]{0,10})(?:\.([0-9]{1,8}))?")


def to_wire(e8: int) -> str:
    """The decimal string with eight places that the wire shows, such as `9.99987000`."""
    sign = "-" if e8 < 0 else ""
    whole, part = divmod(abs(e8), E8_PER_USD)
    return f"{sign}{whole}.{part:08d}"


def to_wire_bytes(e8: int) -> bytes:
    """`to_wire` as ASCII bytes."""
    if e8 < 0:
        return to_wire(e8).encode()
    return b"%d.%08d" % divmod(e8, E8_PER_USD)


def from_wire(text: str) -> E8:
    """Parse a non-negative decimal string of at most eight places. Raises ValueError on anything else."""
    match = _WIRE.fullmatch(text)
    if match is None:
        raise ValueError("an amount is a decimal string with at most 8 places, such as 10.00")
    return E8(int(match[1]) * E8_PER_USD + int((match[2] or "").ljust(8, "0")))


def div_half_even(numerator: int, denominator: int) -> int:
    """Exact integer division, rounded half to even. The denominator is positive."""
    quotient, remainder = divmod(numerator, denominator)
    doubled = 2 * remainder
    if doubled > denominator or (doubled == denominator and quotient & 1):
        quotient += 1
    return quotient


def div_ceil(numerator: int, denominator: int) -> int:
    """Exact integer division, rounded up. The denominator is positive."""
    return -(-numerator // denominator)


def bps(amount: int, basis_points: int) -> int:
    """`amount * basis_points / 10000`, rounded down."""
    return amount * basis_points // 10_000
