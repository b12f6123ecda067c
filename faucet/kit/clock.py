"""The only place that knows what time it is, so that tests and simulations can own time.

Wall-clock time is timezone-aware UTC. Deadlines inside one process use the event loop's monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class Clock:
    """Real time."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class ManualClock(Clock):
    """Time that moves only when told to; for tests and the simulation."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


Now = Callable[[], datetime]


def to_iso(moment: datetime) -> str:
    """ISO-8601 in UTC with milliseconds and `Z`, as the wire shows time."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
