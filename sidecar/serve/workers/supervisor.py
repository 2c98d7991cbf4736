"""The supervisor: it serves no requests, but runs the workers, answers for them and drains them.

It holds the address that all workers share and the one control port. It restarts a worker that
ends, and gives up if workers cannot start: at the beginning, or while no other worker serves.
"""

import asyncio
from typing import Any, Final

import uvloop
from prometheus_client import CollectorRegistry

from sidecar import logs
from sidecar.errors import SidecarError
from sidecar.metrics import Metrics
from sidecar.serve import readiness
from sidecar.serve.control_access import control_access
from sidecar.serve.control_port import ControlPort
from sidecar.serve.process import log_drain_started, log_serving, log_stopped, prepare
from sidecar.serve.readiness import Readiness
from sidecar.serve.share import worker_settings, worker_share
from sidecar.serve.shutdown import Shutdown
from sidecar.serve.workers.aggregate import MergedMetrics, families_of, merge_config
from sidecar.serve.workers.channel import Message
from sidecar.serve.workers.reserved_address import ReservedAddress
from sidecar.serve.workers.worker import CANNOT_START, Worker
from sidecar.settings import Settings

log = logs.logger("workers")

MAX_FAILED_STARTS: Final = 3  # in a row
STOP_MARGIN_S: Final = 15.0  # beyond the drain: to ship events and close the spool


class Supervisor:
    """Owns the workers. `start` returns when all of them serve, `stop` when all have ended."""

    def __init__(self, settings: Settings, count: int) -> None:
        loop = asyncio.get_running_loop()
        self.workers: list[Worker] = []
        self.gave_up: asyncio.Future[SidecarError] = loop.create_future()
        self._settings = settings
        self._count = count
        self._merged = MergedMetrics()
        self._listen: ReservedAddress | None = None
        self._decide: ReservedAddress | None = None
        self._decide_grpc: ReservedAddress | None = None
        self._stopping = False
        self._all_have_served = False
        self._all_serve: asyncio.Future[None] = loop.create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._control: ControlPort | None = None
        self._metrics = Metrics()
        self._publish()

    def _publish(self) -> None:
        workers = self.workers
        self._metrics.gauge("sidecar_workers", "Configured workers.", lambda: self._count)
        self._metrics.gauge(
            "sidecar_workers_serving",
            "Workers that serve.",
            lambda: sum(worker.serving for worker in workers),
        )
        self._metrics.counter(
            "sidecar_worker_restarts",
            "Workers that ended and were restarted.",
            lambda: sum(worker.restarts for worker in workers),
        )

    async def start(self) -> None:
        """Start the control port and the workers. Raises SidecarError, with all stopped again."""
        try:
            self._reserve_addresses()
            await self._start_control()
            self._start_workers()
            outcomes: list[asyncio.Future[Any]] = [self._all_serve, self.gave_up]
            await asyncio.wait(outcomes, return_when="FIRST_COMPLETED")
            if self.gave_up.done():
                raise self.gave_up.result()
        except BaseException:
            shutdown = Shutdown()
            shutdown.request(skip_delay=True)
            await self.stop(shutdown)
            raise
        log_serving(self._settings, self._count)

    def _reserve_addresses(self) -> None:
        """Hold the addresses until `stop`."""
        settings = self._settings
        backlog = settings.listen_backlog
        listen = ReservedAddress(settings.listen, settings.listen_mode, backlog, "listen")
        self._listen = listen
        found: dict[str, object] = {"listen": listen.endpoint}
        if settings.decide is not None:
            decide = ReservedAddress(settings.decide, settings.decide_mode, backlog, "decide")
            self._decide = decide
            found["decide"] = decide.endpoint
        if settings.decide_grpc is not None:
            # TCP only: gRPC makes its own socket, so workers cannot share the file of one.
            self._decide_grpc = ReservedAddress(settings.decide_grpc, "600", backlog, "decide_grpc")
            found["decide_grpc"] = self._decide_grpc.endpoint
        self._settings = settings.model_copy(update=found)

    async def _start_control(self) -> None:
        self._control = ControlPort(
            self._settings.control,
            registry=self._registry,
            ready=self._readiness,
            config_status=self._config,
            reload=self.reload,
            access=control_access(self._settings.control_token_file),
            faults=self._faults,
            hosts=self._settings.control_hosts,
        )
        await self._control.start()

    def _start_workers(self) -> None:
        listen, decide = _descriptor_of(self._listen), _descriptor_of(self._decide)
        for number in range(self._count):

            def make_setup(number: int = number) -> Message:
                return self._setup(number, listen, decide)

            worker = Worker(
                number,
                make_setup,
                descriptors=[one for one in (listen, decide) if one is not None],
                on_change=self._on_change,
                on_end=self._on_end,
            )
            self.workers.append(worker)
        self._tasks = [asyncio.create_task(worker.run()) for worker in self.workers]

    def _setup(self, number: int, listen: int | None, decide: int | None) -> Message:
        share = worker_share(self._settings, number, self._count, listen, decide)
        return {
            "flags": worker_settings(self._settings, number, self._count).as_flags(),
            "share": {
                "worker": share.worker,
                "orphan_spools": [str(path) for path in share.orphan_spools],
                "lock_directory": str(share.lock_directory),
                "descriptor": share.descriptor,
                "decide_descriptor": share.decide_descriptor,
            },
        }

    def _on_end(self, worker: Worker) -> None:
        self._merged.retire(str(worker.number))

    def _on_change(self, worker: Worker) -> None:
        if all(each.serving for each in self.workers):
            self._all_have_served = True
            if not self._all_serve.done():
                self._all_serve.set_result(None)
        if self._is_hopeless(worker) and not self.gave_up.done():
            self.gave_up.set_result(
                worker.failure
                or SidecarError(
                    f"worker {worker.number} ended {worker.failed_starts} times in a row before "
                    f"it served, last with exit code {worker.exit_code}; see its log events above"
                )
            )

    def _is_hopeless(self, worker: Worker) -> bool:
        """Whether no restart helps, or too many in a row did not."""
        if worker.failed_starts and worker.exit_code == CANNOT_START and not self._all_have_served:
            return True
        none_serves = not any(each.serving for each in self.workers)
        needed = none_serves or not self._all_have_served
        return needed and worker.failed_starts >= MAX_FAILED_STARTS

    # for the control port

    async def _ask(self, question: str) -> dict[int, Any]:
        answers = await asyncio.gather(*(worker.ask(question) for worker in self.workers))
        return {worker.number: answer for worker, answer in zip(self.workers, answers, strict=True)}

    async def _readiness(self) -> Readiness:
        answers = await self._ask("ready")
        answered = {number: Readiness(*answer) for number, answer in answers.items() if answer}
        silent = {
            worker.number: "does not answer" if worker.serving else worker.state
            for worker in self.workers
            if worker.number not in answered
        }
        reasons, degraded = readiness.merge(answered, silent)
        return Readiness(["draining"] * self._stopping + reasons, degraded)

    async def _faults(self) -> list[str]:
        answers = await self._ask("ready")
        return [
            f"worker {worker.number}: does not answer"
            for worker in self.workers
            if worker.serving and answers[worker.number] is None
        ]

    async def _config(self) -> dict[str, Any]:
        return merge_config(await self._ask("config"))

    async def _registry(self) -> CollectorRegistry:
        answers = await self._ask("metrics")
        for number, families in answers.items():
            if families is not None:
                self._merged.update(str(number), families)
        present = {str(number) for number, families in answers.items() if families is not None}
        return self._merged.registry(present, families_of(self._metrics.registry))

    # reload and stop

    def reload(self) -> None:
        """Make all workers reload their plan file and certificate."""
        for worker in self.workers:
            worker.reload()

    def announce_end(self) -> None:
        """Make all workers ask for no more requests."""
        self._stopping = True
        for worker in self.workers:
            worker.announce()

    async def stop(self, shutdown: Shutdown) -> bool:
        """Drain all workers at the same time. Return whether each ended in time with exit code 0.

        Idempotent.
        """
        self._stopping = True
        running = [worker for worker in self.workers if worker.pid is not None]
        for worker in self.workers:
            worker.stop(skip_delay=shutdown.skip_delay)
        hurrying = asyncio.create_task(self._hurry(shutdown))
        await self._wait_for_workers(shutdown.delay_s(self._settings.drain_delay_s))
        self._release_addresses()
        ended = await self._wait_for_workers(self._settings.drain_timeout_s + STOP_MARGIN_S)
        hurrying.cancel()
        if not ended:
            self._kill_workers()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        control, self._control = self._control, None
        if control is not None:
            await control.stop()
        return ended and all(worker.exit_code == 0 for worker in running)

    async def _hurry(self, shutdown: Shutdown) -> None:
        await shutdown.hurried.wait()
        for worker in self.workers:
            worker.stop()

    async def _wait_for_workers(self, timeout_s: float) -> bool:
        """Wait until all workers have ended. Return whether they have."""
        if not self._tasks:
            return True
        _, pending = await asyncio.wait(self._tasks, timeout=timeout_s)
        return not pending

    def _kill_workers(self) -> None:
        for worker in self.workers:
            log.error("worker_drain_timed_out", worker=worker.number, pid=worker.pid)
            worker.kill()

    def _release_addresses(self) -> None:
        for address in (self._listen, self._decide, self._decide_grpc):
            if address is not None:
                address.release()


def _descriptor_of(address: ReservedAddress | None) -> int | None:
    return None if address is None else address.descriptor


def run(settings: Settings, count: int) -> int:
    """Serve with `count` workers until SIGTERM or SIGINT, then drain.

    Returns 0 if all workers drained, else 1. Raises SidecarError if they cannot serve.
    """
    logs.configure(settings.log_level, settings.log_format)
    return int(uvloop.run(_serve(settings, count)))


async def _serve(settings: Settings, count: int) -> int:
    supervisor = Supervisor(settings, count)
    shutdown = Shutdown()
    shutdown.on_announced = supervisor.announce_end
    shutdown.handle_signals()
    prepare(on_hangup=supervisor.reload)
    starting = asyncio.create_task(supervisor.start())
    requested = asyncio.create_task(shutdown.requested.wait())
    await asyncio.wait([starting, requested], return_when="FIRST_COMPLETED")
    if starting.done():
        await starting
        outcomes: list[asyncio.Future[Any]] = [requested, supervisor.gave_up]
        await asyncio.wait(outcomes, return_when="FIRST_COMPLETED")
    log_drain_started()
    drained = await supervisor.stop(shutdown)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    log_stopped(shutdown)
    if supervisor.gave_up.done():
        raise supervisor.gave_up.result()
    return 0 if drained else 1
