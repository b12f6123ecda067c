"""What a check of the books gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference: which check found it, where, and both figures (in e8, or seconds for a lease)."""

    check: str
    subject: str
    expected: int
    actual: int
