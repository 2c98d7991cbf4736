"""Metrics for Prometheus. No label holds an account, an API key, a path or other client input.

The request path adds to plain integers and lists, at a fifth of the cost of the client library's
locked children. One collector makes metric families of them at each scrape.
"""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
_BATCH: Final = 256  # spans that are sorted into buckets at once
REQUEST_LABELS: Final = ("route", "class", "plan", "outcome")
INTERNAL_ERROR: Final = "internal-error"  # the outcome of requests that the sidecar failed
ReadAll = Callable[[], dict[tuple[str, ...], float]]  # numbers by label values


class Histogram:
    """A histogram of spans in seconds, with BUCKETS; not thread-safe.

    Spans are sorted and counted in batches, in a third of the time.
    """

    __slots__ = ("_counts", "_exemplars", "_new", "_total")

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS) + 1)
        self._total = 0.0
        self._new: list[float] = []  # not counted yet
        self._exemplars: dict[int, tuple[float, str, float]] = {}  # by bucket: the last one

    def observe(self, seconds: float) -> None:
        """Add one span."""
        self._new.append(seconds)
        if len(self._new) == _BATCH:
            self._count()

    def attach(self, seconds: float, trace_id: str) -> None:
        """Make a traced span the example of its bucket: OpenMetrics' exemplar."""
        self._exemplars[bisect_left(BUCKETS, seconds)] = (seconds, trace_id, time.time())

    def _count(self) -> None:
        new = self._new
        new.sort()
        self._total += sum(new)
        before = 0
        for at, bound in enumerate(BUCKETS):
            up_to = bisect_right(new, bound, before)
            self._counts[at] += up_to - before
            before = up_to
        self._counts[-1] += len(new) - before
        new.clear()

    @property
    def total(self) -> float:
        """The sum of all spans, in seconds."""
        self._count()
        return self._total

    def cumulative(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, the last one `+Inf`."""
        self._count()
        rows: list[tuple[str, float]] = []
        running = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self._counts, strict=True):
            running += count
            rows.append((bound, running))
        return rows

    def buckets(self) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
        """The cumulative counts, with the exemplars of buckets that are not empty."""
        rows: list[tuple[str, float] | tuple[str, float, Exemplar]] = [*self.cumulative()]
        for at, (seconds, trace_id, unix_time) in self._exemplars.items():
            if self._counts[at]:
                bound, count = rows[at][:2]
                rows[at] = (bound, count, Exemplar({"trace_id": trace_id}, seconds, unix_time))
        return rows


class Metrics(Collector):
    """All metrics of the process; the control port serves `registry`."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str, str, str], int] = {}
        self.shadowed: dict[tuple[str, ...], float] = {}
        self.costs_capped: dict[tuple[str, ...], float] = {}
        self.costs_estimated: dict[tuple[str, ...], float] = {}
        self.thresholds: dict[tuple[str, ...], float] = {}
        self.overage_units: dict[tuple[str, ...], float] = {}
        self.settled_units: dict[tuple[str, ...], float] = {}
        self.added = Histogram()
        self.upstream = Histogram()
        self.store = Histogram()
        self.waited = Histogram()
        self.commit = Histogram()
        self._gauges: list[tuple[str, str, Callable[[], float]]] = []
        self._counters: list[tuple[str, str, Callable[[], float]]] = []
        self._labelled: list[tuple[str, str, tuple[str, ...], ReadAll]] = []
        self._labelled_counters: list[tuple[str, str, tuple[str, ...], ReadAll]] = []
        self.labelled_counter(
            "sidecar_shadow_refusals",
            "Requests that a limit in shadow mode would have refused.",
            ("plan", "limit"),
            lambda: self.shadowed,
        )
        self.labelled_counter(
            "sidecar_settled_costs_capped",
            "Costs that the upstream reported above the most that one request settles.",
            ("meter",),
            lambda: self.costs_capped,
        )
        self.labelled_counter(
            "sidecar_settled_costs_estimated",
            "Costs that settled without being known, by the reason.",
            ("meter", "reason"),
            lambda: self.costs_estimated,
        )
        self._publish_usage()
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def _publish_usage(self) -> None:
        self.labelled_counter(
            "sidecar_thresholds_crossed",
            "Notice thresholds of quotas that requests crossed.",
            ("plan", "limit", "percent"),
            lambda: self.thresholds,
        )
        self.labelled_counter(
            "sidecar_overage_units",
            "Units beyond quotas that plans allowed.",
            ("plan", "meter"),
            lambda: self.overage_units,
        )
        self.labelled_counter(
            "sidecar_settled_units",
            "Units whose number was known only after the response.",
            ("plan", "route", "meter"),
            lambda: self.settled_units,
        )

    def count(self, route: str, request_class: str, plan: str, outcome: str) -> None:
        """Count a request that has ended. Each argument is from the plan book or a finite enum."""
        labels = (route, request_class, plan, outcome)
        self.requests[labels] = self.requests.get(labels, 0) + 1

    def shadow(self, plan: str, limit: str) -> None:
        """Count a request that was allowed although a limit in shadow mode would refuse it."""
        _add(self.shadowed, (plan, limit), 1)

    def capped(self, meter: str) -> None:
        """Count a cost above the most that one request settles."""
        _add(self.costs_capped, (meter,), 1)

    def estimated(self, meter: str, reason: str) -> None:
        """Count a cost that is not known. `reason` is from a finite enum."""
        _add(self.costs_estimated, (meter, reason), 1)

    def crossed(self, plan: str, limit: str, percent: int, *, times: int = 1) -> None:
        """Count a notice threshold that a request crossed. `times=0`: the count begins."""
        _add(self.thresholds, (plan, limit, str(percent)), times)

    def overage(self, plan: str, meter: str, units: int) -> None:
        """Count units beyond a quota that a plan allowed."""
        _add(self.overage_units, (plan, meter), units)

    def settled(self, plan: str, route: str, meter: str, units: int) -> None:
        """Count units of a meter whose cost was known only after the response."""
        _add(self.settled_units, (plan, route, meter), units)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Publish a number, which `read` returns at each scrape."""
        self._gauges.append((name, text, read))

    def counter(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Publish a number that only grows; the client library adds `_total` to the name."""
        self._counters.append((name, text, read))

    def labelled_gauge(self, name: str, text: str, labels: tuple[str, ...], read: ReadAll) -> None:
        """Publish numbers by label values, which must be a finite set."""
        self._labelled.append((name, text, labels, read))

    def labelled_counter(
        self, name: str, text: str, labels: tuple[str, ...], read: ReadAll
    ) -> None:
        """Publish numbers that only grow, by label values."""
        self._labelled_counters.append((name, text, labels, read))

    def collect(self) -> Iterable[Metric]:
        """Yield all metric families. The registry calls this at each scrape."""
        requests = CounterMetricFamily(
            "sidecar_requests", "Requests by outcome.", labels=REQUEST_LABELS
        )
        for labels, count in self.requests.items():
            requests.add_metric(labels, count)
        yield requests
        for name, text, histogram in (
            ("sidecar_overhead_seconds", "Time before a request is forwarded.", self.added),
            ("sidecar_upstream_seconds", "Time until the last byte of the answer.", self.upstream),
            ("sidecar_store_seconds", "Time to reserve in Redis, with queueing.", self.store),
            ("sidecar_wait_seconds", "Time for which requests waited.", self.waited),
            ("sidecar_spool_commit_seconds", "Time until events were on disk.", self.commit),
        ):
            family = HistogramMetricFamily(name, text)
            family.add_metric([], histogram.buckets(), histogram.total)
            yield family
        for name, text, read in self._gauges:
            yield GaugeMetricFamily(name, text, value=read())
        for name, text, read in self._counters:
            yield CounterMetricFamily(name, text, value=read())
        for name, text, label_names, read_all in self._labelled:
            gauge = GaugeMetricFamily(name, text, labels=label_names)
            for values, number in read_all().items():
                gauge.add_metric(values, number)
            yield gauge
        for name, text, label_names, read_all in self._labelled_counters:
            counter = CounterMetricFamily(name, text, labels=label_names)
            for values, number in read_all().items():
                counter.add_metric(values, number)
            yield counter


def _add(sums: dict[tuple[str, ...], float], labels: tuple[str, ...], units: int) -> None:
    sums[labels] = sums.get(labels, 0.0) + units
