"""One answer out of many: the workers' metrics added up, their plan files compared.

Counters and histograms are added. Of gauges that say yes or no, or until when something lasts
(`_up`, `_accepting`, `_ok`, `_timestamp_seconds`), the least counts: what is wrong with one is
wrong. Of those that say since when (`_since_timestamp_seconds`) it is the earliest, and 0 is no
instant but says that it is not so. Of `_info`, and of what Redis tells each of them alike (`_jobs`,
`_jobs_oldest_age_seconds`), the greatest counts, and all other gauges are added.
What describes a process (`process_…`, `python_…`) stays apart, under the label `worker`.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

_GROWING: Final = frozenset({"counter", "histogram", "summary"})
_SINCE: Final = "_since_timestamp_seconds"
_LEAST: Final = ("_up", "_accepting", "_ok", "_timestamp_seconds")
_GREATEST: Final = ("_info", "_jobs", "_jobs_oldest_age_seconds")
_OWN: Final = ("process_", "python_")

Family = dict[str, Any]  # name, help, type, samples: [name, labels, value]
_Key = tuple[str, str, tuple[tuple[str, str], ...]]  # family, sample, labels


def families_of(registry: CollectorRegistry) -> list[Family]:
    """Everything in a registry, as JSON can carry it."""
    return [
        {
            "name": metric.name,
            "help": metric.documentation,
            "type": metric.type,
            "samples": [[sample.name, sample.labels, sample.value] for sample in metric.samples],
        }
        for metric in registry.collect()
    ]


class MergedMetrics:
    """What all workers have counted, also those that are gone: a sum never falls.

    Otherwise Prometheus would take the restart of one worker for a reset of all, and count what
    the others had counted a second time.
    """

    def __init__(self) -> None:
        self._last: dict[str, list[Family]] = {}
        self._gone: dict[_Key, float] = {}

    def update(self, worker: str, families: list[Family]) -> None:
        """What the worker says now."""
        self._last[worker] = families

    def retire(self, worker: str) -> None:
        """The worker's process has ended; the next one counts from zero."""
        for family in self._last.pop(worker, []):
            if _is_growing(family):
                for key, value in _samples(family):
                    self._gone[key] = self._gone.get(key, 0.0) + value

    def registry(self, present: Collection[str], own: Iterable[Family]) -> CollectorRegistry:
        """All of it, to be encoded. Of a worker that is not `present` only what it had counted
        is taken. `own` are the families of the supervisor."""
        merged = _Merged()
        for worker, families in self._last.items():
            for family in families:
                if worker in present or _is_growing(family):
                    merged.add(worker, family)
        for family in own:
            merged.add("supervisor", family)
        for (name, sample, labels), value in self._gone.items():
            merged.grow(name, (sample, labels), value)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(merged)
        return registry


def _is_growing(family: Family) -> bool:
    return family["type"] in _GROWING and not _is_own(family)


def _is_own(family: Family) -> bool:
    return f"{family['name']}_".startswith(_OWN)


def _samples(family: Family) -> Iterable[tuple[_Key, float]]:
    for name, labels, value in family["samples"]:
        yield (family["name"], name, tuple(labels.items())), value


class _Merged(Collector):
    """Keeps the order in which samples came: buckets of a histogram stay together."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        self._values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}

    def add(self, worker: str, family: Family) -> None:
        name = family["name"]
        self._families.setdefault(name, family)
        values = self._values.setdefault(name, {})
        for (_, sample, labels), value in _samples(family):
            if _is_own(family):
                values[sample, (*labels, ("worker", worker))] = value
            elif (sample, labels) not in values:
                values[sample, labels] = value
            else:
                values[sample, labels] = _joined(family, values[sample, labels], value)

    def grow(self, name: str, key: tuple[str, tuple[tuple[str, str], ...]], value: float) -> None:
        """Add to a family that is there; others come back when a worker has them again."""
        if name in self._values:
            self._values[name][key] = self._values[name].get(key, 0.0) + value

    def collect(self) -> Iterable[Metric]:
        for name, family in self._families.items():
            metric = Metric(name, family["help"], family["type"])
            for (sample, labels), value in self._values[name].items():
                metric.add_sample(sample, dict(labels), value)
            yield metric


def _joined(family: Family, one: float, other: float) -> float:
    if family["type"] in _GROWING:
        return one + other
    if family["name"].endswith(_SINCE):
        return min(one, other) or max(one, other)
    if family["name"].endswith(_LEAST):
        return min(one, other)
    if family["type"] == "info" or family["name"].endswith(_GREATEST):
        return max(one, other)
    return one + other


def merged_config(answers: Mapping[int, dict[str, Any] | None]) -> dict[str, Any]:
    """One status for all: what they agree on, or that they do not, with what each says.

    None stands for a worker that does not answer.
    """
    told = {number: answer for number, answer in answers.items() if answer is not None}
    versions = {answer.get("version") for answer in told.values()}
    agree = len(versions) == 1 and len(told) == len(answers)
    status: dict[str, Any] = {"agree": agree}
    if agree:
        first = min(told)
        failed = [number for number in told if told[number].get("failed_since")]
        status |= told[min(failed, default=first)]
    status["workers"] = {str(number): answer for number, answer in answers.items()}
    return status
