"""The metrics of a sidecar's parts, read at each scrape; see docs/reference/metrics.md."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from math import inf
from typing import TypeVar

from sidecar.config import LivePlanFile
from sidecar.core.jobs.job import JobState
from sidecar.core.kinds import MICRO, QuotaLimit
from sidecar.core.model import PlanBook
from sidecar.core.overload.shedder import Shedder
from sidecar.metering.shipper import Shipper
from sidecar.metering.spool import Spool
from sidecar.metrics import Metrics, ReadAll
from sidecar.proxy.data_port import DataPort
from sidecar.proxy.upstream.pool import UpstreamPool
from sidecar.serve.decide_parts import DecideParts
from sidecar.serve.orphan_spools import OrphanSpools
from sidecar.serve.parts import JobParts
from sidecar.stores import FallbackStore
from sidecar.stores.connection.connect import Connection
from sidecar.stores.job_sizes import JOB, RESULT
from sidecar.waiting.room import WaitingRoom

_Label = TypeVar("_Label", bound=str)
_JOB_STATES = ("accepted", *(state for state in JobState if not state.is_open))


def publish_store(metrics: Metrics, wire: Connection, store: FallbackStore) -> None:
    """Publish the state of Redis, and of what Redis does not have yet."""
    gauge, counter = metrics.gauge, metrics.counter
    gauge("sidecar_store_up", "1 while Redis is available.", lambda: float(wire.up))
    counter(
        "sidecar_store_timeouts",
        "Redis commands without a reply in time.",
        lambda: wire.timeouts,
    )
    counter("sidecar_store_reconnects", "Lost connections to Redis.", lambda: wire.reconnects)
    counter(
        "sidecar_late_reservations",
        "Reservations that Redis made too late, and that were cancelled.",
        lambda: store.stats().late_reservations,
    )
    gauge(
        "sidecar_reservations_open",
        "Requests in flight that hold a slot, or whose cost may change.",
        lambda: store.stats().open_reservations,
    )
    gauge(
        "sidecar_settlements_pending",
        "Settlements that Redis has not confirmed.",
        lambda: store.stats().pending_settlements,
    )
    counter(
        "sidecar_settlements_dropped",
        "Settlements dropped because too many were pending.",
        lambda: store.stats().dropped_settlements,
    )
    _publish_local_mode(metrics, store)


def _publish_local_mode(metrics: Metrics, store: FallbackStore) -> None:
    gauge, counter = metrics.gauge, metrics.counter

    def modes() -> dict[tuple[str, ...], float]:
        local = store.stats().local_mode
        return {("redis",): float(not local), ("local",): float(local)}

    metrics.labelled_gauge(
        "sidecar_store_mode", "1 for the mode that enforces limits now.", ("mode",), modes
    )
    gauge(
        "sidecar_sidecars_up",
        "Sidecars alive, as Redis last reported.",
        lambda: store.stats().sidecars,
    )
    counter(
        "sidecar_local_requests",
        "Requests allowed without Redis.",
        lambda: store.stats().allowed_locally,
    )
    gauge(
        "sidecar_journal_entries",
        "Requests allowed without Redis and not charged to it yet.",
        lambda: store.uncharged,
    )
    counter(
        "sidecar_journal_dropped",
        "Requests allowed without Redis that the journal does not have on disk.",
        lambda: store.stats().not_on_disk,
    )


def publish_events(
    metrics: Metrics, spool: Spool, shipper: Shipper, orphan_spools: OrphanSpools
) -> None:
    """Publish the state of the spool and of the sinks."""
    gauge, counter = metrics.gauge, metrics.counter
    gauge(
        "sidecar_spool_backlog_events",
        "Events that the slowest sink does not have yet.",
        lambda: spool.backlog,
    )
    gauge("sidecar_spool_bytes", "Size of the spool on disk.", lambda: spool.bytes_on_disk)
    gauge("sidecar_spool_max_bytes", "Maximum size of the spool.", lambda: spool.max_bytes)
    gauge(
        "sidecar_orphan_spool_events",
        "Events of former workers' spools that a sink does not have yet.",
        lambda: orphan_spools.backlog,
    )
    gauge(
        "sidecar_spool_accepting",
        "1 while events can be recorded.",
        lambda: float(spool.accepting),
    )
    counter("sidecar_spool_events", "Events recorded in the spool.", lambda: spool.appended)
    counter(
        "sidecar_spool_dropped", "Events dropped because the spool was full.", lambda: spool.dropped
    )
    counter(
        "sidecar_spool_missing_events",
        "Events found to be removed from the spool, or damaged.",
        lambda: spool.missing,
    )
    counter(
        "sidecar_spool_damaged_events",
        "Events found to be damaged, and not shipped.",
        lambda: spool.damaged,
    )
    counter("sidecar_spool_write_errors", "Failed writes.", lambda: spool.write_errors)
    metrics.labelled_gauge(
        "sidecar_sink_lag_events",
        "Events that a sink does not have yet.",
        ("sink",),
        _by_label(lambda: shipper.lag),
    )


def publish_jobs(metrics: Metrics, jobs: JobParts) -> None:
    """Publish the job queue, which all sidecars share, and this sidecar's own jobs."""

    def states() -> dict[tuple[str, ...], float]:
        counts = jobs.runner.counts
        waiting = max(0, counts.open - counts.running)
        return {("waiting",): float(waiting), ("running",): float(counts.running)}

    def sizes() -> dict[tuple[str, ...], float]:
        counts = jobs.runner.counts
        ended = max(0, counts.stored_bytes - counts.open_bytes)
        return {("open",): float(counts.open_bytes), ("ended",): float(ended)}

    def counted() -> dict[tuple[str, ...], float]:
        return {(state,): float(jobs.counted[state]) for state in _JOB_STATES}

    def age() -> float:
        counts = jobs.runner.counts
        return (counts.now_us - counts.oldest_us) / MICRO if counts.oldest_us else 0.0

    metrics.labelled_gauge("sidecar_jobs", "Open jobs of all sidecars.", ("state",), states)
    metrics.gauge("sidecar_jobs_oldest_age_seconds", "Age of the oldest open job.", age)
    metrics.labelled_gauge(
        "sidecar_jobs_bytes", "Stored bytes of the jobs of all sidecars.", ("state",), sizes
    )
    metrics.labelled_counter(
        "sidecar_jobs_dropped",
        "Ended jobs, and results of ended jobs, that this sidecar dropped to make room.",
        ("what",),
        lambda: {(what,): float(jobs.dropped[what]) for what in (RESULT, JOB)},
    )
    metrics.labelled_counter(
        "sidecar_jobs_handled", "Jobs that this sidecar accepted or ended.", ("state",), counted
    )
    metrics.labelled_counter(
        "sidecar_webhooks",
        "Attempts to send a webhook.",
        ("outcome",),
        _by_label(lambda: jobs.webhooks),
    )


def publish_config(metrics: Metrics, keeper: LivePlanFile) -> None:
    """The plan file: which one is live, and since when."""
    gauge, counter = metrics.gauge, metrics.counter
    counter("sidecar_config_reloads", "Plan files that became live.", lambda: keeper.reloads)
    counter("sidecar_config_failures", "Rejected plan files.", lambda: keeper.failures)
    metrics.labelled_gauge(
        "sidecar_config_info",
        "The version of the live plan file.",
        ("version",),
        lambda: {(keeper.book.version,): 1.0},
    )
    gauge(
        "sidecar_config_live_since_timestamp_seconds",
        "Unix time at which the live plan file became live.",
        lambda: _seconds(keeper.status()["live_since"]),
    )
    gauge(
        "sidecar_config_failed_since_timestamp_seconds",
        "Unix time since which the plan file on disk is rejected; 0 if it is live.",
        lambda: _seconds(keeper.status()["failed_since"]),
    )


def start_counts(metrics: Metrics, book: PlanBook) -> None:
    """Let the rare counts of a plan file begin at 0.

    Prometheus sees no increase in a count that begins with the first threshold of a month.
    """
    for plan in book.plans.values():
        for limit in plan.limits:
            if isinstance(limit, QuotaLimit):
                for percent in limit.notices:
                    metrics.crossed(plan.id, limit.id, percent, times=0)
                if limit.cap > limit.units:
                    metrics.overage(plan.id, limit.meter, 0)


def _seconds(iso: str | None) -> float:
    return datetime.fromisoformat(iso).timestamp() if iso else 0.0


def publish_connections(metrics: Metrics, data_port: DataPort, pool: UpstreamPool) -> None:
    """Publish the connections to clients and to the upstream."""
    gauge, counter = metrics.gauge, metrics.counter
    gauge(
        "sidecar_client_connections",
        "Open connections from clients.",
        lambda: data_port.connections,
    )
    counter(
        "sidecar_slow_clients_ended",
        "Requests of slow clients ended because others needed their upstream connection.",
        lambda: pool.preempted,
    )
    gauge("sidecar_upstream_connections", "Open connections to the upstream.", lambda: pool.size)
    gauge("sidecar_websockets", "Open upgraded connections.", lambda: pool.tunnels.taken)
    gauge("sidecar_upstream_waiting", "Requests that wait for an upstream connection.",
          lambda: pool.waiting)  # fmt: skip
    gauge("sidecar_responses_read_on", "Responses read for their cost after their client left.",
          lambda: pool.usage_reads.taken)  # fmt: skip
    counter(
        "sidecar_responses_not_read_on",
        "Responses that were not read on, because others used all connections for that.",
        lambda: pool.usage_refused,
    )
    loop = asyncio.get_running_loop()
    gauge("sidecar_tasks", "Asyncio tasks.", lambda: len(asyncio.all_tasks(loop)))


def publish_waiting(metrics: Metrics, room: WaitingRoom) -> None:
    """Publish the wait queue."""
    metrics.gauge("sidecar_waiting_requests", "Waiting requests.", lambda: room.waiting)
    metrics.gauge("sidecar_waiting_bytes", "Size of the waiting requests.", lambda: room.bytes)
    metrics.counter(
        "sidecar_wait_queue_full",
        "Requests refused because the wait queue was full.",
        lambda: room.overflows,
    )
    metrics.labelled_counter(
        "sidecar_waits_ended",
        "Requests that waited, by the reason why the wait ended.",
        ("reason",),
        _by_label(lambda: room.ended),
    )


def publish_shedding(metrics: Metrics, shedder: Shedder) -> None:
    """Publish the load, and the requests refused because the API is overloaded."""
    metrics.gauge("sidecar_inflight_requests", "Requests in flight.", lambda: shedder.in_flight)
    metrics.gauge(
        "sidecar_inflight_limit",
        "Requests in flight beyond which others are shed; 0: no limit.",
        lambda: 0.0 if shedder.limit == inf else shedder.limit,
    )
    metrics.labelled_counter(
        "sidecar_shed", "Shed requests.", ("class",), _by_label(lambda: shedder.shed)
    )


def publish_decisions(metrics: Metrics, decide: DecideParts) -> None:
    """Publish the decide port."""
    metrics.gauge(
        "sidecar_decide_connections",
        "Open connections from gateways.",
        lambda: decide.port.connections,
    )
    metrics.gauge(
        "sidecar_decide_open",
        "Allowed requests that their gateway has not settled yet.",
        lambda: decide.decisions.open,
    )
    metrics.labelled_counter(
        "sidecar_decide_unsettled",
        "Allowed requests that were settled without a report of their gateway.",
        ("reason",),
        _by_label(lambda: decide.decisions.unsettled),
    )
    metrics.counter(
        "sidecar_decide_callers_refused",
        "Requests at the decide port without a valid token.",
        lambda: decide.refused_callers,
    )


def _by_label(read: Callable[[], Mapping[_Label, int]]) -> ReadAll:
    """Read a mapping from the values of one label to numbers."""
    return lambda: {(str(value),): float(number) for value, number in read().items()}
