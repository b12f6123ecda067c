"""A rate limit per key, in this process: the generic cell rate algorithm (ITU-T I.371, virtual scheduling).

A key may send `burst` requests at once and then one per emission interval. State is one number per key.
"""

from __future__ import annotations

import msgspec

KEYS_MAX = 100_000


class Verdict(msgspec.Struct, frozen=True):
    """Whether a request may pass, how many more may follow at once, and when."""

    allowed: bool
    remaining: int
    retry_after_seconds: float
    reset_seconds: float


class Bucket:
    """Limits of `max_requests` per `window_seconds` for each key. Times are monotonic seconds."""

    def __init__(self, max_requests: int, window_seconds: float) -> None:
        if max_requests < 1 or window_seconds <= 0:
            raise ValueError("a limit allows at least one request in a positive window")
        self.max_requests = max_requests
        self._interval = window_seconds / max_requests
        self._tolerance = window_seconds - self._interval
        self._due: dict[bytes, float] = {}

    def take(self, key: bytes, now: float) -> Verdict:
        """Count one request against `key`, or say when it may come again."""
        due = self._due.get(key, now)
        if due < now:
            due = now
        wait = due - now - self._tolerance
        if wait > 1e-9:
            return Verdict(False, 0, wait, due - now)
        due += self._interval
        if len(self._due) >= KEYS_MAX and key not in self._due:
            self._forget(now)
        self._due[key] = due
        busy = due - now
        remaining = int((self._tolerance + self._interval - busy) / self._interval + 1e-9)
        return Verdict(True, remaining if remaining > 0 else 0, 0.0, busy)

    def is_spent(self, key: bytes, now: float) -> bool:
        """Whether a request would be refused now; counts nothing."""
        return self._due.get(key, now) - now - self._tolerance > 1e-9

    def _forget(self, now: float) -> None:
        """Drop the keys whose limit is full again, which is the same as never having seen them."""
        self._due = {key: due for key, due in self._due.items() if due > now}
        if len(self._due) >= KEYS_MAX:
            self._due.clear()
