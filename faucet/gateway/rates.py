"""How often a feature may be asked: its manifest's limits of requests per minute, counted in this process."""

from __future__ import annotations

import math
import time
from uuid import UUID

from faucet.gateway.admit import Caller, Feature
from faucet.kit.errors import Refusal
from faucet.limits.bucket import Bucket

WINDOW_SECONDS = 60.0
FEATURES_MAX = 10_000


class FeatureRates:
    """The counts of every feature that has limits."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[UUID, str], Bucket] = {}

    def count(self, caller: Caller, feature: Feature) -> None:
        """Count a request of the feature. Raises Refusal `rate_limited`."""
        limits = feature.parts.limits
        if limits.end_user_per_minute is not None:
            self._take(feature, "end user", limits.end_user_per_minute, caller.end_user_id)
        if limits.session_per_minute is not None:
            self._take(feature, "session", limits.session_per_minute, caller.session_id)

    def _take(self, feature: Feature, scope: str, most: int, who: UUID) -> None:
        bucket = self._buckets.get((feature.id, scope))
        if bucket is None or bucket.max_requests != most:
            if len(self._buckets) >= FEATURES_MAX:
                self._buckets.clear()
            bucket = self._buckets[(feature.id, scope)] = Bucket(most, WINDOW_SECONDS)
        verdict = bucket.take(who.bytes, time.monotonic())
        if not verdict.allowed:
            raise Refusal(
                "rate_limited",
                f"this feature answers at most {most} requests a minute for one {scope}; slow down",
                retry_after_seconds=max(1, math.ceil(verdict.retry_after_seconds)),
            )
