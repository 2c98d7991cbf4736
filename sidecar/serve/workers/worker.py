"""One worker from the supervisor's side: its processes, its channel, its restarts."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from sidecar.errors import ConfigError, Problem, SettingsError, SidecarError, SpoolError
from sidecar.logs import logger
from sidecar.serve.workers.channel import Channel, Message
from sidecar.settings import ENV_PREFIX

log = logger("workers")

FIRST_DELAY_S: Final = 0.1  # before a restart; doubles with each restart in a row
LONGEST_DELAY_S: Final = 10.0
STEADY_S: Final = 30.0  # a worker that lived for longer restarts after FIRST_DELAY_S again
ANSWER_TIMEOUT_S: Final = 1.0
_EXIT_TIMEOUT_S: Final = 5.0  # between the end of the channel and that of the process
CANNOT_START: Final = 2  # the exit code of a fault that a restart cannot repair
_KINDS: Final[dict[str, type[SidecarError]]] = {
    "SettingsError": SettingsError,
    "SpoolError": SpoolError,
}


class Worker:
    """Keeps one worker process running, and starts another when it ends.

    `make_setup` returns the first message to a new process. `on_change` runs when the worker
    begins or ceases to serve; `on_end` before that, when its process has ended. `failed_starts`
    counts the processes in a row that ended before they served.
    """

    def __init__(
        self,
        number: int,
        make_setup: Callable[[], Message],
        *,
        descriptors: Sequence[int],
        on_change: Callable[["Worker"], None],
        on_end: Callable[["Worker"], None],
    ) -> None:
        self.number = number
        self.serving = False
        self.restarts = 0
        self.failed_starts = 0
        self.exit_code: int | None = None  # of the last process
        self.failure: SidecarError | None = None  # the error with which it could not start
        self._make_setup = make_setup
        self._descriptors = descriptors
        self._on_change = on_change
        self._on_end = on_end
        self._stopping = asyncio.Event()
        self._announced = False
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel | None = None
        self._questions: dict[int, asyncio.Future[Any]] = {}
        self._next_id = 0

    @property
    def pid(self) -> int | None:
        """The process id; None between two processes."""
        return self._process.pid if self._process else None

    @property
    def state(self) -> str:
        """The worker's state in words."""
        if self.serving:
            return "serving"
        if self._process is not None:
            return "starting"
        if self.failure is not None:
            return f"could not start: {self.failure}"
        return f"ended with exit code {self.exit_code} and will be restarted"

    async def run(self) -> None:
        """Keep a process running until `stop`. Returns when the last one has ended."""
        delay = FIRST_DELAY_S
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            started_at = loop.time()
            await self._run_process()
            if self._stopping.is_set():
                return
            if loop.time() - started_at > STEADY_S:
                delay = FIRST_DELAY_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            delay = min(LONGEST_DELAY_S, delay * 2)
            self.restarts += not self._stopping.is_set()

    async def _run_process(self) -> None:
        """Run one process from its start to its end."""
        self.failure, self.exit_code = None, None
        served = False
        try:
            async for message in await self._start():
                if "answer" in message:
                    self._on_answer(message)
                elif "failed" in message:
                    self.failure = _failure(message["failed"])
                else:
                    served = self.serving = True
                    self.failed_starts = 0
                    self._on_change(self)
        except OSError as error:  # no memory, no descriptors, too many processes
            self.failure = SidecarError(f"worker {self.number} cannot start: {error}")
        finally:
            await self._clean_up()
        if self._stopping.is_set():
            return
        self.failed_starts += not served
        log.error(
            "worker_ended",
            worker=self.number,
            exit_code=self.exit_code,
            error=str(self.failure) if self.failure else None,
            failed_starts=self.failed_starts,
        )
        self._on_change(self)

    async def _start(self) -> AsyncIterator[Message]:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = await self._start_process(theirs.fileno())
            except OSError:
                ours.close()
                raise
        log.info("worker_started", worker=self.number, pid=self._process.pid)
        self._channel = await Channel.over(ours)
        self._channel.send(self._make_setup())
        if self._announced:
            self.announce()
        if self._stopping.is_set():
            self.stop()
        return self._channel.messages()

    async def _start_process(self, channel: int) -> asyncio.subprocess.Process:
        """Start a process without this one's settings, which it gets through the channel.

        It has a session of its own, so that Ctrl-C reaches only the supervisor.
        """
        inherited = [channel, *self._descriptors]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(ENV_PREFIX)}
        command = (sys.executable, "-P", "-m", "sidecar.serve.workers.main", str(channel))
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=inherited,
            env=clean,
            start_new_session=True,
        )

    async def _clean_up(self) -> None:
        """The channel is closed: wait for the process, and kill it after a while."""
        self.serving = False
        process, self._process = self._process, None
        channel, self._channel = self._channel, None
        for future in self._questions.values():
            future.cancel()
        self._questions.clear()
        if channel is not None:
            channel.close()
        if process is not None:
            try:
                self.exit_code = await asyncio.wait_for(process.wait(), _EXIT_TIMEOUT_S)
            except TimeoutError:
                process.kill()
                self.exit_code = await process.wait()
        self._on_end(self)

    def _on_answer(self, message: Message) -> None:
        future = self._questions.pop(message["id"], None)
        if future is not None and not future.done():
            future.set_result(message["answer"])

    async def ask(self, question: str) -> Any:
        """The worker's answer to "metrics", "config" or "ready"; None if it does not answer."""
        if self._channel is None or not self.serving:
            return None
        self._next_id += 1
        number = self._next_id
        future = self._questions[number] = asyncio.get_running_loop().create_future()
        self._channel.send({"id": number, "ask": question})
        done, _ = await asyncio.wait([future], timeout=ANSWER_TIMEOUT_S)
        self._questions.pop(number, None)
        return future.result() if done and not future.cancelled() else None

    def reload(self) -> None:
        """Make a running process reload its plan file and certificate."""
        if self._channel is not None:
            self._channel.send({"do": "reload"})

    def announce(self) -> None:
        """Announce the shutdown to the process, and to each one that is started later."""
        self._announced = True
        if self._channel is not None:
            self._channel.send({"do": "announce"})

    def stop(self, *, skip_delay: bool = False) -> None:
        """Make the process drain and end, and start no other; called again, make it hurry."""
        self._stopping.set()
        if self._channel is not None:
            self._channel.send({"do": "stop", "skip_delay": skip_delay})

    def kill(self) -> None:
        """Kill the process, and start no other."""
        self._stopping.set()
        if self._process is not None:
            self._process.kill()


def _failure(message: Message) -> SidecarError:
    """The error that the worker has sent."""
    if message["kind"] == "ConfigError":
        return ConfigError([Problem(**problem) for problem in message["problems"]])
    return _KINDS.get(message["kind"], SidecarError)(message["text"])
