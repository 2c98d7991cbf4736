"""The composition root: builds every part, owns the order of start and stop, swaps the plan book.

Start: plan book, spool, Redis, data path, control. Stop: the other way round, so that nothing
is admitted that could not be recorded any more.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sidecar import logs
from sidecar.clock import Clock
from sidecar.config import LivePlanFile, compile_apart
from sidecar.core.model import Account, PlanBook
from sidecar.core.paths import Normaliser
from sidecar.files import Files
from sidecar.gate import DecisionRow, Gate
from sidecar.metering.shipper import Shipper
from sidecar.metrics import Metrics
from sidecar.ports import Sink
from sidecar.proxy.data_port import DataPort
from sidecar.proxy.handler import Handler
from sidecar.proxy.heads import ProxyOptions
from sidecar.proxy.upstream.pool import UpstreamPool
from sidecar.serve.orphan_spools import OrphanSpools
from sidecar.serve.parts import (
    JobParts,
    bounds_of,
    jobs_of,
    listener_of,
    manners_of,
    room_of,
    shedder_of,
    sinks_of,
    spool_of,
    upstream_of,
)
from sidecar.serve.published import (
    publish_config,
    publish_connections,
    publish_events,
    publish_jobs,
    publish_shedding,
    publish_store,
    publish_waiting,
)
from sidecar.serve.readiness import Readiness
from sidecar.serve.share import WorkerShare, alone
from sidecar.serve.shutdown import Shutdown
from sidecar.settings import Settings
from sidecar.stores import FallbackStore, Journal, RedisDirectory, connect

log = logs.logger("app")

SHIP_SECONDS = 5.0
JOBS_TIMEOUT_S = 2.0
JOURNAL = "journal"  # in the directory of the spool
CANCEL_SECONDS = 0.5


class App:
    """One sidecar. `start` returns when it serves, `stop` when nothing of it is left."""

    def __init__(
        self,
        settings: Settings,
        *,
        share: WorkerShare | None = None,
        ending: Shutdown | None = None,
        on_decision: Callable[[DecisionRow], None] | None = None,
        compile_plans: Callable[[Path], Awaitable[PlanBook]] = compile_apart,
    ) -> None:
        self.settings = settings
        self.ending = ending or Shutdown()
        self.share = share or alone(settings)
        self.metrics = Metrics()
        self._clock = Clock()
        self._on_decision = on_decision
        self._compile_plans = compile_plans
        self.shedder = shedder_of(settings)
        self._undo = contextlib.AsyncExitStack()
        self._serving = self._stopping = False
        self._seen_store = False
        self.jobs: JobParts | None = None

    def _new_id(self) -> str:
        return self._clock.request_id(self._clock.now_ns())

    async def start(self) -> None:
        """Bring everything up. Raises SettingsError, ConfigError or SpoolError, with all that
        was already up taken down again. An unreachable Redis or upstream is no error."""
        try:
            await self._start()
        except BaseException:
            await self._undo.aclose()
            raise

    async def _start(self) -> None:
        settings = self.settings
        self.keeper = LivePlanFile(settings.plans, self._swap, compile_apart=self._compile_plans)
        await self.keeper.start()
        share = self.share
        self.listener = listener_of(settings, share.descriptor, shared=share.worker is not None)
        self.spool = spool_of(settings)
        self.spool.open()
        self._undo.push_async_callback(self.spool.close)
        self._start_shipping()
        await self._start_store()
        self.room = room_of(settings, self.metrics)
        self.gate = Gate(
            self.keeper.book,
            store=self.store,
            directory=self.directory,
            spool=self.spool,
            metrics=self.metrics,
            clock=self._clock,
            source=settings.source,
            now_us=self.store.now_us,
            room=self.room,
            shedder=self.shedder,
            record_refusals=settings.refusal_events,
            paths=Normaliser(frozenset(settings.allow_in_path)),
            ignore_case=settings.ignore_path_case,
            on_decision=self._on_decision,
        )
        bounds = bounds_of(settings)
        pool = UpstreamPool(upstream_of(settings), bounds)
        options = manners_of(settings, self.listener.scheme)
        await self._make_jobs(pool, options)
        handler = Handler(
            self.gate,
            pool,
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
            pool,
            bounds,
            self.metrics,
            per_address=settings.max_connections_per_address,
            max_age=settings.max_connection_age_s,
            jobs=self.jobs.runner if self.jobs else None,
        )
        if self.share.worker is None:
            await self._start_control()
        await self.data_port.start(self.listener)
        self._serving = True
        self._start_jobs()
        self._undo.push_async_callback(self._drain)
        self._publish(pool)
        self._spawn(self.keeper.watch())
        if self.listener.certificate is not None:
            self._spawn(self.listener.certificate.watch())
        log.info(
            "sidecar_serving",
            listen=str(settings.listen),
            control=str(settings.control) if self.share.worker is None else None,
            upstream=str(settings.upstream),
            plans=str(settings.plans),
            version=self.keeper.book.version,
        )

    async def _make_jobs(self, pool: UpstreamPool, options: ProxyOptions) -> None:
        settings, clock = self.settings, self._clock
        if settings.jobs == "off":
            return
        # Not the wire of the calls: a job's body may be large, and nobody hurries.
        url = settings.redis.get_secret_value()
        wire = connect(url, timeout_s=JOBS_TIMEOUT_S, quiet=True)
        await wire.start()
        self._undo.push_async_callback(wire.stop)
        self.jobs = jobs_of(
            settings, wire, self.gate, pool, options, self.directory, self._new_id,
            lambda: clock.now_ns() // 1_000_000_000,
        )  # fmt: skip

    def _start_jobs(self) -> None:
        """After the data port, whose pool they use: so they are taken down before it."""
        if self.jobs is None:
            return
        publish_jobs(self.metrics, self.jobs)
        self._spawn(self.jobs.runner.run())
        if self.jobs.teller is not None:
            self._spawn(self.jobs.teller.run())

    def _account_changed(self, account_id: str) -> None:
        if self.jobs is not None:
            self.jobs.runner.account_changed(account_id)

    async def _drain(self) -> None:
        self.room.close()
        delay = 0.0 if self.ending.at_once else self.settings.drain_delay_s
        await self.data_port.stop(delay, self.settings.drain_timeout_s, self.ending.hurry)

    async def _start_control(self) -> None:
        from sidecar.serve.control_port import ControlServer  # aiohttp: a worker has no use for it

        control = ControlServer(
            self.settings.control,
            registry=self.metrics.registry,
            ready=self.readiness,
            config_status=self.keeper.status,
        )
        await control.start()
        self._undo.push_async_callback(control.stop)

    def _start_shipping(self) -> None:
        settings = self.settings
        sinks = self._make_sinks()
        self.shipper = Shipper(self.spool, sinks)
        self.shipper.start()
        self._undo.push_async_callback(self.shipper.close)
        self._undo.push_async_callback(self.shipper.drain, SHIP_SECONDS)
        if not sinks:
            log.warning(
                "sinks_not_configured",
                spool=str(settings.spool),
                max_bytes=settings.spool_max_bytes,
                remedy=self.spool.remedy,
            )
        self.leftovers = OrphanSpools(
            self.share.leftovers, self._make_sinks, max_bytes=settings.spool_max_bytes
        )
        if sinks and self.share.leftovers:
            self._spawn(self.leftovers.run())

    def _make_sinks(self) -> list[Sink]:
        return sinks_of(self.settings, self.share.turns_in)

    async def _start_store(self) -> None:
        settings = self.settings
        url = settings.redis.get_secret_value()
        self.wire = connect(url, timeout_s=settings.redis_timeout_ms / 1000)
        await self.wire.start()
        self._undo.push_async_callback(self.wire.stop)
        await self._start_counting()
        self.directory = RedisDirectory(
            self.wire,
            settings.redis_prefix,
            self._account_of_file,
            on_change=self._account_changed,
        )
        self._spawn(self.directory.run())
        self._seen_store = self.wire.reachable
        if not self.wire.up:
            log.warning("redis_unreachable_at_start", error=self.wire.last_error)

    async def _start_counting(self) -> None:
        settings, files = self.settings, Files()
        own_id = self._new_id()
        journal = Journal(
            # One for all workers: what one leaves behind when it dies, another charges.
            (self.share.turns_in or settings.spool) / JOURNAL,
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

    def _account_of_file(self, account_id: str) -> Account | None:
        return self.keeper.book.accounts.get(account_id)

    def _swap(self, book: PlanBook) -> None:
        self.gate.swap(book)
        self.store.forget()
        self.directory.forget()  # its keys may point at accounts of the old file
        if self.jobs is not None:
            self.jobs.runner.plans_changed()

    def _spawn(self, work: Any) -> None:
        name = getattr(work, "__qualname__", type(work).__name__)  # compiled, it has none
        task = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(_told)

        async def end() -> None:
            # A library may take the cancellation for its own time-out and go on: ask again.
            while not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=CANCEL_SECONDS)

        self._undo.push_async_callback(end)

    def readiness(self) -> Readiness:
        """Whether calls should be sent here, and what they would miss. Redis counts until it was
        there once: a sidecar that never saw it knows no keys but those of its plan file."""
        reasons: list[str] = []
        degraded: list[str] = []
        if not self._serving:
            reasons.append("starting")
        if self._stopping:
            reasons.append("draining")
        self._seen_store = self._seen_store or self.wire.reachable
        if not self.wire.up:
            lost = degraded if self._seen_store else reasons
            lost.append(f"redis: {self.wire.last_error or 'not connected yet'}")
        if not self.spool.accepting:
            degraded.append("spool: full or not writable; only critical calls are forwarded")
        return Readiness(reasons, degraded)

    def _publish(self, pool: UpstreamPool) -> None:
        publish_store(self.metrics, self.wire, self.store)
        publish_events(self.metrics, self.spool, self.shipper, self.leftovers)
        publish_config(self.metrics, self.keeper)
        publish_connections(self.metrics, self.data_port, pool)
        publish_waiting(self.metrics, self.room)
        publish_shedding(self.metrics, self.shedder)

    def reload(self) -> None:
        """Read the plan file and the certificate again; the plan file while calls go on."""
        self.keeper.request_reload()
        if self.listener.certificate is not None:
            self.listener.certificate.reload()

    async def stop(self) -> None:
        """Drain, with the patience that `ending` says, and take everything down, in the reverse of
        the order of start. Idempotent."""
        self._stopping = True
        await self._undo.aclose()


def _told(task: asyncio.Task[Any]) -> None:
    """Nobody waits for a task in the background: if it dies, the log has to say so."""
    if not task.cancelled() and task.exception() is not None:
        log.error("background_task_died", task=task.get_name(), exc_info=task.exception())
