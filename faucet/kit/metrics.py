"""What a process counts, shown as Prometheus text. Counting is an addition in a dict: cheap enough anywhere.

Here: counters, gauges and histograms with bounded labels, and the series that every door has. Labels are
route patterns, methods, statuses, codes and names of our own choosing, never a caller's text; should a series
still grow without end, further label sets are counted as `other`. Not here: what only one door counts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

LABEL_SETS_MAX = 1_000
SECONDS_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[str, ...]


class _Series:
    """What counters, gauges and histograms share: a name, a text, the names of labels."""

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        self.name = name
        self.text = text
        self.labels = labels
        self._other = ("other",) * len(labels)


class Counter(_Series):
    """A number that only grows."""

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        super().__init__(name, text, labels)
        self.values: dict[Labels, int] = {}

    def add(self, labels: Labels = (), count: int = 1) -> None:
        """Count `count` more of these labels, given in the order of their names."""
        values = self.values
        if labels not in values and len(values) >= LABEL_SETS_MAX:
            labels = self._other
        values[labels] = values.get(labels, 0) + count

    def family(self) -> Metric:
        family = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for labels, value in list(self.values.items()):
            family.add_metric(labels, value)
        return family


class Gauge(_Series):
    """A number that rises and falls: set it, or give it a function that is asked at each scrape."""

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        super().__init__(name, text, labels)
        self.values: dict[Labels, int | Callable[[], int]] = {}

    def set(self, value: int | Callable[[], int], labels: Labels = ()) -> None:
        """The value of these labels from now on."""
        if labels not in self.values and len(self.values) >= LABEL_SETS_MAX:
            labels = self._other
        self.values[labels] = value

    def family(self) -> Metric:
        family = GaugeMetricFamily(self.name, self.text, labels=self.labels)
        for labels, value in list(self.values.items()):
            family.add_metric(labels, value() if callable(value) else value)
        return family


class Histogram(_Series):
    """How a measure is spread over fixed bounds."""

    def __init__(
        self, name: str, text: str, labels: Labels = (), *, bounds: tuple[float, ...] = SECONDS_BOUNDS
    ) -> None:
        super().__init__(name, text, labels)
        self.bounds = bounds
        self._rows: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def observe(self, measure: float, labels: Labels = ()) -> None:
        """Count one measure."""
        row = self._rows.get(labels)
        if row is None:
            if len(self._rows) >= LABEL_SETS_MAX:
                labels = self._other
            row = self._rows.setdefault(labels, [0] * (len(self.bounds) + 1))
        row[bisect_left(self.bounds, measure)] += 1
        self._sums[labels] = self._sums.get(labels, 0.0) + measure

    def family(self) -> Metric:
        family = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        names = [*map(str, self.bounds), "+Inf"]
        for labels, row in list(self._rows.items()):
            total = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip(names, row, strict=True):
                total += count
                buckets.append((bound, total))
            family.add_metric(labels, buckets, self._sums[labels])
        return family


_S = TypeVar("_S", Counter, Gauge, Histogram)


class Metrics(Collector):
    """The series of one process. A door adds its own with `also`."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.http_requests = Counter(
            "modelfaucet_http_requests",
            "Requests by route pattern and status.",
            ("service", "method", "route", "status"),
        )
        self.http_seconds = Histogram(
            "modelfaucet_http_request_duration_seconds", "To the last byte.", ("service", "route")
        )
        self.ledger_writes = Counter("modelfaucet_ledger_writes", "What the ledger was told, by kind.", ("kind",))
        self._series: list[Counter | Gauge | Histogram] = [
            self.http_requests,
            self.http_seconds,
            self.ledger_writes,
        ]
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def also(self, series: _S) -> _S:
        """Show this series too."""
        self._series.append(series)
        return series

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one finished request."""
        self.http_requests.add((self.service, method, route, str(status)))
        self.http_seconds.observe(seconds, (self.service, route))

    def collect(self) -> Iterator[Metric]:
        for series in self._series:
            yield series.family()

    def render(self) -> bytes:
        """All series in Prometheus' text format."""
        return generate_latest(self.registry)
