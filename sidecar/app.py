"""The composition root: builds every part, owns the order of start and stop, swaps the plan book.

Start: plan book, spool, Redis, data path, control. Stop: the other way round, so that nothing
is admitted that could not be recorded any more.
"""

import asyncio
import contextlib
import gc
import hashlib
import signal
import socket
from collections.abc import Callable
from typing import Any

import uvloop

from sidecar import logs
from sidecar.clock import Clock
from sidecar.config import PlanKeeper
from sidecar.core.model import Account, PlanBook
from sidecar.core.paths import Normaliser
from sidecar.gate import Gate, Seen
from sidecar.metering.shipper import Shipper
from sidecar.metering.sinks import make_sink
from sidecar.metering.spool import Spool
from sidecar.metrics import Metrics
from sidecar.ports import Sink
from sidecar.proxy.certificate import Certificate
from sidecar.proxy.front import DataPort
from sidecar.proxy.handler import Handler
from sidecar.proxy.heads import Manners, trust
from sidecar.proxy.limits import Bounds
from sidecar.proxy.listeners import Listener
from sidecar.proxy.pool import UpstreamPool
from sidecar.proxy.upstream import Upstream, tls_context
from sidecar.settings import Settings
from sidecar.stores import RedisDirectory, RedisLimitStore, Wire, keys
from sidecar.workers.ending import Ending
from sidecar.workers.leftovers import Leftovers
from sidecar.workers.shares import Share, alone

log = logs.logger("app")

SHIP_SECONDS = 5.0
GC_THRESHOLDS = (20_000, 20, 50)
CANCEL_SECONDS = 0.5


class App:
    """One sidecar. `start` returns when it serves, `stop` when nothing of it is left."""

    def __init__(
        self,
        settings: Settings,
        *,
        share: Share | None = None,
        ending: Ending | None = None,
        on_decision: Callable[[Seen], None] | None = None,
    ) -> None:
        self.settings = settings
        self.ending = ending or Ending()
        self.share = share or alone(settings)
        self.metrics = Metrics()
        self._clock = Clock()
        self._on_decision = on_decision
        self._tasks: list[asyncio.Task[Any]] = []
        self._undo = contextlib.AsyncExitStack()
        self._serving = self._stopping = False

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
        self.keeper = PlanKeeper(settings.plans, self._swap)
        self.listener = self._make_listener()
        self._open_spool()
        self._undo.push_async_callback(self.spool.close)
        self._start_shipping()
        await self._start_store()
        clock = self._clock
        self.gate = Gate(
            self.keeper.book,
            store=self.store,
            directory=self.directory,
            spool=self.spool,
            metrics=self.metrics,
            clock=clock,
            source=settings.source,
            record_refusals=settings.refusal_events,
            paths=Normaliser(frozenset(settings.allow_in_path)),
            ignore_case=settings.ignore_path_case,
            on_decision=self._on_decision,
        )
        bounds = _bounds(settings)
        pool = UpstreamPool(_upstream(settings), bounds)
        handler = Handler(
            self.gate,
            pool,
            self.metrics,
            bounds,
            self._manners(),
            new_id=lambda: clock.request_id(clock.now_ns()),
            reserved_prefix=settings.reserved_prefix.encode(),
            access_log=settings.access_log,
        )
        self.data_port = DataPort(
            handler,
            pool,
            bounds,
            self.metrics,
            per_address=settings.max_connections_per_address,
            max_age=settings.max_connection_age,
        )
        if self.share.worker is None:
            await self._start_control()
        await self.data_port.start(self.listener)
        self._serving = True
        self._undo.push_async_callback(self._drain)
        self._publish(pool)
        self._spawn(self.keeper.watch())
        if self.listener.certificate is not None:
            self._spawn(self.listener.certificate.watch())
        log.info(
            "serving",
            listen=str(settings.listen),
            control=str(settings.control) if self.share.worker is None else None,
            upstream=str(settings.upstream),
            plans=str(settings.plans),
            version=self.keeper.book.version,
        )

    async def _drain(self) -> None:
        delay = 0.0 if self.ending.at_once else self.settings.drain_delay_s
        await self.data_port.stop(delay, self.settings.drain_timeout_s, self.ending.hurry)

    def _manners(self) -> Manners:
        settings = self.settings
        name = hashlib.sha256(settings.source.encode()).hexdigest()[:12]
        return Manners(
            via=(settings.via_name or f"sidecar-{name}").encode(),
            scheme=self.listener.scheme,
            upstream_host=(settings.upstream_host or "").encode(),
            legacy_headers=settings.legacy_headers,
            upgrades=frozenset(one.encode() for one in settings.upgrades),
            trusts=trust(settings.trusted_proxies),
        )

    async def _start_control(self) -> None:
        from sidecar.control import ControlServer  # aiohttp: a worker has no use for it

        control = ControlServer(
            self.settings.control,
            registry=self.metrics.registry,
            ready=self.not_ready,
            config_status=self.keeper.status,
        )
        await control.start()
        self._undo.push_async_callback(control.stop)

    def _make_listener(self) -> Listener:
        settings, share = self.settings, self.share
        certificate = None
        if settings.tls_cert and settings.tls_key:
            certificate = Certificate(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        inherited = None
        if share.descriptor is not None:
            inherited = socket.socket(fileno=share.descriptor)
        return Listener(
            settings.listen,
            backlog=settings.listen_backlog,
            mode=int(settings.listen_mode, 8),
            reuse_port=share.worker is not None,
            inherited=inherited,
            certificate=certificate,
            handshake_timeout=settings.header_timeout_s,
        )

    def _open_spool(self) -> None:
        settings = self.settings
        self.spool = Spool(
            settings.spool,
            commit_window_s=settings.commit_window_ms / 1000,
            max_bytes=settings.spool_max_bytes,
            when_full=settings.spool_full,
            source=settings.source,
        )
        self.spool.open()

    def _start_shipping(self) -> None:
        settings = self.settings
        sinks = self._make_sinks()
        self.shipper = Shipper(self.spool, sinks)
        self.shipper.start()
        self._undo.push_async_callback(self.shipper.close)
        self._undo.push_async_callback(self.shipper.drain, SHIP_SECONDS)
        if not sinks:
            log.warning(
                "no sinks: events stay in the spool until it is full",
                spool=str(settings.spool),
                max_bytes=settings.spool_max_bytes,
            )
        self.leftovers = Leftovers(
            self.share.leftovers, self._make_sinks, max_bytes=settings.spool_max_bytes
        )
        if sinks and self.share.leftovers:
            self._spawn(self.leftovers.run())

    def _make_sinks(self) -> list[Sink]:
        url = self.settings.redis.get_secret_value()
        stream = keys.events(self.settings.redis_prefix)
        turns_in = self.share.turns_in
        return [
            make_sink(sink, redis_url=url, stream_key=stream, turns_in=turns_in)
            for sink in self.settings.sinks
        ]

    async def _start_store(self) -> None:
        settings = self.settings
        url = settings.redis.get_secret_value()
        self.wire = Wire(url, timeout_s=settings.redis_timeout_ms / 1000)
        await self.wire.start()
        self._undo.push_async_callback(self.wire.stop)
        self.store = RedisLimitStore(self.wire, prefix=settings.redis_prefix)
        self.directory = RedisDirectory(self.wire, settings.redis_prefix, self._account_of_file)
        self._spawn(self.directory.run())
        if not self.wire.up:
            log.warning("redis is not reachable yet", error=self.wire.last_error)

    def _account_of_file(self, account_id: str) -> Account | None:
        return self.keeper.book.accounts.get(account_id)

    def _swap(self, book: PlanBook) -> None:
        self.gate.swap(book)
        self.directory.forget()  # its keys may point at accounts of the old file

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.append(task)

        async def end() -> None:
            # A library may take the cancellation for its own time-out and go on: ask again.
            while not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=CANCEL_SECONDS)

        self._undo.push_async_callback(end)

    def not_ready(self) -> list[str]:
        """Why no calls should be sent here; empty when they should."""
        reasons = []
        if not self._serving:
            reasons.append("starting")
        if self._stopping:
            reasons.append("draining")
        if not self.wire.up:
            reasons.append(f"redis: {self.wire.last_error or 'not connected yet'}")
        if not self.spool.accepting:
            reasons.append("spool: full or not writable")
        return reasons

    def _publish(self, pool: UpstreamPool) -> None:
        metrics, spool, wire, keeper = self.metrics, self.spool, self.wire, self.keeper
        gauge, counter = metrics.gauge, metrics.counter
        gauge("sidecar_store_up", "1 while Redis answers.", lambda: float(wire.up))
        gauge("sidecar_spool_backlog_events", "Events not shipped to every sink yet.",
              lambda: spool.backlog)  # fmt: skip
        gauge("sidecar_spool_bytes", "Size of the spool on disk.", lambda: spool.bytes_on_disk)
        gauge("sidecar_spool_leftover_events",
              "Events of former workers' spools that a sink has not got yet.",
              lambda: self.leftovers.backlog)  # fmt: skip
        gauge("sidecar_spool_accepting", "1 while events can be recorded.",
              lambda: float(spool.accepting))  # fmt: skip
        counter("sidecar_spool_events", "Events taken by the spool.", lambda: spool.appended)
        counter("sidecar_spool_dropped", "Events dropped for want of room.", lambda: spool.dropped)
        counter("sidecar_spool_write_errors", "Failed writes.", lambda: spool.write_errors)
        counter("sidecar_config_reloads", "Plan files that went live.", lambda: keeper.reloads)
        counter("sidecar_config_failures", "Plan files that were refused.",
                lambda: keeper.failures)  # fmt: skip
        metrics.labelled_gauge("sidecar_config_info", "The live plan file.", ("version",),
                               lambda: {(keeper.book.version,): 1.0})  # fmt: skip
        metrics.labelled_gauge("sidecar_sink_lag_events", "Events a sink has not got yet.",
                               ("sink",), self._lags)  # fmt: skip
        gauge("sidecar_client_connections", "Open client connections.",
              lambda: self.data_port.connections)  # fmt: skip
        counter("sidecar_made_way",
                "Calls of slow clients that were ended because others needed their connection.",
                lambda: pool.made_way)  # fmt: skip
        gauge("sidecar_upstream_connections", "Open upstream connections.", lambda: pool.size)
        loop = asyncio.get_running_loop()
        gauge("sidecar_tasks", "Running asyncio tasks.", lambda: len(asyncio.all_tasks(loop)))

    def _lags(self) -> dict[tuple[str, ...], float]:
        return {(name,): float(lag) for name, lag in self.shipper.lag.items()}

    def reload(self) -> None:
        """Read the plan file and the certificate again."""
        self.keeper.reload()
        if self.listener.certificate is not None:
            self.listener.certificate.reload()

    async def stop(self) -> None:
        """Drain, with the patience that `ending` says, and take everything down, in the reverse of
        the order of start. Idempotent."""
        self._stopping = True
        await self._undo.aclose()


def _upstream(settings: Settings) -> Upstream:
    """Raises SettingsError for certificates that cannot be used."""
    to = settings.upstream
    context = None
    if to.scheme == "https":
        context = tls_context(settings.upstream_ca, settings.upstream_cert, settings.upstream_key)
    return Upstream(to.host, to.port, to.path or None, context, settings.upstream_server_name)


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        max_target=settings.max_target_bytes,
        max_header=settings.max_header_bytes,
        max_fields=settings.max_headers,
        max_body=settings.max_body_bytes,
        max_connections=settings.max_connections,
        header_timeout=settings.header_timeout_s,
        idle_timeout=settings.idle_timeout_s,
        body_timeout=settings.body_timeout_s,
        connect_timeout=settings.connect_timeout_s,
        response_timeout=settings.response_timeout_s,
        upstream_connections=settings.upstream_connections,
        critical_connections=settings.critical_connections,
        upstream_idle=settings.upstream_idle_timeout_s,
        stream_timeout=settings.stream_timeout_s,
        total_timeout=settings.total_timeout_s,
        half_close_timeout=settings.half_close_timeout_s,
        stall_timeout=settings.stall_timeout_s,
        min_rate=settings.min_rate_bytes,
        tunnel_idle=settings.tunnel_idle_timeout_s,
        tunnel_lifetime=settings.tunnel_lifetime_s,
    )


def spare_the_collector() -> None:
    """Requests leave no cycles behind, so collections find nothing: let them come rarely, and not
    look again at what was there at the start. For processes that serve and do nothing else."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, then drain. Returns the exit code, 0."""
    logs.configure(settings.log_level, settings.log_format)
    uvloop.run(_serve(settings))
    return 0


async def _serve(settings: Settings) -> None:
    app = App(settings)
    app.ending.listen()
    await app.start()
    spare_the_collector()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, app.reload)
    await app.ending.asked.wait()
    log.info("draining")
    await app.stop()
    log.info("cut short" if app.ending.hurry.is_set() else "stopped")
