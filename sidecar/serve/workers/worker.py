"""One worker as its supervisor sees it: started, asked, told, and started again when it ends."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

from sidecar.errors import ConfigError, Problem, SettingsError, SidecarError, SpoolError
from sidecar.logs import logger
from sidecar.serve.workers.channel import Channel, Message
from sidecar.settings import ENV_PREFIX

log = logger("workers")

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 10.0
STEADY_S: Final = 30.0  # a worker that served for so long is started again without delay
ASK_S: Final = 1.0  # what an answer may take
_LAST_WORDS_S: Final = 5.0  # between the channel's end and the process's
WRONG: Final = 2  # the exit code of what starting again cannot repair
_KINDS: Final = {"SettingsError": SettingsError, "SpoolError": SpoolError}


class Worker:
    """Runs one process after the other. `task` is what each one is sent when it has started.

    `changed` is called when it begins or ceases to serve; `ended` before that when its process
    is gone. `failed_starts` counts those in a row that ended before they served.
    """

    def __init__(
        self,
        number: int,
        task: Callable[[], Message],
        *,
        descriptor: int | None,
        changed: Callable[["Worker"], None],
        ended: Callable[["Worker"], None],
    ) -> None:
        self.number = number
        self.serving = False
        self.restarts = 0
        self.failed_starts = 0
        self.exit_code: int | None = None  # of the last process
        self.failure: SidecarError | None = None  # why that could not start, in its words
        self._task = task
        self._descriptor = descriptor
        self._changed = changed
        self._ended = ended
        self._stop = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel | None = None
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._next_id = 0

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        return self._process.pid if self._process else None

    @property
    def state(self) -> str:
        """For people."""
        if self.serving:
            return "serving"
        if self._process is not None:
            return "starting"
        if self.failure is not None:
            return f"could not start: {self.failure}"
        return f"ended with exit code {self.exit_code}; it is started again"

    async def run(self) -> None:
        """Keep a process running until `stop`. Returns when the last one has ended."""
        delay = FIRST_DELAY_S
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            started = loop.time()
            await self._live()
            if self._stop.is_set():
                return
            if loop.time() - started > STEADY_S:
                delay = FIRST_DELAY_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay)
            delay = min(LONGEST_DELAY_S, delay * 2)
            self.restarts += not self._stop.is_set()

    async def _live(self) -> None:
        """One process, from start to end."""
        self.failure, self.exit_code = None, None
        served = False
        try:
            async for message in await self._start():
                if "answer" in message:
                    self._answered(message)
                elif "failed" in message:
                    self.failure = _failure(message["failed"])
                else:
                    served = self.serving = True
                    self.failed_starts = 0
                    self._changed(self)
        except OSError as error:  # no memory, no descriptors, too many processes
            self.failure = SidecarError(f"worker {self.number} cannot be started: {error}")
        finally:
            await self._bury()
        if self._stop.is_set():
            return
        self.failed_starts += not served
        log.error(
            "worker_ended",
            worker=self.number,
            exit_code=self.exit_code,
            error=str(self.failure) if self.failure else None,
            failed_starts=self.failed_starts,
        )
        self._changed(self)

    async def _start(self) -> Any:
        ours, theirs = socket.socketpair()
        given = [theirs.fileno()] + ([self._descriptor] if self._descriptor is not None else [])
        try:
            # Settings come by the channel. A session of its own: Ctrl-C reaches only us.
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "sidecar.serve.workers.main", str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=given,
                env={k: v for k, v in os.environ.items() if not k.startswith(ENV_PREFIX)},
                start_new_session=True,
            )  # fmt: skip
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        log.info("worker_started", worker=self.number, pid=self._process.pid)
        self._channel = await Channel.over(ours)
        self._channel.send(self._task())
        if self._stop.is_set():
            self.stop()
        return self._channel.messages()

    async def _bury(self) -> None:
        """The channel is closed: wait for the process, but not for ever."""
        self.serving = False
        process, self._process = self._process, None
        channel, self._channel = self._channel, None
        for future in self._asked.values():
            future.cancel()
        self._asked.clear()
        if channel is not None:
            channel.close()
        if process is not None:
            try:
                self.exit_code = await asyncio.wait_for(process.wait(), _LAST_WORDS_S)
            except TimeoutError:
                process.kill()
                self.exit_code = await process.wait()
        self._ended(self)

    def _answered(self, message: Message) -> None:
        future = self._asked.pop(message["id"], None)
        if future is not None and not future.done():
            future.set_result(message["answer"])

    async def ask(self, what: str) -> Any:
        """The worker's "metrics", "config" or reasons not to be "ready"; None without answer."""
        if self._channel is None or not self.serving:
            return None
        self._next_id += 1
        number = self._next_id
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        self._channel.send({"id": number, "ask": what})
        done, _ = await asyncio.wait([future], timeout=ASK_S)
        self._asked.pop(number, None)
        return future.result() if done and not future.cancelled() else None

    def reload(self) -> None:
        """Have it read its plan file and certificate again; one that starts reads them anyway."""
        if self._channel is not None:
            self._channel.send({"do": "reload"})

    def stop(self, *, at_once: bool = False) -> None:
        """Have it drain and end, and start no other; asked again, have it end now."""
        self._stop.set()
        if self._channel is not None:
            self._channel.send({"do": "stop", "at_once": at_once})

    def kill(self) -> None:
        """End it at once."""
        self._stop.set()
        if self._process is not None:
            self._process.kill()


def _failure(told: Message) -> SidecarError:
    if told["kind"] == "ConfigError":
        return ConfigError([Problem(**problem) for problem in told["problems"]])
    return _KINDS.get(told["kind"], SidecarError)(told["text"])
