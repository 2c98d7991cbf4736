"""Merged answers of workers: sums that never fall, and the worst state."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from sidecar.metrics import Metrics
from sidecar.serve.readiness import Readiness, merge
from sidecar.serve.workers.aggregate import MergedMetrics, families_of, merge_config


def a_worker(
    calls: int, *, up: float = 1, version: str = "a", **since: float
) -> list[dict[str, Any]]:
    registry = CollectorRegistry()
    Counter("calls", "Calls.", ["route"], registry=registry).labels("rest").inc(calls)
    spans = Histogram("span_seconds", "Spans.", buckets=(1, 2), registry=registry)
    for _ in range(calls):
        spans.observe(1.5)
    Gauge("store_up", "Up.", registry=registry).set(up)
    Gauge("expiry_timestamp_seconds", "Until.", registry=registry).set(100 + calls)
    for name, when in since.items():
        Gauge(f"{name}_since_timestamp_seconds", "Since.", registry=registry).set(when)
    Gauge("connections", "Open.", registry=registry).set(calls)
    Gauge("config_info", "Live.", ["version"], registry=registry).labels(version).set(1)
    Gauge("process_memory_bytes", "Memory.", registry=registry).set(calls)
    Info("python", "Python.", registry=registry).info({"version": "3"})
    return families_of(registry)


def values(registry: CollectorRegistry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in registry.collect()
        for sample in metric.samples
    }


def test_each_kind_of_metric_is_merged_by_its_rule() -> None:
    merged = MergedMetrics()
    merged.update("0", a_worker(3))
    merged.update("1", a_worker(4, up=0, version="b"))
    read = merged.registry({"0", "1"}, []).get_sample_value
    assert read("calls_total", {"route": "rest"}) == 7
    assert read("span_seconds_bucket", {"le": "1.0"}) == 0
    assert read("span_seconds_bucket", {"le": "+Inf"}) == read("span_seconds_count") == 7
    assert read("span_seconds_sum") == 10.5
    assert read("store_up") == 0
    assert read("expiry_timestamp_seconds") == 103
    assert read("connections") == 7
    assert read("config_info", {"version": "a"}) == read("config_info", {"version": "b"}) == 1
    assert read("process_memory_bytes", {"worker": "0"}) == 3
    assert read("process_memory_bytes", {"worker": "1"}) == 4
    assert read("python_info", {"version": "3", "worker": "1"}) == 1


def test_the_earliest_since_timestamp_wins_and_0_means_not_so() -> None:
    merged = MergedMetrics()
    merged.update("0", a_worker(1, live=50, failed=0, fine=0))
    merged.update("1", a_worker(1, live=40, failed=70, fine=0))
    merged.update("2", a_worker(1, live=60, failed=80, fine=0))
    read = merged.registry({"0", "1", "2"}, []).get_sample_value
    assert read("live_since_timestamp_seconds") == 40
    assert read("failed_since_timestamp_seconds") == 70
    assert read("fine_since_timestamp_seconds") == 0


def test_the_whole_is_ready_if_each_worker_is_even_if_degraded() -> None:
    healthy, degraded = Readiness([], []), Readiness([], ["redis: unreachable"])
    assert merge({0: healthy, 1: degraded}, {}) == ([], ["worker 1: redis: unreachable"])
    merged = merge({0: degraded, 2: Readiness(["draining"], [])}, {1: "starting"})
    assert merged.reasons == ["worker 1: starting", "worker 2: draining"]
    assert merged.degraded == ["worker 0: redis: unreachable"]


def test_prometheus_reads_the_merged_text() -> None:
    merged = MergedMetrics()
    for worker in ("0", "1"):
        metrics = Metrics()
        metrics.count("rest", "standard", worker, "ok")  # each worker has a series of its own
        merged.update(worker, families_of(metrics.registry))
    registry = merged.registry({"0", "1"}, families_of(Metrics().registry))
    text = generate_latest(registry).decode()
    assert text.count("# TYPE sidecar_overhead_seconds histogram") == 1
    families = {f.name: f for f in text_string_to_metric_families(openmetrics(registry).decode())}
    assert len(families["sidecar_requests"].samples) == 2
    assert "worker" in families["process_resident_memory_bytes"].samples[0].labels


def test_a_worker_that_does_not_answer_contributes_counts_and_no_gauge() -> None:
    merged = MergedMetrics()
    merged.update("0", a_worker(3))
    merged.update("1", a_worker(4, up=0))
    read = merged.registry({"0"}, []).get_sample_value
    assert (read("calls_total", {"route": "rest"}), read("connections")) == (7, 3)
    assert read("store_up") == 1


Steps = st.lists(
    st.tuples(st.sampled_from("01"), st.sampled_from(["grow", "die", "silent"]), st.integers(0, 9)),
    max_size=30,
)


@given(Steps)
def test_no_sum_falls_when_workers_die_or_do_not_answer(steps: list[tuple[str, str, int]]) -> None:
    merged, counts, total = MergedMetrics(), {"0": 0, "1": 0}, 0
    before: dict[Any, float] = {}
    for worker, what, number in steps:
        if what == "grow":
            counts[worker] += number
            total += number
            merged.update(worker, a_worker(counts[worker]))
        elif what == "die":
            merged.retire(worker)
            counts[worker] = 0
        present = {worker} if what == "grow" else set()
        now = {
            key: value
            for key, value in values(merged.registry(present, a_worker(0))).items()
            if key[0].startswith(("calls", "span"))
        }
        assert all(now[key] >= value for key, value in before.items())
        assert now["calls_total", frozenset({("route", "rest")})] == total
        before = now


def a_config(version: str, **other: Any) -> dict[str, Any]:
    return {"version": version, "failed_since": None, "problems": [], **other}


def test_workers_that_agree_have_one_config() -> None:
    bad = {"failed_since": "2026-11-23T08:30:00Z", "problems": ["plans.yaml:1:1: wrong"]}
    status = merge_config({0: a_config("a"), 1: a_config("a", **bad)})
    assert (status["agree"], status["version"]) == (True, "a")
    assert status["problems"] == bad["problems"]  # of one worker
    assert set(status["workers"]) == {"0", "1"}


def test_workers_that_disagree_have_no_common_config() -> None:
    for other in (a_config("b"), None):
        status = merge_config({0: a_config("a"), 1: other})
        assert status["agree"] is False
        assert "version" not in status
        assert status["workers"] == {"0": a_config("a"), "1": other}
