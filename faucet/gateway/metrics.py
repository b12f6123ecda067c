"""What the gateway counts, as plain integers on the hot path and as Prometheus text when asked.

Labels are bounded: route patterns, methods, statuses, provider names and kinds; never a user, key or model text
of a caller's choosing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SERVICE = "@modelfaucet/gateway"


class GatewayMetrics(Collector):
    """Counters of one gateway process."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str, int], int] = {}
        self.durations: dict[str, list[float]] = {}
        self.tokens: dict[str, int] = {"input": 0, "output": 0}
        self.provider_errors: dict[tuple[str, str], int] = {}
        self.refusals: dict[str, int] = {"insufficient_balance": 0, "budget_exceeded": 0}
        self.settled = 0
        self.released = 0
        self.write_offs = 0
        self.hang_ups = 0
        self.spooled: Callable[[], int] = lambda: 0
        self.open_holds: Callable[[], int] = lambda: 0
        self.lane: Callable[[], tuple[int, int]] = lambda: (0, 0)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one finished request."""
        key = (method, route, status)
        self.requests[key] = self.requests.get(key, 0) + 1
        row = self.durations.get(route)
        if row is None:
            row = self.durations[route] = [0.0] * (len(BOUNDS) + 2)
        row[bisect_left(BOUNDS, seconds)] += 1
        row[-1] += seconds

    def collect(self) -> Iterator[Metric]:
        """The counters in Prometheus' model."""
        requests = CounterMetricFamily(
            "modelfaucet_http_requests",
            "Requests by route and status.",
            labels=["service", "method", "route", "status"],
        )
        for (method, route, status), times in self.requests.items():
            requests.add_metric([SERVICE, method, route, str(status)], times)
        yield requests
        durations = HistogramMetricFamily(
            "modelfaucet_http_request_duration_seconds", "Time to the last byte.", labels=["service", "route"]
        )
        for route, row in self.durations.items():
            total = 0.0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip([*map(str, BOUNDS), "+Inf"], row, strict=False):
                total += count
                buckets.append((bound, total))
            durations.add_metric([SERVICE, route], buckets, row[-1])
        yield durations
        yield _counter("tokens", "Tokens of settled answers.", "kind", self.tokens)
        errors = CounterMetricFamily(
            "modelfaucet_provider_errors", "Failed tries of providers.", labels=["provider", "kind"]
        )
        for (provider, kind), times in self.provider_errors.items():
            errors.add_metric([provider, kind], times)
        yield errors
        yield _counter("wallet_refusals", "Requests refused for money.", "code", self.refusals)
        yield _counter(
            "ledger_writes",
            "Holds ended, by how.",
            "kind",
            {"settled": self.settled, "released": self.released},
        )
        yield CounterMetricFamily(
            "modelfaucet_settlements_above_hold", "Answers rated above their hold.", value=self.write_offs
        )
        yield CounterMetricFamily("modelfaucet_client_hang_ups", "Clients that left early.", value=self.hang_ups)
        groups, items = self.lane()
        yield CounterMetricFamily("modelfaucet_ledger_groups", "Group commits.", value=groups)
        yield CounterMetricFamily("modelfaucet_ledger_items", "Items in group commits.", value=items)
        yield GaugeMetricFamily("modelfaucet_holds_open", "Holds in flight here.", value=self.open_holds())
        yield GaugeMetricFamily("modelfaucet_spool_size", "Settlements waiting on disk.", value=self.spooled())

    def text(self) -> bytes:
        """The exposition format."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)


def _counter(name: str, text: str, label: str, values: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"modelfaucet_{name}", text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


METRICS = GatewayMetrics()
