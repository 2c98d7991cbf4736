"""The process that serves nothing: it starts the workers, answers for them, and drains them.

What must live here: the address that all of them share, the one control port, and the rule
when to give up. A worker that ends is started again; when it could not even start and nobody
else serves, or at the very beginning, the whole ends with what that worker said.
"""

import asyncio
import signal
import socket
from pathlib import Path
from typing import Any, Final

import uvloop
from prometheus_client import CollectorRegistry

from sidecar import logs
from sidecar.addresses import Address, UnixPath
from sidecar.errors import SidecarError
from sidecar.metrics import Metrics
from sidecar.proxy.downstream.listener import bind_tcp, bind_unix, remove_unix
from sidecar.serve.control_port import ControlServer
from sidecar.serve.readiness import Readiness
from sidecar.serve.readiness import merged as merged_readiness
from sidecar.serve.share import one_of, settings_of
from sidecar.serve.shutdown import Shutdown
from sidecar.serve.workers.aggregate import MergedMetrics, families_of, merged_config
from sidecar.serve.workers.channel import Message
from sidecar.serve.workers.worker import WRONG, Worker
from sidecar.settings import Settings

log = logs.logger("workers")

FAILED_STARTS: Final = 3  # in a row
STOP_MARGIN_S: Final = 15.0  # beyond the drain: shipping, the spool's last write


class Supervisor:
    """Owns the workers. `start` returns when all of them serve, `stop` when none is left."""

    def __init__(self, settings: Settings, count: int) -> None:
        self._settings = settings
        self._count = count
        self._merged = MergedMetrics()
        self._reserved: list[socket.socket] = []
        self._own_file: tuple[int, int] | None = None
        self._stopping = False
        self._begun = False  # all have served
        self._all_serve: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gave_up: asyncio.Future[SidecarError] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self.workers: list[Worker] = []
        self._control: ControlServer | None = None
        self._own = Metrics()
        self._publish()

    def _publish(self) -> None:
        metrics = self._own
        metrics.gauge("sidecar_workers", "Processes that ought to serve.", lambda: self._count)
        metrics.gauge("sidecar_workers_serving", "Processes that do serve.",
                      lambda: sum(worker.serving for worker in self.workers))  # fmt: skip
        metrics.counter("sidecar_worker_restarts", "Processes that were started again.",
                        lambda: sum(worker.restarts for worker in self.workers))  # fmt: skip

    async def start(self) -> None:
        """Bring everything up. Raises SidecarError, with nothing left running, when it cannot."""
        descriptor = self._reserve()
        try:
            self._control = ControlServer(
                self._settings.control,
                registry=self._metrics,
                ready=self._readiness,
                config_status=self._config,
                sick=self._silent,
            )
            await self._control.start()
            self._spawn(descriptor)
            outcomes: list[asyncio.Future[Any]] = [self._all_serve, self.gave_up]
            await asyncio.wait(outcomes, return_when="FIRST_COMPLETED")
            if self.gave_up.done():
                raise self.gave_up.result()
        except BaseException:
            ending = Shutdown()
            ending.ask(at_once=True)
            await self.stop(ending)
            raise
        log.info(
            "sidecar_serving",
            listen=str(self._settings.listen),
            control=str(self._settings.control),
            upstream=str(self._settings.upstream),
            workers=self._count,
        )

    def _reserve(self) -> int | None:
        """Hold the address for as long as we live. Returns the descriptor of a unix socket.

        Each worker listens on TCP for itself: what is queued for one that died is not lost to
        those that live. A socket that is bound and does not listen gets no connections.
        """
        listen = self._settings.listen
        if isinstance(listen, UnixPath):
            mode = int(self._settings.listen_mode, 8)
            sock = bind_unix(listen, mode, self._settings.listen_backlog)
            found = Path(listen.path).stat()
            self._own_file = (found.st_dev, found.st_ino)
            self._reserved = [sock]
            return sock.fileno()
        if listen.port:
            # Sharing a port is open to all processes of a user: find out who is there before.
            for sock in bind_tcp(listen, reuse_port=False):
                sock.close()
        self._reserved = bind_tcp(listen, reuse_port=True)
        port = int(self._reserved[0].getsockname()[1])
        self._settings = self._settings.model_copy(update={"listen": Address(listen.host, port)})
        return None

    def _spawn(self, descriptor: int | None) -> None:
        for number in range(self._count):

            def task(number: int = number) -> Message:
                return self._task(number, descriptor)

            worker = Worker(number, task, descriptor=descriptor,
                            changed=self._changed, ended=self._ended)  # fmt: skip
            self.workers.append(worker)
        for worker in self.workers:
            self._tasks.append(asyncio.create_task(worker.run()))

    def _task(self, number: int, descriptor: int | None) -> Message:
        share = one_of(self._settings, number, self._count, descriptor)
        return {
            "flags": settings_of(self._settings, number, self._count).as_flags(),
            "share": {
                "worker": share.worker,
                "leftovers": [str(path) for path in share.leftovers],
                "turns_in": str(share.turns_in),
                "descriptor": share.descriptor,
            },
        }

    def _ended(self, worker: Worker) -> None:
        self._merged.retire(str(worker.number))

    def _changed(self, worker: Worker) -> None:
        if all(each.serving for each in self.workers):
            self._begun = True
            if not self._all_serve.done():
                self._all_serve.set_result(None)
        nobody = not any(each.serving for each in self.workers)
        often = worker.failed_starts >= FAILED_STARTS and (nobody or not self._begun)
        wrong = worker.failed_starts and worker.exit_code == WRONG and not self._begun
        if often or wrong:
            self._give_up(worker)

    def _give_up(self, worker: Worker) -> None:
        if not self.gave_up.done():
            self.gave_up.set_result(
                worker.failure
                or SidecarError(
                    f"worker {worker.number} ended {worker.failed_starts} times in a row before "
                    f"it served, at last with exit code {worker.exit_code}; its lines above say why"
                )
            )

    # for the control port

    async def _ask(self, what: str) -> dict[int, Any]:
        answers = await asyncio.gather(*(worker.ask(what) for worker in self.workers))
        return {worker.number: answer for worker, answer in zip(self.workers, answers, strict=True)}

    async def _readiness(self) -> Readiness:
        answers = await self._ask("ready")
        told = {number: Readiness(*answer) for number, answer in answers.items() if answer}
        silent = {
            worker.number: "does not answer" if worker.serving else worker.state
            for worker in self.workers
            if worker.number not in told
        }
        reasons, degraded = merged_readiness(told, silent)
        return Readiness(["draining"] * self._stopping + reasons, degraded)

    async def _silent(self) -> list[str]:
        answers = await self._ask("ready")
        return [
            f"worker {worker.number}: does not answer"
            for worker in self.workers
            if worker.serving and answers[worker.number] is None
        ]

    async def _config(self) -> dict[str, Any]:
        return merged_config(await self._ask("config"))

    async def _metrics(self) -> CollectorRegistry:
        answers = await self._ask("metrics")
        for number, families in answers.items():
            if families is not None:
                self._merged.update(str(number), families)
        present = {str(number) for number, families in answers.items() if families is not None}
        return self._merged.registry(present, families_of(self._own.registry))

    # until the end

    def reload(self) -> None:
        """Have all workers read their plan file and certificate again."""
        for worker in self.workers:
            worker.reload()

    async def stop(self, ending: Shutdown) -> bool:
        """One drain over all, with the patience that `ending` says. Whether every worker drained
        and ended by itself. Idempotent."""
        self._stopping = True
        running = [worker for worker in self.workers if worker.pid is not None]
        for worker in self.workers:
            worker.stop(at_once=ending.at_once)
        hurrying = asyncio.create_task(self._hurry(ending))
        if not ending.at_once:
            await self._gone_within(self._settings.drain_delay_s)
        self._let_go()
        late = await self._gone_within(self._settings.drain_timeout_s + STOP_MARGIN_S)
        hurrying.cancel()
        for worker in self.workers if late else ():
            log.error("worker_drain_timed_out", worker=worker.number, pid=worker.pid)
            worker.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        control, self._control = self._control, None
        if control is not None:
            await control.stop()
        return not late and all(worker.exit_code == 0 for worker in running)

    async def _hurry(self, ending: Shutdown) -> None:
        await ending.hurry.wait()
        for worker in self.workers:
            worker.stop()

    async def _gone_within(self, seconds: float) -> bool:
        """Whether workers are left that have not ended by then."""
        return bool(self._tasks and (await asyncio.wait(self._tasks, timeout=seconds))[1])

    def _let_go(self) -> None:
        """Nobody can find us any more."""
        if isinstance(self._settings.listen, UnixPath) and self._own_file is not None:
            remove_unix(self._settings.listen, self._own_file)
            self._own_file = None
        for sock in self._reserved:
            sock.close()


def run(settings: Settings, count: int) -> int:
    """Serve with `count` processes until SIGTERM or SIGINT, then drain.

    Returns 0 when all of them drained, else 1. Raises SidecarError when they cannot serve.
    """
    logs.configure(settings.log_level, settings.log_format)
    return int(uvloop.run(_serve(settings, count)))


async def _serve(settings: Settings, count: int) -> int:
    supervisor = Supervisor(settings, count)
    ending = Shutdown()
    ending.listen()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.unexpected)
    loop.add_signal_handler(signal.SIGHUP, supervisor.reload)
    starting = loop.create_task(supervisor.start())
    stopped = loop.create_task(ending.asked.wait())
    await asyncio.wait([starting, stopped], return_when="FIRST_COMPLETED")
    if starting.done():
        await starting
        outcomes: list[asyncio.Future[Any]] = [stopped, supervisor.gave_up]
        await asyncio.wait(outcomes, return_when="FIRST_COMPLETED")
    log.info("drain_started")
    drained = await supervisor.stop(ending)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    if ending.hurry.is_set():
        log.info("drain_cut_short")
    else:
        log.info("sidecar_stopped")
    if supervisor.gave_up.done():
        raise supervisor.gave_up.result()
    return 0 if drained else 1
