"""Metrics that the parts of a sidecar publish; docs/reference/metrics.md lists them all."""

import asyncio
from datetime import datetime
from math import inf

from sidecar.config import LivePlanFile
from sidecar.core.jobs.job import JobState
from sidecar.core.model import MICRO
from sidecar.core.overload.shedder import Shedder
from sidecar.metering.shipper import Shipper
from sidecar.metering.spool import Spool
from sidecar.metrics import Metrics
from sidecar.proxy.data_port import DataPort
from sidecar.proxy.upstream.pool import UpstreamPool
from sidecar.serve.orphan_spools import OrphanSpools
from sidecar.serve.parts import JobParts
from sidecar.stores import FallbackStore
from sidecar.stores.connection.connect import Connection
from sidecar.waiting.room import WaitingRoom

_JOB_STATES = ("accepted", *(state for state in JobState if not state.is_open))


def publish_store(metrics: Metrics, wire: Connection, store: FallbackStore) -> None:
    """Redis, and what is still to be told to it."""
    gauge, counter = metrics.gauge, metrics.counter
    gauge("sidecar_store_up", "1 while Redis answers.", lambda: float(wire.up))
    counter("sidecar_store_timeouts", "Commands that Redis did not answer in time.",
            lambda: wire.timeouts)  # fmt: skip
    counter("sidecar_store_reconnects", "Connections to Redis that were lost.",
            lambda: wire.reconnects)  # fmt: skip
    counter("sidecar_late_reservations", "Grants that came too late and were given back.",
            lambda: store.stats().late_reservations)  # fmt: skip
    gauge("sidecar_reservations_open", "Calls that hold a slot or may cost something else.",
          lambda: store.stats().open_reservations)  # fmt: skip
    gauge("sidecar_settlements_pending", "Corrections that Redis has not confirmed.",
          lambda: store.stats().pending_settlements)  # fmt: skip
    counter("sidecar_settlements_dropped", "Corrections that there was no room for.",
            lambda: store.stats().dropped_settlements)  # fmt: skip
    _publish_alone(metrics, store)


def _publish_alone(metrics: Metrics, store: FallbackStore) -> None:
    """Who counts, and what was let pass without Redis."""
    gauge, counter = metrics.gauge, metrics.counter

    def modes() -> dict[tuple[str, ...], float]:
        local = store.stats().local_mode
        return {("redis",): float(not local), ("local",): float(local)}

    metrics.labelled_gauge("sidecar_store_mode", "1 for who counts now.", ("mode",), modes)
    gauge("sidecar_sidecars_up", "Sidecars that were alive when Redis last told.",
          lambda: store.stats().sidecars)  # fmt: skip
    counter(
        "sidecar_local_requests",
        "Calls admitted without Redis.",
        lambda: store.stats().allowed_locally,
    )
    gauge("sidecar_journal_entries", "Calls that Redis has yet to be told of.",
          lambda: store.uncharged)  # fmt: skip
    counter("sidecar_journal_dropped", "Of those, calls that are not on disk.",
            lambda: store.stats().not_on_disk)  # fmt: skip


def publish_events(
    metrics: Metrics, spool: Spool, shipper: Shipper, leftovers: OrphanSpools
) -> None:
    """The spool, and what the sinks have not got of it."""
    gauge, counter = metrics.gauge, metrics.counter
    gauge("sidecar_spool_backlog_events", "Events not shipped to every sink yet.",
          lambda: spool.backlog)  # fmt: skip
    gauge("sidecar_spool_bytes", "Size of the spool on disk.", lambda: spool.bytes_on_disk)
    gauge("sidecar_spool_max_bytes", "Size at which the spool is full.", lambda: spool.max_bytes)
    gauge("sidecar_orphan_spool_events",
          "Events of former workers' spools that a sink has not got yet.",
          lambda: leftovers.backlog)  # fmt: skip
    gauge("sidecar_spool_accepting", "1 while events can be recorded.",
          lambda: float(spool.accepting))  # fmt: skip
    counter("sidecar_spool_events", "Events taken by the spool.", lambda: spool.appended)
    counter("sidecar_spool_dropped", "Events dropped for want of room.", lambda: spool.dropped)
    counter("sidecar_spool_write_errors", "Failed writes.", lambda: spool.write_errors)

    def lags() -> dict[tuple[str, ...], float]:
        return {(name,): float(lag) for name, lag in shipper.lag.items()}

    metrics.labelled_gauge("sidecar_sink_lag_events", "Events a sink has not got yet.",
                           ("sink",), lags)  # fmt: skip


def publish_jobs(metrics: Metrics, jobs: JobParts) -> None:
    """Deferred jobs: those of all sidecars as Redis counts them, and what this one has done."""

    def states() -> dict[tuple[str, ...], float]:
        counts = jobs.runner.counts
        waiting = max(0, counts.open - counts.running)
        return {("waiting",): float(waiting), ("running",): float(counts.running)}

    def counted() -> dict[tuple[str, ...], float]:
        return {(state,): float(jobs.counted[state]) for state in _JOB_STATES}

    def age() -> float:
        counts = jobs.runner.counts
        return (counts.now_us - counts.oldest_us) / MICRO if counts.oldest_us else 0.0

    def webhooks() -> dict[tuple[str, ...], float]:
        return {(outcome,): float(count) for outcome, count in jobs.webhooks.items()}

    metrics.labelled_gauge("sidecar_jobs", "Deferred jobs that are open, of all sidecars.",
                           ("state",), states)  # fmt: skip
    metrics.gauge("sidecar_jobs_oldest_age_seconds",
                  "For how long the oldest of them has been open.", age)  # fmt: skip
    metrics.labelled_counter("sidecar_jobs_handled", "Jobs accepted here, and ended here.",
                             ("state",), counted)  # fmt: skip
    metrics.labelled_counter("sidecar_webhooks", "Webhooks sent, by how it went.",
                             ("outcome",), webhooks)  # fmt: skip


def publish_config(metrics: Metrics, keeper: LivePlanFile) -> None:
    """The plan file: which one is live, and since when."""
    gauge, counter = metrics.gauge, metrics.counter
    counter("sidecar_config_reloads", "Plan files that went live.", lambda: keeper.reloads)
    counter("sidecar_config_failures", "Plan files that were refused.", lambda: keeper.failures)
    metrics.labelled_gauge("sidecar_config_info", "The live plan file.", ("version",),
                           lambda: {(keeper.book.version,): 1.0})  # fmt: skip
    gauge("sidecar_config_live_since_timestamp_seconds", "When the live plan file went live.",
          lambda: _seconds(keeper.status()["live_since"]))  # fmt: skip
    gauge("sidecar_config_failed_since_timestamp_seconds",
          "Since when the plan file is refused; 0 while it is not.",
          lambda: _seconds(keeper.status()["failed_since"]))  # fmt: skip


def _seconds(iso: str | None) -> float:
    return datetime.fromisoformat(iso).timestamp() if iso else 0.0


def publish_connections(metrics: Metrics, data_port: DataPort, pool: UpstreamPool) -> None:
    """Both sides of the data path."""
    gauge, counter = metrics.gauge, metrics.counter
    gauge("sidecar_client_connections", "Open client connections.",
          lambda: data_port.connections)  # fmt: skip
    counter("sidecar_slow_clients_ended",
            "Calls of slow clients that were ended because others needed their connection.",
            lambda: pool.preempted)  # fmt: skip
    gauge("sidecar_upstream_connections", "Open upstream connections.", lambda: pool.size)
    loop = asyncio.get_running_loop()
    gauge("sidecar_tasks", "Running asyncio tasks.", lambda: len(asyncio.all_tasks(loop)))


def publish_waiting(metrics: Metrics, room: WaitingRoom) -> None:
    """Calls that are held until their limits let them go on."""
    metrics.gauge("sidecar_waiting_requests", "Calls that are held now.", lambda: room.waiting)
    metrics.gauge("sidecar_waiting_bytes", "Bytes that those calls have sent.",
                  lambda: room.bytes)  # fmt: skip
    metrics.counter("sidecar_wait_queue_full",
                    "Calls that there was no place for in the waiting room.",
                    lambda: room.turned_away)  # fmt: skip

    def left() -> dict[tuple[str, ...], float]:
        return {(why,): float(count) for why, count in room.left.items()}

    metrics.labelled_counter("sidecar_waits_ended", "Calls that were held, by why they are not "
                             "any more.", ("why",), left)  # fmt: skip


def publish_shedding(metrics: Metrics, shedder: Shedder) -> None:
    """Calls in flight, and those that were refused because the API is overloaded."""
    metrics.gauge("sidecar_inflight_requests", "Calls in flight.", lambda: shedder.in_flight)
    metrics.gauge("sidecar_inflight_limit", "Calls beyond which others are shed; 0: no limit.",
                  lambda: 0.0 if shedder.limit == inf else shedder.limit)  # fmt: skip

    def shed() -> dict[tuple[str, ...], float]:
        return {(str(name),): float(count) for name, count in shedder.shed.items()}

    metrics.labelled_counter("sidecar_shed", "Calls shed, by class.", ("class",), shed)
