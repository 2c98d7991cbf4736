"""The composition root: builds the parts of one sidecar, and starts and stops them in order."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from sidecar import logs
from sidecar.clock import Clock
from sidecar.config import LivePlanFile, compile_apart
from sidecar.core.model import Account, PlanBook
from sidecar.core.paths import Normaliser
from sidecar.files import Files
from sidecar.gate import DecisionRow, Entitler, Gate, Recorder, Reserver
from sidecar.metering.shipper import Shipper
from sidecar.metrics import Metrics
from sidecar.ports import Sink
from sidecar.proxy.data_port import DataPort
from sidecar.proxy.handler import Handler
from sidecar.proxy.upstream.pool import UpstreamPool
from sidecar.serve import background, published
from sidecar.serve.decide_parts import decide_of
from sidecar.serve.orphan_spools import OrphanSpools
from sidecar.serve.parts import (
    JOURNAL,
    JobParts,
    account_events_of,
    bounds_of,
    jobs_of,
    listener_of,
    options_of,
    per_address_of,
    plan_records_of,
    shedder_of,
    sinks_of,
    spool_of,
    upstream_of,
    waiting_room_of,
)
from sidecar.serve.readiness import Condition, Readiness, judge
from sidecar.serve.share import WorkerShare, single_share
from sidecar.serve.shutdown import Shutdown
from sidecar.serve.traces import tracer_of
from sidecar.settings import Settings
from sidecar.stores import (
    EvictionWatch,
    FallbackStore,
    Journal,
    RedisDirectory,
    connect,
)
from sidecar.stores.connection.connect import Connection

log = logs.logger("app")

SHIP_TIMEOUT_S: Final = 5.0  # to ship the last events
JOBS_TIMEOUT_S: Final = 2.0  # of one Redis command about a job


class App:
    """One sidecar. `start` returns when it serves, `stop` when all of its parts have stopped."""

    def __init__(
        self,
        settings: Settings,
        *,
        share: WorkerShare | None = None,
        shutdown: Shutdown | None = None,
        on_decision: Callable[[DecisionRow], None] | None = None,
        compile_plans: Callable[[Path], Awaitable[PlanBook]] = compile_apart,
    ) -> None:
        self.settings = settings
        self.share = share or single_share(settings)
        self.shutdown = shutdown or Shutdown()
        self.metrics = Metrics()
        self.shedder = shedder_of(settings)
        self.jobs: JobParts | None = None
        self._clock = Clock()
        self._on_decision = on_decision
        self._compile_plans = compile_plans
        self._undo = contextlib.AsyncExitStack()
        self._serving = self._stopping = False
        self.shutdown.on_announced = self._announce_end
        self._store_was_reachable = False

    async def start(self) -> None:
        """Start every part, and serve. An unreachable Redis or upstream is not an error.

        Raises SettingsError, ConfigError or SpoolError, with every part stopped again.
        """
        try:
            await self._start()
        except BaseException:
            await self._undo.aclose()
            raise

    async def _start(self) -> None:
        """Each step registers how it is undone; `stop` undoes them in reverse order.

        So no request is admitted before its event can be recorded, or after.
        """
        await self._load_plans()
        self._load_listener()
        self._start_tracing()
        self._open_spool()
        self._start_shipping()
        await self._connect_store()
        self._build_gate()
        await self._build_data_port()
        if self.share.worker is None:
            await self._start_control_port()
        await self._start_decide_port()
        await self.data_port.start(self.listener)
        self._serving = True
        if self.shutdown.announced:
            self._announce_end()
        self._start_jobs()
        self._undo.push_async_callback(self._drain)
        self._publish_metrics()
        self._watch_files()

    # the steps, in order

    async def _load_plans(self) -> None:
        self.keeper = LivePlanFile(
            self.settings.plans, self._on_plans, compile_apart=self._compile_plans
        )
        await self.keeper.start()

    def _load_listener(self) -> None:
        shared = self.share.worker is not None
        self.listener = listener_of(self.settings, self.share.descriptor, shared=shared)
        self.decide = decide_of(self.settings, self.share)

    def _start_tracing(self) -> None:
        self.tracer = tracer_of(self.settings, self.metrics)
        if self.tracer is not None:
            self._undo.push_async_callback(self.tracer.close)

    def _open_spool(self) -> None:
        self.spool = spool_of(self.settings, self.metrics)
        self.spool.open()
        self._undo.push_async_callback(self.spool.close)

    def _start_shipping(self) -> None:
        settings = self.settings
        sinks = self._make_sinks()
        self.shipper = Shipper(self.spool, sinks)
        self.shipper.start()
        self._undo.push_async_callback(self.shipper.close)
        self._undo.push_async_callback(self.shipper.drain, SHIP_TIMEOUT_S)
        if not sinks:
            log.warning(
                "sinks_not_configured",
                spool=str(settings.spool),
                max_bytes=settings.spool_max_bytes,
                remedy=self.spool.remedy,
            )
        orphans = self.share.orphan_spools
        self.orphan_spools = OrphanSpools(
            orphans, self._make_sinks, max_bytes=settings.spool_max_bytes
        )
        if sinks and orphans:
            self._spawn(self.orphan_spools.run())

    def _make_sinks(self) -> list[Sink]:
        return sinks_of(self.settings, self.share.lock_directory)

    async def _connect_store(self) -> None:
        settings = self.settings
        url = settings.redis.get_secret_value()
        self.wire = connect(url, timeout_s=settings.redis_timeout_ms / 1000)
        await self.wire.start()
        self._undo.push_async_callback(self.wire.stop)
        await self._start_store()
        self.directory = RedisDirectory(
            self.wire,
            settings.redis_prefix,
            self._account_in_plan_file,
            on_change=self._on_account_change,
        )
        self._spawn(self.directory.run())
        self.plan_records = plan_records_of(settings, self.wire)
        self._spawn(account_events_of(settings, self.wire, self.spool, self._new_id()).run())
        self.eviction = EvictionWatch(self.wire)
        self._spawn(self.eviction.run())
        self._store_was_reachable = self.wire.reachable
        if not self.wire.up:
            log.warning("redis_unreachable_at_start", error=self.wire.last_error)

    async def _start_store(self) -> None:
        settings, files = self.settings, Files()
        own_id = self._new_id()
        journal = Journal(
            # All workers share one directory: each charges the journals of those that died.
            (self.share.lock_directory or settings.spool) / JOURNAL,
            files,
            identity=own_id,
            max_bytes=settings.journal_max_bytes,
            commit_window_s=settings.commit_window_ms / 1000,
        )
        self.store = store = FallbackStore(
            self.wire, journal, files, own_id=own_id, prefix=settings.redis_prefix
        )
        await store.start()
        self._undo.push_async_callback(store.close)
        self._spawn(store.run())

    def _build_gate(self) -> None:
        settings = self.settings
        self.room = waiting_room_of(settings, self.metrics)
        self.gate = Gate(
            Entitler(
                self.keeper.book,
                self.directory,
                self.store.now_us,
                paths=Normaliser(frozenset(settings.allow_in_path)),
                ignore_case=settings.ignore_path_case,
            ),
            Reserver(self.store, self.room, self.shedder, self.metrics.store.observe),
            Recorder(
                self.spool,
                self.metrics,
                self._clock,
                settings.source,
                record_refusals=settings.refusal_events,
                on_decision=self._on_decision,
                redis_us=self.store.redis_us,
            ),
            self.tracer,
        )

    async def _build_data_port(self) -> None:
        settings = self.settings
        bounds = bounds_of(settings)
        options = options_of(settings, self.listener.scheme)
        self.pool = UpstreamPool(upstream_of(settings), bounds)
        delivery = settings.jobs
        if delivery != "off":
            wire = await self._connect_jobs()
            self.jobs = jobs_of(
                settings, delivery, wire, self.gate, self.pool, options, self.directory, self._clock
            )
        handler = Handler(
            self.gate,
            self.pool,
            self.metrics,
            bounds,
            options,
            new_id=self._new_id,
            reserved_prefix=settings.reserved_prefix.encode(),
            access_log=settings.access_log,
            deferral=self.jobs.deferral if self.jobs else None,
        )
        self.data_port = DataPort(
            handler,
            self.pool,
            bounds,
            self.metrics,
            per_address=per_address_of(settings),
            max_age=settings.max_connection_age_s,
            jobs=self.jobs.runner if self.jobs else None,
        )

    async def _connect_jobs(self) -> Connection:
        """A connection of its own: a job's body may be large, and requests must not wait for it."""
        url = self.settings.redis.get_secret_value()
        wire = connect(url, timeout_s=JOBS_TIMEOUT_S, quiet=True)
        await wire.start()
        self._undo.push_async_callback(wire.stop)
        return wire

    async def _start_control_port(self) -> None:
        from sidecar.serve.control_access import control_access
        from sidecar.serve.control_port import ControlPort  # aiohttp: a worker does not need it

        control = ControlPort(
            self.settings.control,
            registry=self.metrics.registry,
            ready=self.readiness,
            config_status=self.keeper.status,
            reload=self.reload,
            access=control_access(self.settings.control_token_file),
            hosts=self.settings.control_hosts,
        )
        await control.start()
        self._undo.push_async_callback(control.stop)

    async def _start_decide_port(self) -> None:
        if self.decide is not None:
            await self.decide.start(self.gate, self.metrics, self._new_id)
            self._undo.push_async_callback(self.decide.stop, 0.0, 0.0, asyncio.Event())

    def _start_jobs(self) -> None:
        if self.jobs is None:
            return
        self._spawn(self.jobs.runner.run())
        if self.jobs.webhook_sender is not None:
            self._spawn(self.jobs.webhook_sender.run())

    def _publish_metrics(self) -> None:
        metrics = self.metrics
        published.publish_store(metrics, self.wire, self.store)
        published.publish_events(metrics, self.spool, self.shipper, self.orphan_spools)
        published.publish_config(metrics, self.keeper)
        published.start_counts(metrics, self.keeper.book)
        published.publish_connections(metrics, self.data_port, self.pool)
        published.publish_waiting(metrics, self.room)
        published.publish_shedding(metrics, self.shedder)
        if self.jobs is not None:
            published.publish_jobs(metrics, self.jobs)
        if self.decide is not None:
            published.publish_decisions(metrics, self.decide)

    def _watch_files(self) -> None:
        self.plan_records.live(self.keeper.book.version)
        self.spool.on_reopen.append(self.plan_records.keep_again)
        self._spawn(self.plan_records.run())
        self._spawn(self.keeper.watch())
        for owner in (self.listener, self.decide):
            if owner is not None and owner.certificate is not None:
                self._spawn(owner.certificate.watch())

    # while it serves

    def readiness(self) -> Readiness:
        """Whether requests should be sent here, and what they would lack."""
        wire, eviction = self.wire, self.eviction.warning
        self._store_was_reachable = self._store_was_reachable or wire.reachable
        condition = Condition(
            serving=self._serving,
            stopping=self._stopping,
            redis=None if wire.up else wire.last_error or "not connected yet",
            redis_was_reachable=self._store_was_reachable,
            spool_accepts=self.spool.accepting,
            spool_problem=self.spool.problem,
            missing=self.spool.missing,
            faults=[*([eviction] if wire.up and eviction else []), *self.shipper.faults],
        )
        return judge(condition)

    def reload(self) -> None:
        """Reload the certificate now, and the plan file in the background."""
        self.keeper.request_reload()
        if self.listener.certificate is not None:
            self.listener.certificate.reload()
        if self.decide is not None:
            self.decide.reload()

    def _on_plans(self, book: PlanBook) -> None:
        self.gate.reload(book)
        self.store.forget()
        self.directory.forget()  # its API keys may belong to accounts of the former file
        if self.jobs is not None:
            self.jobs.runner.plans_changed()
        self.plan_records.live(book.version)
        published.start_counts(self.metrics, book)

    def _on_account_change(self, account_id: str) -> None:
        if self.jobs is not None:
            self.jobs.runner.account_changed(account_id)

    def _account_in_plan_file(self, account_id: str) -> Account | None:
        return self.keeper.book.accounts.get(account_id)

    def _new_id(self) -> str:
        return self._clock.request_id(self._clock.now_ns())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = background.run_in_background(work)
        self._undo.push_async_callback(background.cancel, task)

    # the end

    def _announce_end(self) -> None:
        """Ask for no more requests, and serve those that come."""
        if self._serving:
            self._stopping = True
            self.data_port.announce_end()
            if self.decide is not None:
                self.decide.port.announce_end()

    async def stop(self) -> None:
        """Drain as `shutdown` says, and stop every part. Idempotent."""
        self._stopping = True
        await self._undo.aclose()

    async def _drain(self) -> None:
        self.room.close()
        delay = self.shutdown.delay_s(self.settings.drain_delay_s)
        drain, hurried = self.settings.drain_timeout_s, self.shutdown.hurried
        ends = [self.data_port.stop(delay, drain, hurried)]
        if self.decide is not None:
            ends.append(self.decide.stop(delay, drain, hurried))
        await asyncio.gather(*ends)
