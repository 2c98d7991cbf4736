"""Merges the workers' metrics and plan-file states into one answer.

Rules by kind and name of a metric:

- Counters and histograms: the sum.
- `_since_timestamp_seconds`: the earliest; 0 is not a time but means "not so".
- `_up`, `_accepting`, `_ok`, other `_timestamp_seconds`: the least, that of the worst worker.
- `_info`, `_jobs`, `_jobs_bytes`, `_jobs_oldest_age_seconds`: the greatest. All workers read jobs
  from Redis, and nearly agree.
- Other gauges: the sum.
- `process_…` and `python_…`: not merged; each sample gets the label `worker`.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample

_CUMULATIVE: Final = frozenset({"counter", "histogram", "summary"})
_EARLIEST: Final = "_since_timestamp_seconds"
_LEAST: Final = ("_up", "_accepting", "_ok", "_timestamp_seconds")
_GREATEST: Final = ("_info", "_jobs", "_jobs_bytes", "_jobs_oldest_age_seconds")
_PER_PROCESS: Final = ("process_", "python_")

Family = dict[str, Any]  # name, help, type, samples: [name, labels, value] and an exemplar
_SampleKey = tuple[str, tuple[tuple[str, str], ...]]  # sample, labels


def families_of(registry: CollectorRegistry) -> list[Family]:
    """All metrics of a registry, as JSON can carry them."""
    return [
        {
            "name": metric.name,
            "help": metric.documentation,
            "type": metric.type,
            "samples": [_as_list(sample) for sample in metric.samples],
        }
        for metric in registry.collect()
    ]


def _as_list(sample: Sample) -> list[Any]:
    row: list[Any] = [sample.name, sample.labels, sample.value]
    if sample.exemplar is not None:
        row.append([*sample.exemplar])
    return row


class MergedMetrics:
    """The metrics of all workers, with the counts of workers that have ended: no sum falls.

    If a sum fell, Prometheus would take the restart of one worker for a reset of all, and count
    the others' requests twice.
    """

    def __init__(self) -> None:
        self._last: dict[str, list[Family]] = {}  # by worker
        self._ended: dict[tuple[str, _SampleKey], float] = {}  # sums by family and sample

    def update(self, worker: str, families: list[Family]) -> None:
        """Replace the worker's metrics."""
        self._last[worker] = families

    def retire(self, worker: str) -> None:
        """Keep the counts of a process that has ended; its successor counts from zero."""
        for family in self._last.pop(worker, []):
            if _is_cumulative(family):
                for key, value in _samples(family):
                    at = family["name"], key
                    self._ended[at] = self._ended.get(at, 0.0) + value

    def registry(self, present: Collection[str], own: Iterable[Family]) -> CollectorRegistry:
        """A registry of the merged metrics and `own`, those of the supervisor.

        A worker that is not in `present` contributes its last counts, and no gauge.
        """
        merge = _Merge()
        for worker, families in self._last.items():
            for family in families:
                if worker in present or _is_cumulative(family):
                    merge.add(worker, family)
        for family in own:
            merge.add("supervisor", family)
        for (name, key), value in self._ended.items():
            merge.add_ended(name, key, value)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(merge)
        return registry


def _is_cumulative(family: Family) -> bool:
    return family["type"] in _CUMULATIVE and not _is_per_process(family)


def _is_per_process(family: Family) -> bool:
    return f"{family['name']}_".startswith(_PER_PROCESS)


def _samples(family: Family) -> Iterable[tuple[_SampleKey, float]]:
    for name, labels, value, *_ in family["samples"]:
        yield (name, tuple(labels.items())), value


class _Merge(Collector):
    """Merged families; samples keep their order, so that buckets of a histogram stay together."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        self._values: dict[str, dict[_SampleKey, float]] = {}
        self._exemplars: dict[_SampleKey, Exemplar] = {}  # of any worker

    def add(self, worker: str, family: Family) -> None:
        name = family["name"]
        self._families.setdefault(name, family)
        values = self._values.setdefault(name, {})
        for key, value in _samples(family):
            if _is_per_process(family):
                sample, labels = key
                values[sample, (*labels, ("worker", worker))] = value
            elif key in values:
                values[key] = _merge_values(family, values[key], value)
            else:
                values[key] = value

        for sample, labels, _, *exemplar in family["samples"]:
            if exemplar:
                self._exemplars[sample, tuple(labels.items())] = Exemplar(*exemplar[0])

    def add_ended(self, name: str, key: _SampleKey, value: float) -> None:
        """Add counts of ended workers, unless no present worker has the family."""
        if name in self._values:
            self._values[name][key] = self._values[name].get(key, 0.0) + value

    def collect(self) -> Iterable[Metric]:
        for name, family in self._families.items():
            metric = Metric(name, family["help"], family["type"])
            for (sample, labels), value in self._values[name].items():
                exemplar = self._exemplars.get((sample, labels))
                metric.add_sample(sample, dict(labels), value, exemplar=exemplar)
            yield metric


def _merge_values(family: Family, one: float, other: float) -> float:
    if family["type"] in _CUMULATIVE:
        return one + other
    if family["name"].endswith(_EARLIEST):
        return min(one, other) or max(one, other)
    if family["name"].endswith(_LEAST):
        return min(one, other)
    if family["type"] == "info" or family["name"].endswith(_GREATEST):
        return max(one, other)
    return one + other


def merge_config(answers: Mapping[int, dict[str, Any] | None]) -> dict[str, Any]:
    """One plan-file state for all workers, and each worker's own below `workers`.

    If workers run different versions, or one does not answer (None), `agree` is false and the
    common state is left out. If they agree, a worker with a rejected plan file represents all.
    """
    answered = {number: answer for number, answer in answers.items() if answer is not None}
    versions = {answer.get("version") for answer in answered.values()}
    agree = len(versions) == 1 and len(answered) == len(answers)
    status: dict[str, Any] = {"agree": agree}
    if agree:
        failed = [number for number in answered if answered[number].get("failed_since")]
        status |= answered[min(failed, default=min(answered))]
    status["workers"] = {str(number): answer for number, answer in answers.items()}
    return status
