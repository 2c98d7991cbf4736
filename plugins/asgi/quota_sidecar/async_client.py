"""The decide port, for asyncio."""

import asyncio
import contextlib
import logging
from collections import deque
from typing import Final

from quota_sidecar import wire
from quota_sidecar.contract import Decision, NoDecision, Refusal, parse_decision
from quota_sidecar.options import Options

log = logging.getLogger("quota_sidecar")

SENDERS: Final = 8  # reports that are sent at a time
PAUSE_S: Final = 0.1  # before another attempt

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class AsyncClient:
    """Asks and reports over a bounded pool of kept connections. One per event loop.

    `dropped`: reports that were given up. The sidecar settles those requests by its own rule.
    """

    def __init__(self, options: Options) -> None:
        self.dropped = 0
        self._options = options
        self._slots = asyncio.Semaphore(options.pool)
        self._idle: list[tuple[_Streams, float]] = []
        self._reports: deque[tuple[bytes, int]] = deque()
        self._senders: set[asyncio.Task[None]] = set()

    async def decide(self, document: bytes) -> Decision | Refusal:
        """Ask about a request. Raises NoDecision."""
        status, body = await self._ask("/v1/decide", document, self._options.decide_timeout_s)
        if 400 <= status < 500:
            log.error("the sidecar refused the question: %d %s", status, body[:500].decode())
        return parse_decision(status, body)

    def settle(self, document: bytes) -> None:
        """Send a report, in the background."""
        if len(self._reports) >= self._options.queue:
            self._reports.popleft()
            self._drop("the queue is full")
        self._reports.append((document, 0))
        if len(self._senders) < min(SENDERS, self._options.pool, len(self._reports)):
            task = asyncio.get_running_loop().create_task(self._send_reports())
            self._senders.add(task)
            task.add_done_callback(self._senders.discard)

    async def close(self) -> None:
        """Send the reports that wait, and close all connections."""
        while self._senders:
            await asyncio.wait(set(self._senders))
        for (_, writer), _ in self._idle:
            writer.close()
        self._idle.clear()

    async def _send_reports(self) -> None:
        while self._reports:
            document, attempts = self._reports.popleft()
            try:
                status, body = await self._ask("/v1/settle", document, self._options.timeout_s)
            except NoDecision as error:
                status, body = 503, str(error).encode()
            if status == 200:
                continue
            if status < 500 or attempts + 1 >= self._options.attempts:
                self._drop(f"{status} {body[:500].decode(errors='replace')}")
            else:
                self._reports.appendleft((document, attempts + 1))
                await asyncio.sleep(PAUSE_S)

    def _drop(self, why: str) -> None:
        self.dropped += 1
        log.error("a report was dropped: %s", why)

    async def _ask(self, path: str, document: bytes, timeout_s: float) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                return await self._exchange(wire.message(self._options, path, document))
        except TimeoutError:
            raise NoDecision("no answer in time") from None
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            raise NoDecision(repr(error)) from None

    async def _exchange(self, message: bytes) -> tuple[int, bytes]:
        reader, writer = self._take() or await self._connect()
        keeps = False
        try:
            writer.write(message)
            head = wire.parse_head(await reader.readuntil(wire.END))
            body = await reader.readexactly(head.length)
            keeps = head.keeps
        finally:
            if keeps:
                self._idle.append(((reader, writer), asyncio.get_running_loop().time()))
            else:
                writer.close()
        return head.status, body

    def _take(self) -> _Streams | None:
        """The idle connection that was used last; closes those that are too old."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            (reader, writer), since = self._idle.pop()
            usable = not (reader.at_eof() or writer.is_closing())
            if usable and now - since < self._options.idle_s:
                return reader, writer
            writer.close()
        return None

    async def _connect(self) -> _Streams:
        options = self._options
        if options.path:
            return await asyncio.open_unix_connection(options.path, limit=wire.MAX_HEAD)
        host, port = options.host_port
        return await asyncio.open_connection(host, port, ssl=options.ssl, limit=wire.MAX_HEAD)


class LoopClients:
    """The client of the running event loop. A test or a program may run several loops."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._clients: dict[asyncio.AbstractEventLoop, AsyncClient] = {}

    def get(self) -> AsyncClient:
        loop = asyncio.get_running_loop()
        found = self._clients.get(loop)
        if found is None:
            for other in [one for one in self._clients if one.is_closed()]:
                del self._clients[other]
            found = self._clients[loop] = AsyncClient(self._options)
        return found

    async def close(self) -> None:
        """Send the reports of this loop, within the time of all attempts."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._options.attempts * self._options.timeout_s + 1):
                    await client.close()
